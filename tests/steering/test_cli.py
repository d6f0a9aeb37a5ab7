"""`sae-moral steer` and `sae-moral sweep` on the tiny model."""

from __future__ import annotations

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
    """The tiny model does not know ` right`; nothing was written."""
    table = write_parquet(scenarios(120), tmp_path / "data.parquet")
    options = ["--data", str(table), "--alphas", "1", "--out", str(tmp_path / "out")]
    command = ["sweep", str(tiny_folder), operation, *options]
    assert main(command) == 2
    assert "' right' is 1 tokens here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sweep(tiny_folder: Path, operation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = write_parquet(scenarios(300), tmp_path / "data.parquet"), tmp_path / "out"
    (tmp_path / "neutral.txt").write_text("the team is counting\n\na tired nurse is painting\n")
    options = ["--neutral", str(tmp_path / "neutral.txt"), "--random", "1", "--limit", "20", "--out", str(out)]
    options += ["--pairs", "helping/hitting,feeding/robbing"]
    assert main(["sweep", str(tiny_folder), operation, "--data", str(table), "--alphas", "1", *options]) == 0
    assert Sweep.load(out).summary() in capsys.readouterr().out
    assert len(list((out / "cells").iterdir())) == 1 + 1 + 4  # dense directions, unsteered, four arms
