"""Several workers on one study: whoever is killed or stopped, every cell is there once, and as one worker makes it."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sae_moral.io import leases
from sae_moral.studies.study import Study
from tests.forks import forked
from tests.studies.test_study import hidden, wait_for
from tests.studies.worker import cells

CELLS = 12


def worker(folder: Path, seconds: float, resume: bool = False) -> BaseProcess:
    return forked(functools.partial(work, folder, seconds, resume))


def work(folder: Path, seconds: float, resume: bool) -> None:
    found = Study(folder, "squares").run(cells(folder, CELLS, seconds, resume=resume))
    assert [done.value["square"] for done in found] == [i * i for i in range(CELLS)]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / "cells").rglob("*")
        if path.is_file()
    }


def begun(folder: Path) -> dict[int, list[int]]:
    """Per cell the processes that began it, in their order."""
    found: dict[int, list[int]] = {}
    for line in (folder / "who").read_text().splitlines():
        i, pid = map(int, line.split())
        found.setdefault(i, []).append(pid)
    return found


def killed_at_random(folder: Path, kills: int, seed: int) -> set[int]:
    """Two workers on a folder; one or the other is killed and replaced, `kills` times; who was killed."""
    rng, gone, crew = random.Random(seed), set[int](), [worker(folder, 0.05) for _ in range(2)]
    while len(gone) < kills:
        time.sleep(rng.uniform(0.0, 0.15))
        doomed = crew.pop(rng.randrange(2))
        assert doomed.pid is not None
        doomed.kill()
        doomed.join()
        if doomed.exitcode == 0:  # it was done: a new study
            break
        gone.add(doomed.pid)
        crew.append(worker(folder, 0.05))
    for one in crew:
        one.join()
        assert one.exitcode == 0
    return gone


def killed_until_enough(folder: Path, alone: dict[str, bytes], kills: int) -> None:
    hit, seed = 0, 0
    while hit < kills:
        own = folder / str(seed)
        own.mkdir()
        gone = killed_at_random(own, kills - hit, seed)
        hit, seed = hit + len(gone), seed + 1
        by_cell = begun(own)
        work(own, 0.0, resume=False)  # one that was killed while it let go of its lease may have left that
        assert contents(own) == alone and hidden(own) == [] and begun(own) == by_cell
        assert set(by_cell) == set(range(CELLS))
        # A cell is begun again only where the one that had begun it was killed.
        assert all(pid in gone for pids in by_cell.values() for pid in pids[:-1]), (by_cell, gone)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """What one worker makes of the study."""
    Study(tmp_path / "alone", "squares").run(cells(tmp_path / "alone", CELLS))
    yield contents(tmp_path / "alone")


def test_workers_that_are_killed_lose_nothing_and_repeat_nothing(tmp_path: Path, alone: dict[str, bytes]) -> None:
    killed_until_enough(tmp_path, alone, 6)


@pytest.mark.slow
def test_workers_that_are_killed_sixty_times(tmp_path: Path, alone: dict[str, bytes]) -> None:
    killed_until_enough(tmp_path, alone, 60)


@pytest.mark.parametrize("resume", [False, True])
def test_a_worker_that_was_stopped_and_wakes_up_writes_nothing_twice(
    resume: bool, tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "STALE", 0.4)
    sleeper = worker(tmp_path, 0.6, resume)
    assert sleeper.pid is not None
    try:
        wait_for(tmp_path / "log", "begin 0")
        time.sleep(0.4)  # its file is written, its record is not
        os.kill(sleeper.pid, signal.SIGSTOP)
        work(tmp_path, 0.0, resume)
        made = {path: path.stat().st_ino for path in (tmp_path / "cells").rglob("*")}
        assert contents(tmp_path) == alone
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.join()
    assert sleeper.exitcode == 0
    assert begun(tmp_path)[0] == [sleeper.pid, os.getpid()]
    assert contents(tmp_path) == alone and hidden(tmp_path) == []
    assert {path: path.stat().st_ino for path in (tmp_path / "cells").rglob("*")} == made
