"""What is written is a package whose own tests and linter pass, and the worked example is explained as it stands."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sae_moral.errors import FolderError
from sae_moral.registry import Registry
from sae_moral.scaffold import new_metric, new_source

ROOT = Path(__file__).resolve().parents[2]
RSA = ROOT / "plugins" / "sae-moral-rsa"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def done(folder: Path, *command: str) -> str:
    """What a command in a folder printed, where the checkout is as if it was installed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_both_are_as_the_linter_wants_them(tmp_path: Path) -> None:
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("needs ruff: pip install ruff")
    new_metric("gap", tmp_path / "a")
    new_metric("a-name-as-long-as-the-longest-one-may-be", tmp_path / "b")
    new_source("survey", tmp_path / "c")
    new_source("a-name-as-long-as-the-longest-one-may-be", tmp_path / "d")
    done(tmp_path, sys.executable, "-m", "ruff", "check", "--no-cache", ".")
    done(tmp_path, sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")


def test_what_is_installed_or_there_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    installed = tmp_path / "installed"
    (installed / "sae_moral_taken").mkdir(parents=True)
    monkeypatch.syspath_prepend(installed)
    with pytest.raises(ValueError, match="a package sae_moral_taken is installed already"):
        new_source("taken")
    assert files(tmp_path) == []
    made = new_source("free")
    before = {one: (made / one).read_bytes() for one in files(made)}
    with pytest.raises(FolderError, match="sae-moral-free exists; nothing was written"):
        new_metric("free")
    assert {one: (made / one).read_bytes() for one in files(made)} == before


def test_names_that_packages_declare_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {"mine": EntryPoint("mine", "a_package:mine", "sae_moral.metrics")}
    monkeypatch.setattr(Registry, "declared", declared)
    with pytest.raises(ValueError, match="a metric named 'mine' exists already"):
        new_metric("mine")
    assert files(tmp_path) == []


# The worked example


def explained(section: str) -> list[str]:
    """The blocks of a section of docs/extending.md, in order."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf8")
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"```(?:python|toml)\n(.*?)```", text, re.DOTALL)


def test_the_page_goes_through_the_example_line_by_line() -> None:
    """Its blocks are the plugin's own lines: all of them, in order."""
    blocks = explained("A package with a metric, line by line")
    module = (RSA / "src" / "sae_moral_rsa" / "__init__.py").read_text(encoding="utf8")
    project = (RSA / "pyproject.toml").read_text(encoding="utf8")
    assert len(blocks) > 5
    told = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert told == [line for line in (project + module).splitlines() if line.strip()]


def test_what_is_written_has_the_parts_of_the_example(tmp_path: Path) -> None:
    made = new_metric("rsa_too", tmp_path / "new")
    assert files(made) == [one.replace("rsa", "rsa_too") for one in files(RSA) if "__pycache__" not in one]
    package = "src/sae_moral_rsa/__init__.py"
    example, written = parts(RSA / package), parts(made / package.replace("rsa", "rsa_too"))
    assert {
        re.sub("(?i)^rsa$", lambda found: {"Rsa": "RsaToo"}.get(found[0], "rsa_too"), one) for one in example
    } <= written


def parts(path: Path) -> set[str]:
    """Functions and classes of a module, and what a class has."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    found: set[str] = set()
    for node in [node for owner in owners for node in owner.body]:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found
