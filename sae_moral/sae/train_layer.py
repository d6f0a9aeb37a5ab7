"""One layer's SAE: SAELens' trainer, our data order, checkpoints, what came out of it, and the folder it is in."""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sae_moral.errors import SaeMoralWarning
from sae_moral.io import write_json
from sae_moral.sae.activations import Activations
from sae_moral.sae.evaluate import Reconstruction, reconstruction
from sae_moral.sae.train_config import SAELensConfig, TrainSettings
from sae_moral.sae.train_init import decoder_from_data, new_sae
from sae_moral.sae.train_input import Batches, InputMap, within
from sae_moral.sae.train_l0 import TargetL0
from sae_moral.sae.train_state import load_state, save_state

PARTED = 0.1
"""Train and held-out explained variance further apart than this are warned about."""
LOOK = 1024
"""Vectors of each side that are compared at a checkpoint."""


class LayerTraining:
    """The parts of one training, wired together; `fit` runs SAELens' trainer to the end.

    Attributes:
        sae: SAELens' training SAE.
        trainer: SAELens' `SAETrainer`.
        train, held: rows of the training and validation vectors, outliers left out.
    """

    def __init__(
        self,
        activations: Activations,
        layer: int,
        settings: TrainSettings,
        config: SAELensConfig,
        *,
        checkpoints: Path | None = None,
    ) -> None:
        """Args:
        checkpoints: folder of the checkpoints; a training that was interrupted there is taken up.

        Raises:
            ValueError: no training or held-out vectors, or training vectors that do not vary.
        """
        from sae_lens.training.sae_trainer import SAETrainer

        self.layer, self.settings, self.checkpoints = layer, settings, checkpoints
        self.vectors = activations.vectors(layer)
        self.train, self.held, self.left_out = _parts(activations, self.vectors, settings)
        self.apply = InputMap.fit(self.vectors, self.train, settings.normalise)
        seed = int(np.random.SeedSequence([settings.seed, layer]).generate_state(1)[0])
        self.sae = new_sae(config.saes[layer], seed)
        if settings.init == "data":
            decoder_from_data(self.sae, self.vectors, self.train, self.apply, seed)
        self.batches = Batches(self.vectors, self.train, self.apply, batch=settings.batch, seed=seed)
        self.trainer = SAETrainer(config.trainer, self.sae, self.batches, save_checkpoint_fn=self._checkpoint)
        for name in config.controlled:
            value = self.trainer.coefficient_schedulers[name].value
            self.trainer.coefficient_schedulers[name] = TargetL0(  # pyright: ignore[reportArgumentType]
                self.trainer, value, target=settings.target_l0, every=config.l0_every
            )
        self.history: list[dict[str, Any]] = []
        if checkpoints is not None:
            self.batches.position, self.history = load_state(checkpoints, self.trainer)

    def fit(self, *, progress: bool | None = None) -> Any:
        """Train to the end and `fold`; the training SAE."""
        with _bar(f"SAE of layer {self.layer}", progress):
            self.trainer.fit()
        return self.fold()

    def fold(self) -> Any:
        """Put the centring and scaling of the input into the weights, once, after training; the training SAE."""
        self.apply.fold_into(self.sae)
        try:
            self.sae.fold_W_dec_norm()  # unit decoder rows, as in the paper
        except NotImplementedError:
            pass  # where that would change which latents are active (a tied encoder, TopK after `standardise`)
        return self.sae

    def _checkpoint(self, checkpoint_path: Path | None = None) -> None:
        steps = self.trainer.n_training_steps + 1
        train, held = (
            reconstruction(self.sae, self.vectors, rows[:: math.ceil(len(rows) / LOOK)], self.apply)
            for rows in (self.train, self.held)
        )
        self.history.append(
            {
                "step": steps,
                "train": train.explained_variance,
                "held_out": held.explained_variance,
                "l0": held.l0,
                "coefficients": {name: float(c.value) for name, c in self.trainer.coefficient_schedulers.items()},
            }
        )
        if self.checkpoints is not None:
            save_state(self.checkpoints, self.trainer, self.batches.position, self.history, steps_done=steps)


def train_layer(
    activations: Activations,
    layer: int,
    settings: TrainSettings,
    config: SAELensConfig,
    folder: Path,
    *,
    checkpoints: Path,
    about: Mapping[str, Any],
    splice: Callable[[Any], Mapping[str, Any]] | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Train, save as an ordinary SAELens folder, and judge what `SAE.load_from_disk` reads from there.

    Args:
        folder: written whole or not at all; `sae_moral.json` in it is the result, with `about` as its provenance.
        splice: from the loaded SAE to its `loss_recovered`.

    Warns:
        SaeMoralWarning: train and held-out explained variance parted.
    """
    from safetensors.torch import save_file

    started = time.perf_counter()
    training = LayerTraining(activations, layer, settings, config, checkpoints=checkpoints)
    resumed = training.batches.position // settings.batch
    sae = training.fit(progress=progress)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    sae.save_inference_model(temporary)
    save_file({"sparsity": training.trainer.log_feature_sparsity}, temporary / "sparsity.safetensors")
    result = {
        "layer": layer,
        "hook_name": activations.hooks[layer],
        **judge(temporary, training, splice),
        "history": training.history,
        "seconds": round(time.perf_counter() - started, 1),
        "resumed_at_step": resumed,
        "provenance": dict(about),
    }
    write_json(temporary / "sae_moral.json", result)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    warn_if_parted(result)
    return result


def judge(
    folder: Path, training: LayerTraining, splice: Callable[[Any], Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Train and held-out side by side, measured on the SAE as it was saved, on raw vectors. A latent is dead when it
    is silent on all of them."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device=str(training.sae.device))
    sides = {
        "train": reconstruction(sae, training.vectors, training.train),
        "held_out": reconstruction(sae, training.vectors, training.held),
    }
    d_sae = int(sae.cfg.d_sae)
    return {
        **{name: _row(side) for name, side in sides.items()},
        "dead_share": 1 - float(np.mean(sides["train"].fired | sides["held_out"].fired)),
        "d_sae": d_sae,
        "vectors_per_latent": round(len(training.train) / d_sae, 3),
        "outliers_left_out": training.left_out,
        "loss_recovered": None if splice is None else dict(splice(sae)),
    }


def warn_if_parted(result: Mapping[str, Any]) -> None:
    """Say so when an SAE reconstructs what it was trained on much better than what it was not."""
    train, held = (result[side]["explained_variance"] for side in ("train", "held_out"))
    if train - held > PARTED:
        since = next((h["step"] for h in result["history"] if h["train"] - h["held_out"] > PARTED), None)
        warnings.warn(
            f"the SAE of layer {result['layer']} explains {train:.2f} of the variance of its training vectors and "
            f"{held:.2f} of held-out ones{f' (parted by step {since})' if since else ''}: it has "
            f"{result['vectors_per_latent']:g} training vectors per latent; use more scenarios, granularity='token', a "
            "smaller expansion or fewer steps",
            SaeMoralWarning,
            stacklevel=3,
        )


def _row(side: Reconstruction) -> dict[str, Any]:
    names = ("explained_variance", "explained_variance_per_dimension", "l0", "n")
    return {name: getattr(side, name) for name in names}


def _parts(
    activations: Activations, vectors: Float[np.ndarray, "_ d"], settings: TrainSettings
) -> tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"], dict[str, int]]:
    """Training and held-out rows without outliers, and how many those were."""
    rows = {"train": activations.rows("train"), "held_out": activations.rows("validation")}
    for name, of in rows.items():
        if len(of) < 2:
            raise ValueError(f"{len(of)} {name} vectors; expected at least two: use more scenarios")
    kept = {name: of[within(vectors, of, rows["train"], settings.outliers)] for name, of in rows.items()}
    return kept["train"], kept["held_out"], {name: len(rows[name]) - len(kept[name]) for name in rows}


@contextmanager
def _bar(title: str, progress: bool | None) -> Iterator[None]:
    """SAELens' trainer always draws its progress bar; here it says which layer it is, on a terminal or when asked."""
    from sae_lens.training import sae_trainer

    original: Any = sae_trainer.tqdm

    def bar(*args: Any, **options: Any) -> Any:
        return original(*args, **{**options, "desc": title, "disable": None if progress is None else not progress})

    sae_trainer.tqdm = bar  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sae_trainer.tqdm = original  # pyright: ignore[reportAttributeAccessIssue]
