"""What an index shows of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_on_an_index_has_no_links_to_files_that_are_not_there() -> None:
    toml = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
    shown = (ROOT / "README.md").read_text(encoding="utf8")
    links = re.compile(r"\]\((?!https?://)")
    assert len(links.findall(shown)) > 20
    for one in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(one["pattern"], one["replacement"], shown)
    assert not links.findall(shown) and "<!--" not in shown and "![" not in shown
    assert "Read protocols and metrics and controls before you read a number" in shown
