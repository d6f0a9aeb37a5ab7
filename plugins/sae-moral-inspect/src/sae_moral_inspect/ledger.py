"""What was answered and must never be asked again: one JSON line per reply, on the disk before it is used.

A run that is killed at any point finds every complete line again; the line that was being written is dropped. The key
of a line covers everything that shaped the reply, so a changed prompt, setting or model asks anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sae_moral.errors import DataError

_open: dict[Path, Ledger] = {}


def key_of(**parts: Any) -> str:
    """A short hash of JSON values; equal exactly when all of them are equal."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_ledger(path: str | Path | None = None) -> Ledger:
    """The ledger of a file: one object per file and process, however often it is asked for."""
    if path is None:
        return Ledger()
    place = Path(path).absolute()
    if place not in _open:
        _open[place] = Ledger(place)
    return _open[place]


class Ledger:
    """Replies by key, kept in a file, or in memory only when there is no path."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Reads what is there.

        Raises:
            DataError: a line other than the last that is not a record.
        """
        self.path = Path(path) if path is not None else None
        self._records: dict[str, dict[str, Any]] = {}
        self._end = 0
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a key, if there is one."""
        return self._records.get(key)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, key: str, **record: Any) -> dict[str, Any]:
        """Keep a record; when this returns, it is on the disk.

        Raises:
            OSError: it could not be written (such as a full disk); what was there before is unharmed.
        """
        if self.path is not None:
            line = json.dumps({"key": key, **record}, ensure_ascii=False, allow_nan=False) + "\n"
            self._append(self.path, line.encode())
        self._records[key] = record
        return record

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(self._end)
            file.truncate()  # half a line, left by a kill or a full disk
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._end += len(line)

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is half a line
            try:
                record = json.loads(line)
                key = record.pop("key")
            except (ValueError, KeyError, AttributeError, TypeError):
                problem = "not a record of this file; it was changed by hand or damaged. Mend or remove the line"
                raise DataError(problem, file=path, row=number) from None
            self._records[key] = record
            self._end += len(line) + 1
