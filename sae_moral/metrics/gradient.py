"""Gradient indifference: does the representation tell grave from slight within one pole?

`paper`: Spearman's correlation of human typicality with the cosine of an item to the prototype of its pole, over the
items of that pole and the foundation's neutrals (at typicality 0), prototype items included (arXiv 2603.15615 §3).

`audited`: within the pole and over held-out items only, a regularised linear reader of typicality; beside it simpler
readers, with the neutrals, and given length.
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
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL
from sae_moral.metrics.base import Metric, Prepared, Statistic, Values, Variants, folds, mean_of_groups
from sae_moral.metrics.discriminant import Domain, Whitened, discriminant_scores
from sae_moral.metrics.nuisance import Nuisance
from sae_moral.metrics.prototypes import Items, prototype_items
from sae_moral.metrics.ranks import Ranked, mean_of_folds, spearman
from sae_moral.protocol import Protocol
from sae_moral.results import OVERALL, StatisticSpec


@dataclass(frozen=True)
class PaperGradient:
    """Spearman(typicality, cosine to the pole's prototype) per dimension, and over all dimensions' items pooled."""

    name: str = "gradient"
    headline: str = "spearman"
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (
        StatisticSpec("spearman", "higher", null="typicality", chance=0.0, margin=0.05),
    )
    rotation_invariant: ClassVar[bool] = True
    means: str = (
        "Rank correlation between human typicality and closeness to the prototype of the pole, neutral scenarios "
        "included as typicality 0. The paper finds less than 0.55 in 23 models."
    )
    does_not_prove: str = (
        "The prototype's own items are scored against it, equal texts recur, and neutrals against everything else is "
        "not gradation. Low typicality is often one annotator's low consensus, not mild wrongdoing, so without a "
        "ceiling from label reliability, which is known within a pole only, a correlation of 0.5 cannot be read."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Spearman per dimension and pooled; None where a pole has no item or typicality does not vary."""
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`; weights count in the prototypes and in the correlations."""
        parts = {name: Graded.of(representation, data, d, neutral=True) for d, name in enumerate(DIMENSIONS)}

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            if only is not None and "spearman" not in only:
                return {}
            found: Values = {}
            pooled: list[tuple[Tensor, Tensor, Tensor]] = []
            for name, part in parts.items():
                found["spearman", name] = variants.nothing
                if part.has_pole:
                    typicality, score, weight = (
                        part.typicality(variants),
                        part.closeness(variants),
                        part.weight(variants),
                    )
                    found["spearman", name] = spearman(typicality, score, weight)[0]
                    pooled.append((typicality, score, weight))
            found["spearman", OVERALL] = variants.nothing
            if pooled:
                columns = (
                    torch.cat([c.expand(max(map(len, cs)), -1) for c in cs], dim=1) for cs in zip(*pooled, strict=True)
                )
                found["spearman", OVERALL] = spearman(*columns)[0]
            return found

        return Prepared(len(data), self._counts(data), run, representation.device)

    def _counts(self, data: MoralData) -> dict[tuple[str, str], tuple[int, int]]:
        pole = {name: int(data.items(*divmod(d, 2)).sum()) for d, name in enumerate(DIMENSIONS)}
        neutral = {name: int(data.items(d // 2, NEUTRAL).sum()) for d, name in enumerate(DIMENSIONS)}
        counts = {("spearman", name): (pole[name] + neutral[name], 0) for name in DIMENSIONS}
        pooled = sum(pole[name] + neutral[name] for name in DIMENSIONS if pole[name])
        return {("spearman", OVERALL): (pooled, 0), **counts}


PER_DIMENSION = ("spearman", "spearman_with_neutral", "spearman_partial", "spearman_graded", "spearman_prototype")
STATISTICS = (*PER_DIMENSION, "asymmetry")
READ = {"spearman", "spearman_partial", "asymmetry"}
"""Statistics of the discriminant's scores."""


@dataclass(frozen=True)
class AuditedGradient:
    """Cross-fitted gradedness per dimension; correlations over held-out items, averaged within folds.

    - `spearman` (headline): of typicality within the pole (neutrals left out: grave against slight) and the
      discriminant of the other folds (`sae_moral.metrics.discriminant`), whose label is typicality and whose domains
      are the ten dimensions.
    - `spearman_partial`: the same with the rank of the token count taken out of both.
    - `spearman_graded`: by the cosine with the dimension's own direction on the other folds, Σ (t − t̄) x over their
      items x of typicality t, the typical end of the pole minus its atypical end: a weaker reader.
    - `spearman_with_neutral`: that with neutrals added at typicality 0, as in the paper; part of it is moral against
      neutral.
    - `spearman_prototype`: by closeness to the cross-fitted prototype Σ t x. It orders items less well: what all items
      of the pole share says nothing about their order, and its sampling noise does (docs/design/metrics.md).
    - `asymmetry`: `spearman` of the vice minus that of the virtue, per foundation (the paper: vice is finer).
    """

    folds: int = 5
    seed: int = 0
    remove_length: bool = True
    name: str = "gradient"
    headline: str = "spearman"
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (
        StatisticSpec("spearman", "higher", "typicality", "fixed_by_fold", 0.0, "typicality", margin=0.05),
        StatisticSpec("spearman_with_neutral", "higher", "typicality", "fixed", 0.0),
        StatisticSpec("spearman_partial", "higher", "typicality", "fixed", 0.0),
        StatisticSpec("spearman_graded", "higher", "typicality", "fixed_by_fold", 0.0),
        StatisticSpec("spearman_prototype", "higher", "typicality", "fixed_by_fold", 0.0),
        StatisticSpec("asymmetry", None, "typicality", "fixed_by_fold", 0.0),
    )
    rotation_invariant: ClassVar[bool] = True
    means: str = (
        "Rank correlation, within one pole and over held-out texts, between human typicality and the score of a "
        "regularised linear reader of it, fitted on other texts. Beside it given length, with the plain direction from "
        "slight to grave, with neutral scenarios added, by closeness to the pole's prototype, and vice minus virtue."
    )
    does_not_prove: str = (
        "Much of the spread of typicality is disagreement among annotators, so the reachable maximum is well below 1; "
        "read it against the ceiling. A linear reader is the simplest way to be graded; what needs more does not show."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Statistics per dimension, per foundation (asymmetry) and overall; None where a pole has too few items."""
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`."""
        fold = folds(data, self.folds, self.seed)
        nuisance = Nuisance.of(representation, data, fold, length=self.remove_length)
        own = [Graded.of(representation, data, d, fold, nuisance) for d in range(len(DIMENSIONS))]
        everyone = [Graded.of(representation, data, d, fold, nuisance, neutral=True) for d in range(len(DIMENSIONS))]
        space = Whitened.of(representation, data, fold, length=self.remove_length)
        whitened = [space.items(data, part.items.rows) for part in own]

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            wanted = set(STATISTICS if only is None else only)
            found: Values = {}
            scores: list[dict[int, Tensor]] | None = None
            if wanted & READ:
                read = zip(own, whitened, strict=True)
                domains = [
                    Domain(items, part.typicality(variants), items.fit_weight(variants).to(variants.dtype))
                    for part, items in read
                ]
                scores = discriminant_scores(space, domains)
            for d, name in enumerate(DIMENSIONS):
                within = own[d].held_out(variants, wanted, None if scores is None else scores[d])
                found |= {(statistic, name): value for statistic, value in within.items()}
                if "spearman_with_neutral" in wanted:
                    value = everyone[d].held_out(variants, {"spearman_graded"})["spearman_graded"]
                    found["spearman_with_neutral", name] = (
                        value if own[d].has_pole else torch.full_like(value, torch.nan)
                    )
            if "asymmetry" in wanted:
                for f, name in enumerate(FOUNDATIONS):
                    virtue, vice = (found["spearman", DIMENSIONS[2 * f + pole]] for pole in (0, 1))
                    found["asymmetry", name] = vice - virtue
            for statistic in STATISTICS:
                if parts := [value for key, value in found.items() if key[0] == statistic]:
                    found[statistic, OVERALL] = mean_of_groups(parts)
            return {key: value for key, value in found.items() if key[0] in wanted}

        return Prepared(len(data), self._counts(data), run, representation.device)

    def _counts(self, data: MoralData) -> dict[tuple[str, str], tuple[int, int]]:
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        for d, name in enumerate(DIMENSIONS):
            f, pole = divmod(d, 2)
            n, neutral = int(data.items(f, pole).sum()), int(data.items(f, NEUTRAL).sum())
            counts |= {(statistic, name): (n, 0) for statistic in PER_DIMENSION}
            counts["spearman_with_neutral", name] = (n + neutral, 0)
        for f, name in enumerate(FOUNDATIONS):
            counts["asymmetry", name] = (sum(counts["spearman", DIMENSIONS[2 * f + pole]][0] for pole in (0, 1)), 0)
        for statistic in STATISTICS:
            parts = [n for (name, group), (n, _) in counts.items() if name == statistic]
            counts[statistic, OVERALL] = (sum(parts), 0)
        return counts


@dataclass(frozen=True)
class Graded:
    """The items of one dimension, with the neutral ones of its foundation or without.

    Attributes:
        items: their vectors and folds.
        data: all scenarios.
        dimension: index into `DIMENSIONS`.
    """

    items: Items
    data: MoralData
    dimension: int

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "n d"],
        data: MoralData,
        dimension: int,
        fold: np.ndarray | None = None,
        nuisance: Nuisance | None = None,
        *,
        neutral: bool = False,
    ) -> Graded:
        """Those of x."""
        f, pole = divmod(dimension, 2)
        chosen = data.items(f, pole) | data.items(f, NEUTRAL) if neutral else data.items(f, pole)
        return cls(Items.of(x, data, np.flatnonzero(chosen), fold, nuisance), data, dimension)

    @property
    def has_pole(self) -> bool:
        """Whether there is any item of the dimension itself."""
        return bool((self.data.pole[self.items.rows] != NEUTRAL).any())

    def typicality(self, variants: Variants) -> Float[Tensor, "p m"]:
        """Of each item in each version."""
        blocks = np.where(self.data.pole == NEUTRAL, -1, 2 * self.data.foundation + self.data.pole)
        return variants.moved(self.data.typicality, self.items.rows, blocks)

    def weight(self, variants: Variants) -> Float[Tensor, "w m"]:
        """How often each item counts."""
        return self.items.weight(variants)

    def closeness(self, variants: Variants) -> Float[Tensor, "b m"]:
        """Cosine of every item with the prototype of its pole, made of the items at the top of its scale; 0 where
        either vanishes."""
        top = prototype_items(self.data, *divmod(self.dimension, 2))[0].astype(np.float64)
        blocks = np.where(self.data.pole == NEUTRAL, -1, 2 * self.data.foundation + self.data.pole)
        prototype = self.items.mean(self.weight(variants) * variants.moved(top, self.items.rows, blocks)).nan_to_num()
        scale = prototype.norm(dim=1, keepdim=True) * self.items.x.norm(dim=1)
        return torch.where(scale > 0, prototype @ self.items.x.T / torch.where(scale > 0, scale, 1.0), 0.0)

    def held_out(
        self, variants: Variants, wanted: Collection[str], read: Mapping[int, Float[Tensor, "_ _"]] | None = None
    ) -> dict[str, Float[Tensor, "b"]]:
        """The correlations of `PER_DIMENSION` within these items, as wanted; NaN where typicality does not vary among
        what a fold's reader is fitted on.

        Args:
            read: held-out scores of the discriminant per fold, for what is made of them (`READ`).
        """
        typicality, weight = self.typicality(variants), self.weight(variants)
        names = [name for name in ("spearman_graded", "spearman_prototype") if name in wanted]
        if read is not None:
            names += [name for name in ("spearman", "spearman_partial") if name in wanted]
            if "asymmetry" in wanted and "spearman" not in names:
                names.append("spearman")
        along = self._along_directions(variants, typicality) if set(names) - READ else {}
        parts: dict[str, list] = {name: [] for name in names}
        known = torch.ones(variants.n, dtype=torch.bool, device=typicality.device)
        lengths = self._lengths(typicality.device)
        fit = self.items.fit_weight(variants)
        for k, test in self.items.folds:
            known = known & (self._others(fit, test).sum(dim=1) > 0) & self._varies(typicality, test)

            def ranked(values: Tensor, test: Tensor = test) -> Ranked:
                return Ranked.of(values, weight[:, test])

            human = ranked(typicality[:, test])
            scores = {name: ranked(along[name][k]) for name in along if name in names}
            if read is not None:
                scores |= dict.fromkeys(READ, ranked(read[k].nan_to_num()))
            for name in names:
                if name == "spearman_partial" and lengths is not None:
                    parts[name].append(human.partial(scores[name], ranked(lengths[:, test])))
                elif name != "spearman_partial":
                    parts[name].append(human.correlation(scores[name]))
        nothing = torch.full((variants.n,), torch.nan, device=typicality.device)
        return {
            name: torch.where(known, mean_of_folds(found), torch.nan) if found else nothing
            for name, found in parts.items()
        }

    def _along_directions(
        self, variants: Variants, typicality: Float[Tensor, "p m"]
    ) -> dict[str, dict[int, Float[Tensor, "_ _"]]]:
        """Per fold something with the order of the cosines with the graded direction, and with the prototype."""
        fit = self.items.fit_weight(variants)
        weighted, plain = (self.items.fold_sums(own.to(variants.dtype)) for own in (fit * typicality, fit))
        found: dict[str, dict[int, Tensor]] = {"spearman_graded": {}, "spearman_prototype": {}}
        for k, _ in self.items.folds:
            train, everyone = weighted.without(k), plain.without(k)
            graded = train.vector - train.count[:, None] / everyone.count[:, None] * everyone.vector
            found["spearman_graded"][k] = self._cosine_order(graded, k)
            found["spearman_prototype"][k] = self._cosine_order(train.vector, k)
        return found

    def _cosine_order(self, direction: Float[Tensor, "p d"], fold: int) -> Float[Tensor, "p k"]:
        """Something with the order of the cosines: the direction's own length is left out."""
        x = self.items.held_out(fold).to(direction)
        norm = x.norm(dim=1)
        return torch.where(norm > 0, direction @ x.T / torch.where(norm > 0, norm, 1.0), 0.0)

    def _others(self, value: Float[Tensor, "p m"], test: Tensor) -> Float[Tensor, "p _"]:
        train = torch.ones(value.shape[1], dtype=torch.bool, device=value.device)
        train[test] = False
        return value[:, train]

    def _varies(self, typicality: Float[Tensor, "p m"], test: Tensor) -> Tensor:
        part = self._others(typicality, test)
        return part.amax(dim=1) > part.amin(dim=1) if part.shape[1] else torch.zeros_like(part.sum(dim=1)).bool()

    def _lengths(self, device: torch.device) -> Tensor | None:
        length = self.data.length
        return None if length is None else torch.from_numpy(length[self.items.rows])[None].to(device)


def gradient(protocol: Protocol) -> Metric:
    """The gradient metric under a protocol (entry point)."""
    if protocol.estimators == "paper":
        return PaperGradient()
    return AuditedGradient(protocol.folds, protocol.seed, "remove_length" in protocol.preprocessing)
