"""Where scenarios come from: a source, and the record of one reading of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_moral.data.moral_data import MoralData
from sae_moral.data.rows import Rows, read_rows
from sae_moral.shown import shown


@shown()
@dataclass(frozen=True)
class Source:
    """Scenarios with labels that `load_data` knows by name: an entry point of the group `sae_moral.sources`.

    Most sources are a table, and need `suffix`, `columns` and `read` only: such a file is recognised when it is given
    by its path.

    Attributes:
        name: what `load_data` and `--data` call it.
        what: what the scenarios and the labels are.
        licence: the licence of the data, or that none is stated.
        citation: the publication to cite.
        obtain: how to get it.
        suffix: of its table: `.jsonl`, `.csv`, `.tsv` or `.parquet`.
        columns: of its table, by which it is recognised.
        read: from the rows of its table to the scenarios.
        load: from the `path` a user gives, or None, to the scenarios; by default the table at `path` is read.
        recognises: whether a file that is no table of `read_rows` is this source's; such a file is given to `load`.
    """

    name: str
    what: str
    licence: str
    citation: str
    obtain: str
    suffix: str = ""
    columns: tuple[str, ...] = ()
    read: Callable[[Rows], MoralData] | None = None
    load: Callable[[Path | None], MoralData] | None = None
    recognises: Callable[[Path], bool] | None = None

    def __post_init__(self) -> None:
        if self.load is None and self.read is None:
            raise ValueError(f"the source {self.name!r} has neither load= nor read=; expected one of them")
        if self.recognises is not None and self.load is None:
            raise ValueError(f"the source {self.name!r} has recognises= without load=, which would read such a file")
        if (self.read is None) != (not self.columns) or (self.read is None) != (not self.suffix):
            raise ValueError(f"the source {self.name!r} needs suffix=, columns= and read= together, or none of them")

    def scenarios(self, path: Path | None = None) -> MoralData:
        """The scenarios of the file at `path`, or of wherever the source has its own.

        Raises:
            ValueError: a source that needs a `path`.
            DataError, FileNotFoundError: as `load_data`.
        """
        if self.load is not None:
            return self.load(path)
        if path is None:
            raise ValueError(
                f"the source {self.name!r} is not shipped with this package (licence: {self.licence}); {self.obtain}, "
                "or as the source itself"
            )
        assert self.read is not None
        return self.read(read_rows(path))

    def has_columns(self, rows: Rows, suffix: str) -> bool:
        """Whether a file of this suffix with these rows is this source's table."""
        return self.read is not None and suffix == self.suffix and set(self.columns) <= rows.columns.keys()


def provenance(
    source: Source | str,
    *,
    file: str | Sequence[str] | None,
    sha256: str,
    n_read: int,
    n: int,
    revision: str | None = None,
    left_out: Mapping[str, int] | None = None,
    ignored_columns: Sequence[str] = (),
) -> dict[str, Any]:
    """The provenance of one reading; JSON values only.

    Args:
        source: a known source, or the kind of one that is not (its licence and citation are then null).
        file: name of the file or files, without folders.
        sha256: hash of the file's bytes; of several files, of their bytes one after the other in the order of `file`.
        n_read: rows in the file or files.
        n: records made of them.
        revision: version of the source, where it has one.
        left_out: rows left out, counted by reason.
        ignored_columns: columns the caller asked to ignore.
    """
    known = source if isinstance(source, Source) else None
    return {
        "source": known.name if known else source,
        "file": file if file is None or isinstance(file, str) else list(file),
        "sha256": sha256,
        "revision": revision,
        "licence": known.licence if known else None,
        "citation": known.citation if known else None,
        "n_read": n_read,
        "n": n,
        "left_out": dict(left_out or {}),
        "ignored_columns": list(ignored_columns),
    }
