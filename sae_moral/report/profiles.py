"""Figures of what was measured of the layers themselves: lists with one number per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sae_moral.report import axes as draw
from sae_moral.report.legends import add_legend
from sae_moral.report.palette import DASHED, DOTTED, FAINT, INK, MUTED, GroupStyle, plain
from sae_moral.report.series import Track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILY_LINES = {
    "all": (GroupStyle(INK), 2.2),
    "length": (GroupStyle("#0072B2", DASHED), 1.6),
    "sink": (GroupStyle("#D55E00"), 1.4),
    "word frequency": (GroupStyle("#009E73", DOTTED), 1.8),
}
"""Nuisance family → style and width."""
NAMED = (GroupStyle(MUTED, DOTTED), 1.1)
"""How a family is drawn that `FAMILY_LINES` does not know."""


def profile_figure(layers: Sequence[int], values: Mapping[str, Sequence[float | None]]) -> Figure:
    """One small panel per named list with one entry per layer (share of variance explained by length, sink ratio …).

    Raises:
        ValueError: nothing to draw, or a list whose length is not that of `layers`.
    """
    if not values:
        raise ValueError("nothing to draw; expected at least one list with one entry per layer")
    columns = min(3, len(values))
    lines = math.ceil(len(values) / columns)
    figure = draw.blank_figure(7.8 if columns > 1 else 4.6, 1.8 * lines + 0.3)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (name, series) in zip(grid, values.items(), strict=False):
        if len(series) != len(layers):
            raise ValueError(f"{name} has {len(series)} entries for {len(layers)} layers; expected one per layer")
        numbers = _finite(series)
        track = Track(np.array(layers), {"value": numbers})
        axes.set_title(plain(name), loc="left", fontsize=8.5)
        draw.draw_line(axes, track, name, GroupStyle(INK), width=1.6)
        draw.finish(axes, {name: track})
        if (numbers[np.isfinite(numbers)] >= 0).all():
            axes.set_ylim(bottom=0)
    for axes in grid[len(values) :]:
        axes.set_visible(False)
    return figure


def explained_figure(layers: Sequence[int], shares: Mapping[str, Sequence[float | None]]) -> Figure:
    """The share of the vectors' variance that each family of nuisance features explains, by layer.

    Args:
        layers: numbers.
        shares: `Diagnosis.provenance["controls"]["explained_by_nuisance"]`: family → one share per layer.

    Raises:
        ValueError: a family without one share per layer.
    """
    figure = draw.blank_figure(7.8, 2.6)
    axes = figure.subplots()
    handles = []
    track = Track(np.array(layers), {})
    for name, values in sorted(shares.items(), key=lambda share: share[0] != "all"):
        if len(values) != len(layers):
            raise ValueError(f"{name} has {len(values)} shares for {len(layers)} layers; expected one per layer")
        style, width = FAMILY_LINES.get(name, NAMED)
        label = "all together" if name == "all" else name
        track = Track(np.array(layers), {"value": 100 * _finite(values)})
        draw.draw_line(axes, track, label, style, width=width, zorder=4 if name == "all" else 3)
        handles += [line for line in axes.get_lines() if line.get_label() == plain(label)][:1]
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    axes.set_ylabel("variance explained, %", fontsize=8.5)
    axes.set_xlabel("layer", fontsize=8.5)
    draw.finish(axes, {"": track})
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    add_legend(figure, handles)
    return figure


def _finite(values: Sequence[float | None]) -> np.ndarray:
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    return np.where(np.isfinite(numbers), numbers, np.nan)
