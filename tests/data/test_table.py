"""The user's own tables: every layout in every format, and every refusal with its place."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sae_moral.data import load_data
from sae_moral.data.rows import SUFFIXES, read_rows
from sae_moral.data.table import table_data
from sae_moral.data.text import is_blank
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, NO_FOUNDATION, VICE, VIRTUE

_ZERO = [0.0] * 10


def _vector(**strengths: float) -> list[float]:
    return [strengths.get(name, 0.0) for name in DIMENSIONS]


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows in the format of the path's suffix; lists as JSON in csv and tsv."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", encoding="utf8", newline="") as out:
            writer = csv.writer(out, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerow(rows[0])
            for row in rows:
                cells = [json.dumps(cell) if isinstance(cell, list) else cell for cell in map(row.get, rows[0])]
                writer.writerow("" if cell is None else cell for cell in cells)
    return path


_BOTH = _vector(harm=0.5, loyalty=0.25)
_LAYOUTS = {
    "vector": [{"vector": _BOTH}, {"vector": _ZERO}],
    "dimensions": [dict(zip(DIMENSIONS, vector, strict=True)) for vector in (_BOTH, _ZERO)],
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_a_vector_becomes_one_record_per_foundation(tmp_path: Path, suffix: str, layout: str) -> None:
    texts = ('siding with a brother, who "hit"\nsomeone', "sorting spoons")
    rows = [{"text": text, **labels} for text, labels in zip(texts, _LAYOUTS[layout], strict=True)]
    path = _write(tmp_path / f"own{suffix}", rows)
    data = load_data(path)
    assert data.text == (texts[0], texts[0], texts[1])
    assert data.foundation.tolist() == [0, 2, NO_FOUNDATION]
    assert data.pole.tolist() == [VICE, VIRTUE, NEUTRAL]
    assert data.typicality.tolist() == [0.5, 0.25, 0.0]
    np.testing.assert_array_equal(data.vector, [_BOTH, _BOTH, _ZERO])
    # Where there is no id: the line, in csv and tsv after the header and a text of two lines.
    second = {".jsonl": 2, ".parquet": 2, ".csv": 4, ".tsv": 4}[suffix]
    assert data.id[2] == f"own{suffix}:{second}"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_annotation_becomes_one_record_per_named_foundation(tmp_path: Path, suffix: str) -> None:
    rows = [
        {
            "id": "a",
            "text": "tripping a rival",
            "foundation": "care-harm|cheating|harm",
            "judgment": -1,
            "agreement": 3,
        },
        {"id": "b", "text": "waiting", "foundation": "Authority", "judgment": 0, "agreement": 4},
    ]
    data = load_data(_write(tmp_path / f"own{suffix}", rows))
    assert data.id == ("a", "a", "b")
    assert data.foundation.tolist() == [0, 1, 3]
    assert data.pole.tolist() == [VICE, VICE, NEUTRAL]
    np.testing.assert_array_equal(data.vector[:2], [_vector(harm=0.375, cheating=0.375)] * 2)
    assert (data.provenance["source"], data.provenance["n_read"], data.provenance["n"]) == ("table", 2, 3)


def test_text_column_extra_columns_and_integer_ids(tmp_path: Path, refused: Callable[..., None]) -> None:
    rows = [{"id": 7, "scenario": "sharing bread", "vector": _vector(care=1), "note": {"deep": [1]}, "text": "x"}]
    path = _write(tmp_path / "own.jsonl", rows)
    data = load_data(path, text_column="scenario", extra_columns="ignore")
    assert (data.text, data.id) == (("sharing bread",), ("7",))
    assert data.provenance["ignored_columns"] == ["note", "text"]
    words = ("unknown column", "extra_columns='ignore'", "'note', 'text'")
    refused(lambda: load_data(path, text_column="scenario"), *words, file="own.jsonl", row=1, column="note")
    refused(lambda: load_data(path, text_column="vector"), "rename", file="own.jsonl", column="vector")
    untyped: Any = inspect.unwrap(table_data)  # without the tests' type checks, as a user calls it
    with pytest.raises(ValueError, match=r"unknown extra_columns 'drop'; .*valid: error, ignore"):
        untyped(read_rows(path), extra_columns="drop")


_GOOD = {"text": "sharing bread", "vector": _vector(care=1.0)}
_ANNOTATION = {"text": "sharing bread", "foundation": "care-harm", "judgment": 1, "agreement": 2}
_RECORD = {**_GOOD, "foundation": "care-harm", "pole": "virtue", "typicality": 1.0}
_DIMENSIONS = {"text": "sharing bread", **dict(zip(DIMENSIONS, _ZERO, strict=True))}


@pytest.mark.parametrize(
    ("good", "changes", "column", "words"),
    [
        (_GOOD, {"vector": [0.5] * 9}, "vector", ["9 numbers; expected ten: care, harm"]),
        (_GOOD, {"vector": _vector(cheating=1.2)}, "vector", ["cheating is 1.2; expected a number from 0 to 1"]),
        (_GOOD, {"vector": _vector(cheating=-0.1)}, "vector", ["cheating is -0.1"]),
        (_GOOD, {"vector": _vector(care=float("nan"))}, "vector", ["care is nan"]),
        (_GOOD, {"vector": ["x", *_ZERO[1:]]}, "vector", ["care is 'x', not a number"]),
        (_GOOD, {"vector": [True, *_ZERO[1:]]}, "vector", ["care is True, not a number"]),
        (_GOOD, {"vector": [10**400, *_ZERO[1:]]}, "vector", ["care is inf"]),
        (_GOOD, {"vector": "0.5"}, "vector", ["is not a list"]),
        (_GOOD, {"vector": None}, "vector", ["None is not a list"]),
        (_GOOD, {"vector": _vector(loyalty=0.5, betrayal=0.25)}, "vector", ["both poles of loyalty", "0.5 and 0.25"]),
        (_GOOD, {"text": ""}, "text", ["empty text"]),
        (_GOOD, {"text": " \t"}, "text", ["empty text"]),
        (_GOOD, {"text": "\u200b \ufeff"}, "text", ["empty text"]),
        (_GOOD, {"text": 5}, "text", ["5 is not text"]),
        (_GOOD, {"text": "\ud800x"}, "text", ["surrogate"]),
        (_GOOD, {"vectr": 1}, "vectr", ["unknown column; did you mean 'vector'?", "extra_columns='ignore'"]),
        (_GOOD, {"foundation": "care"}, "foundation", ["unknown column"]),
        (_DIMENSIONS, {"harm": "much"}, "harm", ["'much', not a number"]),
        (_DIMENSIONS, {"harm": 2}, "harm", ["2.0; expected a number from 0 to 1"]),
        (_DIMENSIONS, {"care": 0.5, "harm": 0.5}, "care", ["both poles of care-harm"]),
        (
            _ANNOTATION,
            {"foundation": "care-harm|sanctty"},
            "foundation",
            ["unknown foundation 'sanctty'; did you mean"],
        ),
        (_ANNOTATION, {"foundation": ""}, "foundation", ["empty"]),
        (_ANNOTATION, {"foundation": None}, "foundation", ["not text"]),
        (_ANNOTATION, {"judgment": 3}, "judgment", ["3.0; expected a number from -2 to 2"]),
        (_ANNOTATION, {"agreement": -1}, "agreement", ["expected a number from 0 to 4"]),
        (_ANNOTATION, {"agreement": "2"}, "agreement", ["'2', not a number"]),
        (_RECORD, {"pole": "vice"}, "pole", ["'vice' but the vector says 'virtue'"]),
        (_RECORD, {"pole": "virtu"}, "pole", ["did you mean 'virtue'"]),
        (_RECORD, {"typicality": 0.5}, "typicality", ["0.5 but the vector says 1.0"]),
        (_RECORD, {"foundation": None}, "foundation", ["vector is not zero"]),
        (_RECORD, {"foundation": "care|loyalty"}, "foundation", ["2 foundations"]),
    ],
)
def test_a_bad_cell_is_refused_where_it_is(
    tmp_path: Path, refused: Callable[..., None], good: dict[str, Any], changes: dict[str, Any], column: str,
    words: list[str],
) -> None:  # fmt: skip
    path = _write(tmp_path / "own.jsonl", [good, {**good, **changes}])
    refused(lambda: load_data(path), *words, file="own.jsonl", row=2, column=column)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "row", "word"),
    [("foundation", {"foundation": "fairnes-cheating"}, "did you mean 'fairness-cheating'"),
     ("judgment", {"judgment": 9.0}, "9.0; expected"), ("agreement", {"agreement": float("nan")}, "nan; expected"),
     ("text", {"text": " "}, "empty text")],
)  # fmt: skip
def test_every_format_says_the_row(
    tmp_path: Path, refused: Callable[..., None], suffix: str, name: str, row: dict[str, Any], word: str
) -> None:
    good = {**_ANNOTATION, "judgment": 1.0, "agreement": 2.0}
    path = _write(tmp_path / f"own{suffix}", [good, {**good, **row}])
    line = 2 if suffix in (".jsonl", ".parquet") else 3
    refused(lambda: load_data(path), word, file=path.name, row=line, column=name)


@pytest.mark.parametrize(
    ("columns", "column", "words"),
    [
        (("Text", "vector"), "text", ["missing column; did you mean 'Text'?"]),
        (("text", "vectr"), "vector", ["missing column; did you mean 'vectr'?"]),
        (("text", "foundation", "judgement", "agreement"), "judgment", ["did you mean 'judgement'?"]),
        (("text", *DIMENSIONS[:9], "degredation"), "degradation", ["did you mean 'degredation'?"]),
        (("text", "zzz"), None, ["no labels among the columns 'text', 'zzz'", "foundation, judgment, agreement"]),
        (("text", "vector", *DIMENSIONS), None, ["labels are given twice", "vector (vector) and dimensions (care"]),
        (("text", "vector", "notes"), "notes", ["unknown column", "valid: text, id, vector"]),
        (("text", "vector", ""), "", ["unknown column"]),
        (("text", "text", "vector"), "text", ["named twice"]),
    ],
)
def test_wrong_columns_are_refused(
    tmp_path: Path, refused: Callable[..., None], columns: tuple[str, ...], column: str | None, words: list[str]
) -> None:
    path = tmp_path / "own.csv"
    path.write_text("\n".join([",".join(columns), ",".join("0" for _ in columns)]))
    refused(lambda: load_data(path), *words, file="own.csv", row=1, column=column)


def test_a_row_that_lacks_a_column_is_refused(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = _write(tmp_path / "own.jsonl", [_GOOD, {"text": "waiting"}])
    refused(lambda: load_data(path), "missing; every row needs text, vector", file="own.jsonl", row=2, column="vector")


def test_parquet_types(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "own.parquet"
    when = pa.array([10**17], pa.timestamp("ms"))
    vector = pa.array([_ZERO], pa.list_(pa.float32(), 10))
    text = pa.array(["waiting"]).dictionary_encode()
    parquet.write_table(pa.table({"text": text, "vector": vector, "when": when}), path)
    assert load_data(path, extra_columns="ignore").text == ("waiting",)
    parquet.write_table(pa.table({"text": when, "vector": vector}), path)
    refused(lambda: load_data(path), "a column of timestamp[ms]", file="own.parquet", column="text")
    parquet.write_table(pa.table({"text": pa.array([], pa.string()), "vector": vector[:0]}), path)
    refused(lambda: load_data(path), "no scenarios", file="own.parquet")
    parquet.write_table(pa.Table.from_arrays([text, text], names=["text", "text"]), path)
    refused(lambda: load_data(path), "named twice", file="own.parquet", column="text")


_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 5), st.floats(), st.text(max_size=8),
                    st.sampled_from([*FOUNDATIONS, "virtue", "care|harm"]))  # fmt: skip
_CELLS = st.one_of(_LEAVES, st.lists(_LEAVES, max_size=3), st.lists(st.floats(0, 1), min_size=10, max_size=10))
_COLUMNS = st.one_of(
    st.sampled_from([
        ("text", "vector"), ("text", "foundation", "judgment", "agreement"), ("text", *DIMENSIONS),
        ("id", "text", "vector"),
        ("text", "vector", "foundation", "pole", "typicality"),
    ]),
    st.lists(st.one_of(st.sampled_from(["text", "vector", "pole"]), st.text(max_size=4)), max_size=4, unique=True),
)  # fmt: skip


@settings(deadline=None, database=None, max_examples=150)
@given(
    _COLUMNS, st.lists(st.lists(_CELLS, min_size=11, max_size=11), min_size=1, max_size=2),
    st.sampled_from([".jsonl", ".csv", ".tsv"]), st.sampled_from(["error", "ignore"]),
)  # fmt: skip
def test_no_table_crashes_a_reader(
    tmp_path_factory: pytest.TempPathFactory, columns: Sequence[str], cells: list[list[Any]], suffix: str, extra: Any
) -> None:
    rows = [dict(zip(columns, row, strict=False)) for row in cells]
    path = _write(tmp_path_factory.getbasetemp() / f"table{suffix}", rows)
    try:
        assert len(load_data(path, extra_columns=extra)) > 0
    except DataError as error:
        assert error.file == path.name


_STRENGTHS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.125, 0.5, 1.0]) | st.floats(0, 1), st.booleans()), min_size=5, max_size=5
).map(lambda pairs: [x for strength, vice in pairs for x in ((0.0, strength) if vice else (strength, 0.0))])
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: not is_blank(s))
_TABLES = st.one_of(
    st.lists(st.fixed_dictionaries({"id": _TEXTS, "text": _TEXTS, "vector": _STRENGTHS}), min_size=1, max_size=4),
    st.lists(
        st.fixed_dictionaries({
            "text": _TEXTS, "foundation": st.lists(st.sampled_from(FOUNDATIONS), min_size=1, max_size=3).map("|".join),
            "judgment": st.floats(-2, 2), "agreement": st.floats(0, 4),
        }), min_size=1, max_size=4,
    ),
)  # fmt: skip


@settings(deadline=None, database=None, max_examples=40)
@given(_TABLES, st.sampled_from(SUFFIXES))
def test_valid_tables_round_trip(
    tmp_path_factory: pytest.TempPathFactory, same_data: Callable[..., None], rows: list[dict[str, Any]], suffix: str
) -> None:
    if suffix in (".csv", ".tsv"):  # csv writers of Python 3.10 refuse NUL
        rows = [{k: v.replace("\0", "0") if isinstance(v, str) else v for k, v in row.items()} for row in rows]
    folder = tmp_path_factory.getbasetemp()
    data = load_data(_write(folder / f"valid{suffix}", rows))
    assert set(data.text) == {row["text"] for row in rows}
    dataset = data.to_dataset()
    same_data(load_data(dataset), data)
    same_data(load_data(_write(folder / f"again{suffix}", dataset.to_list())), data)
