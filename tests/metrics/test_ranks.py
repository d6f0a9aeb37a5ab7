"""Batched, weighed rank statistics against scipy's and scikit-learn's, and against copies of the items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from sae_moral.metrics.ranks import Ranked, Weighed, auroc, mass_below, mean_of_folds, rankable, spearman
from tests.metrics.worlds import LEVELS

ITEMS = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(0, 4), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=25
)
"""(score, another, a third, weight)."""


def partial_spearman(a: Tensor, b: Tensor, given: Tensor, weight: Tensor) -> Weighed:
    first, second, third = (Ranked.of(part, weight) for part in (a, b, given))
    return first.partial(second, third)


def row(*values: Any) -> Tensor:
    return torch.tensor([list(values)], dtype=torch.float64)


def one(m: int) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


Columns = tuple[Tensor, Tensor, Tensor]


def columns(items: list[tuple[int, ...]]) -> tuple[Columns, Tensor, Columns, Tensor]:
    """The three columns and the weights; and the same with so many copies, each of weight 1."""
    array = torch.tensor(items, dtype=torch.float64).T
    whole = array[:, array[3] > 0]
    copied = array.repeat_interleave(array[3].long(), dim=1)
    assert copied.shape[1] == whole[3].sum()
    (a, b, c), (d, e, f) = array[:3, None], copied[:3, None]
    return (a, b, c), array[3:], (d, e, f), one(copied.shape[1])


def both(weighed: Weighed) -> list[float]:
    assert weighed[0].shape == weighed[1].shape == (1,)
    return [part.item() for part in weighed]


class TestMassBelow:
    @given(ITEMS)
    @settings(max_examples=60, deadline=None)
    def test_with_weight_1_it_is_the_midrank_minus_a_half(self, items: list[tuple[int, ...]]) -> None:
        score = columns(items)[0][0]
        np.testing.assert_array_equal(mass_below(score, one(len(items)))[0], rankdata(score[0]) - 0.5)

    @given(ITEMS)
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_weight_below_and_half_of_the_weight_beside(self, items: list[tuple[int, ...]]) -> None:
        (score, *_), weight, *_ = columns(items)
        s, w = score[0], weight[0]
        expected = [float(w[s < value].sum() + w[s == value].sum() / 2) for value in s]
        assert mass_below(score, weight)[0].tolist() == expected

    def test_fractions_are_summed_too(self) -> None:
        got = mass_below(row(2, 1, 2, 5), row(0.5, 0.25, 1.5, 0.125))
        assert got.tolist() == [[1.25, 0.125, 1.25, 2.3125]]


class TestAuroc:
    @given(ITEMS)
    @settings(max_examples=100, deadline=None)
    def test_it_is_sklearns_with_ties_and_weighs_by_pairs(self, items: list[tuple[int, ...]]) -> None:
        (score, label, *_), *_ = columns(items)
        positive = label > 1
        value, pairs = both(auroc(score, positive, one(len(items))))
        n = int(positive.sum())
        assert pairs == n * (len(items) - n)
        if pairs == 0:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(roc_auc_score(positive[0], score[0]), abs=1e-12)

    @given(ITEMS)
    @settings(max_examples=100, deadline=None)
    def test_a_whole_weight_is_exactly_so_many_copies(self, items: list[tuple[int, ...]]) -> None:
        (score, label, _), weight, (copied_score, copied_label, _), ones = columns(items)
        got, expected = auroc(score, label > 1, weight), auroc(copied_score, copied_label > 1, ones)
        np.testing.assert_array_equal(both(got), both(expected))

    @given(ITEMS)
    @settings(max_examples=40, deadline=None)
    def test_weights_are_sklearns_sample_weights(self, items: list[tuple[int, ...]]) -> None:
        (score, label, third), *_ = columns(items)
        weight, positive = third + 0.25, label > 1
        if positive.any() and not positive.all():
            expected = roc_auc_score(positive[0], score[0], sample_weight=weight[0])
            assert auroc(score, positive, weight)[0].item() == pytest.approx(expected, abs=1e-12)

    def test_a_constant_score_is_chance(self) -> None:
        positive = torch.tensor([[True, False, True, False, False]])
        assert both(auroc(torch.zeros(1, 5), positive, one(5))) == [0.5, 6.0]


class TestSpearman:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(-20, 20)), min_size=3, max_size=40))
    @settings(max_examples=100, deadline=None)
    def test_it_is_scipys_with_ties(self, items: list[tuple[int, int]]) -> None:
        a, b = torch.tensor(items, dtype=torch.float64).T[:, None]
        value, freedom = both(spearman(a, b, one(len(items))))
        assert freedom == len(items) - 1
        if len(a.unique()) == 1 or len(b.unique()) == 1:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(spearmanr(a[0], b[0])[0], abs=1e-12)

    @given(ITEMS)
    @settings(max_examples=100, deadline=None)
    def test_a_whole_weight_is_exactly_so_many_copies(self, items: list[tuple[int, ...]]) -> None:
        (a, b, _), weight, (copied_a, copied_b, _), ones = columns(items)
        got, expected = both(spearman(a, b, weight)), both(spearman(copied_a, copied_b, ones))
        assert got[1] == expected[1]
        assert got[0] == pytest.approx(expected[0], abs=1e-12, nan_ok=True)

    @pytest.mark.parametrize("weight", [(1, 1, 0), (1, 0, 1), (0, 0, 2), (0, 0, 0)])
    def test_under_three_items_it_is_nan(self, weight: tuple[int, ...]) -> None:
        assert spearman(row(1, 2, 3), row(1, 3, 2), row(*weight))[0].isnan().all()
        assert spearman(row(1, 2), row(1, 2), one(2))[0].isnan().all()

    def test_a_constant_has_none_however_many_items_of_whatever_weight(self) -> None:
        m = 3001
        weight = torch.rand(1, m, generator=torch.Generator().manual_seed(0)).double()
        assert spearman(torch.full((1, m), 0.1), torch.arange(m)[None], weight)[0].isnan().all()
        assert spearman(torch.arange(m)[None], torch.full((1, m), 7), one(m))[0].isnan().all()


class TestPartialSpearman:
    @given(st.integers(0, 2**32 - 1), st.integers(6, 60))
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_correlation_of_the_residuals_of_the_ranks(self, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        given_ = rng.integers(3, 12, n)
        a, b = given_ + rng.choice(LEVELS, n) * 8, given_ + 4 * rng.standard_normal(n)
        design = np.stack([np.ones(n), rankdata(given_)], axis=1)
        residuals = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in (rankdata(a), rankdata(b))]
        first, second, third = (torch.from_numpy(v)[None] for v in (a, b, given_))
        got = both(partial_spearman(first, second, third, one(n)))
        if min(np.linalg.norm(r) for r in residuals) > 1e-6 and np.ptp(given_) > 0:
            assert got == [pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-9), n - 2]

    @given(ITEMS)
    @settings(max_examples=100, deadline=None)
    def test_a_whole_weight_is_exactly_so_many_copies(self, items: list[tuple[int, ...]]) -> None:
        parts, weight, copied, ones = columns(items)
        got, expected = both(partial_spearman(*parts, weight)), both(partial_spearman(*copied, ones))
        assert got[1] == expected[1]
        assert got[0] == pytest.approx(expected[0], abs=1e-9, nan_ok=True)

    def test_given_a_constant_it_is_the_plain_correlation(self) -> None:
        a, b = torch.arange(6)[None], row(1, 0, 3, 2, 5, 4)
        assert both(partial_spearman(a, b, torch.full((1, 6), 9), one(6))) == both(spearman(a, b, one(6)))

    def test_given_what_already_orders_one_of_them_it_is_nan(self) -> None:
        a, b = torch.arange(6)[None], row(1, 0, 3, 2, 5, 4)
        assert partial_spearman(a, b, a * 10, one(6))[0].isnan().all()

    def test_a_constant_has_no_correlation(self) -> None:
        assert partial_spearman(torch.ones(1, 6), torch.arange(6)[None], row(1, 2, 1, 2, 3, 1), one(6))[0].isnan().all()


class TestVersions:
    @pytest.mark.parametrize("shared", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
    def test_every_version_is_what_it_would_be_by_itself(self, shared: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        parts = [torch.randint(5, (1 if i in shared else 4, 30), generator=generator).double() for i in range(3)]
        third = torch.randint(3, (1, 30), generator=generator)
        cases: list[Callable[..., Weighed]] = [
            lambda a, b, w: auroc(a, b > 2, w),
            spearman,
            lambda a, b, w: partial_spearman(a, b, third, w),
        ]
        for statistic in cases:
            value, share = statistic(*parts)
            assert value.shape == share.shape == (4,)
            for v in range(4):
                single = statistic(*(part[min(v, len(part) - 1)][None] for part in parts))
                assert [value[v].item(), share[v].item()] == pytest.approx(both(single), abs=1e-12)


class TestMeanOfFolds:
    def test_it_is_the_weighted_mean_of_the_folds(self) -> None:
        parts = [(row(0.0)[0], row(2.0)[0]), (row(2.0)[0], row(1.0)[0]), (row(3.0)[0], row(3.0)[0])]
        assert mean_of_folds(parts).item() == pytest.approx((0 * 2 + 2 * 1 + 3 * 3) / 6)

    def test_folds_without_a_value_have_no_weight(self) -> None:
        parts = [(row(torch.nan, 1.0)[0], row(5.0, 1.0)[0]), (row(7.0, 4.0)[0], row(2.0, 2.0)[0])]
        assert mean_of_folds(parts).tolist() == [7.0, 3.0]

    def test_it_is_nan_when_no_fold_has_a_value_or_a_weight(self) -> None:
        assert mean_of_folds([(row(torch.nan)[0], row(1.0)[0])]).isnan().all()
        assert mean_of_folds([(row(1.0)[0], row(0.0)[0])]).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_that_differ_by_rounding_are_tied_and_others_are_not(dtype: torch.dtype) -> None:
    score = torch.tensor([[0.1, -7.0, 3.0, 1e-3], [1e30, 2e30, -1e30, 0.0]], dtype=dtype)
    rounded = score * (1 + 4 * torch.finfo(dtype).eps)
    assert (rounded != score).any()
    torch.testing.assert_close(
        mass_below(torch.cat([score, rounded], dim=1), one(8)), mass_below(score, one(4)).repeat(1, 2) * 2
    )
    near = torch.tensor([[1.0, 1.0 + 2.0 ** (-19 if dtype == torch.float32 else -29)]], dtype=dtype)
    assert mass_below(near, one(2)).tolist() == [[0.5, 1.5]]


def test_integers_and_constants_are_ranked_as_they_are() -> None:
    big = torch.tensor([[2**53, 2**53 + 1]])
    assert rankable(big) is big
    assert rankable(torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
