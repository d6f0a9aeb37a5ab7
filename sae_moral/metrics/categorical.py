"""Categorical indifference: does the representation tell virtue from vice within one foundation?

`paper`: the cosine of the two poles' prototypes, each the mean of the centred items of typicality 1.0
(arXiv 2603.15615 §3). Both prototypes contain the foundation's topic, and all of the sampling noise of a few items in
a space where one direction may hold 99 % of the variance; a cosine near ±1 says more about that direction than
about morality.

`audited`: the accuracy (AUROC) with which held-out items fall on the right side along the direction from the vice to
the virtue prototype, beside the cosine of the cross-fitted prototypes, their reliability, and the cosine corrected
for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import FOUNDATIONS, VICE, VIRTUE
from sae_moral.metrics.base import Metric, Statistic, mean_over_groups
from sae_moral.metrics.folds import auroc, folds, within_folds
from sae_moral.metrics.prototypes import GroupSums, cosine, prototype_items
from sae_moral.protocol import Protocol

MIN_RELIABILITY = 0.3
"""Below this reliability of the two prototypes a corrected cosine is noise divided by almost nothing: None."""


@dataclass(frozen=True)
class PaperCategorical:
    """cosine(virtue prototype, vice prototype) per foundation; prototype = mean of the items of typicality 1.0."""

    name: str = "categorical"
    headline: str = "cosine"
    chance: float | None = None
    higher_is: str = "more indifferent, as the paper reads it"
    means: str = (
        "Cosine between the mean vectors of the most typical virtuous and the most typical vicious scenarios of a "
        "foundation, after the layer's mean is subtracted. The paper reads values above 0.5 as indifference."
    )
    does_not_prove: str = (
        "The few dozen items of a prototype share one noise direction per layer, usually sentence length by way of "
        "the first token: cosines of ±1 whose sign flips between halves of the same data are a sign of that, not of "
        "morality. There is no null and no reliability here."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Cosine per foundation; None where a pole has no item."""
        statistics = []
        for f, foundation in enumerate(FOUNDATIONS):
            masks = [prototype_items(data, f, pole)[0] for pole in (VIRTUE, VICE)]
            value = None
            if all(mask.any() for mask in masks):
                virtue, vice = (representation[torch.from_numpy(mask)].mean(dim=0) for mask in masks)
                # A prototype without length (a layer that does not vary) has no direction to compare.
                value = float(cosine(virtue[None], vice)[0]) if virtue.any() and vice.any() else None
            statistics.append(Statistic("cosine", value, foundation, int(sum(mask.sum() for mask in masks)), 0))
        return statistics


@dataclass(frozen=True)
class AuditedCategorical:
    """Held-out pole discrimination and cross-fitted prototype cosines per foundation.

    - `auroc` (headline): w = virtue prototype − vice prototype of the training folds; the probability that a held-out
      virtue item has a larger inner product with w than a held-out vice item, averaged within folds. 0.5 is chance.
      We lead with it because a cosine of centred prototypes is not a scale: it is −1 for any two halves of noise
      around their common mean, and near +1 wherever the topic of the foundation outweighs its poles.
    - `cosine`: inner product of the prototypes over all pairs of different texts (`GroupSums.product`), divided by
      the norms of both. No item meets its own text.
    - `reliability`: √(r_virtue · r_vice), where r of a prototype is its cross-fitted squared norm over its plain one:
      the split-half reliability over all splits, stepped up to full length (Spearman–Brown); clipped to [0, 1].
    - `cosine_corrected`: the cosine of the noise-free prototypes, cosine / reliability (Spearman 1904). None when
      the reliability is below `MIN_RELIABILITY`.
    """

    folds: int = 5
    seed: int = 0
    name: str = "categorical"
    headline: str = "auroc"
    chance: float | None = 0.5
    higher_is: str = "less indifferent"
    means: str = (
        "AUROC: how often a held-out virtuous scenario lies further than a held-out vicious one of the same foundation "
        "along the line between the two prototypes, which are fitted on other texts; 0.5 is chance. Beside it the "
        "cosine of the cross-fitted prototypes, their reliability, and the cosine corrected for it."
    )
    does_not_prove: str = (
        "That the model uses the difference, or that it is about morality rather than about the words that virtues "
        "and vices are described with: compare with the bag-of-words baseline. Cosines depend on where the origin "
        "lies (here the mean of all scenarios), so a topic shared by both poles raises them."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Four statistics per foundation and overall; None where a pole has no item or too few texts."""
        fold = folds(data, self.folds, self.seed)
        statistics: list[Statistic] = []
        for f, foundation in enumerate(FOUNDATIONS):
            virtue, vice = (data.items(f, pole) for pole in (VIRTUE, VICE))
            n = int(virtue.sum() + vice.sum())
            values: dict[str, float | None] = dict.fromkeys(("auroc", "cosine", "reliability", "cosine_corrected"))
            if virtue.any() and vice.any():
                sums = [GroupSums.of(representation, items, data.group) for items in (virtue, vice)]
                values["auroc"] = pole_auroc(representation, virtue, vice, fold)
                values |= cross_fitted_cosine(*sums)
            statistics += [Statistic(name, value, foundation, n, 0) for name, value in values.items()]
        names = ("auroc", "cosine", "reliability", "cosine_corrected")
        overall = [mean_over_groups(name, (s for s in statistics if s.name == name)) for name in names]
        return overall + statistics


def cross_fitted_cosine(virtue: GroupSums, vice: GroupSums) -> dict[str, float | None]:
    """`cosine`, `reliability` and `cosine_corrected` of two prototypes (see `AuditedCategorical`)."""
    between, own = virtue.product(vice), (virtue.product(virtue), vice.product(vice))
    norms = [float(sums.mean.norm()) for sums in (virtue, vice)]
    squared = [product for product in own if product is not None]
    if between is None or len(squared) < 2 or min(norms) == 0:
        return {}
    value = between / (norms[0] * norms[1])
    parts = [min(1.0, max(0.0, product / norm**2)) for product, norm in zip(squared, norms, strict=True)]
    reliability = float(np.sqrt(parts[0] * parts[1]))
    corrected = value / reliability if reliability >= MIN_RELIABILITY else None
    return {"cosine": value, "reliability": reliability, "cosine_corrected": corrected}


def pole_auroc(
    x: Float[Tensor, "n d"], virtue: np.ndarray, vice: np.ndarray, fold: Int[np.ndarray, "n"]
) -> float | None:
    """AUROC of held-out virtue against held-out vice items along the training folds' prototype difference, averaged
    within folds by number of pairs."""
    either = np.flatnonzero(virtue | vice)
    x, is_virtue, fold = x[torch.from_numpy(either)], virtue[either], fold[either]
    score = np.zeros(len(either))
    for k in np.unique(fold):
        train = [torch.from_numpy((fold != k) & side) for side in (is_virtue, ~is_virtue)]
        if not all(bool(side.any()) for side in train):
            return None
        direction = x[train[0]].mean(dim=0) - x[train[1]].mean(dim=0)
        score[fold == k] = (x[torch.from_numpy(fold == k)] @ direction).cpu().numpy()
    return within_folds(lambda index: auroc(score[index], is_virtue[index]), fold)


def categorical(protocol: Protocol) -> Metric:
    """The categorical metric under a protocol (entry point)."""
    return PaperCategorical() if protocol.estimators == "paper" else AuditedCategorical(protocol.folds, protocol.seed)
