"""Two tiny models, a table and a metric that costs nothing, for the studies of models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_moral.capture
from sae_moral.capture import run as capture_run
from sae_moral.metrics import metric, registry
from sae_moral.sae import TrainSettings, train_saes
from tests.tiny import save_tiny_model, scenarios

HEAD = "data: table.jsonl\nmetrics: pole_gap\ncontrols: none\n"
MODELS = """models:
  - {name: A-base, model: m0, family: A, variant: base}
  - {name: A-chat, model: m1, family: A, variant: instruct}
  - {name: B, model: m1, layers: "0,2"}
"""


@pytest.fixture(scope="module")
def pole_gap() -> Iterator[None]:
    """A metric that costs nothing, under both protocols."""
    before, threads = dict(registry._registered), torch.get_num_threads()
    torch.set_num_threads(1)  # more cost more than they give on matrices this small

    @metric(headline="gap", chance=0.0)
    def pole_gap(x: Any, data: Any) -> dict[str, float]:
        return {"gap": float((x[data.pole == 0].mean(0) - x[data.pole == 1].mean(0)).norm())}

    yield
    registry._registered.clear()
    registry._registered.update(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models m0 and m1 and the scenarios `table.jsonl`."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(2):
        save_tiny_model(folder / f"m{seed}", seed=seed)
    data = scenarios(120)
    lines = (json.dumps({"text": t, "vector": v}) for t, v in zip(data.text, data.vector.tolist(), strict=True))
    (folder / "table.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def plan_file(two_models: Path, pole_gap: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the file of an atlas; the pages, seconds each, are left out."""
    monkeypatch.setattr("sae_moral.diagnosis.Diagnosis.report", lambda diagnosis, path: path)
    monkeypatch.setattr("sae_moral.studies.atlas_run.render_atlas", lambda atlas, folder: "a page")

    def write(text: str) -> Path:
        path = two_models / "models.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a model was loaded, and how many texts went through one."""
    calls: Counter[str] = Counter()
    load, pool = sae_moral.capture.load_model, capture_run.forward_run

    def load_model(name: str, **options: Any) -> Any:
        calls["loaded"] += 1
        calls[Path(name).name] += 1
        return load(name, **options)

    def forward_run(*given: Any) -> Any:
        calls["forward passes"] += 1
        return pool(*given)

    monkeypatch.setattr(sae_moral.capture, "load_model", load_model)
    monkeypatch.setattr(capture_run, "forward_run", forward_run)
    return calls


@pytest.fixture(scope="session")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs of two layers of the tiny model, twenty times as wide as it."""
    folder = tmp_path_factory.mktemp("saes")
    settings = TrainSettings(steps=30, expansion=20, architecture="batchtopk", target_l0=8, checkpoints=1)
    train_saes(str(tiny_folder), scenarios(), [1, 2], settings, out=folder, splice_texts=0)
    return folder
