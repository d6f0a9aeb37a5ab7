"""The user's own scenarios: a table with a text column and labels in one of four layouts.

| layout | columns | records per row |
|---|---|---|
| vector | `vector`: ten strengths in [0, 1] (in csv and tsv a JSON list) | one per foundation with a strength above 0; a row of zeros is one neutral record of no foundation |
| dimensions | `care`, `harm`, … `degradation`: one strength each | as above |
| annotation | `foundation` (one, or several split on `|`), `judgment` −2…2, `agreement` 0…4 | one per named foundation, neutral where the strength is 0 (arXiv 2603.15615) |
| record | `vector`, `foundation`, `pole`, `typicality`, as `MoralData.to_dataset` writes them | one |

`id` is optional. Any other column is an error unless the caller asks to ignore it: a misspelt one would be lost in silence.
"""  # noqa: E501 (a table's row cannot be broken)

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sae_moral.data.cells import Row
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.provenance import provenance
from sae_moral.data.rows import Rows, read_rows
from sae_moral.errors import DataError, nearest, unknown
from sae_moral.foundations import DIMENSIONS, NEUTRAL, NO_FOUNDATION, POLARITIES, moral_vector

ExtraColumns = Literal["error", "ignore"]


@dataclass(frozen=True)
class _Layout:
    columns: tuple[str, ...]
    expand: Callable[[Row], Iterator[tuple[np.ndarray, int]]]
    """A row -> (moral vector, foundation index) of each of its records."""


def read_table(
    path: str | Path, *, text_column: str = "text", extra_columns: ExtraColumns = "error", groups: str | None = None
) -> MoralData:
    """A user's .jsonl, .csv, .tsv or .parquet file as `MoralData`; the layouts are in the module's docstring.

    Raises:
        DataError: names the file, the row (line of a text file, record of a parquet one), the column and what would
            be right.
        FileNotFoundError: no such file.
    """
    return table_data(read_rows(path), text_column=text_column, extra_columns=extra_columns, groups=groups)


def table_data(
    rows: Rows,
    *,
    source: str = "table",
    text_column: str = "text",
    extra_columns: ExtraColumns = "error",
    groups: str | None = None,
) -> MoralData:
    """As `read_table`, of rows already parsed."""
    if extra_columns not in (valid := get_args(ExtraColumns)):
        raise unknown("extra_columns", extra_columns, valid)
    if text_column in _RESERVED:
        raise DataError("the text column has a name that means labels; rename it", file=rows.file, column=text_column)
    if text_column not in rows.columns:
        missing = rows.missing(text_column)
        another = "if the texts have another column, name it: text_column="
        raise DataError(f"{missing.problem}; {another}", file=missing.file, row=missing.row, column=missing.column)
    layout = _choose_layout(rows)
    if groups is not None and groups not in rows.columns:
        raise rows.missing(groups)
    identifier = ("id",) if "id" in rows.columns else ()
    used = tuple(dict.fromkeys((text_column, *identifier, *layout.columns, *((groups,) if groups is not None else ()))))
    extra = [column for column in rows.columns if column not in used]
    if extra and extra_columns == "error":
        hint = f"{nearest(extra[0], (text_column, 'id', *layout.columns))}. Rename it, drop it, or leave out"
        problem = f"unknown column; {hint} {', '.join(map(repr, extra))} with extra_columns='ignore'"
        raise DataError(problem, file=rows.file, row=rows.columns[extra[0]], column=extra[0])
    records: list[tuple[str, str, np.ndarray, int]] = []
    lines: list[int] = []
    group: list[str | float] = []
    n_read = 0
    for row in rows.read(used):
        n_read += 1
        identifier, text = row.identifier(), row.text(text_column)
        records += [(identifier, text, vector, foundation) for vector, foundation in layout.expand(row)]
        lines += [row.number] * (len(records) - len(lines))
        if groups is not None:
            group += [row.name_or_number(groups)] * (len(records) - len(group))
    sha256 = rows.sha256
    known = provenance(source, file=rows.file, sha256=sha256, n_read=n_read, n=len(records), ignored_columns=extra)
    data = from_records(records, known, file=rows.file, lines=lines)
    return data if groups is None else data.regrouped(group)


def _choose_layout(rows: Rows) -> _Layout:
    """The one layout whose columns are all there.

    Raises:
        DataError: none or several are. If none, the column that the nearest layout lacks.
    """
    complete = [name for name, layout in _LAYOUTS.items() if set(layout.columns) <= rows.columns.keys()]
    if "record" in complete:
        complete.remove("vector")  # whose columns are a part of it
    if len(complete) == 1:
        return _LAYOUTS[complete[0]]
    row = next(iter(rows.columns.values()))
    if complete:
        given = " and ".join(f"{name} ({', '.join(_LAYOUTS[name].columns)})" for name in complete)
        raise DataError(f"labels are given twice, as {given}; expected exactly one: drop one", file=rows.file, row=row)

    def share(layout: _Layout) -> float:
        close = [difflib.get_close_matches(column, rows.columns, n=1, cutoff=0.75) for column in layout.columns]
        return sum(map(bool, close)) / len(close)

    best = max(_LAYOUTS.values(), key=share)
    if share(best) == 0:
        options = "; or ".join(", ".join(layout.columns) for layout in _LAYOUTS.values())
        problem = f"no labels among the columns {', '.join(map(repr, rows.columns))}; expected the columns {options}"
        raise DataError(problem, file=rows.file, row=row)
    raise rows.missing(next(column for column in best.columns if column not in rows.columns))


def _expand(vector: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    foundations = np.flatnonzero(vector.reshape(-1, 2).max(axis=1) > 0)
    for foundation in foundations.tolist() or [NO_FOUNDATION]:
        yield vector, foundation


def _vector(row: Row) -> Iterator[tuple[np.ndarray, int]]:
    return _expand(row.vector("vector"))


def _dimensions(row: Row) -> Iterator[tuple[np.ndarray, int]]:
    return _expand(row.one_pole_each(np.array([row.number_in(name, 0, 1) for name in DIMENSIONS])))


def _annotation(row: Row) -> Iterator[tuple[np.ndarray, int]]:
    foundations = row.foundations("foundation")
    judgment, agreement = row.number_in("judgment", -2, 2), row.number_in("agreement", 0, 4)
    vector = moral_vector(judgment, agreement, [DIMENSIONS[2 * foundation] for foundation in foundations])
    return ((vector, foundation) for foundation in foundations)


def _record(row: Row) -> Iterator[tuple[np.ndarray, int]]:
    vector = row.vector("vector")
    none = row.is_missing("foundation")
    foundations = [NO_FOUNDATION] if none else list(row.foundations("foundation"))
    if len(foundations) > 1:
        raise row.error("foundation", f"{len(foundations)} foundations; expected the record's own one")
    own = np.zeros(2) if none else vector.reshape(-1, 2)[foundations[0]]
    if none and vector.any():
        raise row.error("foundation", "empty although the vector is not zero; expected the record's foundation")
    pole = int(own.argmax()) if own.any() else NEUTRAL
    given = row.choice("pole", {name: index for index, name in enumerate(POLARITIES)})
    if given != pole:
        raise row.error("pole", f"{row.values['pole']!r} but the vector says {POLARITIES[pole]!r}")
    typicality = row.number_in("typicality", 0, 1)
    if not np.isclose(typicality, own.max()):
        raise row.error("typicality", f"{typicality} but the vector says {own.max()}")
    yield vector, foundations[0]


_LAYOUTS = {
    "vector": _Layout(("vector",), _vector),
    "dimensions": _Layout(DIMENSIONS, _dimensions),
    "annotation": _Layout(("foundation", "judgment", "agreement"), _annotation),
    "record": _Layout(("vector", "foundation", "pole", "typicality"), _record),
}
_RESERVED = {"id", *(column for layout in _LAYOUTS.values() for column in layout.columns)}
