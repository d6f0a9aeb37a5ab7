"""MoralStrength: invented ratings in its format, and the package's own files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sae_moral.data import load_data
from sae_moral.data.moralstrength import load_moralstrength
from sae_moral.foundations import DIMENSIONS, NEUTRAL, VICE, VIRTUE

installed = pytest.mark.skipif(
    importlib.util.find_spec("moralstrength") is None,
    reason="needs the ratings: pip install --no-deps moralstrength",
)
_FILES = {"care": 'shelter\t9\nmug\t5\nab"c\t1\n', "fairness": "mug\t3\n", "loyalty": "mug\t7.0\n",
          "authority": "throne\t6\n", "purity": "mud\t2\n"}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, body in _FILES.items():
        (tmp_path / f"{name}.tsv").write_text(f"WORD\tEXPRESSED_MORAL\n{body}")
    return tmp_path


def test_ratings_become_strengths(folder: Path) -> None:
    data = load_data("moralstrength", path=folder)
    assert data.text == ("shelter", "mug", 'ab"c', "mug", "mug", "throne", "mud")
    assert data.id[:2] == ("care:shelter", "care:mug")
    assert data.foundation.tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert data.pole.tolist() == [VIRTUE, NEUTRAL, VICE, VICE, VIRTUE, VIRTUE, VICE]
    assert data.typicality.tolist() == [1.0, 0.0, 1.0, 0.5, 0.5, 0.25, 0.75]
    for row in (1, 3, 4):  # every record of a word holds all its ratings
        assert dict(zip(DIMENSIONS, data.vector[row].tolist(), strict=True)) == {
            **dict.fromkeys(DIMENSIONS, 0.0), "cheating": 0.5, "loyalty": 0.5}  # fmt: skip


def test_provenance(folder: Path) -> None:
    found = load_moralstrength(folder).provenance
    contents = [(folder / f"{name}.tsv").read_bytes() for name in _FILES]
    assert found["sha256"] == hashlib.sha256(b"".join(contents)).hexdigest()
    assert found["file"] == [f"{name}.tsv" for name in _FILES]
    assert (found["source"], found["n_read"], found["n"], found["revision"]) == ("moralstrength", 7, 7, None)
    assert found["licence"] == "LGPL-3.0"
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("body", "row", "column", "word"),
    [
        ("mug\t9.5\n", 2, "EXPRESSED_MORAL", "9.5; expected a number from 1 to 9"),
        ("mug\t5\ncup\tnan\n", 3, "EXPRESSED_MORAL", "nan"),
        ("mug\tgood\n", 2, "EXPRESSED_MORAL", "not a number"),
        ("mug\t5\nmug\t6\n", 3, "WORD", "rated twice"),
        (" \t5\n", 2, "WORD", "empty"),
        ("mug\n", 2, None, "1 fields; expected 2"),
        ("", None, None, "no scenarios"),
    ],
)
def test_a_broken_file_is_refused(
    folder: Path, body: str, row: int, column: str, word: str, refused: Callable[..., None]
) -> None:
    (folder / "loyalty.tsv").write_text(f"WORD\tEXPRESSED_MORAL\n{body}")
    refused(lambda: load_moralstrength(folder), word, file="loyalty.tsv", row=row, column=column)


def test_a_misspelt_column_and_a_missing_file_are_refused(folder: Path, refused: Callable[..., None]) -> None:
    (folder / "purity.tsv").write_text("WORDS\tEXPRESSED_MORAL\nmud\t2\n")
    refused(lambda: load_moralstrength(folder), "did you mean 'WORDS'", file="purity.tsv", row=1, column="WORD")
    (folder / "purity.tsv").unlink()
    refused(lambda: load_moralstrength(folder), "pip install --no-deps moralstrength", file="purity.tsv")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps moralstrength"):
        load_data("moralstrength")


@installed
def test_the_package_s_ratings() -> None:
    data = load_data("moralstrength")
    assert "moralstrength" not in sys.modules
    assert (len(data), len(set(data.text))) == (2845, 2656)
    assert (data.pole == NEUTRAL).sum() == 52
    assert [int((data.foundation == f).sum()) for f in range(5)] == [454, 429, 501, 729, 732]
    row = data.text.index("abandon")
    assert set(DIMENSIONS[i] for i in data.vector[row].nonzero()[0]) == {"harm", "betrayal"}
    assert data.vector[row, DIMENSIONS.index("harm")] == pytest.approx((5 - 1.6) / 4)
    assert data.provenance["revision"]
