"""Moral Foundations Vignettes (Clifford et al. 2015): violations of one foundation each, rated for wrongness.

Mean wrongness w from 0 to 4 becomes the vice strength w / 4; w = 0 is neutral of its foundation. Breaches of mere
social norms are neutral and of no foundation. Liberty is none of the five foundations: its vignettes are left out.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.provenance import SourceInfo, provenance
from sae_moral.data.readers import Rows, read_rows
from sae_moral.foundations import DIMENSIONS, NO_FOUNDATION, VICE

INFO = SourceInfo(
    name="vignettes",
    what="one-sentence violations of each moral foundation, and of social norms, with their mean wrongness (0–4)",
    licence="not stated",
    citation="Clifford, Iyengar, Cabeza & Sinnott-Armstrong (2015), Moral foundations vignettes: a standardized "
    "stimulus database of scenarios based on moral foundations theory, Behavior Research Methods 47, 1178–1198",
    obtain="pass the vignettes' .jsonl file as path=",
)
FIELDS: tuple[str, ...] = ("id", "foundation_coarse", "wrong", "text")
"""The columns that are read, and by which the file is recognised; others are not used."""

_FOUNDATIONS: dict[str, int | None] = {
    "Care": 0,
    "Fairness": 1,
    "Loyalty": 2,
    "Authority": 3,
    "Sanctity": 4,
    "Social Norms": NO_FOUNDATION,
    "Liberty": None,  # left out
}


def load_vignettes(path: str | Path) -> MoralData:
    """The vignettes of the five foundations and of social norms, in the order of the file.

    Raises:
        DataError: names file, row and column.
        FileNotFoundError: no such file.
    """
    return vignettes_data(read_rows(path))


def vignettes_data(rows: Rows) -> MoralData:
    """As `load_vignettes`, of rows already parsed."""
    records: list[tuple[str, str, np.ndarray, int]] = []
    left_out: Counter[str] = Counter()
    for row in rows.read(FIELDS):
        identifier, text = row.identifier(), row.text("text")
        wrongness = row.number_in("wrong", 0, 4)
        foundation = row.choice("foundation_coarse", _FOUNDATIONS)
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
        provenance(INFO, file=rows.file, sha256=rows.sha256, n_read=n_read, n=len(records), left_out=left_out),
    )
