"""What margins say of scenarios, and what a steering does to them. Pure functions of arrays.

A margin is logit(approving word) − logit(disapproving word) after a scenario in a template, in nats: an array
[pairs, n], as `measure` gives it. Every statistic is computed pair by pair over the virtuous and vicious scenarios and
averaged over the pairs, in each bootstrap sample of texts alike:

    auroc         chance that a virtuous scenario's margin is above a vicious one's (ties half); ½: no order
    gap           mean margin of the virtuous − mean margin of the vicious, in nats
    gap_sd        gap / pooled standard deviation of the margin within the poles (Cohen's d)
    pushed_wrong  share of scenarios whose margin a steering moved in the wrong direction: virtue down, or vice up

Logits that are sharper all over raise a gap, and leave `auroc` and `gap_sd` as they are. `against` another margin of
the same scenarios (unsteered, a twin's) a statistic is the change, with a paired interval: both on the same draws. A
margin that moves for both poles alike, a change of tone, pushes one of the poles wrong and leaves the rest as it is.

What intervals do not cover: other words, other templates, another seed of surgery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.errors import unknown
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.metrics import ranks
from sae_moral.shown import shown

Margins = Float[np.ndarray, "*pairs n"]
"""[pairs, n], or [n] for a single pair."""
Drawn = Float[np.ndarray, "samples"]
"""A statistic of the scenarios as they are, then in each bootstrap sample. Differences and means of several such arrays
(twins, seeds) are paired: every array is of the same samples."""
_Statistic = Callable[
    [Float[Tensor, "pairs m"], Bool[Tensor, "m"], Float[Tensor, "draws m"]], Float[Tensor, "draws pairs"]
]
"""Of the scenarios with a pole, which of them are virtuous, and how often each counts in each draw."""


class Estimate(NamedTuple):
    """A value, and its 95 % interval: percentiles over bootstrap samples of texts."""

    value: float
    low: float
    high: float


def drawn(statistic: str, margin: Margins, data: MoralData, weights: Float[Tensor, "draws n"]) -> Drawn:
    """A statistic (`STATISTICS`), mean over the pairs, of the scenarios as they are and in each bootstrap sample.

    Args:
        weights: how often each scenario counts in each sample (`sae_moral.controls.draws.resamples`).

    Raises:
        ValueError: an unknown statistic, or a pole without scenarios.

    Example:
        # By how much is the mean over seeds of surgery above the mean over rotated writes?
        seeds, rotated = (np.mean([drawn("auroc", one, data, weights) for one in arm], axis=0) for arm in arms)
        estimate(seeds - rotated)
    """
    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, STATISTICS)
    return _drawn(STATISTICS[statistic], margin, data, weights)


def estimate(drawn: Drawn) -> Estimate:
    """The first, and the interval of the others."""
    others = drawn[1:][~np.isnan(drawn[1:])]  # a draw without one of the poles says nothing
    low, high = np.percentile(others, [2.5, 97.5]) if len(others) else (np.nan, np.nan)
    return Estimate(float(drawn[0]), float(low), float(high))


def auroc(
    margin: Margins, data: MoralData, weights: Float[Tensor, "draws n"], against: Margins | None = None
) -> Estimate:
    """See the module.

    Args:
        weights: as for `drawn`.
        against: margins that the change is taken from.

    Raises:
        ValueError: a pole without scenarios.

    Example:
        margins, plain = (measure(model, data, given)["morally"] for given in (steering, ()))
        auroc(margins, data, resamples(data, 1000), against=plain)
    """
    return _of("auroc", margin, data, weights, against)


def gap(
    margin: Margins, data: MoralData, weights: Float[Tensor, "draws n"], against: Margins | None = None
) -> Estimate:
    """See the module and `auroc`."""
    return _of("gap", margin, data, weights, against)


def gap_sd(
    margin: Margins, data: MoralData, weights: Float[Tensor, "draws n"], against: Margins | None = None
) -> Estimate:
    """See the module and `auroc`."""
    return _of("gap_sd", margin, data, weights, against)


def pushed_wrong(margin: Margins, data: MoralData, weights: Float[Tensor, "draws n"], against: Margins) -> Estimate:
    """See the module and `auroc`. What did not move was not pushed.

    Args:
        against: margins of the same pairs without the steering.
    """
    return estimate(_drawn(_wrong, margin - against, data, weights))


@shown()
@dataclass(frozen=True)
class MarginEffect:
    """What a steering does to margins: each statistic under it, and its change.

    Attributes:
        auroc, auroc_change, gap, gap_change, gap_sd, gap_sd_change, pushed_wrong: see the module.
    """

    auroc: Estimate
    auroc_change: Estimate
    gap: Estimate
    gap_change: Estimate
    gap_sd: Estimate
    gap_sd_change: Estimate
    pushed_wrong: Estimate


def margin_effect(margin: Margins, plain: Margins, data: MoralData, weights: Float[Tensor, "draws n"]) -> MarginEffect:
    """All statistics of steered margins against those of the model without the steering.

    Args:
        margin: steered; of a part of the pairs for what is said of that part.
        plain: without the steering, of the same pairs and scenarios.
        weights: as for `auroc`.

    Raises:
        ValueError: a pole without scenarios.
    """
    found: dict[str, Estimate] = {}
    for name in STATISTICS:
        own, other = (drawn(name, one, data, weights) for one in (margin, plain))
        found |= {name: estimate(own), f"{name}_change": estimate(own - other)}
    return MarginEffect(pushed_wrong=pushed_wrong(margin, data, weights, plain), **found)


def poles(data: MoralData) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "m"]]:
    """Which scenarios have a pole, and which of these are virtuous.

    Raises:
        ValueError: a pole without scenarios.
    """
    virtue, vice = data.pole == VIRTUE, data.pole == VICE
    if not virtue.any() or not vice.any():
        raise ValueError(f"{virtue.sum()} virtuous and {vice.sum()} vicious scenarios; expected some of both")
    moral = virtue | vice
    return moral, virtue[moral]


def _of(
    statistic: str, margin: Margins, data: MoralData, weights: Float[Tensor, "draws n"], against: Margins | None
) -> Estimate:
    own = drawn(statistic, margin, data, weights)
    return estimate(own if against is None else own - drawn(statistic, against, data, weights))


def _drawn(of: _Statistic, margin: Margins, data: MoralData, weights: Float[Tensor, "draws n"]) -> Drawn:
    moral, virtue = poles(data)
    every = torch.cat([weights.new_ones(1, len(data)), weights])[:, torch.from_numpy(moral)].double()
    rows = torch.from_numpy(np.atleast_2d(margin)[:, moral]).double()
    return of(rows, torch.from_numpy(virtue), every).mean(dim=1).numpy()


def _aurocs(
    margin: Float[Tensor, "pairs m"], virtue: Bool[Tensor, "m"], weights: Float[Tensor, "draws m"]
) -> Float[Tensor, "draws pairs"]:
    return torch.stack([ranks.auroc(row[None], virtue[None], weights)[0] for row in margin], dim=1)


def _gaps(
    margin: Float[Tensor, "pairs m"], virtue: Bool[Tensor, "m"], weights: Float[Tensor, "draws m"]
) -> Float[Tensor, "draws pairs"]:
    good, bad = (
        weights[:, own] @ margin[:, own].T / weights[:, own].sum(dim=1, keepdim=True) for own in (virtue, ~virtue)
    )
    return good - bad


def _gaps_sd(
    margin: Float[Tensor, "pairs m"], virtue: Bool[Tensor, "m"], weights: Float[Tensor, "draws m"]
) -> Float[Tensor, "draws pairs"]:
    within = torch.zeros(len(weights), len(margin), dtype=torch.float64)
    for own in (virtue, ~virtue):
        # From the mean of all, so that the squares stay small.
        off, weight = margin[:, own] - margin[:, own].mean(dim=1, keepdim=True), weights[:, own]
        within += weight @ (off**2).T - (weight @ off.T) ** 2 / weight.sum(dim=1, keepdim=True)
    return _gaps(margin, virtue, weights) / (within / (weights.sum(dim=1, keepdim=True) - 2)).sqrt()


def _wrong(
    moved: Float[Tensor, "pairs m"], virtue: Bool[Tensor, "m"], weights: Float[Tensor, "draws m"]
) -> Float[Tensor, "draws pairs"]:
    wrong = torch.where(virtue, moved < 0, moved > 0).double()
    return weights @ wrong.T / weights.sum(dim=1, keepdim=True)


STATISTICS: dict[str, _Statistic] = {"auroc": _aurocs, "gap": _gaps, "gap_sd": _gaps_sd}
"""What `drawn` knows."""
