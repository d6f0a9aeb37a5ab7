"""Two ranks of a process group (gloo) that torchrun started, one of them killed: what one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sae_moral.studies.study import Study
from tests.capture.test_store import contents as files
from tests.forks import one_thread
from tests.studies.test_study import hidden
from tests.studies.test_workers import CELLS, begun, contents
from tests.studies.worker import cells
from tests.tiny import scenarios

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *more: Path) -> None:
    folder.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        # Else ranks that were started again may find the addresses of those before (pytorch issue 135712), and wait.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [*torchrun, "--monitor-interval=0.1", "-m", "tests.studies.ranks", str(folder), *map(str, more)]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=200)
    assert len(list(folder.glob("started*"))) == 4  # two ranks, started twice


def check(folder: Path, alone: Path) -> None:
    Study(alone, "squares").run(cells(alone, CELLS))
    by_cell = begun(folder)
    assert contents(folder) == contents(alone) and hidden(folder) == []
    assert set(by_cell) == set(range(CELLS)) and len({pid for pids in by_cell.values() for pid in pids}) == 4
    # At most one cell of each rank was in progress when torchrun ended both.
    assert sum(map(len, by_cell.values())) <= CELLS + 2


def test_two_ranks_one_of_them_killed(tmp_path: Path) -> None:
    run(tmp_path / "ranks")
    check(tmp_path / "ranks", tmp_path / "alone")


@pytest.mark.slow
def test_two_ranks_that_capture_in_shards(tiny_folder: Path, tmp_path: Path) -> None:
    from sae_moral.capture import capture, load_model

    run(tmp_path / "ranks", tiny_folder)
    check(tmp_path / "ranks", tmp_path / "alone")
    with one_thread():
        capture(load_model(tiny_folder, device="cpu"), scenarios(60).text, store=tmp_path / "one", tokens_per_batch=32)
    assert files(tmp_path / "ranks" / "store") == files(tmp_path / "one")
