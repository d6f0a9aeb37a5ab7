"""Scripts for shells: bash reads and runs it, the others are complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sae_moral.cli import COMMANDS, main
from sae_moral.cli.completion import SHELLS

ASK = """
source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_sae_moral && printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(here: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The one for bash, in an empty folder."""
    pytest.importorskip("shtab", reason="needs shtab: pip install shtab")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    assert main(["completion", "bash"]) == 0
    (here / "script").write_text(capsys.readouterr().out)
    return here / "script"


def test_bash_accepts_it(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["d"], {"diagnose", "data", "doctor"}),
        (["diagnose", "--prot"], {"--protocol"}),
        (["diagnose", "m", "--protocol", ""], {"paper", "audited"}),
        (["diagnose", "gemma"], {"gemma-3-270m"}),
        (["diagnose", "s"], {"smollm2-135m-instruct", "saes"}),
        (
            ["diagnose", "m", "--data", "s"],
            {"scenarios-400", "social-chem-101", "social-chem-101-full", "script", "saes"},
        ),
        (["operate", "m", "s"], {"saes"}),
        (["train-sae", "m", "--arch"], {"--architecture"}),
        (["data", ""], {"info", "build", "verify", "sample"}),
        (["data", "build", "s"], {"script", "saes"}),
        (["completion", ""], set(SHELLS)),
    ],
)
def test_bash_completes(script: Path, line: list[str], expected: set[str]) -> None:
    (script.parent / "saes").mkdir()
    command = ["bash", "--norc", "-c", ASK, "bash", "sae-moral", *line]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent)
    assert done.stderr == "" and set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="needs shtab: pip install shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(re.search(rf"\b{re.escape(name)}\b", script) for name in (*COMMANDS, "flames", "verify"))
    for option in ("--target-l0", "--quantization-config", "--rotations"):
        assert (f"-l {option[2:]}" if shell == "fish" else option) in script
    assert "gemma-3-270m" in script and "scenarios-400" in script


def test_without_shtab_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err


def test_other_shells_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh' (choose from 'bash', 'zsh', 'fish')" in capsys.readouterr().err
