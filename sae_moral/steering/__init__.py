"""Steering through hook functions: the edit of an operation, dense baselines, generation, and what it breaks."""

from sae_moral.steering.directions import Direction, Matched, difference_in_means, random_direction
from sae_moral.steering.edit import edit, full_edit, low_rank_edit
from sae_moral.steering.generate import Generation, generate
from sae_moral.steering.hooks import Steering, steer, steering_hooks
from sae_moral.steering.prompts import prompt_ids

__all__ = [
    "Direction",
    "Generation",
    "Matched",
    "Steering",
    "difference_in_means",
    "edit",
    "full_edit",
    "generate",
    "low_rank_edit",
    "prompt_ids",
    "random_direction",
    "steer",
    "steering_hooks",
]
