"""`--workers`: the processes that a command starts run its own line, and the result is that of one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sae_moral.cli import main
from sae_moral.sae.train import TrainedSaes
from tests.tiny import scenarios

TRAIN = ["--layers", "0,1,2", "--steps", "40", "--batch", "32", "--expansion", "3", "--target-l0", "3"]


def table_of(n: int, folder: Path) -> Path:
    data, table = scenarios(n), folder / "table.jsonl"
    rows = zip(data.text, data.vector.tolist(), strict=True)
    table.write_text("\n".join(json.dumps({"text": text, "vector": vector}) for text, vector in rows))
    return table


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sae_moral.errors.SaeMoralWarning")
def test_the_workers_of_a_command_make_what_one_makes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    table = table_of(900, tmp_path)
    given = [str(tiny_folder), "--data", str(table), "--device", "cpu"]
    for out, workers in (("alone", []), ("shared", ["--workers", "2"])):
        saes = tmp_path / out / "saes"
        assert main(["train-sae", *given, *TRAIN, *workers, "--out", str(saes)]) == 0
        latents = ["--sae", str(tmp_path / "alone" / "saes"), "--out", str(tmp_path / out / "latents")]
        assert main(["latents", *given, *latents, *workers]) == 0
    alone, shared = (TrainedSaes.read(tmp_path / out / "saes") for out in ("alone", "shared"))
    for layer in (0, 1, 2):
        files = [one.path(layer) / "sae_weights.safetensors" for one in (alone, shared)]
        assert files[0].read_bytes() == files[1].read_bytes()
        name = f"latents/layer_{layer:03d}/moral_latents.safetensors"
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()
    log = next((tmp_path / "shared" / "saes" / "workers").iterdir())
    assert "Traceback" not in log.read_text()
    assert json.loads((tmp_path / "shared" / "latents" / "assembled.json").read_text())["kind"] == "assembly"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sae_moral.errors.SaeMoralWarning")
def test_the_workers_of_a_diagnosis_give_what_one_gives(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    table = table_of(300, tmp_path)
    given = ["diagnose", str(tiny_folder), "--data", str(table), "--device", "cpu", "--controls", "interval,null,words"]
    found = {}
    for name, more in (("alone", []), ("shared", ["--workers", "2"])):
        folder = tmp_path / name
        assert main([*given, *more, "--store", str(folder / "store"), "--out", str(folder / "out")]) == 0
        found[name] = json.loads((folder / "out" / "diagnosis.json").read_text())
        assert not list((folder / "store" / "samples").iterdir())
    for part in ("results", "peaks", "verdicts", "comparisons", "baselines"):
        assert found["shared"][part] == found["alone"][part]
    assert "Traceback" not in next((tmp_path / "shared" / "out" / "workers").iterdir()).read_text()


@pytest.mark.filterwarnings("ignore::sae_moral.errors.SaeMoralWarning")
def test_a_worker_of_a_diagnosis_is_sent_all_that_it_needs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    @contextmanager
    def none_started(n: int, work: Any, **_: Any) -> Iterator[None]:
        sent.append(pickle.dumps(work))
        yield

    monkeypatch.setattr("sae_moral.workers.workers", none_started)
    given = ["diagnose", str(tiny_folder), "--data", "scenarios-400", "--device", "cpu", "--controls", "none"]
    given += ["--metrics", "categorical", "--layers", "1", "--workers", "2", "--store", str(tmp_path / "store")]
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    (work,) = map(pickle.loads, sent)
    assert work().peaks["categorical"].value == found["peaks"]["categorical"]["value"]


def test_the_workers_of_a_diagnosis_need_a_store(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(tiny_folder), "--data", "scenarios-400", "--workers", "2"]) == 2
    assert "--workers 2 without --store; expected --store DIR" in capsys.readouterr().err
