"""Dimensional indifference: R² of linear readers of the ten dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import DIMENSIONS, VICE
from sae_moral.metrics.base import Variants, evaluate, folds
from sae_moral.metrics.dimensional import AuditedDimensional, PaperDimensional, adjusted_r_squared, r_squared
from sae_moral.metrics.ridge import nested_ridge
from tests.metrics.test_ridge import weighed_predictions
from tests.metrics.worlds import balanced, moral_data, overall, planted, rotation, values, without_pole


def linear_world(seed: int, n: int, d: int, noise: float) -> tuple[torch.Tensor, MoralData, np.ndarray]:
    """x = y A + noise, and the R² of the best linear reader of each dimension: with Σ the covariance of y,
    1 − diag(Σ − Σ A (Aᵀ Σ A + noise²)⁻¹ Aᵀ Σ) / diag(Σ)."""
    rng = np.random.default_rng(seed)
    data = moral_data(*balanced(rng, n))
    a = rng.standard_normal((10, d))
    x = data.vector @ a + noise * rng.standard_normal((n, d))
    sigma = np.cov(data.vector.T)
    explained = sigma @ a @ np.linalg.solve(a.T @ sigma @ a + noise**2 * np.eye(d), a.T @ sigma)
    return torch.from_numpy(x), data, np.diag(explained) / np.diag(sigma)


class TestFormulas:
    def test_r_squared_is_sklearns_and_nan_where_nothing_varies(self) -> None:
        rng = np.random.default_rng(0)
        y, predicted = rng.standard_normal((40, 4)), rng.standard_normal((40, 4))
        y[:, 2] = 0.3
        got = r_squared(torch.from_numpy(y), torch.from_numpy(predicted)).numpy()
        keep = [0, 1, 3]
        expected = r2_score(y[:, keep], predicted[:, keep], multioutput="raw_values")
        np.testing.assert_allclose(got[keep], expected, atol=1e-12)
        assert np.isnan(got[2])

    @given(st.floats(-3, 1), st.integers(3, 500), st.floats(0, 400))
    def test_adjusted_r_squared_is_the_textbook_formula_and_nan_without_room(self, r2: float, n: int, p: float) -> None:
        got = adjusted_r_squared(torch.tensor([r2], dtype=torch.float64), n, p)[0].item()
        if n - p - 1 > 0:
            assert got == pytest.approx(1 - (1 - r2) * (n - 1) / (n - p - 1))
        else:
            assert np.isnan(got)

    def test_adjustment_is_per_dimension(self) -> None:
        half = torch.tensor([0.5, 0.5], dtype=torch.float64)
        got = adjusted_r_squared(half, 21, torch.tensor([0.0, 10.0], dtype=torch.float64))
        np.testing.assert_allclose(got, [0.5, 0.0])


class TestWeights:
    def test_r_squared_counts_items_as_often_as_they_weigh_about_the_samples_own_mean(self) -> None:
        rng = np.random.default_rng(0)
        y, predicted, weight = rng.standard_normal((30, 2)), rng.standard_normal((30, 2)), rng.integers(0, 4, (3, 30))
        got = r_squared(*(torch.from_numpy(v) for v in (y, predicted, weight.astype(float))))
        for v in range(3):
            rows = np.repeat(np.arange(30), weight[v])
            error, total = (y - predicted)[rows] ** 2, (y - y.mean(axis=0))[rows] ** 2
            np.testing.assert_allclose(got[v], 1 - error.sum(axis=0) / total.sum(axis=0), atol=1e-12)

    def test_adjusted_r_squared_takes_a_number_of_items_per_version(self) -> None:
        r2 = torch.tensor([[0.5, 0.2], [0.5, 0.2]], dtype=torch.float64)
        got = adjusted_r_squared(r2, torch.tensor([21.0, 6.0]).double(), 10.0)
        np.testing.assert_allclose(got[0], 1 - (1 - r2[0]) * 20 / 10)
        assert got[1].isnan().all()

    def test_weights_move_the_audited_r2_as_a_refit_does_to_first_order(self) -> None:
        x, data, _ = linear_world(2, 60, 5, 0.5)
        fold, y, step = folds(data, 3, 0), data.vector, 1e-4
        fit, prepared = nested_ridge(x, y, fold), AuditedDimensional(folds=3).prepare(x, data)
        total = (y - y.mean(axis=0)) ** 2
        for j in range(0, 60, 7):
            by_refit, weight = [], np.ones((2, 60))
            for row, sign in enumerate((1, -1)):
                weight[row, j] += sign * step
                predicted = weighed_predictions(x.numpy(), y, fold, fit, weight[row])
                error = weight[row] @ (y - predicted) ** 2
                by_refit.append(1 - error / (weight[row] @ total))
            got = prepared(Variants.weighed(torch.from_numpy(weight)), ["r2"])
            for i, dimension in enumerate(DIMENSIONS):
                plus, minus = got["r2", dimension].tolist()
                derivative = (by_refit[0][i] - by_refit[1][i]) / (2 * step)
                assert (plus - minus) / (2 * step) == pytest.approx(derivative, abs=1e-5)


class TestPaper:
    @pytest.mark.parametrize("settings", [{}, {"learning_rate": 0.05, "patience": 2, "batch_size": 32}, {"epochs": 3}])
    def test_it_is_an_explicit_torch_linear_layer_with_early_stopping(self, settings: dict) -> None:
        x, data, _ = linear_world(0, 200, 6, 0.5)
        metric = PaperDimensional(seed=4, **settings)
        order = torch.randperm(200, generator=torch.Generator().manual_seed(4))
        test, validation, train = order[:40], order[40:60], order[60:]
        generator, layer = torch.Generator().manual_seed(4), torch.nn.Linear(6, 10)
        with torch.no_grad():
            for parameter, shape in ((layer.weight.T, (6, 10)), (layer.bias, (10,))):
                parameter.copy_((torch.rand(*shape, generator=generator) * 2 - 1) / np.sqrt(6))
        optimiser = torch.optim.AdamW(layer.parameters(), lr=metric.learning_rate)
        features, y = x.float(), torch.from_numpy(data.vector).float()
        losses, predictions = [], []
        while len(losses) < metric.epochs and (len(losses) - 1 - int(np.argmin(losses or [0]))) < metric.patience:
            for batch in train[torch.randperm(140, generator=generator)].split(metric.batch_size):
                loss = torch.nn.functional.mse_loss(layer(features[batch]), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                losses.append(torch.nn.functional.mse_loss(layer(features[validation]), y[validation]).item())
                predictions.append(layer(features[test]).numpy())
        best = predictions[int(np.argmin(losses))]
        expected = np.asarray(r2_score(data.vector[test.numpy()], best, multioutput="raw_values"))
        got = values(metric, x, data)
        for dimension, r2 in zip(DIMENSIONS, expected, strict=True):
            assert got["r2", dimension] == pytest.approx(r2, abs=1e-3)
            assert got["r2_adjusted", dimension] == pytest.approx(1 - (1 - got["r2", dimension]) * 39 / 33, abs=1e-9)
        assert got["r2", "overall"] == pytest.approx(expected.mean(), abs=1e-3)

    def test_enough_training_on_a_noiseless_linear_world_reads_it(self) -> None:
        x, data, _ = linear_world(1, 400, 12, 0.0)
        got = overall(PaperDimensional(learning_rate=0.02, epochs=400, batch_size=64), x, data)
        assert got["r2"] > 0.95

    def test_it_gets_the_vectors_before_preprocessing(self) -> None:
        assert PaperDimensional().raw
        assert not getattr(AuditedDimensional(), "raw", False)

    def test_it_draws_nothing_from_the_global_generator(self) -> None:
        x, data, _ = linear_world(0, 100, 4, 0.5)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first = values(PaperDimensional(), x, data)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        assert values(PaperDimensional(), x, data) == first
        assert values(PaperDimensional(seed=1), x, data) != first

    def test_adjusted_r2_is_none_where_the_test_part_is_not_larger_than_the_inputs(self) -> None:
        x, data, _ = linear_world(0, 100, 19, 0.5)
        got = values(PaperDimensional(), x, data)
        assert {value for (name, _), value in got.items() if name == "r2_adjusted"} == {None}
        assert got["r2", "overall"] is not None
        assert values(PaperDimensional(), x[:, :18], data)["r2_adjusted", "overall"] is not None

    def test_too_few_scenarios_for_three_parts_give_none(self) -> None:
        x, data = planted(0, n=9)
        assert set(values(PaperDimensional(), x, data).values()) == {None}


class TestAudited:
    def test_it_is_the_r2_of_nested_ridge_over_the_folds(self) -> None:
        x, data, _ = linear_world(2, 200, 6, 0.5)
        fold, got = folds(data, 5, 0), values(AuditedDimensional(), x, data)
        fit = nested_ridge(x, data.vector, fold)
        expected = np.asarray(r2_score(data.vector, fit.predicted.numpy(), multioutput="raw_values"))
        for i, dimension in enumerate(DIMENSIONS):
            assert got["r2", dimension] == pytest.approx(expected[i], abs=1e-12)
            adjusted = 1 - (1 - expected[i]) * 199 / (199 - fit.parameters[i])
            assert got["r2_adjusted", dimension] == pytest.approx(adjusted, abs=1e-12)
        assert got["r2", "overall"] == pytest.approx(expected.mean(), abs=1e-12)

    def test_valence_is_virtues_minus_vices_correlated_within_folds(self) -> None:
        x, data, _ = linear_world(3, 200, 12, 0.3)
        fold = folds(data, 5, 0)
        predicted = nested_ridge(x, data.vector, fold).predicted.numpy()
        sign = np.resize([1, -1], 10)
        parts = [spearmanr(data.vector[fold == k] @ sign, predicted[fold == k] @ sign)[0] for k in range(5)]
        weights = [(fold == k).sum() - 1 for k in range(5)]
        got = values(AuditedDimensional(), x, data)["spearman_valence", "overall"]
        assert got == pytest.approx(np.average(parts, weights=weights), abs=1e-12)
        assert got > 0.3

    @pytest.mark.parametrize(("noise", "low", "high"), [(0.3, 0.55, 0.8), (1.0, 0.15, 0.4), (3.0, 0.01, 0.1)])
    def test_the_known_r2_of_a_linear_map_is_recovered(self, noise: float, low: float, high: float) -> None:
        x, data, known = linear_world(4, 3000, 12, noise)
        assert low < known.mean() < high  # the worlds differ
        got = values(AuditedDimensional(), x, data)
        assert got["r2", "overall"] == pytest.approx(known.mean(), abs=0.015)
        for dimension, r2 in zip(DIMENSIONS, known, strict=True):
            assert got["r2", dimension] == pytest.approx(r2, abs=0.05)

    def test_more_inputs_than_scenarios_still_read_a_strong_map(self) -> None:
        x, data, known = linear_world(5, 150, 10, 0.1)
        wide = torch.cat([x, torch.zeros(150, 290).double()], dim=1) @ rotation(300, 0)
        wide = wide + 0.01 * torch.from_numpy(np.random.default_rng(0).standard_normal((150, 300)))
        assert overall(AuditedDimensional(), wide, data)["r2"] > 0.8 * known.mean() > 0.5

    @pytest.mark.parametrize("d", [10, 400])
    def test_noise_is_not_read(self, d: int) -> None:
        for seed in range(5):
            x, data = planted(seed, n=150, d=d)
            got = overall(AuditedDimensional(), x, data)
            assert -0.1 < got["r2"] <= 0.05

    def test_a_dimension_without_items_is_none_and_has_no_part_in_the_mean(self) -> None:
        x, data = planted(6, n=300, polarity=2)
        x, data = without_pole(data, x, 3, VICE)
        got = values(AuditedDimensional(), x, data)
        assert got["r2", "subversion"] is None and got["r2_adjusted", "subversion"] is None
        known = [got["r2", d] for d in DIMENSIONS if d != "subversion"]
        assert got["r2", "overall"] == pytest.approx(np.mean(known))

    def test_a_layer_that_does_not_vary_reads_nothing_and_is_never_nan(self) -> None:
        _, data = planted(0, n=150)
        got = overall(AuditedDimensional(), torch.zeros(150, 4), data)
        assert -0.1 < got["r2"] <= 0
        assert got["spearman_valence"] is None

    def test_every_statistic_rests_on_all_scenarios(self) -> None:
        x, data = planted(0, n=150)
        assert {(s.n, s.n_dropped) for s in evaluate(AuditedDimensional(), x, data)} == {(150, 0)}
