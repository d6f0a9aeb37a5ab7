"""A headline at its best layer in words: the number, its controls, and what speaks for and against reading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_moral.report.judged import Judged, judged, remarks
from sae_moral.report.scale import Mark, interval_of, marks, pair
from sae_moral.report.series import Best, Track, best_layer, headline_of, lower_is_better, tracks_by_group
from sae_moral.report.words import count, interval, number

if TYPE_CHECKING:
    import pandas as pd


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
    verdict: Judged | None = None


def glance(
    frame: pd.DataFrame,
    metric: str,
    provenance: Mapping[str, Any],
    length_share: Mapping[int, float],
    controls: Mapping[str, Any] | None = None,
) -> Glance:
    """The card of one metric.

    Args:
        frame: `Diagnosis.frame`.
        metric: a metric's name; one without rows gives a card that says so.
        provenance: `Diagnosis.provenance["metrics"][metric]`.
        length_share: per layer, the share of variance that text length explains (0–1); may be empty.
        controls: `Diagnosis.provenance["controls"]`. With a verdict in it, the card says nothing of its own about
            nulls and baselines.
    """
    statistic = headline_of(frame, metric, provenance)
    tracks = tracks_by_group(frame, metric, statistic) if statistic else {}
    best = best_layer(tracks, provenance)
    if best is None:
        return Glance(metric, statistic, None, sentence="No value was computed for this metric.")
    found = judged(controls, metric)
    judges = _judge_bands if found is None else _judge_controls
    findings, cautions = judges(best, tracks, provenance, found, float((controls or {}).get("alpha") or 0.05))
    share = length_share.get(best.layer)
    if share is not None and share >= 0.5:
        cautions.append(f"text length explained {100 * share:.0f} % of this layer’s variance (length_share)")
    row = best.row
    counts = "" if row["n"] is None else f"n = {count(row['n'])}"
    if row["n_dropped"]:
        counts += f"{', ' if counts else ''}{count(row['n_dropped'])} dropped"
    return Glance(metric, statistic, best, number(best.value), _sentence(best, provenance),
                  marks(best, provenance, found), findings, cautions, counts, found)  # fmt: skip


def _judge_controls(
    best: Best, tracks: Mapping[str, Track], provenance: Mapping[str, Any], found: Judged | None, alpha: float
) -> tuple[list[str], list[str]]:
    """Findings and cautions beside a verdict: what was not computed, and what the verdict does not count."""
    assert found is not None
    findings, cautions = remarks(found, _sign(provenance), alpha)
    if interval_of(best, found) is None:
        cautions.insert(0, NO_INTERVAL)
    if not found.has_null:
        cautions.insert(0, _no_null(best))
        cautions += _no_better_than_chance(best, provenance)
    if found.peak and found.peak["layer"] != best.layer:
        at = f"layer {found.peak['layer']} ({number(found.peak['value'])})"
        cautions.append(f"the controls judge the peak at {at}, where some groups have no value")
    return findings, cautions


def _judge_bands(
    best: Best, tracks: Mapping[str, Track], provenance: Mapping[str, Any], found: Judged | None, alpha: float
) -> tuple[list[str], list[str]]:
    """Findings and cautions from the rows alone, where no verdict was given."""
    findings: list[str] = []
    cautions: list[str] = []
    sign = _sign(provenance)
    beyond, short = ("below", "above") if sign < 0 else ("above", "below")
    row, value = best.row, best.value
    interval_ends, null = pair(row, "ci"), pair(row, "null")
    if best.group is None:
        cautions.append(f"mean of {best.groups} groups, without an interval or a null of its own")
    elif interval_ends is None:
        cautions.append(NO_INTERVAL)
    if null is None:
        cautions.append(_no_null(best))
        cautions += _no_better_than_chance(best, provenance)
    elif null[0] <= value <= null[1]:
        cautions.append("inside the null band: not distinguishable from labels that carry nothing")
    elif sign * value < sign * null[0]:
        cautions.append(f"{short} the null band: worse than labels that carry nothing")
    else:
        everywhere = _beyond_every_null(value, sign, tracks[best.group or ""])
        findings.append(f"{beyond} the null band" + (" of every layer" if everywhere and best.layers > 1 else ""))
        if best.layers > 1 and not everywhere:
            cautions.append(f"chosen as the best of {best.layers} layers; other layers’ null bands reach as far")
    if (base := row["baseline"]) is not None:
        worst = value if interval_ends is None else interval_ends[0 if sign > 0 else 1]
        if sign * value <= sign * base:
            cautions.append(f"does not beat the baseline ({number(base)})")
        elif sign * worst <= sign * base:
            cautions.append(f"{beyond} the baseline ({number(base)}), but its interval reaches it")
        else:
            findings.append(f"{beyond} the baseline ({number(base)})")
    return findings, cautions


NO_INTERVAL = "no interval was computed: how far this number would move on other scenarios is unknown"


def _no_null(best: Best) -> str:
    if best.layers > 1:
        return f"peak over {best.layers} layers, without a null: reads high by selection"
    return "no null was computed: how high this number gets without any morality is unknown"


def _no_better_than_chance(best: Best, provenance: Mapping[str, Any]) -> list[str]:
    chance, sign = provenance.get("chance"), _sign(provenance)
    return [] if chance is None or sign * best.value > sign * chance else [f"no better than chance ({number(chance)})"]


def _sign(provenance: Mapping[str, Any]) -> float:
    return -1.0 if lower_is_better(provenance) else 1.0


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
