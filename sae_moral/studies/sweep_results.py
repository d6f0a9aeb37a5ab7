"""What a sweep finds: rows with effects against the unsteered model and against random directions, and damage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from sae_moral.controls.draws import resamples
from sae_moral.data import MoralData
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.results import ModelFacts
from sae_moral.shown import shown
from sae_moral.steering.effects import Effects
from sae_moral.steering.margins import gap
from sae_moral.steering.steering import Steering

ARMS = ("operated", "shuffled", "dense", "random", "pretrained")
AGAINST = ("random", "shuffled")
"""Arms that the others are compared with, text by text."""
NORM_OF_THE_OPERATED = ("operated", "dense")
"""Arms that random directions of the operated arm's norm can be compared with."""
P_VALUES = {"gain": "p_random", "categorical_change": "p_categorical", "gradient_change": "p_gradient"}
"""What is compared with the random directions, and the field of its p-value."""
DAMAGE = ("kl", "perplexity_ratio", "top_agreement", "norm_share", "distinct_1", "distinct_2", "repetition")


@shown()
@dataclass(frozen=True)
class SweepRow:
    """One arm at one strength. What was not measured, or is not finite, is None.

    Attributes:
        operation, layer, form, alpha, arm, seed: which; `operation` names the operated SAE it belongs to, `seed` the
            random direction or the shuffled operation.
        gap: mean margin of virtuous minus vicious scenarios, in nats.
        gain, gain_low, gain_high: how much that is above the unsteered model's gap, with its 95 % interval over texts.
        virtue_shift, vice_shift: mean change of the margin of either pole.
        over_random, over_random_low, over_random_high: gap above the mean of the random directions of the same norm.
        over_shuffled, over_shuffled_low, over_shuffled_high: gap above the mean of the shuffled operations.
        p_random: of the arm at its best strength among the random directions, each at its own (`beyond_random`).
        categorical, gradient, categorical_change, gradient_change: audited headlines behind the edit, and their change.
        p_categorical, p_gradient: as `p_random`, of these changes, where every random direction has them.
        kl, perplexity_ratio, top_agreement, norm_share, distinct_1, distinct_2, repetition: damage; see
            `sae_moral.steering.effects`.
        front: no other row, nor the unsteered model, has more gain and less KL.
        error: why there are no numbers.
    """

    operation: str
    layer: int
    form: str
    alpha: float
    arm: str
    seed: int | None = None
    gap: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    virtue_shift: float | None = None
    vice_shift: float | None = None
    over_random: float | None = None
    over_random_low: float | None = None
    over_random_high: float | None = None
    over_shuffled: float | None = None
    over_shuffled_low: float | None = None
    over_shuffled_high: float | None = None
    p_random: float | None = None
    categorical: float | None = None
    gradient: float | None = None
    categorical_change: float | None = None
    gradient_change: float | None = None
    p_categorical: float | None = None
    p_gradient: float | None = None
    kl: float | None = None
    perplexity_ratio: float | None = None
    top_agreement: float | None = None
    norm_share: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    repetition: float | None = None
    front: bool = False
    error: str | None = None

    def interval(self, name: str) -> tuple[float, float, float] | None:
        """Value, lower and upper end of `gain`, `over_random` or `over_shuffled`; None where it was not measured."""
        value, low, high = (getattr(self, field) for field in (name, f"{name}_low", f"{name}_high"))
        return None if value is None or low is None or high is None else (value, low, high)


@shown()
@dataclass(frozen=True)
class Unsteered:
    """The same measures of the model as it is; `headlines`: {layer: {metric: value}}."""

    gap: float
    gap_low: float
    gap_high: float
    headlines: dict[str, dict[str, float | None]]
    kl: float | None
    perplexity_ratio: float | None
    top_agreement: float | None
    norm_share: float | None
    distinct_1: float | None
    distinct_2: float | None
    repetition: float | None


class SweepProvenance(TypedDict):
    """What shaped a sweep. JSON values; `data` is the hash of the held-out scenarios, `downstream` the layers that the
    audited headlines are taken at, by the layer of the edit."""

    model: ModelFacts
    data: str
    n: int
    source: str | None
    operations: list[dict[str, Any]]
    units: str
    positions: str
    downstream: dict[str, list[int]]
    settings: dict[str, Any]
    protocol: dict[str, Any]
    draws: int
    migrated_from: NotRequired[int]


@shown()
@dataclass(frozen=True)
class Trial:
    """One row of a sweep to be.

    Attributes:
        operation, layer, form, alpha, arm, seed: as in `SweepRow`.
        steering: what is measured.
        full: whether audited headlines and diversity are measured, too.
    """

    operation: str
    layer: int
    form: str
    alpha: float
    arm: str
    seed: int | None
    steering: Steering
    full: bool = True


@shown()
@dataclass(frozen=True)
class Measured:
    """A cell's result: effects, or why there are none."""

    effects: Effects | None
    error: str | None = None


# Rows


def summarise(
    measured: Sequence[tuple[Trial, Measured]], unsteered: Effects, data: MoralData, *, draws: int
) -> tuple[list[SweepRow], Unsteered]:
    """The rows of what was measured, and the unsteered model.

    Raises:
        ValueError: a pole without held-out scenarios.
    """
    weights, plain = resamples(data, draws), np.asarray(unsteered.margin)
    others: dict[tuple[Any, ...], list[Float[np.ndarray, "n"]]] = {}
    for trial, one in measured:
        if trial.arm in AGAINST and one.effects is not None:
            others.setdefault((trial.arm, *_place(trial)), []).append(np.asarray(one.effects.margin))
    rows = []
    for trial, one in measured:
        found: dict[str, Any] = {"error": one.error}
        if one.effects is not None:
            margin = np.asarray(one.effects.margin)
            found |= _effects(margin, plain, data, weights)
            for arm in AGAINST:
                if trial.arm not in (arm, "random") and (given := others.get((arm, *_place(trial)))):
                    found |= _interval(f"over_{arm}", gap(margin - np.mean(given, axis=0), data, weights))
            found |= _headlines(one.effects, unsteered)
            found |= {name: getattr(one.effects, name) for name in DAMAGE}
        rows.append(SweepRow(*_place(trial), trial.arm, trial.seed, **found))
    for name, p in P_VALUES.items():
        rows = _compared_with_random(rows, name, p)
    base = _interval("gap", gap(plain, data, weights)) | {name: getattr(unsteered, name) for name in DAMAGE}
    return _with_front(rows), Unsteered(headlines=unsteered.headlines, **base)


def beyond_random(own: Float[np.ndarray, "strengths"], random: Float[np.ndarray, "seeds strengths"]) -> float:
    """Share of the directions, the arm itself among them, that gain at their best strength as much as the arm does at
    its own: the p-value of an arm that is one more random direction. Gains are measured in the median size that they
    have at a strength, so that the largest strength does not decide alone.

    One arm's texts are every arm's texts: this asks whether the direction is special, the interval of `over_random`
    whether the difference holds for other texts.
    """
    everyone = np.vstack([own, random])
    size = np.median(np.abs(everyone), axis=0)
    best = (everyone / np.where(size > 0, size, 1.0)).max(axis=1)
    return float((best >= best[0]).mean())


def _compared_with_random(rows: Sequence[SweepRow], name: str, p: str) -> list[SweepRow]:
    """The rows with the p-value of a field, where all directions have it at all strengths."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        value = getattr(row, name)
        groups.setdefault(_line(row), []).append(np.nan if value is None else value)
    found: dict[tuple[Any, ...], float] = {}
    for key, own in groups.items():
        random = [gains for other, gains in groups.items() if other[:3] == key[:3] and other[3] == "random"]
        if key[3] in NORM_OF_THE_OPERATED and random and np.isfinite([own, *random]).all():
            found[key] = beyond_random(np.array(own), np.array(random))
    return [dataclasses.replace(row, **{p: found.get(_line(row))}) for row in rows]


def _with_front(rows: Sequence[SweepRow]) -> list[SweepRow]:
    usable = [i for i, row in enumerate(rows) if row.gain is not None and row.kl is not None]
    points = np.array([[rows[i].gain, rows[i].kl] for i in usable], dtype=np.float64).reshape(-1, 2)
    front = {i for i, best in zip(usable, pareto(points), strict=True) if best}
    return [dataclasses.replace(row, front=i in front) for i, row in enumerate(rows)]


def pareto(points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, "n"]:
    """Which points no other dominates: more gain (first column) and not more damage (second), or as much gain and less
    damage. The unsteered model, (0, 0), is one of the others."""
    everyone = np.vstack([points, [0.0, 0.0]])
    gain, damage = everyone[:, 0], everyone[:, 1]
    at_least = (gain[None] >= points[:, :1]) & (damage[None] <= points[:, 1:])
    better = (gain[None] > points[:, :1]) | (damage[None] < points[:, 1:])
    return np.logical_not(np.any(at_least & better, axis=1))


def _place(trial: Trial) -> tuple[str, int, str, float]:
    return trial.operation, trial.layer, trial.form, trial.alpha


def _line(row: SweepRow) -> tuple[Any, ...]:
    """What is the same at all strengths."""
    return row.operation, row.layer, row.form, row.arm, row.seed


def _interval(name: str, values: Iterable[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _effects(
    margin: Float[np.ndarray, "n"],
    plain: Float[np.ndarray, "n"],
    data: MoralData,
    weights: Float[Tensor, "draws n"],
) -> dict[str, float]:
    virtue, vice = (float((margin - plain)[data.pole == pole].mean()) for pole in (VIRTUE, VICE))
    found = {"gap": gap(margin, data, weights).value, "virtue_shift": virtue, "vice_shift": vice}
    return found | _interval("gain", gap(margin - plain, data, weights))


def _headlines(effects: Effects, unsteered: Effects) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for layer, headlines in effects.headlines.items():
        for name, value in headlines.items():
            before = unsteered.headlines[layer][name]
            found |= {name: value, f"{name}_change": None if value is None or before is None else value - before}
    return found
