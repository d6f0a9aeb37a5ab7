"""The YAML file of an atlas: which models, measured how, and which of them are compared.

Every value is read as text and converted here: YAML itself would make a number of `1:30:6` and `false` of `off`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from sae_moral.errors import DataError, in_one_line, nearest
from sae_moral.io import read_text
from sae_moral.protocol import PROTOCOLS
from sae_moral.shown import shown

DTYPES = ("float32", "bfloat16", "float16")
BASELINE_LINEAGES = 3
"""Baselines are the pairs among one model each of the first so many lineages."""
LARGEST = 1_000_000
"""Characters of a plan's file; one model takes about a hundred."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_RESERVED = {
    *("cells", "pairs", "store", "atlas", "con", "prn", "aux", "nul"),
    *(f"{device}{i}" for device in ("com", "lpt") for i in range(10)),
}
"""Names that the folder of an atlas, or Windows, has another use for; with any ending, too."""
_LAYERS = re.compile(r"all|-?[0-9]{1,5}(,-?[0-9]{1,5})*|(-?[0-9]{1,5})?:(-?[0-9]{1,5})?(:-?[0-9]{1,5})?")
_KEYS = ("data", "path", "protocols", "layers", "metrics", "limit", "groups", "dtype", "controls", "models")
_MODEL_KEYS = ("name", "model", "revision", "family", "variant", "lineage", "layers", "dtype")


@dataclass(frozen=True)
class Entry:
    """One model of an atlas.

    Attributes:
        name: of its results; unique.
        model: a bundled name, a folder, or a hub name.
        family: entries of one family are variants of one model and are compared with one another.
        variant: base, instruct, guard, or what you call it.
        lineage: families of one lineage share data or tokenizer; baselines are taken across lineages.
        layers, dtype: as for `diagnose`.
        revision: branch, tag or commit of a hub name.
    """

    name: str
    model: str
    family: str
    variant: str | None
    lineage: str
    layers: str
    dtype: str
    revision: str | None = field(default=None, kw_only=True)


@shown()
@dataclass(frozen=True)
class Plan:
    """What an atlas measures.

    Attributes:
        entries: the models, in the order of the file.
        data, path: what `load_data` is given.
        protocols: names; representations are compared under `audited`, or the first where it is not among them.
        metrics: names, or None for all.
        limit: use at most so many scenarios.
        groups: as for `diagnose`; None for what each protocol holds together.
        controls: as for `diagnose`; None for its default.
    """

    entries: tuple[Entry, ...]
    data: str = "moralstrength"
    path: str | None = None
    protocols: tuple[str, ...] = ("audited", "paper")
    metrics: tuple[str, ...] | None = None
    limit: int | None = None
    groups: str | None = None
    controls: str | None = None

    @property
    def compared(self) -> str:
        """The protocol whose representations are compared."""
        return "audited" if "audited" in self.protocols else self.protocols[0]


def variant_pairs(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Every two entries of one family, in their order."""
    return [(a, b) for a, b in combinations(entries, 2) if a.family == b.family]


def baseline_pairs(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Pairs of unrelated models: of each of the first `BASELINE_LINEAGES` lineages its first base model, or its first
    model where none is called base."""
    first: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.variant or "").casefold() != "base"):
        first.setdefault(entry.lineage, entry)
    lineages = list(dict.fromkeys(entry.lineage for entry in entries))[:BASELINE_LINEAGES]
    return list(combinations([first[lineage] for lineage in lineages], 2))


def read_plan(path: str | Path) -> Plan:
    """Read and check a YAML file; relative folders and files in it are relative to it.

    Raises:
        DataError: not YAML, an unknown or missing key, a value of another kind; says where, and what is right.
        OSError: the file cannot be read, FileNotFoundError among them.
    """
    path = Path(path)
    text = read_text(path)
    if len(text) > LARGEST:
        raise DataError(f"{len(text):,} characters; expected a plan of at most {LARGEST:,}", file=path)
    try:
        content = yaml.load(text, Loader=_Text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        row = None if mark is None else mark.line + 1
        raise DataError(f"not a YAML file: {error.problem or error.context}", file=path, row=row) from error
    except yaml.YAMLError as error:
        raise DataError(f"not a YAML file: {in_one_line(error)}", file=path) from error
    except RecursionError:
        raise DataError("not a plan: nested too deeply", file=path) from None
    return _Reader(path).plan(content)


class _Text(yaml.BaseLoader):
    """Text, lists and mappings only. A key given twice is refused, not overwritten; an alias is refused, because a few
    lines of aliases of aliases stand for more values than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node, if it is not an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias (*name); write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are text, each given once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is not text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r:.80} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Reader:
    """Values of one file, each with an error that says where it stands."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def plan(self, content: Any) -> Plan:
        given = self._mapping(content, "", _KEYS)
        models = given.get("models")
        if not isinstance(models, list) or not models:
            raise self._error("", f"models is {models!r:.80}; expected a list with at least one model")
        entries = tuple(self._entry(i, model, given) for i, model in enumerate(models, start=1))
        taken: set[str] = set()
        for i, entry in enumerate(entries, start=1):
            if entry.name.casefold() in taken:  # on some file systems A and a are one
                raise self._error(f"model {i}", f"the name {entry.name!r} is taken; expected another for each model")
            taken.add(entry.name.casefold())
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
            groups=self._text(given, "groups", ""),
            controls=self._text(given, "controls", ""),
        )

    def _entry(self, number: int, content: Any, common: Mapping[str, Any]) -> Entry:
        place = f"model {number}"
        given = self._mapping(content, place, _MODEL_KEYS)
        name, model = self._text(given, "name", place), self._text(given, "model", place)
        if name is None or model is None:
            missing = "name" if name is None else "model"
            raise self._error(place, f"no {missing}; expected at least a name and a model")
        if not _NAME.fullmatch(name) or name.endswith("."):
            allowed = "letters, digits, '.', '_', '+' and '-', at most 64"
            raise self._error(place, f"name {name!r:.80}; expected {allowed}: it names a folder")
        if name.casefold().split(".")[0] in _RESERVED:
            raise self._error(place, f"the name {name!r} is reserved; expected another, model-{name} for instance")
        place = f"{place} ({name})"
        family, folder = self._text(given, "family", place) or name, self._folder(model)
        revision = self._text(given, "revision", place)
        if revision is not None and (folder or _is_bundled(model)):
            raise self._error(place, f"revision {revision!r:.80} of {model}, which is no hub name; leave it out")
        return Entry(
            name,
            folder or model,
            family,
            self._text(given, "variant", place),
            self._text(given, "lineage", place) or family,
            self._layers(given, place) or self._layers(common, "") or "all",
            self._dtype(given, place) or self._dtype(common, "") or "float32",
            revision=revision,
        )

    def _folder(self, model: str) -> str | None:
        try:
            folder = self.file.parent / model
            return str(folder) if folder.is_dir() else None
        except OSError:  # longer than any file's name
            return None

    def _mapping(self, content: Any, place: str, valid: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(content, dict):
            kind = "nothing" if content in (None, "") else type(content).__name__
            raise self._error(place, f"{kind}; expected a mapping with the keys {', '.join(valid)}")
        for key in content:
            if key not in valid:
                raise self._error(place, f"unknown key {key!r:.80}; {nearest(key[:80], valid)}")
        return content

    def _text(self, given: Mapping[str, Any], key: str, place: str) -> str | None:
        value = given.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip() or "\0" in value):
            raise self._error(place, f"{key} is {value!r:.80}; expected text")
        return value

    def _list(self, given: Mapping[str, Any], key: str, place: str) -> list[str] | None:
        value = given.get(key)
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if items is not None and (
            not isinstance(items, list) or not items or not all(isinstance(i, str) for i in items)
        ):
            raise self._error(place, f"{key} is {value!r:.80}; expected a list")
        return items

    def _protocols(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        names = self._list(given, "protocols", "") or list(Plan.protocols)
        for name in names:
            if name not in PROTOCOLS:
                raise self._error("", f"unknown protocol {name!r:.80}; {nearest(name[:80], PROTOCOLS)}")
        return tuple(dict.fromkeys(names))

    def _layers(self, given: Mapping[str, Any], place: str) -> str | None:
        items = self._list(given, "layers", place)
        layers = None if items is None else ",".join(items)
        if layers is not None and not _LAYERS.fullmatch(layers):
            raise self._error(place, f"layers {layers!r:.80}; expected all, a number, 0,5,9 or 0:30:5")
        return layers

    def _dtype(self, given: Mapping[str, Any], place: str) -> str | None:
        dtype = self._text(given, "dtype", place)
        if dtype is not None and dtype not in DTYPES:
            raise self._error(place, f"unknown dtype {dtype!r:.80}; {nearest(dtype[:80], DTYPES)}")
        return dtype

    def _limit(self, given: Mapping[str, Any]) -> int | None:
        limit = self._text(given, "limit", "")
        if limit is not None and not re.fullmatch("0*[1-9][0-9]{0,11}", limit):
            raise self._error("", f"limit is {limit!r:.80}; expected a number of scenarios, at least 1")
        return None if limit is None else int(limit)

    def _error(self, place: str, problem: str) -> DataError:
        return DataError(f"{place}: {problem}" if place else problem, file=self.file)


def _is_bundled(model: str) -> bool:
    from sae_moral.capture.bundled import BUNDLED  # which imports torch

    return model in BUNDLED
