"""Leases: one holder at a time; a dead or silent one is replaced, a live one is not, whatever clocks say."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sae_moral import io
from sae_moral.io import Lease, leased, leases, shared
from sae_moral.io.files import alive
from tests.forks import forked


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / ".it.lease"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewed twenty times a second, and stale after four tenths of one."""
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "STALE", 0.4)


def elsewhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> Lease:
    """A lease that a process of another host holds."""
    with monkeypatch.context() as patch:
        patch.setattr(leases, "owner", lambda: "elsewhere-7")
        lease = leases.take(place)
    assert lease is not None and lease.holder.startswith("elsewhere-7-")
    return lease


def looks(place: Path, seconds: float) -> Lease | None:
    """Try to take the lease for so long."""
    end = time.monotonic() + seconds
    while (lease := leases.take(place)) is None and time.monotonic() < end:
        time.sleep(0.01)
    return lease


def dead(place: Path) -> None:
    """A lease whose holder was killed."""
    process = forked(lambda: (leases.take(place), time.sleep(60)))
    while not place.exists():
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_one_holder_at_a_time_and_nothing_is_left(place: Path) -> None:
    with leased(place) as lease:
        assert lease is not None and lease.held and leases.holder_of(place).startswith(f"process {os.getpid()} on ")
        with leased(place) as other:
            assert other is None
    assert not lease.held and list(place.parent.iterdir()) == []


def test_a_holder_that_lives_keeps_its_lease(place: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = elsewhere(place, monkeypatch)
    assert looks(place, 1.2) is None and lease.held
    lease.release()
    assert not place.exists()


@pytest.mark.parametrize("clock", [0.0, 4e9])
def test_a_silent_holder_is_replaced_whatever_its_clock_says(
    clock: float, place: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = elsewhere(place, monkeypatch)
    lease._released.set()  # its process sleeps, or its host is gone
    lease._thread.join()
    os.utime(place / lease.holder, (clock, clock))
    assert looks(place, 0.3) is None
    other = looks(place, 2)
    assert other is not None and other.held and not lease.held
    lease.release()  # it wakes up: what is another's stays
    assert other.held
    other.release()


def test_time_in_which_nobody_looked_does_not_count(place: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = elsewhere(place, monkeypatch)
    lease._released.set()
    lease._thread.join()
    for _ in range(3):  # this process, too, is stopped most of the time
        assert leases.take(place) is None
        time.sleep(0.3)


def test_the_lease_of_a_process_that_was_killed_is_free_at_once(place: Path) -> None:
    dead(place)
    started = time.monotonic()
    with leased(place) as lease:
        assert lease is not None and time.monotonic() - started < 1


def test_one_that_ended_and_was_not_waited_for_is_dead(place: Path) -> None:
    process = forked(lambda: (leases.take(place), os._exit(0)))
    assert process.pid is not None and process.sentinel
    while not place.exists() or alive(str(process.pid)):
        time.sleep(0.001)
    with leased(place) as lease:
        assert lease is not None
    process.join()


@pytest.mark.parametrize("left", ["nothing", "empty", "lock file of 0.1", "of a killed process"])
def test_of_many_that_want_it_one_has_it(left: str, tmp_path: Path) -> None:
    for i in range(10):
        place, ready, won = tmp_path / f".{i}.lease", threading.Barrier(8), []
        if left == "empty":
            place.mkdir()
        elif left == "lock file of 0.1":
            place.touch()
        elif left == "of a killed process":
            dead(place)

        def want(place: Path = place, ready: threading.Barrier = ready, won: list[Lease] = won) -> None:
            ready.wait()
            if (lease := leases.take(place)) is not None:
                won.append(lease)

        with ThreadPoolExecutor(8) as pool:
            for each in [pool.submit(want) for _ in range(8)]:
                each.result()
        assert len(won) == 1 and won[0].held
        won[0].release()
    assert list(tmp_path.iterdir()) == []


def test_what_is_never_held_by_two_is_counted_right(tmp_path: Path) -> None:
    counter, place = tmp_path / "n", tmp_path / ".n.lease"
    counter.write_text("0")

    def count() -> None:
        for _ in range(25):
            with leased(place, wait=True) as lease:
                assert lease is not None
                counter.write_text(str(int(counter.read_text()) + 1))

    processes = [forked(count) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3 and counter.read_text() == "75"


class TestShared:
    def run(self, folder: Path, names: range, work: Callable[[int], None], wait: bool = True) -> list[tuple[int, str]]:
        def find(i: int) -> str | None:
            return (folder / str(i)).read_text() if (folder / str(i)).exists() else None

        def make(i: int, lease: Lease) -> str:
            work(i)
            io.write_text(folder / str(i), str(i * i))
            return str(i * i)

        return list(shared({i: folder / f".{i}.lease" for i in names}, find, make, wait=wait))

    def test_all_are_there_for_everybody_each_made_once(self, tmp_path: Path) -> None:
        log = tmp_path / "log"

        def work(i: int) -> None:
            with log.open("a") as file:
                file.write(f"{i}\n")
            time.sleep(0.01)

        def whole() -> None:
            assert sorted(self.run(tmp_path, range(20), work)) == [(i, str(i * i)) for i in range(20)]

        processes = [forked(whole) for _ in range(3)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 3
        assert sorted(map(int, log.read_text().split())) == list(range(20))

    def test_what_others_hold_is_waited_for_after_all_else_or_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = elsewhere(tmp_path / ".0.lease", monkeypatch)
        assert self.run(tmp_path, range(3), lambda i: None, wait=False) == [(1, "1"), (2, "4")]
        timer = threading.Timer(0.3, lease.release)
        timer.start()
        assert self.run(tmp_path, range(3), lambda i: None) == [(1, "1"), (2, "4"), (0, "0")]
        timer.join()

    def test_a_lease_that_was_lost_leads_to_another_look(self, tmp_path: Path) -> None:
        tried: list[Lease] = []

        def make(name: str, lease: Lease) -> str:
            tried.append(lease)
            if len(tried) == 1:
                (lease.place / lease.holder).rename(lease.place / "another-1-x")
                (lease.place / "another-1-x").unlink()
            lease.check()
            return "made"

        found = shared({"a": tmp_path / ".a.lease"}, functools.partial(dict[str, str]().get), make)
        assert list(found) == [("a", "made")] and len(tried) == 2
