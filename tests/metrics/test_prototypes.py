"""Prototypes, cosines, and inner products over pairs of different texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_moral.metrics.prototypes import GroupSums, cosine, prototype_items
from tests.metrics.worlds import moral_data


def double_loop(x: np.ndarray, a: np.ndarray, b: np.ndarray, group: np.ndarray) -> float | None:
    products = [x[i] @ x[j] for i in np.flatnonzero(a) for j in np.flatnonzero(b) if group[i] != group[j]]
    return float(np.mean(products)) if products else None


@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_product_is_the_mean_over_all_pairs_of_different_texts(seed: int, n: int, n_groups: int) -> None:
    rng = np.random.default_rng(seed)
    x, group = rng.standard_normal((n, 3)), rng.integers(0, n_groups, n) * 7 - 3
    masks = rng.random((2, n)) < 0.6  # items may belong to both sets, as a text rated for two poles does
    masks[0, 0] = masks[1, -1] = True
    sums = [GroupSums.of(torch.from_numpy(x), mask, group) for mask in masks]
    for i, j in ((0, 1), (1, 0), (0, 0), (1, 1)):
        expected = double_loop(x, masks[i], masks[j], group)
        got = sums[i].product(sums[j])
        assert got == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_product_is_none_when_all_items_share_one_text() -> None:
    sums = GroupSums.of(torch.ones(3, 2), np.ones(3, dtype=bool), np.zeros(3, dtype=np.int64))
    assert sums.product(sums) is None


def test_mean_and_count_are_over_items_not_groups() -> None:
    x = torch.tensor([[1.0], [2.0], [6.0], [100.0]])
    sums = GroupSums.of(x, np.array([True, True, True, False]), np.array([4, 4, 9, 9]))
    assert sums.n == 3
    assert sums.mean.tolist() == [3.0]
    assert sums.size.tolist() == [2, 1]


def test_cosine_is_numpys_and_zero_for_a_zero_vector() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 4)), rng.standard_normal(4)
    x[2] = 0
    expected = [0.0 if i == 2 else x[i] @ y / np.linalg.norm(x[i]) / np.linalg.norm(y) for i in range(5)]
    np.testing.assert_allclose(cosine(torch.from_numpy(x), torch.from_numpy(y)).numpy(), expected, atol=1e-15)
    assert cosine(torch.from_numpy(x), torch.zeros(4).double()).tolist() == [0.0] * 5


def test_a_prototype_is_made_of_the_items_of_typicality_one() -> None:
    data = moral_data([0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [1.0, 0.75, 1.0, 1.0, 1.0])
    mask, top = prototype_items(data, 0, 0)
    assert mask.tolist() == [True, False, False, True, False]
    assert top == 1.0


def test_a_prototype_falls_back_to_the_top_of_its_dimensions_own_scale() -> None:
    data = moral_data([0, 0, 0], [0, 0, 1], [0.75, 0.5, 1.0])
    mask, top = prototype_items(data, 0, 0)
    assert (mask.tolist(), top) == ([True, False, False], 0.75)


def test_a_pole_without_items_has_no_prototype_items() -> None:
    mask, top = prototype_items(moral_data([0], [0], [1.0]), 0, 1)
    assert (mask.any(), top) == (False, 0.0)
