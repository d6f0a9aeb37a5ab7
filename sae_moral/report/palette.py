"""One colour per foundation, kept across all figures; virtue solid, vice dashed.

The five colours are from the colour-blind-safe set of Okabe & Ito (2008); groups that a third party names get
colours of Paul Tol's "muted" scheme, in their order of appearance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sae_moral.foundations import DIMENSIONS, FOUNDATIONS

OVERALL = "overall"
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


@dataclass(frozen=True)
class GroupStyle:
    """How a group's line is drawn: a colour as #rrggbb and a matplotlib line style."""

    colour: str
    dash: Any = SOLID


BASELINE_LINES: dict[str, tuple[GroupStyle, float]] = {
    "random weights": (GroupStyle(MUTED, DASHED), 1.1),
    "bag of words": (GroupStyle(INK, DOTTED), 1.5),
    "residual stream": (GroupStyle(INK, DASHED), 1.5),
    "nuisance": (GroupStyle(MUTED, DASHDOTDOT), 1.1),
}
"""Baseline → style and width. Grey, because colours are the groups'; told apart by dash and by name."""


def ordered(groups: Iterable[str]) -> list[str]:
    """`overall` first, then foundations and dimensions in their fixed order, then all others as they appear."""
    seen = list(dict.fromkeys(groups))
    known = [OVERALL, *FOUNDATIONS, *DIMENSIONS]
    return [name for name in known if name in seen] + [name for name in seen if name not in known]


def group_styles(groups: Iterable[str]) -> dict[str, GroupStyle]:
    """The style of every group; pass the groups of a whole diagnosis to keep third-party colours across figures."""
    styles: dict[str, GroupStyle] = {}
    others = 0
    for name in ordered(groups):
        if name == OVERALL:
            styles[name] = GroupStyle(INK)
        elif name in FOUNDATION_COLOURS:
            styles[name] = GroupStyle(FOUNDATION_COLOURS[name])
        elif name in DIMENSIONS:
            index = DIMENSIONS.index(name)
            styles[name] = GroupStyle(FOUNDATION_COLOURS[FOUNDATIONS[index // 2]], DASHED if index % 2 else SOLID)
        else:
            lap, slot = divmod(others, len(OTHER_COLOURS))
            styles[name] = GroupStyle(OTHER_COLOURS[slot], (SOLID, DASHED, DOTTED, DASHDOT)[lap % 4])
            others += 1
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
