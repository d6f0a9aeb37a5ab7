"""The published table of Social-Chemistry-101, `social-chem-101.v1.0.tsv` or the zip around it, read as a stream.

The table is one annotation per line, 25 columns split on tabs, as a pandas-like writer makes it: a field that holds a
quote or a tab stands in double quotes, quotes inside are doubled, and no field holds a line break. (The published file
has 355,923 lines, and Python's csv finds a header and 355,922 records of 25 fields in it.) So every line must parse by
itself; a quote that is not closed on its line cannot swallow the next ones. A line with text after a closing quote is
read as pandas and csv do, and counted as `irregular`. An empty cell and the words pandas takes for nothing (`NA`,
`None`, `null`, …) are missing values, because the published counts were made with pandas. CRLF line ends and a byte
order mark are read past.

Whatever cannot be read is refused with file, row (the line, the header being 1) and column; with `malformed="drop"`
such lines are left out and counted. Nothing is skipped without a count.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from sae_moral.data.cells import NOTHING, foundations, parse_number
from sae_moral.data.lines import Line, read_blocks, read_lines
from sae_moral.errors import DataError, nearest

Malformed = Literal["refuse", "drop"]
COLUMNS: tuple[str, ...] = (
    "area", "m", "split", "rot-agree", "rot-categorization", "rot-moral-foundations", "rot-char-targeting", "rot-bad",
    "rot-judgment", "action", "action-agency", "action-moral-judgment", "action-agree", "action-legal",
    "action-pressure", "action-char-involved", "action-hypothetical", "situation", "situation-short-id", "rot",
    "rot-id", "rot-worker-id", "breakdown-worker-id", "n-characters", "characters",
)  # fmt: skip
MEMBER = "social-chem-101.v1.0.tsv"
_M, _BAD, _FOUNDATIONS, _ACTION, _JUDGMENT, _AGREEMENT, _ROT = (
    COLUMNS.index(name)
    for name in ("m", "rot-bad", "rot-moral-foundations", "action", "action-moral-judgment", "action-agree", "rot-id")
)
_REQUIRED = (
    (_ACTION, "no action"),
    (_FOUNDATIONS, "no foundation"),
    (_JUDGMENT, "no judgment"),
    (_AGREEMENT, "no agreement"),
)
_RANGES = {_M: (1, 1000), _BAD: (0, 1), _JUDGMENT: (-2, 2), _AGREEMENT: (0, 4)}
FIRST = 5
"""How many row numbers a count of dropped rows keeps."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """The usable annotations of a table, in the order of the file: not marked bad, nothing required missing.

    Attributes:
        file: name of the file, of the zip if it is one.
        sha256: hash of the table's bytes, not of the zip's.
        n_rows: records in the table, the header not counted.
        row: line of each annotation.
        text: the action.
        foundations: indices into `FOUNDATIONS`, each once, in the order named.
        judgment: −2 (very bad) … 2 (very good).
        agreement: 0 (below 1 % would agree) … 4 (above 99 %).
        m: how many workers annotated this rule of thumb; the paper uses those with m = 1.
        rot_id: the rule of thumb; with m > 1 several annotations share one.
        dropped: {reason: {"count": …, "first_rows": [lines]}} of what was left out.
        irregular: {"count": …, "first_rows": [lines]} of lines with text after a closing quote, which were read.
    """

    file: str
    sha256: str
    n_rows: int
    row: Int[np.ndarray, "n"]
    text: tuple[str, ...]
    foundations: tuple[tuple[int, ...], ...]
    judgment: Float[np.ndarray, "n"]
    agreement: Float[np.ndarray, "n"]
    m: Int[np.ndarray, "n"]
    rot_id: tuple[str, ...]
    dropped: dict[str, dict[str, Any]]
    irregular: dict[str, Any]

    def __len__(self) -> int:
        return len(self.text)


def read_annotations(path: str | Path, *, malformed: Malformed = "refuse") -> Annotations:
    """Read the TSV, or the zip that holds it (which of the two is seen from its content, not its name).

    Args:
        path: the file.
        malformed: `refuse` a line that cannot be read, or `drop` and count it. Dropping one shifts the ids of all
            annotations after it, so the paper's split no longer holds; the provenance then says so.

    Raises:
        DataError: names file, row and column.
        FileNotFoundError: no such file.
    """
    if malformed not in ("refuse", "drop"):
        raise ValueError(f"malformed is {malformed!r}; expected 'refuse' or 'drop'")
    path, digest = Path(path), hashlib.sha256()
    kept = _Kept(path.name, malformed)
    lines = read_lines(read_blocks(path, MEMBER, digest), path.name)
    _check_header(next(lines), COLUMNS, path.name)
    for line in lines:
        kept.add(line)
    return kept.annotations(digest.hexdigest())


def is_social_chem(path: Path) -> bool:
    """Whether a file looks like this table (most of its columns in the first line) or like a zip."""
    if path.suffix.casefold() == ".zip":
        return True
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"PK\x03\x04"):
        return True
    header = start.split(b"\n", 1)[0].decode("utf8", "replace").strip("\ufeff\r").split("\t")
    return len(set(header) & set(COLUMNS)) > len(COLUMNS) // 2


def _check_header(line: Line, columns: tuple[str, ...], file: str) -> None:
    """Refuse a header that is not exactly `columns`.

    Raises:
        DataError: names the first column that is missing, unknown, given twice, or at another's place.
    """
    found = line.fields
    if len(found) == 1:
        raise DataError(
            f"the first line is one column, {found[0][:60]!r}; expected tabs between the columns",
            file=file,
            row=line.number,
        )
    for name in columns:
        if name not in found:
            raise DataError(f"missing column; {nearest(name, found)}", file=file, row=line.number, column=name)
    for place, name in enumerate(found):
        if name not in columns:
            raise DataError(f"unknown column; {nearest(name, columns)}", file=file, row=line.number, column=name)
        if found.count(name) > 1:
            raise DataError("named twice; expected each column once", file=file, row=line.number, column=name)
        if name != columns[place]:
            problem = f"in place {place + 1}, where {columns[place]!r} belongs; expected the published order of columns"
            raise DataError(problem, file=file, row=line.number, column=name)


class _Unreadable(Exception):
    """A cell that is not what its column holds."""

    def __init__(self, column: int, problem: str) -> None:
        super().__init__(problem)
        self.column = COLUMNS[column]


@dataclass
class _Kept:
    """What has been read so far, column by column. Cells repeat, so what one means is worked out once."""

    file: str
    malformed: Malformed
    n_rows: int = 0
    row: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    foundations: list[tuple[int, ...]] = field(default_factory=list)
    numbers: list[tuple[float, float, float]] = field(default_factory=list)
    rot_id: list[str] = field(default_factory=list)
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    irregular: dict[str, Any] = field(default_factory=lambda: {"count": 0, "first_rows": []})
    _meaning: dict[tuple[int, str], Any] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        self.n_rows += 1
        if line.irregular:
            _count(self.irregular, line.number)
        try:
            if line.problem is not None:
                self._refuse(line.number, None, line.problem)
            elif (reason := self._read(line.number, line.fields)) is not None:
                self._drop(reason, line.number)
        except _Unreadable as error:
            self._refuse(line.number, error.column, str(error))

    def _read(self, row: int, fields: list[str]) -> str | None:
        """Take the annotation, or say why it is left out."""
        bad, m = self._number(_BAD, fields[_BAD]), self._number(_M, fields[_M])
        if bad:
            return "marked bad"
        for column, reason in _REQUIRED:
            if fields[column] in NOTHING or fields[column].isspace():
                return reason
        judgment, agreement = (self._number(column, fields[column]) for column in (_JUDGMENT, _AGREEMENT))
        self.foundations.append(self._foundations(fields[_FOUNDATIONS]))
        self.row.append(row)
        self.text.append(fields[_ACTION])
        self.numbers.append((judgment, agreement, m))
        self.rot_id.append(fields[_ROT])
        return None

    def _number(self, column: int, cell: str) -> float:
        """A whole number in the column's range; pandas may have written it as `1.0`."""
        key = (column, cell)
        if key not in self._meaning:
            low, high = _RANGES[column]
            number = parse_number(cell)
            if number is None or not low <= number <= high or number % 1:
                raise _Unreadable(column, f"{cell[:60]!r}; expected a whole number from {low} to {high}")
            self._meaning[key] = number + 0.0
        return self._meaning[key]

    def _foundations(self, cell: str) -> tuple[int, ...]:
        key = (_FOUNDATIONS, cell)
        if key not in self._meaning:
            try:
                self._meaning[key] = foundations(cell)
            except ValueError as error:
                raise _Unreadable(_FOUNDATIONS, str(error)) from None
        return self._meaning[key]

    def _refuse(self, row: int, column: str | None, problem: str) -> None:
        if self.malformed == "refuse":
            hint = "repair the file, get it again, or leave such rows out, counted, with malformed='drop'"
            raise DataError(f"{problem}. {hint}", file=self.file, row=row, column=column)
        self._drop("malformed" if column is None else f"malformed {column}", row)

    def _drop(self, reason: str, row: int) -> None:
        _count(self.dropped.setdefault(reason, {"count": 0, "first_rows": []}), row)

    def annotations(self, sha256: str) -> Annotations:
        if not self.n_rows:
            raise DataError("a header and no rows; expected annotations", file=self.file)
        if not self.text:
            reasons = ", ".join(f"{reason} ({found['count']})" for reason, found in self.dropped.items())
            raise DataError(f"none of {self.n_rows} rows is usable: {reasons}", file=self.file)
        numbers = np.array(self.numbers, dtype=np.float64)
        return Annotations(
            file=self.file,
            sha256=sha256,
            n_rows=self.n_rows,
            row=np.array(self.row, dtype=np.int64),
            text=tuple(self.text),
            foundations=tuple(self.foundations),
            judgment=numbers[:, 0],
            agreement=numbers[:, 1],
            m=numbers[:, 2].astype(np.int64),
            rot_id=tuple(self.rot_id),
            dropped=self.dropped,
            irregular=self.irregular,
        )


def _count(rows: dict[str, Any], row: int) -> None:
    rows["count"] += 1
    if len(rows["first_rows"]) < FIRST:
        rows["first_rows"].append(row)
