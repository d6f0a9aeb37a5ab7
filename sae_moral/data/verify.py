"""Compare what was built of Social-Chemistry-101 with every published count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sae_moral.data.moral_data import MoralData
from sae_moral.data.splits import PARTS, group_split, leaks, paper_split
from sae_moral.foundations import FOUNDATIONS, POLARITIES

N_ROWS = 355_922
N_IDS = 203_431
N_RECORDS = 251_334
IDS = {"train": 162_744, "validation": 20_343, "test": 20_344}
RECORDS = {"train": 201_023, "validation": 25_170, "test": 25_141}
TRAIN = {
    "care-harm": (25_464, 32_684, 34_163),
    "fairness-cheating": (5_491, 16_208, 13_777),
    "loyalty-betrayal": (8_863, 13_781, 15_311),
    "authority-subversion": (3_423, 8_034, 9_794),
    "sanctity-degradation": (1_722, 6_876, 5_432),
}
"""Records of the train part: virtue, vice, neutral (arXiv 2603.15615; all counts above too)."""
SEEN = {"validation": 4_714, "test": 4_803}
"""Records whose text, character for character, is also in the train part (the audit published with ReSO)."""


class Count(NamedTuple):
    """One count: what it counts, what was published (None: nothing), what is there, and whether they agree."""

    name: str
    expected: int | None
    found: int | None
    ok: bool


def verify(data: MoralData) -> list[Count]:
    """Every published count against the data: rows, ids, records, the paper's split, each foundation × pole of its
    train part, and how many texts leak in it and in the split by text (none may)."""
    by_id, by_text = paper_split(data.id), group_split(data)
    rows = data.provenance.get("n_read")
    counts = [
        _count("rows in the table", N_ROWS, rows if isinstance(rows, int) else None),
        _count("ids", N_IDS, len(set(data.id))),
        _count("records", N_RECORDS, len(data)),
    ]
    for part in PARTS:
        counts.append(_count(f"{part}: ids", IDS[part], len({data.id[i] for i in by_id[part]})))
        counts.append(_count(f"{part}: records", RECORDS[part], len(by_id[part])))
    cells = np.bincount(data.foundation[by_id["train"]] * 3 + data.pole[by_id["train"]] + 3, minlength=18).tolist()
    for f, foundation in enumerate(FOUNDATIONS):
        for pole, expected in enumerate(TRAIN[foundation]):
            counts.append(_count(f"train: {foundation}, {POLARITIES[pole]}", expected, cells[3 * f + pole + 3]))
    train = {data.text[i] for i in by_id["train"]}
    for part, expected in SEEN.items():
        seen = sum(data.text[i] in train for i in by_id[part])
        counts.append(_count(f"{part}: records whose exact text is in train", expected, seen))
    counts.append(_count("texts in several parts of the split by id", None, leaks(data, by_id).texts))
    counts.append(_count("texts in several parts of the split by text", 0, leaks(data, by_text).texts))
    return counts


def verification_table(counts: Sequence[Count]) -> str:
    """The counts as a table, those that differ marked, and a last line that says how many do."""
    width = max(len(count.name) for count in counts)
    lines = [f"{'':<{width}}  {'published':>10}  {'found':>10}"]
    for count in counts:
        expected, found = ("–" if value is None else f"{value:,}" for value in (count.expected, count.found))
        lines.append(f"{count.name:<{width}}  {expected:>10}  {found:>10}{'' if count.ok else '  differs'}")
    wrong = sum(not count.ok for count in counts)
    compared = sum(count.expected is not None for count in counts)
    summary = f"{wrong} of {compared} counts differ" if wrong else f"all {compared} counts agree"
    return "\n".join([*lines, summary])


def _count(name: str, expected: int | None, found: int | None) -> Count:
    return Count(name, expected, found, expected is None or expected == found)
