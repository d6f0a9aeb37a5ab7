"""MoralStrength: crowd ratings of 2,656 words for the five foundations (Araque, Gatti & Kalimeri 2020).

A rating r from 1 (vice) to 9 (virtue) becomes the strength |r − 5| / 4 of the vice (r < 5) or the virtue (r > 5); 5 is
neutral. One record per rating; its vector holds all ratings of its word. The files are those of the Python package
`moralstrength`, which is found but never imported (importing it would need spaCy).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np

from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.provenance import SourceInfo, provenance
from sae_moral.data.readers import parse_csv
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, VICE, VIRTUE

INSTALL = "pip install --no-deps moralstrength"
INFO = SourceInfo(
    name="moralstrength",
    what="2,845 crowd ratings (1–9) of 2,656 English words for the five moral foundations",
    licence="LGPL-3.0",
    citation="Araque, Gatti & Kalimeri (2020), MoralStrength: Exploiting a moral lexicon and embedding similarity for "
    "moral foundations prediction, Knowledge-Based Systems 191, 105184",
    obtain=INSTALL,
)
_FILES = {name: f"{name}.tsv" for name in ("care", "fairness", "loyalty", "authority", "purity")}
"""In the order of `FOUNDATIONS`; purity is an older name of sanctity."""


def load_moralstrength(folder: str | Path | None = None) -> MoralData:
    """The 2,845 ratings, foundation after foundation, words in the order of the files.

    Args:
        folder: where `care.tsv`, `fairness.tsv`, `loyalty.tsv`, `authority.tsv` and `purity.tsv` are; by default in
            the installed package `moralstrength`.

    Raises:
        ModuleNotFoundError: the package is not installed; the message says how.
        DataError: a file, row or rating that is not as described above.
    """
    files = [(Path(folder) if folder is not None else _package_folder()) / name for name in _FILES.values()]
    contents = [_read(file) for file in files]
    ratings = [_ratings(data, file.name) for data, file in zip(contents, files, strict=True)]
    vectors: dict[str, np.ndarray] = {}
    for foundation, by_word in enumerate(ratings):
        for word, rating in by_word.items():
            slot = 2 * foundation + (VICE if rating < 5 else VIRTUE)
            vectors.setdefault(word, np.zeros(len(DIMENSIONS)))[slot] = abs(rating - 5) / 4
    records = [
        (f"{FOUNDATIONS[foundation].split('-')[0]}:{word}", word, vectors[word], foundation)
        for foundation, by_word in enumerate(ratings)
        for word in by_word
    ]
    return from_records(
        records,
        provenance(
            INFO,
            file=[file.name for file in files],
            sha256=hashlib.sha256(b"".join(contents)).hexdigest(),
            revision=_version() if folder is None else None,
            n_read=len(records),
            n=len(records),
        ),
    )


def _package_folder() -> Path:
    spec = importlib.util.find_spec("moralstrength")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the ratings come with the Python package moralstrength, which is not installed; run: {INSTALL}",
            name="moralstrength",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "annotations" / "v1.1"


def _version() -> str | None:
    try:
        return importlib.metadata.version("moralstrength")
    except importlib.metadata.PackageNotFoundError:
        return None  # a copy on the path without its metadata


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        expected = f"expected {', '.join(_FILES.values())} side by side; reinstall with: {INSTALL}"
        raise DataError(f"not in the folder {file.parent.name!r}; {expected}", file=file.name) from None


def _ratings(data: bytes, file: str) -> dict[str, float]:
    # Quoting off: quotes are part of some words.
    rows = parse_csv(data, file, delimiter="\t", quoted=False)
    by_word: dict[str, float] = {}
    for row in rows.read(("WORD", "EXPRESSED_MORAL")):
        word = row.text("WORD")
        if word in by_word:
            raise row.error("WORD", f"{word!r} is rated twice; expected each word once")
        by_word[word] = row.number_in("EXPRESSED_MORAL", 1, 9)
    return by_word
