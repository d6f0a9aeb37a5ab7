"""What is in a data set, as a table and as a figure, whatever source it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_moral.data.moral_data import MoralData
from sae_moral.data.splits import group_split, leaks, paper_split
from sae_moral.foundations import FOUNDATIONS, NEUTRAL, NO_FOUNDATION, POLARITIES, VICE, VIRTUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 8
"""Up to this many different typicalities are counted one by one; more are summed up by quantiles."""
_QUANTILES = {"min": 0.0, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "max": 1.0}
_COLOURS = {VIRTUE: "#0072B2", VICE: "#D55E00", NEUTRAL: "#9aa1ab"}


def describe(data: MoralData) -> str:
    """A table for people: origin, licence and citation; per foundation and pole the number of records, how typicality
    is distributed (records at each level, or quantiles if it has more than eight) and the median length in words; then
    lengths over all, texts that occur more than once, and how many of them each split would tear apart."""
    known = data.provenance
    texts = int(data.same_text.max()) + 1
    head = [f"{known.get('source', 'data')}: {len(data):,} records of {texts:,} different texts"]
    head += [f"{name}: {_joined(known[name])}" for name in ("licence", "citation", "labels", "file") if known.get(name)]
    if left_out := known.get("left_out"):
        head.append("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()))
    return "\n".join([*head, "", *_table(data), "", *_texts(data)])


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _n_words(data: MoralData) -> Int[np.ndarray, "n"]:
    """Length of each text in words, split at white space."""
    return np.array([len(text.split()) for text in data.text], dtype=np.int64)


def cells(data: MoralData) -> Iterator[tuple[str, int, Bool[np.ndarray, "n"]]]:
    """(foundation, pole, mask) of each that has records, those of no foundation last."""
    for foundation in (*range(len(FOUNDATIONS)), NO_FOUNDATION):
        for pole in range(len(POLARITIES)):
            mask = (data.foundation == foundation) & (data.pole == pole)
            if mask.any():
                yield "(none)" if foundation == NO_FOUNDATION else FOUNDATIONS[foundation], pole, mask


def _table(data: MoralData) -> list[str]:
    length = _n_words(data)
    levels = np.unique(data.typicality[data.pole != NEUTRAL])
    few = len(levels) <= LEVELS
    names = [f"{level:g}" for level in levels] if few else list(_QUANTILES)
    rows = [["foundation", "pole", "records", *names, "words"]]
    for foundation, pole, mask in cells(data):
        found = [""] * len(names) if pole == NEUTRAL else _distribution(data.typicality[mask], levels if few else None)
        rows.append([foundation, POLARITIES[pole], f"{mask.sum():,}", *found, f"{np.median(length[mask]):g}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    what = "records at each typicality" if few else "quantiles of typicality"
    return [f"{what}; median length in words", *(line.rstrip() for line in lines)]


def _distribution(typicality: Float[np.ndarray, "k"], levels: Float[np.ndarray, "l"] | None) -> list[str]:
    if levels is None:
        return [f"{value:.3f}" for value in np.quantile(typicality, list(_QUANTILES.values()))]
    return [f"{(typicality == level).sum():,}" for level in levels]


def _texts(data: MoralData) -> list[str]:
    length = _n_words(data)
    low, median, high = np.quantile(length, [0.05, 0.5, 0.95])
    labels = np.unique(np.column_stack([data.same_text, data.foundation]), axis=0, return_counts=True)[1]
    torn = leaks(data, paper_split(data.id))
    whole = leaks(data, group_split(data))
    shares = ", ".join(f"{share:.1%} of {part}" for part, share in torn.shares.items())
    return [
        f"words per text: median {median:g}, 5–95 %: {low:g}–{high:g}, longest {length.max()}",
        f"records that repeat a text of the same foundation: {int((labels - 1).sum()):,}",
        f"texts in several parts of an 80/10/10 split: by id {torn.texts:,} ({shares}); by text {whole.texts:,}",
    ]


def describe_figure(data: MoralData) -> Figure:
    """Per foundation, how many records of each pole there are at each typicality (neutral ones at 0), and what share
    of a pole's texts has at most so many words: curves that lie apart are poles that differ in length. A matplotlib
    Figure, made without pyplot: save it with `figure.savefig(path)`."""
    from matplotlib.figure import Figure

    present = [f for f in (*range(len(FOUNDATIONS)), NO_FOUNDATION) if (data.foundation == f).any()]
    figure = Figure(figsize=(2.3 * len(present) + 0.6, 4.8), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(present), sharex="row", sharey="row", squeeze=False)
    length, lines = _n_words(data), {}
    for column, foundation in enumerate(present):
        none = foundation == NO_FOUNDATION
        axes[0, column].set_title("(no foundation)" if none else FOUNDATIONS[foundation], fontsize=9)
        for pole, colour in _COLOURS.items():
            mask = (data.foundation == foundation) & (data.pole == pole)
            if mask.any():
                _typicality(axes[0, column], data.typicality[mask], pole, colour)
                lines[POLARITIES[pole]] = axes[1, column].ecdf(length[mask], color=colour, linewidth=1.6)
        axes[0, column].set_xlabel("typicality")
        axes[1, column].set_xlabel("at most so many words")
    axes[0, 0].set_ylabel("records")
    axes[1, 0].set_ylabel("share of the pole's records")
    axes[1, 0].set_xlim(0, max(float(np.quantile(length, 0.99)), 2) + 1)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    source = data.provenance.get("source", "data")
    figure.suptitle(f"{source}: {len(data):,} records, {int(data.same_text.max()) + 1:,} texts", fontsize=10)
    return figure


def _typicality(axes: Axes, typicality: Float[np.ndarray, "k"], pole: int, colour: str) -> None:
    """Bars at multiples of 1/8, where Social-Chemistry's typicalities lie; the poles side by side."""
    counts = np.histogram(typicality, np.arange(-1 / 16, 1.1, 1 / 8))[0]
    shift = {VIRTUE: -0.034, VICE: 0.034, NEUTRAL: 0.0}[pole]
    axes.bar(np.arange(len(counts)) / 8 + shift, counts, width=0.034, color=colour)
