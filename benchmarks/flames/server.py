"""A judge on the loopback for as long as a run lasts: `transformers serve` with a bundled model or a folder, or the
server of llama.cpp with a GGUF file.

llama.cpp keeps what a request shares with the one before (the rubric; for the second grade the answer, too) and gives
log-probabilities, which `--judging choice` needs and `transformers serve` does not give. Its `convert_hf_to_gguf.py`
makes the file; `--outtype bf16` loses nothing of weights that are bfloat16.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from sae_moral.capture.bundled import BUNDLED, bundled_path

READY = 180
"""Seconds a server may take to load its model."""


@contextmanager
def serve(model: str, log: Path, *, dtype: str = "float32", device: str = "cpu") -> Iterator[tuple[str, str]]:
    """Serve a model while the context lasts; yields the base URL and the name to ask for.

    Args:
        model: a bundled model, or a folder in Hugging Face format; it needs a chat template. Or a file that ends with
            `.gguf`, whose weights have their dtype already.
        log: where the server's output goes.

    Raises:
        FileNotFoundError: a GGUF file, and no `llama-server` on the PATH.
        RuntimeError: the server ended or did not answer in time; the message ends with what it printed.
    """
    path, port = bundled_path(model) if model in BUNDLED else Path(model).resolve(), free_port()
    of_llama = path.suffix == ".gguf"
    command = _llama(path) if of_llama else [str(Path(sys.executable).with_name("transformers")), "serve", path.name]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += [] if of_llama else ["--device", device, "--dtype", dtype]
    with started(command, f"http://127.0.0.1:{port}/health", log, cwd=path.parent):
        yield f"http://127.0.0.1:{port}/v1", path.stem if of_llama else path.name


def _llama(file: Path) -> list[str]:
    program = shutil.which("llama-server")
    if program is None:
        raise FileNotFoundError(f"no llama-server on the PATH to serve {file}; build llama.cpp, or serve a folder")
    # A request at a time: several slots would share the context, and what they keep. What is kept of older requests
    # would grow to 8 GB, and is of no use: what they share is at hand.
    options = ["--ctx-size", "8192", "--parallel", "1", "--cache-ram", "0"]
    options += ["--threads", str(len(os.sched_getaffinity(0)))]
    return [program, "--model", str(file), "--alias", file.stem, *options]


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(command: Sequence[str], url: str, log: Path, *, ready: float = READY, **how: Any) -> Iterator[None]:
    """A server that answers at `url` while the context lasts.

    Args:
        log: where its output goes.
        ready: seconds it may take.
        how: for `Popen`.

    Raises:
        RuntimeError: it ended or did not answer in time; the message ends with what it printed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # A server must not outlive a run that is killed: run again, there would be two.
    tied = [program, "--pdeathsig", "TERM"] if (program := shutil.which("setpriv")) else []
    with log.open("ab") as output:
        process = subprocess.Popen([*tied, *command], stdout=output, stderr=subprocess.STDOUT, **how)
    try:
        _wait(process, url, log, ready)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[Any], url: str, log: Path, ready: float) -> None:
    end = time.monotonic() + ready
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    tail = log.read_text(encoding="utf8", errors="replace")[-2000:]
    raise RuntimeError(f"the server did not start (see {log}):\n{tail}")
