"""Packages that the command line writes: whole, tested, and only where nothing is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from sae_moral.cli import main
from tests.scaffold.test_scaffold import done, files


@pytest.mark.parametrize(
    ("kind", "name", "package", "group"),
    [
        ("metric", "pole_gap", "sae_moral_pole_gap", "sae_moral.metrics"),
        ("source", "my-survey-2", "sae_moral_my_survey_2", "sae_moral.sources"),
    ],
)
def test_the_written_package_passes_its_own_tests(
    kind: str, name: str, package: str, group: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"new-{kind}", name]) == 0
    word = package.removeprefix("sae_moral_")
    folder = here / package.replace("_", "-")
    expected = ["README.md", "pyproject.toml", f"src/{package}/__init__.py", f"tests/test_{word}.py"]
    assert files(folder) == expected
    printed = capsys.readouterr().out
    assert all(f"  {one}\n" in printed for one in expected) and f"cd {folder.name}\n" in printed
    project = (folder / "pyproject.toml").read_text(encoding="utf8")
    assert f'[project.entry-points."{group}"]\n{name} = "{package}:{word}"\n' in project
    assert re.search(r"\d passed", done(folder, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"))


def test_json_says_what_was_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-source", "survey", "--out", "below/mine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"name": "survey", "folder": "below/mine", "files": files(here / "below" / "mine")}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (["new-metric", "Pole_Gap"], "'Pole_Gap' cannot be the name of a metric; expected at most 40 lower-case"),
        (["new-metric", "pole gap"], "cannot be the name of a metric"),
        (["new-metric", "a" * 41], "cannot be the name of a metric"),
        (["new-source", "../survey"], "cannot be the name of a source"),
        (["new-metric", "gradient"], "a metric named 'gradient' exists already; choose another name (taken: categ"),
        (["new-source", "scenarios-400"], "a source named 'scenarios-400' exists already"),
        (["new-metric", "rsa-2", "--out", "there"], "there exists; nothing was written: choose another folder with --"),
        (["new-metric", "rsa-2", "--out", "file/below"], "file is a file; expected a folder"),
        (["new-metric", "class"], "'class' means something else in Python or in the package"),
        (["new-metric", "torch"], "'torch' means something else"),
        (["new-metric", "tensor"], "'Tensor' means something else"),
        (["new-source", "rows"], "'rows' means something else"),
        (["new-metric", "cli", "--overwrite"], "unknown argument '--overwrite'"),
    ],
)
def test_mistakes_leave_nothing(line: list[str], problem: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "there").mkdir()
    (here / "file").write_text("")
    assert main(line) == 2
    told = capsys.readouterr().err
    assert problem in told and len(told.splitlines()) == 1
    assert files(here) == ["file"] and list((here / "there").iterdir()) == []
