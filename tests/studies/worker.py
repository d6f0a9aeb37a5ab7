"""Run by test_study: one worker of a study, and cells that say who worked on them.

Usage: python -m tests.studies.worker FOLDER CELLS SECONDS. Prints every cell's value.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path

from sae_moral.io import write_text
from sae_moral.studies.study import Cell, Study


def cells(folder: Path, n: int, seconds: float = 0.0, *, resume: bool = False) -> list[Cell]:
    """n cells that square their number; each appends a line to `folder/log` when it begins and when it ends, and one to
    `folder/who` with its process."""
    return [
        Cell(f"cell {i}", {"i": i}, functools.partial(square, i, folder / "log", seconds), resume) for i in range(n)
    ]


def square(i: int, log: Path, seconds: float, folder: Path) -> dict[str, int]:
    """The work of a cell: a file, half of the time before it and half after."""
    note(log.with_name("who"), f"{i} {os.getpid()}")
    note(log, f"begin {i}")
    time.sleep(seconds / 2)
    write_text(folder / "square.txt", str(i * i))
    time.sleep(seconds / 2)
    note(log, f"end {i}")
    return {"square": i * i}


def note(log: Path, line: str) -> None:
    """Append a line at once, so that those of several processes do not mix."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = Study(place, "squares").run(cells(place, int(sys.argv[2]), float(sys.argv[3])))
    print(json.dumps([done.value["square"] for done in found]))
