"""`load_data`: whatever names scenarios -> `MoralData`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.data.groups import KINDS
from sae_moral.data.memory import from_hub, in_memory
from sae_moral.data.moral_data import MoralData
from sae_moral.data.parquet import has_provenance, read_parquet
from sae_moral.data.provenance import Source
from sae_moral.data.rows import SUFFIXES, read_rows
from sae_moral.data.table import ExtraColumns, table_data
from sae_moral.errors import nearest, unknown
from sae_moral.registry import Registry

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset
    from pandas import DataFrame
    from pyarrow import Table

SOURCES: Registry[Source] = Registry("data source", "sae_moral.sources")


def load_data(
    source: MoralData
    | Dataset
    | DatasetDict
    | IterableDataset
    | DataFrame
    | Table
    | Sequence[Mapping[str, Any]]
    | Mapping[str, Iterable[Any]]
    | str
    | os.PathLike[str],
    *,
    path: str | os.PathLike[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    text_column: str | None = None,
    extra_columns: ExtraColumns | None = None,
    groups: str | Sequence[object] | None = None,
) -> MoralData:
    """Scenarios with human labels, from wherever they are.

    Args:
        source: a `MoralData` (returned as it is); a table in memory with the columns of `MoralData.to_dataset` or of
            a layout (`datasets` in all four kinds, a pandas or polars DataFrame, an Arrow table, a list of dicts, a
            dict of lists); a name of `list_sources`; a file: a source's own, recognised by its columns, a .parquet of
            `build`, or the user's table (.jsonl, .csv, .tsv, .parquet; layouts in `sae_moral.data.table`); or, with
            `split`, the name of a data set on the Hugging Face hub.
        path: for a name only, where its file is (`moralstrength`: the folder with its files, if not the package's).
            The name `social-chem-101` means the stratified sample a diagnosis measures, drawn from that file or,
            without one, from the published table, which is downloaded once; `social-chem-101-full` means all
            records. A file given as the source is always read whole.
        split: of a `DatasetDict`, or of a data set on the hub.
        limit: rows that are read of an `IterableDataset`, which may have no end.
        text_column: for a table only, the column of the texts; by default `text`.
        extra_columns: for a table only, what to do with columns that no layout has: `error` (the default) or `ignore`.
        groups: what splits, folds, draws and permutations hold together: `equal` texts, `near` ones too, a column of
            the table, or a value per record (`MoralData.regrouped`); by default equal texts.

    Raises:
        ValueError: an unknown name (with the nearest valid one), a name that needs a `path`, or an option that does
            not apply.
        DataError: data that cannot be read as they are; names file, row and column.
        FileNotFoundError: no such file; or one that would be downloaded, offline.
        ModuleNotFoundError: a source that is a Python package which is not installed.
        TypeError: a source of another type.

    Example:
        table = {"text": ["lying to a friend", "helping one"], "foundation": ["care-harm"] * 2,
                 "judgment": [-1, 1], "agreement": [3, 4]}
        load_data(table)
    """
    if groups is not None and not (isinstance(groups, str) and groups not in KINDS):
        found = load_data(
            source, path=path, split=split, limit=limit, text_column=text_column, extra_columns=extra_columns
        )
        return found.regrouped(groups)
    options: dict[str, Any] = {"text_column": text_column, "extra_columns": extra_columns, "groups": groups}
    options = {name: value for name, value in options.items() if value is not None}
    part = {"split": split, "limit": limit}
    if isinstance(source, MoralData):
        _refuse("a MoralData", path=path, **part, **options)
        return source
    if isinstance(source, str) and source in SOURCES.names():
        _refuse(f"the source {source!r}", **part, **options)
        return get_source(source).scenarios(None if path is None else Path(path))
    if isinstance(source, str) and split is not None and not Path(source).exists():
        source = from_hub(source, split)
        split = None
    if isinstance(source, str | os.PathLike):
        _refuse("a file", path=path, **part)
        return _load_file(source, options)
    kind, rows = in_memory(source, split, limit)
    _refuse(f"a {kind}", path=path)
    data = table_data(rows, source=kind, **options)
    return replace(data, provenance={**data.provenance, "file": None, "sha256": data.sha256})


def list_sources() -> tuple[Source, ...]:
    """What `load_data` knows by name: name, what it is, licence, citation, and how to get it."""
    return tuple(get_source(name) for name in SOURCES.names())


def get_source(name: str) -> Source:
    """The source of a name.

    Raises:
        ValueError: an unknown name.
        TypeError: an entry point that names something else than a `Source` of its name.
    """
    found = SOURCES.get(name)
    if not isinstance(found, Source) or found.name != name:
        raise TypeError(f"the entry point {name!r} of {SOURCES.group} gave {found!r:.200}; expected a Source named so")
    return found


def register_source(source: Source) -> Source:
    """Make a source available by its name in this process; returns it.

    Raises:
        ValueError: the name is taken.
    """
    return SOURCES.register(source.name, source)


def _load_file(source: str | os.PathLike[str], options: dict[str, Any]) -> MoralData:
    path = Path(source)
    if not path.exists():
        looks_like_a_file = not isinstance(source, str) or path.suffix or len(path.parts) > 1
        suffixes = ", ".join((*SUFFIXES, ".zip"))
        if looks_like_a_file:
            hint = f"or the name of a source; {nearest(str(source), SOURCES.names())}; with split=, of a hub data set"
            raise FileNotFoundError(f"no file {str(source)!r}; expected an existing file ({suffixes}) {hint}")
        more = f"an existing file ({suffixes}), or with split= a data set of the Hugging Face hub"
        raise ValueError(f"{unknown('data source', str(source), SOURCES.names())}; or {more}")
    suffix, sources = path.suffix.casefold(), list_sources()
    for known in sources:
        if known.recognises is not None and known.recognises(path):
            _refuse(f"{path.name}, recognised as {known.name!r}", **options)
            return known.scenarios(path)
    if suffix == ".parquet" and path.is_file() and has_provenance(path):
        _refuse(f"{path.name}, which sae_moral built", **options)
        return read_parquet(path)
    rows = read_rows(path)
    for known in sources:
        if known.read is not None and known.has_columns(rows, suffix):
            _refuse(f"{path.name}, recognised as {known.name!r}", **options)
            return known.read(rows)
    return table_data(rows, **options)


def _refuse(what: str, **options: Any) -> None:
    if (groups := options.get("groups")) is not None:
        expected = f"expected {', '.join(KINDS)} or a value per record; a name of yours is the column of a table"
        raise ValueError(f"groups={groups!r:.80} given for {what}; {expected}")
    given = [f"{name}=" for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{' and '.join(given)} given for {what}, to which it does not apply; leave it out")
