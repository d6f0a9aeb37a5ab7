"""Social-Chemistry-101 (Forbes et al. 2020): everyday actions with moral judgements, as ten-dimensional vectors.

The whole corpus is read in `social_chem_full`. Here: the format of the stratified sample published with ReSO, one JSON
object per line. A row is already one record, the item of one foundation (`sampled_dimension`); what it says of itself
must agree with its vector.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sae_moral.data.cells import Row
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.provenance import SourceInfo, provenance
from sae_moral.data.readers import Rows, read_rows
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, POLARITIES

INFO = SourceInfo(
    name="social-chem-101",
    what="everyday actions with crowd judgements: the stratified sample for a diagnosis, about 16,000 records",
    licence="CC BY-SA 4.0",
    citation="Forbes, Hwang, Shwartz, Sap & Choi (2020), Social Chemistry 101: Learning to Reason about Social and "
    "Moral Norms, EMNLP 2020; vectors as in arXiv 2603.15615",
    obtain="downloaded on first use (28 MB); or pass the .tsv, its .zip, a built .parquet or a .jsonl sample as path=",
)
FULL = replace(
    INFO, name="social-chem-101-full", what="everyday actions with crowd judgements: all 251,334 records, not a sample"
)
SAMPLE_FIELDS: tuple[str, ...] = (
    "id",
    "action",
    "rot-moral-foundations",
    "moral_vector",
    "m_virtue",
    "m_vice",
    "sampled_dimension",
    "sample_type",
    "score_stratum",
)
"""The columns by which a stratified sample is recognised."""


def load_social_chem_sample(path: str | Path) -> MoralData:
    """A stratified sample: one record per row, ids and texts may repeat.

    Raises:
        DataError: names file, row and column of what is missing, not valid, or contradicts the row's vector.
        FileNotFoundError: no such file.
    """
    return sample_data(read_rows(path))


def sample_data(rows: Rows) -> MoralData:
    """As `load_social_chem_sample`, of rows already parsed."""
    records = [_record(row) for row in rows.read(SAMPLE_FIELDS)]
    n = len(records)
    return from_records(records, provenance(INFO, file=rows.file, sha256=rows.sha256, n_read=n, n=n))


def _record(row: Row) -> tuple[str, str, np.ndarray, int]:
    vector = row.vector("moral_vector")
    foundation = row.choice("sampled_dimension", {name: index for index, name in enumerate(FOUNDATIONS)})
    named = row.foundations("rot-moral-foundations")
    if foundation is None or foundation not in named:
        raise row.error("sampled_dimension", "not among the foundations of rot-moral-foundations; expected one of them")
    virtue, vice = own = vector[2 * foundation : 2 * foundation + 2].tolist()
    expected = np.zeros(len(DIMENSIONS))
    for index in named:
        expected[2 * index : 2 * index + 2] = own
    if not np.array_equal(vector, expected):
        slot = int(np.flatnonzero(vector != expected)[0])
        raise row.error(
            "moral_vector",
            f"{DIMENSIONS[slot]} is {vector[slot]}; expected {expected[slot]}: every foundation of "
            "rot-moral-foundations has the strengths of sampled_dimension, the others 0",
        )
    for column, strength in (("m_virtue", virtue), ("m_vice", vice), ("score_stratum", max(own))):
        if row.number_in(column, 0, 1) != strength:
            raise row.error(column, f"{row.values[column]} but the vector says {strength}")
    pole = POLARITIES[own.index(max(own)) if any(own) else NEUTRAL]
    sample_type = f"{pole}_typical" if max(own) == 1 else pole
    if row.text("sample_type") != sample_type:
        raise row.error("sample_type", f"{row.values['sample_type']!r} but the vector says {sample_type!r}")
    return row.identifier(), row.text("action"), vector, foundation
