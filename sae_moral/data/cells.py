"""One row of a source, its cells read as what they must be: a text, a number, a moral vector, foundations.

Every refusal is a `DataError` with the file, the row and the column.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_moral.data.text import is_blank
from sae_moral.errors import DataError, unknown
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, foundation_index
from sae_moral.io import parse_json

NOTHING = frozenset(
    "|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)
"""How a missing value is written in csv and tsv: what pandas reads as one by default."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlist = 12


def parse_number(cell: str) -> float | None:
    """A number written as text; None where it is none. (`float` also takes "1_0"; nobody means 10 by it.)"""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def foundations(cell: str) -> tuple[int, ...]:
    """Indices of the foundations a cell names, one or several split on `|`, each once, in the order given.

    Raises:
        ValueError: an unknown one; the message holds the nearest valid name.
    """
    return tuple(dict.fromkeys(foundation_index(name) for name in cell.split("|")))


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        file: name of the file, for error messages.
        number: line of a text file, record of a binary one, from 1.
        values: the cells by column.
        strings: the format knows no types (csv, tsv): a number is written as a string, nothing as one of `NOTHING`.
    """

    file: str
    number: int
    values: Mapping[str, Any]
    strings: bool = False

    def error(self, column: str, problem: str) -> DataError:
        """The error for one cell."""
        return DataError(problem, file=self.file, row=self.number, column=column)

    def is_missing(self, column: str) -> bool:
        """Whether a cell, or its column, holds nothing."""
        value = self.values.get(column)
        return value is None or (self.strings and value in NOTHING)

    def text(self, column: str) -> str:
        """A string of which something is seen.

        Raises:
            DataError: something else, or a string that is not Unicode text (half of a surrogate pair).
        """
        value = self.values[column]
        if not isinstance(value, str):
            raise self.error(column, f"{_SHORT.repr(value)} is not text; expected a string")
        if is_blank(value):
            raise self.error(column, f"empty {column}; expected words")
        return self._unicode(column, value)

    def name_or_number(self, column: str) -> str | float:
        """A string that is not blank, or a number.

        Raises:
            DataError: something else.
        """
        value = self.values[column]
        if self.is_missing(column) or value == "" or value != value:
            raise self.error(column, "empty; expected a name or a number in every row")
        if not isinstance(value, str | int | float):
            raise self.error(column, f"{_SHORT.repr(value)}; expected a name or a number")
        return value

    def identifier(self) -> str:
        """The `id` cell as a string; `file:row` where the source has none.

        Raises:
            DataError: neither a string nor an integer.
        """
        if self.is_missing("id"):
            return f"{self.file}:{self.number}"
        value = self.values["id"]
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error("id", f"{_SHORT.repr(value)} is not an id; expected a string or an integer")
        return self._unicode("id", str(value))

    def number_in(self, column: str, low: int, high: int) -> float:
        """A number in [low, high].

        Raises:
            DataError: not a number, NaN, or outside.
        """
        value = self.values[column]
        if self.strings and isinstance(value, str) and (written := parse_number(value)) is not None:
            value = written
        return self._number(column, value, low, high)

    def vector(self, column: str) -> Float[np.ndarray, "10"]:
        """A moral vector: a list of ten strengths in [0, 1] in the order of `DIMENSIONS` (in csv and tsv a JSON list).

        Raises:
            DataError: not a list, not ten, not numbers from 0 to 1, or both poles of one foundation set.
        """
        value = self.values[column]
        if self.strings:
            with suppress(DataError):  # what is not JSON is no list either: refused below, as given
                value = parse_json(value, nan=True)
        if not isinstance(value, list | tuple):
            raise self.error(column, f"{_SHORT.repr(value)} is not a list; expected ten numbers like [0.5, 0, …, 0]")
        if len(value) != len(DIMENSIONS):
            raise self.error(column, f"{len(value)} numbers; expected ten: {', '.join(DIMENSIONS)}")
        strengths = [
            self._number(column, entry, 0, 1, prefix=f"{dimension} is ")
            for dimension, entry in zip(DIMENSIONS, value, strict=True)
        ]
        return self.one_pole_each(np.array(strengths), column)

    def one_pole_each(self, vector: Float[np.ndarray, "10"], column: str | None = None) -> Float[np.ndarray, "10"]:
        """The vector itself, unless both poles of a foundation are set.

        Raises:
            DataError: in `column`, by default the column of the foundation's virtue.
        """
        both = (vector[0::2] > 0) & (vector[1::2] > 0)
        if both.any():
            first = int(both.argmax())
            virtue, vice = vector[2 * first : 2 * first + 2].tolist()
            raise self.error(
                column or DIMENSIONS[2 * first],
                f"both poles of {FOUNDATIONS[first]} are set ({virtue} and {vice}); expected at most one above 0",
            )
        return vector

    def foundations(self, column: str) -> tuple[int, ...]:
        """The foundations a cell names (see `foundations`).

        Raises:
            DataError: none, or an unknown one; the message holds the nearest valid name.
        """
        try:
            return foundations(self.text(column))
        except DataError:
            raise
        except ValueError as error:
            raise self.error(column, str(error)) from None

    def choice(self, column: str, valid: Mapping[str, int | None]) -> int | None:
        """What `valid` says of the name in a cell.

        Raises:
            DataError: not one of `valid`; the message holds the nearest.
        """
        name = self.text(column)
        if name not in valid:
            raise self.error(column, str(unknown(column, name, valid)))
        return valid[name]

    def _number(self, column: str, value: Any, low: int, high: int, *, prefix: str = "") -> float:
        if isinstance(value, bool) or not isinstance(value, Real | Decimal):
            raise self._not_a_number(column, value, low, high, prefix)
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        if not low <= number <= high:  # NaN too
            raise self.error(column, f"{prefix}{number}; expected a number from {low} to {high}")
        return number + 0.0  # −0 becomes 0

    def _not_a_number(self, column: str, value: Any, low: int, high: int, prefix: str = "") -> DataError:
        comma = isinstance(value, str) and parse_number(value.replace(",", ".")) is not None
        hint = " with a decimal point" if comma else ""
        problem = f"{prefix}{_SHORT.repr(value)}, not a number; expected a number from {low} to {high}{hint}"
        return self.error(column, problem)

    def _unicode(self, column: str, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            problem = f"character {error.start + 1} is half of a surrogate pair, not text; expected valid Unicode"
            raise self.error(column, problem) from None
        return value
