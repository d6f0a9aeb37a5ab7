"""How every figure looks: colours, lines, bands, axes, legends.

The five foundations have colours of the colour-blind-safe set of Okabe & Ito (2008), virtue solid and vice dashed;
names that a third party gives have colours of Paul Tol's "muted" scheme, in their order of appearance. Missing and
infinite numbers are gaps. matplotlib loads on first use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from sae_moral.foundations import DIMENSIONS, FOUNDATIONS
from sae_moral.results import OVERALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT, NULL, INTERVAL = "#14181d", "#4b5563", "#9aa1ab", "#6b7280", "#3f62a3"
FOUNDATION_COLOURS: dict[str, str] = dict(
    zip(FOUNDATIONS, ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00"), strict=True)
)
OTHER_COLOURS: tuple[str, ...] = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#882255", "#AA4499"),
)
SOLID: Any = "solid"
DASHED: Any = (0, (4, 1.6))
DOTTED: Any = (0, (1, 1.2))
DASHDOT: Any = (0, (6, 1.6, 1, 1.6))
DASHDOTDOT: Any = (0, (5, 1.4, 1, 1.4, 1, 1.4))
FEW = 12
"""Up to this many layers, every measured point gets a marker."""
NARROW, SMALLER = 5.0, 0.85
"""Figures below this width, in inches, are of a paper's column: their letters are smaller by this factor."""
SMALLEST = 6.0
"""Letters of a printed figure, in points."""
LINE = 0.165
"""Height of a legend's line, in inches."""
ALONE = 0.45
"""Half the width, in layers, of the bands and levels of a figure of one layer."""


@dataclass(frozen=True)
class LineStyle:
    """How a line is drawn: a colour as #rrggbb, a matplotlib line style, and a width in points."""

    colour: str = INK
    dash: Any = SOLID
    width: float = 1.4


PLAIN = LineStyle()
LEAD = LineStyle(INK, SOLID, 2.4)
CHANCE = LineStyle(FAINT, DASHED, 1.1)
CEILING = LineStyle(MUTED, DASHDOT, 1.1)
BASELINES: dict[str, LineStyle] = {
    "random weights": LineStyle(MUTED, DASHED, 1.1),
    "bag of words": LineStyle(INK, DOTTED, 1.5),
    "opening word": LineStyle(MUTED, (0, (1, 3)), 1.1),
    "valence words": LineStyle(MUTED, (0, (2, 3)), 1.1),
    "valence reader": LineStyle(INK, (0, (2, 1)), 1.1),
    "without valence": LineStyle(INK, (0, (8, 2)), 1.1),
    "input embeddings": LineStyle(INK, (0, (4, 1.5)), 1.1),
    "residual stream": LineStyle(INK, DASHED, 1.5),
    "nuisance": LineStyle(MUTED, DASHDOTDOT, 1.1),
}
"""Grey, because colours are the groups'; they differ by dash and by name."""
OTHER_BASELINE = LineStyle(MUTED, DOTTED, 1.1)


# Names and colours


def ordered(groups: Iterable[str]) -> list[str]:
    """`overall` first, then foundations and dimensions in their fixed order, then all others as they appear."""
    seen = list(dict.fromkeys(groups))
    known = [OVERALL, *FOUNDATIONS, *DIMENSIONS]
    return [name for name in known if name in seen] + [name for name in seen if name not in known]


def line_styles(names: Iterable[str], *, first: int = 0, width: float = 1.6) -> dict[str, LineStyle]:
    """One style per name, in their order; the colours start again with another dash."""
    found: dict[str, LineStyle] = {}
    for i, name in enumerate(dict.fromkeys(names), first):
        lap, slot = divmod(i, len(OTHER_COLOURS))
        found[name] = LineStyle(OTHER_COLOURS[slot], (SOLID, DASHED, DOTTED, DASHDOT)[lap % 4], width)
    return found


def group_styles(groups: Iterable[str]) -> dict[str, LineStyle]:
    """The style of every group; pass the groups of a whole diagnosis to keep third-party colours across figures."""
    names = ordered(groups)
    styles = line_styles([n for n in names if n not in (OVERALL, *FOUNDATIONS, *DIMENSIONS)], width=1.4)
    for name in names:
        if name == OVERALL:
            styles[name] = LineStyle(INK)
        elif name in FOUNDATION_COLOURS:
            styles[name] = LineStyle(FOUNDATION_COLOURS[name])
        elif name in DIMENSIONS:
            index = DIMENSIONS.index(name)
            styles[name] = LineStyle(FOUNDATION_COLOURS[FOUNDATIONS[index // 2]], DASHED if index % 2 else SOLID)
    return styles


def darker(colour: str, share: float = 0.3) -> str:
    """`colour` (#rrggbb) mixed with black, so that text in a line's colour stays readable on white."""
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel * (1 - share)):02x}" for channel in channels)


def plain(text: object, longest: int = 44) -> str:
    """A name as matplotlib text, cut to `longest` characters so that it leaves room for the figure.

    `$` is not mathematics, and characters that no SVG may hold become spaces.
    """
    clean = "".join(char if char.isprintable() else " " for char in str(text))
    return (clean if len(clean) <= longest else clean[: longest - 1] + "…").replace("$", r"\$")


def numbers(values: Iterable[float | None]) -> Float[np.ndarray, "_"]:
    """Values as an array; what is missing or infinite is NaN."""
    found = np.array([np.nan if value is None else value for value in values], dtype=float)
    return np.where(np.isfinite(found), found, np.nan)


# Lines and bands


def blank_figure(width: float, height: float) -> Figure:
    """A white figure that fits its contents, made without pyplot; sizes in inches.

    Raises:
        ValueError: a width that holds no axes, or none at all.
    """
    from matplotlib.figure import Figure

    if not 2 <= width <= 100:
        raise ValueError(f"a figure {width:g} inches wide; expected 2 to 100, e.g. 3.3 for one column of a paper")
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def grid_of(figure: Figure, n: int, columns: int, *, sharey: bool = False) -> list[Axes]:
    """n panels in rows of `columns`."""
    lines = -(-n // columns)
    grid = list(figure.subplots(lines, columns, squeeze=False, sharey=sharey).ravel())
    for axes in grid[n:]:
        axes.set_visible(False)
    return grid[:n]


def lonely(values: Float[np.ndarray, "_"]) -> list[int]:
    """Positions of values between two gaps: a line alone would not show them."""
    there = np.concatenate(([False], np.isfinite(values), [False]))
    return [int(i) for i in np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])]


def draw_line(
    axes: Axes,
    x: Sequence[float],
    values: Iterable[float | None],
    label: str,
    style: LineStyle,
    *,
    marked: bool = True,
    alpha: float = 1.0,
    zorder: float = 3,
) -> None:
    """A line labelled `label`; what is missing leaves a gap, a lone point is drawn as a point.

    `marked`: few points get a marker each.
    """
    found = numbers(values)
    every = list(range(len(found))) if marked and len(found) <= FEW else lonely(found)
    (line,) = axes.plot(
        list(x), found, color=style.colour, linestyle=style.dash, linewidth=style.width, alpha=alpha,
        label=plain(label), zorder=zorder, marker="o", markersize=style.width + 1.8, markeredgewidth=0,
        markevery=every, solid_capstyle="round",
    )  # fmt: skip
    line.set_clip_on(False)


def draw_band(
    axes: Axes,
    x: Sequence[float],
    low: Iterable[float | None],
    high: Iterable[float | None],
    colour: str,
    *,
    alpha: float,
    zorder: float = 1.0,
) -> bool:
    """A band; a lone point gets a bar of visible width. False when it has no values."""
    ends, at = (numbers(low), numbers(high)), np.array(x, dtype=float)
    both = np.isfinite(ends[0]) & np.isfinite(ends[1])
    if not both.any():
        return False
    alone = lonely(np.where(both, ends[0], np.nan))
    if both.sum() > len(alone):
        axes.fill_between(at, *ends, where=both, color=colour, alpha=alpha, linewidth=0, zorder=zorder)
    half = 0.18 if len(at) > 1 else ALONE
    for i in alone:
        edges = [at[i] - half, at[i] + half]
        axes.fill_between(edges, ends[0][i], ends[1][i], color=colour, alpha=alpha, linewidth=0, zorder=zorder)
    return True


def draw_level(axes: Axes, x: Sequence[float], values: Iterable[float | None], label: str, style: LineStyle) -> bool:
    """A thin line under the values, over one layer a short bar; False when it has no values."""
    found = numbers(values)
    if not np.isfinite(found).any():
        return False
    if len(found) > 1:
        draw_line(axes, x, found, label, style, marked=False, zorder=2)
    else:
        ends = [x[0] - ALONE, x[0] + ALONE]
        axes.plot(ends, [float(found[0])] * 2, color=style.colour, linestyle=style.dash, linewidth=style.width,
                  label=plain(label))  # fmt: skip
    return True


def draw_chance(axes: Axes, chance: float | None) -> bool:
    """The chance level, where it is known."""
    if chance is None or not np.isfinite(chance):
        return False
    axes.axhline(chance, color=CHANCE.colour, linewidth=CHANCE.width, linestyle=CHANCE.dash, zorder=1.2, label="chance")
    return True


def say_nothing(axes: Axes) -> None:
    """An empty panel that says so, instead of an axis that looks like a result."""
    axes.text(0.5, 0.5, "no value was computed", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)


# Axes


def scale_layers(axes: Axes, layers: Sequence[float]) -> None:
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


def finish(axes: Axes, layers: Sequence[float] | None) -> None:
    """Scales, grid and spines shared by all line panels; without `layers` the horizontal axis is a share, 0 to 1."""
    if layers is None:
        axes.set_xlim(0, 1.02)
    else:
        scale_layers(axes, layers)
    scale_values(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.7)
    axes.set_axisbelow(True)


def spread_out(wanted: Sequence[float], gap: float) -> Float[np.ndarray, "n"]:
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
    axes: Axes, colours: Mapping[str, str], *, height: float, bold: Collection[str], slanted: Collection[str]
) -> None:
    """Each line's name right of its last point, in its colour, moved apart.

    Args:
        colours: of the lines to be named, by label.
        height: of the axes, in inches.
        bold, slanted: labels in bold or italics.
    """
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    ends = []
    for name in colours:
        line = lines[plain(name)]
        values = np.asarray(line.get_ydata(), dtype=float)
        if np.isfinite(values).any():
            last = np.flatnonzero(np.isfinite(values))[-1]
            x, y = float(np.asarray(line.get_xdata())[last]), float(values[last])
            at = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]
            ends.append((float(at), name, x, y))
    ends.sort(key=lambda end: end[0])
    for position, (_, name, x, y) in zip(spread_out([end[0] for end in ends], 0.145 / height), ends, strict=True):
        axes.annotate(
            plain(name), xy=(x, y), xycoords="data", xytext=(1.035, position), textcoords="axes fraction",
            va="center", ha="left", fontsize=8, color=darker(colours[name]), annotation_clip=False,
            fontweight="bold" if name in bold else "normal", fontstyle="italic" if name in slanted else "normal",
            arrowprops={"arrowstyle": "-", "color": colours[name], "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1,
                        "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


# Legends


def legend_line(label: str, style: LineStyle) -> Any:
    """A legend's entry of a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=style.width, label=plain(label))


def legend_patch(label: str, colour: str, alpha: float) -> Any:
    """A legend's entry of a band."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, alpha=alpha, linewidth=0, label=label)


def pole_handles(groups: Iterable[str]) -> list[Any]:
    """Legend's entries of the poles, where dimensions are among the groups."""
    if not set(groups) & set(DIMENSIONS):
        return []
    return [legend_line("virtue", LineStyle(MUTED)), legend_line("vice", LineStyle(MUTED, DASHED))]


def group_handles(groups: Collection[str], styles: Mapping[str, LineStyle]) -> list[list[Any]]:
    """Legend's lines: the foundations (a foundation's two dimensions share its colour), the poles, other names."""
    named = [name for name in FOUNDATIONS if {name, *name.split("-")} & set(groups)]
    others = [name for name in groups if name not in FOUNDATIONS and name not in DIMENSIONS]
    return [
        [legend_line(name, LineStyle(FOUNDATION_COLOURS[name])) for name in named],
        pole_handles(groups),
        [legend_line(name, styles[name]) for name in others],
    ]


def add_legend(figure: Figure, *rows: Sequence[Any], columns: int = 8) -> float:
    """A legend under the panels that reads row by row, as wide as fits; each of `rows` starts a new line, but
    in a narrow figure. Returns its height in inches."""
    from matplotlib.lines import Line2D

    lines: list[list[Any]] = []
    narrow = figure.get_figwidth() < NARROW
    scale = SMALLER if narrow else 1.0
    rows = ([handle for row in rows for handle in row],) if narrow else rows
    for width in range(columns, 0, -1):
        lines = [list(row[i : i + width]) for row in rows for i in range(0, len(row), width)]
        if scale * _inches(lines) <= figure.get_figwidth() - 0.1:
            break
    if not lines:
        return 0.0
    width = max(len(line) for line in lines)
    blank = Line2D([], [], linestyle="none", label=" ")
    # matplotlib fills a legend column by column.
    handles = [line[i] if i < len(line) else blank for i in range(width) for line in lines]
    figure.legend(handles=handles, loc="outside lower center", ncols=width, frameon=False, fontsize=8 * scale,
                  handlelength=2.2, columnspacing=1.3)  # fmt: skip
    return LINE * scale * len(lines)


def fit_column(figure: Figure) -> None:
    """`shrink` the panels of a narrow figure; any other is left as it is."""
    if figure.get_figwidth() < NARROW:
        shrink(figure, SMALLER)


def shrink(figure: Figure, factor: float) -> None:
    """Smaller letters in all panels, no smaller than `SMALLEST`, and thinner lines."""
    from matplotlib.text import Text

    for axes in figure.axes:
        both = (axes.xaxis, axes.yaxis)
        sizes = [next((float(one.get_fontsize()) for one in axis.get_ticklabels()), 8.0) for axis in both]
        for text in (one for one in axes.findobj(Text) if isinstance(one, Text)):
            size = float(text.get_fontsize())
            text.set_fontsize(max(factor * size, min(size, SMALLEST)))
        for axis, size in zip(both, sizes, strict=True):  # ticks are made anew when the figure is drawn
            axis.set_tick_params(labelsize=factor * size)
    for line in [line for part in (*figure.axes, *figure.legends) for line in part.get_lines()]:
        line.set(linewidth=0.75 * line.get_linewidth(), markersize=0.75 * line.get_markersize())


def _inches(lines: list[list[Any]]) -> float:
    """About how wide a legend of these lines is: 0.055 inches per letter at 8 points, 0.5 per handle and gap."""
    columns = zip_longest(*([len(str(handle.get_label())) for handle in line] for line in lines), fillvalue=0)
    return sum(0.055 * max(column) + 0.5 for column in columns)
