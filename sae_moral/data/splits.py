"""Train, validation and test parts: the paper's by id, one by text that cannot leak, and a count of what leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sae_moral.data.moral_data import MoralData

PARTS: tuple[str, str, str] = ("train", "validation", "test")
PAPER_SEED = 42
Split = Mapping[str, Int[np.ndarray, "_"]]
"""Part -> positions of its records, ascending."""


@dataclass(frozen=True)
class Leaks:
    """How far the parts of a split share texts (equal after `normalise`).

    Attributes:
        texts: distinct texts that occur in more than one part.
        records: per part, the records whose text also occurs in another part.
        shares: the same, as a share of the part's records.
    """

    texts: int
    records: dict[str, int]
    shares: dict[str, float]


def paper_split(ids: Sequence[str]) -> dict[str, Int[np.ndarray, "_"]]:
    """The split of arXiv 2603.15615: numpy's `RandomState(42).shuffle` of the sorted unique ids, the first
    ⌊0.8·n⌋ train, the next ⌊0.1·n⌋ validation, the rest test. Records of one id stay together, equal texts do not.

    Of 203,431 ids this gives 162,744 / 20,343 / 20,344; with ids numbered as `social_chem_full` does, it puts the same
    ids into the same parts as the split published with ReSO (checked on the first 24 of its validation part).
    """
    unique, inverse = np.unique(np.asarray(ids), return_inverse=True)
    order = np.arange(len(unique))
    np.random.RandomState(PAPER_SEED).shuffle(order)
    place = np.empty(len(unique), dtype=np.int64)
    place[order] = np.arange(len(unique))
    bounds = [int(0.8 * len(unique)), int(0.8 * len(unique)) + int(0.1 * len(unique))]
    return _parts(np.searchsorted(bounds, place, side="right")[inverse])


def group_split(
    data: MoralData, seed: int = 0, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> dict[str, Int[np.ndarray, "_"]]:
    """A split in which equal normalised texts stay together: groups in a random order, cut where 80 % and 90 % of the
    records are reached, so the parts hold 80/10/10 % of the records (or other shares) to within one text.

    Raises:
        ValueError: shares that are not above 0 or do not sum to 1.
    """
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares {shares}; expected three numbers above 0 that sum to 1")
    size = np.bincount(data.group)
    order = np.random.default_rng(seed).permutation(len(size))
    before = np.cumsum(size[order]) - size[order]
    part = np.empty(len(size), dtype=np.int64)
    part[order] = np.searchsorted([shares[0] * len(data), (shares[0] + shares[1]) * len(data)], before, side="right")
    return _parts(part[data.group])


def leaks(data: MoralData, split: Split) -> Leaks:
    """Count the texts that occur in more than one part of a split.

    Raises:
        ValueError: a position outside the data.
    """
    held = np.zeros((int(data.group.max()) + 1, len(split)), dtype=bool)
    for column, (name, rows) in enumerate(split.items()):
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(data):
            raise ValueError(
                f"the part {name!r} has positions outside 0…{len(data) - 1}; split and data do not belong together"
            )
        held[data.group[rows], column] = True
    leaking = held.sum(axis=1) > 1
    records = {name: int(leaking[data.group[rows]].sum()) for name, rows in split.items()}
    return Leaks(
        texts=int(leaking.sum()),
        records=records,
        shares={name: count / max(len(split[name]), 1) for name, count in records.items()},
    )


def _parts(part: Int[np.ndarray, "n"]) -> dict[str, Int[np.ndarray, "_"]]:
    return {name: np.flatnonzero(part == index) for index, name in enumerate(PARTS)}
