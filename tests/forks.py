"""Processes that begin as this one is, for tests that kill work or share it.

Importing the libraries takes a new process ten seconds of computing; a fork has them, and the model, already. With one
thread per process (`one_thread`) a fork inherits no locks of a thread pool.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess


def forked(work: Callable[[], object]) -> BaseProcess:
    """A process that does the work; its exit code is 0 if the work raised nothing."""
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process


def killed(work: Callable[[], object], seconds: float) -> bool:
    """Kill the work after so many seconds; whether it was still at it."""
    process = forked(work)
    assert process.pid is not None
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def killed_until(
    work: Callable[[], object], kills: int, seed: int, low: float, high: float, *, done: Callable[[], object]
) -> None:
    """Kill the work `kills` times, after `low` to `high` seconds each; where it came to its end first, call `done` and
    try again, so that as many kills as asked for hit work in progress."""
    rng, hit = random.Random(seed), 0
    for _ in range(3 * kills):
        if killed(work, rng.uniform(low, high)):
            if (hit := hit + 1) == kills:
                return
        else:
            done()
    raise AssertionError(f"{hit} of {kills} kills hit the work")


@contextmanager
def one_thread() -> Iterator[None]:
    """torch works with one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
