"""Messages name options on the command line and arguments in Python, and colours stay on terminals."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sae_moral import io
from sae_moral.cli import main, parser
from sae_moral.cli.diff import coloured, marked
from sae_moral.cli.failures import in_options
from sae_moral.data import load_data
from sae_moral.errors import FolderError, SaeMoralWarning

ROOT = Path(__file__).resolve().parents[2]


def parsers(made: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield made
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


OPTIONS = {flag for made in parsers(parser()) for flag in made._option_string_actions if flag.startswith("--")}


def diagnose() -> argparse.ArgumentParser:
    return parser("diagnose").parse_args(["diagnose", "m"]).parser


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("give any_model=True", "give --any-model"),
        ("leave it out (controls='none', or names)", "leave it out (--controls none, or names)"),
        ("name it: text_column=; or else", "name it: --text-column; or else"),
        ("text_column= given for d.csv", "--text-column given for d.csv"),
        ("n_devices is 0; expected at least 1", "--n-devices is 0; expected at least 1"),
        (
            "max_memory is a limit for device_map; expected device_map='auto' or n_devices beside it",
            "--max-memory is a limit for --device-map; expected --device-map auto or --n-devices beside it",
        ),
        ("use dtype=bf16.", "use --dtype bf16."),
        ("match=None", "--match none"),
        ("the device 'cpu', the layers and the data", "the device 'cpu', the layers and the data"),
        ("'any_model', any_model/x.json, model.any_model.y", "'any_model', any_model/x.json, model.any_model.y"),
        ("pass rule='paper' or any_models=True", "pass rule='paper' or any_models=True"),  # no option of diagnose
        ("argument --any-model: x", "argument --any-model: x"),
    ],
)
def test_arguments_become_options(text: str, expected: str) -> None:
    assert in_options(text, diagnose()) == expected
    assert in_options(text, None) == text


def test_what_is_imported_names_no_option() -> None:
    """The words of the package are for Python; the command line puts its options in their place."""
    assert {"--any-model", "--overwrite", "--text-column", "--offline"} <= OPTIONS
    found = []
    for path in sorted((ROOT / "sae_moral").rglob("*.py")):
        if path.parent.name == "cli":
            continue
        tree = ast.parse(path.read_text(encoding="utf8"))
        said = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
                options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value)) & OPTIONS
                found += [f"{path.relative_to(ROOT)}:{node.lineno} {one}" for one in options]
    assert found == []


def both(python: Callable[[], object], line: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What Python and the command line say of the same mistake."""
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        python()
    assert main(line) == 2
    return str(raised.value), capsys.readouterr().err


def test_known_mistakes_both_ways(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path / "cache"))
    Path("t.csv").write_text("text,foundation,judgment,agreement,note\nlying,care-harm,-1,2,x\n")
    told, shown = both(lambda: load_data("t.csv"), ["data", "info", "t.csv"], capsys)
    assert "with extra_columns='ignore'" in told and "--" not in told
    assert "with --extra-columns ignore" in shown and "extra_columns" not in shown

    told, shown = both(
        lambda: load_data("t.csv", text_column="deed"),
        ["diagnose", "m", "--data", "t.csv", "--text-column", "deed", "--controls", "none"],
        capsys,
    )
    assert "name it: text_column=" in told and "name it: --text-column" in shown

    from sae_moral.data import load_social_chem

    told, shown = both(lambda: load_social_chem(offline=True), ["data", "verify", "--offline"], capsys)
    assert "leave out offline=True" in told and "leave out --offline" in shown

    io.claim("out", "diagnosis", {"layers": [1]})
    with pytest.raises(FolderError, match="overwrite=True"):
        io.claim("out", "sweep", {})
    assert main(["train-sae", "m", "--data", "scenarios-400", "--out", "out"]) == 2
    assert "choose another folder, or --overwrite" in capsys.readouterr().err


def test_warnings_name_options_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    from sae_moral.cli import COMMANDS
    from sae_moral.cli.table import Command, data

    def warn(arguments: argparse.Namespace) -> int:
        warnings.warn("fits with any_model=True", SaeMoralWarning, stacklevel=2)
        warnings.warn("groups='near' holds more", SaeMoralWarning, stacklevel=2)
        return 0

    monkeypatch.setitem(COMMANDS, "models", Command(warn, *data))
    assert main(["models", "m"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == ["sae-moral: fits with any_model=True", "sae-moral: --groups near holds more"]


@pytest.mark.parametrize(
    ("terminal", "variables", "expected"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    terminal: bool, variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert coloured() is expected
    assert ("\033" in marked("lying is wrong", "lying is fine", colour=coloured())) is expected
