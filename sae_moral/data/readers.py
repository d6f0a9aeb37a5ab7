"""Bytes -> rows: .jsonl, .csv, .tsv, .parquet and `datasets.Dataset`, with the line of every row.

Whatever the bytes, the only error is a `DataError`. What the columns mean is not decided here.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.data.cells import Row
from sae_moral.errors import DataError, nearest

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
    if not data.strip():
        raise DataError("the file is empty; expected at least one scenario", file=path.name)
    return parse(data, path.name)


def parse_jsonl(data: bytes, file: str) -> Rows:
    """One JSON object per line; blank lines are skipped.

    Raises:
        DataError: not UTF-8, a line that is not a JSON object, a field given twice, no object at all.
    """
    records: list[tuple[int, Mapping[str, Any]]] = []
    columns: dict[str, int | None] = {}
    # Not splitlines(): JSON strings may hold U+2028 and other line ends that are not one here.
    for row, line in enumerate(_decode(data, file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            problem = f"broken JSON at character {error.colno} ({error.msg}); expected one JSON object per line"
            raise DataError(problem, file=file, row=row) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{error}; expected one flat JSON object per line", file=file, row=row) from None
        if not isinstance(record, dict):
            problem = f"a JSON {type(record).__name__}; expected one JSON object per line"
            raise DataError(problem, file=file, row=row)
        records.append((row, record))
        for column in record:
            columns.setdefault(column, row)
    if not records:
        raise DataError("no scenarios; expected at least one line with a JSON object", file=file)
    return Rows(file, hashlib.sha256(data).hexdigest(), columns, lambda _: records)


def parse_csv(data: bytes, file: str, *, delimiter: str = ",", quoted: bool = True) -> Rows:
    """Fields split on `delimiter`, the first line the header; blank lines are skipped.

    Args:
        quoted: a field may stand in double quotes; else quotes are ordinary characters.

    Raises:
        DataError: not UTF-8, a field that opens a quote and does not close it, a row with more or fewer fields than
            the header, a column named twice, no rows.
    """
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = io.StringIO(_decode(data, file), newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    records: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for fields in reader:
            if fields:
                records.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        problem = f"{error}; expected {'fields in closed double quotes, or without any' if quoted else 'plain fields'}"
        raise DataError(problem, file=file, row=start) from None
    if len(records) < 2:
        raise DataError("no scenarios; expected a header and at least one row", file=file)
    (header_row, header), *body = records
    _check_names(header, file, header_row)
    for row, fields in body:
        if len(fields) != len(header):
            problem = f"{len(fields)} fields; expected {len(header)} like the header: {', '.join(header)}"
            raise DataError(problem, file=file, row=row)
    columns: dict[str, int | None] = dict.fromkeys(header, header_row)
    digest = hashlib.sha256(data).hexdigest()
    return Rows(
        file, digest, columns, lambda _: ((row, dict(zip(header, fields, strict=True))) for row, fields in body), True
    )


def parse_tsv(data: bytes, file: str) -> Rows:
    """As `parse_csv`, fields split on tabs."""
    return parse_csv(data, file, delimiter="\t")


def parse_parquet(data: bytes, file: str) -> Rows:
    """An Apache Parquet file.

    Raises:
        DataError: not one, a damaged one, or one without rows.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(data)).read(use_threads=False)
        table.validate(full=True)
        names = table.column_names
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"not a readable parquet file ({reason})", file=file) from None
    _check_names(names, file, None)
    return arrow_rows(table, file, hashlib.sha256(data).hexdigest())


def arrow_rows(table: pyarrow.Table, file: str, sha256: str) -> Rows:
    """Rows of an Arrow table whose column names are unique.

    Raises:
        DataError: no rows. Reading a column that is neither text, numbers nor lists of them raises one too.
    """
    if table.num_rows == 0:
        raise DataError("no scenarios; expected at least one row", file=file)

    def values(wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
        for name in wanted:
            kind = table.schema.field(name).type
            if not _is_plain(kind):
                raise DataError(
                    f"a column of {kind}; expected text, numbers or lists of numbers", file=file, column=name
                )
        cells = [table.column(name).to_pylist() for name in wanted]
        for row, record in enumerate(zip(*cells, strict=True), start=1):
            yield row, dict(zip(wanted, record, strict=True))

    return Rows(file, sha256, dict.fromkeys(table.column_names), values)


def _is_plain(kind: pyarrow.DataType) -> bool:
    """Types whose Python values are strings, numbers, None and lists of them. (Others can fail on conversion:
    a timestamp beyond the year 9999, an unknown time zone.)"""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    checks = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_decimal)
    return any(check(kind) for check in (*checks, types.is_boolean, types.is_null))


def _decode(data: bytes, file: str) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf8")
    except UnicodeDecodeError as error:
        problem = f"byte 0x{data[error.start]:02x} is not UTF-8; expected a UTF-8 file (save or convert it as UTF-8)"
        raise DataError(problem, file=file, row=data.count(b"\n", 0, error.start) + 1) from None
    if not text.strip():
        raise DataError("the file is empty; expected at least one scenario", file=file)
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return record


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
