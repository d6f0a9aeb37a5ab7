"""Whatever the bytes, a reader of scenarios returns or raises our error, which names the file."""

from __future__ import annotations

import bz2
import csv
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from sae_moral.data import load_data, load_social_chem
from sae_moral.data.parquet import write_parquet
from sae_moral.data.social_chem_tsv import MEMBER, read_annotations
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS
from tests.data.invented_social_chem import write_table
from tests.tiny import scenarios

_TEXTS = ['leaving "the" gate open', "two\nlines, é", "waiting", "a\u2028b", "sharing bread; then not"]
_ANNOTATED = [
    {"id": f"n{i}", "text": text, "foundation": "care-harm|loyalty", "judgment": i % 5 - 2, "agreement": i % 5}
    for i, text in enumerate(_TEXTS)
]
_SAMPLE = {
    "id": "a", "action": "hiding a kite", "rot-moral-foundations": "care-harm", "moral_vector": [0.0, 0.5, *[0.0] * 8],
    "m_virtue": 0.0, "m_vice": 0.5, "sampled_dimension": "care-harm", "sample_type": "vice", "score_stratum": 0.5,
}  # fmt: skip
_REDDIT = "ID\ttext\tEquality\tCare\tNon-Moral\tAuthority\tThin Morality\tLoyalty\tProportionality\tPurity\n"


def _csv(delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(_ANNOTATED[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(_ANNOTATED)
    return out.getvalue().encode()


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out, **options)
    return out.getvalue()


def _zip(content: bytes, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(f"social-chem-101/{MEMBER}", content)
    return out.getvalue()


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A valid file of each kind, small, so that most changes hit something."""
    folder = tmp_path_factory.mktemp("valid")
    table = write_table(folder / "table.tsv", 12).read_bytes()
    vector = [{"text": text, **dict.fromkeys(DIMENSIONS, 0.0), "harm": 0.5} for text in _TEXTS]
    vignettes = [{"id": "v", "foundation_coarse": "Care", "wrong": 2.5, "text": "You see a robot."}]
    return {
        "own.csv": _csv(","),
        "own.tsv": _csv("\t"),
        "own.jsonl": _jsonl([{"text": text, "vector": [0.25, *[0.0] * 9]} for text in _TEXTS]),
        "own.parquet": _parquet(vector, compression="none"),
        "packed.parquet": _parquet(_ANNOTATED, compression="zstd"),
        "built.parquet": write_parquet(scenarios(20), folder / "built.parquet").read_bytes(),
        "sample.jsonl": _jsonl([_SAMPLE] * 3),
        "vignettes.jsonl": _jsonl(vignettes * 2),
        "reddit.tsv": (_REDDIT + "1\tcomment\t1\t0\t2\t0\t0\t0\t3\t0\n" * 3).encode(),
        "table.tsv": table,
        **{
            f"{name}.zip": _zip(table, method)
            for name, method in (
                ("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED), ("bzip2", zipfile.ZIP_BZIP2),
                ("lzma", zipfile.ZIP_LZMA),
            )
        },
    }  # fmt: skip


def _changed(content: bytes, other: bytes, chosen: random.Random) -> bytes:
    """Bit flips, cuts, splices, insertions, another encoding, or random bytes."""
    data = bytearray(content)
    start, end = sorted(chosen.randrange(len(data) + 1) for _ in range(2))
    kind = chosen.choice(["flip", "flip", "flips", "cut", "remove", "repeat", "splice", "insert", "encode", "random"])
    if kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else chosen.randint(2, 40)):
            data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    elif kind == "cut":
        del data[end:]
    elif kind == "remove":
        del data[start : min(end, start + chosen.randint(1, 60))]
    elif kind == "repeat":
        data[end:end] = data[start : start + 200] * chosen.randint(1, 50)
    elif kind == "splice":
        data[start:] = other[chosen.randrange(len(other)) :]
    elif kind == "insert":
        pieces = [b"\0", b'"', b"\n", b"\r", b"\t", b"NaN", b"1e999", b"\\ud800", b"[" * 3000, b"{", b"\xff\xfe",
                  b"9" * 5000, b"x" * 140_000, chosen.randbytes(8)]  # fmt: skip
        data[start:start] = chosen.choice(pieces)
    elif kind == "encode":
        encoding = chosen.choice(["utf-16", "utf-16-le", "utf-32", "latin1", "utf-8-sig"])
        return content.decode("latin1").encode(encoding, "replace")
    else:
        data = bytearray(content[: chosen.randrange(40)] + chosen.randbytes(chosen.randrange(300)))
    return bytes(data)


def _fuzz(folder: Path, valid: dict[str, bytes], n: int, seed: int) -> int:
    """How many changed files were refused."""
    chosen, names, refused = random.Random(seed), list(valid), 0
    for i in range(n):
        name, other = names[i % len(names)], chosen.choice(names)
        content = _changed(valid[name], valid[other], chosen)
        path = folder / name
        path.write_bytes(content)
        read: Callable[[Path], Any] = chosen.choice([load_data, load_social_chem, read_annotations])
        if name.startswith("own") or chosen.random() < 0.6:
            read = load_data
        try:
            data = read(path)
        except DataError as error:
            refused += 1
            assert name in str(error), f"change {i} of {name}: no file in {error}"
        except Exception as error:
            raise AssertionError(f"change {i} of {name} (seed {seed}): {error!r:.300}") from error
        else:
            assert len(data) > 0
            damaged = name == "built.parquet" and content != valid[name]
            assert not damaged, f"change {i} of {name} (seed {seed}): a damaged file of ours was accepted"
    return refused


def test_the_valid_files_are_read(valid: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in valid.items():
        (tmp_path / name).write_bytes(content)
        data = load_data(tmp_path / name)
        assert len(data) > 0
        assert np.isfinite(data.vector).all()


def test_no_change_of_a_file_crashes_a_reader(valid: dict[str, bytes], tmp_path: Path) -> None:
    assert _fuzz(tmp_path, valid, 350, seed=1) > 150


@pytest.mark.slow
def test_no_change_of_fifteen_thousand_crashes_a_reader(valid: dict[str, bytes], tmp_path: Path) -> None:
    assert _fuzz(tmp_path, valid, 15_000, seed=2) > 7_000


@pytest.mark.parametrize("flag", [0x1, 0x41])
def test_an_encrypted_archive_is_refused(
    valid: dict[str, bytes], tmp_path: Path, refused: Callable[..., None], flag: int
) -> None:
    content, path = bytearray(valid["deflated.zip"]), tmp_path / "t.zip"
    content[6] |= flag  # of the member's own header
    content[content.rindex(b"PK\x01\x02") + 8] |= flag  # and in the directory
    path.write_bytes(content)
    refused(lambda: load_data(path), "an encrypted one", file="t.zip")


def test_archives_that_python_cannot_unpack_are_refused(
    valid: dict[str, bytes], tmp_path: Path, refused: Callable[..., None]
) -> None:
    content, path = bytearray(valid["deflated.zip"]), tmp_path / "t.zip"
    for place in (8, content.rindex(b"PK\x01\x02") + 10):
        content[place] = 99
    path.write_bytes(content)
    refused(lambda: load_data(path), "zip archive", "compression", file="t.zip")
    for name in ("bzip2.zip", "lzma.zip"):
        content = bytearray(valid[name])
        start = content.index(MEMBER.encode()) + len(MEMBER)
        content[start + 9 : start + 60] = bytes(51)
        path.write_bytes(content)
        refused(lambda: load_data(path), "zip archive", file="t.zip")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_named(tmp_path: Path, refused: Callable[..., None], encoding: str) -> None:
    for suffix, content in ((".csv", _csv(",")), (".jsonl", _jsonl(_ANNOTATED))):
        path = tmp_path / f"own{suffix}"
        path.write_bytes(content.decode().encode(encoding))
        if encoding == "utf-16":
            refused(lambda p=path: load_data(p), "UTF-16", "save it as UTF-8", file=path.name, row=1)
        else:
            with pytest.raises(DataError, match=rf"{path.name}, row \d+: .*(not UTF-8|NUL|not one flat JSON)"):
                load_data(path)


@pytest.mark.parametrize("start", [b"", b"sep=;\r\n", b"\xef\xbb\xbfsep=;\n"])
def test_semicolons_are_recognised(tmp_path: Path, start: bytes, refused: Callable[..., None]) -> None:
    path, commas = tmp_path / "own.csv", tmp_path / "commas.csv"
    path.write_bytes(start + _csv(";"))
    commas.write_bytes(_csv(","))
    assert load_data(path).text == load_data(commas).text
    path.write_text("sep=;\ntext;foundation;judgment;agreement\na;care;-1,5;4\n", encoding="utf8")
    refused(lambda: load_data(path), "'-1,5', not a number", "with a decimal point", file="own.csv", row=3,
            column="judgment")  # fmt: skip
    path = path.rename(tmp_path / "own.tsv")
    path.write_bytes(_csv(";"))
    refused(lambda: load_data(path), "the separator seems to be ';'; expected '\\t'", file="own.tsv", row=1)


def test_bytes_of_bzip2_are_no_table(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(bz2.compress(_csv(",")))
    with pytest.raises(DataError, match=r"own\.csv"):
        load_data(path)
