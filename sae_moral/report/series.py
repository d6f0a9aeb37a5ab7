"""What the figures and the page read from a diagnosis' frame: one statistic's rows, its layers, its best layer.

Missing and infinite numbers become NaN here and are gaps in figures; nothing is filled in or interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from sae_moral.errors import unknown
from sae_moral.report.palette import OVERALL, ordered

NUMBERS: tuple[str, ...] = (
    *("value", "ci_low", "ci_high", "null_low", "null_high", "p_value", "ceiling", "baseline", "n", "n_dropped"),
)


@dataclass(frozen=True)
class Track:
    """One group of one statistic: its layers, ascending, and an array per name in NUMBERS (float, NaN = missing)."""

    layers: np.ndarray
    numbers: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of one name in NUMBERS."""
        return self.numbers[name]

    @property
    def filled(self) -> bool:
        """Whether any layer has a value."""
        return bool(np.isfinite(self.numbers["value"]).any())


def records(frame: pd.DataFrame, metric: str, statistic: str | None = None) -> list[dict[str, Any]]:
    """The rows of a metric, or of one of its statistics, as dicts."""
    chosen = frame["metric"] == metric
    if statistic is not None:
        chosen &= frame["statistic"] == statistic
    return cast("list[dict[str, Any]]", frame.loc[chosen].to_dict(orient="records"))


def headline_of(frame: pd.DataFrame, metric: str, provenance: Mapping[str, Any]) -> str | None:
    """The headline statistic: the provenance's word, else the rows marked `headline`, else the first statistic.

    None when the metric has no rows.

    Raises:
        ValueError: the provenance names a statistic that no row has.
    """
    rows = records(frame, metric)
    statistics = list(dict.fromkeys(str(row["statistic"]) for row in rows))
    named = provenance.get("headline")
    if not statistics:
        return None
    if named is not None:
        if named not in statistics:
            raise unknown(f"headline statistic of metric {metric!r}", str(named), statistics)
        return str(named)
    return next((str(row["statistic"]) for row in rows if row.get("headline") is True), statistics[0])


def tracks_by_group(frame: pd.DataFrame, metric: str, statistic: str) -> dict[str, Track]:
    """One track per group, all over the same layers: every layer that the statistic has.

    Raises:
        ValueError: two rows for one layer and group, or no row at all for the statistic.
    """
    rows = records(frame, metric, statistic)
    if not rows:
        known = dict.fromkeys(f"{m}/{s}" for m, s in zip(frame["metric"], frame["statistic"], strict=True))
        raise unknown("statistic", f"{metric}/{statistic}", known)
    layers = np.array(sorted({int(row["layer"]) for row in rows}))
    place = {int(layer): i for i, layer in enumerate(layers)}
    tracks = {
        group: Track(layers, {name: np.full(len(layers), np.nan) for name in NUMBERS})
        for group in ordered(row["group"] for row in rows)
    }
    seen: set[tuple[int, str]] = set()
    for row in rows:
        key = (int(row["layer"]), row["group"])
        if key in seen:
            raise ValueError(
                f"{metric}/{statistic} has two rows for layer {key[0]} and group {key[1]!r}; "
                "expected one row per metric, statistic, layer and group"
            )
        seen.add(key)
        for name in NUMBERS:
            value = row.get(name)
            if value is not None and np.isfinite(value):
                tracks[key[1]][name][place[key[0]]] = value
    return tracks


def leading_group(tracks: Mapping[str, Track]) -> str | None:
    """`overall`, or the only group there is; None when several groups stand side by side without an `overall`."""
    filled = [group for group, track in tracks.items() if track.filled]
    return OVERALL if OVERALL in filled else filled[0] if len(filled) == 1 else None


def lower_is_better(provenance: Mapping[str, Any]) -> bool:
    """Whether the metric's headline falls as indifference falls, as the cosine of virtue and vice does."""
    return "more indifferent" in str(provenance.get("higher_is") or "").casefold()


@dataclass(frozen=True)
class Best:
    """The layer where a headline shows least indifference.

    `row` holds that layer's NUMBERS (None = not computed). Without a leading group, `value` is the unweighted mean of
    the groups, `group` is None, `spread` their lowest and highest value, and the row's other numbers are None.
    """

    layer: int
    value: float
    group: str | None
    row: dict[str, float | None]
    layers: int
    groups: int
    spread: tuple[float, float] | None = None


def best_layer(tracks: Mapping[str, Track], provenance: Mapping[str, Any]) -> Best | None:
    """The best layer of a statistic (the first of equals), or None when no value was computed.

    Where the groups have to be averaged, only layers with the largest number of groups compete: a mean over fewer
    groups is another quantity.
    """
    filled = {group: track for group, track in tracks.items() if track.filled}
    if not filled:
        return None
    lead = leading_group(filled)
    chosen = np.array([filled[lead]["value"]] if lead is not None else [track["value"] for track in filled.values()])
    counts = np.isfinite(chosen).sum(axis=0)
    competing = np.flatnonzero(counts == counts.max())
    values = chosen[:, competing].sum(axis=0, where=np.isfinite(chosen[:, competing])) / counts.max()
    at = int(values.argmin() if lower_is_better(provenance) else values.argmax())
    value, position = float(values[at]), competing[at]
    row: dict[str, float | None] = dict.fromkeys(NUMBERS)
    spread = None
    if lead is not None:
        numbers = {name: float(filled[lead][name][position]) for name in NUMBERS}
        row.update({name: None if np.isnan(x) else x for name, x in numbers.items()})
    else:
        row["value"] = value
        spread = (float(np.nanmin(chosen[:, position])), float(np.nanmax(chosen[:, position])))
    layer = int(next(iter(filled.values())).layers[position])
    return Best(layer, value, lead, row, len(competing), int(counts[position]), spread)
