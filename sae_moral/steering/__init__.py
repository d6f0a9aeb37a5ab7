"""Steering through hook functions: the edit of an operation, dense baselines, generation, and what it breaks."""

from sae_moral.capture.prompts import prompt_ids
from sae_moral.steering.effects import (
    Diversity,
    Effects,
    MeasureSettings,
    SideEffects,
    acceptability,
    diversity,
    neutral_texts,
    side_effects,
)
from sae_moral.steering.generate import Generation, generate
from sae_moral.steering.hooks import NotFiniteError, steer, steering_hooks
from sae_moral.steering.steering import (
    Direction,
    Matched,
    Steering,
    difference_in_means,
    edit,
    full_edit,
    low_rank_edit,
    random_direction,
)

__all__ = [
    "Direction",
    "Diversity",
    "Effects",
    "Generation",
    "Matched",
    "MeasureSettings",
    "NotFiniteError",
    "SideEffects",
    "Steering",
    "acceptability",
    "difference_in_means",
    "diversity",
    "edit",
    "full_edit",
    "generate",
    "low_rank_edit",
    "neutral_texts",
    "prompt_ids",
    "random_direction",
    "side_effects",
    "steer",
    "steering_hooks",
]
