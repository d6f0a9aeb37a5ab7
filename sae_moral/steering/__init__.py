"""Steering through hook functions: the edit of an operation, dense baselines, generation, and what it breaks."""

from sae_moral.steering.acceptability import acceptability
from sae_moral.steering.directions import Direction, Matched, difference_in_means, random_direction
from sae_moral.steering.edit import edit, full_edit, low_rank_edit
from sae_moral.steering.generate import Generation, generate
from sae_moral.steering.hooks import steer, steering_hooks
from sae_moral.steering.measures import MeasureSettings
from sae_moral.steering.prompts import prompt_ids
from sae_moral.steering.side_effects import SideEffects, diversity, neutral_texts, side_effects
from sae_moral.steering.steering import Steering
from sae_moral.steering.summary import Sweep
from sae_moral.steering.sweep import sweep

__all__ = [
    "Direction",
    "Generation",
    "Matched",
    "MeasureSettings",
    "SideEffects",
    "Steering",
    "Sweep",
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
    "sweep",
]
