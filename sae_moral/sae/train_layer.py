"""One layer's SAE: SAELens' trainer, our data order, checkpoints, what came out of it, and the folder it is in."""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm
from typing_extensions import NotRequired, TypedDict

from sae_moral.errors import SaeMoralWarning
from sae_moral.io import check_files, file_checksums, read_json, read_typed, staged, typed, write_record
from sae_moral.sae.activations import Activations
from sae_moral.sae.evaluate import Look, LossRecovered, Side, reconstruction
from sae_moral.sae.files import RECORD_SCHEMA, RECORDS
from sae_moral.sae.train_config import SAELensConfig, TargetL0, TrainSettings
from sae_moral.sae.train_input import Batches, InputMap, decoder_from_data, new_sae, within
from sae_moral.sae.train_logging import Log, in_trainer
from sae_moral.sae.train_state import load_state, save_state

RECORD = "sae_moral.json"
PARTED = 0.1
"""Train and held-out explained variance further apart than this are warned about."""
LOOK = 1024
"""Vectors of each side that are compared at a checkpoint."""


class TrainedSae(TypedDict):
    """One trained SAE, as `sae_moral.json` keeps it.

    `dead_share` is of the latents that are silent on all vectors of both sides; `outliers_left_out` counts vectors by
    side; `files` has the checksum of every other file of the folder, and `key` is of all that shaped the training
    (both since schema version 2).
    """

    layer: int
    hook_name: str
    train: Side
    held_out: Side
    dead_share: float
    d_sae: int
    vectors_per_latent: float
    outliers_left_out: dict[str, int]
    loss_recovered: LossRecovered | None
    history: list[Look]
    seconds: float
    resumed_at_step: int
    provenance: dict[str, Any]
    key: NotRequired[str]
    files: NotRequired[dict[str, str]]


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
        key: str = "",
        log: Log | None = None,
    ) -> None:
        """Args:
        checkpoints: folder of the checkpoints; a training that was interrupted there is taken up.
        key: of everything that shapes the training; checkpoints with another one are left alone.
        log: where looks at both sides are written; see `train_logging`.

        Raises:
            ValueError: no training or held-out vectors, or training vectors that do not vary.
        """
        from sae_lens.training.sae_trainer import SAETrainer

        from sae_moral.sae.sparse_step import fused_adam

        self.layer, self.hook_name, self.settings = layer, activations.hooks[layer], settings
        self.checkpoints, self.key, self.log = checkpoints, key, log
        self.vectors = activations.vectors(layer)
        self.train, self.held, self.left_out = _parts(activations, self.vectors, settings)
        self.apply = InputMap.fit(self.vectors, self.train, settings.normalise)
        seed = int(np.random.SeedSequence([settings.seed, layer]).generate_state(1)[0])
        self.sae = new_sae(config.saes[layer], seed, sparse=config.step == "sparse")
        if settings.init == "data":
            decoder_from_data(self.sae, self.vectors, self.train, self.apply, seed)
        self.batches = Batches(self.vectors, self.train, self.apply, batch=settings.batch, seed=seed)
        with fused_adam() if config.step == "sparse" else nullcontext():
            self.trainer = SAETrainer(config.trainer, self.sae, self.batches, save_checkpoint_fn=self.checkpoint)
        if log is not None:  # SAELens would write and upload each checkpoint, optimiser and all
            self.trainer.save_checkpoint = lambda *_, **__: self.checkpoint()
        for name in config.controlled:
            value = self.trainer.coefficient_schedulers[name].value
            self.trainer.coefficient_schedulers[name] = TargetL0(  # pyright: ignore[reportArgumentType]
                self.trainer, value, target=settings.target_l0, every=config.l0_every
            )
        self.history: list[Look] = []
        if checkpoints is not None:
            self.batches.position, self.history = load_state(checkpoints, key, self.trainer)

    def fit(self, *, progress: bool | None = None) -> Any:
        """Train to the end and `fold`; the training SAE."""
        with progress_bar(f"SAE of layer {self.layer}", progress):
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

    def checkpoint(self, checkpoint_path: Path | None = None) -> None:
        """Compare both sides, and save the state; SAELens' trainer calls it and names a path of its own."""
        steps = self.trainer.n_training_steps + 1
        train, held = (
            reconstruction(self.sae, self.vectors, rows[:: math.ceil(len(rows) / LOOK)], self.apply)
            for rows in (self.train, self.held)
        )
        look = Look(
            step=steps,
            train=train.side()["explained_variance"],
            held_out=held.side()["explained_variance"],
            l0=held.l0,
            coefficients={name: float(c.value) for name, c in self.trainer.coefficient_schedulers.items()},
        )
        self.history.append(look)
        if self.log is not None:
            sides = {"train/explained_variance": look["train"], "held_out/explained_variance": look["held_out"]}
            self.log({**sides, "held_out/l0": look["l0"]}, self.trainer.n_training_steps)
        if self.checkpoints is not None:
            save_state(self.checkpoints, self.key, self.trainer, self.batches.position, self.history, steps_done=steps)


def train_layer(
    training: LayerTraining,
    folder: Path,
    *,
    about: dict[str, Any],
    splice: Callable[[Any], LossRecovered] | None = None,
    check: Callable[[], None] = lambda: None,
    progress: bool | None = None,
) -> TrainedSae:
    """Train, save as an ordinary SAELens folder, and measure what `SAE.load_from_disk` reads from there.

    Args:
        folder: written whole or not at all; `sae_moral.json` in it is the result, with `about` as its provenance.
        splice: from the loaded SAE to its `loss_recovered`.
        check: called when all is written and has no name yet; what it raises leaves nothing.

    Warns:
        SaeMoralWarning: train and held-out explained variance parted.
    """
    from safetensors.torch import save_file

    started = time.perf_counter()
    resumed = training.batches.position // training.settings.batch
    sae = training.fit(progress=progress)
    with staged(folder) as temporary:
        sae.save_inference_model(temporary)
        save_file({"sparsity": training.trainer.log_feature_sparsity}, temporary / "sparsity.safetensors")
        measured = evaluated(temporary, training, splice)
        result = TrainedSae(
            **measured,
            history=training.history,
            seconds=round(time.perf_counter() - started, 1),
            resumed_at_step=resumed,
            provenance=about,
            key=training.key,
            files=file_checksums(temporary),
        )
        write_record(temporary / RECORD, RECORDS[RECORD], RECORD_SCHEMA, result)
        check()
    if training.log is not None:
        training.log(_final(result), training.trainer.n_training_steps)
    if training.checkpoints is not None:
        shutil.rmtree(training.checkpoints, ignore_errors=True)
    warn_if_parted(result)
    return read_trained(folder)


def _final(result: TrainedSae) -> dict[str, Any]:
    """What is logged of the saved SAE."""
    recovered = result["loss_recovered"]
    return {
        **{f"final/train/{name}": value for name, value in result["train"].items()},
        **{f"final/held_out/{name}": value for name, value in result["held_out"].items()},
        "final/dead_share": result["dead_share"],
        "final/loss_recovered": None if recovered is None else recovered["recovered"],
    }


def evaluated(
    folder: Path, training: LayerTraining, splice: Callable[[Any], LossRecovered] | None = None
) -> dict[str, Any]:
    """Train and held-out side by side, measured on the SAE as it was saved, on raw vectors: the fields of `TrainedSae`
    that say how good it is."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, device=str(training.sae.device))
    train, held = (reconstruction(sae, training.vectors, rows) for rows in (training.train, training.held))
    d_sae = int(sae.cfg.d_sae)
    return {
        "layer": training.layer,
        "hook_name": training.hook_name,
        "train": train.side(),
        "held_out": held.side(),
        "dead_share": 1 - float(np.mean(train.fired | held.fired)),
        "d_sae": d_sae,
        "vectors_per_latent": round(len(training.train) / d_sae, 3),
        "outliers_left_out": training.left_out,
        "loss_recovered": None if splice is None else splice(sae),
    }


def warn_if_parted(result: TrainedSae) -> None:
    """Say so when an SAE reconstructs what it was trained on much better than what it was not."""
    train, held = result["train"]["explained_variance"], result["held_out"]["explained_variance"]
    if _gap(train, held) > PARTED:
        since = next(
            (look["step"] for look in result["history"] if _gap(look["train"], look["held_out"]) > PARTED), None
        )
        warnings.warn(
            f"the SAE of layer {result['layer']} explains {train:.2f} of the variance of its training vectors and "
            f"{held:.2f} of held-out ones{f' (parted by step {since})' if since else ''}: it has "
            f"{result['vectors_per_latent']:g} training vectors per latent; use more scenarios, granularity='token', a "
            "smaller expansion or fewer steps",
            SaeMoralWarning,
            stacklevel=3,
        )


def _gap(train: float | None, held: float | None) -> float:
    return 0.0 if train is None or held is None else train - held


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


def progress_bar(title: str, progress: bool | None) -> AbstractContextManager[None]:
    """SAELens' trainer always draws its progress bar; here it says which layer it is, on a terminal or when asked."""

    def bar(*args: Any, **options: Any) -> Any:
        return tqdm(*args, **{**options, "desc": title, "disable": None if progress is None else not progress})

    return in_trainer("tqdm", bar)


def read_trained(folder: Path) -> TrainedSae:
    """The record of one SAE, checked with every file that it lists.

    Raises:
        FileNotFoundError: no such record.
        DataError: damage; names the file.
    """
    path = folder / RECORD
    found = read_json(path)
    if isinstance(found, dict) and found.keys().isdisjoint({"kind", "schema_version", "checksum"}):
        return typed(found, TrainedSae, file=path)  # version 0.1 wrote no record
    result = read_typed(path, TrainedSae, RECORDS[RECORD], RECORD_SCHEMA, checked_from=2, oldest=2)
    check_files(folder, result.get("files", {}))
    return result
