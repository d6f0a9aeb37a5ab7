"""Run by test_atlas_run: an atlas, killed over and over, then left to finish.

Usage: python -m tests.studies.killed PLAN FOLDER KILLS SEED. Prints how often it was killed. One process imports
everything and forks the ones that are killed: with one thread a fork inherits no locks of a thread pool.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path


def main(plan: str, folder: Path, kills: int, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    from sae_moral.studies import atlas

    started = time.perf_counter()
    atlas(plan, folder / "uninterrupted", device="cpu", progress=False)
    duration = time.perf_counter() - started
    rng, killed = random.Random(seed), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            atlas(plan, folder / "killed", device="cpu", progress=False)
            os._exit(0)
        time.sleep(rng.uniform(0, duration / 2))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    atlas(plan, folder / "killed", device="cpu", progress=False)
    print(killed)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5]))
