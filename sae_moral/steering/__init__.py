"""Steering through hook functions: the edit of an operation, dense baselines, generation, and what it breaks."""

from sae_moral.capture.prompts import prompt_ids
from sae_moral.steering.attributions import Attribution, attribution
from sae_moral.steering.edits import Reader, Write, edit, full_edit, low_rank_edit, permuted, rotated, written
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
from sae_moral.steering.generate import Generation, generate, next_logprobs
from sae_moral.steering.hooks import NotFiniteError, steer, steering_hooks
from sae_moral.steering.margins import Estimate, MarginEffect, margin_effect
from sae_moral.steering.model_writes import downstream
from sae_moral.steering.natural import fisher, natural_gradient
from sae_moral.steering.steering import (
    Direction,
    Matched,
    Steering,
    difference_in_means,
    random_direction,
)
from sae_moral.steering.strength import NoStrengthError, at_kl, with_kl
from sae_moral.steering.twins import Learnt, dense, learn, margin_gradient, typicality_reader, valence
from sae_moral.steering.words import WORDINGS, PairScore, Wording, Words, choose_words, measure, usable

__all__ = [
    "WORDINGS",
    "Attribution",
    "Direction",
    "Diversity",
    "Effects",
    "Estimate",
    "Generation",
    "Learnt",
    "MarginEffect",
    "Matched",
    "MeasureSettings",
    "NoStrengthError",
    "NotFiniteError",
    "PairScore",
    "Reader",
    "SideEffects",
    "Steering",
    "Wording",
    "Words",
    "Write",
    "acceptability",
    "at_kl",
    "attribution",
    "choose_words",
    "dense",
    "difference_in_means",
    "diversity",
    "downstream",
    "edit",
    "fisher",
    "full_edit",
    "generate",
    "learn",
    "low_rank_edit",
    "margin_effect",
    "margin_gradient",
    "measure",
    "natural_gradient",
    "neutral_texts",
    "next_logprobs",
    "permuted",
    "prompt_ids",
    "random_direction",
    "rotated",
    "side_effects",
    "steer",
    "steering_hooks",
    "typicality_reader",
    "usable",
    "valence",
    "with_kl",
    "written",
]
