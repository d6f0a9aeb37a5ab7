"""Categorical indifference: does the representation tell virtue from vice within one foundation?

`paper`: the cosine of the two poles' prototypes, each the mean of the centred items of typicality 1.0
(arXiv 2603.15615 §3). Both prototypes contain the foundation's topic, and all of the sampling noise of a few items in
a space where one direction may hold 99 % of the variance; a cosine near ±1 says more about that direction than
about morality.

`audited`: the accuracy (AUROC) with which a regularised discriminant of the other folds orders held-out items, beside
that of the line between the two prototypes, the cosine of the cross-fitted prototypes, their reliability, and the
cosine corrected for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, VICE, VIRTUE
from sae_moral.metrics.base import Metric, Prepared, Statistic, Values, Variants, folds, mean_of_groups
from sae_moral.metrics.discriminant import Domain, Whitened, discriminant_scores
from sae_moral.metrics.nuisance import Nuisance
from sae_moral.metrics.prototypes import Items, prototype_items
from sae_moral.metrics.ranks import auroc, mean_of_folds
from sae_moral.protocol import Protocol
from sae_moral.results import OVERALL, StatisticSpec

MIN_RELIABILITY = 0.3
"""Below this reliability of the two prototypes a corrected cosine is noise divided by almost nothing: None."""


@dataclass(frozen=True)
class PaperCategorical:
    """cosine(virtue prototype, vice prototype) per foundation; prototype = mean of the items of typicality 1.0."""

    name: str = "categorical"
    headline: str = "cosine"
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (StatisticSpec("cosine", "lower", null="pole", margin=0.05),)
    rotation_invariant: ClassVar[bool] = True
    means: str = (
        "Cosine between the mean vectors of the most typical virtuous and the most typical vicious scenarios of a "
        "foundation, after the layer's mean is subtracted. The paper reads values above 0.5 as indifference."
    )
    does_not_prove: str = (
        "The few dozen items of a prototype share one noise direction per layer, usually sentence length by way of "
        "the first token: cosines of ±1 whose sign flips between halves of the same data are a sign of that, not of "
        "morality. There is no reliability here."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """The statistic `cosine` per foundation; None where a pole has no item."""
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`; weights count in the prototypes."""
        poles = [Poles.of(representation, data, f) for f in range(len(FOUNDATIONS))]

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            found = {
                ("cosine", name): pole.paper_cosine(variants) for name, pole in zip(FOUNDATIONS, poles, strict=True)
            }
            return found if only is None or "cosine" in only else {}

        return Prepared(len(data), self._counts(data), run, representation.device)

    def _counts(self, data: MoralData) -> dict[tuple[str, str], tuple[int, int]]:
        tops = [
            sum(int(prototype_items(data, f, pole)[0].sum()) for pole in (VIRTUE, VICE))
            for f in range(len(FOUNDATIONS))
        ]
        return {("cosine", name): (n, 0) for name, n in zip(FOUNDATIONS, tops, strict=True)}


PER_FOUNDATION = ("auroc", "auroc_prototype", "cosine", "reliability", "cosine_corrected")


@dataclass(frozen=True)
class AuditedCategorical:
    """Held-out pole discrimination and cross-fitted prototype cosines per foundation.

    - `auroc` (headline): the probability that a held-out virtue item scores above a held-out vice item of its
      foundation with the discriminant of the other folds (`sae_moral.metrics.discriminant`), averaged within folds.
      0.5 is chance.
    - `auroc_prototype`: the same along virtue prototype − vice prototype of the foundation's training folds, the
      weaker reader that the paper's cosine goes with. A cosine of centred prototypes is not a scale: it is −1 for any
      two halves of noise around their common mean, and near +1 wherever the topic of the foundation outweighs its
      poles.
    - `cosine`: inner product of the prototypes over all pairs of different texts (`GroupSums.product`), divided by
      the norms of both. No item meets its own text.
    - `reliability`: √(r_virtue · r_vice), where r of a prototype is its cross-fitted squared norm over its plain one:
      the split-half reliability over all splits, stepped up to full length (Spearman–Brown); clipped to [0, 1].
    - `cosine_corrected`: the cosine of the noise-free prototypes, cosine / reliability (Spearman 1904). None when
      the reliability is below `MIN_RELIABILITY`.
    - `prototype_reliability`: r of each prototype by itself, per dimension.
    """

    folds: int = 5
    seed: int = 0
    remove_length: bool = True
    name: str = "categorical"
    headline: str = "auroc"
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (
        StatisticSpec("auroc", "higher", null="pole", interval="fixed", chance=0.5, margin=0.02, best=1.0),
        StatisticSpec("auroc_prototype", "higher", null="pole", interval="fixed", chance=0.5, best=1.0),
        StatisticSpec("cosine", "lower", null="pole", ceiling="reliability"),
        StatisticSpec("cosine_corrected", "lower", null="pole"),
        StatisticSpec("reliability", null=None),
        StatisticSpec("prototype_reliability", null=None),
    )
    rotation_invariant: ClassVar[bool] = True
    means: str = (
        "AUROC: how often a regularised linear reader, fitted on other texts, scores a held-out virtuous scenario "
        "above a held-out vicious one of the same foundation; 0.5 is chance. Beside it the same along the line between "
        "the two prototypes, the cosine of the cross-fitted prototypes, their reliability, and the corrected cosine."
    )
    does_not_prove: str = (
        "That the model uses the difference, or that it is about morality rather than about the words that virtues "
        "and vices are described with: compare with the bag-of-words baseline. Cosines depend on where the origin "
        "lies (here the mean of all scenarios), so a topic shared by both poles raises them."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Five statistics per foundation, one per dimension, and their means; None where a pole has no item or too few
        texts."""
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`; weights count in the cosines' prototypes, and in which held-out items the
        AUROC is of."""
        fold = folds(data, self.folds, self.seed)
        nuisance = Nuisance.of(representation, data, fold, length=self.remove_length)
        poles = [Poles.of(representation, data, f, fold, nuisance) for f in range(len(FOUNDATIONS))]
        space = Whitened.of(representation, data, fold, length=self.remove_length)
        whitened = [space.items(data, pole.items.rows) for pole in poles]

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            found: Values = {}
            if only is None or "auroc" in only:
                scores = [pole.domain(items, variants) for pole, items in zip(poles, whitened, strict=True)]
                for name, pole, score in zip(FOUNDATIONS, poles, discriminant_scores(space, scores), strict=True):
                    found["auroc", name] = pole.auroc(variants, score)
            for name, pole in zip(FOUNDATIONS, poles, strict=True):
                if only is None or "auroc_prototype" in only:
                    found["auroc_prototype", name] = pole.auroc(variants, pole.along_prototypes(variants))
                if only is None or set(only) - {"auroc", "auroc_prototype"}:
                    found |= pole.cross_fitted(variants)
            for name in (*PER_FOUNDATION, "prototype_reliability"):
                if parts := [value for key, value in found.items() if key[0] == name]:
                    found[name, OVERALL] = mean_of_groups(parts)
            return {key: value for key, value in found.items() if only is None or key[0] in only}

        return Prepared(len(data), self._counts(data), run, representation.device)

    def _counts(self, data: MoralData) -> dict[tuple[str, str], tuple[int, int]]:
        n = [int(data.items(*divmod(d, 2)).sum()) for d in range(len(DIMENSIONS))]
        counts = {("prototype_reliability", name): (n[d], 0) for d, name in enumerate(DIMENSIONS)}
        for f, name in enumerate(FOUNDATIONS):
            counts |= {(statistic, name): (n[2 * f] + n[2 * f + 1], 0) for statistic in PER_FOUNDATION}
        both = [(n[2 * f] + n[2 * f + 1]) * (n[2 * f] > 0) * (n[2 * f + 1] > 0) for f in range(len(FOUNDATIONS))]
        counts |= {(name, OVERALL): (sum(both), 0) for name in PER_FOUNDATION}
        return counts | {("prototype_reliability", OVERALL): (sum(n), 0)}


@dataclass(frozen=True)
class Poles:
    """The virtue and vice items of one foundation.

    Attributes:
        items: their vectors, groups and folds.
        data: all scenarios.
        foundation: index into `FOUNDATIONS`.
    """

    items: Items
    data: MoralData
    foundation: int

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "n d"],
        data: MoralData,
        foundation: int,
        fold: np.ndarray | None = None,
        nuisance: Nuisance | None = None,
    ) -> Poles:
        """Those of x."""
        either = data.items(foundation, VIRTUE) | data.items(foundation, VICE)
        return cls(Items.of(x, data, np.flatnonzero(either), fold, nuisance), data, foundation)

    def masks(self, variants: Variants, pole: np.ndarray) -> tuple[Tensor, Tensor]:
        """Which items are virtues in each version, and which are vices."""
        blocks = np.where(self.data.pole == NEUTRAL, -1, self.data.foundation)
        moved = variants.moved(pole, self.items.rows, blocks)
        return moved == VIRTUE, moved == VICE

    def paper_cosine(self, variants: Variants) -> Float[Tensor, "b"]:
        """Cosine of the prototypes of the items at the top of each pole's scale."""
        top = np.full(len(self.data), -1)
        for pole in (VIRTUE, VICE):
            top[prototype_items(self.data, self.foundation, pole)[0]] = pole
        weight = self.items.weight(variants)
        means = [self.items.mean(weight * mask) for mask in self.masks(variants, top)]
        scale = means[0].norm(dim=1) * means[1].norm(dim=1)
        # A prototype without length (a layer that does not vary) has no direction to compare.
        return torch.where(scale > 0, (means[0] * means[1]).sum(dim=1) / scale, torch.nan)

    def domain(self, items: Items, variants: Variants) -> Domain:
        """The same items in other coordinates, labelled 1 for virtue and −1 for vice."""
        virtue = self.masks(variants, self.data.pole)[0]
        return Domain(items, 2.0 * virtue.to(variants.dtype) - 1.0, items.fit_weight(variants).to(variants.dtype))

    def along_prototypes(self, variants: Variants) -> dict[int, Float[Tensor, "b _"]]:
        """Held-out scores per fold, along the difference of the training folds' prototypes."""
        fit = self.items.fit_weight(variants)
        sums = [self.items.fold_sums((fit * mask).to(variants.dtype)) for mask in self.masks(variants, self.data.pole)]
        return {
            k: (sums[0].without(k).mean - sums[1].without(k).mean) @ self.items.held_out(k).to(variants.dtype).T
            for k, _ in self.items.folds
        }

    def auroc(self, variants: Variants, score: Mapping[int, Float[Tensor, "_ _"]]) -> Float[Tensor, "b"]:
        """AUROC of held-out virtue against held-out vice items, averaged within folds by number of pairs; NaN where a
        training part lacks a pole."""
        masks = self.masks(variants, self.data.pole)
        weight, fit = self.items.weight(variants), self.items.fit_weight(variants)
        parts, known = [], torch.ones(variants.n, dtype=torch.bool, device=weight.device)
        for k, test in self.items.folds:
            rest = torch.cat([part for other, part in self.items.folds if other != k] or [test[:0]])
            for mask in masks:
                known = known & ((fit[:, rest] * mask[:, rest]).sum(dim=1) > 0)
            parts.append(auroc(score[k].nan_to_num(), masks[0][:, test], weight[:, test]))
        return torch.where(known, mean_of_folds(parts), torch.nan) if parts else variants.nothing

    def cross_fitted(self, variants: Variants) -> Values:
        """`cosine`, `reliability` and `cosine_corrected` of the two prototypes, `prototype_reliability` of each (see
        `AuditedCategorical`)."""
        weight, masks = self.items.weight(variants), self.masks(variants, self.data.pole)
        poles = [weight * mask for mask in masks]  # in double precision: what texts share with themselves cancels
        # A resample holds fewer distinct texts, so its means are noisier than those it stands for. Their squared norm
        # is taken to be that of the resampled prototype and the noise of the sample's own mean.
        true = [self.items.product(pole, pole) for pole in poles]
        plain = [(mask.double(), self.items.mean(mask.double()).square().sum(dim=1)) for mask in masks]
        noise = [squared - self.items.product(mask, mask) for mask, squared in plain]
        squared = [product + extra for product, extra in zip(true, noise, strict=True)]
        norms = [torch.where(square > 0, square, torch.nan).sqrt() for square in squared]
        own = [(product / norm**2).clamp(0, 1) for product, norm in zip(true, norms, strict=True)]
        reliability = (own[0] * own[1]).sqrt()
        # 0 × reliability: no cosine where either prototype has no reliability (all its items share one text).
        cosine = self.items.product(*poles) / (norms[0] * norms[1]) + 0 * reliability
        corrected = torch.where(reliability >= MIN_RELIABILITY, cosine / reliability, torch.nan)
        name, dimensions = FOUNDATIONS[self.foundation], DIMENSIONS[2 * self.foundation :]
        found = {"cosine": cosine, "reliability": reliability + 0 * cosine, "cosine_corrected": corrected}
        return {(key, name): value for key, value in found.items()} | {
            ("prototype_reliability", dimensions[pole]): own[pole] for pole in (VIRTUE, VICE)
        }


def categorical(protocol: Protocol) -> Metric:
    """The categorical metric under a protocol (entry point)."""
    if protocol.estimators == "paper":
        return PaperCategorical()
    return AuditedCategorical(protocol.folds, protocol.seed, "remove_length" in protocol.preprocessing)
