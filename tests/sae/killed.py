"""Run by the tests of training and surgery: work that is killed over and over, then left to finish.

Usage: python -m tests.sae.killed WORK MODEL FOLDER KILLS SEED. Prints how often the work was killed. One process loads
the model and forks the ones that are killed: with one thread a fork inherits no locks of a thread pool.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def train(model: Any) -> Callable[[Path], object]:
    """Train the SAEs of two layers, from the capture on."""
    from sae_moral.sae import TrainSettings, train_saes
    from tests.tiny import scenarios

    settings = TrainSettings(expansion=4, target_l0=8, steps=80, batch=64, checkpoints=8, granularity="scenario")
    data = scenarios()
    return lambda out: train_saes(model, data, [0, 2], settings, out=out, splice_texts=4, progress=False)


def operate(model: Any) -> Callable[[Path], object]:
    """Operate on a few latents of a small SAE, and save the operation."""
    from sae_moral.surgery import operate
    from tests.surgery.worlds import BY_DIMENSION, data, representations, sae

    of, loaded = data(300), sae()
    vectors = representations(of)
    return lambda out: operate(loaded, BY_DIMENSION, vectors, of, epochs=4, batch=64).save(out)


def main(what: str, name: str, folder: Path, kills: int, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    from sae_moral.capture import load_model

    work = {"train": train, "operate": operate}[what](load_model(name, device="cpu"))
    work(folder / "warm-up")
    started = time.perf_counter()
    work(folder / "uninterrupted")
    duration = time.perf_counter() - started
    rng, killed = random.Random(seed), 0
    for _ in range(3 * kills):
        child = os.fork()
        if child == 0:
            work(folder / "killed")
            os._exit(0)
        time.sleep(rng.uniform(0, duration * (1.1 if what == "operate" else 0.4)))
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            shutil.rmtree(folder / "killed")  # it came to its end: the next one begins anew
        elif (killed := killed + 1) == kills:
            break
    work(folder / "killed")
    print(killed)


def run(what: str, model: Path, folder: Path, kills: int, seed: int) -> tuple[Path, Path]:
    """The folder of the work that was killed, and that of the work that was not; both hold files of the same names."""
    command = [sys.executable, "-m", "tests.sae.killed", what, str(model), str(folder), str(kills), str(seed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) == kills  # kills must hit running work for the test to mean anything
    one, other = folder / "killed", folder / "uninterrupted"
    assert names(one) == names(other)
    return one, other


def names(folder: Path) -> set[str]:
    """Of everything below the folder, but the lock of which nothing but its name is left."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert not [name for name in found if ".sae-moral-" in name], found
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:6]))
