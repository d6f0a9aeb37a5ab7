"""Bytes to records of a table, block by block."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sae_moral.data.lines import read_lines


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_where_the_blocks_are_cut_does_not_matter(size: int) -> None:
    content = 'a\tb\r\n1\t"x ""y"" z"\r\n\nsplit\t"open\n2\té\n3\t"so" it\tgoes\nlast\tone'.encode()
    whole = list(read_lines([content], "t.tsv"))
    blocks = [content[i : i + size] for i in range(0, len(content), size)]
    assert list(read_lines(blocks, "t.tsv")) == whole
    assert [line.number for line in whole] == [1, 2, 3, 4, 5, 6, 7]
    assert whole[1].fields == ["1", 'x "y" z']
    assert [line.problem is None for line in whole] == [True, True, False, False, True, False, True]


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]) -> None:
    monkeypatch.setattr("sae_moral.data.lines.BLOCK", 100)
    blocks = [b"a\tb\n", *[b"x" * 30] * 5]
    word = "no line end in the first 120 bytes of row 2"
    refused(lambda: list(read_lines(blocks, "t.tsv")), word, file="t.tsv", row=2)


def test_a_quoted_field_spans_lines_only_in_a_user_s_table() -> None:
    content = b'text,harm\n"two\nlines",1\nthird,0\n'
    spanning = list(read_lines([content], "t.csv", delimiter=",", spanning=True))
    assert [(line.number, line.fields[0]) for line in spanning] == [(1, "text"), (2, "two\nlines"), (4, "third")]
    single = list(read_lines([content], "t.csv", delimiter=","))
    assert [line.problem is None for line in single] == [True, False, True, True]
    assert single[3].fields == ["third", "0"]
