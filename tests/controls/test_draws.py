"""Permutations of labels and resamples of texts: what stays, what moves, and how often."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sae_moral.controls.draws import (
    LENGTH_STRATUM,
    SCHEMES,
    in_folds,
    permutations,
    perturbed,
    resamples,
    strata_of_length,
)
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.foundations import NEUTRAL, VICE
from sae_moral.metrics.base import folds
from tests.metrics.worlds import LEVELS, lengths, moral_data

SEEDS = st.integers(0, 2**32 - 1)


def random_data(seed: int, n: int, texts: int, *, foundations: int = 2) -> MoralData:
    """n records of some texts (in several spellings), a third of the neutrals without a foundation."""
    rng = np.random.default_rng(seed)
    twin = rng.permutation(np.arange(n) % texts)
    foundation, pole = rng.integers(0, foundations, n), rng.integers(0, 3, n)
    foundation = np.where((pole == NEUTRAL) & (rng.random(n) < 0.3), -1, foundation)
    text = [f"text {i}" + "." * (row % 2) for row, i in enumerate(twin)]
    return moral_data(foundation, pole, rng.choice(LEVELS, n), text=text, length=rng.integers(3, 30, texts)[twin])


def cells(moved: np.ndarray) -> list[set[int]]:
    """What ever swaps places in any of the permutations [b, n]."""
    rows = np.tile(np.arange(moved.shape[1]), len(moved))
    graph = coo_array((np.ones(moved.size), (rows, moved.ravel())), shape=(moved.shape[1],) * 2)
    part = connected_components(graph, directed=False)[1]
    return [set(np.flatnonzero(part == value).tolist()) for value in np.unique(part)]


class TestSchemes:
    data = moral_data([0, 0, 0, 1, 1, 1, -1, 4], [0, 1, 2, 0, 1, 2, 2, 2], [1.0] * 8)

    @pytest.mark.parametrize(
        ("scheme", "together"),
        [
            ("all", [{0, 1, 2, 3, 4, 5, 7}, {6}]),
            ("foundation", [{0, 3}, {1, 4}, {2, 5, 7}, {6}]),
            ("labels", [{0, 1, 2}, {3, 4, 5}, {6}, {7}]),
            ("pole", [{0, 1}, {2}, {3, 4}, {5}, {6}, {7}]),
            ("typicality", [{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}]),
        ],
    )
    def test_each_keeps_labels_in_its_blocks(self, scheme: str, together: list[set[int]]) -> None:
        block = SCHEMES[scheme](self.data)
        assert sorted(map(sorted, together)) == sorted(np.flatnonzero(block == b).tolist() for b in np.unique(block))

    def test_there_is_no_other(self) -> None:
        assert set(SCHEMES) == {"all", "foundation", "labels", "pole", "typicality"}

    def test_an_unknown_one_is_an_error_with_the_nearest(self) -> None:
        with pytest.raises(ValueError, match="unknown permutation scheme 'poles'; did you mean 'pole'"):
            permutations(self.data, "poles", 1, stratum=None)


class TestPermutations:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("folded", [False, True])
    @pytest.mark.parametrize("stratum", [None, 3, LENGTH_STRATUM])
    @given(seed=SEEDS, texts=st.integers(20, 120))
    @settings(max_examples=8, deadline=None)
    def test_labels_stay_in_block_and_fold_and_records_of_a_text_move_together(
        self, scheme: str, folded: bool, stratum: int | None, seed: int, texts: int
    ) -> None:
        data = random_data(seed, 120, texts)
        fold, block = folds(data, 4, 0) if folded else None, SCHEMES[scheme](data)
        found = permutations(data, scheme, 20, seed=seed, fold=fold, stratum=stratum)
        index = found.index.numpy()
        assert (np.sort(index, axis=1) == np.arange(120)).all()
        assert (block[index] == block).all()
        if fold is not None:
            assert (fold[index] == fold).all()
        for name in np.unique(data.group):
            records = np.flatnonzero(data.group == name)
            came_from = data.group[index[:, records]]
            assert (came_from == came_from[:, :1]).all()
            others = (data.group == came_from[:, :1]).sum(axis=1)
            assert (others == len(records)).all()
        assert (index == np.arange(120)).all(axis=0).mean() >= found.fixed - 1e-12

    @pytest.mark.parametrize("folded", [False, True])
    @given(seed=SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_labels_move_among_so_many_texts_or_more_next_to_each_other_in_length(
        self, folded: bool, seed: int
    ) -> None:
        data = random_data(seed, 400, 330)
        fold = folds(data, 2, 0) if folded else None
        index = permutations(data, "foundation", 100, seed=seed, fold=fold).index.numpy()
        first = np.unique(data.group, return_index=True)[1]
        block, length = SCHEMES["foundation"](data), lengths(data)[first]
        kind = [(0 if fold is None else fold[i], *sorted(block[data.group == g])) for g, i in enumerate(first)]
        strata: dict[tuple, list[set[int]]] = defaultdict(list)
        for cell in cells(data.group[index[:, first]]):
            assert len({kind[text] for text in cell}) == 1
            strata[kind[min(cell)]].append(cell)
        assert any(len(parts) > 1 for parts in strata.values())
        for parts in strata.values():
            if len(parts) > 1:
                assert min(len(part) for part in parts) >= LENGTH_STRATUM
            spans = sorted((min(length[list(part)]), max(length[list(part)])) for part in parts)
            for (_, longest), (shortest, _) in pairwise(spans):
                assert longest < shortest

    @given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=9), least=st.integers(1, 5))
    @settings(max_examples=100, deadline=None)
    def test_strata_have_the_smallest_spread_of_all_that_split_no_length(self, counts: list[int], least: int) -> None:
        length = np.repeat(np.arange(len(counts)) ** 2, counts)
        if not len(length):
            return
        allowed = [i for i in range(1, len(length)) if length[i] != length[i - 1]]

        def cost(cuts: tuple[int, ...]) -> float:
            parts = np.split(length, cuts)
            small = len(parts) > 1 and min(map(len, parts)) < least
            return np.inf if small else float(sum(len(part) * np.ptp(part) for part in parts))

        best = min(cost(cuts) for k in range(len(allowed) + 1) for cuts in combinations(allowed, k))
        assert cost(tuple(strata_of_length(length, least))) == best

    def test_the_spread_of_lengths_within_strata_is_told(self) -> None:
        length = np.array([4, 4, 4, 5, 9, 9])
        assert strata_of_length(length, 2) == [4] and strata_of_length(length, 4) == []
        data = moral_data([0] * 6, [0] * 6, [1.0] * 6, length=length)
        assert permutations(data, "all", 1, stratum=2).spread == {"mean": 0.667, "largest": 1, "equal": 0.3333}
        assert permutations(data, "all", 1, stratum=None).spread is None

    def test_texts_of_like_length_swap_and_others_do_not(self) -> None:
        length = np.repeat([5, 50], 12)
        data = moral_data([0] * 24, [0] * 24, [1.0] * 24, length=length)
        index = permutations(data, "all", 200, stratum=10).index.numpy()
        assert (length[index] == length).all()
        assert {frozenset(cell) for cell in cells(index)} == {
            frozenset(range(12)),
            frozenset(range(12, 24)),
        }
        free = permutations(data, "all", 200, stratum=None).index.numpy()
        assert (length[free] != length).mean() == pytest.approx(0.5, abs=0.05)

    def test_every_order_of_a_cell_is_as_likely_as_another(self) -> None:
        data = moral_data([0] * 3, [0] * 3, [1.0] * 3)
        index = permutations(data, "all", 6000, stratum=None).index
        counts = Counter(map(tuple, index.tolist()))
        assert len(counts) == 6
        assert max(abs(count - 1000) for count in counts.values()) < 4 * np.sqrt(1000 * 5 / 6)

    def test_blocks_are_permuted_independently_of_each_other(self) -> None:
        data = moral_data([0] * 3 + [1] * 3, [0] * 6, [1.0] * 6)
        index = permutations(data, "labels", 4000, stratum=None).index
        assert len({tuple(row) for row in index.tolist()}) == 36

    def test_the_same_seed_gives_the_same_draw_and_another_another(self) -> None:
        data = random_data(0, 100, 70)
        first, again, other = (permutations(data, "labels", 5, seed=seed).index for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        permutations(data, "labels", 5)
        assert torch.equal(torch.get_rng_state(), before)

    def test_fixed_is_the_share_of_records_without_another_text_of_their_kind(self) -> None:
        #            four texts of care, one of fairness, one of both foundations (two records), one homeless
        foundation, pole = [0, 0, 0, 0, 1, 0, 1, -1], [0, 1, 0, 1, 0, 0, 0, 2]
        text = [*"abcde", "f", "f", "g"]
        data = moral_data(foundation, pole, [1.0] * 8, text=text)
        assert permutations(data, "labels", 3, stratum=None).fixed == pytest.approx(4 / 8)
        assert permutations(data, "all", 3, stratum=None).fixed == pytest.approx(3 / 8)
        index = permutations(data, "labels", 200, stratum=None).index.numpy()
        assert {frozenset(cell) for cell in cells(index) if len(cell) > 1} == {frozenset(range(4))}

    def test_a_fold_of_its_own_is_fixed_too(self) -> None:
        data = moral_data([0] * 4, [0] * 4, [1.0] * 4)
        assert permutations(data, "all", 2, fold=np.array([0, 0, 1, 2]), stratum=None).fixed == 0.5

    def test_texts_with_several_records_swap_record_by_record(self) -> None:
        data = moral_data([0, 1, 1, 0], [0, 1, 0, 1], [1.0] * 4, text=["a", "a", "b", "b"])
        index = permutations(data, "labels", 50, stratum=None).index
        assert {tuple(row) for row in index.tolist()} == {(0, 1, 2, 3), (3, 2, 1, 0)}

    def test_strata_need_lengths(self) -> None:
        data = moral_data([0] * 4, [0] * 4, [1.0] * 4)
        with pytest.raises(ValueError, match=r"needs data\.length; capture fills it in, or stratum=None"):
            permutations(data, "all", 1)


class TestResamples:
    @given(seed=SEEDS, texts=st.integers(2, 60))
    @settings(max_examples=30, deadline=None)
    def test_records_of_a_text_share_a_count_and_counts_add_up_to_the_number_of_texts(
        self, seed: int, texts: int
    ) -> None:
        data = random_data(seed, 60, texts)
        weight = resamples(data, 7, seed=seed)
        assert (weight.shape, weight.dtype) == ((7, 60), torch.float64)
        assert (weight == weight.round()).all() and (weight >= 0).all()
        _, first, group = np.unique(data.group, return_index=True, return_inverse=True)
        assert (weight == weight[:, first][:, group]).all()
        assert weight[:, first].sum(dim=1).tolist() == [len(first)] * 7

    def test_a_text_is_drawn_as_often_as_another(self) -> None:
        data = random_data(0, 60, 20)
        first = np.unique(data.group, return_index=True)[1]
        weight = resamples(data, 4000)[:, first].numpy()
        assert weight.mean(axis=0) == pytest.approx(np.ones(20), abs=4 * np.sqrt(0.95 / 4000))
        assert weight.var(axis=0) == pytest.approx(np.full(20, 0.95), abs=0.15)
        assert (weight == 0).mean() == pytest.approx(0.95**20, abs=0.01)

    def test_the_same_seed_gives_the_same_draw_and_another_another(self) -> None:
        data = random_data(0, 60, 40)
        first, again, other = (resamples(data, 5, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)


class TestInFolds:
    @given(seed=SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_every_pole_of_a_foundation_weighs_in_every_fold_what_it_counts(self, seed: int) -> None:
        data = random_data(seed, 90, 60)
        fold, weight = folds(data, 3, 0), perturbed(data, 7, seed=seed)
        kept = in_folds(weight, data, fold)
        for f, pole, k in {*zip(data.foundation.tolist(), data.pole.tolist(), fold.tolist(), strict=True)}:
            cell = (data.foundation == f) & (data.pole == pole) & (fold == k)
            np.testing.assert_allclose(kept[:, cell].sum(dim=1).numpy(), cell.sum(), rtol=1e-12)
            share = kept[:, cell] / weight[:, cell]  # within a cell nothing changes but the scale
            np.testing.assert_allclose(share.numpy(), share[:, :1].expand_as(share).numpy(), rtol=1e-12)


def families(seed: int, n: int = 200, agree: float = 0.95) -> tuple[MoralData, np.ndarray]:
    """Families of up to six texts with one label, mostly, and one part of their vectors: a world without morality."""
    rng = np.random.default_rng(seed)
    records, family = [], []
    while len(records) < n:
        foundation, pole, i = int(rng.integers(5)), int(rng.integers(2)), len(set(family))
        for j in range(rng.choice([1, 2, 3, 4, 6], p=[0.3, 0.25, 0.2, 0.15, 0.1])):
            own = foundation if rng.random() < agree else int(rng.integers(5))
            vector = np.zeros(10)
            vector[2 * own + (pole if rng.random() < agree else 1 - pole)] = rng.choice([0.25, 0.5, 1.0])
            records.append((f"{i}", " ".join([*(f"f{i}w{k}" for k in range(4)), f"u{i}n{j}"]), vector, own))
            family.append(i)
    of = np.array(family[:n])
    data = replace(from_records(records[:n], {}), length=rng.integers(4, 9, n))
    return data, rng.standard_normal((n, 8))[of] + 0.7 * rng.standard_normal((n, 8))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_groups_move_whole_to_groups_of_the_same_make_up(scheme: str) -> None:
    data = families(0)[0].regrouped("near")
    block, fold = SCHEMES[scheme](data), folds(data, 5, 0)
    drawn = permutations(data, scheme, 20, seed=1, fold=fold)
    index = drawn.index.numpy()
    assert (np.sort(index, axis=1) == np.arange(len(data))).all()
    assert (block[index] == block).all() and (fold[index] == fold).all()
    for value in np.unique(data.group):
        own = data.group == value
        sources = data.group[index[:, own]]
        assert (sources == sources[:, :1]).all()
        assert (np.bincount(data.group)[sources] == own.sum()).all()
    moved = (index != np.arange(len(data))).any(axis=0)
    assert 0 < moved.sum() <= round((1 - drawn.fixed) * len(data)) < len(data)


def _auroc(x: np.ndarray, data: MoralData, fold: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Vice against virtue on held-out texts, along the line between the poles' means, for each row of labels."""
    label, found = np.where(data.pole == VICE, 1.0, -1.0)[index], []
    for k in range(5):
        train, test = fold != k, fold == k
        weight = label[:, train] - label[:, train].mean(axis=1, keepdims=True)
        rank = (weight @ x[train] @ x[test].T).argsort(axis=1).argsort(axis=1) + 1
        vice = label[:, test] > 0
        p, q = vice.sum(axis=1), (~vice).sum(axis=1)
        found.append(((rank * vice).sum(axis=1) - p * (p + 1) / 2) / (p * q))
    return np.mean(found, axis=0)


@pytest.mark.slow
def test_families_without_morality_are_found_five_times_in_a_hundred() -> None:
    rejected: dict[str, list[bool]] = {"equal": [], "near": []}
    for seed in range(300):
        data, x = families(seed)
        for kind, found in rejected.items():
            held = data.regrouped(kind)
            fold = folds(held, 5, 0)
            drawn = permutations(held, "labels", 99, seed=seed, fold=fold).index.numpy()
            value = _auroc(x, held, fold, np.concatenate([np.arange(len(held))[None], drawn]))
            found.append((value[1:] >= value[0] - 1e-12).sum() + 1 <= 5)
    assert 0.02 < np.mean(rejected["near"]) < 0.08
    assert np.mean(rejected["equal"]) > 0.5
