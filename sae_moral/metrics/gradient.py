"""Gradient indifference: does the representation tell grave from slight within one pole?

`paper`: Spearman's correlation of human typicality with the cosine of an item to the prototype of its pole, over the
items of that pole and the foundation's neutrals (at typicality 0), prototype items included (arXiv 2603.15615 §3).

`audited`: the same within the pole, over held-out items only, with and without the neutrals, and given length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, POLES
from sae_moral.metrics.base import Metric, Statistic, mean_over_groups
from sae_moral.metrics.folds import folds, partial_spearman, spearman, within_folds
from sae_moral.metrics.prototypes import cosine, prototype_items
from sae_moral.protocol import Protocol


@dataclass(frozen=True)
class PaperGradient:
    """Spearman(typicality, cosine to the pole's prototype) per dimension, and over all dimensions' items pooled."""

    name: str = "gradient"
    headline: str = "spearman"
    chance: float | None = 0.0
    higher_is: str = "less indifferent"
    means: str = (
        "Rank correlation between human typicality and closeness to the prototype of the pole, neutral scenarios "
        "included as typicality 0. The paper finds less than 0.55 in 23 models."
    )
    does_not_prove: str = (
        "The prototype's own items are scored against it, equal texts recur, and neutrals against everything else is "
        "not gradation. Low typicality is often one annotator's low consensus, not mild wrongdoing, so without a "
        "ceiling from label reliability a correlation of 0.5 cannot be read."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Spearman per dimension and pooled; None where a pole has no item or typicality does not vary."""
        statistics, typicalities, closeness = [], [], []
        for d, dimension in enumerate(DIMENSIONS):
            f, pole = divmod(d, 2)
            top, _ = prototype_items(data, f, pole)
            items = data.items(f, pole) | data.items(f, NEUTRAL)
            value, n = None, int(items.sum())
            if top.any():
                prototype = representation[torch.from_numpy(top)].mean(dim=0)
                score = cosine(representation[torch.from_numpy(items)], prototype).cpu().numpy()
                value = _spearman(data.typicality[items], score)
                typicalities.append(data.typicality[items])
                closeness.append(score)
            statistics.append(Statistic("spearman", value, dimension, n, 0))
        pooled = _spearman(np.concatenate(typicalities), np.concatenate(closeness)) if closeness else None
        return [Statistic("spearman", pooled, n=sum(map(len, closeness)), n_dropped=0), *statistics]


def _spearman(typicality: np.ndarray, score: np.ndarray) -> float | None:
    constant = len(score) < 3 or np.ptp(typicality) == 0 or np.ptp(score) == 0
    return None if constant else float(np.asarray(spearmanr(typicality, score))[0])


PER_DIMENSION = ("spearman", "spearman_with_neutral", "spearman_partial", "spearman_prototype")


@dataclass(frozen=True)
class AuditedGradient:
    """Cross-fitted gradedness per dimension.

    A held-out item's score is its cosine with a direction fitted on the other folds: Σ (t − t̄) x over their items x
    of typicality t, the typical end of the pole minus its atypical end. Closeness to the prototype itself (Σ t x,
    reported as `spearman_prototype`) orders items less well: what all items of the pole share says nothing about
    their order, and its sampling noise does (on SmolLM2 and Gemma 3 by 0.01 to 0.05, and more so for a prototype of the
    items of typicality 1.0 alone). Correlations are averaged within folds.

    - `spearman` (headline): within the pole, neutrals left out: grave against slight.
    - `spearman_with_neutral`: neutrals added at typicality 0, as in the paper; part of it is moral against neutral.
    - `spearman_partial`: within the pole, with the rank of the token count taken out of both.
    - `spearman_prototype`: within the pole, by closeness to the cross-fitted prototype.
    - `asymmetry`: `spearman` of the vice minus that of the virtue, per foundation (the paper: vice is finer).
    """

    folds: int = 5
    seed: int = 0
    name: str = "gradient"
    headline: str = "spearman"
    chance: float | None = 0.0
    higher_is: str = "less indifferent"
    means: str = (
        "Rank correlation, within one pole and over held-out texts, between human typicality and the position along "
        "the direction from slight to grave, fitted on other texts. Beside it with neutral scenarios added, given "
        "length, by closeness to the pole's prototype, and vice minus virtue."
    )
    does_not_prove: str = (
        "Much of the spread of typicality is disagreement among annotators, so the reachable maximum is well below 1; "
        "read it against the ceiling. One direction per pole is the simplest way to be graded; what needs more shows "
        "in the dimensional metric."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Statistics per dimension, per foundation (asymmetry) and overall; None where a pole has too few items."""
        fold = folds(data, self.folds, self.seed)
        statistics: list[Statistic] = []
        plain: dict[tuple[int, int], Statistic] = {}
        for d, dimension in enumerate(DIMENSIONS):
            f, pole = divmod(d, len(POLES))
            parts = self._dimension(representation, data, fold, f, pole)
            statistics += [Statistic(name, value, dimension, n, 0) for name, (value, n) in parts.items()]
            plain[f, pole] = next(s for s in statistics if s.name == "spearman" and s.group == dimension)
        for f, foundation in enumerate(FOUNDATIONS):
            virtue, vice = plain[f, 0], plain[f, 1]
            value = None if virtue.value is None or vice.value is None else vice.value - virtue.value
            statistics.append(Statistic("asymmetry", value, foundation, (virtue.n or 0) + (vice.n or 0), 0))
        names = (*PER_DIMENSION, "asymmetry")
        overall = [mean_over_groups(name, (s for s in statistics if s.name == name)) for name in names]
        return overall + statistics

    def _dimension(
        self, x: Float[Tensor, "n d"], data: MoralData, fold: Int[np.ndarray, "n"], foundation: int, pole: int
    ) -> dict[str, tuple[float | None, int]]:
        everyone = np.flatnonzero(data.items(foundation, pole) | data.items(foundation, NEUTRAL))
        pole_only = np.flatnonzero(data.items(foundation, pole))
        length = data.length

        def correlate(items: Int[np.ndarray, "m"], *, prototype: bool = False, partial: bool = False) -> float | None:
            typicality, held_out = data.typicality[items], fold[items]
            score = held_out_closeness(x[torch.from_numpy(items)], typicality, held_out, prototype=prototype)
            if score is None or (partial and length is None):
                return None
            if partial and length is not None:
                tokens = length[items]
                return within_folds(lambda k: partial_spearman(typicality[k], score[k], tokens[k]), held_out)
            return within_folds(lambda k: spearman(typicality[k], score[k]), held_out)

        n = len(pole_only)
        return {
            "spearman": (correlate(pole_only), n),
            "spearman_with_neutral": (correlate(everyone) if n else None, len(everyone)),
            "spearman_partial": (correlate(pole_only, partial=True), n),
            "spearman_prototype": (correlate(pole_only, prototype=True), n),
        }


def held_out_closeness(
    x: Float[Tensor, "m d"], typicality: Float[np.ndarray, "m"], fold: Int[np.ndarray, "m"], *, prototype: bool = False
) -> Float[np.ndarray, "m"] | None:
    """Cosine of each item with a direction fitted on the other folds: Σ (t − t̄) x, or Σ t x for the prototype. None
    when typicality does not vary among what a fold is fitted on."""
    score = np.zeros(len(fold))
    for k in np.unique(fold):
        held_out = fold == k
        weight = np.where(held_out, 0.0, typicality)
        if held_out.all() or np.ptp(typicality[~held_out]) == 0:
            return None
        if not prototype:
            weight = np.where(held_out, 0.0, typicality - typicality[~held_out].mean())
        direction = torch.from_numpy(weight).to(x.device, x.dtype) @ x
        score[held_out] = cosine(x[torch.from_numpy(held_out)], direction).cpu().numpy()
    return score if len(fold) else None


def gradient(protocol: Protocol) -> Metric:
    """The gradient metric under a protocol (entry point)."""
    return PaperGradient() if protocol.estimators == "paper" else AuditedGradient(protocol.folds, protocol.seed)
