"""What a sweep finds: rows with effects and damage, and whether operations are beyond their twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from sae_moral.controls.draws import resamples
from sae_moral.data import MoralData
from sae_moral.results import ModelFacts
from sae_moral.shown import shown
from sae_moral.steering.effects import Effects
from sae_moral.steering.margins import Drawn, drawn, margin_effect
from sae_moral.steering.steering import Steering
from sae_moral.steering.words import USES, Words
from sae_moral.studies.beyond import TOGETHER, Beyond, Place, compare

TWINS = ("shuffled", "random latents", "rotated", "permuted", "dense", "valence", "constant")
ARMS = ("operated", *TWINS, "pretrained")
DAMAGE = ("kl", "perplexity_ratio", "top_agreement", "norm_share", "distinct_1", "distinct_2", "repetition")
HEADLINES = ("categorical", "gradient")


@shown()
@dataclass(frozen=True)
class WordEffect:
    """What one arm does to the margins of some pairs after one wording: means over pairs, 95 % intervals over texts.

    Attributes:
        wording, use, pairs: which, and how many; `chosen` or `held_out`.
        auroc, gap, gap_sd, pushed_wrong: see `sae_moral.steering.margins`; of a change against the unsteered model.
    """

    wording: str
    use: str
    pairs: int
    auroc: float | None = None
    auroc_change: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    gap: float | None = None
    gap_change: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    gap_sd_change: float | None = None
    pushed_wrong: float | None = None


@shown()
@dataclass(frozen=True)
class SweepRow:
    """One arm at one strength. What was not measured, or is not finite, is None.

    Attributes:
        layer, form, arm, seed, name: which; `seed` numbers the operations, rotations and permutations of an arm.
        kl_asked: the damage that α was solved for; None where α was given.
        alpha: the strength.
        words: effects on the margins.
        categorical, gradient, categorical_change, gradient_change: audited headlines behind the edit, and their change.
        kl, perplexity_ratio, top_agreement, norm_share, distinct_1, distinct_2, repetition: damage; see
            `sae_moral.steering.effects`.
        error: why there are no numbers.
    """

    layer: int
    form: str
    arm: str
    seed: int | None
    name: str
    kl_asked: float | None = None
    alpha: float | None = None
    words: list[WordEffect] = field(default_factory=list)
    categorical: float | None = None
    gradient: float | None = None
    categorical_change: float | None = None
    gradient_change: float | None = None
    kl: float | None = None
    perplexity_ratio: float | None = None
    top_agreement: float | None = None
    norm_share: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    repetition: float | None = None
    error: str | None = None

    @property
    def place(self) -> Place:
        """Where operations are compared with twins."""
        return self.layer, self.form, self.kl_asked

    def effect(self, use: str, wording: str = TOGETHER) -> WordEffect | None:
        """The effect on some words; None where it was not measured."""
        return next((one for one in self.words if (one.wording, one.use) == (wording, use)), None)


@shown()
@dataclass(frozen=True)
class Unsteered:
    """The same measures of the model as it is; `headlines`: {layer: {metric: value}}."""

    words: list[WordEffect]
    headlines: dict[str, dict[str, float | None]]
    perplexity_ratio: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    repetition: float | None = None


class Operated(TypedDict):
    """What one of the operations read and wrote: its latents by dimension, the weights of its writes, and the AUROC of
    the pole that all its latents together read on its own test part, before and after surgery."""

    layer: int
    seed: int
    latents: dict[str, list[int]]
    writes: dict[str, float]
    reading: list[float | None]


class SweepProvenance(TypedDict):
    """What shaped a sweep. JSON values; `data` is the hash of the held-out scenarios, `downstream` the layers that the
    audited headlines are taken at, by the layer of the edit; `words` the scores of the pairs on training texts."""

    model: ModelFacts
    data: str
    n: int
    source: str | None
    operations: list[dict[str, Any]]
    positions: str
    downstream: dict[str, list[int]]
    settings: dict[str, Any]
    protocol: dict[str, Any]
    draws: int
    words: NotRequired[dict[str, Any]]
    operated: NotRequired[list[Operated]]
    migrated_from: NotRequired[int]


@shown()
@dataclass(frozen=True)
class Trial:
    """One row of a sweep to be.

    Attributes:
        layer, form, arm, seed, kl: as in `SweepRow`.
        steering: what is measured, with the sign of α, where α is solved for.
        full: whether audited headlines and diversity are measured, too.
    """

    layer: int
    form: str
    arm: str
    seed: int | None
    kl: float | None
    steering: Steering
    full: bool = True


@shown()
@dataclass(frozen=True)
class Measured:
    """A cell's result: the strength and the effects, or why there are none."""

    effects: Effects | None
    alpha: float | None = None
    error: str | None = None


def summarise(
    measured: Sequence[tuple[Trial, Measured]], unsteered: Effects, words: Words, data: MoralData, *, draws: int
) -> tuple[list[SweepRow], list[Beyond], Unsteered]:
    """The rows of what was measured, operations against twins, and the unsteered model.

    Raises:
        ValueError: a pole without held-out scenarios.
    """
    weights, plain = resamples(data, draws), _arrays(unsteered)
    arms: dict[Place, dict[str, dict[tuple[str, str], list[Drawn]]]] = {}
    rows = []
    for trial, one in measured:
        found: dict[str, Any] = {"error": one.error, "alpha": one.alpha}
        if one.effects is not None:
            margins = _arrays(one.effects)
            found["words"] = _effects(margins, plain, words, data, weights)
            found |= _headlines(one.effects, unsteered) | {name: getattr(one.effects, name) for name in DAMAGE}
            if trial.arm in ("operated", *TWINS):
                arm = arms.setdefault((trial.layer, trial.form, trial.kl), {}).setdefault(trial.arm, {})
                for key, values in _aurocs(margins, words, data, weights).items():
                    arm.setdefault(key, []).append(values)
        name = trial.steering.name
        rows.append(SweepRow(trial.layer, trial.form, trial.arm, trial.seed, name, trial.kl, **found))
    kept = {name: getattr(unsteered, name) for name in DAMAGE if name in Unsteered.__dataclass_fields__}
    base = Unsteered(words=_effects(plain, plain, words, data, weights), headlines=unsteered.headlines, **kept)
    return rows, compare(arms, operated="operated"), base


def _arrays(effects: Effects) -> dict[str, np.ndarray]:
    return {name: np.asarray(own) for name, own in effects.margins.items()}


def _parts(words: Words) -> dict[tuple[str, str], list[tuple[str, list[int]]]]:
    """{(wording, use): [(wording, rows of its margins)]}: each wording alone, those of the first language together."""
    found: dict[tuple[str, str], list[tuple[str, list[int]]]] = {}
    for use in USES[:2]:
        for wording in words.wordings:
            if rows := words.rows(wording.name, use):
                found[wording.name, use] = [(wording.name, rows)]
                if wording.language == words.wordings[0].language:
                    found.setdefault((TOGETHER, use), []).append((wording.name, rows))
    return found


def _aurocs(
    margins: Mapping[str, np.ndarray], words: Words, data: MoralData, weights: Tensor
) -> dict[tuple[str, str], Drawn]:
    return {
        key: np.mean([drawn("auroc", margins[name][rows], data, weights) for name, rows in parts], axis=0)
        for key, parts in _parts(words).items()
    }


def _effects(
    margins: Mapping[str, np.ndarray],
    plain: Mapping[str, np.ndarray],
    words: Words,
    data: MoralData,
    weights: Tensor,
) -> list[WordEffect]:
    found = []
    for (wording, use), parts in _parts(words).items():
        own, other = (np.concatenate([of[name][rows] for name, rows in parts]) for of in (margins, plain))
        effect = margin_effect(own, other, data, weights)
        found.append(
            WordEffect(
                wording,
                use,
                len(own),
                effect.auroc.value,
                *effect.auroc_change,
                effect.gap.value,
                *effect.gap_change,
                effect.gap_sd_change.value,
                effect.pushed_wrong.value,
            )
        )
    return found


def _headlines(effects: Effects, unsteered: Effects) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for layer, headlines in effects.headlines.items():
        for name, value in headlines.items():
            before = unsteered.headlines[layer][name]
            found |= {name: value, f"{name}_change": None if value is None or before is None else value - before}
    return found
