"""The target-L0 controller of arXiv 2603.15615, in the place of one of SAELens' coefficient schedulers."""

from __future__ import annotations

from typing import Any

BANDS = ((2.0, 1.2), (1.1, 1.05))
TOO_SPARSE, WEAKER = 0.9, 0.95


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
