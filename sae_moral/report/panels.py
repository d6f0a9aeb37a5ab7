"""Figures of any numbers: lines over layers in one or many panels, and heat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_moral.report import style
from sae_moral.report.style import FAINT, INK, MUTED, NARROW, LineStyle, numbers, plain
from sae_moral.results import StatisticSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.8
"""Of a figure that fills a page, in inches."""


@dataclass(frozen=True)
class Line:
    """Numbers over layers.

    Attributes:
        x: layers, or shares of the blocks passed.
        values: one each; None is a gap.
        style: how it is drawn.
        low, high: its interval; empty for none.
        alpha: of the interval's band.
    """

    x: Sequence[float]
    values: Sequence[float | None]
    style: LineStyle = style.PLAIN
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    alpha: float = 0.18


@dataclass(frozen=True)
class Panel:
    """Lines that share their axes.

    Attributes:
        title: above it.
        lines: by label, drawn in this order.
        layers: of the horizontal axis; None: shares from 0 to 1.
        chance: a dashed level.
        zero: a thin line at 0.
        xlabel, ylabel: of the axes.
        ylim: ends of the vertical axis; None leaves an end to the numbers.
    """

    title: str
    lines: Mapping[str, Line]
    layers: Sequence[float] | None = None
    chance: float | None = None
    zero: bool = False
    xlabel: str = ""
    ylabel: str = ""
    ylim: tuple[float | None, float | None] = (None, None)


def panels_figure(
    panels: Sequence[Panel],
    *,
    columns: int = 3,
    height: float = 1.8,
    below: float = 0.3,
    sharey: bool = False,
    legend: Sequence[Sequence[Any]] = (),
    width: float = WIDTH,
) -> Figure:
    """Panels in rows of `columns`; one without any value says so.

    Args:
        panels: at least one.
        height: of a row, in inches; `below`: more for what stands below.
        sharey: all have the same vertical axis.
        legend: lines of entries (`style.legend_line`), below the panels.
        width: of the figure, in inches; a narrow one has one column.

    Raises:
        ValueError: no panel, or a line with another number of values than places.
    """
    if not panels:
        raise ValueError("nothing to draw; expected at least one panel")
    columns = 1 if width < NARROW else min(columns, len(panels))
    figure = style.blank_figure(width, height * math.ceil(len(panels) / columns) + below)
    for axes, panel in zip(style.grid_of(figure, len(panels), columns, sharey=sharey), panels, strict=True):
        axes.set_title(plain(panel.title), loc="left", fontsize=9, fontweight="bold", color=INK)
        if not any(np.isfinite(numbers(line.values)).any() for line in panel.lines.values()):
            style.say_nothing(axes)
            continue
        for name, line in panel.lines.items():
            if len(line.values) != len(line.x):
                raise ValueError(f"{name} has {len(line.values)} values for {len(line.x)} places; expected as many")
            if line.low and line.high:
                style.draw_band(axes, line.x, line.low, line.high, line.style.colour, alpha=line.alpha)
            style.draw_line(axes, line.x, line.values, name, line.style)
        style.draw_chance(axes, panel.chance)
        if panel.zero:
            axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
        axes.set_xlabel(panel.xlabel, fontsize=8.5, color=MUTED)
        axes.set_ylabel(panel.ylabel)
        style.finish(axes, panel.layers)
        axes.yaxis.label.set_fontsize(8.5)
        bottom, top = panel.ylim
        axes.set_ylim(bottom=bottom, top=top)
    legend_height = style.add_legend(figure, *legend, columns=4)
    figure.set_figheight(height * math.ceil(len(panels) / columns) + max(below, legend_height))
    style.fit_column(figure)
    return figure


def value_label(spec: StatisticSpec) -> str:
    """What stands along the axis of a statistic: its name, and which way is less indifferent."""
    arrow = {"lower": "\n← less indifferent", "higher": "\nless indifferent →", None: ""}[spec.direction]
    return plain(spec.name.replace("_", " ")) + arrow


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    xlabel: str = "layer",
    middle: float | None = None,
) -> Figure:
    """Rows × columns of numbers as colours; diverging around `middle` where it is known.

    Cells without a value are hatched. Colours end at the 2nd and 98th percentile, so that one column cannot hide the
    rest.

    Args:
        values: one list per row, one number per column.
        rows, columns: their names.
        title: above it.
        xlabel: what the columns are.
        middle: the value that is white (chance).
    """
    cells = np.array([numbers(row) for row in values]).reshape(len(rows), len(columns))
    figure = style.blank_figure(WIDTH, 0.24 * len(rows) + 1.0)
    axes = figure.subplots()
    axes.set_title(plain(title), loc="left", fontsize=9.5, fontweight="bold")
    finite = cells[np.isfinite(cells)]
    if not finite.size:
        style.say_nothing(axes)
        return figure
    low, high = (float(x) for x in np.quantile(finite, [0.02, 0.98]))
    colours = "cividis"
    if middle is not None and np.isfinite(middle):
        reach = max(abs(high - middle), abs(middle - low), 1e-9)
        low, high, colours = middle - reach, middle + reach, "PuOr_r"
    axes.set_facecolor("#ffffff")
    axes.patch.set_hatch("////")
    axes.patch.set_edgecolor("#c5cad1")
    mesh = axes.pcolormesh(
        np.arange(len(columns) + 1), np.arange(len(rows) + 1), np.ma.masked_invalid(cells), cmap=colours, vmin=low,
        vmax=high, edgecolors="white", linewidth=0.6,
    )  # fmt: skip
    step = max(1, math.ceil(len(columns) / 16))
    axes.set_xticks(np.arange(0, len(columns), step) + 0.5, [plain(name) for name in columns[::step]])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [plain(name) for name in rows])
    axes.tick_params(length=0, labelsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel, fontsize=8.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    outside = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    extend = outside[bool(finite.min() < low), bool(finite.max() > high)]
    bar = figure.colorbar(mesh, ax=axes, extend=extend, pad=0.015, aspect=max(6, 2.2 * len(rows)))
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=2, labelsize=7.5)
    return figure
