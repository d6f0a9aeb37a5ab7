"""The paper's split, the split by text, what leaks, and matched subsamples, whose distributions are equal, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sae_moral.data import (
    MoralData,
    frequency_bins,
    group_split,
    leaks,
    load_social_chem,
    match,
    match_length,
    paper_split,
)
from sae_moral.data.moral_data import from_records
from sae_moral.data.social_chem import IDS, N_IDS, N_RECORDS, RECORDS, TRAIN
from sae_moral.foundations import DIMENSIONS, NEUTRAL, NO_FOUNDATION, POLARITIES
from tests.data.invented_social_chem import write_table
from tests.tiny import scenarios


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> MoralData:
    return load_social_chem(write_table(tmp_path_factory.mktemp("table") / "table.tsv", 20_000))


def test_the_paper_split_is_the_published_one() -> None:
    ids = [f"socialchem_{i:06d}" for i in range(N_IDS)]
    split = paper_split(ids)
    assert {part: len(rows) for part, rows in split.items()} == IDS
    # The first ids of the validation part published with ReSO (repository LingyuLi-Cogs/ReSO, commit 3fc19b6).
    assert split["validation"][:24].tolist() == [
        10, 16, 18, 43, 46, 51, 59, 68, 81, 93, 132, 146, 157, 177, 178, 181, 185, 188, 189, 228, 229, 230, 247, 254,
    ]  # fmt: skip
    assert np.array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(N_IDS))


def test_records_of_an_id_stay_together_and_order_does_not_matter() -> None:
    ids = [f"{i // 3:03d}" for i in range(300)]
    state: Any = np.random.get_state()
    split = paper_split(ids)
    after: Any = np.random.get_state()
    assert np.array_equal(state[1], after[1])  # no global seed
    assert sorted(map(len, split.values())) == [30, 30, 240]
    for rows in split.values():
        assert all((rows // 3 == i).sum() == 3 for i in set((rows // 3).tolist()))
    turned = paper_split(ids[::-1])
    assert {ids[i] for i in split["test"]} == {ids[::-1][i] for i in turned["test"]}


def test_published_counts_are_consistent() -> None:
    assert sum(map(sum, TRAIN.values())) == RECORDS["train"]
    assert sum(RECORDS.values()) == N_RECORDS
    assert sum(IDS.values()) == N_IDS


def test_a_split_by_text_does_not_leak(invented: MoralData) -> None:
    by_id, by_text = paper_split(invented.id), group_split(invented)
    for split in (by_id, by_text):
        assert np.array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(len(invented)))
        shares = [len(rows) / len(invented) for rows in split.values()]
        np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    found = leaks(invented, by_id)
    texts = [set(invented.group[rows].tolist()) for rows in by_id.values()]
    several = (texts[0] & texts[1]) | (texts[0] & texts[2]) | (texts[1] & texts[2])
    assert found.texts == len(several) > 0
    assert found.records == {part: sum(g in several for g in invented.group[rows]) for part, rows in by_id.items()}
    assert leaks(invented, by_text).texts == 0
    assert set(leaks(invented, by_text).records.values()) == {0}
    assert not np.array_equal(group_split(invented, seed=1)["test"], by_text["test"])
    with pytest.raises(ValueError, match="do not belong together"):
        leaks(invented.subset(np.arange(10)), by_id)


def test_group_split_takes_other_shares() -> None:
    data = scenarios(200)
    split = group_split(data, shares=(0.5, 0.2, 0.3))
    assert [round(len(rows) / 200, 1) for rows in split.values()] == [0.5, 0.2, 0.3]
    assert leaks(data, split).texts == 0
    for shares in ((0.5, 0.5, 0.0), (0.5, 0.2, 0.2)):
        with pytest.raises(ValueError, match="expected three numbers above 0 that sum to 1"):
            group_split(data, shares=shares)


def _confounded(n: int = 600, *, shared: bool = False, seed: int = 0) -> tuple[MoralData, np.ndarray]:
    """Vices are shorter than virtues, neutrals longer; `shared`: some neutrals belong to no foundation."""
    rng = np.random.default_rng(seed)
    records, length = [], []
    for i in range(n):
        foundation, pole = int(rng.integers(3)), int(rng.integers(3))
        vector = np.zeros(len(DIMENSIONS))
        if pole != NEUTRAL:
            vector[2 * foundation + pole] = 0.5
        elif shared and rng.random() < 0.5:
            foundation = NO_FOUNDATION
        records.append((str(i), f"deed {i}", vector, foundation))
        length.append(4 + rng.poisson([5, 3, 8][pole]))
    return from_records(records, {}), np.array(length)


def _lengths(data: MoralData) -> dict[tuple[int, str], Counter[int]]:
    assert data.length is not None
    return {(f, POLARITIES[p]): Counter(data.length[data.items(f, p)].tolist()) for f in range(3) for p in range(3)}


@pytest.mark.parametrize("shared", [False, True])
def test_the_poles_of_a_foundation_have_equal_lengths(shared: bool) -> None:
    data, length = _confounded(shared=shared)
    data = replace(data, length=length)
    before, matched = _lengths(data), match_length(data)
    after = _lengths(matched)
    for foundation in range(3):
        first, *others = (after[foundation, pole] for pole in POLARITIES)
        assert first.total() > 10
        assert all(other == first for other in others)
        if not shared:  # as many as the rarest pole has
            poles = [before[foundation, pole] for pole in POLARITIES]
            assert first == Counter({k: n for k in poles[0] if (n := min(pole[k] for pole in poles))})
    assert matched.provenance["matched"] == {"by": "length", "seed": 0, "n": len(matched), "of": len(data)}
    assert [int(name) for name in matched.id] == sorted(int(name) for name in matched.id)


def test_seeds_differ_and_lengths_may_be_given() -> None:
    data, length = _confounded()
    assert match_length(data, length).id == match_length(replace(data, length=length)).id
    assert match_length(data, length).id != match_length(data, length, seed=1).id


def test_a_pole_without_records_is_not_matched() -> None:
    data, length = _confounded()
    moral = data.pole != NEUTRAL
    after = _lengths(match_length(replace(data, length=length).subset(moral)))
    assert after[0, "virtue"] == after[0, "vice"]
    assert not after[0, "neutral"]


def test_frequency_bins_can_be_matched() -> None:
    data, _ = _confounded()
    texts = tuple(f"{'the' if i % 3 else 'zebra'} {text} {i % 7}" for i, text in enumerate(data.text))
    data = replace(data, text=texts)
    bins = frequency_bins(data, 4)
    assert set(bins.tolist()) == {0, 1, 2, 3}
    rare = np.array(["zebra" in text for text in texts])
    assert bins[rare].mean() < bins[~rare].mean()
    matched = match(data, bins, by="word frequency")
    kept = replace(data, length=bins).subset(np.isin(data.id, matched.id))
    assert _lengths(kept)[1, "virtue"] == _lengths(kept)[1, "vice"] == _lengths(kept)[1, "neutral"]


def test_what_cannot_be_matched_is_refused(refused: Callable[..., None]) -> None:
    data, length = _confounded(60)
    with pytest.raises(ValueError, match="no lengths to match"):
        match_length(data)
    with pytest.raises((ValueError, TypeError), match=r"5 values of length for 60 records|i64\[5\]"):
        match_length(data, length[:5])
    refused(lambda: match_length(data, data.pole), "no length at which every pole")
