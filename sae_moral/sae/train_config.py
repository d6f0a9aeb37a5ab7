"""The moral-domain training configuration: settings in, SAELens' own configuration objects out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae_moral.capture.readers import GRANULARITIES
from sae_moral.errors import nearest, unknown
from sae_moral.protocol import Protocol, get_protocol
from sae_moral.sae.activations import Activations
from sae_moral.sae.saelens import need_saelens
from sae_moral.sae.train_input import NORMALISATIONS

if TYPE_CHECKING:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import TrainingSAEConfig

INITS = ("random", "data")
SPARSE_STEP = ("topk", "batchtopk")
"""Architectures of `sparse_step`."""
EPOCHS, FEWEST_STEPS = 6, 400
"""The default number of steps (evidence: docs/design/training.md)."""
L0_LOOKS, SHORTEST_LOOK = 200, 5
"""How often the target-L0 controller acts in a training, and after how many steps at least."""
FIRST_L1 = 0.2
"""Where the coefficient of an L1 loss begins."""
BANDS = ((2.0, 1.2), (1.1, 1.05))
TOO_SPARSE, WEAKER = 0.9, 0.95


@dataclass(frozen=True)
class TrainSettings:
    """Everything that shapes a training.

    Attributes:
        architecture: a name of SAELens' registry of training SAEs: standard, topk, batchtopk, jumprelu, gated, ….
        expansion: latents per dimension of the residual stream.
        target_l0: active latents per vector: k where the architecture has one, else what the coefficient of the
            sparsity loss is steered to (see `TargetL0`).
        granularity: `scenario` or `token` (see `activations`).
        protocol: template, BOS and pooling of the vectors.
        steps: optimiser steps; None for `EPOCHS` epochs, at least `FEWEST_STEPS`.
        batch: vectors per step.
        lr: learning rate of SAELens' Adam; warm-up over `warm_up` of the steps, then a cosine to a tenth.
        normalise: see `InputMap`.
        outliers: leave out vectors further from the mean than so many median distances (see `within`); None keeps all.
        init: `data` (decoder rows begin as training vectors, centred and scaled) or `random` (as SAELens does).
        exact_step: take SAELens' own training step for every architecture. Without it, `topk` and `batchtopk` on a CPU
            take one that leaves out the multiplications by zero: the same formula, other rounding (see `sparse_step`).
        seed: of the weights and the order of the data.
        split_seed: of the train/held-out split by text group.
        checkpoints: how often the state is saved (and train and held-out are compared) on the way.
        sae_options: fields of the architecture's own SAELens configuration, set over what we choose.
        trainer_options: fields of SAELens' `SAETrainerConfig`, likewise.
    """

    architecture: str = "topk"
    expansion: int = 16
    target_l0: float = 64
    granularity: str = "token"
    protocol: str | Protocol = "audited"
    steps: int | None = None
    batch: int = 256
    lr: float = 3e-3
    warm_up: float = 0.05
    normalise: str = "scale"
    outliers: float | None = 10.0
    init: str = "data"
    exact_step: bool = False
    seed: int = 0
    split_seed: int = 0
    checkpoints: int = 10
    sae_options: Mapping[str, Any] = field(default_factory=dict)
    trainer_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises:
        ValueError: an unknown name, or a number out of range.
        """
        if self.architecture not in architectures():
            raise unknown("architecture", self.architecture, architectures())
        if self.granularity not in GRANULARITIES:
            raise unknown("granularity", self.granularity, GRANULARITIES)
        if self.normalise not in NORMALISATIONS:
            raise unknown("normalisation", self.normalise, NORMALISATIONS)
        if self.init not in INITS:
            raise unknown("init", self.init, INITS)
        get_protocol(self.protocol)
        for name in ("expansion", "target_l0", "steps", "batch", "lr", "outliers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; expected a number above 0")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up is {self.warm_up}; expected a share of the steps, from 0 to below 1")
        if self.checkpoints < 0:
            raise ValueError(f"checkpoints is {self.checkpoints}; expected 0 or more")

    def resolved(self, n_train: int) -> TrainSettings:
        """With the number of steps that `None` stands for."""
        steps = self.steps or max(FEWEST_STEPS, round(EPOCHS * n_train / self.batch))
        return dataclasses.replace(self, steps=steps)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; of the protocol what shapes a vector."""
        protocol = get_protocol(self.protocol)
        return {
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(self)},
            "protocol": {name: getattr(protocol, name) for name in ("name", "template", "pooling", "bos")},
            "sae_options": dict(self.sae_options),
            "trainer_options": dict(self.trainer_options),
        }


@dataclass(frozen=True)
class SAELensConfig:
    """What SAELens is run with.

    Attributes:
        saes: one training configuration per layer.
        trainer: the trainer's, the same for every layer.
        l0_every: steps between two looks of the target-L0 controller, where there is one.
        controlled: names of the coefficients that it steers.
        step: `sparse` or `SAELens`: whose training step it is (see `sparse_step`).
    """

    saes: dict[int, TrainingSAEConfig]
    trainer: SAETrainerConfig
    l0_every: int
    controlled: tuple[str, ...]
    step: str


def architectures() -> tuple[str, ...]:
    """Names of the training SAEs registered with SAELens, a user's own included."""
    need_saelens()  # importing it fills the registry
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

    return tuple(SAE_TRAINING_CLASS_REGISTRY)


def configure(activations: Activations, settings: TrainSettings, *, device: str = "cpu") -> SAELensConfig:
    """The SAELens configuration for these vectors.

    Raises:
        ValueError: an option SAELens does not have, or more active latents than there are.
    """
    settings = settings.resolved(len(activations.rows("train")))
    l0_every = max(SHORTEST_LOOK, (settings.steps or FEWEST_STEPS) // L0_LOOKS)
    saes = {layer: sae_config(activations, layer, settings, device=device) for layer in activations.layers}
    one, trainer = next(iter(saes.values())), trainer_config(settings, l0_every, device=device)
    controlled = ("l1",) if "l1_coefficient" in _field_names(one) else ()
    step = "sparse" if not settings.exact_step and fits_sparse_step(one, trainer) else "SAELens"
    return SAELensConfig(saes, trainer, l0_every, controlled, step)


def sae_config(activations: Activations, layer: int, settings: TrainSettings, *, device: str) -> TrainingSAEConfig:
    """One layer's SAE. Sparsity goes into whichever fields the architecture has for it, so that one that is registered
    with SAELens later, with the same fields, needs nothing from us."""
    from sae_lens.registry import get_sae_training_class

    d_in = int(activations.vectors(layer).shape[1])
    d_sae = settings.expansion * d_in
    if settings.target_l0 > d_sae:
        raise ValueError(f"target_l0 is {settings.target_l0} of {d_sae} latents; expected at most as many as there are")
    kind = get_sae_training_class(settings.architecture)[1]
    k, steps = settings.target_l0, settings.steps or FEWEST_STEPS
    candidates = {
        "k": k if settings.architecture.endswith("batchtopk") else max(1, round(k)),
        "l1_coefficient": FIRST_L1,
        "topk_threshold_lr": min(1.0, max(0.01, 20 / steps)),
        "matryoshka_widths": sorted({max(1, d_sae // part) for part in (16, 8, 4, 2, 1)}),
        "jumprelu_sparsity_loss_mode": "quadratic",
        "target_l0": k,
        "max_iterations": max(1, round(k)),
    }
    tied = settings.architecture == "matching_pursuit"
    options = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": device,
        "decoder_init_norm": 1.0 if tied else 0.1,
        **{name: value for name, value in candidates.items() if name in _field_names(kind)},
        **_checked(settings.sae_options, kind),
    }
    return kind(**options, metadata=_metadata(activations, layer, settings))


def trainer_config(settings: TrainSettings, l0_every: int, *, device: str) -> SAETrainerConfig:
    """SAELens' trainer: no W&B, and a dead latent is one that was silent for a twentieth of the steps."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    steps = settings.steps or FEWEST_STEPS
    options = {
        "total_training_samples": steps * settings.batch,
        "train_batch_size_samples": settings.batch,
        "lr": settings.lr,
        "lr_end": settings.lr / 10,
        "lr_scheduler_name": "cosineannealing",
        "lr_warm_up_steps": int(settings.warm_up * steps),
        "dead_feature_window": max(10, steps // 20),
        "feature_sampling_window": l0_every,
        "n_checkpoints": settings.checkpoints,
        "device": device,
        "logger": LoggingConfig(log_to_wandb=False),
        **_checked(settings.trainer_options, SAETrainerConfig),
    }
    return SAETrainerConfig(**options)


def fits_sparse_step(sae: Any, trainer: SAETrainerConfig) -> bool:
    """Whether `sparse_step` has this training, and gains by it: on a GPU, products with zeros were not compared, and
    its atomic sums would not be the same twice."""
    return (
        sae.architecture() in SPARSE_STEP
        and sae.dtype == "float32"
        and not sae.use_sparse_activations
        and sae.normalize_activations not in ("constant_norm_rescale", "layer_norm")
        and str(trainer.device).startswith("cpu")
        and not trainer.autocast
    )


def _metadata(activations: Activations, layer: int, settings: TrainSettings) -> Any:
    """What a loaded SAE says about the input it expects, in SAELens' own words and, under `sae_moral`, in ours."""
    from sae_lens.saes.sae import SAEMetadata

    about, protocol = activations.provenance, get_protocol(settings.protocol)
    pooling = about["capture"]["pooling"]
    return SAEMetadata(
        model_name=about["model"]["name"],
        hook_name=activations.hooks[layer],
        hook_head_index=None,
        prepend_bos=protocol.bos == "prepend" or about["capture"]["first_token"] != "text",
        exclude_special_tokens=settings.granularity == "token" or pooling == "scenario",
        dataset_path=str(about["data"].get("source", "")),
        model_from_pretrained_kwargs={},
        sae_moral={
            "layer": layer,
            "granularity": settings.granularity,
            "template": protocol.template,
            "pooling": pooling,
            "bos": protocol.bos,
            "normalise": settings.normalise,
            "input": "raw vectors of the hook: centring and scaling are folded into the weights",
        },
    )


def _field_names(kind: Any) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def _checked(options: Mapping[str, Any], kind: Any) -> Mapping[str, Any]:
    for name in options:
        if name not in _field_names(kind):
            raise ValueError(f"{kind.__name__} has no option {name!r}; {nearest(name, sorted(_field_names(kind)))}")
    return options


class TargetL0:
    """Steers the coefficient of a sparsity loss: × 1.2 where L0 is above twice the target, × 1.05 above 1.1 times it,
    × 0.95 below 0.9 times it. L0 is the mean number of active latents over the last `every` steps.

    Has the methods of SAELens' `CoefficientScheduler`, which the trainer calls; the trainer's `feature_sampling_window`
    must be `every`, so that its counts of active latents begin where the last look ended.
    """

    def __init__(self, trainer: Any, value: float, *, target: float, every: int) -> None:
        """Args:
        value: the coefficient to begin with.
        target: active latents per vector.
        every: steps between two looks.

        Raises:
            ValueError: the trainer counts over another number of steps.
        """
        if trainer.cfg.feature_sampling_window != every:
            raise ValueError(
                f"the trainer counts active latents over {trainer.cfg.feature_sampling_window} steps and the "
                f"controller looks every {every}; expected the same feature_sampling_window"
            )
        self.trainer, self.value, self.target, self.every = trainer, float(value), target, every
        self.current_step = 0

    def step(self) -> float:
        """After each training step; the coefficient of the next one."""
        self.current_step += 1
        if self.current_step % self.every == 0:
            self.value *= change(float(self.trainer.feature_sparsity.sum()) / self.target)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"current_step": self.current_step, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint."""
        self.current_step, self.value = state["current_step"], state["value"]


def change(ratio: float) -> float:
    """What the coefficient is multiplied by when L0 is `ratio` times its target."""
    for above, factor in BANDS:
        if ratio > above:
            return factor
    return WEAKER if ratio < TOO_SPARSE else 1.0
