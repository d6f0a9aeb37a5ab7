"""The project's own errors and warnings, and the "did you mean" of every unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SaeMoralWarning(UserWarning):
    """Something the reader of a result should know. The tests turn it into an error."""


class DataError(ValueError):
    """A file or a table that cannot be read as it is: says file, row, column and what would be right."""

    def __init__(
        self, problem: str, *, file: str | Path | None = None, row: int | None = None, column: str | None = None
    ) -> None:
        """`row` counts from 1 and is the line of a text file, the record of a binary one."""
        places = ((file, "{}"), (row, "row {}"), (column, "column {!r}"))
        where = [template.format(value) for value, template in places if value is not None]
        super().__init__(f"{', '.join(where)}: {problem}" if where else problem)
        self.problem, self.file, self.row, self.column = problem, file, row, column

    def within(self, file: str | Path | None, row: int | None = None) -> DataError:
        """The same error in a file, whose row is known by another number there."""
        row = self.row if row is None else row
        return DataError(self.problem, file=self.file or file, row=row, column=self.column)


class FolderError(ValueError):
    """A folder that holds other results than those that would be written to it. Nothing in it was changed."""


class BusyError(RuntimeError):
    """A folder that another process is writing; the message says which process."""


def in_one_line(error: BaseException, most: int | None = None) -> str:
    """An error's own words on one line, cut after `most` characters; the name of its type where it has none."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if most is None or len(said) <= most else f"{said[: most - 1]}…"


def package_of(error: ImportError) -> str | None:
    """The package to install where an import failed, as far as the name of its module tells."""
    return error.name and error.name.partition(".")[0].replace("_", "-")


def nearest(given: str, valid: Iterable[str]) -> str:
    """The sentence that ends an unknown-name error: the nearest valid name, if one is near, and all of them."""
    valid = list(valid)
    by_folded = {name.casefold(): name for name in valid}
    close = difflib.get_close_matches(str(given).casefold(), list(by_folded), n=1, cutoff=0.5)
    hint = f"did you mean {by_folded[close[0]]!r}? " if close else ""
    return f"{hint}valid: {', '.join(valid) if valid else '(none)'}"


def unknown(kind: str, given: str, valid: Iterable[str]) -> ValueError:
    """The error for a name that is not one of `valid`."""
    return ValueError(f"unknown {kind} {given!r}; {nearest(given, valid)}")
