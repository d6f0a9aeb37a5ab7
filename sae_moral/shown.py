"""How results show themselves: one line where Python prints them, a small table in a notebook.

What a result holds may be millions of numbers; what stands here are names, sizes and single values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any, TypeVar

from sae_moral.tables import MISSING, Table, html_table

T = TypeVar("T")
LINE = 200
"""Characters of the line, at most."""
ROWS = 20
"""Of a table, at most."""
_CELL, _FEW = 300, 4


def shown(
    *,
    facts: Callable[[Any], Mapping[str, object]] | None = None,
    tables: Callable[[Any], Iterable[Table]] | None = None,
) -> Callable[[type[T]], type[T]]:
    """A decorator above `@dataclass`: gives the class `__repr__` and `_repr_html_`.

    Args:
        facts: what comes first, by name, computed from the instance; its fields follow, but those that `facts` names.
        tables: what a notebook shows below, the first `ROWS` rows of each.
    """

    def facts_of(self: Any) -> dict[str, str]:
        first = _unless_broken(facts, self, {})
        fields = {f.name: getattr(self, f.name, None) for f in dataclasses.fields(self) if f.repr}
        told = {name: in_short(value) for name, value in {**first, **fields, **first}.items()}
        return {name: words for name, words in told.items() if words != MISSING}

    def line(self: Any) -> str:
        told = ", ".join(f"{name}={words}" for name, words in facts_of(self).items())
        return _cut(f"{type(self).__name__}({' '.join(told.split())}", LINE - 1) + ")"

    def page(self: Any) -> str:
        rows = [[name, _cut(words, _CELL)] for name, words in facts_of(self).items()]
        made = [Table([type(self).__name__, ""], rows), *_unless_broken(tables, self, ())]
        return "\n".join(html_table(_first(one), compact=True) for one in made)

    def decorate(cls: type[T]) -> type[T]:
        cls.__repr__ = line
        cls._repr_html_ = page  # pyright: ignore[reportAttributeAccessIssue]
        return cls

    return decorate


def in_short(value: Any) -> str:
    """A value in a few words: what is small itself, of what is large its size and what it holds."""
    if value is None:
        return MISSING
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # a number of NumPy or torch
    if isinstance(value, str | Path | bool | int):
        return _cut(str(value), _CELL)
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} [{', '.join(map(str, value.shape))}]"
    if isinstance(value, Mapping):
        return _several(value, value, "entry" if len(value) == 1 else "entries")
    if isinstance(value, list | tuple | set | frozenset):
        return _several(value, value, type(next(iter(value), None)).__name__)
    name = next((n for n in (getattr(value, a, None) for a in ("name", "source")) if isinstance(n, str)), "")
    return f"{type(value).__name__}({name})" if name else getattr(value, "__name__", type(value).__name__)


def at(value: object, *path: object) -> Any:
    """What lies at a path of nested mappings; None where it does not go on."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _unless_broken(function: Callable[[Any], T] | None, self: Any, otherwise: T) -> T:
    """A result that was made by hand, or half made, is shown, too: what raises here hides what one looks for."""
    try:
        return function(self) if function else otherwise
    except Exception:
        return otherwise


def _several(value: Sized, items: Iterable[object], what: str) -> str:
    if 0 < len(value) <= _FEW and all(isinstance(item, str | int | float) for item in items):
        return _cut(", ".join(map(in_short, items)), _CELL)
    return f"{len(value):,} {what}" if isinstance(value, Mapping) else f"{len(value):,} × {what}" if len(value) else "0"


def _first(made: Table) -> Table:
    left = len(made.rows) - ROWS
    if left <= 0:
        return made
    return dataclasses.replace(made, rows=[*made.rows[:ROWS], [f"… and {left:,} more"]])


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
