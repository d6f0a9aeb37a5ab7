"""Social-Chemistry-101 at full scale: 355,922 annotations -> 251,334 records, as arXiv 2603.15615 makes them (§1).

Kept are annotations with `rot-bad` 0 and `m` 1 whose action, foundations, judgement and agreement are all present. Each
gets a moral vector (`sae_moral.foundations.moral_vector`) and is expanded into one record per foundation it names.

An annotation's id is `socialchem_` and its place among the kept ones in the order of the file, from 0, with six
digits: the numbering of the data published with ReSO. It fits the paper's count of 203,431 ids, and the 80/10/10 split
of those numbers puts 10, 16, 18, 43, 46, 51, 59, … into the validation part, as published. We could not compare every
row, as the full table is not in our test data; so `verify` compares every published count with what was built.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sae_moral.data.download import Remote, fetch
from sae_moral.data.moral_data import MoralData
from sae_moral.data.parquet import has_provenance, read_parquet, write_parquet
from sae_moral.data.provenance import provenance
from sae_moral.data.readers import read_rows
from sae_moral.data.social_chem import INFO, SAMPLE_FIELDS, sample_data
from sae_moral.data.social_chem_tsv import FIRST, MEMBER, Annotations, Malformed, is_social_chem, read_annotations
from sae_moral.data.splits import paper_split
from sae_moral.data.stratified import stratified_sample
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, NEUTRAL, VICE, VIRTUE
from sae_moral.io import cache_folder

REMOTE = Remote(
    name=INFO.name,
    url="https://storage.googleapis.com/ai2-mosaic-public/projects/social-chemistry/data/social-chem-101.zip",
    member=MEMBER,
    sha256="6a289ec5f814ec975deacc244ed7b5758911611847c0834bf6b2f32817722aea",
)
_FORMAT = 1
"""Of the cached parquet file; raise it when the records change."""


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
        read_annotations(path)  # refuses it, and says what is wrong with the header
    rows = read_rows(path)
    if not set(SAMPLE_FIELDS) & rows.columns.keys():
        expected = f"expected {MEMBER}, the zip around it, a parquet file built of it, or a stratified sample (.jsonl)"
        raise DataError(f"not Social-Chemistry-101; {expected}", file=path.name)
    return sample_data(rows)


def diagnosis_sample(path: str | Path | None = None, *, seed: int = 42, offline: bool | None = None) -> MoralData:
    """The stratified sample of `load_social_chem(path)`: what a diagnosis measures on, and what the name
    `social-chem-101` stands for. A file that already is such a sample comes back whole."""
    return stratified_sample(load_social_chem(path, offline=offline), seed)


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
    found = provenance(
        INFO, file=annotations.file, sha256=annotations.sha256, n_read=annotations.n_rows, n=n, left_out=left_out
    )
    published = annotations.sha256 == REMOTE.sha256
    return {
        **found,
        "n_ids": n_ids,
        "dropped": dropped,
        "irregular": annotations.irregular,
        "published_file": published,
        "ids_as_published": whole,
    }


def _cached(offline: bool | None) -> MoralData:
    folder = cache_folder(REMOTE.name)
    built = folder / f"{REMOTE.name}-v{_FORMAT}-{REMOTE.sha256[:8]}.parquet"
    if built.exists() and has_provenance(built):
        return read_parquet(built)
    data = load_social_chem(fetch(REMOTE, folder, offline=offline))
    if data.provenance["sha256"] != REMOTE.sha256:  # put there by hand, or changed since
        problem = f"sha256 {data.provenance['sha256']}; expected {REMOTE.sha256}. Remove it from {str(folder)!r}"
        raise DataError(f"{problem}, or pass it as path= to use it as it is", file=MEMBER)
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
