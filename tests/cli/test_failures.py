"""How commands fail: one line and an exit status for every error."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sae_moral.cli import COMMANDS, main
from sae_moral.cli.table import Command
from sae_moral.errors import BusyError, DataError, FolderError


@pytest.mark.parametrize(
    "error, status, message",
    [
        (ValueError("layers 'x'"), 2, "layers 'x'"),
        (DataError("cut short", file="a.csv", row=3), 2, "a.csv, row 3: cut short"),
        (FolderError("out holds other results"), 2, "out holds other results"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"), 2, "a.csv: No such file"),
        (UnicodeDecodeError("utf8", b"\xff", 0, 1, "invalid start byte"), 2, "invalid start byte"),
        (ModuleNotFoundError("No module named 'bitsandbytes'", name="bitsandbytes"), 2, "pip install bitsandbytes"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "a/b: Not a directory; expected a folder"),
        (FileExistsError(errno.EEXIST, "File exists", "a"), 2, "a: File exists; expected a folder"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "a: Is a directory; expected a file"),
        (OSError(errno.ENOSPC, "No space left on device", "out"), 3, "the disk is full: out: No space left"),
        (OSError(errno.EROFS, "Read-only file system", "out"), 3, "the disk is read-only: out"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 3, "no permission: out"),
        (OSError(errno.EIO, "Input/output error", "out"), 3, "out: Input/output error"),
        (ConnectionError("the hub did not answer"), 3, "the hub did not answer"),
        (MemoryError(), 3, "too little memory: MemoryError; use fewer layers"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 3, "too little memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), 3, "too little memory"),
        (RuntimeError("a hook fired twice"), 3, "a hook fired twice (--debug shows where)"),
        (RecursionError("maximum recursion depth exceeded"), 3, "recursion depth"),
        (BusyError("out is being written by process 7"), 4, "out is being written by process 7"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_error_has_a_line_and_a_status(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, "models", Command(fail))
    monkeypatch.delenv("SAE_MORAL_DEBUG", raising=False)
    assert main(["models"]) == status
    told = capsys.readouterr().err
    assert told.startswith("sae-moral: ") and message in told and "Traceback" not in told
    with pytest.raises(type(error)):
        main(["models", "--debug"])
    monkeypatch.setenv("SAE_MORAL_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["models"])


def test_what_caused_an_error_counts_and_faults_of_ours_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise ValueError("cannot load 'm'") from RuntimeError("CUDA out of memory.")

    def broken(arguments: object) -> int:
        raise KeyError("layer")

    monkeypatch.setitem(COMMANDS, "models", Command(fail))
    assert main(["models"]) == 3
    assert "too little memory: cannot load 'm'" in capsys.readouterr().err
    monkeypatch.setitem(COMMANDS, "models", Command(broken))
    with pytest.raises(KeyError):
        main(["models"])


def test_damaged_safetensors(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import safe_open

    def fail(arguments: object) -> int:
        with safe_open(here / "nothing.safetensors", framework="np"):
            return 0

    (here / "nothing.safetensors").write_bytes(b"\xff" * 20)
    monkeypatch.setitem(COMMANDS, "models", Command(fail))
    assert main(["models"]) == 2
    assert "a damaged safetensors file" in capsys.readouterr().err


def test_cut_weights(tiny_folder: Path, table: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_folder, here / "cut")
    weights = here / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["diagnose", "cut", "--data", str(table)]) == 2
    assert "model.safetensors: cut short or damaged" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["cut"]


def test_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sae_moral.cli", "data"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_installed_command_reports_bad_input_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("text,foundation,judgment,agreement\nlying,care-hram,-1,2\n")
    command = [sys.executable, "-m", "sae_moral.cli"]
    line = ["diagnose", "smollm2-135m-instruct", "--data", str(tmp_path / "bad.csv")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([*command, *line], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "bad.csv, row 2" in done.stderr and "did you mean 'care-harm'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize(
    "line, message",
    [
        (["diagnos", "m"], "unknown command 'diagnos'; did you mean 'diagnose'"),
        (["diagnose"], "the following arguments are required: MODEL"),
        (["diagnose", "m", "--protcol", "paper"], "unknown argument '--protcol'; did you mean '--protocol'"),
        (["diagnose", "m", "n"], "unknown argument 'n'; see: sae-moral diagnose --help"),
        (["diagnose", "m", "--layers", "first"], "layers 'first'; expected 'all', a number"),
        (["data", "inof"], "invalid choice: 'inof'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_arguments_that_are_not_understood(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert message in capsys.readouterr().err
