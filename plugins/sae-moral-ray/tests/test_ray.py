"""A real local Ray of two CPU workers, of which some are killed: the results are those of one process."""

from __future__ import annotations

import functools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ray = pytest.importorskip("ray", reason="needs Ray: pip install -e plugins/sae-moral-ray")

from sae_moral_ray import ray_capture, ray_workers  # noqa: E402

from sae_moral.capture import capture, load_model  # noqa: E402
from sae_moral.capture.run import read_prompts  # noqa: E402
from sae_moral.errors import SaeMoralWarning  # noqa: E402
from sae_moral.sae import TrainedSaes, TrainSettings, train_saes  # noqa: E402
from sae_moral.studies.study import Study  # noqa: E402
from tests.capture.test_store import contents as files  # noqa: E402
from tests.forks import one_thread  # noqa: E402
from tests.studies.test_study import hidden  # noqa: E402
from tests.studies.test_workers import CELLS, begun, contents, work  # noqa: E402
from tests.studies.worker import cells  # noqa: E402
from tests.tiny import save_tiny_model, scenarios  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two CPUs, and workers that find the tests and have one thread."""
    paths = [ROOT, ROOT / "plugins/sae-moral-ray/src", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for last in (False, False, True):  # Ray gives its own processes 30 s to start, too few on a busy machine
            try:
                ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
                break
            except Exception:
                ray.shutdown()
                if last:
                    raise
        yield
        ray.shutdown()


def ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or b") Z" in stat.read_bytes()


class Killer(threading.Thread):
    """Kills processes that work on a study, at random moments, until so many were killed or the study is done."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.kills, self.rng, self.gone = folder, kills, random.Random(seed), set[int]()

    def run(self) -> None:
        while len(self.gone) < self.kills and len(list(self.folder.glob("cells/cell*"))) < CELLS:
            time.sleep(self.rng.uniform(0.0, 0.15))
            who = self.folder / "who"
            lines = who.read_text().splitlines() if who.exists() else []
            alive = sorted({pid for line in lines if not ended(pid := int(line.split()[1]))} - self.gone)
            if len(alive) == 2:
                self.gone.add(doomed := self.rng.choice(alive))
                os.kill(doomed, signal.SIGKILL)


def killed_until_enough(folder: Path, kills: int) -> None:
    Study(folder / "alone", "squares").run(cells(folder / "alone", CELLS))
    hit, seed = 0, 0
    while hit < kills:  # of a machine that is busy, one task may have done all before the other began
        assert seed < 5 * kills + 10, f"{hit} of {kills} kills hit a task"
        own = folder / str(seed)
        own.mkdir()
        killer = Killer(own, kills - hit, seed)
        killer.start()
        ray_workers(2, functools.partial(work, own, 0.2, False), max_retries=kills)
        killer.join()
        hit, seed = hit + len(killer.gone), seed + 1
        by_cell = begun(own)
        work(own, 0.0, resume=False)  # one that was killed while it let go of its lease may have left that
        assert contents(own) == contents(folder / "alone") and hidden(own) == [] and begun(own) == by_cell
        assert set(by_cell) == set(range(CELLS))
        # A cell is begun again only where the one that had begun it was killed.
        assert all(pid in killer.gone for pids in by_cell.values() for pid in pids[:-1]), (by_cell, killer.gone)


def test_of_two_tasks_one_is_killed(tmp_path: Path) -> None:
    killed_until_enough(tmp_path, 1)


@pytest.mark.slow
def test_of_two_tasks_one_is_killed_twenty_times(tmp_path: Path) -> None:
    killed_until_enough(tmp_path, 20)


def first(folder: Path) -> bool:
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        return False
    return True


def refuse() -> Any:
    raise KeyError("a word of mine")


def test_a_task_that_fails_is_reported_and_the_other_counts(tmp_path: Path) -> None:
    def work() -> str:
        if first(tmp_path):
            refuse()
        time.sleep(1.0)
        return "done"

    with pytest.warns(SaeMoralWarning, match="a Ray task failed; the others did its work: .*a word of mine"):
        assert ray_workers(2, work) == "done"


def test_when_all_fail_the_error_is_that_of_the_work() -> None:
    with pytest.raises(KeyError, match="a word of mine"):
        ray_workers(2, lambda: refuse())
    with pytest.raises(ValueError, match="0 Ray tasks; expected at least 1"):
        ray_workers(0, lambda: None)


def test_the_others_are_interrupted_and_those_without_room_never_begin(tmp_path: Path) -> None:
    def waits_but_one() -> int:
        if first(tmp_path):
            while not list(tmp_path.glob("waits *")):
                time.sleep(0.01)
            return os.getpid()
        (waits := tmp_path / f"waits {os.getpid()}").mkdir()
        try:
            while True:
                time.sleep(0.01)
        finally:
            waits.rmdir()  # as a lease is let go of

    done = ray_workers(2, waits_but_one)
    assert not list(tmp_path.glob("waits *"))
    started = tmp_path / "started"
    started.mkdir()

    def begins() -> int:
        (started / str(time.time_ns())).mkdir()
        time.sleep(0.5)
        return done

    assert ray_workers(9, begins) == done
    assert 1 <= len(list(started.iterdir())) < 9


def loader(folder: Path, marker: Path | None = None) -> Callable[[], Any]:
    """What loads the tiny model; with a marker, the first that runs seven batches elsewhere than here kills itself."""
    here = os.getpid()

    def load() -> Any:
        model: Any = load_model(folder, device="cpu")
        batches: list[int] = []

        def count(*_: Any) -> None:
            batches.append(1)
            if marker is not None and os.getpid() != here and len(batches) == 7:
                try:
                    marker.mkdir()
                except FileExistsError:
                    return
                os.kill(os.getpid(), signal.SIGKILL)

        model.register_forward_pre_hook(count)
        return model

    return load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


HOW: dict[str, Any] = {"tokens_per_batch": 32, "bos": "tokenizer"}  # without a BOS, prompts of one token: NaN sinks
TEXT = [*scenarios(150).text, "helping"]


def begin(model: Any, store: Path, rows: int, **how: Any) -> None:
    """A capture that is interrupted when so many rows are there."""

    def interrupted(model: Any, prompts: Any, layers: Any, reader: Any, take: Any, **how: Any) -> None:
        first = [int(reader.first(prompts)[stop]) for _, stop in prompts.batches(how["tokens_per_batch"])]
        read_prompts(model, prompts, layers, reader, take, **{**how, "until": next(n for n in first if n >= rows)})
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sae_moral.capture.store.SECONDS_BETWEEN_SYNCS", 0.0)
        capture(model, TEXT, store=store, read_with=interrupted, **how)
    assert list(store.glob("*/progress.json"))


@pytest.mark.parametrize("granularity", ["scenario", pytest.param("token", marks=pytest.mark.slow)])
def test_a_capture_goes_on_by_actors_one_of_them_killed_and_writes_the_bytes_of_one_process(
    granularity: str, folder: Path, tmp_path: Path
) -> None:
    how, model = {**HOW, "granularity": granularity}, load_model(folder, device="cpu")
    alone = capture(model, TEXT, store=tmp_path / "a", **how)
    begin(model, tmp_path / "b", 20, **how)
    found = ray_capture(loader(folder, tmp_path / "killed"), TEXT, tmp_path / "b", actors=2, **how)
    assert (tmp_path / "killed").exists()
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert found.provenance == alone.provenance
    for layer in alone.layers:
        assert torch.equal(found.read(layer), alone.read(layer))


@pytest.mark.slow
def test_actors_with_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    other, here = save_tiny_model(tmp_path / "other", seed=1), os.getpid()
    with pytest.raises(Exception, match="loaded has other weights or another configuration"):
        ray_capture(
            lambda: load_model(folder if os.getpid() == here else other, device="cpu"),
            TEXT,
            tmp_path / "b",
            actors=1,
            **HOW,
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sae_moral.errors.SaeMoralWarning")
def test_tasks_that_train_make_the_weights_of_one_process(folder: Path, tmp_path: Path) -> None:
    settings = TrainSettings(expansion=3, steps=40, batch=32, target_l0=3)

    def train(out: str) -> TrainedSaes:
        return train_saes(str(folder), scenarios(900), "all", settings, out=tmp_path / out, device="cpu", shards=2)

    alone, found = train("alone"), ray_workers(2, lambda: train("shared"), num_gpus=0)
    assert list(found.results) == [0, 1, 2]
    for layer in found.results:
        weights = [one.path(layer) / "sae_weights.safetensors" for one in (alone, found)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_without_an_actor_nothing_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 actors; expected at least 1"):
        ray_capture(refuse, TEXT, tmp_path, actors=0)
