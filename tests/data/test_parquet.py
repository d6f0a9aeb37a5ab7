"""`MoralData` as parquet: everything comes back, and any change is noticed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from sae_moral.data import MoralData, load_data
from sae_moral.data.parquet import CHECKSUM, KEY, has_provenance, read_parquet, write_parquet
from sae_moral.errors import DataError
from tests.tiny import scenarios


@pytest.fixture
def data() -> MoralData:
    return replace(scenarios(60), provenance={"source": "invented", "left_out": {"marked bad": 1}, "licence": None})


def test_what_is_written_comes_back(tmp_path: Path, data: MoralData, same_data: Callable[..., None]) -> None:
    path = write_parquet(data, tmp_path / "deep" / "own.parquet", columns={"split": ["train"] * len(data)})
    back = load_data(path)
    same_data(back, data)
    assert back.provenance == data.provenance
    assert parquet.read_table(path).column_names == [
        "id", "text", "vector", "foundation", "pole", "typicality", "split",
    ]  # fmt: skip
    assert path.read_bytes() == write_parquet(back, path, columns={"split": ["train"] * len(data)}).read_bytes()


def test_every_changed_byte_is_noticed(tmp_path: Path, data: MoralData) -> None:
    path = write_parquet(data, tmp_path / "own.parquet")
    whole, chosen = path.read_bytes(), random.Random(0)
    for place in [*range(len(whole) - 300, len(whole)), *(chosen.randrange(len(whole)) for _ in range(300))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(changed)
        assert has_provenance(path)
        with pytest.raises(DataError, match=r"own\.parquet"):
            load_data(path)
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"own\.parquet"):
            read_parquet(path)
    path.write_bytes(whole)
    assert load_data(path).sha256 == data.sha256


def _of_version_0_1(data: MoralData, path: Path) -> pa.Table:
    """As 0.1 wrote it: the bare provenance and no checksum."""
    table = parquet.ParquetFile(write_parquet(data, path)).read()
    table = table.replace_schema_metadata({KEY: json.dumps(dict(data.provenance))})
    parquet.write_table(table, path)
    return table


def test_a_file_of_version_0_1_is_read_and_checked(
    tmp_path: Path, data: MoralData, same_data: Callable[..., None], refused: Callable[..., None]
) -> None:
    path, data = tmp_path / "b.parquet", data.subset(data.pole != 2)
    read = _of_version_0_1(data, path)
    same_data(load_data(path), data)
    assert load_data(path).provenance == data.provenance
    n = len(data) - 1
    changed = {
        "pole": (pa.array(["good", *["vice"] * n]), None, "'good'; expected one of virtue"),
        "typicality": (pa.array([0.0, *data.typicality[1:]]), 1, "but the vector says"),
        "vector": (pa.array(["a"] * (n + 1)), None, "its columns were changed"),
        "text": (pa.array([*data.text[:n], " "]), n + 1, "empty text"),
    }
    for name, (column, row, word) in changed.items():
        parquet.write_table(read.set_column(read.column_names.index(name), name, column), path)
        refused(lambda: load_data(path), word, file="b.parquet", row=row, column=None if name == "vector" else name)
    parquet.write_table(read.drop_columns("pole"), path)
    refused(lambda: load_data(path), "missing column", file="b.parquet", column="pole")
    parquet.write_table(read.replace_schema_metadata(None), path)
    refused(lambda: read_parquet(path), "no provenance", file="b.parquet")
    assert load_data(path).provenance["source"] == "table"  # then it is the user's own table
    path.write_bytes(b"PAR1 not one PAR1")
    refused(lambda: read_parquet(path), "not a readable parquet file", file="b.parquet")


def test_another_format_and_a_removed_checksum_are_refused(
    tmp_path: Path, data: MoralData, refused: Callable[..., None]
) -> None:
    path = tmp_path / "b.parquet"
    table = parquet.ParquetFile(write_parquet(data, path)).read()
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != CHECKSUM}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    refused(lambda: load_data(path), "does not fit its own checksum", file="b.parquet")
    parquet.write_table(table.replace_schema_metadata({KEY: b'{"format": 3, "provenance": {}}'}), path)
    refused(lambda: load_data(path), "format 3; this sae_moral reads 1 to 2", file="b.parquet")
    parquet.write_table(table.replace_schema_metadata({KEY: b"[" * 5000}), path)
    refused(lambda: load_data(path), "nested too deeply", file="b.parquet", row=None)
