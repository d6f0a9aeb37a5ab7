"""Baselines in the figures of headlines: the curve of random weights, the levels of the bag of words and nuisance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_moral.report import axes as draw
from sae_moral.report.palette import BASELINE_LINES, DOTTED, MUTED, GroupStyle
from sae_moral.report.series import Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN = "mean of groups"
NAMED = (GroupStyle(MUTED, DOTTED), 1.1)
"""How a baseline is drawn that `BASELINE_LINES` does not know."""


def baseline_tracks(
    controls: Mapping[str, Any] | None, metric: str, statistic: str | None, layers: Sequence[int]
) -> dict[str, Track]:
    """Each baseline of a metric's headline as a track with the columns `value` and `baseline`.

    Args:
        controls: `Diagnosis.provenance["controls"]`.
        metric, statistic: the headline; baselines of another statistic are left out.
        layers: those of the figure, over which a baseline without layers is level.
    """
    found: dict[str, Track] = {}
    for name, baseline in ((controls or {}).get("baselines") or {}).items():
        headline = (baseline.get("headlines") or {}).get(metric)
        if headline is None or headline.get("statistic") != statistic:
            continue
        values = _numbers(headline["value"])
        own = baseline.get("layers")
        at = np.array(layers if own is None else own)
        values = np.full(len(at), values[0]) if own is None else values
        found[str(name)] = Track(at, {"value": values, "baseline": values})
    return {name: track for name, track in found.items() if track.filled}


def baseline_style(name: str) -> tuple[GroupStyle, float]:
    """Style and width of a baseline."""
    return BASELINE_LINES.get(name, NAMED)


def draw_baselines(axes: Axes, tracks: Mapping[str, Track]) -> set[str]:
    """Draws them; returns their names."""
    return {name for name, track in tracks.items()
            if draw.draw_level(axes, track, "baseline", name, *baseline_style(name))}  # fmt: skip


def mean_track(tracks: Mapping[str, Track]) -> Track:
    """The mean of all groups; NaN where one of them has no value. It is what baselines without an `overall` are of."""
    filled = [track for track in tracks.values() if track.filled]
    return Track(filled[0].layers, {"value": np.mean([track["value"] for track in filled], axis=0)})


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
