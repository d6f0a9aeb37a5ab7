"""Every architecture trained, saved and loaded gives the same latents; what came out is judged on held-out vectors."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sae_moral.errors import DataError, FolderError, SaeMoralWarning
from sae_moral.sae.columns import columns_of
from sae_moral.sae.evaluate import reconstruction
from sae_moral.sae.load import load_sae
from sae_moral.sae.train import TrainedSaes, train_on
from sae_moral.sae.train_config import TrainSettings, architectures, configure
from sae_moral.sae.train_layer import LayerTraining, TrainedSae, train_layer, warn_if_parted
from tests.forks import forked, one_thread
from tests.sae.test_train_input import invented

NAMES = architectures()


def settings(**options: Any) -> TrainSettings:
    return TrainSettings(**{"expansion": 3, "target_l0": 3, "steps": 60, "batch": 64, "lr": 3e-3, **options})


def trained(activations: Any, chosen: TrainSettings, **options: Any) -> LayerTraining:
    training = LayerTraining(activations, 0, chosen, configure(activations, chosen), **options)
    training.trainer.fit()
    return training


@torch.no_grad()
def latents_in_training(sae: Any, x: torch.Tensor) -> torch.Tensor:
    """What the training SAE's latents are by its own weights; BatchTopK's by the threshold it has learned so far."""
    if "batchtopk" not in sae.cfg.architecture():
        return sae.encode(x)
    _, hidden = sae.encode_with_hidden_pre(x)
    return hidden.relu() * (hidden > sae.topk_threshold)


@pytest.mark.parametrize("normalise", ["scale", "standardise"])
@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.filterwarnings("ignore:decoder_init_norm")
def test_train_save_load(tmp_path: Path, architecture: str, normalise: str) -> None:
    from sae_lens import SAE

    activations = invented(tmp_path, layers=1)
    training = trained(activations, settings(architecture=architecture, normalise=normalise))
    x = torch.from_numpy(np.array(training.vectors[training.held]))
    with torch.no_grad():
        before = training.apply.inverse(training.sae.decode(latents_in_training(training.sae, training.apply(x))))
    if architecture == "matching_pursuit" and normalise == "standardise":
        with pytest.raises(ValueError, match="use 'scale'"):
            training.apply.fold_into(training.sae)
        return
    sae: Any = training.fold()
    loaded = SAE.load_from_disk(sae.save_inference_model(tmp_path / "sae")[0].parent)
    with torch.no_grad():
        latents = loaded.encode(x)
        torch.testing.assert_close(latents, latents_in_training(sae, x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loaded.decode(latents), before, rtol=1e-4, atol=1e-4)
    assert (latents != 0).any() and loaded.cfg.normalize_activations == "none"
    measured = columns_of(load_sae(tmp_path / "sae"), x, torch.arange(len(x)))
    torch.testing.assert_close(measured.read(0, 24), latents, rtol=1e-5, atol=1e-5)
    if normalise == "scale" and architecture != "matching_pursuit":
        torch.testing.assert_close(loaded.W_dec.norm(dim=1), torch.ones(24), rtol=1e-5, atol=1e-5)


def test_batchtopk_has_its_l0_when_it_is_loaded(tmp_path: Path) -> None:
    chosen = settings(architecture="batchtopk", steps=200)
    result = train_on(invented(tmp_path, n=3000, layers=1), chosen, out=tmp_path / "o", progress=False)
    assert result.results[0]["held_out"]["l0"] == pytest.approx(3, rel=0.15)


def test_an_l1_sae_is_steered_to_its_l0(tmp_path: Path) -> None:
    chosen = settings(architecture="standard", steps=1200)
    result = train_on(invented(tmp_path, n=3000, layers=1), chosen, out=tmp_path / "o", progress=False).results[0]
    assert result["held_out"]["l0"] == pytest.approx(3, rel=0.2)
    assert (result["held_out"]["explained_variance"] or 0) > 0.6


def test_the_result_is_judged_by_the_formula_on_raw_held_out_vectors(tmp_path: Path) -> None:
    activations = invented(tmp_path, n=3000, layers=1)
    result = train_on(activations, settings(steps=300), out=tmp_path / "o", progress=False)
    row, sae = result.results[0], result.load(0)
    x = torch.from_numpy(np.array(activations.vectors(0)[activations.rows("validation")]))
    with torch.no_grad():
        latents = sae.encode(x)
        error = (x - sae.decode(latents)).square().sum()
    spread = (x - x.mean(0)).square().sum()
    assert row["held_out"]["explained_variance"] == pytest.approx(float(1 - error / spread), abs=1e-5)
    assert row["held_out"]["l0"] == pytest.approx(float((latents != 0).sum(1).float().mean()))
    assert (row["held_out"]["explained_variance"] or 0) > 0.6 and row["dead_share"] < 0.3
    written = json.loads((result.path(0) / "sae_moral.json").read_text())
    assert written["provenance"]["settings"]["steps"] == 300 and written["history"][0]["step"] < 300
    assert "torch" in written["provenance"]["versions"]
    assert result.table()["held_out_ev"][0] == row["held_out"]["explained_variance"]
    assert json.loads((result.path(0) / "cfg.json").read_text())["metadata"]["hook_name"] == activations.hooks[0]


def test_one_folder_is_one_training(tmp_path: Path) -> None:
    activations, out = invented(tmp_path), tmp_path / "o"
    first = train_on(activations, settings(), out=out, progress=False)
    again = train_on(activations, settings(), out=out, progress=False)
    assert again.results == first.results == TrainedSaes.read(out).results
    with pytest.raises(FolderError, match=r"steps 60 \(now 61\); choose another folder"):
        train_on(activations, settings(steps=61), out=out)
    other = train_on(activations, settings(steps=61), out=out, overwrite=True, progress=False)
    assert other.results[1]["provenance"]["settings"]["steps"] == 61
    with pytest.raises(ValueError, match="has no option 'kk'"):
        train_on(activations, settings(sae_options={"kk": 1}), out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("kill", [False, True])
def test_workers_share_the_layers_and_train_what_one_trains(
    kill: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    activations, chosen = invented(tmp_path, layers=3), settings(checkpoints=4)
    alone, log = train_on(activations, chosen, out=tmp_path / "alone", progress=False), tmp_path / "log"

    def noted(training: LayerTraining, *args: Any, **options: Any) -> TrainedSae:
        with log.open("a") as file:
            file.write(f"{training.layer} {os.getpid()}\n")
        return train_layer(training, *args, **options)

    monkeypatch.setattr("sae_moral.sae.train.train_layer", noted)
    with one_thread():
        crew = [forked(lambda: train_on(activations, chosen, out=tmp_path / "o", progress=False)) for _ in range(3)]
        if kill:
            while not list((tmp_path / "o").glob(".checkpoints/*/*/step-*")):
                time.sleep(0.001)
            crew[0].kill()
    for one in crew:
        one.join()
    assert [one.exitcode for one in crew[kill:]] == [0] * (3 - kill)
    together = TrainedSaes.read(tmp_path / "o")
    assert list(together.results) == [0, 1, 2] == [int(row["layer"]) for row in listed(tmp_path / "o")]
    for layer in alone.results:
        weights = [(found.path(layer) / "sae_weights.safetensors").read_bytes() for found in (alone, together)]
        assert weights[0] == weights[1]
    trained_by = [line.split() for line in log.read_text().splitlines()]
    lost = [layer for layer, pid in trained_by if pid == str(crew[0].pid)] if kill else []
    assert 3 <= len(trained_by) <= 3 + len(lost[-1:])
    assert not [path for path in (tmp_path / "o").iterdir() if path.name.startswith(".")]


def listed(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "training.json").read_text())["results"]


def test_any_flipped_byte_of_a_training_is_noticed(tmp_path: Path) -> None:
    out = tmp_path / "o"
    found = train_on(invented(tmp_path, layers=1), settings(), out=out, progress=False)
    files = [path for path in (out / "training.json", *found.path(0).iterdir())]
    assert {path.name for path in files} == {
        "training.json", "sae_moral.json", "cfg.json", "sae_weights.safetensors", "sparsity.safetensors",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for at in rng.integers(len(whole), size=10).tolist():
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
            with pytest.raises(DataError, match=re.escape(str(out))):
                TrainedSaes.read(out)
            if file.name != "training.json":
                with pytest.raises(DataError):
                    load_sae(found.path(0))
        file.write_bytes(whole)
    assert TrainedSaes.read(out).results == found.results


def test_a_training_of_version_0_1_loads_and_is_not_mixed_with_another(tmp_path: Path) -> None:
    out = tmp_path / "o"
    found = train_on(invented(tmp_path, layers=1), settings(), out=out, progress=False)
    (out / "run.json").unlink()
    (out / "training.html").unlink()
    for path in (out / "training.json", found.path(0) / "sae_moral.json"):
        content = json.loads(path.read_text())
        for name in ("checksum", "files", "key"):
            content.pop(name, None)
        if path.name == "training.json":
            content = {**content, "schema_version": 1, "key": content.pop("shaped_by")}
        else:
            content = {name: value for name, value in content.items() if name not in ("kind", "schema_version")}
        path.write_text(json.dumps(content))
    before = TrainedSaes.read(out)
    assert before.results[0]["held_out"] == found.results[0]["held_out"]
    assert load_sae(before.path(0)).d_sae == before.load(0).cfg.d_sae == 24
    with pytest.raises(FolderError, match=r"holds training\.json of an unknown run"):
        train_on(invented(tmp_path, layers=1), settings(), out=out)


def test_parting_of_train_and_held_out_is_warned_about(tmp_path: Path) -> None:
    activations = invented(tmp_path, n=60, d=16, layers=1)
    chosen = settings(expansion=16, target_l0=12, steps=400, lr=1e-2, init="data")
    with pytest.warns(SaeMoralWarning, match=r"held-out ones \(parted by step \d+\): it has 0\.1\d* training vectors"):
        train_on(activations, chosen, out=tmp_path / "o", progress=False)
    row: dict[str, Any] = {"layer": 0, "vectors_per_latent": 5, "history": []}
    row |= {"train": {"explained_variance": 0.9}, "held_out": {"explained_variance": 0.81}}
    warn_if_parted(cast("TrainedSae", row))


def test_outliers_are_left_out_and_counted(tmp_path: Path) -> None:
    activations = invented(tmp_path, layers=1)
    activations.vectors(0)[activations.rows("train")[:3]] *= 300
    training = trained(activations, settings())
    assert training.left_out == {"train": 3, "held_out": 0}
    assert reconstruction(training.sae, training.vectors, training.held, training.apply).explained_variance > 0.2


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    activations = invented(tmp_path, layers=1)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = trained(activations, settings(init="data"))
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(9)
    assert torch.equal(trained(activations, settings(init="data")).sae.W_enc, one.sae.W_enc)
    assert not torch.equal(trained(activations, settings(init="data", seed=1)).sae.W_enc, one.sae.W_enc)
