"""The parts of a diagnosis as types, and what follows from one definition for everybody: which group stands for a
statistic (`leading_groups`), and which layer is its best (`best_layer`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from typing_extensions import NotRequired, TypedDict

from sae_moral.shown import shown

OVERALL = "overall"
MEAN_OF_GROUPS = "mean of groups"
Direction = Literal["higher", "lower"]
"""The side of its null on which a statistic lies where a model is not indifferent."""
Outcome = Literal["more", "not more", "cannot tell", "not computed"]
"""Of a comparison. `more`: shown to lie further from indifference. `not more`: shown to lead by no more than a stated
margin. `cannot tell`: neither. `not computed`: what it needs was not drawn, which never counts as passed."""


@shown()
@dataclass(frozen=True)
class StatisticSpec:
    """What a metric declares of one of its statistics.

    Attributes:
        name: of the statistic.
        direction: `higher` or `lower` is less indifferent; None: neither, so that tests are two-sided.
        null: what labels are permuted within, a scheme of `sae_moral.controls.draws.SCHEMES`; None for a statistic that
            does not depend on labels.
        interval: how its interval is made, a kind of `sae_moral.controls.inference.INTERVALS`.
        chance: its value without information; None where that is not one number.
        ceiling: what bounds it: a label (`typicality`, `valence`) whose reliability bounds its `overall` value, or
            another statistic of the metric, group by group.
        margin: the largest lead over a baseline, or over chance, that counts as none; None: no lead is too small, and
            `not more` is never said.
        best: its value where nothing is told wrong, which resamples of such a sample cannot leave; its interval ends
            there (`sae_moral.controls.inference.faultless`). None: it has none, or never gets there.
    """

    name: str
    direction: Direction | None = None
    null: str | None = "all"
    interval: str = "resampled"
    chance: float | None = None
    ceiling: str | None = None
    margin: float | None = None
    best: float | None = None


@shown()
@dataclass(frozen=True)
class MetricCard:
    """What a metric says of itself.

    Attributes:
        name: of the metric.
        headline: the statistic that stands for it.
        statistics: one declaration each, by name; a headline is always among them.
        means, does_not_prove: sentences.
        parameters: everything else that shaped its numbers. JSON values.
    """

    name: str
    headline: str
    statistics: dict[str, StatisticSpec]
    means: str = ""
    does_not_prove: str = ""
    parameters: dict[str, Any] | None = None

    @property
    def spec(self) -> StatisticSpec:
        """The headline's declaration."""
        return self.statistics[self.headline]


@shown()
@dataclass(frozen=True)
class Row:
    """One number of one layer with its controls; what was not computed is None.

    Attributes:
        metric, statistic, layer, group: which number; the group is a foundation, a dimension, or `overall`.
        value: the number.
        ci_low, ci_high: its interval.
        null_low, null_high: band of permuted labels at this layer.
        p_value: against permuted labels, corrected for the choice of the best layer.
        ceiling: what the noise of the labels leaves to be reached.
        ceiling_low, ceiling_high: its interval.
        baseline: the bag of words' value.
        n, n_dropped: scenarios it rests on, and could not use.
        headline: whether the statistic is its metric's headline.
    """

    metric: str
    statistic: str
    layer: int
    group: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    ceiling: float | None = None
    baseline: float | None = None
    n: int | None = None
    n_dropped: int | None = None
    headline: bool = False
    ceiling_low: float | None = None
    ceiling_high: float | None = None


@shown()
@dataclass(frozen=True)
class Profile:
    """A headline over the layers.

    Attributes:
        metric, statistic: what it is of.
        group: `overall`, the only group, or `mean of groups` (unweighted; None at a layer that lacks one of them).
        layers: numbers, ascending; empty for a baseline without layers, whose one value then stands alone.
        values, ci_low, ci_high: one each per layer.
    """

    metric: str
    statistic: str
    group: str
    layers: tuple[int, ...]
    values: tuple[float | None, ...]
    ci_low: tuple[float | None, ...]
    ci_high: tuple[float | None, ...]


@shown()
@dataclass(frozen=True)
class Peak:
    """The layer at which a headline is least indifferent, chosen after the fact among `n_layers`.

    Attributes:
        metric, statistic, group: as in its `Profile`.
        layer, value: where, and how much.
        n_layers: how many layers competed.
        ci_low, ci_high: interval at that layer; the choice of the layer is not in it.
        null_low, null_high: band of the most extreme layer of every permutation.
        p_value: against the most extreme layer of every permutation.
        p_value_any_length: the same, where labels moved between texts of any length.
        ceiling: of the row of that layer and group.
        ceiling_low, ceiling_high: its interval.
        p_family: the p-value against permuted labels, corrected for the number of metrics (Holm 1979).
        p_value_within_opening: as `p_value`, where labels moved only among texts that open with the same word.
        smallest_p: what these labels and draws can give at least.
        outcome: against permuted labels.
        margin: the largest distance from chance that counts as none.
        at_most: no layer is further from chance than this; an upper bound at 1 − alpha.
        detectable: values up to this one are told from permuted labels less than four times in five.
        control_task: of files of version 0.1.
        selectivity: of files of version 0.1.
    """

    metric: str
    statistic: str
    group: str
    layer: int
    value: float
    n_layers: int
    ci_low: float | None = None
    ci_high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    p_value_any_length: float | None = None
    ceiling: float | None = None
    p_family: float | None = None
    p_value_within_opening: float | None = None
    smallest_p: float | None = None
    outcome: Outcome = "not computed"
    margin: float | None = None
    at_most: float | None = None
    detectable: float | None = None
    control_task: float | None = None
    selectivity: float | None = None
    ceiling_low: float | None = None
    ceiling_high: float | None = None

    @property
    def p_corrected(self) -> float | None:
        """Against permuted labels, corrected for all that it was corrected for."""
        return self.p_value if self.p_family is None else self.p_family


@shown()
@dataclass(frozen=True)
class Comparison:
    """A model's peak against a baseline's.

    Attributes:
        metric, statistic, against: what is compared, and with which baseline.
        layer, value: the model's peak.
        against_layer, against_value: the baseline's; its layer is None where it has none.
        difference: value − against_value.
        ci_low, ci_high, p_value: of the difference, p for the model lying further from indifference; None where
            resamples are missing.
        outcome: at alpha.
        margin: the largest lead that counts as none. A lead is a difference towards less indifference.
        at_most: no layer leads by more than this; an upper bound at 1 − alpha.
        detectable: leads up to this one are shown less than four times in five.
    """

    metric: str
    statistic: str
    against: str
    layer: int
    value: float
    against_layer: int | None
    against_value: float
    difference: float
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    outcome: Outcome = "not computed"
    margin: float | None = None
    at_most: float | None = None
    detectable: float | None = None


@shown()
@dataclass(frozen=True)
class Verdict:
    """What a metric's controls say together.

    Attributes:
        metric: of which metric.
        word: one of `sae_moral.controls.verdict.WORDS`.
        sentence: why; it may be quoted by itself.
        p_value: that the metric is `found`, corrected for the number of metrics; None where a comparison is missing.
        best_baseline: the baseline that the peak exceeds least.
        not_compared: baselines that it was not compared with.
    """

    metric: str
    word: str
    sentence: str
    p_value: float | None = None
    best_baseline: str | None = None
    not_compared: tuple[str, ...] = ()


@shown()
@dataclass(frozen=True)
class Baseline:
    """Another representation in the model's place: its name, and a profile per metric, by the metric's name."""

    name: str
    profiles: dict[str, Profile]


@shown()
@dataclass(frozen=True)
class Regrouped:
    """A headline at the model's best layer, and what it is with other records held together.

    Attributes:
        metric: which metric.
        statistic: its headline.
        layer: the model's best; None for a baseline.
        what: `model`, or the name of a baseline.
        groups: the kind of groups that were measured with.
        n_groups: how many there are.
        value: the headline with them.
        other_groups: the other kind.
        other_n_groups: how many there are.
        other_value: the headline with these; no draws are made.
    """

    metric: str
    statistic: str
    layer: int | None
    what: str
    groups: str
    n_groups: int
    value: float
    other_groups: str
    other_n_groups: int
    other_value: float


@shown()
@dataclass(frozen=True)
class LearningCurve:
    """A headline by how many scenarios it is measured on, and what it tends to (`sae_moral.controls.learning_curve`).

    Attributes:
        metric, statistic, group, layer: as in its `Peak`.
        sizes: numbers of scenarios, ascending; the last are all of them.
        values: mean over the draws of each size; None where a draw has no value.
        spread: standard deviation of the draws.
        draws: of each size.
        limit: of the power law that fits best; None where too few sizes have values.
        ci_low, ci_high: over all power laws that were tried, with the error of the sample.
        exponent: of the one that fits best.
        level: of the interval.
        seed: of the draws.
    """

    metric: str
    statistic: str
    group: str
    layer: int
    sizes: tuple[float, ...]
    values: tuple[float | None, ...]
    spread: tuple[float | None, ...]
    draws: int
    limit: float | None
    ci_low: float | None
    ci_high: float | None
    exponent: float | None
    level: float
    seed: int


class ModelFacts(TypedDict):
    """Which model it is (`sae_moral.provenance.describe_model`)."""

    name: str
    revision: str | None
    identity: str
    dtype: str
    wrapper: str
    weight_processing: str
    attached_saes: list[str]
    n_layers: int
    d_model: int
    quantisation: NotRequired[dict[str, Any]]


class LengthSpread(TypedDict):
    """How far texts that may swap labels differ in length, in tokens.

    mean: of longest − shortest in a text's stratum, over texts. largest: of any stratum. equal: share of the texts
    whose stratum has one length.
    """

    mean: float
    largest: int
    equal: float


class ValenceFacts(TypedDict):
    """What readers of pleasant and unpleasant sentences that are not moral make of the scenarios, one value per layer.

    sets: topics of the sentences. n_sentences, sha256: how many, and of which file. auroc: how well the reader of all
    sets tells virtue from vice; None without both. auroc_by_set: the same of each set's reader. auroc_of_sentences: how
    well sentences of one topic are read by readers of the others.
    """

    sets: list[str]
    n_sentences: int
    sha256: str
    auroc: list[float | None]
    auroc_by_set: list[list[float | None]]
    auroc_of_sentences: list[float]


class ControlFacts(TypedDict):
    """Which controls were run, and how."""

    names: list[str]
    level: float
    alpha: float
    seed: int
    resamples: int | None
    permutations: int | None
    monte_carlo: dict[str, float]
    stratum: int | None
    labels_that_cannot_move: dict[str, float]
    variation_that_cannot_move: NotRequired[dict[str, float]]
    variation_within_openings_that_cannot_move: NotRequired[dict[str, float]]
    spread_of_length: NotRequired[dict[str, LengthSpread]]
    explained_by_nuisance: dict[str, list[float]]
    valence: NotRequired[ValenceFacts | None]
    columns: NotRequired[dict[str, int]]
    seconds: dict[str, float]


class Provenance(TypedDict):
    """All that shaped a diagnosis. JSON values; `extra` of `data` and `capture` differ from source to source."""

    model: ModelFacts
    data: dict[str, Any]
    protocol: dict[str, Any]
    layers: list[int]
    saes: dict[str, Any] | None
    capture: dict[str, Any]
    preprocessing: dict[str, list[float]]
    controls: ControlFacts | None
    prototypes: dict[str, dict[str, float]] | None
    ceilings: dict[str, dict[str, Any] | None]
    seed: int
    versions: dict[str, str]
    created: str
    seconds: dict[str, float]
    warnings: list[str]
    migrated_from: NotRequired[int]


def leading_groups(groups: Sequence[str]) -> tuple[str, list[str]]:
    """What stands for a statistic that has values in these groups: its name, and the groups it is the mean of."""
    if OVERALL in groups:
        return OVERALL, [OVERALL]
    return (groups[0], list(groups)) if len(groups) == 1 else (MEAN_OF_GROUPS, list(groups))


def best_layer(values: Float[np.ndarray, "layers"], direction: Direction | None) -> int | None:
    """Position of the value furthest from indifference (the first of equals, the highest without a direction); NaN
    takes no part. None where there is no value."""
    if not np.isfinite(values).any():
        return None
    return int(np.nanargmax(-values if direction == "lower" else values))
