"""Bytes to rows: what is read past, and what is refused with file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sae_moral.data import load_data
from sae_moral.data.rows import SUFFIXES, read_rows
from sae_moral.data.table import read_table
from sae_moral.errors import DataError

_ZERO = [0.0] * 10


def test_byte_order_mark_blank_lines_and_line_ends(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_bytes("\ufefftext,foundation,judgment,agreement\r\n\r\nwaiting,care,1,1\r\n".encode())
    assert load_data(table).id == ("own.csv:3",)
    lines = tmp_path / "own.jsonl"
    row = json.dumps({"text": "a\u2028b", "vector": _ZERO}, ensure_ascii=False)
    lines.write_text(f"\n{row}\r\n \n{row}", encoding="utf8", newline="")
    data = load_data(lines)
    assert data.id == ("own.jsonl:2", "own.jsonl:4")
    assert data.text[0] == "a\u2028b"


@pytest.mark.parametrize(
    ("name", "content", "row", "column", "word"),
    [
        ("own.jsonl", b"", None, None, "the file is empty"),
        ("own.csv", b"\xef\xbb\xbf \n", None, None, "the file is empty"),
        ("own.parquet", b"", None, None, "the file is empty"),
        ("own.csv", b"text,vector\n", None, None, "no scenarios"),
        ("own.jsonl", b'{"text": "a", "vector": [1]', 1, None, "not one flat JSON object per line: Expecting"),
        ("own.jsonl", b'{"text": "a"}\n[1]\n', 2, None, "a JSON list; expected one JSON object"),
        ("own.jsonl", b'{"text": "a", "text": "b"}', 1, None, "the key 'text' stands twice"),
        ("own.jsonl", b'{"a": ' + b"[" * 100_000, 1, None, "nested too deeply"),
        ("own.jsonl", b'{"a": ' + b"9" * 5000 + b"}", None, None, ""),
        ("own.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', 2, None, "byte 0xe9 is not UTF-8"),
        ("own.csv", b"text,vector\na,b\n\xff,c\n", 3, None, "byte 0xff is not UTF-8"),
        ("own.csv", b"text,vector\na,b,c\n", 2, None, "3 fields; expected 2 like the header: text, vector"),
        ("own.tsv", b"text\tvector\na\tb\nc\n", 3, None, "1 fields; expected 2"),
        ("own.csv", b'text,vector\na,b\n"c,d\n', 3, None, "closed double quotes"),
        ("own.csv", b"text,vector\na,[1\n", 2, "vector", "'[1' is not a list"),
        ("own.csv", b"text,foundation,judgment,agreement\na,care,1_0,1\n", 2, "judgment", "'1_0', not a number"),
        ("own.parquet", b"PAR1 not really PAR1", None, None, "not a readable parquet file"),
        ("own.txt", b"text\n", None, None, "unsupported suffix '.txt'; expected .jsonl, .csv, .tsv, .parquet"),
        ("own", b"text\n", None, None, "unsupported suffix ''"),
    ],
)
def test_a_broken_file_is_refused(
    tmp_path: Path, refused: Callable[..., None], name: str, content: bytes, row: int | None, column: str | None,
    word: str,
) -> None:  # fmt: skip
    path = tmp_path / name
    path.write_bytes(content)
    if word:
        refused(lambda: load_data(path), word, file=name, row=row, column=column)
    else:  # where it is refused depends on Python's limit on the digits of integers
        with pytest.raises(DataError):
            load_data(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(lambda: load_data(tmp_path), "a folder; expected one file", file=tmp_path.name)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "own.csv")


_HEADERS = st.sampled_from([
    b"", b"text,vector\n", b"text\tvector\n", b"text,foundation,judgment,agreement\n", b'{"text": "a", "vector": ',
    b'{"text": "a", "foundation": "care", "judgment": ', b"PAR1",
])  # fmt: skip


@settings(deadline=None, database=None, max_examples=150)
@given(st.sampled_from(SUFFIXES), _HEADERS, st.binary(max_size=80))
@example(".csv", b"text,vector\n", b"a\x00b,1\n")
@example(".jsonl", b"", b'{"text": "\\ud800", "vector": []}')
def test_no_bytes_crash_a_reader(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, header: bytes, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(header + body)
    try:
        assert len(load_data(path)) > 0
    except DataError as error:
        assert error.file == path.name


def test_a_nul_byte_is_refused_with_its_line(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "own.tsv"
    path.write_bytes(b"text\tvector\nwaiting\t[0]\nwai\0ting\t[0]\n")
    refused(lambda: read_rows(path), "a NUL byte", file="own.tsv", row=3)
