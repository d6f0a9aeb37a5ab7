"""Where scenarios come from: what is known about a source, and the record of one reading of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SourceInfo:
    """A source this package knows by name.

    Attributes:
        name: what `load_data` and `--data` call it.
        what: what the scenarios and the labels are.
        licence: the licence of the data, or that none is stated.
        citation: the publication to cite.
        obtain: how to get it.
    """

    name: str
    what: str
    licence: str
    citation: str
    obtain: str


def provenance(
    source: SourceInfo | str,
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
    known = source if isinstance(source, SourceInfo) else None
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
