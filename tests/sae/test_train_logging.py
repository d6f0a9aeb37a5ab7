"""Logging to W&B and Trackio, both played by a module that keeps what it is told."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch

from sae_moral.cli import main
from sae_moral.data import write_parquet
from sae_moral.sae.train import train_saes
from sae_moral.sae.train_config import TrainSettings
from sae_moral.sae.train_logging import LogSettings, logged_run
from tests.tiny import scenarios

SETTINGS = TrainSettings(
    architecture="standard", expansion=2, target_l0=4, steps=40, batch=64, checkpoints=2, granularity="token"
)


class Fake(ModuleType):
    """The functions of either package."""

    def __init__(self, name: str, *, full: bool = True) -> None:
        super().__init__(name)
        self.runs: list[dict[str, Any]] = []
        self.entries: list[tuple[int, dict[str, Any]]] = []
        self.finished, self.exit_code, self.kept = 0, 0, []
        if full:
            self.Histogram, self.Artifact = lambda values: ("histogram", len(values)), self._artifact

    def _artifact(self, name: str, type: str) -> Any:
        files: list[str] = []
        return SimpleNamespace(name=name, files=files, add_file=lambda path: files.append(Path(path).name))

    def init(self, **options: Any) -> None:
        self.runs.append(options)
        self.entries.clear()

    def log(self, values: dict[str, Any], step: int) -> None:
        assert not self.entries or step >= self.entries[-1][0], "W&B drops steps that go back"
        assert all(value is not None for value in values.values())
        self.entries.append((step, values))

    def log_artifact(self, artifact: Any) -> None:
        self.kept.append((artifact.name, artifact.files))

    def finish(self, exit_code: int = 0) -> None:
        self.finished, self.exit_code = self.finished + 1, exit_code


def test_a_training_is_logged_and_is_the_same_training(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    fake = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    data, options = scenarios(), {"splice_texts": 0, "progress": False}
    plain = train_saes(tiny, data, [1], SETTINGS, out=tmp_path / "plain", **options)
    assert fake.runs == []
    log = LogSettings("wandb", project="moral", entity="us", every=5, weights=True)
    found = train_saes(tiny, data, [1], SETTINGS, out=tmp_path / "logged", log=log, **options)
    for name, value in plain.load(1).state_dict().items():
        assert torch.equal(value, found.load(1).state_dict()[name])
    (one, other) = ({**each.results[1]} for each in (plain, found))
    assert one["key"] == other["key"] and one["provenance"].keys() == other["provenance"].keys()
    assert one["provenance"]["trainer_config"] == other["provenance"]["trainer_config"]
    (run,) = fake.runs
    assert (run["project"], run["entity"], run["resume"]) == ("moral", "us", "allow")
    assert run["id"] == other["key"][:32] and run["name"] == "logged/blocks.1.hook_resid_post"
    assert run["config"]["settings"]["target_l0"] == 4
    losses = [step for step, values in fake.entries if "losses/mse_loss" in values]
    assert losses == [4, 9, 14, 19, 24, 29, 34, 39]
    logged = {name: value for _, values in fake.entries for name, value in values.items()}
    assert {"metrics/l0", "sparsity/dead_features", "details/l1_coefficient"} <= logged.keys()
    assert logged["plots/feature_density_line_chart"] == ("histogram", 32)
    assert logged["held_out/explained_variance"] == other["history"][-1]["held_out"]
    assert logged["final/held_out/explained_variance"] == other["held_out"]["explained_variance"]
    assert fake.finished == 1 and fake.exit_code == 0
    name, files = fake.kept[0]
    assert name.endswith("blocks.1.hook_resid_post_32") and "/" not in name
    assert {"cfg.json", "sae_weights.safetensors", "sae_moral.json"} <= set(files)
    from sae_lens.training import sae_trainer

    assert sae_trainer.wandb is wandb


def test_a_training_that_failed_does_not_count_as_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lens.training import sae_trainer

    before = sae_trainer.wandb
    for name, code in (("wandb", 1), ("trackio", 0)):
        fake = Fake(name)
        monkeypatch.setitem(sys.modules, name, fake)
        with pytest.raises(KeyboardInterrupt), logged_run(LogSettings(name), "one", "0" * 40, {}) as log:
            log({"a": 1.0, "b": None}, 3)
            raise KeyboardInterrupt
        assert (fake.entries, fake.finished, fake.exit_code) == ([(3, {"a": 1.0})], 1, code)
        assert sae_trainer.wandb is before


def test_trackio_with_less_of_it(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("trackio", full=False)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    settings = dataclasses.replace(SETTINGS, steps=12)
    found = train_saes(tiny, scenarios(), [0, 2], settings, out=tmp_path, log="trackio", splice_texts=0, progress=False)
    assert [run["name"][:-9] for run in fake.runs] == [f"{tmp_path.name}/{found.path(i).name}" for i in (0, 2)]
    assert not any("id" in run or "entity" in run for run in fake.runs) and fake.finished == 2
    for arguments, problem in (
        ({"to": "trackio", "weights": True}, "keeps no artifacts"),
        ({"to": "trackio", "entity": "us"}, "entity 'us' is of W&B"),
        ({"to": "trackio", "every": 0}, "at least one step"),
        ({"to": "tensorboard"}, "unknown log 'tensorboard'; .*wandb, trackio"),
    ):
        with pytest.raises(ValueError, match=problem):
            LogSettings(**cast("Any", arguments))


def test_what_is_missing_is_said_before_anything_is_done(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_parquet(scenarios(), tmp_path / "s.parquet")
    monkeypatch.setitem(sys.modules, "trackio", None)
    out = tmp_path / "saes"
    command = ["train-sae", str(tiny_folder), "--data", str(table), "--out", str(out)]
    assert main([*command, "--log", "trackio"]) == 2
    assert "not installed; run: pip install trackio" in capsys.readouterr().err
    assert main([*command, "--log-project", "moral"]) == 2
    assert "--log-… given without --log" in capsys.readouterr().err
    assert not out.exists()

    fake = Fake("wandb")
    fake.init = lambda **_: (_ for _ in ()).throw(RuntimeError("api_key not configured"))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert (
        main([*command, "--layers", "1", "--steps", "10", "--expansion", "2", "--target-l0", "4", "--log", "wandb"])
        == 3
    )
    assert "wandb does not start a run: api_key not configured; log in with" in capsys.readouterr().err
