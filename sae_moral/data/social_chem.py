"""Social-Chemistry-101 (Forbes et al. 2020): everyday actions with moral judgements, as ten-dimensional vectors.

At full scale, 355,922 annotations become 251,334 records, as arXiv 2603.15615 makes them (§1): kept are annotations
with `rot-bad` 0 and `m` 1 whose action, foundations, judgement and agreement are all present. Each gets a moral vector
(`sae_moral.foundations.moral_vector`) and one record per foundation it names. The table itself is read in
`social_chem_tsv`.

An annotation's id is `socialchem_` and its place among the kept ones in the order of the file, from 0, with six digits:
the numbering of the data published with ReSO (evidence in docs/design/data.md). `verify` compares every published count
with what was built.

A stratified sample, as published with ReSO, has one JSON object per line. A row is already one record, the item of one
foundation (`sampled_dimension`); what it says of itself must agree with its vector.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sae_moral.data.cells import Row
from sae_moral.data.download import Remote, fetch
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.parquet import has_provenance, read_parquet, write_parquet
from sae_moral.data.provenance import Source, provenance
from sae_moral.data.reliability import provided
from sae_moral.data.rows import Rows, read_rows
from sae_moral.data.social_chem_tsv import FIRST, MEMBER, Annotations, Malformed, is_social_chem, read_annotations
from sae_moral.data.splits import PARTS, group_split, leaks, paper_split
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, POLARITIES, VICE, VIRTUE
from sae_moral.io import cache_folder, locked

REMOTE = Remote(
    name="social-chem-101",
    url="https://storage.googleapis.com/ai2-mosaic-public/projects/social-chemistry/data/social-chem-101.zip",
    member=MEMBER,
    sha256="6a289ec5f814ec975deacc244ed7b5758911611847c0834bf6b2f32817722aea",
)
_FORMAT = 2
"""Of the cached parquet file; raise it when the records change."""
QUOTAS: dict[float, int] = {0.125: 300, 0.25: 300, 0.375: 300, 0.5: 300, 0.75: 300, 1.0: 150}
"""Typicality → at most so many records of each foundation and pole (arXiv 2603.15615, §1)."""
NEUTRAL_QUOTA = 300
"""At most so many neutral records of each foundation."""

# All records


def load_social_chem(
    path: str | Path | None = None, *, malformed: Malformed = "refuse", offline: bool | None = None
) -> MoralData:
    """All records: of a file, or of the published table, which is downloaded once (28 MB) and kept in the cache.

    Args:
        path: the TSV, the zip around it, a parquet file of `build`, or a stratified sample (.jsonl).
        malformed: for a TSV or zip, `refuse` a line that cannot be read or `drop` and count it.
        offline: never download; by default as the environment says (`SAE_MORAL_OFFLINE`, `HF_HUB_OFFLINE`).

    Raises:
        DataError: names file, row and column; or the download failed or has another checksum.
        FileNotFoundError: no such file; or offline and not in the cache: the message says where to put it.
    """
    if path is None:
        return _cached(offline)
    path = Path(path)
    if path.is_dir() or is_social_chem(path):
        return records(read_annotations(path, malformed=malformed))
    if path.suffix.casefold() == ".parquet" and has_provenance(path):
        return read_parquet(path)
    if path.suffix.casefold() in (".tsv", ".txt"):
        return records(read_annotations(path, malformed=malformed))  # says what is wrong with its header
    rows = read_rows(path)
    if not set(sample_source.columns) & rows.columns.keys():
        expected = f"expected {MEMBER}, the zip around it, a parquet file built of it, or a stratified sample (.jsonl)"
        raise DataError(f"not Social-Chemistry-101; {expected}", file=path.name)
    return read_sample(rows)


def build(
    path: str | Path | None, out: str | Path, *, malformed: Malformed = "refuse", offline: bool | None = None
) -> Path:
    """Write all records of a TSV or zip to a parquet file with its provenance, and the paper's split as a column.

    Without a path the table is taken from the cache, or downloaded once.

    Returns:
        `out`.

    Raises:
        DataError: as `load_social_chem`; or `out` is not a .parquet file.
    """
    return _write(load_social_chem(path, malformed=malformed, offline=offline), out)


def records(annotations: Annotations) -> MoralData:
    """One record per (annotation, foundation named), in the order of the file and of the names.

    Raises:
        DataError: no annotation with m = 1.
    """
    single = np.flatnonzero(annotations.m == 1)
    if not len(single):
        raise DataError("no annotation with m = 1; expected at least one", file=annotations.file, column="m")
    named = [annotations.foundations[i] for i in single]
    place = np.repeat(np.arange(len(single)), [len(foundations) for foundations in named])
    foundation = np.fromiter((index for foundations in named for index in foundations), np.int64, len(place))
    strength = (annotations.judgment / 2 * annotations.agreement / 4)[single]
    pole = np.where(strength > 0, VIRTUE, np.where(strength < 0, VICE, NEUTRAL))
    vector = np.zeros((len(single), len(DIMENSIONS)))
    slot = 2 * foundation + (pole[place] == VICE)
    vector[place, slot] = np.abs(strength)[place]
    return MoralData(
        text=tuple(annotations.text[single[i]] for i in place),
        vector=vector[place],
        foundation=foundation,
        pole=pole[place],
        typicality=np.abs(strength)[place],
        id=tuple(f"socialchem_{i:06d}" for i in place),
        provenance=_provenance(annotations, len(single), len(place)),
    )


def _provenance(annotations: Annotations, n_ids: int, n: int) -> dict[str, object]:
    repeated = np.flatnonzero(annotations.m != 1)
    dropped = dict(annotations.dropped)
    if len(repeated):
        dropped["several annotators (m > 1)"] = {
            "count": len(repeated),
            "first_rows": annotations.row[repeated[:FIRST]].tolist(),
        }
    left_out = {reason: found["count"] for reason, found in dropped.items()}
    whole = not any(reason.startswith("malformed") for reason in dropped)
    file, sha256 = annotations.file, annotations.sha256
    found = provenance(sample_source, file=file, sha256=sha256, n_read=annotations.n_rows, n=n, left_out=left_out)
    published = annotations.sha256 == REMOTE.sha256
    return {
        **found,
        "n_ids": n_ids,
        "dropped": dropped,
        "irregular": annotations.irregular,
        "published_file": published,
        "ids_as_published": whole,
        "reliability": provided(annotations),
    }


def _cached(offline: bool | None) -> MoralData:
    folder = cache_folder(REMOTE.name)
    built = folder / f"{REMOTE.name}-v{_FORMAT}-{REMOTE.sha256[:8]}.parquet"
    if built.exists():
        return read_parquet(built)
    data = load_social_chem(fetch(REMOTE, folder, offline=offline))
    with locked(folder, wait=True):
        _write(data, built)
    return data


def _write(data: MoralData, out: str | Path) -> Path:
    out = Path(out)
    if out.suffix.casefold() != ".parquet":
        raise DataError(f"the built file is written as parquet; expected a name like {out.stem}.parquet", file=out.name)
    part = np.empty(len(data), dtype=object)
    for name, rows in paper_split(data.id).items():
        part[rows] = name
    return write_parquet(data, out, columns={"split": part.tolist()})


# The stratified sample


def diagnosis_sample(path: str | Path | None = None, *, seed: int = 42, offline: bool | None = None) -> MoralData:
    """The stratified sample of `load_social_chem(path)`: what a diagnosis measures on, and what the name
    `social-chem-101` stands for. A file that already is such a sample comes back whole."""
    return stratified_sample(load_social_chem(path, offline=offline), seed)


def read_sample(rows: Rows) -> MoralData:
    """A stratified sample: one record per row, ids and texts may repeat.

    Raises:
        DataError: names file, row and column of what is missing, not valid, or contradicts the row's vector.
    """
    read = [_record(row) for row in rows.read(sample_source.columns)]
    found = provenance(sample_source, file=rows.file, sha256=rows.sha256, n_read=len(read), n=len(read))
    return from_records(read, found)


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


def stratified_sample(data: MoralData, seed: int = 42) -> MoralData:
    """At most 300 records at each typicality from 0.125 to 0.75 and 150 at 1.0 for every foundation and pole, and 300
    neutral ones for every foundation, in the order of the data. About 16,135 of the 251,334 records.

    The draws are those of the script published with ReSO (`random.Random(seed).sample`, foundation after foundation;
    virtues by typicality, vices by typicality, neutrals), so the same records in the same order with its seed, 42,
    should give its sample. A sample of such a sample is itself. Records of another typicality are left out.

    Raises:
        DataError: no record has one of the typicalities.
    """
    generator = random.Random(seed)
    chosen: list[int] = []
    for foundation in range(len(FOUNDATIONS)):
        own = data.foundation == foundation
        strata = [
            (own & (data.pole == pole) & np.isclose(data.typicality, typicality), quota)
            for pole in (VIRTUE, VICE)
            for typicality, quota in QUOTAS.items()
        ]
        for mask, quota in (*strata, (own & (data.pole == NEUTRAL), NEUTRAL_QUOTA)):
            rows = np.flatnonzero(mask).tolist()
            chosen += generator.sample(rows, min(quota, len(rows)))
    if not chosen:
        levels = ", ".join(f"{typicality:g}" for typicality in QUOTAS)
        raise DataError(f"nothing to sample: no neutral record of a foundation and none of typicality {levels}")
    part = data.subset(np.sort(np.array(chosen, dtype=np.int64)))
    quotas = {f"{typicality:g}": quota for typicality, quota in QUOTAS.items()} | {"neutral": NEUTRAL_QUOTA}
    drawn = {"n": len(part), "of": len(data), "seed": seed, "quotas": quotas}
    return replace(part, provenance={**data.provenance, "stratified": drawn})


# Published counts

N_ROWS = 355_922
N_IDS = 203_431
N_RECORDS = 251_334
IDS = {"train": 162_744, "validation": 20_343, "test": 20_344}
RECORDS = {"train": 201_023, "validation": 25_170, "test": 25_141}
TRAIN = {
    "care-harm": (25_464, 32_684, 34_163),
    "fairness-cheating": (5_491, 16_208, 13_777),
    "loyalty-betrayal": (8_863, 13_781, 15_311),
    "authority-subversion": (3_423, 8_034, 9_794),
    "sanctity-degradation": (1_722, 6_876, 5_432),
}
"""Records of the train part: virtue, vice, neutral (arXiv 2603.15615; all counts above too)."""
SEEN = {"validation": 4_714, "test": 4_803}
"""Records whose text, character for character, is also in the train part (the audit published with ReSO)."""


class Count(NamedTuple):
    """One count: what it counts, what was published (None: nothing), what is there, and whether they agree."""

    name: str
    expected: int | None
    found: int | None
    ok: bool


def verify(data: MoralData) -> list[Count]:
    """Every published count against the data: rows, ids, records, the paper's split, each foundation × pole of its
    train part, and how many texts leak in it and in the split by text (none may)."""
    by_id, by_text = paper_split(data.id), group_split(data)
    rows = data.provenance.get("n_read")
    counts = [
        _count("rows in the table", N_ROWS, rows if isinstance(rows, int) else None),
        _count("ids", N_IDS, len(set(data.id))),
        _count("records", N_RECORDS, len(data)),
    ]
    for part in PARTS:
        counts.append(_count(f"{part}: ids", IDS[part], len({data.id[i] for i in by_id[part]})))
        counts.append(_count(f"{part}: records", RECORDS[part], len(by_id[part])))
    cells = np.bincount(data.foundation[by_id["train"]] * 3 + data.pole[by_id["train"]] + 3, minlength=18).tolist()
    for f, foundation in enumerate(FOUNDATIONS):
        for pole, expected in enumerate(TRAIN[foundation]):
            counts.append(_count(f"train: {foundation}, {POLARITIES[pole]}", expected, cells[3 * f + pole + 3]))
    train = {data.text[i] for i in by_id["train"]}
    for part, expected in SEEN.items():
        seen = sum(data.text[i] in train for i in by_id[part])
        counts.append(_count(f"{part}: records whose exact text is in train", expected, seen))
    counts.append(_count("texts in several parts of the split by id", None, leaks(data, by_id).texts))
    counts.append(_count("texts in several parts of the split by text", 0, leaks(data, by_text).texts))
    return counts


def verification_table(counts: Sequence[Count]) -> str:
    """The counts as a table, those that differ marked, and a last line that says how many do."""
    width = max(len(count.name) for count in counts)
    lines = [f"{'':<{width}}  {'published':>10}  {'found':>10}"]
    for count in counts:
        expected, found = ("–" if value is None else f"{value:,}" for value in (count.expected, count.found))
        lines.append(f"{count.name:<{width}}  {expected:>10}  {found:>10}{'' if count.ok else '  differs'}")
    wrong = sum(not count.ok for count in counts)
    compared = sum(count.expected is not None for count in counts)
    summary = f"{wrong} of {compared} counts differ" if wrong else f"all {compared} counts agree"
    return "\n".join([*lines, summary])


def _count(name: str, expected: int | None, found: int | None) -> Count:
    return Count(name, expected, found, expected is None or expected == found)


# Sources

sample_source = Source(
    name="social-chem-101",
    what="everyday actions with crowd judgements: the stratified sample for a diagnosis, about 16,000 records",
    licence="CC BY-SA 4.0",
    citation="Forbes, Hwang, Shwartz, Sap & Choi (2020), Social Chemistry 101: Learning to Reason about Social and "
    "Moral Norms, EMNLP 2020; vectors as in arXiv 2603.15615",
    obtain="downloaded on first use (28 MB); or pass the .tsv, its .zip, a built .parquet or a .jsonl sample as path=",
    suffix=".jsonl",
    columns=(
        "id", "action", "rot-moral-foundations", "moral_vector", "m_virtue", "m_vice", "sampled_dimension",
        "sample_type", "score_stratum",
    ),
    read=read_sample,
    load=diagnosis_sample,
)  # fmt: skip
full_source = Source(
    name="social-chem-101-full",
    what="everyday actions with crowd judgements: all 251,334 records, not a sample",
    licence=sample_source.licence,
    citation=sample_source.citation,
    obtain=sample_source.obtain,
    load=load_social_chem,
    recognises=lambda path: path.suffix.casefold() in (".tsv", ".zip") and path.is_file() and is_social_chem(path),
)
