"""Bytes -> lines of fields, for tables too large to hold at once: a plain file or one member of a zip.

Every line is one record. A block of lines is parsed at once where that gives the same as line by line, which is
whenever it yields as many records as lines, all as wide as the header; else line by line, to say which is wrong.
"""

from __future__ import annotations

import codecs
import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, cast

from sae_moral.errors import DataError, nearest

BLOCK = 1 << 22
_NOT_TEXT = "expected the table itself, UTF-8 text with tabs between the columns"


class Line(NamedTuple):
    """One line: its number (from 1), its fields, what is wrong with it, if anything is, and whether text follows a
    closing quote in it (`"so" it goes`, read as `so it goes`, as pandas and csv do)."""

    number: int
    fields: list[str]
    problem: str | None = None
    irregular: bool = False


@contextmanager
def open_table(path: Path, member: str) -> Iterator[BufferedIOBase]:
    """The bytes of a table; of a zip, those of `member` (in any of its folders), or of its only .tsv.

    Raises:
        DataError: a folder, an HTML page, a zip that is truncated or damaged, or without one such member.
        FileNotFoundError: no such file.
    """
    if path.is_dir():
        raise DataError("a folder; expected the table or the zip around it", file=path.name)
    with path.open("rb") as file:
        start = file.read(1024)
        file.seek(0)
        if not start.strip():
            raise DataError("the file is empty; expected the table or the zip around it", file=path.name)
        if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
            problem = "an HTML or XML page, not data (an error page saved under this name?); get the file again"
            raise DataError(problem, file=path.name, row=1)
        if not start.startswith(b"PK"):
            if path.suffix.casefold() == ".zip" and b"\t" not in start:
                raise DataError("not a zip archive; get the file again", file=path.name)
            yield file
            return
        try:
            with zipfile.ZipFile(file) as archive, archive.open(_member(archive, member, path.name)) as stream:
                yield cast(BufferedIOBase, stream)  # a ZipExtFile, which its own types call IO[bytes]
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            reason = str(error) or type(error).__name__
            problem = f"a damaged or truncated zip archive ({reason}); get the file again"
            raise DataError(problem, file=path.name) from None


def _member(archive: zipfile.ZipFile, member: str, file: str) -> str:
    names = [name for name in archive.namelist() if not name.startswith("__MACOSX/") and name.endswith(".tsv")]
    named = [name for name in names if name.rsplit("/", 1)[-1] == member] or names
    if len(named) != 1:
        found = ", ".join(archive.namelist()[:8]) or "nothing"
        raise DataError(f"{len(named)} tables in the archive; expected one {member}; it holds {found}", file=file)
    return named[0]


def read_lines(stream: BufferedIOBase, file: str, digest: Any) -> Iterator[Line]:
    """The lines of a stream, the header first; an empty one is one of no fields. `digest` takes in every byte.

    Raises:
        DataError: the first block holds no line end or the header is not UTF-8.
    """
    number, width, pending = 1, 0, b""
    while chunk := stream.read(BLOCK):
        digest.update(chunk)
        data = pending + chunk
        cut = data.rfind(b"\n") + 1
        if not cut:
            problem = f"no line end in the first {len(data)} bytes of row {number}; {_NOT_TEXT}"
            raise DataError(problem, file=file, row=number)
        data, pending = data[:cut], data[cut:]
        if number == 1:
            header, data = data.removeprefix(codecs.BOM_UTF8).split(b"\n", 1)
            yield (line := _header(header, file))
            number, width = 2, len(line.fields)
        if data:
            lines = _parse(data.removesuffix(b"\n").split(b"\n"), data, number, width)
            yield from lines
            number += len(lines)
    if pending and number == 1:
        yield _header(pending.removeprefix(codecs.BOM_UTF8), file)
    elif pending:
        yield from _parse([pending], pending, number, width)


def _header(line: bytes, file: str) -> Line:
    try:
        return Line(1, line.removesuffix(b"\r").decode("utf8").split("\t"))
    except UnicodeDecodeError as error:
        raise DataError(f"byte 0x{line[error.start]:02x} is not UTF-8; {_NOT_TEXT}", file=file, row=1) from None


def _parse(lines: list[bytes], data: bytes, number: int, width: int) -> list[Line]:
    try:
        if b"\0" not in data:
            # Not splitlines(): texts may hold U+2028 and other line ends that are not one here.
            text = data.decode("utf8").removesuffix("\n").split("\n")
            records = list(csv.reader(text, delimiter="\t", strict=True))
            if len(records) == len(lines) and all(len(fields) == width for fields in records):
                return [Line(number + i, fields) for i, fields in enumerate(records)]
    except (UnicodeDecodeError, csv.Error):
        pass
    return [_parse_line(line, number + i, width) for i, line in enumerate(lines)]


def _parse_line(line: bytes, number: int, width: int) -> Line:
    if b"\0" in line:
        return Line(number, [], "a NUL byte; expected text")
    irregular = False
    try:
        text = [line.decode("utf8")]
        try:
            records = list(csv.reader(text, delimiter="\t", strict=True))
        except csv.Error as error:
            if "expected after" not in str(error):
                raise
            irregular, records = True, list(csv.reader([*text, ""], delimiter="\t"))[:-1]
    except UnicodeDecodeError as error:
        return Line(number, [], f"byte 0x{line[error.start]:02x} is not UTF-8; expected a UTF-8 file")
    except csv.Error as error:
        problem = f"{error}; expected a field with quotes or tabs in double quotes, the quotes inside doubled"
        return Line(number, [], problem)
    fields = records[0] if records else []
    if len(fields) != width:
        return Line(number, fields, f"{len(fields)} fields; expected {width} like the header")
    return Line(number, fields, irregular=irregular)


def check_header(line: Line, columns: Sequence[str], file: str) -> None:
    """Refuse a header that is not exactly `columns`.

    Raises:
        DataError: names the first column that is missing, unknown, given twice, or at another's place.
    """
    found = line.fields
    if len(found) == 1:
        raise DataError(f"the first line is one column, {found[0][:60]!r}; {_NOT_TEXT}", file=file, row=line.number)
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
