"""The vocabulary: five moral foundations, two poles each, ten dimensions in a fixed order, the moral vector.

Foundations follow Moral Foundations Theory (Haidt & Graham 2007); their names, the order of the dimensions and the
moral vector follow arXiv 2603.15615 on Social-Chemistry-101 (Forbes et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from sae_moral.errors import unknown

FOUNDATIONS: tuple[str, ...] = (
    "care-harm",
    "fairness-cheating",
    "loyalty-betrayal",
    "authority-subversion",
    "sanctity-degradation",
)
POLES: tuple[str, str] = ("virtue", "vice")
POLARITIES: tuple[str, str, str] = ("virtue", "vice", "neutral")
VIRTUE, VICE, NEUTRAL = range(3)
NO_FOUNDATION = -1
"""The foundation index of a scenario that belongs to none of the five (a neutral one of a source without them)."""

DIMENSIONS: tuple[str, ...] = tuple(pole for foundation in FOUNDATIONS for pole in foundation.split("-"))
"""care, harm, fairness, cheating, loyalty, betrayal, authority, subversion, sanctity, degradation."""


def foundation_index(name: str) -> int:
    """Index of a foundation by its full name or by either of its dimensions (`care` and `harm` both give 0).

    Raises:
        ValueError: unknown name; the message holds the nearest valid one.
    """
    key = name.strip().casefold()
    if key in FOUNDATIONS:
        return FOUNDATIONS.index(key)
    if key in DIMENSIONS:
        return DIMENSIONS.index(key) // 2
    raise unknown("foundation", name, FOUNDATIONS)


def dimension_index(foundation: int, pole: int) -> int:
    """Slot of (foundation, pole) in a moral vector: even slots are virtues, odd ones vices."""
    if not 0 <= foundation < len(FOUNDATIONS) or pole not in (VIRTUE, VICE):
        raise ValueError(f"no dimension for foundation {foundation} and pole {pole}; expected 0–4 and 0 or 1")
    return 2 * foundation + pole


def moral_vector(judgment: float, agreement: float, foundations: Iterable[str]) -> Float[np.ndarray, "10"]:
    """The ten-dimensional moral vector of one annotation.

    With v = judgment / 2 and w = agreement / 4, every named foundation gets max(0, v)·w in its virtue slot and
    max(0, −v)·w in its vice slot; all other slots are 0 (arXiv 2603.15615, ground truth).

    Args:
        judgment: moral judgement from −2 (very bad) to 2 (very good); Social-Chemistry's `action-moral-judgment`.
        agreement: how many would agree, from 0 (< 1 %) to 4 (> 99 %); Social-Chemistry's `action-agree`.
        foundations: names of the foundations concerned; at least one.

    Raises:
        ValueError: a value outside its range or NaN, an unknown foundation, or no foundation at all.
    """
    for name, value, low, high in (("judgment", judgment, -2, 2), ("agreement", agreement, 0, 4)):
        if math.isnan(value) or not low <= value <= high:
            raise ValueError(f"{name} is {value}; expected a number from {low} to {high}")
    indices = [foundation_index(name) for name in foundations]
    if not indices:
        raise ValueError("no foundation given; expected at least one of " + ", ".join(FOUNDATIONS))
    vector = np.zeros(len(DIMENSIONS))
    strength = judgment / 2 * agreement / 4
    for index in indices:
        vector[2 * index + (VICE if strength < 0 else VIRTUE)] = abs(strength)
    return vector
