"""Parts of data: train, validation and test (the paper's split by id, one by text that cannot leak, and a count of what
leaks), and matched subsamples, in which virtue, vice and neutral do not differ in length or word frequency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_moral.data.moral_data import MoralData
from sae_moral.data.text import words
from sae_moral.errors import DataError
from sae_moral.foundations import FOUNDATIONS, NEUTRAL, NO_FOUNDATION, VICE, VIRTUE

PARTS: tuple[str, str, str] = ("train", "validation", "test")
PAPER_SEED = 42
Split = Mapping[str, Int[np.ndarray, "_"]]
"""Part → positions of its records, ascending."""


@dataclass(frozen=True)
class Leaks:
    """How far the parts of a split share texts (equal ones, or whatever `MoralData.group` holds together).

    Attributes:
        texts: groups that occur in more than one part: distinct texts, if data are held together by equal texts.
        records: per part, the records whose text also occurs in another part.
        shares: the same, as a share of the part's records.
    """

    texts: int
    records: dict[str, int]
    shares: dict[str, float]


def paper_split(ids: Sequence[str]) -> dict[str, Int[np.ndarray, "_"]]:
    """The split of arXiv 2603.15615: numpy's `RandomState(42).shuffle` of the sorted unique ids, the first
    ⌊0.8·n⌋ train, the next ⌊0.1·n⌋ validation, the rest test. Records of one id stay together, equal texts do not.

    Of 203,431 ids this gives 162,744 / 20,343 / 20,344; docs/design/data.md says how it was compared with the
    published one.
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
    """A split in which groups (equal texts, or more: `MoralData.regrouped`) stay together: groups in a random order,
    cut where 80 % and 90 % of the records are reached, so the parts hold 80/10/10 % of the records (or other shares)
    to within one group.

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


# Matching


def match_length(data: MoralData, length: Int[np.ndarray, "n"] | None = None, seed: int = 0) -> MoralData:
    """`match` by the number of tokens per record: `length`, or `data.length`, which a capture fills in.

    Raises:
        ValueError: no lengths, or not one per record.
        DataError: no length at which all poles of a foundation meet.
    """
    length = data.length if length is None else length
    if length is None:
        raise ValueError("no lengths to match; pass the number of tokens per record, or data a capture has filled in")
    return match(data, length, seed, by="length")


def match(data: MoralData, values: Int[np.ndarray, "n"], seed: int = 0, *, by: str = "values") -> MoralData:
    """Records drawn so that, within each foundation, every pole that has records has equally many of each value.

    Exact, value by value: of every pole as many as the rarest one has. A pole without any record is not matched.
    Neutral records of no foundation count as neutral for each (`MoralData.items`); where there are some, all
    foundations are therefore matched to one another, too, which costs records.

    Args:
        data: the records.
        values: what to match, as whole numbers, one per record: tokens, or bins of anything (`frequency_bins`).
        seed: of the draw.
        by: name of the values, for the provenance.

    Returns:
        The records drawn, in the order of the data; the provenance says `matched`.

    Raises:
        ValueError: not one value per record.
        DataError: no value at which all poles of a foundation meet.
    """
    if len(values) != len(data):
        raise ValueError(f"{len(values)} values of {by} for {len(data)} records; expected one each")
    rng = np.random.default_rng(seed)
    shared = data.foundation == NO_FOUNDATION
    present = [f for f in range(len(FOUNDATIONS)) if (data.foundation == f).any()]
    chosen = np.zeros(len(data), dtype=bool)
    for value in np.unique(values):
        here = values == value
        if shared.any():
            chosen |= _draw_together(data, here, present, rng)
        else:
            for foundation in present:
                chosen |= _draw(data, here, foundation, rng)
    if not chosen.any():
        raise DataError(f"no {by} at which every pole of a foundation has a record; expected some to match")
    part = data.subset(chosen)
    matched = {"by": by, "seed": seed, "n": len(part), "of": len(data)}
    return replace(part, provenance={**data.provenance, "matched": matched})


def word_frequency(data: MoralData) -> Float[np.ndarray, "n"]:
    """How common each record's words are: the mean log frequency of its words among the distinct texts of these data.
    A text counts once, however many records it is."""
    split = [words(text) for text in data.text]
    first = np.unique(data.same_text, return_index=True)[1]
    counts = Counter(word for i in first for word in split[i])
    return np.array([np.mean(np.log([counts[word] for word in text])) for text in split])


def frequency_bins(data: MoralData, bins: int = 10) -> Int[np.ndarray, "n"]:
    """`word_frequency`, for `match`: cut into `bins` of equally many records."""
    common = word_frequency(data)
    edges = np.quantile(common, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, common, side="right").astype(np.int64)


def _draw(
    data: MoralData, here: Bool[np.ndarray, "n"], foundation: int, rng: np.random.Generator
) -> Bool[np.ndarray, "n"]:
    """Equally many of each pole of one foundation, of the records that are `here`."""
    own = data.foundation == foundation
    poles = [own & (data.pole == pole) for pole in (VIRTUE, VICE, NEUTRAL)]
    poles = [mask & here for mask in poles if mask.any()]
    return _some(poles, [min(int(mask.sum()) for mask in poles)] * len(poles), rng)


def _draw_together(
    data: MoralData, here: Bool[np.ndarray, "n"], present: list[int], rng: np.random.Generator
) -> Bool[np.ndarray, "n"]:
    """As `_draw`, for all foundations at once: they share the neutral records of no foundation."""
    shared = here & (data.foundation == NO_FOUNDATION)
    poles, neutrals = [], []
    for foundation in present:
        own = data.foundation == foundation
        poles += [here & mask for pole in (VIRTUE, VICE) if (mask := own & (data.pole == pole)).any()]
        neutrals.append(here & own & (data.pole == NEUTRAL))
    n_shared = int(shared.sum())
    n = min([int(mask.sum()) for mask in poles] + [n_shared + int(mask.sum()) for mask in neutrals or [~here & here]])
    drawn = min(n, n_shared)
    return _some([*poles, shared, *neutrals], [n] * len(poles) + [drawn] + [n - drawn] * len(neutrals), rng)


def _some(masks: list[Bool[np.ndarray, "n"]], counts: list[int], rng: np.random.Generator) -> Bool[np.ndarray, "n"]:
    chosen = np.zeros(len(masks[0]), dtype=bool)
    for mask, count in zip(masks, counts, strict=True):
        chosen[rng.choice(np.flatnonzero(mask), count, replace=False)] = True
    return chosen
