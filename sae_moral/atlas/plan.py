"""The YAML file of an atlas: which models, measured how.

Every value is read as text and converted here: YAML itself would make a number of `1:30:6` and `false` of `off`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sae_moral.errors import DataError, nearest
from sae_moral.protocol import PROTOCOLS

DTYPES = ("float32", "bfloat16", "float16")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LAYERS = re.compile(r"all|-?\d+(,-?\d+)*|(-?\d+)?:(-?\d+)?(:-?\d+)?")


@dataclass(frozen=True)
class Entry:
    """One model of an atlas.

    Attributes:
        name: of its folder of results; unique.
        model: a bundled name, a folder, or a hub name.
        family: entries of one family are variants of one model and are compared with one another.
        variant: base, instruct, guard, or what you call it.
        lineage: families of one lineage share data or tokenizer; baselines are taken across lineages.
        layers, dtype: as `diagnose`.
    """

    name: str
    model: str
    family: str
    variant: str | None
    lineage: str
    layers: str
    dtype: str


@dataclass(frozen=True)
class Plan:
    """What an atlas measures.

    Attributes:
        entries: the models, in the order of the file.
        data, path: what `load_data` is given.
        protocols: names; similarities use `audited`, or the first where it is not among them.
        metrics: names, or None for all.
        limit: use at most so many scenarios.
        controls: handed to `diagnose` if given.
    """

    entries: tuple[Entry, ...]
    data: str = "moralstrength"
    path: str | None = None
    protocols: tuple[str, ...] = ("audited", "paper")
    metrics: tuple[str, ...] | None = None
    limit: int | None = None
    controls: str | None = None

    @property
    def compared(self) -> str:
        """The protocol whose representations are compared."""
        return "audited" if "audited" in self.protocols else self.protocols[0]


def read_plan(path: str | Path) -> Plan:
    """Read and check a YAML file; relative folders and files in it are relative to it.

    Raises:
        DataError: not YAML, an unknown or missing key, a value of another kind; says which model, and what is right.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf8"), Loader=_Text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"not a YAML file: {error}", file=path) from error
    return _Reader(path).plan(content)


class _Text(yaml.BaseLoader):
    """Text, lists and mappings only; a key given twice is refused, not overwritten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, its keys unique."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for i, key in enumerate(keys) if key in keys[:i]]
        if twice:
            raise yaml.YAMLError(f"the key {twice[0]!r} stands twice in the mapping at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


class _Reader:
    """Values of one file, each with an error that says where it stands."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def plan(self, content: Any) -> Plan:
        given = self._keys(
            content, "", ("data", "path", "protocols", "layers", "metrics", "limit", "dtype", "controls", "models")
        )
        models = given.get("models")
        if not isinstance(models, list) or not models:
            raise self._error("", f"models is {models!r}; expected a list with at least one model")
        entries = tuple(self._entry(i, model, given) for i, model in enumerate(models, start=1))
        for i, entry in enumerate(entries):
            # Folders of results: on some file systems A and a are one.
            if entry.name.casefold() in (other.name.casefold() for other in entries[:i]):
                raise self._error(
                    f"model {i + 1}", f"the name {entry.name!r} is taken; expected another for each model"
                )
        data, file = self._text(given, "data", "") or "moralstrength", self._text(given, "path", "")
        # Not resolved where it is a name, so that a wrong one is answered with the nearest source.
        is_file = Path(data).suffix or len(Path(data).parts) > 1
        metrics = self._list(given, "metrics", "")
        return Plan(
            entries,
            data=str(self.file.parent / data) if is_file else data,
            path=None if file is None else str(self.file.parent / file),
            protocols=self._protocols(given),
            metrics=None if metrics is None else tuple(metrics),
            limit=self._limit(given),
            controls=self._text(given, "controls", ""),
        )

    def _entry(self, number: int, content: Any, common: Mapping[str, Any]) -> Entry:
        where = f"model {number}"
        given = self._keys(content, where, ("name", "model", "family", "variant", "lineage", "layers", "dtype"))
        name, model = self._text(given, "name", where), self._text(given, "model", where)
        if name is None or model is None:
            missing = "name" if name is None else "model"
            raise self._error(where, f"no {missing}; expected at least a name and a model")
        where = f"{where} ({name})"
        if not _NAME.fullmatch(name):
            raise self._error(where, f"name {name!r}; expected letters, digits, '.', '_' and '-': it names a folder")
        family = self._text(given, "family", where) or name
        folder = self.file.parent / model
        return Entry(
            name,
            str(folder) if folder.is_dir() else model,
            family,
            self._text(given, "variant", where),
            self._text(given, "lineage", where) or family,
            self._layers(given, where) or self._layers(common, "") or "all",
            self._dtype(given, where) or self._dtype(common, "") or "float32",
        )

    def _keys(self, content: Any, where: str, valid: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(content, dict):
            kind = "nothing" if content in (None, "") else type(content).__name__
            raise self._error(where, f"{kind}; expected a mapping with the keys {', '.join(valid)}")
        for key in content:
            if key not in valid:
                raise self._error(where, f"unknown key {key!r}; {nearest(str(key), valid)}")
        return content

    def _text(self, given: Mapping[str, Any], key: str, where: str) -> str | None:
        value = given.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self._error(where, f"{key} is {value!r}; expected text")
        return value

    def _list(self, given: Mapping[str, Any], key: str, where: str) -> list[str] | None:
        value = given.get(key)
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if items is not None and (
            not isinstance(items, list) or not items or not all(isinstance(i, str) for i in items)
        ):
            raise self._error(where, f"{key} is {value!r}; expected a list")
        return items

    def _protocols(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        names = self._list(given, "protocols", "") or list(Plan.protocols)
        for name in names:
            if name not in PROTOCOLS:
                raise self._error("", f"unknown protocol {name!r}; {nearest(name, PROTOCOLS)}")
        return tuple(dict.fromkeys(names))

    def _layers(self, given: Mapping[str, Any], where: str) -> str | None:
        items = self._list(given, "layers", where)
        layers = None if items is None else ",".join(items)
        if layers is not None and not _LAYERS.fullmatch(layers):
            raise self._error(where, f"layers {layers!r}; expected all, a number, 0,5,9 or 0:30:5")
        return layers

    def _dtype(self, given: Mapping[str, Any], where: str) -> str | None:
        dtype = self._text(given, "dtype", where)
        if dtype is not None and dtype not in DTYPES:
            raise self._error(where, f"unknown dtype {dtype!r}; {nearest(dtype, DTYPES)}")
        return dtype

    def _limit(self, given: Mapping[str, Any]) -> int | None:
        limit = self._text(given, "limit", "")
        if limit is not None and (not limit.isdecimal() or int(limit) < 1):
            raise self._error("", f"limit is {limit!r}; expected a number of scenarios, at least 1")
        return None if limit is None else int(limit)

    def _error(self, where: str, problem: str) -> DataError:
        return DataError(f"{where}: {problem}" if where else problem, file=self.file)
