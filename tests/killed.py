"""Run by the tests of the command line: `diagnose` that is killed over and over, then left to finish.

Usage: python -m tests.killed MODEL DATA FOLDER KILLS SEED. Prints how often it was killed. One process imports the
libraries and forks the ones that are killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from sae_moral.cli import main
from sae_moral.results import DiagnosisRecord


def work(model: str, data: str, out: Path) -> int:
    """One diagnosis."""
    options = ["--metrics", "categorical,gradient", "--controls", "none", "--device", "cpu"]
    return main(["diagnose", model, "--data", data, *options, "--out", str(out)])


def run(model: str, data: str, folder: Path, kills: int, seed: int) -> None:
    """Kill, check that what is there is whole, go on."""
    import torch

    torch.set_num_threads(1)
    assert work(model, data, folder / "warm-up") == 0
    started = time.perf_counter()
    assert work(model, data, folder / "uninterrupted") == 0
    duration = time.perf_counter() - started
    rng, killed = random.Random(seed), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            os._exit(work(model, data, folder / "killed"))
        time.sleep(rng.uniform(0.2, 1) * duration)
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if (folder / "killed" / DiagnosisRecord.FILE).exists():
            DiagnosisRecord.load(folder / "killed")
            assert "</html>" in (folder / "killed" / "report.html").read_text(encoding="utf8")
    assert work(model, data, folder / "killed") == 0
    print(killed)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
