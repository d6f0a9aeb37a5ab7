"""The regularised linear reader of the audited metrics, the same for a model and for every baseline.

Of a label y within domains (poles within foundations, typicality within dimensions) the direction of domain D is

    w_D = (S + λ s̄ I)⁻¹ ((1 − ρ) c_D + ρ c)

where c_D is the covariance of the vectors with y over D's training items, c that of all domains together, S the
covariance of all vectors, and s̄ the median of its eigenvalues above 0, which a few huge ones do not move. S is blind to
the labels, so one decomposition serves every fold and every permutation. With ρ = 1 this is a ridge regression shared
by the domains (a discriminant, for two poles); with ρ = 0 each domain has its own; for λ → ∞ it is the line between
prototypes. Each fold's λ and ρ are those with which the other folds, one left out at a time, correlate best with y
within domains (docs/design/metrics.md has what was compared).

Friedman 1989 (regularised discriminant analysis); Stone 1974 (nested choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.metrics.nuisance import Nuisance
from sae_moral.metrics.prototypes import Items

PENALTIES = 10.0 ** np.arange(-1, 2.25, 0.5)
"""Values of λ."""
SHARED = (0.0, 0.5, 1.0)
"""Values of ρ."""
_NUMBERS = 40_000_000
"""Numbers held at once for the directions of several versions."""


@dataclass(frozen=True, eq=False)
class Whitened:
    """A representation in the principal axes of its own covariance.

    Attributes:
        x: its coordinates, with nothing taken out.
        spectrum: variance along each axis of what is left when the nuisance is taken out.
        fold: of each scenario.
        nuisance: what readers may not use, in these coordinates.
    """

    x: Float[Tensor, "n r"]
    spectrum: Float[Tensor, "r"]
    fold: Int[np.ndarray, "n"]
    nuisance: Nuisance

    @classmethod
    def of(cls, x: Float[Tensor, "n d"], data: MoralData, fold: Int[np.ndarray, "n"], *, length: bool) -> Whitened:
        """Of vectors, with the fold of each scenario; `length`: whether readers may not use it."""
        x = x.double() - x.double().mean(dim=0)
        if x.shape[1] > x.shape[0]:
            u, s, _ = torch.linalg.svd(x, full_matrices=False)
            x = u * s
        design = Nuisance.of(x, data, fold, length=length)
        rest = x - design.design @ design.without() if design.design.shape[1] else x
        values, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))
        turned = x @ vectors
        return cls(turned, values.clamp(min=0), fold, Nuisance.of(turned, data, fold, length=length))

    def scaled(self, penalty: float) -> Float[Tensor, "n r"]:
        """Coordinates in which inner products are those of (S + λ s̄ I)⁻¹."""
        return self.x * self.precision(penalty).sqrt()

    def precision(self, penalty: float) -> Float[Tensor, "r"]:
        """Eigenvalues of (S + λ s̄ I)⁻¹; 0 along axes without variation, which have no part in s̄ either."""
        varies = self.spectrum > 1e-12 * self.spectrum.amax()
        if not varies.any():
            return torch.zeros_like(self.spectrum)
        return torch.where(varies, 1 / (self.spectrum + penalty * self.spectrum[varies].median()), 0.0)

    def items(self, data: MoralData, rows: Int[np.ndarray, "m"]) -> Items:
        """Those at `rows`."""
        return Items.of(self.x, data, rows, self.fold, self.nuisance)


@dataclass(frozen=True)
class Domain:
    """One domain's items with their labels and weights in the fits, versions in the first dimension."""

    items: Items
    label: Float[Tensor, "p m"]
    fit: Float[Tensor, "r m"]


def discriminant_scores(space: Whitened, domains: Sequence[Domain]) -> list[dict[int, Float[Tensor, "b _"]]]:
    """Held-out scores per domain and fold (see the module); NaN where a training part has no variation of the label.

    Versions are done in parts, so that memory is bounded.
    """
    some = [one for one in domains if len(one.items.rows)]
    if len(some) < len(domains):  # a domain without items takes no part
        scores = iter(discriminant_scores(space, some) if some else [])
        return [next(scores) if len(one.items.rows) else {} for one in domains]
    b = max((max(len(one.label), len(one.fit)) for one in domains), default=1)
    size = max(1, _NUMBERS // (len(domains) * 8 * max(1, space.x.shape[1])))
    parts = [_scores(space, [_some(one, start, size) for one in domains]) for start in range(0, b, size)]
    if len(parts) == 1:
        return parts[0]
    return [{k: torch.cat([part[i][k] for part in parts]) for k in own} for i, own in enumerate(parts[0])]


def _some(domain: Domain, start: int, size: int) -> Domain:
    label, fit = (part if len(part) == 1 else part[start : start + size] for part in (domain.label, domain.fit))
    return Domain(domain.items, label, fit)


def _scores(space: Whitened, domains: Sequence[Domain]) -> list[dict[int, Float[Tensor, "b _"]]]:
    folds = sorted({k for one in domains for k, _ in one.items.folds})
    sums, held = _Sums.of(space, domains, folds), {k: _HeldOut.of(space, domains, k) for k in folds}
    precisions = torch.stack([space.precision(float(penalty)) for penalty in PENALTIES])
    gain: dict[int, Tensor] = {}
    for left_out in combinations(folds, 2) if len(folds) > 2 else ():
        own, shared = sums.covariances(left_out)
        coefficients = space.nuisance.without(*left_out)
        for outer, inner in (left_out, left_out[::-1]):
            added = held[inner].gain(own, shared, precisions, coefficients)
            gain[outer] = gain[outer] + added if outer in gain else added
    # Of two folds none is left to choose by: the strongest shared reader at the middle of the grid.
    found: list[dict[int, Float[Tensor, "b _"]]] = [{} for _ in domains]
    for k in folds:
        own, shared = sums.covariances((k,))
        chosen = gain[k].argmax(dim=0) if k in gain else None
        penalty = len(PENALTIES) // 2 if chosen is None else chosen // len(SHARED)
        share = 1.0 if chosen is None else torch.tensor(SHARED).to(shared)[chosen % len(SHARED)][:, None]
        precision = precisions[penalty].to(shared)
        for i, one in enumerate(domains):
            if k in dict(one.items.folds):
                direction = ((1 - share) * own[i] + share * shared) * precision
                found[i][k] = direction @ one.items.held_out(k).to(direction).T
    return found


@dataclass(frozen=True)
class _Sums:
    """Sums over the items of every domain, fold by fold, of vectors, nuisance columns and 1, by weight.

    Attributes:
        weighted: times the label.
        plain: without it.
    """

    space: Whitened
    weighted: dict[int, Float[Tensor, "k b c"]]
    plain: dict[int, Float[Tensor, "k r c"]]

    @classmethod
    def of(cls, space: Whitened, domains: Sequence[Domain], folds: Sequence[int]) -> _Sums:
        found: list[dict[int, Tensor]] = []
        for coefficient in ([one.fit * one.label for one in domains], [one.fit for one in domains]):
            sums = [one.items.fold_sums(own) for one, own in zip(domains, coefficient, strict=True)]
            nothing = torch.zeros_like(torch.cat([next(iter(sums[0].vectors.values())), coefficient[0][:, :1]], dim=1))
            by_fold = {
                k: torch.stack(
                    [
                        torch.cat([one.vectors[k], one.counts[k][:, None]], dim=1) if k in one.vectors else nothing
                        for one in sums
                    ]
                )
                for k in folds
            }
            found.append(by_fold)
        return cls(space, *found)

    def covariances(self, left_out: tuple[int, ...]) -> tuple[Float[Tensor, "k b r"], Float[Tensor, "b r"]]:
        """Covariance of vectors and label over each domain's training items, and over all of them together. NaN for a
        domain that has no training item; the others go on without it."""
        (label, labels), (every, count) = (self._without(part, left_out) for part in (self.weighted, self.plain))
        known = count > 0.5
        covariance = label - (labels / count)[..., None] * every
        together = torch.where(known[..., None], covariance, 0.0).sum(dim=0)
        own = torch.where(known[..., None], covariance / count[..., None], torch.nan)
        return own, together / torch.where(known, count, 0.0).sum(dim=0)[:, None]

    def _without(
        self, part: dict[int, Float[Tensor, "k b c"]], left_out: tuple[int, ...]
    ) -> tuple[Float[Tensor, "k b r"], Float[Tensor, "k b"]]:
        # Not the total less what is left out: rounding would carry labels of that fold into its scores.
        rest = torch.stack([own for k, own in part.items() if k not in left_out]).sum(dim=0)
        width, fitted = self.space.x.shape[1], self.space.nuisance.without(*left_out).to(rest)
        return rest[..., :width] - rest[..., width:-1] @ fitted, rest[..., -1]


@dataclass(frozen=True)
class _HeldOut:
    """One fold's items of every domain, as many for each: those that are none have no weight."""

    x: Float[Tensor, "k m r"]
    design: Float[Tensor, "k m q"]
    label: Float[Tensor, "k p 1 m"]
    weight: Float[Tensor, "k f 1 m"]

    @classmethod
    def of(cls, space: Whitened, domains: Sequence[Domain], fold: int) -> _HeldOut:
        parts = [dict(one.items.folds).get(fold, torch.zeros(0, dtype=torch.long)).cpu() for one in domains]
        most = max(map(len, parts))
        rows = torch.zeros(len(domains), most, dtype=torch.long)
        label, weight = (
            space.x.new_zeros(len(domains), max(len(part) for part in values), 1, most)
            for values in ([one.label for one in domains], [one.fit for one in domains])
        )
        for i, (one, part) in enumerate(zip(domains, parts, strict=True)):
            rows[i, : len(part)] = torch.from_numpy(one.items.rows)[part]
            here = part.to(space.x.device)
            label[i, :, 0, : len(part)] = one.label[:, here]
            weight[i, :, 0, : len(part)] = one.fit[:, here]
        rows = rows.to(space.x.device)
        return cls(space.x[rows], space.nuisance.design[rows], label.float(), weight.float())

    def gain(
        self,
        own: Float[Tensor, "k b r"],
        shared: Float[Tensor, "b r"],
        precisions: Float[Tensor, "g r"],
        coefficients: Float[Tensor, "q r"],
    ) -> Float[Tensor, "gs b"]:
        """How well these items' scores go with the label, per penalty and share: correlations within domains, weighed
        by items. In single precision, which will do to choose a penalty by, and only for that."""
        x = (self.x - self.design @ coefficients).float()
        scaled = (x[:, None] * precisions.float()[:, None]).flatten(1, 2).transpose(1, 2)
        ways = [(way.nan_to_num().float() @ scaled).unflatten(-1, (len(precisions), -1)) for way in (own, shared[None])]
        mass = self.weight.sum(dim=-1)[..., None]
        return (_correlations(ways, self.label, self.weight) * mass).sum(dim=0).flatten(start_dim=1).T


def _correlations(
    scores: Sequence[Float[Tensor, "k _ g m"]], label: Float[Tensor, "k p 1 m"], weight: Float[Tensor, "k f 1 m"]
) -> Float[Tensor, "k b g s"]:
    """Correlation with the label of every mixture of two scores, per penalty and share; 0 where either does not
    vary."""
    n = weight.sum(dim=-1, keepdim=True).clamp(min=1e-9)

    def centred(v: Float[Tensor, "k v _ m"]) -> Float[Tensor, "k b _ m"]:
        return v - (weight * v).sum(dim=-1, keepdim=True) / n

    y, a, b = centred(label), centred(scores[0]), centred(scores[1])
    heavy = weight * y
    yy, ya, yb = ((heavy * v).sum(dim=-1)[..., None] for v in (y, a, b))
    aa, ab, bb = ((weight * u * v).sum(dim=-1)[..., None] for u, v in ((a, a), (a, b), (b, b)))
    share = torch.tensor(SHARED, device=y.device)
    own = 1 - share
    spread = (own**2 * aa + 2 * share * own * ab + share**2 * bb) * yy
    together = own * ya + share * yb
    return torch.where(spread > 1e-30, together / spread.clamp(min=1e-30).sqrt(), 0.0)
