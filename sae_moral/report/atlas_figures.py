"""The figures of an atlas: CKA of pairs of models over their depth, and the profiles of several models in one panel.

One colour per line in the order of Paul Tol's "muted" scheme; what is only there to be compared with is grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_moral.report import axes as draw
from sae_moral.report.legends import add_legend
from sae_moral.report.palette import DASHDOT, DASHED, DOTTED, FAINT, INK, MUTED, SOLID, GroupStyle, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#332288", "#44AA99", "#882255", "#999933", "#AA4499", "#117733", "#88CCEE", "#DDCC77")
DASHES = (SOLID, DASHED, DOTTED, DASHDOT)
DEEPEST = -0.25
"""A CKA is not negative but for noise: the axis ends here, whatever an interval does."""
STEPS = {"centre": "centred", "standardise": "standardised", "remove_length": "length removed"}
"""What a preprocessing step is called over a panel."""


def line_styles(names: Sequence[str]) -> dict[str, GroupStyle]:
    """One style per name, in their order; the colours start again with another dash."""
    return {n: GroupStyle(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % 4]) for i, n in enumerate(names)}


def depth_of(row: Mapping[str, Any], depths: Sequence[int]) -> float:
    """Where two compared layers lie, from 0 to 1: the mean of the shares of the blocks they come after."""
    return ((row["layer_a"] + 1) / depths[0] + (row["layer_b"] + 1) / depths[1]) / 2


def cka_figure(
    pairs: Mapping[str, Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]], steps: Sequence[str]
) -> Figure:
    """Debiased CKA over the depth with its intervals, of prepared vectors on the left and of raw ones on the right.

    Args:
        pairs: entries of `Atlas.similarities` by the label of their line.
        baselines: those of unrelated models, drawn in grey.
        steps: how the vectors were prepared.
    """
    figure = draw.blank_figure(7.8, 3.5)
    grid = figure.subplots(1, 2, sharey=True)
    styles = line_styles(list(pairs))
    layers = _common_depth([*pairs.values()])
    lowest = 0.0
    prepared = ", ".join(STEPS.get(step, step) for step in steps) or "prepared vectors"
    for axes, name, title in zip(grid, ("cka", "raw"), (prepared, "vectors as captured"), strict=True):
        axes.set_title(plain(title), loc="left", fontsize=9, fontweight="bold", color=INK)
        for pair in baselines:
            lowest = min(lowest, _curve(axes, pair, name, GroupStyle(FAINT, DASHED), 1.2, layers, band=0.16))
        for label, pair in pairs.items():
            lowest = min(lowest, _curve(axes, pair, name, styles[label], 1.8, layers, band=0.18))
        _finish(axes, range(layers) if layers else None)
    grid[0].set_ylabel("CKA, debiased", fontsize=8.5)
    grid[0].set_ylim(max(lowest, DEEPEST) - 0.03, 1.03)
    handles = [_handle(label, styles[label], 1.8) for label in pairs]
    if baselines:
        handles.append(_handle("unrelated models", GroupStyle(FAINT, DASHED), 1.2))
    add_legend(figure, handles, columns=4)
    return figure


def overlay_figure(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One panel per headline with every model's profile over its layers, or over its depth where depths differ.

    Args:
        results: entries of `Atlas.entries[i]["results"]` of one protocol, by the label of their line.
    """
    styles = line_styles(list(results))
    names = dict.fromkeys((h["metric"], h["statistic"]) for result in results.values() for h in result["headlines"])
    depths = {result["n_layers"] for result in results.values()}
    columns = 1 if len(names) == 1 else 2
    lines = math.ceil(len(names) / columns)
    figure = draw.blank_figure(7.8, 2.3 * lines + 0.5)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(plain(f"{name[0]} · {name[1]}"), loc="left", fontsize=9, fontweight="bold", color=INK)
        drawn = [_profile(axes, result, name, styles[label], len(depths) == 1) for label, result in results.items()]
        if not any(headline and any(v is not None for v in headline["profile"]) for headline in drawn):
            draw.say_nothing(axes)
            continue
        draw.draw_chance(axes, next(headline["chance"] for headline in drawn if headline))
        _finish(axes, sorted({layer for r in results.values() for layer in r["layers"]}) if len(depths) == 1 else None)
        if any(headline and headline["lower_is_better"] for headline in drawn):
            axes.set_ylabel("← less indifferent")
        draw.scale_values(axes)
        axes.yaxis.label.set_size(8.5)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    chance = [_handle("chance", GroupStyle(FAINT, DASHED), 1.1)]
    add_legend(figure, [_handle(label, style, 1.8) for label, style in styles.items()], chance, columns=4)
    return figure


def _common_depth(pairs: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of blocks, where all models have as many."""
    depths = {depth for pair in pairs for depth in pair["depths"]}
    return depths.pop() if len(depths) == 1 else None


def _curve(
    axes: Axes, pair: Mapping[str, Any], name: str, style: GroupStyle, width: float, layers: int | None, *, band: float
) -> float:
    """Draws one pair; returns its lowest end."""
    x = np.array([depth_of(row, pair["depths"]) for row in pair["layers"]])
    x = x * layers - 1 if layers else x
    value, low, high = (_numbers([row[key] for row in pair["layers"]]) for key in (name, f"{name}_low", f"{name}_high"))
    axes.fill_between(x, low, high, color=style.colour, alpha=band, linewidth=0)
    marks = range(len(x)) if len(x) <= draw.FEW else draw.lonely(value)
    axes.plot(x, value, color=style.colour, linestyle=style.dash, linewidth=width, marker="o", markersize=width + 1.8,
              markeredgewidth=0, markevery=list(marks))  # fmt: skip
    ends = np.concatenate([value, low])
    return float(np.nanmin(ends)) if np.isfinite(ends).any() else 0.0


def _profile(
    axes: Axes, result: Mapping[str, Any], name: tuple[str, str], style: GroupStyle, by_layer: bool
) -> Mapping[str, Any] | None:
    found = next((h for h in result["headlines"] if (h["metric"], h["statistic"]) == name), None)
    if found is not None:
        layers, values = np.array(found["layers"], dtype=float), _numbers(found["profile"])
        x = layers if by_layer else (layers + 1) / result["n_layers"]
        marks = list(range(len(x))) if len(x) <= draw.FEW else draw.lonely(values)
        axes.plot(x, values, color=style.colour, linestyle=style.dash, linewidth=1.6, marker="o", markersize=3.4,
                  markeredgewidth=0, markevery=marks)  # fmt: skip
    return found


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _handle(label: str, style: GroupStyle, width: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=width, label=plain(label))


def _finish(axes: Axes, layers: Sequence[int] | None) -> None:
    """Scales and grid; without `layers`, the horizontal axis is the depth from 0 to 1."""
    axes.set_xlabel("share of the blocks passed" if layers is None else "layer", fontsize=8.5, color=MUTED)
    if layers is None:
        axes.set_xlim(0, 1.02)
    else:
        draw.scale_layers(axes, layers)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.7)
    axes.set_axisbelow(True)
