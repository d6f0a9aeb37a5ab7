"""Every `sae-moral` command that README and docs show is one the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sae_moral.cli import parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("sae-moral ") and "…" not in line:
                    found.append((page.name, line))
    return found


def test_there_are_some() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("page, line", commands())
def test_it_is_understood(page: str, line: str) -> None:
    arguments = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    if "--help" in arguments:
        with pytest.raises(SystemExit) as ended:
            parser(arguments[0]).parse_args(arguments)
        assert ended.value.code == 0
    elif arguments[0] == "flames":
        plugin = pytest.importorskip("sae_moral_inspect.cli", reason="needs the plugin sae-moral-inspect")
        plugin.parser().parse_args(arguments[1:])
    else:
        parser(arguments[0]).parse_args(arguments)
