"""Folds grouped by text, and the rank statistics averaged within them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from sae_moral.data.moral_data import MoralData
from sae_moral.metrics.folds import auroc, folds, partial_spearman, spearman, within_folds
from tests.metrics.worlds import LEVELS, balanced, moral_data


def data_with_duplicates(seed: int, n: int, texts: int) -> MoralData:
    rng = np.random.default_rng(seed)
    names = [f"text {i}" for i in rng.permutation(np.arange(n) % texts)]
    foundation = rng.integers(0, 5, n)
    return moral_data(foundation, rng.integers(0, 3, n), rng.choice(LEVELS, n), text=names)


class TestFolds:
    @given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(6, 60))
    @settings(max_examples=40, deadline=None)
    def test_equal_texts_share_a_fold_and_every_scenario_has_one(self, seed: int, k: int, texts: int) -> None:
        data = data_with_duplicates(seed, 80, texts)
        fold = folds(data, k, 0)
        assert set(np.unique(fold)) <= set(range(k)) and len(np.unique(fold)) > 1
        for group in np.unique(data.group):
            assert len(np.unique(fold[data.group == group])) == 1

    def test_texts_that_differ_only_in_case_space_and_outer_punctuation_share_a_fold(self) -> None:
        text = [f"text {i // 2}" if i % 2 else f"Text  {i // 2}." for i in range(60)]
        data = moral_data(*balanced(np.random.default_rng(0), 60), text=text)
        fold = folds(data, 5, 0)
        np.testing.assert_array_equal(fold[0::2], fold[1::2])

    @given(st.integers(0, 2**32 - 1), st.integers(2, 5))
    @settings(max_examples=40, deadline=None)
    def test_the_order_of_scenarios_does_not_matter(self, seed: int, k: int) -> None:
        data = data_with_duplicates(seed, 70, 45)
        order = np.random.default_rng(seed + 1).permutation(70)
        np.testing.assert_array_equal(folds(data.subset(order), k, 3), folds(data, k, 3)[order])

    def test_every_foundation_and_pole_is_spread_evenly(self) -> None:
        data = moral_data(*balanced(np.random.default_rng(1), 300))
        fold = folds(data, 5, 0)
        counts = np.zeros((5, 15), dtype=int)
        np.add.at(counts, (fold, data.foundation * 3 + data.pole), 1)
        assert (counts == 4).all()

    def test_the_same_seed_gives_the_same_folds_and_another_seed_others(self) -> None:
        data = moral_data(*balanced(np.random.default_rng(1), 150))
        twin = dataclasses.replace(data)  # equal, but not the cached object
        np.testing.assert_array_equal(folds(data, 5, 0), folds(twin, 5, 0))
        assert (folds(data, 5, 0) != folds(data, 5, 1)).any()

    def test_a_caller_cannot_spoil_the_cached_folds(self) -> None:
        data = moral_data(*balanced(np.random.default_rng(1), 30))
        with pytest.raises(ValueError, match="read-only"):
            folds(data, 3, 0)[0] = 1

    def test_fewer_texts_than_folds_is_an_error_that_says_both_numbers(self) -> None:
        data = moral_data([0] * 6, [0] * 6, [1.0] * 6, text=["a", "b", "c", "A.", "b", "c"])
        with pytest.raises(ValueError, match=r"5 folds for 3 distinct texts; expected 2 to 3"):
            folds(data, 5, 0)
        assert len(np.unique(folds(data, 3, 0))) == 3

    @pytest.mark.parametrize("k", [0, 1])
    def test_fewer_than_two_folds_is_an_error(self, k: int) -> None:
        with pytest.raises(ValueError, match=f"{k} folds for"):
            folds(moral_data([0] * 6, [0] * 6, [1.0] * 6), k, 0)

    def test_a_table_whose_cells_are_all_smaller_than_the_folds_is_spread_by_text(self) -> None:
        data = moral_data(np.arange(10) % 5, np.arange(10) // 5, [1.0] * 10)
        assert sorted(np.bincount(folds(data, 5, 0))) == [2] * 5


class TestWithinFolds:
    fold = np.array([0, 0, 1, 2, 2, 2])

    def test_it_is_the_weighted_mean_of_the_folds(self) -> None:
        assert within_folds(lambda i: (float(i[0]), float(len(i))), self.fold) == pytest.approx(
            (0 * 2 + 2 * 1 + 3 * 3) / 6
        )

    def test_folds_without_a_value_have_no_weight(self) -> None:
        assert within_folds(lambda i: None if len(i) < 3 else (7.0, 2.0), self.fold) == 7.0

    def test_it_is_none_when_no_fold_has_a_value(self) -> None:
        assert within_folds(lambda i: None, self.fold) is None

    def test_it_is_none_when_no_fold_has_weight(self) -> None:
        assert within_folds(lambda i: (1.0, 0.0), self.fold) is None


class TestAuroc:
    @given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
    @settings(max_examples=100, deadline=None)
    def test_it_is_sklearns_with_ties_and_weighs_by_pairs(self, items: list[tuple[int, bool]]) -> None:
        score = np.array([float(score) for score, _ in items])
        positive = np.array([flag for _, flag in items])
        got = auroc(score, positive)
        if positive.all() or not positive.any():
            assert got is None
        else:
            expected = (roc_auc_score(positive, score), positive.sum() * (~positive).sum())
            assert got == (pytest.approx(expected[0], abs=1e-12), expected[1])

    def test_a_constant_score_is_chance(self) -> None:
        assert auroc(np.zeros(5), np.array([True, False, True, False, False])) == (0.5, 6.0)


class TestSpearman:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(-20, 20)), min_size=3, max_size=40))
    @settings(max_examples=100, deadline=None)
    def test_it_is_scipys_with_ties(self, items: list[tuple[int, int]]) -> None:
        a, b = np.array(items, dtype=float).T
        got = spearman(a, b)
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            assert got is None
        else:
            assert got == (pytest.approx(spearmanr(a, b)[0], abs=1e-12), len(a) - 1)

    def test_under_three_items_it_is_none(self) -> None:
        assert spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None


class TestPartialSpearman:
    @given(st.integers(0, 2**32 - 1), st.integers(6, 60))
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_correlation_of_the_residuals_of_the_ranks(self, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        given_ = rng.integers(3, 12, n)
        a, b = given_ + rng.choice(LEVELS, n) * 8, given_ + 4 * rng.standard_normal(n)
        design = np.stack([np.ones(n), rankdata(given_)], axis=1)
        residuals = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in (rankdata(a), rankdata(b))]
        got = partial_spearman(a, b, given_)
        if min(np.linalg.norm(r) for r in residuals) > 1e-6 and np.ptp(given_) > 0:
            assert got == (pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-9), n - 2)

    def test_given_a_constant_it_is_the_plain_correlation(self) -> None:
        a, b = np.arange(6.0), np.array([1.0, 0.0, 3.0, 2.0, 5.0, 4.0])
        assert partial_spearman(a, b, np.full(6, 9)) == spearman(a, b)

    def test_given_what_already_orders_one_of_them_it_is_none(self) -> None:
        a, b = np.arange(6.0), np.array([1.0, 0.0, 3.0, 2.0, 5.0, 4.0])
        assert partial_spearman(a, b, np.arange(6) * 10) is None

    def test_a_constant_has_no_correlation(self) -> None:
        assert partial_spearman(np.ones(6), np.arange(6.0), np.array([1, 2, 1, 2, 3, 1])) is None
