"""A headline and its controls on one scale: what the little picture in a metric's card shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_moral.report.judged import Judged
from sae_moral.report.series import Best
from sae_moral.report.words import interval, number, p_words


@dataclass(frozen=True)
class Mark:
    """One entry of a card's scale: its kind (value, interval, null, chance, baseline, nuisance, words, random,
    ceiling), words, ends in %, and what it is called."""

    kind: str
    words: str
    left: float
    right: float
    label: str


KINDS = {"nuisance": "nuisance", "bag of words": "words", "random weights": "random"}
"""Baseline → kind of its mark."""
End = tuple[str, str, str, float, float]


def marks(best: Best, provenance: Mapping[str, Any], found: Judged | None) -> list[Mark]:
    """The number and its controls, positions in percent of the scale's width."""
    chance = provenance.get("chance")
    ends = [*_bands(best, found)]
    points = [("chance", "chance", chance, ""), *_baselines(best, found)]
    ceiling = best.row["ceiling"]
    if ceiling is not None:
        points.append(("ceiling", "ceiling", ceiling, _way(best.value, chance, ceiling)))
    ends += [(kind, label, number(at) + more, at, at) for kind, label, at, more in points
             if at is not None and np.isfinite(at)]  # fmt: skip
    ends.append(("value", "value", number(best.value), best.value, best.value))
    low, high = min(end[3] for end in ends), max(end[4] for end in ends)
    pad = 0.05 * (high - low) or 1.0
    scale = 100 / (high - low + 2 * pad)
    return [Mark(kind, words, (a - low + pad) * scale, (b - low + pad) * scale, label)
            for kind, label, words, a, b in ends]  # fmt: skip


def pair(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """`name`_low and `name`_high, where both are there."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def interval_of(best: Best, found: Judged | None) -> tuple[float, float] | None:
    """The headline's interval at its best layer; of a mean of groups, only the controls know it."""
    own = pair(best.row, "ci")
    return pair(found.peak, "ci") if own is None and found is not None else own


def _bands(best: Best, found: Judged | None) -> list[End]:
    null, p, label = pair(best.row, "null"), best.row["p_value"], "null band"
    ends: list[End] = []
    if found is not None and (peaks := pair(found.peak, "null_peak")) is not None:
        null, p = peaks, found.peak.get("p_value")
        label = "null peaks" if best.layers > 1 else label
    if null is not None:
        ends.append(("null", label, interval(*null) + ("" if p is None else f", {p_words(p)}"), *null))
    if (ci := interval_of(best, found)) is not None:
        ends.append(("interval", "interval", interval(*ci), *ci))
    return ends


def _baselines(best: Best, found: Judged | None) -> list[tuple[str, str, float | None, str]]:
    if found is None or not found.comparisons:
        return [("baseline", "baseline", best.row["baseline"], "")]
    return [
        (
            KINDS.get(one["against"], "baseline"),
            one["against"],
            one["against_value"],
            "" if one.get("against_layer") is None else f" at its best layer, {one['against_layer']}",
        )
        for one in found.comparisons
    ]


def _way(value: float, chance: Any, ceiling: float) -> str:
    """How far the number is from chance to the ceiling, where that is between the two."""
    if chance is None or ceiling == chance or not 0 <= (share := (value - chance) / (ceiling - chance)) <= 1:
        return ""
    return f", reached to {100 * share:.0f} % from chance"
