"""`Study`: the one runner of long work. A study is cells; a cell has a key of everything that shapes it.

A cell's result is a folder `cells/NAME-KEY` with a record `cell.json` and whatever files the work left beside it. The
work happens in a folder `.NAME-KEY.part`, which becomes the result by one rename when it is complete, so a result is
there as a whole or not at all. While a cell is worked on its lease is held: a lock that ends with its process, so that
any number of workers can share a folder, none does a cell that another is doing, and one that was killed is followed by
another. Results whose key is no longer asked for stay and are not read.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from sae_moral.errors import DataError
from sae_moral.io import jsonable, key, publish, read_record, remove_leftovers, write_record

SCHEMA_VERSION = 1
RECORD = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One piece of a study.

    Attributes:
        name: what people call it; part of its folder's name.
        shaped_by: everything that shapes its result: settings, data, identity of the model. JSON values.
        work: what makes the result: it is given an empty folder for files (with `resume`, what an interrupted run left
            of it), and returns the result's value, a JSON value.
        resume: whether the work goes on from what an interrupted run left in its folder.
    """

    name: str
    shaped_by: Mapping[str, Any]
    work: Callable[[Path], Any]
    resume: bool = False


@dataclass(frozen=True)
class Done:
    """A cell's result.

    Attributes:
        cell: which cell's.
        folder: with its files; None where the work failed.
        value: what the work returned; None where it failed.
        error: why there is no result.
    """

    cell: Cell
    folder: Path | None
    value: Any
    error: Exception | None = None


class Study:
    """Cells of one kind below one folder."""

    def __init__(self, folder: str | Path, kind: str) -> None:
        """
        Args:
            folder: made when the first cell is worked on.
            kind: of the cells, with the number of their method where that has changed: part of every key.
        """
        self.folder, self.kind = Path(folder), kind

    def key(self, cell: Cell) -> str:
        """The hash of all that shapes the cell."""
        return key(self.kind, **cell.shaped_by)

    def path(self, cell: Cell) -> Path:
        """The folder of the cell's result."""
        name = re.sub(r"[^A-Za-z0-9._+-]+", "-", cell.name).strip("-.")[:80]
        return self.folder / "cells" / f"{name}-{self.key(cell)[:16]}"

    def read(self, cell: Cell) -> Done | None:
        """The cell's result; None where there is none yet.

        Raises:
            DataError: a damaged record, or one of another cell.
        """
        folder = self.path(cell)
        if not folder.is_dir():
            return None
        try:
            _, content = read_record(folder / RECORD, "cell", SCHEMA_VERSION)
        except FileNotFoundError as error:
            raise DataError(f"no {RECORD} in it; delete the folder, and it is made again", file=folder) from error
        if content.get("key") != self.key(cell):
            raise DataError("the result of another cell; delete the folder, and it is made again", file=folder)
        return Done(cell, folder, content["value"])

    def run(
        self,
        cells: Iterable[Cell],
        *,
        keep_going: tuple[type[Exception], ...] = (),
        what: str = "",
        progress: bool | None = None,
    ) -> Iterator[Done]:
        """Every cell's result, in order; those that are there already are read. What another worker is doing is waited
        for last, and done here if that worker gives up.

        Args:
            cells: of one study, names unique.
            keep_going: errors of a cell's work that the others go on after: they are in `Done.error`, and the cell is
                tried again in the next run.
            what: word at the progress bar.
            progress: progress bar; by default only on a terminal.

        Raises:
            DataError: a damaged result.
            Exception: whatever the work raises.
        """
        cells = list(cells)
        found: dict[int, Done] = {}
        bar = tqdm(
            total=len(cells), desc=what, unit="cell", disable=None if progress is None else not progress or not what
        )
        with bar:
            for wait in (False, True):
                for i, cell in enumerate(cells):
                    if i not in found and (done := self._obtain(cell, keep_going, wait)) is not None:
                        found[i] = done
                        bar.update()
        yield from (found[i] for i in range(len(cells)))

    def _obtain(self, cell: Cell, keep_going: tuple[type[Exception], ...], wait: bool) -> Done | None:
        """The cell's result, made here if it is not there; None where another worker has its lease."""
        if (done := self.read(cell)) is not None:
            return done
        with self._lease(cell, wait) as held:
            if not held:
                return None
            if (done := self.read(cell)) is not None:  # finished between the look and the lease
                return done
            try:
                return self._work(cell)
            except keep_going as error:
                return Done(cell, None, None, error)

    @contextlib.contextmanager
    def _lease(self, cell: Cell, wait: bool) -> Iterator[bool]:
        path = self.path(cell)
        leases = path.parent / ".leases"
        leases.mkdir(parents=True, exist_ok=True)
        lock = FileLock(leases / path.name)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _work(self, cell: Cell) -> Done:
        path = self.path(cell)
        part = path.with_name(f".{path.name}.part")
        if part.exists() and not cell.resume:
            shutil.rmtree(part)
        part.mkdir(parents=True, exist_ok=True)
        remove_leftovers(part)
        value = jsonable(cell.work(part))
        content = {"name": cell.name, "key": self.key(cell), "shaped_by": dict(cell.shaped_by), "value": value}
        write_record(part / RECORD, "cell", SCHEMA_VERSION, content)
        publish(part, path)
        return Done(cell, path, value)
