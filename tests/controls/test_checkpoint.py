"""An interrupted measurement goes on: with the same numbers, from what was drawn before, and with nothing left."""

from __future__ import annotations

import dataclasses
import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture.vectors import Representations
from sae_moral.controls import Controls, Measured, measure
from sae_moral.controls.checkpoint import Checkpoint
from sae_moral.controls.sample import Sampled, headline_alone
from sae_moral.controls.sampler import Sampler
from sae_moral.data import MoralData
from sae_moral.io import leased
from sae_moral.metrics import resolve_metrics
from sae_moral.protocol import AUDITED, Protocol
from tests.metrics.worlds import planted

CONTROLS = Controls(("interval", "null", "nuisance"), resamples=50, permutations=19)
X, DATA = planted(0, n=120, d=4, polarity=1, foundation=1)
DATA = dataclasses.replace(DATA, length=np.random.default_rng(0).integers(4, 12, len(DATA)))


def representations(shift: float = 0.0) -> Representations:
    layers = {
        0: X.float(),
        1: (X + shift + 0.1 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1))).float(),
    }
    assert DATA.length is not None
    return Representations((0, 1), np.arange(len(DATA)), DATA.length, DATA.length, {}, layers.__getitem__)


def run(
    checkpoint: Checkpoint | None, *, data: MoralData = DATA, protocol: Protocol = AUDITED, **options: Any
) -> Measured:
    metrics = resolve_metrics(["categorical"], protocol)
    controls = dataclasses.replace(CONTROLS, **options)
    return measure(representations(), data, metrics, protocol, controls, checkpoint=checkpoint, progress=False)


def numbers(found: Measured) -> Any:
    assert found.controls is not None
    return dataclasses.replace(found, controls={**found.controls, "seconds": {}})


class Draws:
    """The metrics that are drawn of; an interruption where `ends` were."""

    def __init__(self, real: Any) -> None:
        self.real, self.calls, self.ends = real, 0, -1

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.calls == self.ends:
            raise KeyboardInterrupt
        self.calls += 1
        return self.real(*arguments, **options)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    module = importlib.import_module(Sampler.__module__)
    found = Draws(module.sample)
    monkeypatch.setattr(module, "sample", found)
    return found


@pytest.mark.parametrize("done", [1, 2])
def test_an_interrupted_one_goes_on_and_gives_the_same(tmp_path: Path, draws: Draws, done: int) -> None:
    whole, every = run(None), draws.calls
    draws.calls, draws.ends = 0, done
    with pytest.raises(KeyboardInterrupt):
        run(Checkpoint(tmp_path / "samples", {}))
    assert len(list((tmp_path / "samples").glob("*.safetensors"))) == done
    draws.calls, draws.ends = 0, -1
    again = Checkpoint(tmp_path / "samples", {})
    assert numbers(run(again)) == numbers(whole)
    assert again.found == done and draws.calls == every - done
    again.remove()
    assert not list((tmp_path / "samples").iterdir())


def test_two_that_share_do_each_sample_once_and_have_all(tmp_path: Path, draws: Draws) -> None:
    whole, every = run(None, names=(*CONTROLS.names, "words")), draws.calls
    draws.calls = 0
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run, Checkpoint(tmp_path, {}), names=(*CONTROLS.names, "words")) for _ in range(2)]
    assert [numbers(one.result()) for one in futures] == [numbers(whole)] * 2
    assert draws.calls == every
    assert not list(tmp_path.glob("*.lease"))


def test_what_another_is_at_is_left_to_it_or_waited_for(tmp_path: Path) -> None:
    checkpoint, (metric,) = Checkpoint(tmp_path, {}), resolve_metrics(["categorical"], AUDITED)

    def sampled(wait: bool) -> Sampled | None:
        return checkpoint.sampled(metric, X, DATA, CONTROLS, {}, lambda: headline_alone(metric, X, DATA), wait=wait)

    made = sampled(False)
    (file,) = tmp_path.iterdir()
    kept = file.read_bytes()
    file.unlink()
    with leased(file.with_suffix(".lease")), ThreadPoolExecutor() as pool:
        assert sampled(False) is None
        waiting = pool.submit(sampled, True)
        time.sleep(0.1)
        assert not waiting.done()
        file.write_bytes(kept)  # the other has finished it
        assert waiting.result() == made


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"resamples": 60},
        {"data": dataclasses.replace(DATA, text=tuple(f"{text} now" for text in DATA.text))},
        {"data": DATA.relabelled(np.roll(np.arange(len(DATA)), 1))},
        {"protocol": dataclasses.replace(AUDITED, folds=4)},
    ],
    ids=["seed", "resamples", "texts", "labels", "folds"],
)
def test_what_was_drawn_otherwise_is_not_taken(tmp_path: Path, change: dict[str, Any]) -> None:
    run(Checkpoint(tmp_path, {}))
    other = Checkpoint(tmp_path, {})
    assert numbers(run(other, **change)) == numbers(run(None, **change))
    assert other.found == 0


def test_equal_data_are_the_same_data(tmp_path: Path) -> None:
    run(Checkpoint(tmp_path, {}))
    other = Checkpoint(tmp_path, {})
    run(other, data=dataclasses.replace(DATA))
    assert other.found > 0


def test_other_circumstances_are_other_samples(tmp_path: Path) -> None:
    run(Checkpoint(tmp_path, {"protocol": "one"}))
    other = Checkpoint(tmp_path, {"protocol": "another"})
    run(other)
    assert other.found == 0
    files = len(list(tmp_path.iterdir()))
    other.remove()  # its own alone
    assert len(list(tmp_path.iterdir())) == files / 2


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    first = run(Checkpoint(tmp_path, {}))
    for i, path in enumerate(sorted(tmp_path.iterdir())):
        path.write_bytes((b"", path.read_bytes()[:-1], b"{}")[i % 3])
    again = Checkpoint(tmp_path, {})
    assert numbers(run(again)) == numbers(first)
    assert again.found == 0
