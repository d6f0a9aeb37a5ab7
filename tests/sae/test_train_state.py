"""Interrupted and resumed training equals uninterrupted training, a SIGKILL included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sae_moral.errors import DataError
from sae_moral.sae.train import TrainedSaes, train_on, train_saes
from sae_moral.sae.train_config import TrainSettings, configure
from sae_moral.sae.train_input import Batches
from sae_moral.sae.train_layer import LayerTraining
from sae_moral.sae.train_state import save_state
from tests.sae.killed import run
from tests.sae.test_train_input import invented
from tests.sae.test_train_layer import NAMES, settings, trained
from tests.tiny import scenarios

FEW_VECTORS = pytest.mark.filterwarnings("ignore:the SAE of layer")


class _Stop(Exception):
    pass


def _interrupted(activations: Any, chosen: TrainSettings, folder: Path, at: int) -> None:
    training = LayerTraining(activations, 0, chosen, configure(activations, chosen), checkpoints=folder)
    draw = Batches.__next__

    def stopping(batches: Batches) -> torch.Tensor:
        if batches.position >= at * chosen.batch:
            raise _Stop
        return draw(batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Stop):
        patch.setattr(Batches, "__next__", stopping)
        training.trainer.fit()


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.filterwarnings("ignore:decoder_init_norm")
def test_resumed_equals_uninterrupted(tmp_path: Path, architecture: str) -> None:
    activations = invented(tmp_path, layers=1)
    chosen = settings(architecture=architecture, steps=160, batch=32, checkpoints=3, trainer_options={})
    whole = trained(activations, chosen, checkpoints=tmp_path / "whole")
    _interrupted(activations, chosen, tmp_path / "parts", at=103)  # between two looks of the controller
    _interrupted(activations, chosen, tmp_path / "parts", at=130)
    resumed = LayerTraining(activations, 0, chosen, configure(activations, chosen), checkpoints=tmp_path / "parts")
    assert 0 < resumed.batches.position < 130 * 32
    resumed.trainer.fit()
    for name, value in whole.sae.state_dict().items():
        assert torch.equal(value, resumed.sae.state_dict()[name]), name
    assert resumed.history == whole.history and len(whole.history) == 3
    for name in ("n_training_steps", "n_training_samples", "n_frac_active_samples"):
        assert getattr(resumed.trainer, name) == getattr(whole.trainer, name), name
    assert torch.equal(resumed.trainer.feature_sparsity, whole.trainer.feature_sparsity)
    coefficients = [t.trainer.get_coefficients() for t in (whole, resumed)]
    assert coefficients[0] == coefficients[1]
    assert resumed.trainer.lr_scheduler.get_last_lr() == whole.trainer.lr_scheduler.get_last_lr()


def same_training(killed: Path, whole: Path) -> None:
    """Every byte but the times, and where a training was resumed."""
    for path in whole.rglob("*"):
        other = killed / path.relative_to(whole)
        if path.suffix in (".safetensors", ".npy") or path.name == "cfg.json":
            assert path.read_bytes() == other.read_bytes(), path
    for one, other in zip(
        TrainedSaes.read(killed).results.values(), TrainedSaes.read(whole).results.values(), strict=True
    ):
        differing = {"seconds", "resumed_at_step", "provenance"}
        assert {n: v for n, v in one.items() if n not in differing} == {
            n: v for n, v in other.items() if n not in differing
        }


def killed_training(model: Any, folder: Path, kills: int, seed: int) -> None:
    """Train the SAEs of two layers, from the capture on."""
    chosen = TrainSettings(expansion=4, target_l0=8, steps=80, batch=64, checkpoints=8, granularity="scenario")
    data = scenarios()
    same_training(
        *run(
            lambda out: train_saes(model, data, [0, 2], chosen, out=out, splice_texts=4, progress=False),
            folder,
            kills,
            seed,
            within=0.4,
        )
    )


@FEW_VECTORS
def test_killed_training_is_taken_up(tiny: Any, tmp_path: Path) -> None:
    killed_training(tiny, tmp_path, 2, seed=1)


@pytest.mark.slow
@FEW_VECTORS
def test_killed_twenty_times_training_ends_the_same(tiny: Any, tmp_path: Path) -> None:
    killed_training(tiny, tmp_path, 20, seed=2)


def test_a_checkpoint_is_resumed_by_its_own_training_only_and_damage_is_noticed(tmp_path: Path) -> None:
    activations, chosen = invented(tmp_path, layers=1), settings(checkpoints=2)
    config, folder = configure(activations, chosen), tmp_path / "c"
    LayerTraining(activations, 0, chosen, config, checkpoints=folder, key="one").trainer.fit()
    again = LayerTraining(activations, 0, chosen, config, checkpoints=folder, key="one")
    other = LayerTraining(activations, 0, chosen, config, checkpoints=folder, key="another")
    assert again.batches.position > 0 and other.batches.position == 0
    for name in ("state.json", "state.safetensors"):
        (file,) = folder.glob(f"*/{name}")
        whole = file.read_bytes()
        for at in np.random.default_rng(0).integers(len(whole), size=20).tolist():
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(DataError, match=name):
                LayerTraining(activations, 0, chosen, config, checkpoints=folder, key="one")
        file.write_bytes(whole)


@pytest.mark.slow
def test_a_fresh_process_reads_the_same_latents(tmp_path: Path) -> None:
    activations = invented(tmp_path)
    whole = train_on(activations, settings(architecture="batchtopk"), out=tmp_path / "whole", progress=False)
    x = np.array(activations.vectors(1)[:5])
    np.save(tmp_path / "x.npy", x)
    read = (
        "import sys, numpy, torch, sae_lens; sae = sae_lens.SAE.load_from_disk(sys.argv[1]); "
        "numpy.save(sys.argv[3], sae.encode(torch.from_numpy(numpy.load(sys.argv[2]))).detach().numpy())"
    )
    files = (whole.path(1), tmp_path / "x.npy", tmp_path / "z.npy")
    subprocess.run([sys.executable, "-c", read, *map(str, files)], check=True, capture_output=True)
    latents = whole.load(1).encode(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), latents)


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    activations = invented(tmp_path, layers=1)
    training = trained(activations, settings(checkpoints=2), checkpoints=tmp_path / "c")
    (held,) = (tmp_path / "c").iterdir()
    assert held.name == "step-000000041" and {p.suffix for p in held.iterdir()} == {".safetensors", ".json"}
    with pytest.raises(TypeError, match="/history/0/step is a object"):
        save_state(tmp_path / "c", "", training.trainer, 0, cast("Any", [{"step": object()}]), steps_done=1)
