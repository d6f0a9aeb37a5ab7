"""Rules of the house that no linter checks: private names stay at home, one room writes files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*ROOT.glob("sae_moral/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
OURS = ("sae_moral", "benchmarks")


def private(name: str) -> bool:
    """One leading underscore: `__version__` is public."""
    return name.startswith("_") and not name.startswith("__")


def borrowed(tree: ast.Module) -> Iterator[str]:
    """Private names of our other modules that a module imports, or reaches through a module."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(OURS):
            parts = node.module.split(".")
            names = [alias.name for alias in node.names]
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.islower()}
            yield from (f"{node.module}.{name}" for name in names if private(name) or any(map(private, parts)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            if private(node.attr):
                yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_private_name_of_another_module(path: Path) -> None:
    found = list(borrowed(ast.parse(path.read_text(encoding="utf8"))))
    entry_point = "sae_moral_inspect._registry"  # Inspect AI's convention
    assert [name for name in found if not name.startswith(entry_point)] == []


def writes(tree: ast.Module) -> Iterator[int]:
    """Lines that open a file for writing, or replace one, by Python's own means."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, name = called(node)
        constants = [arg for arg in [*node.args, *(k.value for k in node.keywords)] if isinstance(arg, ast.Constant)]
        words = [constant.value for constant in constants if isinstance(constant.value, str)]
        modes = [word for word in words if len(word) < 4 and set(word) & set("wax+")]
        if (name == "open" and modes) or (name in ("write_text", "write_bytes") and owner not in ("io", "")):
            yield node.lineno
        elif (owner, name) in RENAMES:
            yield node.lineno


def called(node: ast.Call) -> tuple[str, str]:
    """What a function is called on, where that is a bare name, and the function's name."""
    if isinstance(node.func, ast.Attribute):
        return node.func.value.id if isinstance(node.func.value, ast.Name) else "?", node.func.attr
    return "", getattr(node.func, "id", "")


RENAMES = {("os", "replace"), ("os", "rename"), ("shutil", "move"), ("tempfile", "NamedTemporaryFile")}


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.is_relative_to(ROOT / "sae_moral") or "plugins" in path.parts],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_only_io_opens_files_for_writing(path: Path) -> None:
    if path.parent != ROOT / "sae_moral" / "io":
        assert list(writes(ast.parse(path.read_text(encoding="utf8")))) == []


def test_the_check_sees_what_it_looks_for() -> None:
    found = {
        path.stem for path in (ROOT / "sae_moral" / "io").glob("*.py") if list(writes(ast.parse(path.read_text())))
    }
    assert found == {"files", "journal", "leases"}
