"""Run by test_store: capture into a store, killed over and over, then left to finish.

Usage: python -m tests.capture.killed MODEL FOLDER N_TEXTS KILLS SEED. Prints how often a capture was killed. One
process loads the model and forks the ones that are killed: with one thread a fork inherits no locks of a thread pool.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path


def main(name: str, folder: Path, n: int, kills: int, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    from sae_moral.capture import capture, load_model, store
    from tests.tiny import scenarios

    store.SECONDS_BETWEEN_SYNCS = 0.02
    model, text = load_model(name, device="cpu"), scenarios(n).text
    started = time.perf_counter()
    capture(model, text, tokens_per_batch=64, store=folder / "uninterrupted")
    duration = time.perf_counter() - started
    rng, killed = random.Random(seed), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            capture(model, text, tokens_per_batch=64, store=folder / "killed")
            os._exit(0)
        time.sleep(rng.uniform(0, duration / 8))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    capture(model, text, tokens_per_batch=64, store=folder / "killed")
    print(killed)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6]))
