"""A package of one's own that brings a metric or a source: written with a passing test, to be filled in.

The parts are those of `plugins/sae-moral-rsa`, which docs/extending.md goes through line by line.
"""

from __future__ import annotations

import ast
import importlib.util
import keyword
import re
from pathlib import Path

import jinja2

from sae_moral import io
from sae_moral.errors import FolderError
from sae_moral.registry import Registry

__all__ = ["new_metric", "new_source"]

GROUPS = {"metric": "sae_moral.metrics", "source": "sae_moral.sources"}
FILES = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    "src/{package}/__init__.py": "{kind}.py.j2",
    "tests/test_{word}.py": "test_{kind}.py.j2",
}
"""Every file of a package, and the template it is made of."""
NAME = "(?=.{1,40}$)[a-z][a-z0-9]*([_-][a-z0-9]+)*"


def new_metric(name: str, out: str | Path | None = None) -> Path:
    """Write a package with a metric and its test; returns its folder.

    Args:
        name: of the metric, in results and on the command line, e.g. `pole_gap`.
        out: folder of the package, which must not exist (default: sae-moral-NAME).

    Raises:
        ValueError: a name that is taken, or from which no package can be named.
        FolderError: the folder exists.
    """
    return _write("metric", name, out)


def new_source(name: str, out: str | Path | None = None) -> Path:
    """Write a package with a source of scenarios and its test; returns its folder.

    Args:
        name: of the source, in `load_data` and on the command line, e.g. `my-survey`.
        out: folder of the package, which must not exist (default: sae-moral-NAME).

    Raises:
        ValueError: a name that is taken, or from which no package can be named.
        FolderError: the folder exists.
    """
    return _write("source", name, out)


def _write(kind: str, name: str, out: str | Path | None) -> Path:
    _check(kind, name)
    files = _files(kind, name)
    folder = Path(f"sae-moral-{name.replace('_', '-')}" if out is None else out)
    if folder.exists():
        raise FolderError(f"{folder} exists; nothing was written: choose another folder with out=")
    with io.staged(folder) as new:
        for path, text in files.items():
            io.write_text(new / path, text)
    return folder


def _check(kind: str, name: str) -> None:
    """That a package can be named so, and that nothing else is."""
    expected = "at most 40 lower-case letters and digits, words joined by - or _, e.g. pole_gap"
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} cannot be the name of a {kind}; expected {expected}")
    taken = Registry[object](kind, GROUPS[kind]).names()
    if name in taken:
        raise ValueError(f"a {kind} named {name!r} exists already; choose another name (taken: {', '.join(taken)})")
    words, module = _words(kind, name), "src/sae_moral_a_placeholder/__init__.py"
    if importlib.util.find_spec(words["package"]) is not None:
        raise ValueError(f"a package {words['package']} is installed already; choose another name for the {kind}")
    used = _identifiers(_files(kind, "a-placeholder")[module])
    for word in (words["word"], words["type"]):
        if keyword.iskeyword(word) or word in used:
            raise ValueError(f"{word!r} means something else in Python or in the package; choose another name")


def _identifiers(code: str) -> set[str]:
    """Every name that a module binds or refers to."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name)
    return found


def _words(kind: str, name: str) -> dict[str, str]:
    """How a name is written where."""
    word = name.replace("-", "_")
    return {
        "kind": kind,
        "name": name,
        "word": word,
        "type": word.title().replace("_", ""),
        "package": f"sae_moral_{word}",
        "distribution": f"sae-moral-{word.replace('_', '-')}",
        "group": GROUPS[kind],
    }


def _files(kind: str, name: str) -> dict[str, str]:
    words = _words(kind, name)
    loader = jinja2.PackageLoader("sae_moral.scaffold")
    made = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    return {
        path.format_map(words): made.get_template(template.format_map(words)).render(words)
        for path, template in FILES.items()
    }
