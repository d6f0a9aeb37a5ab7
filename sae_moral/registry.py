"""Extension points: named things that installed packages declare as entry points, or a process registers.

The built-ins are declared in the project's own pyproject.toml and come through the same door.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from sae_moral.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind by name."""

    def __init__(self, kind: str, group: str) -> None:
        """
        Args:
            kind: what they are, for messages: `metric`, `data source`.
            group: the entry point group.
        """
        self.kind, self.group = kind, group
        self.registered: dict[str, T] = {}

    def names(self) -> list[str]:
        """All names, sorted.

        Raises:
            ValueError: two packages declare the same name for different things.
        """
        return sorted({*self.declared, *self.registered})

    def register(self, name: str, thing: T) -> T:
        """Make a thing available by its name in this process; returns it.

        Raises:
            ValueError: the name is taken.
        """
        if name in (taken := self.names()):
            problem = f"a {self.kind} named {name!r} exists already; choose another name"
            raise ValueError(f"{problem} (taken: {', '.join(taken)})")
        self.registered[name] = thing
        return thing

    def get(self, name: str) -> T:
        """The thing of a name: what was registered, or what its entry point names.

        Raises:
            ValueError: an unknown name.
        """
        if name in self.registered:
            return self.registered[name]
        declared = self.declared
        if name not in declared:
            raise unknown(self.kind, name, self.names())
        return declared[name].load()

    @cached_property
    def declared(self) -> dict[str, EntryPoint]:
        """The entry points by name, looked up once: that reads the metadata of every installed package.

        Raises:
            ValueError: two packages declare the same name for different things.
        """
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            other = found.setdefault(entry.name, entry)
            if other.value != entry.value:
                values = f"{other.value} and {entry.value}"
                raise ValueError(f"two packages declare the {self.kind} {entry.name!r}: {values}; uninstall one")
        return found
