"""Moral Foundations Reddit Corpus (Trager et al. 2022): comments, and how many annotators saw each foundation in them.

What the labels mean, and what they do not: an annotator marked the foundations a comment is *concerned with*. Praising
a nurse and cursing a thug both count for Care. The counts hold no pole, and nothing here guesses one. `MoralData`
needs a slot, so the strength stands in the slot of the foundation's own name, which is also the corpus's label: care,
fairness, loyalty, authority, sanctity, where for other sources the virtue stands. No record is a vice. So whatever
compares virtue with vice has no items and gives no number, and what remains reads: gradient and R² of `care` = how
strongly care is at issue; polarity = at issue or not. Never mix these records with those of a source that has poles.
(The alternatives are worse: to call all of it vice invents condemnation; to spread it over both poles is not a moral
vector; to call it neutral throws the labels away.) The provenance says the same under `labels` and `poles`.

Strength = annotators who marked the foundation / annotators of the comment. The file does not hold their number; the
corpus had at least three for every comment, and three fits nearly all counts, so it is three, or the largest count
in the row where that is more. Equality and Proportionality are the two halves of fairness: the larger counts. A comment
that no one found moral is neutral and of no foundation. One that was found moral, but of no foundation (Thin Morality),
is neither neutral nor an item of a foundation: left out, and counted.
"""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

import numpy as np

from sae_moral.data.cells import Row
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.provenance import SourceInfo, provenance
from sae_moral.data.readers import Rows, read_rows
from sae_moral.foundations import DIMENSIONS, NO_FOUNDATION, VIRTUE

INFO = SourceInfo(
    name="reddit-corpus",
    what="Reddit comments with the number of annotators (0–4) who found each foundation at issue; no poles (.tsv)",
    licence="CC BY 4.0 upstream; check before redistributing",
    citation="Trager et al. (2022), The Moral Foundations Reddit Corpus, arXiv 2208.05545",
    obtain="pass the aggregated .tsv file as path=",
)
LABELS = (
    "share of annotators who found the foundation at issue; whether it is upheld or violated is not labelled, and the "
    "strength stands in the slot of the foundation's own name"
)
_COLUMNS = (("Care",), ("Equality", "Proportionality"), ("Loyalty",), ("Authority",), ("Purity",))
"""In the order of `FOUNDATIONS`; purity is an older name of sanctity."""
_NOT_MORAL, _THIN = "Non-Moral", "Thin Morality"
_LABELS = (*(name for names in _COLUMNS for name in names), _NOT_MORAL, _THIN)
FIELDS: tuple[str, ...] = ("ID", "text", *_LABELS)
"""The columns, by which the file is recognised."""
ANNOTATORS = 3
MOST = 4


def load_reddit_corpus(path: str | Path) -> MoralData:
    """One record per comment and foundation found in it, and one per neutral comment, in the order of the file.

    Raises:
        DataError: names file, row and column.
        FileNotFoundError: no such file.
    """
    return reddit_data(read_rows(path))


def reddit_data(rows: Rows) -> MoralData:
    """As `load_reddit_corpus`, of rows already parsed."""
    records: list[tuple[str, str, np.ndarray, int]] = []
    left_out: Counter[str] = Counter()
    n_read = 0
    for row in rows.read(FIELDS):
        n_read += 1
        counts = {name: _count(row, name) for name in _LABELS}
        if not any(counts.values()):
            raise row.error(_NOT_MORAL, "no annotator in any column; expected at least one")
        vector = np.zeros(len(DIMENSIONS))
        vector[VIRTUE::2] = [max(counts[name] for name in names) for names in _COLUMNS]
        vector /= max(ANNOTATORS, *counts.values())
        if not vector.any() and counts[_THIN]:
            left_out["moral, but of no foundation (Thin Morality)"] += 1
            continue
        foundations = np.flatnonzero(vector[VIRTUE::2]).tolist() or [NO_FOUNDATION]
        text, name = _text(row), f"mfrc_{row.values['ID']}"
        records += [(name, text, vector, foundation) for foundation in foundations]
    found = provenance(INFO, file=rows.file, sha256=rows.sha256, n_read=n_read, n=len(records), left_out=left_out)
    return from_records(records, {**found, "labels": LABELS, "poles": False})


def _count(row: Row, column: str) -> int:
    number = row.number_in(column, 0, MOST)
    if number % 1:
        raise row.error(column, f"{number}; expected a number of annotators")
    return int(number)


def _text(row: Row) -> str:
    """The comment; HTML entities, some of them escaped twice, become the characters they stand for."""
    text = row.text("text")
    while (plain := html.unescape(text)) != text:
        text = plain
    if not text.strip():
        raise row.error("text", "empty text; expected words")
    return text.strip()
