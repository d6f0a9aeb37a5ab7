"""Figures of moral latents: how many by layer and dimension, and which pole of a foundation each one follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sae_moral.foundations import DIMENSIONS, FOUNDATIONS
from sae_moral.report.axes import blank_figure
from sae_moral.report.palette import FAINT, INK, MUTED, group_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sae_moral.sae.moral_latents import MoralLatents


def fractions_figure(found: Mapping[int, MoralLatents]) -> Figure:
    """Share of an SAE's latents that are moral for each dimension, stacked by layer; what permuted labels give as a
    mark."""
    layers = sorted(found)
    figure = blank_figure(7.8, 2.6)
    axes = figure.subplots()
    bottom, styles = np.zeros(len(layers)), group_styles(DIMENSIONS)
    for d, name in enumerate(DIMENSIONS):
        share = np.array([100 * found[layer].pairs()[:, d].mean() for layer in layers])
        axes.bar(range(len(layers)), share, bottom=bottom, width=0.7, color=styles[name].colour, label=name,
                 alpha=0.55 if d % 2 else 1.0, edgecolor="white", linewidth=0.5)  # fmt: skip
        bottom += share
    null = [100 * share if (share := found[layer].null["audited"]) is not None else np.nan for layer in layers]
    axes.plot(range(len(layers)), null, linestyle="none", marker="_", markersize=22, color=INK, label="permuted labels")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xlabel("layer", fontsize=8.5)
    axes.set_ylabel("% of latents", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, ncol=1, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def polarity_figure(found: MoralLatents) -> Figure:
    """The polarity map: held-out partial correlation with a foundation's virtue (across) and vice (up), one point per
    moral latent of that foundation. A latent that tells the poles apart is far from the diagonal."""
    figure = blank_figure(7.8, 2.1)
    panels = figure.subplots(1, len(FOUNDATIONS), sharex=True, sharey=True)
    r, pairs, styles = found.arrays["partial_r"], found.pairs(), group_styles(FOUNDATIONS)
    reach = max(0.1, float(np.abs(r[pairs.any(axis=1)]).max(initial=0.0))) * 1.1
    for f, (axes, name) in enumerate(zip(panels, FOUNDATIONS, strict=True)):
        virtue, vice = pairs[:, 2 * f], pairs[:, 2 * f + 1]
        axes.plot([-reach, reach], [-reach, reach], color=FAINT, linewidth=0.8, zorder=0)
        axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        colour = styles[name].colour
        axes.scatter(r[virtue, 2 * f], r[virtue, 2 * f + 1], s=14, color=colour, label="virtue")
        axes.scatter(r[vice, 2 * f], r[vice, 2 * f + 1], s=14, facecolors="white", edgecolors=colour, label="vice")
        axes.set_title(name, fontsize=8, loc="left", color=INK)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.tick_params(labelsize=7, colors=MUTED)
        axes.set_xlabel("r with virtue", fontsize=7.5)
    panels[0].set_ylabel("r with vice", fontsize=7.5)
    return figure
