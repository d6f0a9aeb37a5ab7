"""Folds grouped by text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_moral.data.moral_data import MoralData
from sae_moral.metrics.base import folds
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
        with pytest.raises(ValueError, match=r"3 distinct texts; 5 folds need at least 5"):
            folds(data, 5, 0)
        assert len(np.unique(folds(data, 3, 0))) == 3

    @pytest.mark.parametrize("k", [0, 1])
    def test_fewer_than_two_folds_is_an_error(self, k: int) -> None:
        with pytest.raises(ValueError, match=f"{k} folds; expected at least 2"):
            folds(moral_data([0] * 6, [0] * 6, [1.0] * 6), k, 0)

    def test_a_table_whose_cells_are_all_smaller_than_the_folds_is_spread_by_text(self) -> None:
        data = moral_data(np.arange(10) % 5, np.arange(10) // 5, [1.0] * 10)
        assert sorted(np.bincount(folds(data, 5, 0))) == [2] * 5

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=20, deadline=None)
    def test_moved_labels_leave_the_folds_as_they_are(self, seed: int) -> None:
        data = data_with_duplicates(seed, 80, 50)
        rng = np.random.default_rng(seed)
        once = data.relabelled(rng.permutation(80))
        np.testing.assert_array_equal(folds(once, 5, 0), folds(data, 5, 0))
        np.testing.assert_array_equal(folds(once.relabelled(rng.permutation(80)), 5, 0), folds(data, 5, 0))
