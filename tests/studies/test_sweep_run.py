"""The sweep: a planted edit is found and a random direction is not; killed work goes on; processes share a folder."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sae_moral.studies.sweep_run as module
from sae_moral.errors import DataError, FolderError, SaeMoralWarning
from sae_moral.steering import MeasureSettings
from sae_moral.studies.study import RECORD
from sae_moral.studies.sweep_page import verdicts
from sae_moral.studies.sweep_results import ARMS, beyond_random
from sae_moral.studies.sweep_run import Sweep
from sae_moral.surgery.operation import digests
from tests.forks import forked, killed
from tests.steering.planted import operated, random_sae
from tests.tiny import scenarios

DATA = scenarios(240)
SETTINGS = MeasureSettings(
    neutral=("a neighbour is counting .", "the team is painting ."),
    openings=("helping", "the"),
    new_tokens=6,
    pairs=(("helping", "hitting"),),
)


def run(model: Any, out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {
        "alphas": [2.0],
        "settings": SETTINGS,
        "random_seeds": (0,),
        "split": {"train": np.arange(120), "test": np.arange(120, 240)},
        "draws": 100,
        "progress": False,
    }
    operations = options.pop("operations", None) or [operated(random_sae(layer=0))]
    return module.sweep(model, operations, DATA, out=out, **{**given, **options})


def test_rows_and_files(tiny: Any, tmp_path: Path) -> None:
    operation, shuffled = operated(random_sae(layer=0)), operated(random_sae(layer=0), seed=9)
    found = run(
        tiny, tmp_path, operations=[operation], shuffled=[shuffled], forms=("edit", "paper"), random_seeds=(0, 1)
    )
    assert len(found.rows) == 2 * (3 + 2) + 1
    assert {row.arm for row in found.rows} == set(ARMS)
    by: dict[tuple[Any, ...], Any] = {(row.arm, row.seed, row.form): row for row in found.rows}
    for form in ("edit", "paper"):
        own = by["operated", None, form]
        for arm in (("dense", None), ("random", 0), ("random", 1)):
            assert by[(*arm, form)].norm_share == pytest.approx(own.norm_share, rel=1e-4)
        assert by["shuffled", 0, form].norm_share != pytest.approx(own.norm_share, rel=1e-3)
        assert own.gain == pytest.approx(own.virtue_shift - own.vice_shift)
        assert own.gap == pytest.approx(found.unsteered.gap + own.gain)
        randoms = np.mean([by["random", seed, form].gain for seed in (0, 1)])
        assert own.over_random == pytest.approx(own.gain - randoms, abs=1e-5)
        shuffled_gain = by["shuffled", 0, form].gain
        assert own.over_shuffled == pytest.approx(own.gain - shuffled_gain, abs=1e-5)
        assert own.over_shuffled_low < own.over_shuffled < own.over_shuffled_high
        assert by["shuffled", 0, form].over_shuffled is by["random", 0, form].over_random is None
        assert own.categorical_change is not None and own.kl > 0
    page = found.save(tmp_path / "out")
    assert "operated-1, layer 0, form edit" in page.read_text(encoding="utf8")
    loaded = Sweep.load(page.parent)
    assert (loaded.rows, loaded.unsteered, loaded.provenance) == (found.rows, found.unsteered, found.provenance)
    assert len(found.frame) == len(found.rows)
    # With two directions beside it the best an arm can do is to be first of three.
    assert {row.p_random for row in found.rows if row.arm in ("operated", "dense")} <= {1 / 3, 2 / 3, 1.0}
    assert {row.p_random for row in found.rows if row.arm not in ("operated", "dense")} == {None}


def test_further_random_directions_are_measured_by_what_they_gain_and_break(tiny: Any, tmp_path: Path) -> None:
    few = run(tiny, tmp_path / "few", random_seeds=range(module.FULL_MEASURES))
    more = run(tiny, tmp_path / "more", random_seeds=range(module.FULL_MEASURES + 2))
    randoms = [row for row in more.rows if row.arm == "random"]
    assert [row.categorical is None for row in randoms] == [row.distinct_1 is None for row in randoms]
    assert [row.categorical is None for row in randoms] == [False] * module.FULL_MEASURES + [True] * 2
    assert all(row.gain is not None and row.kl > 0 for row in randoms)
    assert [row.gain for row in few.rows if row.arm == "random"] == [row.gain for row in randoms[:3]]
    more.save(tmp_path / "more")
    assert {row.p_categorical for row in more.rows} == {None}
    n = module.FULL_MEASURES + 2
    every = run(tiny, tmp_path / "more", random_seeds=range(n), full_measures=n, overwrite=True)
    own, *others = (
        np.array([row.gradient_change for row in every.rows if row.arm == arm and row.seed == seed])
        for arm, seed in (("operated", None), *(("random", seed) for seed in range(module.FULL_MEASURES + 2)))
    )
    found = {(row.arm, row.p_gradient) for row in every.rows if row.arm in ("operated", "random")}
    assert found == {("operated", beyond_random(own, np.stack(others))), ("random", None)}


def test_texts_that_the_operation_learnt_from_are_not_judged_on(tiny: Any, tmp_path: Path) -> None:
    for which in ("operations", "shuffled"):
        operation = operated(random_sae(layer=0))
        learnt = [DATA.text[i] for i in range(118, 123)]
        operation.record.learnt_from.extend(digests([text.upper() + "." for text in learnt]))
        shared = len({*learnt} & {*DATA.text[120:]})
        with pytest.raises(ValueError, match=rf"{shared} of \d+ held-out texts are among those operated-1 learnt from"):
            run(tiny, tmp_path / which, **{which: [operation]})
        assert not (tmp_path / which).exists()


def test_a_strength_that_breaks_the_model_is_a_row(tiny: Any, tmp_path: Path) -> None:
    found = run(tiny, tmp_path, alphas=[1.0, 3e38], random_seeds=())
    broken = [row for row in found.rows if row.alpha > 1 and row.arm == "operated"]
    assert "values that are not finite" in broken[0].error and broken[0].gain is None
    assert "not finite" in verdicts(found.rows)[0] and "not comparable" in verdicts(found.rows)[0]
    found.save(tmp_path)


def logged(log: Path, stop_at: int = -1) -> Any:
    """`measure_steering` with a line in a log for each call; KeyboardInterrupt at a call's number."""

    def counted(*arguments: Any, **options: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(log.read_text().splitlines()) == stop_at:
            raise KeyboardInterrupt
        return MEASURE(*arguments, **options)

    return counted


MEASURE = module.measure_steering


def test_an_interrupted_sweep_goes_on(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, log = run(tiny, tmp_path / "once"), tmp_path / "log"
    cells = 1 + len(once.rows)
    monkeypatch.setattr(module, "measure_steering", logged(log, stop_at=4))
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "part")
    monkeypatch.setattr(module, "measure_steering", logged(log))
    again = run(tiny, tmp_path / "part")
    assert len(log.read_text().splitlines()) == cells + 1
    assert again.rows == once.rows and again.unsteered == once.unsteered and again.provenance == once.provenance
    run(tiny, tmp_path / "part")
    assert len(log.read_text().splitlines()) == cells + 1  # nothing left to do


def test_a_folder_of_another_sweep_is_refused(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, log = run(tiny, tmp_path / "out"), tmp_path / "log"
    monkeypatch.setattr(module, "measure_steering", logged(log))
    for other, told in (
        ({"settings": dataclasses.replace(SETTINGS, new_tokens=5)}, "settings"),
        ({"alphas": [1.5]}, r"alphas \[2.0\] \(now \[1.5\]\)"),
        ({"positions": "all"}, "positions 'all-but-first' \\(now 'all'\\)"),
        ({"limit": 20}, "data"),
        ({"operations": [operated(random_sae(layer=0), seed=3)]}, "operations"),
    ):
        with pytest.raises(FolderError, match=f"holds other results: .*{told}"):
            run(tiny, tmp_path / "out", **other)
    more = run(tiny, tmp_path / "out", alphas=[2.0, -2.0], overwrite=True)
    assert len(log.read_text().splitlines()) == len(first.rows)  # what the first one measured is used again
    assert [row.gain for row in more.rows if row.alpha == 2] == [row.gain for row in first.rows]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "cells.jsonl").write_text("")
    with pytest.raises(FolderError, match=r"holds cells.jsonl of an unknown run"):
        run(tiny, tmp_path / "old")


def test_a_damaged_cell_is_an_error(tiny: Any, tmp_path: Path) -> None:
    run(tiny, tmp_path)
    for damage in (lambda text: text.replace("0.", "1.", 1), lambda text: text[:100]):
        for folder in [*(tmp_path / "cells").iterdir()][:2]:
            text = (folder / RECORD).read_text(encoding="utf8")
            (folder / RECORD).write_text(damage(text), encoding="utf8")
            with pytest.raises(DataError, match=RECORD):
                run(tiny, tmp_path)
            (folder / RECORD).write_text(text, encoding="utf8")
    assert run(tiny, tmp_path).rows


def left_over(out: Path) -> set[str]:
    return {path.name for path in out.rglob(".*")} - {".lock"}


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_with_the_same_numbers(tiny: Any, tmp_path: Path, kills: int) -> None:
    options: dict[str, Any] = {"alphas": [2.0, -1.0], "full_measures": 0, "limit": 24}
    start = time.monotonic()
    once = run(tiny, tmp_path / "once", **options)
    seconds, rng, hit = time.monotonic() - start, np.random.default_rng(kills), 0
    for i in range(kills):
        out = tmp_path / f"out {i % 5}"  # now and then a folder that was killed before
        hit += killed(lambda out=out: run(tiny, out, **options), seconds * rng.uniform(0, 0.9))
    assert hit > 0
    for out in tmp_path.glob("out *"):
        found = run(tiny, out, **options)
        assert (found.rows, found.unsteered, found.provenance) == (once.rows, once.unsteered, once.provenance)
        assert left_over(out) == set()


def test_processes_share_a_folder(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, log = run(tiny, tmp_path / "once"), tmp_path / "log"
    once.save(tmp_path / "once")
    monkeypatch.setattr(module, "measure_steering", logged(log))
    workers = [forked(lambda: run(tiny, tmp_path / "out").save(tmp_path / "out")) for _ in range(2)]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(log.read_text().splitlines()) == 1 + len(once.rows)  # nothing was measured twice
    for name in Sweep.FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()
    assert left_over(tmp_path / "out") == set()


def test_several_operations_share_what_they_have_in_common(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, operations = tmp_path / "log", [operated(random_sae(layer=0), seed=seed) for seed in (1, 2)]
    monkeypatch.setattr(module, "measure_steering", logged(log))
    found = run(tiny, tmp_path / "out", operations=operations, shuffled=[operated(random_sae(layer=0), seed=9)])
    assert len(found.rows) == 2 * 5
    assert len(log.read_text().splitlines()) == 1 + 2 * 3 + 2


def test_bad_arguments_are_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one and an α besides 0"):
        run(tiny, tmp_path / "out", alphas=[0.0])
    with pytest.raises(ValueError, match="unknown positions of a sweep 'last'"):
        run(tiny, tmp_path / "out", positions="last")
    with pytest.raises(ValueError, match="downstream=0 for an edit after block 0; expected 1 to 2"):
        run(tiny, tmp_path / "out", downstream=0)
    with pytest.raises(ValueError, match=r"hook: operated-1 reads blocks.7.hook_resid_post and tiny\d* has blocks"):
        run(tiny, tmp_path / "out", operations=[operated(random_sae(layer=7))])
    with pytest.raises(ValueError, match="expected a word that is one, and known"):
        run(tiny, tmp_path / "out", settings=dataclasses.replace(SETTINGS, pairs=((" right", "hitting"),)))
    with pytest.raises(ValueError, match="0 neutral texts and 2 openings"):
        run(tiny, tmp_path / "out", settings=dataclasses.replace(SETTINGS, neutral=()))
    virtuous = {"train": np.arange(120), "test": 120 + np.flatnonzero(DATA.pole[120:] == 0)}
    with pytest.raises(ValueError, match=r"\d+ virtuous and 0 vicious scenarios in the held-out part"):
        run(tiny, tmp_path / "out", split=virtuous)
    with pytest.raises(ValueError, match=r"0 virtuous and \d+ vicious scenarios in the training part"):
        run(tiny, tmp_path / "out", split={"train": np.flatnonzero(DATA.pole[:120] == 1), "test": np.arange(120, 240)})
    with pytest.raises(DataError, match=r"row 1: a prompt of .* longer than the model's context of 64"):
        run(tiny, tmp_path / "out", settings=dataclasses.replace(SETTINGS, openings=("helping " * 60,)))
    assert not (tmp_path / "out").exists()


def test_an_sae_trained_without_bos_is_warned_of(tiny: Any, tmp_path: Path) -> None:
    without = random_sae(layer=0)
    without.sae.cfg.metadata.prepend_bos = False
    with pytest.warns(SaeMoralWarning, match="trained on prompts without BOS, and those of a sweep begin with it"):
        with pytest.raises(ValueError, match="downstream=99"):
            run(tiny, tmp_path / "out", operations=[operated(without)], downstream=99)
