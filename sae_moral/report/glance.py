"""A headline at its best layer in words: the number, its controls, and what speaks for and against reading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_moral.report.series import Best, Track, best_layer, headline_of, lower_is_better, tracks_by_group
from sae_moral.report.words import count, interval, number, p_value

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Mark:
    """One entry of a card's scale: its kind (value, interval, null, chance, baseline, ceiling), words, ends in %."""

    kind: str
    words: str
    left: float
    right: float


@dataclass(frozen=True)
class Glance:
    """The card of one metric. `value` is None when nothing was computed."""

    metric: str
    statistic: str | None
    best: Best | None
    value: str | None = None
    sentence: str = ""
    marks: list[Mark] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    counts: str = ""


def glance(
    frame: pd.DataFrame, metric: str, provenance: Mapping[str, Any], length_share: Mapping[int, float]
) -> Glance:
    """The card of one metric.

    Args:
        frame: `Diagnosis.frame`.
        metric: a metric's name; one without rows gives a card that says so.
        provenance: `Diagnosis.provenance["metrics"][metric]`.
        length_share: per layer, the share of variance that text length explains (0–1); may be empty.
    """
    statistic = headline_of(frame, metric, provenance)
    tracks = tracks_by_group(frame, metric, statistic) if statistic else {}
    best = best_layer(tracks, provenance)
    if best is None:
        return Glance(metric, statistic, None, sentence="No value was computed for this metric.")
    findings, cautions = judge(best, tracks, provenance)
    share = length_share.get(best.layer)
    if share is not None and share >= 0.5:
        cautions.append(f"text length explained {100 * share:.0f} % of this layer’s variance (length_share)")
    row = best.row
    counts = "" if row["n"] is None else f"n = {count(row['n'])}"
    if row["n_dropped"]:
        counts += f"{', ' if counts else ''}{count(row['n_dropped'])} dropped"
    return Glance(metric, statistic, best, number(best.value), _sentence(best, provenance), _marks(best, provenance),
                  findings, cautions, counts)  # fmt: skip


def judge(best: Best, tracks: Mapping[str, Track], provenance: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the controls say about the best layer: findings (in its favour) and cautions."""
    findings: list[str] = []
    cautions: list[str] = []
    sign = -1.0 if lower_is_better(provenance) else 1.0
    beyond, short = ("below", "above") if sign < 0 else ("above", "below")
    row, value = best.row, best.value
    interval_ends = _ends(row, "ci")
    null = _ends(row, "null")
    if best.group is None:
        cautions.append(f"mean of {best.groups} groups, without an interval or a null of its own")
    elif interval_ends is None:
        cautions.append("no interval was computed: how far this number would move on other scenarios is unknown")
    if null is None:
        cautions.append(
            f"peak over {best.layers} layers, without a null: reads high by selection" if best.layers > 1
            else "no null was computed: how high this number gets without any morality is unknown"
        )  # fmt: skip
    elif null[0] <= value <= null[1]:
        cautions.append("inside the null band: not distinguishable from labels that carry nothing")
    elif sign * value < sign * null[0]:
        cautions.append(f"{short} the null band: worse than labels that carry nothing")
    else:
        everywhere = _beyond_every_null(value, sign, tracks[best.group or ""])
        findings.append(f"{beyond} the null band" + (" of every layer" if everywhere and best.layers > 1 else ""))
        if best.layers > 1 and not everywhere:
            cautions.append(f"chosen as the best of {best.layers} layers; other layers’ null bands reach as far")
    chance = provenance.get("chance")
    if null is None and chance is not None and sign * value <= sign * chance:
        cautions.append(f"no better than chance ({number(chance)})")
    if (base := row["baseline"]) is not None:
        worst = value if interval_ends is None else interval_ends[0 if sign > 0 else 1]
        if sign * value <= sign * base:
            cautions.append(f"does not beat the baseline ({number(base)})")
        elif sign * worst <= sign * base:
            cautions.append(f"{beyond} the baseline ({number(base)}), but its interval reaches it")
        else:
            findings.append(f"{beyond} the baseline ({number(base)})")
    return findings, cautions


def length_shares(provenance: Mapping[str, Any]) -> dict[int, float]:
    """`preprocessing.length_share` per layer, where the provenance has one number per layer.

    Empty when the protocol's own steps take length out again (`remove_length`).
    """
    if "remove_length" in ((provenance.get("protocol") or {}).get("preprocessing") or ()):
        return {}
    shares = (provenance.get("preprocessing") or {}).get("length_share")
    layers: Sequence[int] = provenance.get("layers") or []
    if not isinstance(shares, (list, tuple)) or len(shares) != len(layers):
        return {}
    pairs = zip(layers, shares, strict=True)
    return {layer: float(x) for layer, x in pairs if isinstance(x, (int, float)) and np.isfinite(x)}


def _beyond_every_null(value: float, sign: float, track: Track) -> bool:
    """Whether the value lies beyond the null band of every layer that competed with it."""
    edges = track["null_high" if sign > 0 else "null_low"]
    edges = edges[np.isfinite(track["value"])]
    return bool(np.isfinite(edges).all() and sign * value > (sign * edges).max())


def _way(value: float, chance: Any, ceiling: float) -> str:
    """How far the number is from chance to the ceiling, where that is between the two."""
    if chance is None or ceiling == chance or not 0 <= (share := (value - chance) / (ceiling - chance)) <= 1:
        return ""
    return f", reached to {100 * share:.0f} % from chance"


def _ends(row: Mapping[str, float | None], name: str) -> tuple[float, float] | None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return None if low is None or high is None else (low, high)


def _sentence(best: Best, provenance: Mapping[str, Any]) -> str:
    where = f"layer {best.layer}"
    if best.layers > 1:
        where = f"its best layer, {best.layer} ({best.layers} measured)"
    words = f"At {where}"
    if best.group is None and best.spread:
        words += f", mean of {best.groups} groups; they range from {interval(*best.spread)}"
    elif best.group not in (None, "overall"):
        words += f", group {best.group}"
    higher = provenance.get("higher_is")
    return f"{words}. {f'Higher is {higher}.' if higher else ''}".strip()


def _marks(best: Best, provenance: Mapping[str, Any]) -> list[Mark]:
    """The number and its controls on one scale, positions in percent of the scale's width."""
    row = best.row
    value = number(best.value)
    ends: list[tuple[str, str, float, float]] = []
    if (null := _ends(row, "null")) is not None:
        p = row["p_value"]
        ends.append(("null", interval(*null) + ("" if p is None else f", p {p_value(p).replace('<', '< ')}"), *null))
    if (ci := _ends(row, "ci")) is not None:
        ends.append(("interval", interval(*ci), *ci))
    for kind, point in (
        ("chance", provenance.get("chance")),
        ("baseline", row["baseline"]),
        ("ceiling", row["ceiling"]),
    ):
        if point is not None and np.isfinite(point):
            words = number(point) + (_way(best.value, provenance.get("chance"), point) if kind == "ceiling" else "")
            ends.append((kind, words, point, point))
    ends.append(("value", value, best.value, best.value))
    low, high = min(end[2] for end in ends), max(end[3] for end in ends)
    pad = 0.05 * (high - low) or 1.0
    scale = 100 / (high - low + 2 * pad)
    return [Mark(kind, words, (a - low + pad) * scale, (b - low + pad) * scale) for kind, words, a, b in ends]
