"""The sweep: a planted write is beyond its rotations; killed work goes on; processes share a folder."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae_moral.studies.sweep_run as module
from sae_moral.capture import capture
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.errors import DataError, FolderError, SaeMoralWarning
from sae_moral.steering import MeasureSettings, Wording, choose_words, typicality_reader
from sae_moral.studies.beyond import TOGETHER
from sae_moral.studies.study import RECORD
from sae_moral.studies.sweep_results import ARMS, TWINS
from sae_moral.studies.sweep_run import Sweep
from sae_moral.surgery import Operation
from sae_moral.surgery.operation import digests, with_rows
from tests.forks import forked, killed
from tests.steering.planted import operated, random_sae
from tests.tiny import VERBS, scenarios

DATA = scenarios(240)
PAIRS = (("helping", "hitting"), ("feeding", "robbing"))
SETTINGS = MeasureSettings(
    neutral=("a neighbour is counting .", "the team is painting ."),
    openings=("helping", "the"),
    new_tokens=6,
    wordings=(Wording("morally", "{text} is morally", PAIRS), Wording("is", "{text} is", PAIRS, held_out=True)),
    each=1,
)
PLACES = {("morally", "chosen"), ("morally", "held_out"), ("is", "chosen"), ("is", "held_out")}


def run(model: Any, out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {
        "kls": [0.05],
        "settings": SETTINGS,
        "rotations": (0,),
        "permutations": (),
        "split": {"train": np.arange(120), "test": np.arange(120, 240)},
        "limit": 48,
        "draws": 50,
        "progress": False,
    }
    operations = options.pop("operations", None) or [operated(random_sae(layer=0))]
    return module.sweep(model, operations, DATA, out=out, **{**given, **options})


def test_rows_comparisons_and_files(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_moral.studies.beyond.FEWEST", 5)
    operations = [operated(random_sae(layer=0), seed=seed) for seed in (1, 2)]
    others = {
        name: [operated(random_sae(layer=0), seed=9 + i)] for i, name in enumerate(("shuffled", "random_latents"))
    }
    found = run(tiny, tmp_path, operations=operations, rotations=range(5), permutations=(0,), alphas=[2.0], **others)
    # Two operations, two controls, five rotations, one each of four twins; then two operations and their SAE before.
    assert len(found.rows) == 2 + 2 + 5 + 4 + 2 + 1 and {row.arm for row in found.rows} == set(ARMS)
    for row in found.rows:
        if row.kl_asked is not None:
            assert row.kl == pytest.approx(0.05, rel=0.021) and row.alpha > 0
            assert {(one.wording, one.use) for one in row.words} == PLACES | {
                (TOGETHER, use) for use in ("chosen", "held_out")
            }
        else:
            assert row.alpha == 2 and row.arm in ("operated", "pretrained")
    assert {row.arm for row in found.rows if row.categorical is not None} == set(ARMS) - {"rotated", "permuted"}
    together = {
        arm: np.mean([row.effect("held_out").auroc for row in found.rows if row.arm == arm and row.kl_asked])
        for arm in ARMS[:-1]
    }
    compared = {one.twin: one for one in found.beyond if (one.wording, one.use) == (TOGETHER, "held_out")}
    assert set(compared) == set(TWINS)
    for twin, one in compared.items():
        assert one.difference == pytest.approx(together["operated"] - together[twin], abs=1e-6)
        assert one.low <= one.difference <= one.high and (one.p is not None) == (twin == "rotated")
    assert compared["rotated"].p in {i / 6 for i in range(1, 7)}
    page = found.save(tmp_path / "out")
    assert "After block 0 (write, KL 0.05), change of the AUROC of held-out words" in page.read_text(encoding="utf8")
    loaded = Sweep.load(page.parent)
    for name in ("rows", "beyond", "unsteered", "provenance"):
        assert getattr(loaded, name) == getattr(found, name)
    assert len(found.frame) == sum(len(row.words) for row in found.rows)
    assert "beyond" in found.summary() and "rotated (5)" in found.summary()


def told_by_the_verb() -> MoralData:
    """The scenarios, helping and the like virtuous, hitting and the like vicious."""
    vectors = np.zeros((len(DATA), 10))
    for i, text in enumerate(DATA.text):
        place = [*VERBS].index(text.split()[0]) // 5  # five virtues, five vices, two neutral
        if place < 2:
            vectors[i, place] = 1.0
    return from_records([(str(i), text, vectors[i], 0) for i, text in enumerate(DATA.text)], {"source": "planted"})


def test_a_planted_write_is_beyond_its_rotations(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the verb's pole that writes the direction in which the unembedding has all approving words."""
    data, layer = told_by_the_verb(), 2
    head = tiny.original_model.get_output_embeddings().weight
    good, bad = (tiny.tokenizer.convert_tokens_to_ids([pair[i] for pair in PAIRS]) for i in (0, 1))
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head[good], head[bad] = direction, -direction
    captured = capture(tiny, data.text[:120], layers=[layer], granularity="token", progress=False, pooling="scenario")
    reader = typicality_reader(captured, data.subset(np.arange(120)), layer)
    one = operated(random_sae(layer=layer), latents=torch.tensor([1, 4]))
    inside = one.sae.sae.b_dec.detach()  # taken from what is read
    weight = torch.cat([reader.weight, -reader.weight], dim=1)
    rows = {
        "W_enc": weight,
        "b_enc": torch.stack([reader.bias[0], -reader.bias[0]]) + inside @ weight,
        "W_dec": one.before["W_dec"] + torch.stack([direction, -direction]),
    }
    made = with_rows(one.sae, one.latents, rows, "planted", surgery=None)
    of = {"care": [1], "harm": [4]}
    planted = Operation(made, one.latents, {**rows, "W_dec": one.before["W_dec"]}, of, one.record)
    monkeypatch.setattr("tests.studies.test_sweep_run.DATA", data)
    monkeypatch.setattr("sae_moral.studies.beyond.FEWEST", 5)
    found = run(tiny, tmp_path, operations=[planted], rotations=range(5), kls=[0.5])
    main = {one.twin: one for one in found.beyond if (one.wording, one.use) == (TOGETHER, "held_out")}
    assert main["rotated"].p == 1 / 6 and main["rotated"].difference > 0.04
    # The same gate, read from the stream, and the same write: no difference.
    assert abs(main["dense"].difference) < 0.005


def test_texts_that_the_operation_learnt_from_are_not_judged_on(tiny: Any, tmp_path: Path) -> None:
    for which in ("operations", "shuffled"):
        operation = operated(random_sae(layer=0))
        learnt = [DATA.text[i] for i in range(118, 123)]
        operation.record.learnt_from.extend(digests([text.upper() + "." for text in learnt]))
        shared = len({*learnt} & {*DATA.text[120:]})
        with pytest.raises(ValueError, match=rf"{shared} of \d+ held-out texts are among those operated-1 learnt from"):
            run(tiny, tmp_path / which, limit=None, **{which: [operation]})
        assert not (tmp_path / which).exists()


def test_a_strength_that_cannot_be_measured_is_a_row(tiny: Any, tmp_path: Path) -> None:
    found = run(tiny, tmp_path / "alpha", alphas=[3e38], rotations=())
    (broken,) = (row for row in found.rows if row.kl_asked is None and row.arm == "operated")
    assert "values that are not finite" in broken.error and broken.words == []
    found.save(tmp_path / "alpha")
    found = run(tiny, tmp_path / "kl", kls=[1e4], rotations=())
    assert {"no α found at which" in row.error for row in found.rows} == {True} and found.beyond == []
    assert "No numbers of 1 of 1 operations." in " ".join(found.summary().split())
    found.save(tmp_path / "kl")


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
        ({"kls": [0.1]}, "strengths"),
        ({"positions": "all"}, "positions 'all-but-first' \\(now 'all'\\)"),
        ({"limit": 20}, "data"),
        ({"operations": [operated(random_sae(layer=0), seed=3)]}, "operations"),
    ):
        with pytest.raises(FolderError, match=f"holds other results: .*{told}"):
            run(tiny, tmp_path / "out", **other)
    more = run(tiny, tmp_path / "out", kls=[0.05, 0.1], overwrite=True)
    assert len(log.read_text().splitlines()) == len(first.rows)  # what the first one measured is used again
    assert [row for row in more.rows if row.kl_asked == 0.05] == first.rows
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
    options: dict[str, Any] = {"kls": [0.05, 0.2], "limit": 24}
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


def test_what_operations_began_with_is_measured_once(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, operations = tmp_path / "log", [operated(random_sae(layer=0), seed=seed) for seed in (1, 2)]
    monkeypatch.setattr(module, "measure_steering", logged(log))
    found = run(tiny, tmp_path / "out", operations=operations, kls=[], alphas=[2.0])
    assert [row.arm for row in found.rows] == ["operated", "operated", "pretrained"] and found.beyond == []
    assert len(log.read_text().splitlines()) == 1 + 3


def test_words_that_are_known_are_not_chosen_again(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = run(tiny, tmp_path / "once")
    words = choose_words(tiny, DATA.subset(np.arange(120)), SETTINGS.wordings, each=1)
    monkeypatch.setattr(module, "choose_words", None)
    found = run(tiny, tmp_path / "out", words=words)
    assert (found.rows, found.beyond, found.provenance) == (once.rows, once.beyond, once.provenance)
    with pytest.raises(FolderError, match="words"):  # other words are another sweep
        run(tiny, tmp_path / "out", words=dataclasses.replace(words, left_out={"none": "of them"}))


def test_bad_arguments_are_refused(tiny: Any, tmp_path: Path) -> None:
    for strengths in ({"kls": []}, {"alphas": [0.0]}):
        with pytest.raises(ValueError, match="expected at least one of each, none of 0"):
            run(tiny, tmp_path / "out", **strengths)
    with pytest.raises(ValueError, match="write of operated-1 writes nothing"):
        run(tiny, tmp_path / "out", operations=[operated(random_sae(layer=0), size=0.0)])
    with pytest.raises(ValueError, match="unknown positions of a sweep 'last'"):
        run(tiny, tmp_path / "out", positions="last")
    with pytest.raises(ValueError, match="downstream=0 for an edit after block 0; expected 1 to 2"):
        run(tiny, tmp_path / "out", downstream=0)
    with pytest.raises(ValueError, match=r"hook: operated-1 reads blocks.7.hook_resid_post and tiny\d* has blocks"):
        run(tiny, tmp_path / "out", operations=[operated(random_sae(layer=7))])
    unknown = dataclasses.replace(SETTINGS, wordings=(Wording("x", "{text} is", ((" right", "hitting"),)),))
    with pytest.raises(ValueError, match="no wording is left"):
        run(tiny, tmp_path / "out", settings=unknown)
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
