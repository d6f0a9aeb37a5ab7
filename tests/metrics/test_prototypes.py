"""Prototypes, their sums by folds, and inner products over pairs of different texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_moral.metrics.base import Variants
from sae_moral.metrics.prototypes import Items, prototype_items
from tests.metrics.worlds import moral_data


def items(x: Tensor, group: np.ndarray, fold: np.ndarray | None = None) -> Items:
    data = moral_data(0 * group, 0 * group, np.ones(len(group)), text=[f"text {i}" for i in group])
    return Items.of(x, data, np.arange(len(group)), fold)


def double_loop(x: np.ndarray, a: np.ndarray, b: np.ndarray, group: np.ndarray) -> float | None:
    n = len(x)
    pairs = [(a[i] * b[j], x[i] @ x[j]) for i in range(n) for j in range(n) if group[i] != group[j] and a[i] * b[j]]
    return float(np.average([p[1] for p in pairs], weights=[p[0] for p in pairs])) if pairs else None


class TestProduct:
    @given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.integers(1, 8))
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_mean_over_all_pairs_of_different_texts(self, seed: int, n: int, n_groups: int) -> None:
        rng = np.random.default_rng(seed)
        x, group = rng.standard_normal((n, 3)), rng.integers(0, n_groups, n) * 7 - 3
        masks = (rng.random((2, n)) < 0.6).astype(float)  # items may belong to both sets, as one rated for two poles
        masks[0, 0] = masks[1, -1] = 1
        own = items(torch.from_numpy(x), group)
        a, b = (torch.from_numpy(masks[list(rows)]) for rows in ((0, 1, 0, 1), (1, 0, 0, 1)))
        got = own.product(a, b)
        for v, (i, j) in enumerate(((0, 1), (1, 0), (0, 0), (1, 1))):
            expected = double_loop(x, masks[i], masks[j], group)
            assert got[v].item() == pytest.approx(np.nan if expected is None else expected, abs=1e-12, nan_ok=True)

    @given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.integers(2, 6))
    @settings(max_examples=40, deadline=None)
    def test_a_whole_weight_is_so_many_copies_of_the_item(self, seed: int, n: int, n_groups: int) -> None:
        rng = np.random.default_rng(seed)
        x, group, weight = rng.standard_normal((n, 3)), rng.integers(0, n_groups, n), rng.integers(0, 4, (2, n))
        expected = double_loop(x, weight[0], weight[1], group)
        got = items(torch.from_numpy(x), group).product(*torch.from_numpy(weight.astype(float))[:, None])
        assert got.item() == pytest.approx(np.nan if expected is None else expected, abs=1e-12, nan_ok=True)

    def test_it_is_nan_when_all_items_share_one_text(self) -> None:
        own = items(torch.ones(3, 2), np.zeros(3, dtype=np.int64))
        one = torch.ones(1, 3, dtype=torch.float64)
        assert own.product(one, one).isnan().all()

    def test_many_pairs_of_one_text_are_done_in_parts_without_a_difference(self) -> None:
        rng = np.random.default_rng(0)  # 2 × 70² ordered pairs: three parts of 4,096
        x, group = rng.standard_normal((140, 2)), np.arange(140) % 2
        one = np.ones(140)
        got = items(torch.from_numpy(x), group).product(*torch.from_numpy(one)[None, None].expand(2, 1, -1))
        assert got.item() == pytest.approx(double_loop(x, one, one, group), abs=1e-12)


class TestItems:
    def test_means_are_over_items_not_groups(self) -> None:
        x = torch.tensor([[1.0], [2.0], [6.0], [100.0]])
        own = items(x, np.array([4, 4, 9, 9]))
        coefficient = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 2.0, 1.0, 0.0], [0.0] * 4]).double()
        mean = own.mean(coefficient)
        assert mean[:2].tolist() == [[3.0], [10 / 3]]
        assert mean[2].isnan().all()

    def test_they_are_the_rows_of_the_sample_in_float64(self) -> None:
        data = moral_data([0] * 5, [0] * 5, [1.0] * 5, text=["a", "b", "A.", "c", "d"])
        x = torch.arange(10).float().reshape(5, 2)
        own = Items.of(x, data, np.array([4, 0, 2]), np.array([3, 0, 0, 0, 7]))
        assert own.x.dtype == torch.float64
        assert own.x.tolist() == [[8, 9], [0, 1], [4, 5]]
        assert own.group.tolist() == data.group[[4, 0, 2]].tolist() and own.group[1] == own.group[2]
        assert [(k, part.tolist()) for k, part in own.folds] == [(0, [2]), (3, [1]), (7, [0])]
        weight = own.weight(Variants.weighed(torch.arange(10).double().reshape(2, 5)))
        assert weight.tolist() == [[4, 0, 2], [9, 5, 7]]

    def test_a_folds_items_have_no_part_in_the_sums_without_it(self) -> None:
        rng = np.random.default_rng(0)
        x, fold = torch.from_numpy(rng.standard_normal((30, 4))), np.arange(30) % 3
        coefficient = torch.from_numpy(rng.random((2, 30)))
        sums = items(x, np.arange(30), fold).fold_sums(coefficient)
        for k in range(3):
            rest = sums.without(k)
            train = torch.from_numpy(fold != k)
            torch.testing.assert_close(rest.vector, coefficient[:, train] @ x[train])
            torch.testing.assert_close(rest.count, coefficient[:, train].sum(dim=1))
            torch.testing.assert_close(rest.mean, rest.vector / rest.count[:, None])
            other = coefficient.clone()
            other[:, ~train] = 9
            again = items(x, np.arange(30), fold).fold_sums(other).without(k)
            assert torch.equal(again.vector, rest.vector) and torch.equal(again.count, rest.count)

    def test_without_the_only_fold_nothing_is_left(self) -> None:
        sums = items(torch.ones(3, 2), np.arange(3), np.zeros(3, dtype=np.int64)).fold_sums(torch.ones(1, 3).double())
        assert sums.without(0).count.tolist() == [0]
        assert sums.without(0).mean.isnan().all()


class TestPrototypeItems:
    def test_a_prototype_is_made_of_the_items_of_typicality_one(self) -> None:
        data = moral_data([0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [1.0, 0.75, 1.0, 1.0, 1.0])
        mask, top = prototype_items(data, 0, 0)
        assert mask.tolist() == [True, False, False, True, False]
        assert top == 1.0

    def test_a_prototype_falls_back_to_the_top_of_its_dimensions_own_scale(self) -> None:
        data = moral_data([0, 0, 0], [0, 0, 1], [0.75, 0.5, 1.0])
        mask, top = prototype_items(data, 0, 0)
        assert (mask.tolist(), top) == ([True, False, False], 0.75)

    def test_a_pole_without_items_has_no_prototype_items(self) -> None:
        mask, top = prototype_items(moral_data([0], [0], [1.0]), 0, 1)
        assert (mask.any(), top) == (False, 0.0)
