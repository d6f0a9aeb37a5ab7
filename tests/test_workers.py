"""`workers`: the same work by several processes of this machine, each with its devices and threads."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sae_moral.errors import SaeMoralWarning
from sae_moral.io import leased
from sae_moral.workers import shares, workers
from tests.studies.test_workers import work

ROOT = Path(__file__).resolve().parents[1]
STARTED = """
import functools, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell inherits ignored
from pathlib import Path
from sae_moral.workers import workers
from tests.studies.test_workers import work
if __name__ == "__main__":
    folder, n, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    same = functools.partial(work, folder, seconds, False)
    try:
        with workers(n, same, logs=folder / "workers", device="cpu"):
            same()
    except KeyboardInterrupt as error:
        print(error)
"""


def say(folder: Path, *names: str) -> None:
    """Write down what this process sees of its environment, and stay."""
    seen = " ".join(os.environ.get(name, "-") for name in names)
    (folder / f"seen-{os.getpid()}").write_text(seen)
    print("seen")
    time.sleep(60)


def fail(folder: Path) -> int:
    (folder / "failed").write_text("")
    return 3


def wait_for(seconds: float, test: functools.partial[object]) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        time.sleep(0.01)


def found(folder: Path, pattern: str, n: int) -> bool:
    return len([path for path in folder.glob(pattern) if path.stat().st_size]) == n


class TestShares:
    def test_threads_are_shared_unless_somebody_says_how_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr("sae_moral.workers._cpus", lambda: 8)
        assert shares(3, "cpu") == [{"OMP_NUM_THREADS": "2"}] * 3
        assert shares(20, "cpu") == [{"OMP_NUM_THREADS": "1"}] * 20
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        assert shares(3, "cpu") == [{}] * 3

    @pytest.mark.parametrize(
        ("visible", "n", "expected"),
        [
            (None, 4, ["0", "1", "2", "3"]),
            (None, 2, ["0,2", "1,3"]),
            (None, 6, ["0", "1", "2", "3", "0", "1"]),
            ("GPU-a,7,3,1", 4, ["GPU-a", "7", "3", "1"]),
        ],
    )
    def test_devices_are_dealt_out(
        self, visible: str | None, n: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [share["CUDA_VISIBLE_DEVICES"] for share in shares(n)] == expected
        assert shares(n, "cuda") == shares(n)
        assert shares(n, "cuda:1") == shares(n, "cpu") == [{}] * n


def test_each_has_its_share_while_the_block_runs_and_none_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("sae_moral.workers._cpus", lambda: 6)
    before = torch.get_num_threads()
    with workers(2, functools.partial(say, tmp_path, "OMP_NUM_THREADS"), logs=tmp_path / "logs", device="cpu"):
        assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("3", 3)
        wait_for(60, functools.partial(found, tmp_path, "seen-*", 1))
    assert "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() == before
    (seen,) = tmp_path.glob("seen-*")
    assert seen.read_text() == "3"
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen.name.removeprefix("seen-")), 0)
    (log,) = (tmp_path / "logs").iterdir()
    assert "seen" in log.read_text() and log.name.endswith("-2.log")


def test_one_worker_is_this_process_and_none_is_refused(tmp_path: Path) -> None:
    with workers(1, functools.partial(fail, tmp_path), logs=tmp_path / "logs"):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="0 workers; expected at least 1"):
        with workers(0, functools.partial(fail, tmp_path), logs=tmp_path / "logs"):
            pass


def test_a_worker_that_fails_is_reported(tmp_path: Path) -> None:
    def done() -> bool:
        return (tmp_path / "failed").exists()

    with pytest.warns(
        SaeMoralWarning, match=r"worker 2 of 2 failed with status 3; the others did its work \(see .*2\.log"
    ):
        with workers(2, functools.partial(fail, tmp_path), logs=tmp_path / "logs", device="cpu"):
            wait_for(60, functools.partial(done))
            time.sleep(1)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "started.py"
    path.write_text(STARTED)
    return path


def start(script: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT, start_new_session=True
    )


def pids(folder: Path) -> set[int]:
    who = folder / "who"
    return {int(line.split()[1]) for line in who.read_text().splitlines()} if who.exists() else set()


def both_work(folder: Path) -> bool:
    return len(pids(folder)) == 2


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_stops_all_and_says_what_is_kept(whole_group: bool, script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    started = start(script, folder, 2, 3.0)
    wait_for(60, functools.partial(both_work, folder))
    (os.killpg if whole_group else os.kill)(started.pid, signal.SIGINT)
    out, _ = started.communicate(timeout=30)
    assert out == f"0 of 12 cells are kept in {folder}; the same command goes on with the rest\n"
    for pid in pids(folder):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    # A worker that is interrupted twice may leave its lease: the next run takes it over, and clears away the rest.
    work(folder, 0.0, False)
    assert len(left := [path.name for path in (folder / "cells").iterdir()]) == 12
    assert not [name for name in left if name.startswith(".")]


def test_workers_end_with_the_one_that_started_them(script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    started = start(script, folder, 2, 600.0)
    wait_for(60, functools.partial(both_work, folder))
    started.kill()
    started.communicate()

    def ended(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return b") Z" in Path(f"/proc/{pid}/stat").read_bytes()

    for pid in pids(folder):
        wait_for(10, functools.partial(ended, pid))
    for lease in (folder / "cells").glob(".*.lease"):
        with leased(lease) as own:
            assert own is not None
