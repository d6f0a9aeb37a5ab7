"""Bytes → rows: .csv, .tsv, .jsonl, .parquet, a table in a zip; and what is in memory (Arrow tables, records).

Whatever the bytes, a reader returns or raises a `DataError` that names the file and, where there is one, the line. What
the columns mean is not decided here. All csv and tsv go through `lines.read_lines`.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.data.cells import Row
from sae_moral.data.lines import read_lines
from sae_moral.errors import DataError, in_one_line, nearest
from sae_moral.io import decode, parse_json

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Rows:
    """The rows of one source, parsed but not interpreted.

    Attributes:
        file: name of the file, without folders.
        sha256: hash of its bytes.
        columns: the row in which each column is first seen (the header, a record, or None), in order.
        values: given the columns wanted, yields (row number, cells by column).
        strings: see `Row.strings`.
    """

    file: str
    sha256: str
    columns: Mapping[str, int | None]
    values: Callable[[tuple[str, ...]], Iterable[tuple[int, Mapping[str, Any]]]]
    strings: bool = False

    def read(self, columns: Iterable[str]) -> Iterator[Row]:
        """The rows with (at least) these columns.

        Raises:
            DataError: a column is missing, altogether or in one row.
        """
        wanted = tuple(columns)
        for column in wanted:
            if column not in self.columns:
                raise self.missing(column)
        for number, values in self.values(wanted):
            for column in wanted:
                if column not in values:
                    problem = f"missing; every row needs {', '.join(wanted)}"
                    raise DataError(problem, file=self.file, row=number, column=column)
            yield Row(self.file, number, values, self.strings)

    def missing(self, column: str) -> DataError:
        """The error for a column that no row has."""
        row = next(iter(self.columns.values()), None)
        return DataError(f"missing column; {nearest(column, self.columns)}", file=self.file, row=row, column=column)


def read_rows(path: str | Path) -> Rows:
    """Parse a file by its suffix: .jsonl, .csv, .tsv or .parquet.

    Raises:
        DataError: another suffix, a folder, an empty or broken file, bytes that are not UTF-8.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    parse = _PARSERS.get(path.suffix.casefold())
    if path.is_dir():
        raise DataError(f"a folder; expected one file ({', '.join(_PARSERS)})", file=path.name)
    if parse is None:
        raise DataError(f"unsupported suffix {path.suffix!r}; expected {', '.join(_PARSERS)}", file=path.name)
    data = path.read_bytes()
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError("the file is empty; expected at least one scenario", file=path.name)
    return parse(data, path.name)


# JSON lines


def parse_jsonl(data: bytes, file: str) -> Rows:
    """One JSON object per line; blank lines are skipped.

    Raises:
        DataError: not UTF-8, a line that is not a JSON object, a field given twice, no object at all.
    """
    records: list[tuple[int, Mapping[str, Any]]] = []
    columns: dict[str, int | None] = {}
    # Not splitlines(): JSON strings may hold U+2028 and other line ends that are not one here.
    for row, line in enumerate(decode(data, file=file).split("\n"), start=1):
        if not line.strip():
            continue
        record = parse_json(line, file=file, row=row, what="one flat JSON object per line", nan=True)
        if not isinstance(record, dict):
            problem = f"a JSON {type(record).__name__}; expected one JSON object per line"
            raise DataError(problem, file=file, row=row)
        records.append((row, record))
        for column in record:
            columns.setdefault(column, row)
    if not records:
        raise DataError("no scenarios; expected at least one line with a JSON object", file=file)
    return Rows(file, hashlib.sha256(data).hexdigest(), columns, lambda _: records)


# csv and tsv


_SEPARATORS = ",;\t|"
_SAYS_SEPARATOR = re.compile(rb'"?sep=([,;\t|])"?')


def parse_csv(data: bytes, file: str, *, delimiter: str | None = None, quoted: bool = True) -> Rows:
    """Fields split on `delimiter`, the first line the header; blank lines are skipped.

    Args:
        delimiter: by default what a first line `sep=;` says, as Excel writes it; else the first of comma, semicolon,
            tab and bar that splits the header.
        quoted: a field may stand in double quotes and then span lines; else quotes are ordinary characters.

    Raises:
        DataError: not UTF-8, a field that opens a quote and does not close it, a row with more or fewer fields than
            the header, a column named twice, no rows, or a header that the delimiter does not split while another does.
    """
    first, _, rest = data.removeprefix(codecs.BOM_UTF8).partition(b"\n")
    table = data
    if delimiter is None and (said := _SAYS_SEPARATOR.fullmatch(first.strip())):
        delimiter, table = said[1].decode(), b"\n" + rest  # an empty line in its place: numbers of lines stay
        first = rest.partition(b"\n")[0]
    splits = [mark for mark in _SEPARATORS if mark.encode() in first]
    delimiter = delimiter or next(iter(splits), ",")
    lines = list(read_lines([table], file, delimiter=delimiter, quoted=quoted, spanning=True))
    header = lines[0].fields if lines else []
    if len(header) == 1 and (other := next((mark for mark in splits if mark in header[0]), None)):
        problem = f"one column, {header[0][:60]!r}: the separator seems to be {other!r}; expected {delimiter!r}"
        raise DataError(f"{problem}. Save it again with that separator", file=file, row=lines[0].number)
    if wrong := next((line for line in lines if line.problem is not None), None):
        raise DataError(str(wrong.problem), file=file, row=wrong.number)
    if len(lines) < 2:
        raise DataError("no scenarios; expected a header and at least one row", file=file)
    (header_row, header, *_), *body = lines
    _check_names(header, file, header_row)
    columns: dict[str, int | None] = dict.fromkeys(header, header_row)
    values = [(line.number, line.fields) for line in body]
    return Rows(
        file, hashlib.sha256(data).hexdigest(), columns,
        lambda _: ((row, dict(zip(header, fields, strict=True))) for row, fields in values), strings=True,
    )  # fmt: skip


def parse_tsv(data: bytes, file: str) -> Rows:
    """As `parse_csv`, fields split on tabs."""
    return parse_csv(data, file, delimiter="\t")


# What is in memory


def records_rows(records: Iterable[Mapping[str, Any]], name: str) -> Rows:
    """Rows of dicts, a missing key like a missing field of a JSON line.

    Raises:
        DataError: no records, or one that is no mapping from names.
    """
    kept: list[tuple[int, Mapping[str, Any]]] = []
    columns: dict[str, int | None] = {}
    for row, record in enumerate(records, start=1):
        if not isinstance(record, Mapping) or not all(isinstance(column, str) for column in record):
            problem = f"a {type(record).__name__}: {record!r:.80}; expected a dict from columns to values"
            raise DataError(problem, file=name, row=row)
        kept.append((row, {column: _plain(value) for column, value in record.items()}))
        for column in record:
            columns.setdefault(column, row)
    if not kept:
        raise DataError("no scenarios; expected at least one row", file=name)
    return Rows(name, "", columns, lambda _: kept)


def columns_rows(columns: Iterable[tuple[object, Iterable[Any]]], name: str) -> Rows:
    """Rows of the names and values of columns, all equally many.

    Raises:
        DataError: columns of different lengths or of one name, none, or one that is no list.
    """
    pairs = [(str(column), values) for column, values in columns]
    _check_names([column for column, _ in pairs], name, None)
    for column, values in pairs:
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise DataError(f"{values!r:.60}; expected a list of values", file=name, column=column)
    lists = {column: list(values) for column, values in pairs}
    lengths = {column: len(values) for column, values in lists.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{column!r} {n}" for column, n in lengths.items())
        raise DataError(f"columns of different lengths: {said}; expected equally many values in each", file=name)
    return records_rows((dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)), name)


def _plain(value: Any) -> Any:
    """A value of NumPy or pandas as Python's own: what is missing there is None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return None if missing or (isinstance(value, float) and value != value) else value


# Parquet and Arrow


def parse_parquet(data: bytes, file: str) -> Rows:
    """An Apache Parquet file.

    Raises:
        DataError: not one, a damaged one, or one without rows.
    """
    table = arrow_table(data, file)
    return arrow_rows(table, file, hashlib.sha256(data).hexdigest())


def arrow_table(data: bytes, file: str) -> pyarrow.Table:
    """The bytes of a parquet file as a table, every buffer checked.

    Raises:
        DataError: not one, or a damaged one.
    """
    import pyarrow
    from pyarrow import parquet

    with _as_data_error(file):
        table = parquet.ParquetFile(pyarrow.BufferReader(data)).read(use_threads=False)
        table.validate(full=True)
        table.column_names  # noqa: B018 (a damaged name is not UTF-8)
    return table


@contextmanager
def _as_data_error(file: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError, LookupError, OverflowError) as error:
        raise DataError(f"not a readable parquet file ({in_one_line(error, 200)})", file=file) from None


def arrow_rows(table: pyarrow.Table, file: str, sha256: str) -> Rows:
    """Rows of an Arrow table.

    Raises:
        DataError: no rows, or a column named twice. Reading a column that is neither text, numbers nor lists of them
            raises one too.
    """
    _check_names(table.column_names, file, None)
    if table.num_rows == 0:
        raise DataError("no scenarios; expected at least one row", file=file)

    def values(wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
        for name in wanted:
            kind = table.schema.field(name).type
            if not _is_plain(kind):
                raise DataError(
                    f"a column of {kind}; expected text, numbers or lists of numbers", file=file, column=name
                )
        with _as_data_error(file):
            cells = [table.column(name).to_pylist() for name in wanted]
        for row, record in enumerate(zip(*cells, strict=True), start=1):
            yield row, dict(zip(wanted, record, strict=True))

    return Rows(file, sha256, dict.fromkeys(table.column_names), values)


def _is_plain(kind: pyarrow.DataType) -> bool:
    """Types whose Python values are strings, numbers, None and lists of them. (Others can fail on conversion:
    a timestamp beyond the year 9999, an unknown time zone.)"""
    from pyarrow import types

    of_values = (types.is_dictionary, types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
    if any(check(kind) for check in (*of_values, types.is_large_list_view)):
        return _is_plain(kind.value_type)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    numbers = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    return any(check(kind) for check in (*texts, *numbers, types.is_null))


def _check_names(names: list[str], file: str, row: int | None) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError("a column is named twice; expected each once", file=file, row=row, column=name)


_PARSERS: dict[str, Callable[[bytes, str], Rows]] = {
    ".jsonl": parse_jsonl,
    ".csv": parse_csv,
    ".tsv": parse_tsv,
    ".parquet": parse_parquet,
}
SUFFIXES: tuple[str, ...] = tuple(_PARSERS)
"""The file types that can be read."""
