"""`atlas`: what is measured once, what is measured again, how models are compared, what is left after a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sae_moral.capture
from sae_moral.cli import main
from sae_moral.diagnosis import diagnose
from sae_moral.errors import FolderError
from sae_moral.io import claim
from sae_moral.metrics.preprocess import preprocess
from sae_moral.protocol import AUDITED
from sae_moral.results import DiagnosisRecord
from sae_moral.studies import Atlas, atlas, read_plan
from sae_moral.studies.cka import linear_cka
from tests.forks import forked, killed_until, one_thread
from tests.studies.conftest import HEAD, MODELS
from tests.studies.test_study import hidden
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def finished(two_models: Path, pole_gap: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Atlas, Path]:
    """An atlas of a family, an unrelated model and one that cannot be loaded."""
    path, out = two_models / "finished.yaml", tmp_path_factory.mktemp("finished")
    failing = "  - {name: gone, model: nowhere-at-all, family: A, variant: guard}\n"
    path.write_text(HEAD + "limit: 100\n" + MODELS + failing)
    return atlas(path, out, progress=False), out


def test_a_model_that_fails_is_reported_and_the_others_go_on(finished: tuple[Atlas, Path]) -> None:
    found, out = finished
    assert list(found.failures) == ["gone"]
    assert found.failures["gone"].startswith("could not be loaded: cannot load 'nowhere-at-all'")
    assert "Traceback" in (out / "errors" / "gone.txt").read_text()
    assert [list(entry.results) for entry in found.entries] == [["audited", "paper"]] * 3 + [[]]
    assert (out / "atlas.html").exists() and not hidden(out / "cells")


def test_results_are_those_of_diagnose(finished: tuple[Atlas, Path], two_models: Path) -> None:
    found, out = finished
    alone = diagnose(str(two_models / "m1"), two_models / "table.jsonl", metrics=["pole_gap"], layers="0,2", limit=100)
    result = found.entries[2].results["audited"]
    kept = DiagnosisRecord.load((out / result.report).parent)
    assert [row.value for row in kept.rows] == pytest.approx(alone.frame["value"].tolist())
    assert (result.profiles, result.peaks) == (kept.profiles, kept.peaks)
    assert result.headlines == {name: card.spec for name, card in kept.metrics.items()}
    profile, peak = result.profiles["pole_gap"], result.peaks["pole_gap"]
    assert profile.layers == (0, 2) and peak.value == max(value or 0.0 for value in profile.values)
    assert {path.name for path in (out / result.report).parent.iterdir()} >= {"report.html", "cell.json"}


def test_similarity_is_that_of_the_vectors(finished: tuple[Atlas, Path], two_models: Path) -> None:
    found, _ = finished
    (pair,) = [pair for pair in found.similarities if pair.kind == "variants"]
    assert (pair.a, pair.b, pair.family, pair.error) == ("A-base", "A-chat", "A", None)
    assert [(row.layer_a, row.layer_b) for row in pair.layers] == [(0, 0), (1, 1), (2, 2)]
    data = sae_moral.load_data(two_models / "table.jsonl").sample(100, seed=AUDITED.seed)
    once = np.array([data.group.tolist().index(group) for group in sorted(set(data.group.tolist()))])
    text = [data.text[i] for i in once]
    captured = [
        sae_moral.capture.capture(sae_moral.load_model(two_models / name, device="cpu"), text) for name in ("m0", "m1")
    ]
    raw = [one[1] for one in captured]
    prepared = [preprocess(one[1], one.length, AUDITED.preprocessing)[0] for one in captured]
    assert pair.n_texts == len(text)
    assert pair.layers[1].raw == pytest.approx(linear_cka(*raw), abs=1e-4)
    assert pair.layers[1].cka == pytest.approx(linear_cka(*prepared), abs=1e-4)


def test_a_model_is_similar_to_itself_and_unrelated_ones_are_a_baseline(
    plan_file: Callable[[str], Path], tmp_path: Path
) -> None:
    twins = "models: [{name: X, model: m0, family: F}, {name: Y, model: m0, family: F}, {name: Z, model: m1}]"
    found = atlas(plan_file(f"{HEAD}protocols: audited\n{twins}"), tmp_path, progress=False)
    same, baseline = found.similarities
    assert [same.kind, baseline.kind] == ["variants", "baseline"]
    assert [value for row in same.layers for value in (row.cka, row.raw)] == pytest.approx([1.0] * 6, abs=1e-9)
    assert all(row.cka is not None and row.cka < 0.5 for row in baseline.layers)
    assert same.profiles[0].mean_difference == 0 and same.profiles[0].spearman is None  # of 3 layers


def test_an_interrupted_run_goes_on_where_it_ended(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan_file(HEAD + MODELS)
    load = sae_moral.capture.load_model

    def interrupted(name: str, **options: Any) -> Any:
        if counted["loaded"] == 1:
            raise KeyboardInterrupt
        return load(name, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sae_moral.capture, "load_model", interrupted)
        atlas(path, tmp_path, progress=False)
    assert counted["m0"] == counted["loaded"] == 1
    of_one_model = counted["forward passes"]
    (first,) = (tmp_path / "cells").glob("A-base-audited-*/diagnosis.json")
    before = first.read_bytes()
    found = atlas(path, tmp_path, progress=False)
    # A-chat and B are one model, which is loaded once for both.
    assert counted == {"loaded": 2, "m0": 1, "m1": 1, "forward passes": 3 * of_one_model}
    assert first.read_bytes() == before
    again = atlas(path, tmp_path, progress=False)
    assert counted["loaded"] == 2 and counted["forward passes"] == 3 * of_one_model and not again.failures
    assert (again.entries, again.similarities) == (found.entries, found.similarities)


def test_what_shapes_a_result_is_in_its_key(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str]
) -> None:
    plan = read_plan(plan_file(f"{HEAD}protocols: audited\nmodels: [{{name: A, model: m0}}]"))
    atlas(plan, tmp_path, progress=False)
    for changed in (
        dataclasses.replace(plan, limit=50),
        dataclasses.replace(plan, metrics=("categorical", "pole_gap")),
        dataclasses.replace(plan, controls="interval"),
        dataclasses.replace(plan, protocols=("paper",)),
        dataclasses.replace(plan, entries=(dataclasses.replace(plan.entries[0], dtype="bfloat16"),)),
        dataclasses.replace(plan, entries=(dataclasses.replace(plan.entries[0], layers="1"),)),
    ):
        before = counted["loaded"]
        assert not atlas(changed, tmp_path, progress=False).failures
        assert counted["loaded"] == before + 1
    before = counted["loaded"]
    same = dataclasses.replace(plan, entries=(dataclasses.replace(plan.entries[0], layers="0,1,2"),))
    atlas(same, tmp_path, progress=False)
    assert counted["loaded"] == before


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_model_never_keeps_old_numbers(
    keep_times: bool, plan_file: Callable[[str], Path], two_models: Path, tmp_path: Path, counted: Counter[str]
) -> None:
    model, out = two_models / "changing", tmp_path / "out"
    shutil.rmtree(model, ignore_errors=True)
    save_tiny_model(model, seed=0)
    path = plan_file(f"{HEAD}protocols: audited\nmodels: [{{name: A, model: changing}}]")

    def numbers() -> tuple[float | None, ...]:
        (entry,) = atlas(path, out, progress=False).entries
        assert entry.error is None
        return entry.results["audited"].profiles["pole_gap"].values

    first = numbers()
    assert (numbers(), counted["changing"]) == (first, 1)
    config = model / "config.json"
    times = config.stat()
    text = config.read_text()
    config.write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e+00'))
    assert config.read_text() != text and config.stat().st_size == times.st_size
    if keep_times:  # as rsync or a careless script would
        os.utime(config, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = numbers()
    assert changed != first and counted["changing"] == 2
    config.write_text(text)
    assert (numbers(), counted["changing"]) == (first, 2)  # of these bytes everything is known
    (model / "README.md").write_text("a model of nothing")
    assert (numbers(), counted["changing"]) == (first, 3)  # loaded once more, and found to be the same


def test_weights_that_change_while_they_are_measured_are_no_result(
    plan_file: Callable[[str], Path], two_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, load = two_models / "moving", sae_moral.capture.load_model
    save_tiny_model(model, seed=0)
    path = plan_file(f"{HEAD}protocols: audited\nmodels: [{{name: A, model: moving}}]")

    def replaced(name: str, **options: Any) -> Any:
        save_tiny_model(model, seed=1)
        return load(name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sae_moral.capture, "load_model", replaced)
        found = atlas(path, tmp_path, progress=False)
    assert "was changed meanwhile; run again" in found.failures["A"]
    assert not atlas(path, tmp_path, progress=False).failures


def test_a_model_whose_source_is_unknown_is_loaded_every_time_and_measured_once(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan_file(f"{HEAD}protocols: audited\nmodels: [{{name: A, model: m0}}]")
    monkeypatch.setattr("sae_moral.studies.atlas_run.source_of", lambda name, checksums, revision: None)
    first = atlas(path, tmp_path, progress=False)
    again = atlas(path, tmp_path, progress=False)
    assert counted["loaded"] == 2 and counted["forward passes"] == 1
    assert again.entries == first.entries


def test_damage_is_reported_and_not_taken_for_a_result(plan_file: Callable[[str], Path], tmp_path: Path) -> None:
    path = plan_file(f"{HEAD}protocols: audited\nmodels: [{{name: A, model: m0}}, {{name: B, model: m1}}]")
    atlas(path, tmp_path, progress=False)
    (record,) = (tmp_path / "cells").glob("A-audited-*/cell.json")
    record.write_text(record.read_text().replace('"n": 120', '"n": 121'))
    found = atlas(path, tmp_path, progress=False)
    assert list(found.failures) == ["A"] and "damaged, or changed by hand" in found.failures["A"]
    assert str(record) in found.failures["A"]
    shutil.rmtree(record.parent)
    assert not atlas(path, tmp_path, progress=False).failures


def test_deleted_vectors_are_captured_again_only_for_a_new_pair(
    plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str]
) -> None:
    models = [f"{{name: X{seed}, model: m{seed}, family: F}}" for seed in range(2)]
    text = f"{HEAD}protocols: [audited, paper]\nmodels: [%s]"
    atlas(plan_file(text % models[0]), tmp_path, delete_stores=True, progress=False)
    assert not (tmp_path / "store").exists()
    of_one_model = counted["forward passes"]
    both = atlas(plan_file(text % ", ".join(models)), tmp_path, delete_stores=True, progress=False)
    assert counted["forward passes"] == 2 * of_one_model + 1 and len(both.similarities[0].layers) == 3
    again = atlas(plan_file(text % ", ".join(models)), tmp_path, delete_stores=True, progress=False)
    assert counted["loaded"] == 3 and again.similarities == both.similarities


def test_controls_are_handed_on_only_if_given(
    plan_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(*args: Any, **options: Any) -> Any:
        seen.append(options.pop("controls", "not given"))
        return diagnose(*args, controls="none", **options)

    monkeypatch.setattr("sae_moral.diagnosis.diagnose", noted)
    one = "data: table.jsonl\nmetrics: pole_gap\nlimit: 60\nprotocols: audited\nmodels: [{name: A, model: m0}]"
    atlas(plan_file(one), tmp_path, progress=False)
    atlas(plan_file(f"controls: interval\n{one}"), tmp_path, progress=False)
    assert seen == ["not given", "interval"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metrics: pole_gap", "metrics: dimensionl", "did you mean 'dimensional'"),
        ("controls: none", "controls: off", "unknown control 'off'"),
        ("data: table.jsonl", "data: tabel.jsonl", "tabel.jsonl"),
    ],
)
def test_a_wrong_name_is_found_before_a_model_is_loaded_or_a_folder_made(
    old: str, new: str, message: str, plan_file: Callable[[str], Path], tmp_path: Path, counted: Counter[str]
) -> None:
    plan = read_plan(plan_file(HEAD.replace(old, new) + MODELS))
    with pytest.raises((ValueError, OSError), match=message):
        atlas(plan, tmp_path / "out", progress=False)
    assert not counted and not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused(plan_file: Callable[[str], Path], tmp_path: Path) -> None:
    path = plan_file(f"{HEAD}protocols: audited\nmodels: [{{name: A, model: m0}}]")
    claim(tmp_path, "sweep", {})
    with pytest.raises(FolderError, match="holds a sweep, not a"):
        atlas(path, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert not atlas(path, tmp_path, overwrite=True, progress=False).failures


def test_command(plan_file: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{HEAD}protocols: audited\nmodels: [{{name: A, model: m0}}, {{name: gone, model: nowhere-at-all}}]"
    assert main(["atlas", str(plan_file(text)), "--out", str(tmp_path), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert str(tmp_path / "atlas.html") in printed.out and "gone could not be loaded" in printed.err


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_has_the_numbers_of_an_uninterrupted_one(
    kills: int, plan_file: Callable[[str], Path], tmp_path: Path
) -> None:
    path = plan_file(f"data: table.jsonl\nmetrics: categorical\nprotocols: audited\ncontrols: interval\n{MODELS}")
    both = [tmp_path / name for name in ("uninterrupted", "killed")]

    def work(folder: Path) -> Atlas:
        return atlas(path, folder, device="cpu", progress=False)

    with one_thread():
        started = time.perf_counter()
        work(both[0])
        duration = time.perf_counter() - started
        again = functools.partial(shutil.rmtree, both[1])
        killed_until(lambda: work(both[1]), kills, 0, 0, duration / 2, done=again)
        work(both[1])
    first, second = (Atlas.load(folder) for folder in both)
    assert not second.failures
    assert (first.entries, first.similarities) == (second.entries, second.similarities)
    files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in both]
    assert files[0] == files[1]
    for diagnosis in both[0].rglob("diagnosis.json"):
        other = both[1] / diagnosis.relative_to(both[0])
        assert DiagnosisRecord.load(diagnosis).rows == DiagnosisRecord.load(other).rows


def test_two_processes_share_an_atlas(plan_file: Callable[[str], Path], tmp_path: Path) -> None:
    path = plan_file(f"{HEAD}{MODELS}")
    found = [tmp_path / f"found-{i}" for i in range(2)]

    def work(mine: Path) -> None:
        with mine.open("w", encoding="utf8") as file, contextlib.redirect_stdout(file):
            assert main(["atlas", str(path), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0

    with one_thread():
        workers = [forked(functools.partial(work, mine)) for mine in found]
        for worker in workers:
            worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert found[0].read_text(encoding="utf8") == found[1].read_text(encoding="utf8") != ""
    cells = tmp_path / "out" / "cells"
    assert len(list(cells.iterdir())) == 3 + 6 + 2 and not hidden(cells)
    assert not Atlas.load(tmp_path / "out").failures
