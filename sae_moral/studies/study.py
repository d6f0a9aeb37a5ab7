"""`Study`: the one runner of long work. A study is cells; a cell has a key of everything that shapes it.

A cell's result is a folder `cells/NAME-KEY` with a record `cell.json` and the files that the work left beside it. The
work happens in a hidden folder, which becomes the result by one rename when it is complete: a result is there whole or
not at all. While a cell is worked on its lease is held (`io.leases`). So any number of workers, on one host or on many,
can share a folder: none does a cell that another is doing, and the cell of one that was killed is taken over. A worker
that was only asleep finds its lease and its hidden folder gone, or the result there: nothing is written twice. Results
whose key is no longer asked for stay, and are not read.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sae_moral.errors import DataError
from sae_moral.io import (
    Lease,
    discard,
    jsonable,
    key,
    leased,
    publish,
    read_record,
    remove_leftovers,
    shared,
    write_record,
)
from sae_moral.log import timed
from sae_moral.shown import shown

logger = logging.getLogger(__name__)
SCHEMA_VERSION = 1
RECORD = "cell.json"
_AGAIN = "delete the folder, and it is made again"


@shown()
@dataclass(frozen=True)
class Cell:
    """One piece of a study.

    Attributes:
        name: what people call it; part of its folder's name.
        shaped_by: everything that shapes its result: settings, data, identity of the model. JSON values.
        work: what makes the result: it is given an empty folder for files (with `resume`, what an interrupted run left
            of it), and returns the result's value, a JSON value. It must depend on nothing but what `shaped_by` says:
            any worker may do it, in any order.
        resume: whether the work goes on from what an interrupted or failed run left in its folder.
    """

    name: str
    shaped_by: Mapping[str, Any]
    work: Callable[[Path], Any]
    resume: bool = False


@shown()
@dataclass(frozen=True)
class Done:
    """What became of a cell.

    Attributes:
        cell: which cell.
        folder: of its files; None where the work failed.
        value: what the work returned, as JSON keeps it; None where it failed.
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
            kind: of the cells, with the number of their method where that has changed (`sweep/2`): part of every key.
        """
        self.folder, self.kind = Path(folder), kind

    def key(self, cell: Cell) -> str:
        """The hash of all that shapes the cell.

        Raises:
            TypeError, ValueError: `shaped_by` holds what JSON cannot.
        """
        return key(self.kind, **cell.shaped_by)

    def path(self, cell: Cell) -> Path:
        """The folder of the cell's result."""
        name = re.sub(r"[^A-Za-z0-9._+-]+", "-", cell.name).strip("-.")[:80]
        return self.folder / "cells" / f"{name or 'cell'}-{self.key(cell)[:16]}"

    def read(self, cell: Cell) -> Done | None:
        """The cell's result; None where there is none yet.

        Raises:
            DataError: a damaged record, or one of another cell.
        """
        folder = self.path(cell)
        if not folder.exists():
            return None
        try:
            _, content = read_record(folder / RECORD, "cell", SCHEMA_VERSION)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"no {RECORD} in it; {_AGAIN}", file=folder) from error
        if content.get("key") != self.key(cell) or "value" not in content:
            raise DataError(f"the result of another cell; {_AGAIN}", file=folder)
        return Done(cell, folder, content["value"])

    def run(
        self,
        cells: Iterable[Cell],
        *,
        keep_going: tuple[type[Exception], ...] = (),
        wait: bool = True,
        what: str = "",
        progress: bool | None = None,
    ) -> list[Done]:
        """Every cell's result, in their order: read where there is one, else made here.

        Args:
            cells: of one study, no two with the same name and key.
            keep_going: errors of a cell's work that the others go on after: they are in `Done.error`, and the cell is
                tried again in the next run.
            wait: wait for the cells that other workers are doing, after all others, and do here what they give up;
                else leave those out.
            what: word at the progress bar; no bar without it.
            progress: progress bar; by default only on a terminal.

        Raises:
            DataError: a damaged result; found before any work begins.
            ValueError: two cells of the same name and key.
            Exception: whatever the work raises.
        """
        cells = list(cells)
        for path, times in Counter(map(self.path, cells)).items():
            if times > 1:
                raise ValueError(f"{times} cells are {path.name}: same name, same settings; expected each cell once")
        self._remove_leftovers()
        found = {i: done for i, cell in enumerate(cells) if (done := self.read(cell)) is not None}
        for one in found.values():
            logger.info("cell %s: found done", one.cell.name)
        left = {i: _lease(self.path(cell)) for i, cell in enumerate(cells) if i not in found}

        def make(i: int, lease: Lease) -> Done:
            bar.set_postfix_str(cells[i].name)
            try:
                return self._work(cells[i], lease)
            except keep_going as error:
                lease.check()
                return Done(cells[i], None, None, error)

        def tell(i: int) -> None:
            bar.set_postfix_str(f"waiting for another process: {cells[i].name}")

        hidden = True if not what else None if progress is None else not progress
        with tqdm(total=len(cells), initial=len(found), desc=what, unit="cell", disable=hidden) as bar:
            try:
                for i, done in shared(left, lambda i: self.read(cells[i]), make, wait=wait, waiting=tell):
                    found[i] = done
                    bar.update()
            except KeyboardInterrupt:
                kept = f"{len(found)} of {len(cells)} cells are kept in {self.folder}"
                raise KeyboardInterrupt(f"{kept}; the same command goes on with the rest") from None
        return [found[i] for i in sorted(found)]

    def _work(self, cell: Cell, lease: Lease) -> Done:
        path = self.path(cell)
        part = path.with_name(f".{path.name}.{lease.holder}.{'begun' if cell.resume else 'part'}")
        try:
            for left in path.parent.glob(f".{path.name}.*"):
                if left.suffix == ".begun" and cell.resume and not part.exists():
                    publish(left, part)
                elif left.suffix in (".begun", ".part"):
                    discard(left)
            part.mkdir(exist_ok=True)
            remove_leftovers(part)
            with timed(logger, f"cell {cell.name}"):
                value = jsonable(cell.work(part))
            content = {"name": cell.name, "key": self.key(cell), "shaped_by": dict(cell.shaped_by), "value": value}
            write_record(part / RECORD, "cell", SCHEMA_VERSION, content)
            lease.check()
            publish(part, path)
        except BaseException:
            if not cell.resume or not lease.held:  # on a disk that is full, what cannot be used must not stay
                discard(part)
            raise
        return Done(cell, path, value)

    def _remove_leftovers(self) -> None:
        """Remove what killed workers left: parts of cells that begin anew, and parts and leases of finished ones."""
        cells = self.folder / "cells"
        remove_leftovers(cells)
        for left in [one for one in cells.glob(".*") if one.suffix in (".part", ".begun", ".lease")]:
            name = left.name.removeprefix(".")
            path = left.with_name(name.removesuffix(".lease") if left.suffix == ".lease" else name.rsplit(".", 2)[0])
            if left.suffix == ".part" or path.exists():
                with contextlib.suppress(OSError), leased(_lease(path)) as lease:
                    if lease is not None and left.suffix != ".lease":
                        discard(left)


class Assembly:
    """The files that are made of all results: by whichever worker is the first to have them, once.

    Made before the work begins: a worker that finds at its end that another has meanwhile assembled the very same
    leaves it at that. A later run assembles again, so that a page that was deleted or changed comes back.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._before = self._read()

    def make(self, of: Any, write: Callable[[], object]) -> None:
        """Call `write`, unless another worker has meanwhile.

        Args:
            of: what the files are made of; JSON values, dataclasses of them.
            write: writes them.
        """
        made_of = key("assembly", of=of)
        with leased(self.folder / ".assembly.lease", wait=True):
            there = self._read()
            if there == self._before or there.get("of") != made_of:
                write()
                write_record(self._path, "assembly", 1, {"of": made_of, "by": secrets.token_hex(8)})

    @property
    def _path(self) -> Path:
        return self.folder / "assembled.json"

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, DataError):
            return read_record(self._path, "assembly", 1)[1]
        return {}


def _lease(path: Path) -> Path:
    return path.with_name(f".{path.name}.lease")
