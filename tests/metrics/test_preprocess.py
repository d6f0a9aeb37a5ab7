"""Preprocessing steps and what they say about length and the first principal component."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from sae_moral.metrics import preprocess as preprocessing
from sae_moral.metrics.nuisance import length_design
from sae_moral.metrics.preprocess import leading_axes, preprocess, within_span
from tests.metrics.worlds import AUDITED_STEPS


def world(seed: int, n: int = 200, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.integers(2, 50, n)


def run(x: np.ndarray, length: np.ndarray, *steps: str) -> tuple[np.ndarray, dict[str, float]]:
    prepared, facts = preprocess(torch.from_numpy(x), length, steps)
    return prepared.numpy(), facts


def features(length: np.ndarray) -> np.ndarray:
    return np.stack([length, np.log(length), 1 / length], axis=1).astype(float)


class TestSteps:
    def test_no_step_leaves_the_vectors_in_float64(self) -> None:
        x, length = world(0)
        prepared, _ = preprocess(torch.from_numpy(x).float(), length, ())
        assert prepared.dtype == torch.float64
        np.testing.assert_array_equal(prepared.numpy(), x.astype(np.float32))

    def test_centre_takes_out_the_mean_and_nothing_else(self) -> None:
        x, length = world(0)
        np.testing.assert_allclose(run(x + 5, length, "centre")[0], x - x.mean(axis=0), atol=1e-12)

    def test_standardise_gives_mean_0_and_variance_1(self) -> None:
        x, length = world(0)
        prepared = run(x * [1, 10, 1e3, 1e-3, 1, 1] + 4, length, "standardise")[0]
        np.testing.assert_allclose(prepared.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose((prepared**2).mean(axis=0), 1, atol=1e-12)

    @pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -123.456, 1e6])
    def test_standardise_makes_a_dimension_that_does_not_vary_exactly_zero(self, constant: float) -> None:
        x, length = world(0, n=237)
        x[:, 3] = constant
        prepared = run(x, length, "standardise")[0]
        assert (prepared[:, 3] == 0).all()
        assert np.isfinite(prepared).all()

    def test_remove_length_leaves_the_residual_of_least_squares_and_the_mean(self) -> None:
        x, length = world(1)
        x = x + features(length) @ np.random.default_rng(2).standard_normal((3, 6)) + 7
        fit = LinearRegression().fit(length_design(length), x)
        expected = x - fit.predict(length_design(length)) + x.mean(axis=0)
        np.testing.assert_allclose(run(x, length, "remove_length")[0], expected, atol=1e-9)

    def test_after_both_audited_steps_nothing_correlates_with_any_form_of_length(self) -> None:
        x, length = world(1)
        prepared = run(x + 30 / length[:, None], length, *AUDITED_STEPS)[0]
        r = np.corrcoef(np.concatenate([prepared, features(length)], axis=1).T)[:6, 6:]
        np.testing.assert_allclose(r, 0, atol=1e-10)

    def test_steps_are_applied_in_the_given_order(self) -> None:
        x, length = world(1)
        x = x + 30 / length[:, None]
        spread = [run(x, length, *steps)[0].std(axis=0) for steps in (AUDITED_STEPS, AUDITED_STEPS[::-1])]
        assert (spread[0] < 0.9).all()
        np.testing.assert_allclose(spread[1], 1, atol=1e-12)

    def test_an_unknown_step_is_an_error_with_the_nearest_name(self) -> None:
        with pytest.raises(ValueError, match="unknown preprocessing step 'standardize'; did you mean 'standardise'"):
            run(*world(0), "standardize")

    def test_the_input_is_not_changed(self) -> None:
        x, length = world(0)
        given_ = torch.from_numpy(x)
        before = given_.clone()
        preprocess(given_, length, ("centre", *AUDITED_STEPS))
        assert torch.equal(given_, before)

    @given(
        st.integers(0, 2**32 - 1),
        st.lists(st.floats(-6, 6), min_size=6, max_size=6),
        st.lists(st.floats(-100, 100), min_size=6, max_size=6),
    )
    @settings(max_examples=40, deadline=None)
    def test_audited_steps_are_blind_to_the_scale_and_origin_of_every_dimension(
        self, seed: int, log_scale: list[float], shift: list[float]
    ) -> None:
        x, length = world(seed, n=60)
        moved = run(x * np.exp(log_scale) + shift, length, *AUDITED_STEPS)[0]
        np.testing.assert_allclose(moved, run(x, length, *AUDITED_STEPS)[0], atol=1e-9)

    @given(st.integers(0, 2**32 - 1), st.sampled_from([(60, 6), (20, 50)]))
    @settings(max_examples=20, deadline=None)
    def test_the_order_of_scenarios_does_not_matter(self, seed: int, shape: tuple[int, int]) -> None:
        x, length = world(seed, *shape)
        order = np.random.default_rng(seed + 1).permutation(shape[0])
        prepared, facts = run(x, length, *AUDITED_STEPS)
        moved, moved_facts = run(x[order], length[order], *AUDITED_STEPS)
        np.testing.assert_allclose(moved, prepared[order], atol=1e-9)
        assert moved_facts == pytest.approx(facts, abs=1e-9)


class TestLengthShare:
    @pytest.mark.parametrize("form", [0, 1, 2])
    @pytest.mark.parametrize("d", [5, 300])
    def test_what_is_linear_in_a_form_of_length_has_share_1_and_no_residual(self, form: int, d: int) -> None:
        length = world(0)[1]
        x = features(length)[:, [form]] * np.linspace(-2, 3, d) + 4
        prepared, facts = run(x, length, "remove_length")
        assert facts["length_share"] == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(prepared, np.tile(x.mean(axis=0), (200, 1)), atol=1e-9)

    def test_independent_noise_has_a_share_of_the_designs_parameters_in_n(self) -> None:
        shares = [run(*world(seed), "remove_length")[1]["length_share"] for seed in range(40)]
        parameters = np.mean([length_design(world(seed)[1]).shape[1] - 1 for seed in range(40)])
        assert np.mean(shares) == pytest.approx(parameters / 199, rel=0.1)

    def test_it_is_the_r2_of_least_squares_over_all_dimensions(self) -> None:
        x, length = world(3)
        x = x * [1, 5, 1, 1, 1, 1] + 20 / length[:, None]
        design = length_design(length)
        residual = x - LinearRegression(fit_intercept=False).fit(design, x).predict(design)
        expected = 1 - (residual**2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
        assert run(x, length)[1]["length_share"] == pytest.approx(expected, abs=1e-10)

    def test_it_is_of_what_remove_length_is_given(self) -> None:
        x, length = world(3)
        x = x * 0.1 + 0
        x[:, 0] = 1e3 * np.random.default_rng(0).standard_normal(200)  # a rogue dimension without length in it
        x[:, 1:] += 20 / length[:, None]
        assert run(x, length)[1]["length_share"] < 0.05
        assert run(x, length, *AUDITED_STEPS)[1]["length_share"] > 0.7

    def test_lengths_that_do_not_vary_explain_nothing(self) -> None:
        x, _ = world(0)
        prepared, facts = run(x, np.full(200, 7), *AUDITED_STEPS)
        assert facts["length_share"] == pytest.approx(0, abs=1e-20)
        assert facts["pc1_length_r"] == 0
        np.testing.assert_allclose(prepared, run(x, np.full(200, 7), "standardise")[0], atol=1e-12)


class TestFirstComponent:
    @pytest.mark.parametrize("shape", [(200, 6), (30, 90)])
    def test_it_is_sklearns(self, shape: tuple[int, int]) -> None:
        x, length = world(4, *shape)
        x = x + 3 / length[:, None] * np.arange(shape[1]) + 2
        pca = PCA(1, svd_solver="full").fit(x)
        facts = run(x, length)[1]
        assert facts["pc1_share"] == pytest.approx(pca.explained_variance_ratio_[0], abs=1e-10)
        r = np.corrcoef(pca.transform(x)[:, 0], 1 / length)[0, 1]
        assert facts["pc1_length_r"] == pytest.approx(abs(r), abs=1e-8)

    @pytest.mark.parametrize("d", [4, 400])
    def test_a_sinks_share_of_the_mean_holds_all_variance_and_correlates_perfectly(self, d: int) -> None:
        length = world(0)[1]
        sink = np.random.default_rng(1).standard_normal(d) * 100
        facts = run(sink / length[:, None], length)[1]
        assert facts["pc1_share"] == pytest.approx(1, abs=1e-12)
        assert facts["pc1_length_r"] == pytest.approx(1, abs=1e-12)

    def test_two_known_variances_give_their_share(self) -> None:
        n = 40
        x = np.zeros((n, 3))
        x[:, 0], x[:, 2] = 3 * np.resize([1, -1], n), np.resize([1, 1, -1, -1], n)
        facts = run(x, np.resize([5, 9], n))[1]
        assert facts["pc1_share"] == pytest.approx(0.9, abs=1e-12)
        assert facts["pc1_length_r"] == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("shape", [(2, 5), (5, 2), (9, 1), (1, 9)])
    def test_the_smallest_shapes(self, shape: tuple[int, int]) -> None:
        x, length = world(5, *shape)
        share = run(x, length)[1]["pc1_share"]
        spread = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
        assert share == pytest.approx(spread[0] / spread.sum() if spread.sum() else 0, abs=1e-12)

    def test_two_directions_that_hold_as_much_as_each_other(self) -> None:
        x = np.zeros((400, 64))
        x[:200, 0], x[200:, 1] = np.resize([1, -1], 200), np.resize([1, -1], 200)
        assert run(x, np.resize([5, 9], 400))[1]["pc1_share"] == pytest.approx(0.5, abs=1e-12)

    def test_facts_are_of_the_vectors_as_captured(self) -> None:
        x, length = world(0)
        x[:, 0] *= 100
        captured, prepared = run(x, length)[1], run(x, length, *AUDITED_STEPS)[1]
        assert prepared["pc1_share"] == captured["pc1_share"] > 0.99


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 123.456])
@pytest.mark.parametrize("d", [4, 300])
@pytest.mark.parametrize("steps", [(), AUDITED_STEPS])
def test_a_layer_that_does_not_vary_has_no_shares_at_all(constant: float, d: int, steps: tuple[str, ...]) -> None:
    length = world(0, n=237)[1]
    facts = run(np.full((237, d), constant), length, *steps)[1]
    assert facts == {"length_share": 0.0, "pc1_share": 0.0, "pc1_length_r": 0.0}


class TestWithinSpan:
    @pytest.mark.parametrize("of", [np.asarray, csr_matrix])
    @pytest.mark.parametrize("rank", [3, 30])
    def test_inner_products_are_the_same_in_as_few_numbers_as_there_are(self, of: type, rank: int) -> None:
        rng = np.random.default_rng(6)
        x = rng.standard_normal((30, rank)) @ rng.standard_normal((rank, 200))
        found = within_span(of(x))
        assert found.shape == (30, rank)
        np.testing.assert_allclose(found @ found.T, x @ x.T, atol=1e-9)

    def test_nothing_is_a_column_of_zeros(self) -> None:
        np.testing.assert_array_equal(within_span(np.zeros((5, 9))), np.zeros((5, 1)))

    @pytest.mark.parametrize("of", [np.asarray, csr_matrix])
    def test_of_many_rows_the_leading_axes_are_kept(self, of: type, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(7)
        x = rng.standard_normal((60, 90)) * 2.0 ** -np.arange(90)
        exact = leading_axes(of(x), 5)
        monkeypatch.setattr(preprocessing, "EXACT", 59)
        monkeypatch.setattr(preprocessing, "LEADING", 5)
        found = within_span(of(x))
        assert found.shape == exact.shape == (60, 5)
        np.testing.assert_allclose(found @ found.T, exact @ exact.T, atol=1e-6)
