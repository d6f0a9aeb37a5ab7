"""Tables in memory, and on the Hugging Face hub, as rows: what a user's own script holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sae_moral.data.rows import Rows, arrow_rows, columns_rows, records_rows
from sae_moral.errors import DataError, in_one_line


def in_memory(source: Any, split: str | None = None, limit: int | None = None) -> tuple[str, Rows]:
    """What kind of table it is, and its rows.

    Args:
        source: see `sae_moral.data.load_data`.
        split: of a `DatasetDict`.
        limit: of an `IterableDataset`.

    Raises:
        DataError: no rows, or none that can be read.
        ValueError: a split that is not there or of nothing that has splits; no limit where one is needed, or one that
            is not.
        TypeError: something else.
    """
    datasets, kind = sys.modules.get("datasets"), type(source).__name__
    splits = datasets is not None and isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict)
    if splits:
        names = ", ".join(map(repr, source))
        if split is None:
            raise DataError(f"a {kind} with the splits {names}; expected split= to say which")
        if split not in source:
            raise ValueError(f"no split {split!r}; this {kind} has {names}")
        return in_memory(source[split], limit=limit)
    if split is not None:
        raise ValueError(f"split={split!r} given for a {kind}, which has none; leave it out")
    if datasets is not None and isinstance(source, datasets.IterableDataset):
        if limit is None or limit < 1:
            raise ValueError(f"limit={limit} for an IterableDataset, which may have no end; expected the rows to read")
        return "datasets.IterableDataset", records_rows(source.take(limit), kind)
    if limit is not None:
        raise ValueError(f"limit={limit} given for a {kind}, which is read whole; take the rows you want of it")
    if datasets is not None and isinstance(source, datasets.Dataset):
        return "datasets.Dataset", arrow_rows(source.with_format("arrow")[:], kind, sha256="")
    home = type(source).__module__.partition(".")[0]
    if kind == "DataFrame" and home == "pandas":
        return "pandas.DataFrame", columns_rows(source.items(), kind)
    if kind == "DataFrame" and home == "polars":
        return "polars.DataFrame", columns_rows(source.to_dict(as_series=False).items(), kind)
    if kind == "Table" and home == "pyarrow":
        return "pyarrow.Table", arrow_rows(source, kind, sha256="")
    if isinstance(source, Mapping):
        return "dict of lists", columns_rows(source.items(), "dict")
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return "list of dicts", records_rows(source, "list")
    raise TypeError(
        f"a {kind}; expected a MoralData, a table in memory (Dataset, DataFrame, list of dicts, dict of lists), a "
        "file, or the name of a source (list_sources)"
    )


def from_hub(name: str, split: str) -> Any:
    """A split of a data set of the Hugging Face hub, or of its cache.

    Raises:
        ValueError: it is not to be had; with the hub's own words.
    """
    import datasets

    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # whatever the hub, the network or a loading script raises
        raise ValueError(
            f"no data set {name!r} with a split {split!r}: not a file, and the hub did not give it "
            f"({in_one_line(error, 300)}); expected owner/name as on huggingface.co/datasets, and a connection or an "
            "earlier download"
        ) from error
