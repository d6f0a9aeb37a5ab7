"""Tables: of one list of rows, for a page (HTML), a Markdown file, or the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from markupsafe import Markup

MISSING = "–"
"""What was not computed, never 0 and never a float's own word."""
LEAST = 24
"""Characters that a column of sentences needs in the terminal."""
T = TypeVar("T")
Columns = Mapping[str, Callable[[T], str]]
"""Title → what stands in a row's cell; `Markup` for cells of HTML."""
_NUMBER = re.compile(r"[<+−-]?[\d.,∞]+(e[+−-]?\d+)?( %)?")


@dataclass(frozen=True)
class Table:
    """Cells as words.

    Attributes:
        header: titles of the columns.
        rows: one cell per column; a row may be shorter, its last cell then takes the rest.
        keys: how many of the first columns name the row.
        left_out: titles of columns that were left out because no row has anything there.
    """

    header: list[str]
    rows: list[list[str]]
    keys: int = 1
    left_out: list[str] = field(default_factory=list)


def table(rows: Sequence[T], keys: Columns[T], columns: Columns[T], *, always: Collection[str] = ()) -> Table:
    """A table of one row per thing. A column with `MISSING` in every cell is left out and listed, unless it is named in
    `always`.

    Example:
        table(peaks, {"metric": lambda peak: peak.metric}, {"layer": lambda peak: count(peak.layer)})
    """
    cells = {title: [words(row) for row in rows] for title, words in columns.items()}
    shown = [title for title in cells if title in always or any(cell != MISSING for cell in cells[title])]
    names = [[words(row) for words in keys.values()] for row in rows]
    body = [[*name, *(cells[title][i] for title in shown)] for i, name in enumerate(names)]
    return Table([*keys, *shown], body, len(keys), [title for title in cells if title not in shown])


def html_table(
    made: Table,
    caption: str = "",
    *,
    hidden: bool = False,
    compact: bool = False,
    kinds: Sequence[str] = (),
    sortable: bool = False,
) -> Markup:
    """The table as HTML, every cell escaped that is not `Markup`.

    Args:
        made: the table.
        caption: above it; `hidden`: for screen readers only.
        compact: less space between columns.
        kinds: the CSS class of each row; none by default.
        sortable: columns sort on a click, and a field above filters the rows.
    """
    button = Markup('<button type="button">{}</button>' if sortable else "{}")
    head = []
    for i, name in enumerate(made.header):
        kind = Markup(' class="name"' if i < made.keys else "")
        head.append(Markup('<th scope="col"{}>{}</th>').format(kind, button.format(name)))
    body = []
    for i, row in enumerate(made.rows):
        rest = len(made.header) - len(row) + 1
        cells = [Markup('<th scope="row">{}</th>').format(cell) for cell in row[: made.keys]]
        cells += [Markup("<td>{}</td>").format(cell) for cell in row[made.keys :]]
        if rest > 1:
            cells[-1] = Markup('<td colspan="{}">{}</td>').format(rest, row[-1])
        kind = Markup(' class="{}"').format(kinds[i]) if kinds and kinds[i] else ""
        body.append(Markup("<tr{}>{}</tr>").format(kind, Markup("").join(cells)))
    classes = [name for name, wanted in (("compact", compact), ("sortable", sortable)) if wanted]
    opened = Markup("<table{}>\n").format(Markup(' class="{}"').format(" ".join(classes)) if classes else "")
    if caption:
        kind = Markup(' class="visually-hidden"') if hidden else ""
        opened += Markup("<caption{}>{}</caption>\n").format(kind, caption)
    opened += Markup("<thead><tr>{}</tr></thead>\n<tbody>\n").format(Markup("").join(head))
    return opened + Markup("\n").join(body) + Markup("\n</tbody>\n</table>")


def markdown_table(made: Table) -> str:
    """The table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        filled = [*cells, *[""] * (len(made.header) - len(cells))]
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in filled) + " |"

    marks = ["---"] * made.keys + ["--:"] * (len(made.header) - made.keys)
    return "\n".join([line(made.header), f"|{'|'.join(marks)}|", *map(line, made.rows)])


def text_table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows of cells, the first the header, in columns for the terminal; a column of numbers is aligned right.

    A row may be shorter than the header: its last cell then takes the rest of the line.

    Args:
        rows: the cells.
        width: of the terminal, in characters: a row's last cell goes on below itself where it would pass the edge and
            `LEAST` characters are left for it.
    """
    n = max((len(row) for row in rows), default=0)
    columns = [[row[i] for row in rows if len(row) > i + (len(row) < n)] for i in range(n)]
    widths = [max(map(len, column)) for column in columns]
    right = [
        all(cell in ("", MISSING) or _NUMBER.fullmatch(cell) for cell in column[1:])
        and any(_NUMBER.fullmatch(cell) for cell in column[1:])
        for column in columns
    ]
    lines = []
    for row in rows:
        last = len(row) - 1 if len(row) < n else n
        cells = [
            cell if i >= last else cell.rjust(widths[i]) if right[i] else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        indent = sum(widths[: len(row) - 1]) + 2 * (len(row) - 1)
        room = 0 if width is None else width - indent
        parts = textwrap.wrap(row[-1], room, break_on_hyphens=False) if len(row[-1]) > room >= LEAST else []
        lines.append("  ".join([*cells[:-1], parts[0]] if parts else cells).rstrip())
        lines += [" " * indent + part for part in parts[1:]]
    return "\n".join(lines)
