"""Matched subsamples: the distributions are equal, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sae_moral.data import MoralData, frequency_bins, match, match_length
from sae_moral.data.moral_data import from_records
from sae_moral.foundations import DIMENSIONS, NEUTRAL, NO_FOUNDATION, POLARITIES


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
