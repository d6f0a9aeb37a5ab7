"""A file of finished cells, one JSON line each, that survives being killed: long work is taken up where it ended."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sae_moral.io import write_text


def key_of(shaped_by: dict[str, Any]) -> str:
    """Hash of everything that shaped a cell; JSON values."""
    text = json.dumps(shaped_by, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Journal:
    """Cells by key. A last line that was cut short by a crash is dropped; any other that cannot be read is an error.

    Raises:
        ValueError: a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[str, dict[str, Any]] = {}
        lines = path.read_text(encoding="utf8").split("\n") if path.exists() else [""]
        if lines.pop():  # what follows the last newline
            write_text(path, "".join(line + "\n" for line in lines))
        for number, line in enumerate(lines, start=1):
            try:
                cell = json.loads(line)
                self.cells[cell["key"]] = cell["values"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is not a cell; remove it, or begin anew elsewhere") from error

    def add(self, key: str, values: dict[str, Any]) -> None:
        """Keep one more, on disk before this returns."""
        line = json.dumps({"key": key, "values": values}, ensure_ascii=False, allow_nan=False)
        with self.path.open("a", encoding="utf8", newline="\n") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.cells[key] = values
