"""MoralStrength, the vignettes and the Reddit corpus: invented rows in their formats, and the files themselves."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.data import load_data
from sae_moral.data.builtin import load_moralstrength, reddit_corpus
from sae_moral.foundations import DIMENSIONS, NEUTRAL, NO_FOUNDATION, VICE, VIRTUE

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


def test_provenance_of_several_files(folder: Path) -> None:
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
def test_a_broken_file_of_ratings_is_refused(
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


def _row(coarse: str = "Care", wrong: Any = 3.0, **changes: Any) -> dict[str, Any]:
    row = {"id": f"{coarse}-{wrong}", "foundation": coarse, "foundation_coarse": coarse, "wrong": wrong,
           "text": f"You see a robot doing something {coarse} {wrong}.", "human_Care": 90.0}  # fmt: skip
    return {**row, **changes}


def test_wrongness_becomes_vice(jsonl: Callable[..., Path]) -> None:
    names = ("Care", "Fairness", "Loyalty", "Authority", "Sanctity")
    rows = [*(_row(name, wrong) for wrong, name in enumerate(names)), _row("Social Norms", 0.5), _row("Liberty"),
            _row("Liberty", 2)]  # fmt: skip
    path = jsonl(rows)
    data = load_data(path)
    assert data.foundation.tolist() == [0, 1, 2, 3, 4, NO_FOUNDATION]
    assert data.pole.tolist() == [NEUTRAL, VICE, VICE, VICE, VICE, NEUTRAL]
    assert data.typicality.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]
    assert data.vector.sum() == 2.5
    assert data.vector[1, DIMENSIONS.index("cheating")] == 0.25
    found = data.provenance
    assert (found["source"], found["n_read"], found["n"], found["left_out"]) == ("vignettes", 8, 6, {"Liberty": 2})
    assert load_data("vignettes", path=path).sha256 == data.sha256


@pytest.mark.parametrize(
    ("changes", "column", "word"),
    [
        ({"wrong": 4.5}, "wrong", "4.5; expected a number from 0 to 4"),
        ({"wrong": "3"}, "wrong", "not a number"),
        ({"wrong": True}, "wrong", "not a number"),
        ({"foundation_coarse": "Loyality"}, "foundation_coarse", "did you mean 'Loyalty'"),
        ({"text": ""}, "text", "empty"),
    ],
)
def test_a_broken_row_is_refused(
    jsonl: Callable[..., Path], refused: Callable[..., None], changes: dict[str, Any], column: str, word: str
) -> None:
    path = jsonl([_row(), _row(**changes)], "v.jsonl")
    refused(lambda: load_data("vignettes", path=path), word, file="v.jsonl", row=2, column=column)


def test_a_row_without_a_column_is_refused(jsonl: Callable[..., Path], refused: Callable[..., None]) -> None:
    short = _row()
    del short["wrong"]
    path = jsonl([_row(), short])
    refused(lambda: load_data(path), "missing", file="own.jsonl", row=2, column="wrong")


def test_only_liberty_leaves_nothing(jsonl: Callable[..., Path], refused: Callable[..., None]) -> None:
    path = jsonl([_row("Liberty")])
    refused(lambda: load_data(path), "no scenarios")


def test_the_vignettes(shared: Callable[[str], Path]) -> None:
    data = load_data(shared("vignettes/clifford_2015.jsonl"))
    assert len(data) == 115
    assert data.provenance["left_out"] == {"Liberty": 17}
    assert data.provenance["n_read"] == 132
    assert [int((data.foundation == f).sum()) for f in range(-1, 5)] == [16, 32, 17, 16, 17, 17]
    assert ((data.pole == NEUTRAL) == (data.foundation == NO_FOUNDATION)).all()
    assert data.typicality.max() == pytest.approx(3.8 / 4)


_NAMES = (
    "ID",
    "text",
    "Equality",
    "Care",
    "Non-Moral",
    "Authority",
    "Thin Morality",
    "Loyalty",
    "Proportionality",
    "Purity",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: dict[str, object]) -> Path:
        path = tmp_path / "r.tsv"
        cells = [
            [str({"ID": i, "text": f"comment {i}", **row}.get(name, 0)) for name in _NAMES]
            for i, row in enumerate(rows)
        ]
        path.write_text("\n".join("\t".join(line) for line in ([*_NAMES], *cells)) + "\n", encoding="utf8")
        return path

    return write


def test_counts_become_strength_in_the_slot_of_the_name(corpus: Callable[..., Path]) -> None:
    path = corpus(
        {"Care": 2, "Equality": 1, "Proportionality": 3},
        {"Purity": 1, "Non-Moral": 4},
        {"Non-Moral": 3},
        {"Non-Moral": 1, "Thin Morality": 2},
        {"Loyalty": 3, "Authority": 1, "Thin Morality": 1},
    )
    data = load_data(path)
    assert data.id == ("mfrc_0", "mfrc_0", "mfrc_1", "mfrc_2", "mfrc_4", "mfrc_4")
    assert data.foundation.tolist() == [0, 1, 4, NO_FOUNDATION, 2, 3]
    assert data.pole.tolist() == [VIRTUE, VIRTUE, VIRTUE, NEUTRAL, VIRTUE, VIRTUE]
    np.testing.assert_allclose(data.typicality, [2 / 3, 1, 1 / 4, 0, 1, 1 / 3])
    found = data.provenance
    assert (found["source"], found["n_read"], found["n"]) == ("reddit-corpus", 5, 6)
    assert found["left_out"] == {"moral, but of no foundation (Thin Morality)": 1}
    assert found["poles"] is False
    assert "not labelled" in found["labels"]
    assert load_data("reddit-corpus", path=path).sha256 == data.sha256


def test_entities_become_characters(corpus: Callable[..., Path]) -> None:
    path = corpus({"text": ' &gt;It&amp;#039;s &amp;amp; "so" ', "Care": 1, "Non-Moral": 2})
    assert load_data(path).text == ('>It\'s & "so"',)


@pytest.mark.parametrize("protocol", ["paper", "audited"])
def test_what_compares_the_poles_gives_no_number(corpus: Callable[..., Path], protocol: str) -> None:
    import torch

    from sae_moral.metrics import resolve_metrics
    from sae_moral.protocol import get_protocol

    data = load_data(corpus(*({"Care": 1 + i % 3, "Non-Moral": 3} if i % 4 else {"Non-Moral": 3} for i in range(80))))
    representation = torch.randn(len(data), 8, generator=torch.Generator().manual_seed(0))
    for metric in resolve_metrics(["categorical", "gradient"], get_protocol(protocol)):
        statistics: Any = metric(representation, data)
        for statistic in statistics:
            of_one_pole = statistic.name == "prototype_reliability" and statistic.group != "harm"
            if (metric.name == "categorical" and not of_one_pole) or statistic.group == "harm":
                assert statistic.value is None, statistic


@pytest.mark.parametrize(
    ("row", "column", "word"),
    [
        ({"Care": 5}, "Care", "from 0 to 4"),
        ({"Care": "1.5"}, "Care", "a number of annotators"),
        ({"Care": "two"}, "Care", "not a number"),
        ({}, "Non-Moral", "no annotator"),
        ({"Care": 1, "text": "&nbsp;"}, "text", "empty"),
    ],
)
def test_a_broken_row_of_counts_is_refused(
    corpus: Callable[..., Path], refused: Callable[..., None], row: dict[str, object], column: str, word: str
) -> None:
    path = corpus({"Care": 3}, row)
    refused(lambda: load_data(path), word, file="r.tsv", row=3, column=column)


def test_the_corpus(shared: Callable[[str], Path]) -> None:
    data = load_data(shared("reddit-corpus/mfrc_aggregated.tsv"))
    assert set(reddit_corpus.columns) == set(_NAMES)
    assert (data.provenance["n_read"], len(data)) == (17_457, 19_540)
    assert list(data.provenance["left_out"].values()) == [4_586]
    assert Counter(data.foundation.tolist()) == {0: 4_555, 1: 4_979, 2: 1_872, 3: 3_283, 4: 1_694, NO_FOUNDATION: 3_157}
    assert not (data.pole == VICE).any()
    assert not any("&gt;" in text or "&amp;" in text for text in data.text)
