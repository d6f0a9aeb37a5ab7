"""Interrupted and resumed training equals uninterrupted training, a SIGKILL included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sae_moral.sae.train import train_on
from sae_moral.sae.train_config import TrainSettings, configure
from sae_moral.sae.train_input import Batches
from sae_moral.sae.train_layer import LayerTraining
from sae_moral.sae.train_state import save_state
from tests.sae.test_train_input import invented
from tests.sae.test_train_layer import NAMES, settings, trained


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


KILLED = """
import os, signal, sys
from pathlib import Path
from sae_moral.sae import train_layer
from sae_moral.sae.train import train_on
from tests.sae.test_train_layer import invented, settings
def save_and_die(folder, trainer, position, history, *, steps_done):
    save(folder, trainer, position, history, steps_done=steps_done)
    if steps_done > 30:
        (folder / ".step-000000099.1.tmp").mkdir()  # what a kill in the middle of writing leaves
        os.kill(os.getpid(), signal.SIGKILL)
save, train_layer.save_state = train_layer.save_state, save_and_die
folder = Path(sys.argv[1])
train_on(invented(folder), settings(architecture="standard"), out=folder / "out", progress=False)
"""


def test_killed_training_is_taken_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out" / "blocks.0.hook_resid_post").exists()
    activations, chosen = invented(tmp_path), settings(architecture="standard")
    resumed = train_on(activations, chosen, out=tmp_path / "out", progress=False)
    whole = train_on(activations, chosen, out=tmp_path / "whole", progress=False)
    assert resumed.results[0]["resumed_at_step"] > 0 and whole.results[0]["resumed_at_step"] == 0
    for layer in (0, 1):
        one, other = (load_file(found.path(layer) / "sae_weights.safetensors") for found in (resumed, whole))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"training.json", *activations.hooks.values()}


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
    training.trainer.foreign = object()
    with pytest.raises(TypeError, match="/history/0/step is a object"):
        save_state(tmp_path / "c", training.trainer, 0, [{"step": object()}], steps_done=1)
