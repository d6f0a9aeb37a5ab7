"""For the tests of training and surgery: work that is killed over and over, then left to finish."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.forks import killed_until, one_thread


def run(work: Callable[[Path], object], folder: Path, kills: int, seed: int, *, within: float) -> tuple[Path, Path]:
    """The folder of the work that was killed, and that of the work that was not; both hold files of the same names.

    Args:
        work: writes its results into a folder.
        within: the longest time before a kill, as a share of what the work takes undisturbed.
    """
    one, other = folder / "killed", folder / "uninterrupted"
    with one_thread():
        work(folder / "warm-up")
        started = time.perf_counter()
        work(other)
        longest = within * (time.perf_counter() - started)
        killed_until(lambda: work(one), kills, seed, 0, longest, done=functools.partial(shutil.rmtree, one))
        work(one)
    assert names(one) == names(other)
    return one, other


def names(folder: Path) -> set[str]:
    """Of everything below the folder, but the lock of which nothing but its name is left."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert not [name for name in found if ".sae-moral-" in name], found
    return found
