"""What the lines, bands and colours of a figure are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from sae_moral.foundations import DIMENSIONS, FOUNDATIONS
from sae_moral.report.palette import (
    BASELINE_LINES,
    DASHDOT,
    DASHED,
    DOTTED,
    FAINT,
    FOUNDATION_COLOURS,
    INK,
    INTERVAL,
    MUTED,
    NULL,
    GroupStyle,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _line(label: str, style: GroupStyle, width: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=width, label=plain(label))


def control_handles(drawn: set[str], lead: str | None) -> list[Any]:
    """Entries for the leading group and the controls in `drawn`: ci, ci of groups, null, ceiling, baseline, chance."""
    from matplotlib.patches import Patch

    handles = [_line(lead, GroupStyle(INK), 2.4)] if lead else []
    if "mean of groups" in drawn:
        handles.append(_line("mean of groups", GroupStyle(INK), 2.0))
    for key, label, colour, alpha in (
        ("ci", "interval", INTERVAL, 0.28),
        ("ci of groups", "intervals of the groups", INK, 0.12),
        ("null", "null band", NULL, 0.3),
    ):
        if key in drawn:
            handles.append(Patch(facecolor=colour, alpha=alpha, linewidth=0, label=label))
    for key, style, width in (
        ("ceiling", GroupStyle(MUTED, DASHDOT), 1.1), ("baseline", GroupStyle(MUTED, DOTTED), 1.6),
        ("chance", GroupStyle(FAINT, DASHED), 1.1),
    ):  # fmt: skip
        if key in drawn:
            handles.append(_line(key, style, width))
    return handles


def baseline_handles(drawn: set[str]) -> list[Any]:
    """Entries for those of `BASELINE_LINES` that are in `drawn`."""
    return [_line(name, *BASELINE_LINES[name]) for name in BASELINE_LINES if name in drawn]


def dash_handles(groups: Mapping[str, Any]) -> list[Any]:
    """Virtue solid, vice dashed, where any dimension is shown."""
    if not any(group in DIMENSIONS for group in groups):
        return []
    return [_line("virtue", GroupStyle(MUTED), 1.4), _line("vice", GroupStyle(MUTED, DASHED), 1.4)]


def group_handles(groups: Mapping[str, Any], styles: Mapping[str, GroupStyle]) -> list[list[Any]]:
    """Legend lines: the foundations (a foundation's two dimensions share its colour), the poles, all other names."""
    named = [name for name in FOUNDATIONS if {name, *name.split("-")} & set(groups)]
    others = [name for name in groups if name not in FOUNDATIONS and name not in DIMENSIONS]
    return [
        [_line(name, GroupStyle(FOUNDATION_COLOURS[name]), 1.4) for name in named],
        dash_handles(groups),
        [_line(name, styles[name], 1.4) for name in others],
    ]


def add_legend(figure: Figure, *rows: Sequence[Any], columns: int = 8) -> None:
    """A legend under the panels that reads row by row, as wide as fits; each of `rows` starts a new line."""
    from matplotlib.lines import Line2D

    lines: list[list[Any]] = []
    for width in range(columns, 0, -1):
        lines = [list(row[i : i + width]) for row in rows for i in range(0, len(row), width)]
        if _inches(lines) <= figure.get_figwidth() - 0.1:
            break
    if not lines:
        return
    width = max(len(line) for line in lines)
    blank = Line2D([], [], linestyle="none", label=" ")
    # matplotlib fills a legend column by column.
    handles = [line[i] if i < len(line) else blank for i in range(width) for line in lines]
    figure.legend(handles=handles, loc="outside lower center", ncols=width, frameon=False, fontsize=8,
                  handlelength=2.2, columnspacing=1.3)  # fmt: skip


def _inches(lines: list[list[Any]]) -> float:
    """About how wide a legend of these lines is: 0.055 inches per letter at 8 points, 0.5 per handle and gap."""
    columns = zip_longest(*([len(str(handle.get_label())) for handle in line] for line in lines), fillvalue=0)
    return sum(0.055 * max(column) + 0.5 for column in columns)
