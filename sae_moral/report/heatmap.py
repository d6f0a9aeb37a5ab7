"""Layers × groups of one statistic as a heat map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sae_moral.report.axes import blank_figure, say_nothing
from sae_moral.report.palette import plain
from sae_moral.report.series import tracks_by_group

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def heatmap_figure(frame: pd.DataFrame, metric: str, statistic: str, *, chance: float | None = None) -> Figure:
    """Layers × groups of one statistic, coloured by value; diverging around `chance` where it is known.

    Cells without a value are hatched. Colours end at the 2nd and 98th percentile, so that one layer cannot hide the
    rest.

    Raises:
        ValueError: an unknown statistic.
    """
    tracks = tracks_by_group(frame, metric, statistic)
    layers = [int(layer) for layer in next(iter(tracks.values())).layers]
    values = np.array([track["value"] for track in tracks.values()])
    figure = blank_figure(7.8, 0.24 * len(tracks) + 1.0)
    axes = figure.subplots()
    axes.set_title(plain(f"{metric} · {statistic}"), loc="left", fontsize=9.5, fontweight="bold")
    finite = values[np.isfinite(values)]
    if not finite.size:
        say_nothing(axes)
        return figure
    low, high = (float(x) for x in np.quantile(finite, [0.02, 0.98]))
    colours = "cividis"
    if chance is not None and np.isfinite(chance):
        reach = max(abs(high - chance), abs(chance - low), 1e-9)
        low, high, colours = chance - reach, chance + reach, "PuOr_r"
    axes.set_facecolor("#ffffff")
    axes.patch.set_hatch("////")
    axes.patch.set_edgecolor("#c5cad1")
    mesh = axes.pcolormesh(
        np.arange(len(layers) + 1), np.arange(len(tracks) + 1), np.ma.masked_invalid(values), cmap=colours, vmin=low,
        vmax=high, edgecolors="white", linewidth=0.6,
    )  # fmt: skip
    step = max(1, math.ceil(len(layers) / 16))
    axes.set_xticks(np.arange(0, len(layers), step) + 0.5, [str(layer) for layer in layers[::step]])
    axes.set_yticks(np.arange(len(tracks)) + 0.5, [plain(group) for group in tracks])
    axes.tick_params(length=0, labelsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("layer", fontsize=8.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    outside = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    extend = outside[bool(finite.min() < low), bool(finite.max() > high)]
    bar = figure.colorbar(mesh, ax=axes, extend=extend, pad=0.015, aspect=max(6, 2.2 * len(tracks)))
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=2, labelsize=7.5)
    return figure
