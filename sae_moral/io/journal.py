"""Journals: JSON lines that outlive the process that wrote them, each with its own checksum."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sae_moral.errors import DataError
from sae_moral.io.files import write_all
from sae_moral.io.records import checksum, jsonable, parse_json

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

_REMOVE = "remove the line, and what it held is made again"


class Journal:
    """Values by key in a file of JSON lines, each on the disk before `add` returns: long work goes on where it ended.

    A last line that was cut short (a kill, a full disk) is dropped; any other line that does not fit its own checksum
    is an error. Several processes, and several objects of one, may share a file: what one adds the others find.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """Read what is there; without a path values are kept in memory only.

        Raises:
            DataError: a damaged line; names file and line.
        """
        self.path = None if path is None else Path(path)
        self._values: dict[str, Any] = {}
        self._end = self._lines = 0
        self._read_on()

    def __contains__(self, name: object) -> bool:
        if name not in self._values:
            self._read_on()
        return name in self._values

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return self._values[name]

    def __len__(self) -> int:
        self._read_on()
        return len(self._values)

    def get(self, name: str) -> Any | None:
        """The value of a key; None where there is none.

        Raises:
            DataError: a damaged line that another process added.
        """
        return self._values[name] if name in self else None

    def add(self, name: str, value: Any) -> None:
        """Keep a value; when this returns, it is on the disk.

        Raises:
            OSError: it could not be written; what was there before is unharmed.
            TypeError, ValueError: a value JSON cannot hold.
        """
        value = jsonable(value)
        if self.path is not None:
            entry = {"key": name, "value": value}
            line = json.dumps({**entry, "checksum": checksum(entry)}, ensure_ascii=False, allow_nan=False) + "\n"
            self._append(self.path, line.encode())
        self._values[name] = value

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file, _alone(file):
            self._take(path, file)
            file.truncate(self._end)  # what a kill left of a line
            try:
                write_all(file, line)
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(self._end)
                raise
        self._end += len(line)
        self._lines += 1

    def _read_on(self) -> None:
        """Take in the lines that are new."""
        with contextlib.suppress(FileNotFoundError):
            if self.path is not None and self.path.stat().st_size > self._end:
                with self.path.open("rb") as file:
                    self._take(self.path, file)

    def _take(self, path: Path, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        if size < self._end:
            raise DataError(f"{size} bytes, and it had {self._end} a moment ago; was it deleted?", file=path)
        file.seek(self._end)
        for line in file.read().split(b"\n")[:-1]:  # what follows the last line break is a part of a line
            row = self._lines + 1
            try:
                text = line.decode("utf8")
            except UnicodeDecodeError as error:
                raise DataError(f"byte {error.start} is not UTF-8; {_REMOVE}", file=path, row=row) from error
            entry = parse_json(text, file=path, row=row, what="a line of this journal")
            if not isinstance(entry, dict) or set(entry) != {"key", "value", "checksum"}:
                raise DataError(f"not a line of this journal; {_REMOVE}", file=path, row=row)
            if entry.pop("checksum") != checksum(entry) or not isinstance(entry["key"], str):
                raise DataError(f"damaged: it does not fit its own checksum; {_REMOVE}", file=path, row=row)
            self._values[entry["key"]] = entry["value"]
            self._end += len(line) + 1
            self._lines += 1


@contextlib.contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """No other process in this block with this file, where the system has such locks; they end with the process."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
    yield  # closing the file ends the lock
