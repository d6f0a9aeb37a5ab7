"""The commands that write a package of a user's own. None of them waits for torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sae_moral.cli.folders import check_place


def new_metric(a: argparse.Namespace) -> int:
    """Write a package with a metric of your own, and its test.

    The package is one that can be installed: pyproject.toml with the entry point, the metric, a test that passes, and a
    README. The metric is a small one, to be replaced (see docs/extending.md).

    Example: sae-moral new-metric pole_gap
    """
    from sae_moral.scaffold import new_metric

    return _told(a, new_metric(a.name, _out(a)), "metrics")


def new_source(a: argparse.Namespace) -> int:
    """Write a package with a source of scenarios of your own, and its test.

    The package is one that can be installed: pyproject.toml with the entry point, the reader of a table, a test that
    passes, and a README. The table is a small one, to be replaced (see docs/extending.md).

    Example: sae-moral new-source my-survey --out my-survey
    """
    from sae_moral.scaffold import new_source

    return _told(a, new_source(a.name, _out(a)), "data")


def _out(a: argparse.Namespace) -> Path | None:
    check_place(Path.cwd() if a.out is None else a.out.absolute().parent)
    return a.out


def _told(a: argparse.Namespace, folder: Path, listing: str) -> int:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if a.json:
        print(json.dumps({"name": a.name, "folder": str(folder), "files": files}, indent=1, ensure_ascii=False))
        return 0
    print("\n".join([str(folder), *(f"  {file}" for file in files)]))
    steps = ["python -m pip install --editable '.[dev]'", "python -m pytest", f"sae-moral {listing}"]
    print("\n".join(["", f"cd {folder}", *steps]))
    return 0
