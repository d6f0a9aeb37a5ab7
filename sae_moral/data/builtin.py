"""The built-in sources besides Social-Chemistry: scenarios-400, MoralStrength, the vignettes, the Reddit corpus.

**scenarios-400**: 360 sentences written for this package, twelve of each foundation, pole and grade (1 slight, 2 clear,
3 grave or great), and 60 neutral ones of no foundation. Strength = grade / 3. The author graded them and no one rated
them: they are for teaching and smoke tests (docs/sources.md says how they were written, and what they cannot show).

**MoralStrength** (Araque, Gatti & Kalimeri 2020): crowd ratings of 2,656 words for the five foundations. A rating r
from 1 (vice) to 9 (virtue) becomes the strength |r − 5| / 4 of the vice (r < 5) or the virtue (r > 5); 5 is neutral.
One record per rating; its vector holds all ratings of its word. The files are those of the Python package
`moralstrength`, which is found but never imported (importing it would need spaCy).

**Moral Foundations Vignettes** (Clifford et al. 2015): violations of one foundation each, rated for wrongness. Mean
wrongness w from 0 to 4 becomes the vice strength w / 4; w = 0 is neutral of its foundation. Breaches of mere social
norms are neutral and of no foundation. Liberty is none of the five foundations: its vignettes are left out.

**Moral Foundations Reddit Corpus** (Trager et al. 2022): comments, and how many annotators found each foundation at
issue. The counts hold no pole, and none is guessed: the strength stands in the slot of the foundation's own name (care,
fairness, loyalty, authority, sanctity), where other sources have the virtue, and no record is a vice. So what compares
virtue with vice has no items and gives no number, and what remains reads: `care` = how strongly care is at issue.
Strength = annotators who marked the foundation / annotators of the comment; their number is not in the file and is
taken as three, or the largest count in the row (docs/design/data.md). Equality and Proportionality are the two halves
of fairness: the larger counts. A comment that no one found moral is neutral and of no foundation. One that was found
moral, but of no foundation (Thin Morality), is left out, and counted.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import importlib.util
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np

from sae_moral.data.cells import Row
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.provenance import Source, provenance
from sae_moral.data.rows import Rows, parse_csv, read_rows
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, NO_FOUNDATION, POLARITIES, VICE, VIRTUE

_OLDER_NAMES = ("care", "fairness", "loyalty", "authority", "purity")
"""The foundations in the order of `FOUNDATIONS` as MoralStrength and the Reddit corpus name them; purity: sanctity."""

# Scenarios of our own

SCENARIOS = "scenarios_400.csv"
GRADES = 3


def load_scenarios(path: Path | None = None) -> MoralData:
    """The 420 scenarios, foundation after foundation, virtues before vices, slight before grave, the neutral ones last.

    Args:
        path: a table of the same columns (id, foundation, pole, grade, text); by default the one of this package.

    Raises:
        DataError: names file, row and column.
    """
    shipped = files("sae_moral.data").joinpath(SCENARIOS)
    rows = read_rows(path) if path is not None else parse_csv(shipped.read_bytes(), SCENARIOS)
    records: list[tuple[str, str, np.ndarray, int]] = []
    for row in rows.read(("id", "foundation", "pole", "grade", "text")):
        pole = row.choice("pole", {name: index for index, name in enumerate(POLARITIES)})
        given = pole != NEUTRAL or not row.is_missing("foundation")
        foundations = row.foundations("foundation") if given else (NO_FOUNDATION,)
        vector = np.zeros(len(DIMENSIONS))
        if pole != NEUTRAL:
            vector[[2 * one + int(pole == VICE) for one in foundations]] = row.number_in("grade", 1, GRADES) / GRADES
        records += [(row.identifier(), row.text("text"), vector, foundation) for foundation in foundations]
    n = len(records)
    found = provenance(scenarios_400, file=rows.file, sha256=rows.sha256, n_read=n, n=n)
    return from_records(records, {**found, "labels": GRADED})


GRADED = "grades 1 to 3 that the author of the sentences gave; no one else rated them"

scenarios_400 = Source(
    name="scenarios-400",
    what="420 sentences written and graded for this package, for teaching and smoke tests; publish with rated sources",
    licence="MIT (this package's)",
    citation="The sae_moral authors (2026), scenarios-400, part of sae_moral (CITATION.cff)",
    obtain="part of this package",
    load=load_scenarios,
)

# MoralStrength

INSTALL = "pip install --no-deps moralstrength"


def load_moralstrength(folder: Path | None = None) -> MoralData:
    """The 2,845 ratings, foundation after foundation, words in the order of the files.

    Args:
        folder: where `care.tsv`, `fairness.tsv`, `loyalty.tsv`, `authority.tsv` and `purity.tsv` are; by default in
            the installed package `moralstrength`.

    Raises:
        ModuleNotFoundError: the package is not installed; the message says how.
        DataError: a file, row or rating that is not as described above.
    """
    files = [(folder if folder is not None else _package_folder()) / f"{name}.tsv" for name in _OLDER_NAMES]
    contents = [_read_file(file) for file in files]
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
            moralstrength,
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


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        expected = f"expected {', '.join(f'{name}.tsv' for name in _OLDER_NAMES)} side by side"
        problem = f"not in the folder {file.parent.name!r}; {expected}; reinstall with: {INSTALL}"
        raise DataError(problem, file=file.name) from None


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


moralstrength = Source(
    name="moralstrength",
    what="2,845 crowd ratings (1–9) of 2,656 English words for the five moral foundations",
    licence="LGPL-3.0",
    citation="Araque, Gatti & Kalimeri (2020), MoralStrength: Exploiting a moral lexicon and embedding similarity for "
    "moral foundations prediction, Knowledge-Based Systems 191, 105184",
    obtain=INSTALL,
    load=load_moralstrength,
)

# Vignettes

_VIGNETTE_FOUNDATIONS: dict[str, int | None] = {
    **{dimension.capitalize(): index for index, dimension in enumerate(DIMENSIONS[VIRTUE::2])},
    "Social Norms": NO_FOUNDATION,
    "Liberty": None,  # left out
}


def read_vignettes(rows: Rows) -> MoralData:
    """The vignettes of the five foundations and of social norms, in the order of the file.

    Raises:
        DataError: names file, row and column.
    """
    records: list[tuple[str, str, np.ndarray, int]] = []
    left_out: Counter[str] = Counter()
    for row in rows.read(vignettes.columns):
        identifier, text = row.identifier(), row.text("text")
        wrongness = row.number_in("wrong", 0, 4)
        foundation = row.choice("foundation_coarse", _VIGNETTE_FOUNDATIONS)
        if foundation is None:
            left_out[row.text("foundation_coarse")] += 1
            continue
        vector = np.zeros(len(DIMENSIONS))
        if foundation != NO_FOUNDATION:
            vector[2 * foundation + VICE] = wrongness / 4
        records.append((identifier, text, vector, foundation))
    n_read = len(records) + left_out.total()
    return from_records(
        records,
        provenance(vignettes, file=rows.file, sha256=rows.sha256, n_read=n_read, n=len(records), left_out=left_out),
    )


vignettes = Source(
    name="vignettes",
    what="one-sentence violations of each moral foundation, and of social norms, with their mean wrongness (0–4)",
    licence="not stated",
    citation="Clifford, Iyengar, Cabeza & Sinnott-Armstrong (2015), Moral foundations vignettes: a standardized "
    "stimulus database of scenarios based on moral foundations theory, Behavior Research Methods 47, 1178–1198",
    obtain="pass the vignettes' .jsonl file as path=",
    suffix=".jsonl",
    columns=("id", "foundation_coarse", "wrong", "text"),
    read=read_vignettes,
)

# Reddit corpus

LABELS = (
    "share of annotators who found the foundation at issue; whether it is upheld or violated is not labelled, and the "
    "strength stands in the slot of the foundation's own name"
)
_HALVES = {"fairness": ("Equality", "Proportionality")}
_REDDIT_COLUMNS = tuple(_HALVES.get(name, (name.capitalize(),)) for name in _OLDER_NAMES)
_NOT_MORAL, _THIN = "Non-Moral", "Thin Morality"
_COUNTS = (*(name for names in _REDDIT_COLUMNS for name in names), _NOT_MORAL, _THIN)
_ANNOTATORS, _MOST = 3, 4


def read_reddit_corpus(rows: Rows) -> MoralData:
    """One record per comment and foundation found in it, and one per neutral comment, in the order of the file.

    Raises:
        DataError: names file, row and column.
    """
    records: list[tuple[str, str, np.ndarray, int]] = []
    left_out: Counter[str] = Counter()
    n_read = 0
    for row in rows.read(reddit_corpus.columns):
        n_read += 1
        counts = {name: _count(row, name) for name in _COUNTS}
        if not any(counts.values()):
            raise row.error(_NOT_MORAL, "no annotator in any column; expected at least one")
        vector = np.zeros(len(DIMENSIONS))
        vector[VIRTUE::2] = [max(counts[name] for name in names) for names in _REDDIT_COLUMNS]
        vector /= max(_ANNOTATORS, *counts.values())
        if not vector.any() and counts[_THIN]:
            left_out["moral, but of no foundation (Thin Morality)"] += 1
            continue
        foundations = np.flatnonzero(vector[VIRTUE::2]).tolist() or [NO_FOUNDATION]
        text, name = _comment(row), f"mfrc_{row.values['ID']}"
        records += [(name, text, vector, foundation) for foundation in foundations]
    found = provenance(
        reddit_corpus, file=rows.file, sha256=rows.sha256, n_read=n_read, n=len(records), left_out=left_out
    )
    return from_records(records, {**found, "labels": LABELS, "poles": False})


def _count(row: Row, column: str) -> int:
    number = row.number_in(column, 0, _MOST)
    if number % 1:
        raise row.error(column, f"{number}; expected a number of annotators")
    return int(number)


def _comment(row: Row) -> str:
    """The comment; HTML entities, some of them escaped twice, become the characters they stand for."""
    text = row.text("text")
    while (plain := html.unescape(text)) != text:
        text = plain
    if not text.strip():
        raise row.error("text", "empty text; expected words")
    return text.strip()


reddit_corpus = Source(
    name="reddit-corpus",
    what="Reddit comments with the number of annotators (0–4) who found each foundation at issue; no poles (.tsv)",
    licence="CC BY 4.0 upstream; check before redistributing",
    citation="Trager et al. (2022), The Moral Foundations Reddit Corpus, arXiv 2208.05545",
    obtain="pass the aggregated .tsv file as path=",
    suffix=".tsv",
    columns=("ID", "text", *_COUNTS),
    read=read_reddit_corpus,
)
