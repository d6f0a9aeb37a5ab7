"""Bytes → records of a csv or tsv table; of one too large to hold at once, block by block, out of a zip if need be.

In a user's table a quoted field may span lines. In a table too large to hold at once every line is one record
(`spanning=False`): a quote that is not closed cannot swallow the next lines, and a line that cannot be read is yielded
with its problem, so that the caller may refuse it or count it.
"""

from __future__ import annotations

import codecs
import csv
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from sae_moral.errors import DataError
from sae_moral.io import decode

BLOCK = 1 << 22
"""Bytes read at once from a large table."""
_NOT_TEXT = "expected the table itself, UTF-8 text with tabs between the columns"
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError, OSError,
    ValueError, LookupError, OverflowError, MemoryError,
)  # fmt: skip
"""What Python's zip reader raises for damaged, encrypted or unusual archives."""


class Line(NamedTuple):
    """One record of a table: the line it starts at (from 1), its fields, what is wrong with it, if anything is, and
    whether text follows a closing quote in it (`"so" it goes`, read as `so it goes`, as pandas and csv do)."""

    number: int
    fields: list[str]
    problem: str | None = None
    irregular: bool = False


def read_lines(
    blocks: Iterable[bytes], file: str, *, delimiter: str = "\t", quoted: bool = True, spanning: bool = False
) -> Iterator[Line]:
    """The records of a csv or tsv table, the header first.

    Args:
        blocks: the bytes, cut anywhere.
        spanning: a quoted field may span lines (the table is then held in memory), blank lines are skipped, and the
            first problem ends the table; else every line is one record, an empty one is one of no fields, and the
            lines after a problem are read.

    Raises:
        DataError: the header is not UTF-8, or a line of a table that is not `spanning` is longer than `BLOCK`.
    """
    form = _Form(delimiter, quoted)
    if spanning:
        yield from _spanning(decode(b"".join(blocks), file=file), form)
        return
    number, width, pending = 1, 0, b""
    for block in blocks:
        data = pending + block
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) >= BLOCK:
            problem = f"no line end in the first {len(data)} bytes of row {number}; {_NOT_TEXT}"
            raise DataError(problem, file=file, row=number)
        data, pending = data[:cut], data[cut:]
        if not data:
            continue
        if number == 1:
            header, data = data.split(b"\n", 1)
            yield (line := form.header(header, file))
            number, width = 2, len(line.fields)
        if data:
            lines = _parse_block(data.removesuffix(b"\n").split(b"\n"), data, number, width, form)
            yield from lines
            number += len(lines)
    if pending and number == 1:
        yield form.header(pending, file)
    elif pending:
        yield from _parse_block([pending], pending, number, width, form)


class _Form(NamedTuple):
    """How a table is written."""

    delimiter: str
    quoted: bool

    def parse(self, lines: Iterable[str], *, strict: bool = True) -> Any:
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=strict)

    def header(self, line: bytes, file: str) -> Line:
        return Line(1, decode(line, file=file, row=1).removesuffix("\r").split(self.delimiter))

    def problem(self, error: csv.Error) -> str:
        if not self.quoted:
            return f"{error}; expected plain fields"
        return f"{error}; expected a field with quotes, separators or line ends in closed double quotes, quotes doubled"


def _spanning(text: str, form: _Form) -> Iterator[Line]:
    start, header = 1, None
    if (place := text.find("\0")) >= 0:
        yield Line(text.count("\n", 0, place) + 1, [], "a NUL byte; expected UTF-8 text")
        return
    parsed = form.parse(io.StringIO(text, newline=""))
    try:
        for fields in parsed:
            if fields:
                header = header or fields
                yield Line(start, fields, _wrong_width(fields, len(header), header))
            start = parsed.line_num + 1
    except csv.Error as error:
        yield Line(start, [], form.problem(error))


def _parse_block(lines: list[bytes], data: bytes, number: int, width: int, form: _Form) -> list[Line]:
    """At once where that gives the same as line by line, which is whenever it yields as many records as lines, all as
    wide as the header; else line by line, to say which is wrong."""
    try:
        if b"\0" not in data:
            # Not splitlines(): texts may hold U+2028 and other line ends that are not one here.
            text = data.decode("utf8").removesuffix("\n").split("\n")
            records = list(form.parse(text))
            if len(records) == len(lines) and all(len(fields) == width for fields in records):
                return [Line(number + i, fields) for i, fields in enumerate(records)]
    except (UnicodeDecodeError, csv.Error):
        pass
    return [_parse_line(line, number + i, width, form) for i, line in enumerate(lines)]


def _parse_line(line: bytes, number: int, width: int, form: _Form) -> Line:
    if b"\0" in line:
        return Line(number, [], "a NUL byte; expected UTF-8 text")
    irregular = False
    try:
        text = [line.decode("utf8")]
        try:
            records = list(form.parse(text))
        except csv.Error as error:
            if "expected after" not in str(error):
                raise
            irregular, records = True, list(form.parse([*text, ""], strict=False))[:-1]
    except UnicodeDecodeError as error:
        return Line(number, [], f"byte 0x{line[error.start]:02x} is not UTF-8; expected a UTF-8 file")
    except csv.Error as error:
        return Line(number, [], form.problem(error))
    fields = records[0] if records else []
    problem = _wrong_width(fields, width)
    return Line(number, fields, problem, irregular=irregular and problem is None)


def _wrong_width(fields: list[str], width: int, header: Iterable[str] = ()) -> str | None:
    if len(fields) == width:
        return None
    names = f": {', '.join(header)}" if header else ""
    return f"{len(fields)} fields; expected {width} like the header{names}"


# Large files and zips


def read_blocks(path: str | Path, member: str, digest: Any = None) -> Iterator[bytes]:
    """The bytes of a table, block by block; of a zip, those of `member` (in any of its folders), or of its only .tsv.
    A `digest` of hashlib takes in every byte.

    Raises:
        DataError: a folder, an HTML page, a zip that is truncated, damaged or encrypted, or without one such member.
        FileNotFoundError: no such file.
    """
    for block in _blocks(Path(path), member):
        if digest is not None:
            digest.update(block)
        yield block


def _blocks(path: Path, member: str) -> Iterator[bytes]:
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
            yield from iter(lambda: file.read(BLOCK), b"")
            return
        unpacked = _unpacked(file, member, path.name)
        while True:
            try:
                block = next(unpacked, b"")
            except DataError:
                raise
            except _UNREADABLE as error:
                reason = str(error) or type(error).__name__
                problem = f"a damaged or truncated zip archive, or an encrypted one ({reason}); get the file again"
                raise DataError(problem, file=path.name) from None
            if not block:
                return
            yield block


def _unpacked(file: IO[bytes], member: str, name: str) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive, archive.open(_member(archive, member, name)) as stream:
        yield from iter(lambda: stream.read(BLOCK), b"")


def _member(archive: zipfile.ZipFile, member: str, file: str) -> str:
    names = [name for name in archive.namelist() if not name.startswith("__MACOSX/") and name.endswith(".tsv")]
    named = [name for name in names if name.rsplit("/", 1)[-1] == member] or names
    if len(named) != 1:
        found = ", ".join(archive.namelist()[:8]) or "nothing"
        raise DataError(f"{len(named)} tables in the archive; expected one {member}; it holds {found}", file=file)
    return named[0]
