"""`sae-moral steer` and `sae-moral sweep` on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_moral.cli import main
from sae_moral.cli.diff import marked
from sae_moral.data import write_parquet
from sae_moral.studies import Sweep
from tests.steering.planted import operated, random_sae
from tests.tiny import scenarios


@pytest.fixture
def operation(tmp_path: Path) -> str:
    return str(operated(random_sae("jumprelu")).save(tmp_path / "operation"))


def test_differences_are_marked() -> None:
    assert marked("the cat sat down", "the dog sat down", colour=False) == "the [dog] sat down"
    assert marked("the cat sat down", "the cat sat down", colour=False) == "the cat sat down"
    assert marked("a b c", "a c", colour=False) == "a […] c"
    assert marked("a b", "a b c d", colour=True) == "a \033[1;33mb c d\033[0m"
    assert marked("今天下雨", "今天下雪", colour=False) == "今天下[雪]"
    assert marked("one\ntwo", "one two", colour=False) == "one two"


def test_steer(tiny_folder: Path, operation: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["steer", str(tiny_folder), operation, "--prompt", "helping the team", "--prompt", "robbing"]
    assert main([*command, "--alpha", "0,3", "--tokens", "8"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line and not line.startswith(" ")] == ["helping the team", "robbing"]
    texts = [line.split(maxsplit=3 if "α" in line else 1)[-1] for line in shown if line.startswith("  ")]
    assert len(texts) == 6
    for unsteered, zero, three in (texts[:3], texts[3:]):
        assert zero == unsteered and "[" not in zero
        assert "[" in three


def test_steer_says_what_is_wrong(tiny_folder: Path, operation: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["steer", str(tiny_folder), operation, "--prompt", "helping"]
    for options, message in (
        (["--alpha", "much"], "argument --alpha: 'much'; expected numbers with commas"),
        (["--alpha", "inf"], "alpha is inf; expected a finite number"),
        (["--positions", "lsat"], "unknown positions 'lsat'; did you mean 'last'"),
        (["--chat", "yes"], "has no chat template"),
    ):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["steer", str(tiny_folder), str(tiny_folder), "--prompt", "helping"]) == 2
    assert "expected a folder written by Operation.save" in capsys.readouterr().err


def test_sweep_refuses_words_that_are_no_tokens(
    tiny_folder: Path, operation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model knows none of our words; nothing was written."""
    table = write_parquet(scenarios(120), tmp_path / "data.parquet")
    command = ["sweep", str(tiny_folder), operation, "--data", str(table), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "no wording is left" in capsys.readouterr().err
    (tmp_path / "words.json").write_text('[{"name": "x", "template": "{text} is"}, {"name": "y", "templat": "{text}"}]')
    assert main([*command, "--wordings", str(tmp_path / "words.json")]) == 2
    assert "words.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sweep(tiny_folder: Path, operation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = write_parquet(scenarios(300), tmp_path / "data.parquet"), tmp_path / "out"
    (tmp_path / "neutral.txt").write_text("the team is counting\n\na tired nurse is painting\n")
    wording = {"name": "is", "template": "{text} is", "pairs": [["helping", "hitting"], ["feeding", "robbing"]]}
    (tmp_path / "words.json").write_text(json.dumps([wording]))
    options = ["--neutral", str(tmp_path / "neutral.txt"), "--wordings", str(tmp_path / "words.json"), "--limit", "20"]
    options += ["--rotations", "1", "--permutations", "0", "--kls", "0.05", "--out", str(out)]
    assert main(["sweep", str(tiny_folder), operation, "--data", str(table), *options]) == 0
    assert Sweep.load(out).summary() in capsys.readouterr().out
    # Words, what is learnt, unsteered; operated, rotated, dense, valence, constant.
    assert len(list((out / "cells").iterdir())) == 3 + 5
