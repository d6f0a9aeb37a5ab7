"""Rank statistics of many relabelled or reweighted versions of a sample at once.

Scores, labels and weights are [b, m] tensors: m items in b versions; any of them may have b = 1 and is then shared. A
weight says how often an item counts: an integer weight gives exactly what so many copies of the item would. What cannot
be computed is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

Weighed = tuple[Float[Tensor, "b"], Float[Tensor, "b"]]
"""A statistic, and the weight it has in a mean over folds."""
DIGITS = {torch.float64: 30, torch.float32: 20}
"""Binary digits of a score, counted from the largest of its version, that are ranked by: fewer than it has, so that two
records of one text stay tied however a processor rounds, and where terms of a product cancel."""


def rankable(score: Num[Tensor, "s m"]) -> Num[Tensor, "s m"]:
    """Scores in whole steps of `DIGITS`, in the same order but for ties; integers as they are."""
    if not score.is_floating_point() or not score.shape[1]:
        return score
    _, exponent = torch.frexp(score.abs().amax(dim=1, keepdim=True))
    return torch.ldexp(score, DIGITS.get(score.dtype, 8) - exponent).round()


def mass_below(score: Num[Tensor, "s m"], weight: Float[Tensor, "w m"]) -> Float[Tensor, "b m"]:
    """For each item the summed weight of the items with smaller scores, and half of those with equal ones.

    With weight 1 this is the midrank minus ½.
    """
    score = rankable(score).contiguous()
    ordered, order = score.sort(dim=1)
    b = max(len(score), len(weight))
    heavy = weight.expand(b, -1).gather(1, order.expand(b, -1))
    summed = torch.cat([heavy.new_zeros(b, 1), heavy.cumsum(dim=1)], dim=1)
    first, last = (torch.searchsorted(ordered, score, right=right) for right in (False, True))
    return (summed.gather(1, first.expand(b, -1)) + summed.gather(1, last.expand(b, -1))) / 2


def auroc(score: Num[Tensor, "s m"], positive: Bool[Tensor, "p m"], weight: Float[Tensor, "w m"]) -> Weighed:
    """Probability that a positive item scores above a negative one (ties half), weighed by the number of pairs."""
    heavy, light = weight * positive, weight * ~positive
    pairs = heavy.sum(dim=1) * light.sum(dim=1)
    value = (heavy * mass_below(score, light)).sum(dim=1) / pairs
    return value, pairs.expand_as(value)


@dataclass(frozen=True)
class Ranked:
    """Scores as midranks, made once for all the correlations they take part in.

    Attributes:
        centred: midranks less their mean.
        weight: of the items.
        spread: sum of squares of the centred midranks.
    """

    centred: Float[Tensor, "b m"]
    weight: Float[Tensor, "w m"]
    spread: Float[Tensor, "b"]

    @classmethod
    def of(cls, score: Num[Tensor, "s m"], weight: Float[Tensor, "w m"]) -> Ranked:
        """Of scores."""
        ranks = mass_below(score, weight)
        centred = ranks - (weight * ranks).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        return cls(centred, weight, (weight * centred * centred).sum(dim=1))

    def correlation(self, other: Ranked) -> Weighed:
        """Spearman's, see `spearman`."""
        total = self.weight.sum(dim=1)
        value = (self.weight * self.centred * other.centred).sum(dim=1) / (self.spread * other.spread).sqrt()
        # Midranks are multiples of ½, so what rounding leaves of a constant's spread is far below 1.
        enough = (total > 2.5) & (torch.minimum(self.spread, other.spread) > 1e-6)
        return torch.where(enough, value, torch.nan), (total - 1).expand_as(value)

    def partial(self, other: Ranked, given: Ranked) -> Weighed:
        """Spearman's with the linear effect of the ranks of `given` taken out of both: the plain one where `given` is
        constant, NaN where it already orders one of them."""
        (ab, freedom), (ag, _), (bg, _) = self.correlation(other), self.correlation(given), other.correlation(given)
        rest = (1 - ag**2) * (1 - bg**2)
        value = torch.where((rest > 1e-12) & (freedom > 1), (ab - ag * bg) / rest.sqrt(), torch.nan)
        plain = ag.isnan() | bg.isnan()
        return torch.where(plain, ab, value), torch.where(plain, freedom, freedom - 1)


def spearman(a: Num[Tensor, "x m"], b: Num[Tensor, "y m"], weight: Float[Tensor, "w m"]) -> Weighed:
    """Spearman's rank correlation (ties averaged), weighed by its degrees of freedom; NaN under three items or for a
    constant."""
    return Ranked.of(a, weight).correlation(Ranked.of(b, weight))


def mean_of_folds(parts: Iterable[Weighed]) -> Float[Tensor, "b"]:
    """Weighted mean over folds of a statistic of each fold's held-out items; NaN where no fold has one.

    Rank statistics are averaged over folds, not computed on the pooled scores: each fold has its own fitted direction,
    and the offsets between folds depend on the labels of the other folds, which biases a pooled rank statistic
    below chance when there is nothing to find (Parker et al. 2007; Forman & Scholz 2010).
    """
    values, weights = (torch.stack(torch.broadcast_tensors(*column)) for column in zip(*parts, strict=True))
    weights = torch.where(values.isnan(), 0.0, weights)
    return (values.nan_to_num() * weights).sum(dim=0) / weights.sum(dim=0)
