"""Drawing one statistic into a matplotlib Axes: lines with gaps, bands, the best layer, labels at the line ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sae_moral.report.palette import (
    BASELINE_LINES,
    DASHDOT,
    DASHED,
    DOTTED,
    FAINT,
    INK,
    INTERVAL,
    MUTED,
    NULL,
    OVERALL,
    GroupStyle,
    darker,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sae_moral.report.series import Best, Track

FEW = 12
"""Up to this many layers, every measured point gets a marker."""
ALONE = 0.45
"""Half the width, in layers, of the bands and control lines of a diagnosis of one layer."""


def blank_figure(width: float, height: float) -> Figure:
    """A white figure that fits its contents; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def lonely(values: np.ndarray) -> list[int]:
    """Positions of values between two gaps: a line alone would not show them."""
    there = np.concatenate(([False], np.isfinite(values), [False]))
    return [int(i) for i in np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])]


def draw_line(
    axes: Axes,
    track: Track,
    label: str,
    style: GroupStyle,
    *,
    width: float,
    column: str = "value",
    alpha: float = 1.0,
    zorder: float = 3,
) -> None:
    """One column over the layers as a line labelled `label`; NaN leaves a gap, a lone point is drawn as a point."""
    values = track[column]
    few = len(values) <= FEW and column == "value"
    (line,) = axes.plot(
        track.layers, values, color=style.colour, linestyle=style.dash, linewidth=width, alpha=alpha,
        label=plain(label), zorder=zorder, marker="o", markersize=width + 1.8, markeredgewidth=0,
        markevery=list(range(len(values))) if few else lonely(values), solid_capstyle="round",
    )  # fmt: skip
    line.set_clip_on(False)


def draw_band(axes: Axes, track: Track, name: str, colour: str, alpha: float, zorder: float) -> bool:
    """The band `name`_low … `name`_high; a lone layer gets a bar of visible width. False when it has no values."""
    low, high = (track[f"{name}_{end}"] for end in ("low", "high"))
    both = np.isfinite(low) & np.isfinite(high)
    if not both.any():
        return False
    layers = track.layers.astype(float)
    alone = lonely(np.where(both, low, np.nan))
    if both.sum() > len(alone):
        axes.fill_between(layers, low, high, where=both, color=colour, alpha=alpha, linewidth=0, zorder=zorder)
    half = 0.18 if len(layers) > 1 else ALONE
    for i in alone:
        edges = [layers[i] - half, layers[i] + half]
        axes.fill_between(edges, low[i], high[i], color=colour, alpha=alpha, linewidth=0, zorder=zorder)
    return True


def draw_level(axes: Axes, track: Track, column: str, label: str, style: GroupStyle, width: float) -> bool:
    """One column as a thin line under the values, over one layer as a short bar; False when it has no values."""
    if not np.isfinite(track[column]).any():
        return False
    if len(track.layers) > 1:
        draw_line(axes, track, label, style, width=width, column=column, zorder=2)
    else:
        ends, level = track.layers[0] + np.array([-ALONE, ALONE]), [float(track[column][0])] * 2
        axes.plot(ends, level, color=style.colour, linestyle=style.dash, linewidth=width, label=plain(label))
    return True


def draw_controls(axes: Axes, track: Track, *, baseline: str | None = "baseline") -> set[str]:
    """Interval, null band, ceiling and baseline of the leading group; returns the names of those that have values.

    `baseline`: what the rows' baseline is called; None to leave it out.
    """
    drawn = {name for name, colour, alpha, zorder in (("null", NULL, 0.22, 1.0), ("ci", INTERVAL, 0.28, 1.5))
             if draw_band(axes, track, name, colour, alpha, zorder)}  # fmt: skip
    ceiling = GroupStyle(MUTED, DASHDOT)
    if draw_level(axes, track, "ceiling", "ceiling", ceiling, 1.1):
        drawn.add("ceiling")
    style, width = BASELINE_LINES.get(baseline or "", (GroupStyle(MUTED, DOTTED), 1.6))
    if baseline is not None and draw_level(axes, track, "baseline", baseline, style, width):
        drawn.add(baseline)
    return drawn


def draw_groups(
    axes: Axes,
    tracks: Mapping[str, Track],
    styles: Mapping[str, GroupStyle],
    *,
    lead: str | None,
    width: float,
    alpha: float = 1.0,
) -> list[str]:
    """Every group's values; the leading group thick and on top. Returns the groups that have values."""
    drawn = []
    for group, track in tracks.items():
        if track.filled:
            drawn.append(group)
            style = GroupStyle(INK) if group == lead else styles[group]
            thick = group == lead
            draw_line(axes, track, group, style, width=2.4 if thick else width, alpha=1.0 if thick else alpha,
                      zorder=5 if thick else 3)  # fmt: skip
    return drawn


def mark_best(axes: Axes, best: Best) -> None:
    """A dotted vertical line at the best layer and, on a leading line, a ring around its value."""
    axes.axvline(best.layer, color=FAINT, linewidth=0.8, linestyle=DOTTED, zorder=0.5, label="_best layer")
    if best.group is not None:
        axes.plot([best.layer], [best.value], marker="o", markersize=8, markerfacecolor="white", markeredgewidth=2,
                  markeredgecolor=INK, linestyle="none", label="_best", zorder=6, clip_on=False)  # fmt: skip


def draw_chance(axes: Axes, chance: float | None) -> bool:
    """The chance level as a dashed line, where it is known."""
    if chance is None or not np.isfinite(chance):
        return False
    axes.axhline(chance, color=FAINT, linewidth=1.1, linestyle=DASHED, zorder=1.2, label="chance")
    return True


def scale_layers(axes: Axes, layers: Sequence[int]) -> None:
    """Limits and whole-numbered ticks of the layer axis; one layer is centred and named."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(layers), max(layers)
    pad = 0.6 if low == high else 0.02 * (high - low)
    axes.set_xlim(low - pad, high + pad)
    if len(layers) <= 6:
        axes.set_xticks(list(layers))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, steps=[1, 2, 5, 10]))


def scale_values(axes: Axes) -> None:
    """Symmetric log scale beyond ±1 where a few layers would flatten all others (an R² of −50,000)."""
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    sizes = np.abs(np.concatenate([values[np.isfinite(values)] for values in drawn] or [np.zeros(0)]))
    if len(sizes) and sizes.max() > 20 and sizes.max() > 30 * np.quantile(sizes, 0.25):
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylabel((axes.get_ylabel() + "\n(log scale beyond ±1)").strip())
    axes.margins(y=0.06)
    axes.autoscale_view(scalex=False)


def finish(axes: Axes, tracks: Mapping[str, Track]) -> None:
    """Scales, grid and spines shared by all line panels."""
    scale_layers(axes, [int(layer) for layer in next(iter(tracks.values())).layers])
    scale_values(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.7)
    axes.set_axisbelow(True)


def spread_out(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Positions in [0, 1] in the order of `wanted` (ascending), at least `gap` apart, nearest in least squares.

    Pools adjacent violators (isotonic regression) of wanted_i − i·gap.
    """
    blocks: list[list[float]] = []
    for i, value in enumerate(wanted):
        blocks.append([value - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean_a, n_a), (mean_b, n_b) = blocks[-2:]
            blocks[-2:] = [[(mean_a * n_a + mean_b * n_b) / (n_a + n_b), n_a + n_b]]
    flat = np.concatenate([np.full(int(n), mean) for mean, n in blocks]) if blocks else np.zeros(0)
    return np.clip(flat, 0.0, max(0.0, 1 - (len(wanted) - 1) * gap)) + gap * np.arange(len(wanted))


def label_ends(
    axes: Axes,
    tracks: Mapping[str, Track],
    styles: Mapping[str, GroupStyle],
    *,
    lead: str | None,
    height: float,
    slanted: Collection[str] = (),
) -> None:
    """Each group's name right of its last point, in its colour, moved apart.

    Args:
        height: of the axes, in inches.
        slanted: names that are no groups (baselines).
    """
    ends = []
    for group, track in tracks.items():
        if track.filled:
            last = np.flatnonzero(np.isfinite(track["value"]))[-1]
            x, y = float(track.layers[last]), float(track["value"][last])
            at = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]
            ends.append((float(at), group, x, y))
    ends.sort(key=lambda end: end[0])
    for position, (_, group, x, y) in zip(spread_out([end[0] for end in ends], 0.145 / height), ends, strict=True):
        colour = INK if group == lead else styles[group].colour
        axes.annotate(
            plain(group), xy=(x, y), xycoords="data", xytext=(1.035, position), textcoords="axes fraction",
            va="center", ha="left", fontsize=8, color=darker(colour), annotation_clip=False,
            fontweight="bold" if group in (lead, OVERALL) else "normal",
            fontstyle="italic" if group in slanted else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 2,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def say_nothing(axes: Axes) -> None:
    """An empty panel that says so, instead of an axis that looks like a result."""
    axes.text(0.5, 0.5, "no value was computed", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
