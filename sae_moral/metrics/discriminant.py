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
from sae_moral.metrics.prototypes import FoldSums, Items

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
    sums = [(one.items.fold_sums(one.fit * one.label), one.items.fold_sums(one.fit)) for one in domains]
    folds = sorted({k for one in domains for k, _ in one.items.folds})
    precisions = torch.stack([space.precision(float(penalty)) for penalty in PENALTIES])
    gain: dict[int, Tensor] = {}
    for left_out in combinations(folds, 2) if len(folds) > 2 else ():
        own, shared = _covariances(sums, left_out)
        for outer, inner in (left_out, left_out[::-1]):
            added = _gain(domains, own, shared, precisions, inner, outer)
            gain[outer] = gain[outer] + added if outer in gain else added
    # Of two folds none is left to choose by: the strongest shared reader at the middle of the grid.
    found: list[dict[int, Float[Tensor, "b _"]]] = [{} for _ in domains]
    for k in folds:
        own, shared = _covariances(sums, (k,))
        chosen = gain[k].argmax(dim=0) if k in gain else None
        penalty = len(PENALTIES) // 2 if chosen is None else chosen // len(SHARED)
        share = 1.0 if chosen is None else torch.tensor(SHARED).to(space.x)[chosen % len(SHARED)][:, None]
        precision = precisions[penalty]
        for i, one in enumerate(domains):
            if k in dict(one.items.folds):
                direction = ((1 - share) * own[i] + share * shared) * precision
                found[i][k] = direction @ one.items.held_out(k).T
    return found


def _covariances(
    sums: Sequence[tuple[FoldSums, FoldSums]], left_out: tuple[int, ...]
) -> tuple[list[Float[Tensor, "b r"]], Float[Tensor, "b r"]]:
    """Covariance of vectors and label over each domain's training items, and over all of them together. NaN for a
    domain that has no training item or whose label does not vary there; the others go on without it."""
    own, total, count = [], 0.0, 0.0
    for weighted, plain in sums:
        label, every = weighted.without(*left_out), plain.without(*left_out)
        mean = label.count / every.count
        covariance = label.vector - mean[:, None] * every.vector
        own.append(covariance / every.count[:, None])
        known = every.count > 0
        total = total + torch.where(known[:, None], covariance, 0.0)
        count = count + torch.where(known, every.count, 0.0)
    assert isinstance(total, Tensor) and isinstance(count, Tensor)
    return own, total / count[:, None]


def _gain(
    domains: Sequence[Domain],
    own: Sequence[Float[Tensor, "b r"]],
    shared: Float[Tensor, "b r"],
    precisions: Float[Tensor, "g r"],
    inner: int,
    outer: int,
) -> Float[Tensor, "gs b"]:
    """How well the scores of an inner fold go with the label, per penalty and share: correlations within domains,
    weighed by items."""
    total = 0.0
    for one, direction in zip(domains, own, strict=True):
        part = dict(one.items.folds).get(inner)
        if part is None:
            continue
        # Single precision will do to choose a penalty by, and only for that.
        x = one.items.held_out(inner, outer).float()
        weight, label = one.fit[:, part].float(), one.label[:, part].float()
        scaled = (x[None] * precisions.float()[:, None]).reshape(-1, x.shape[1]).T
        ways = [(way.nan_to_num().float() @ scaled).reshape(len(way), -1, len(x)) for way in (direction, shared)]
        total = total + _correlations(ways, label, weight) * weight.sum(dim=1)
    if not isinstance(total, Tensor):
        return torch.zeros(len(precisions) * len(SHARED), len(shared), device=shared.device)
    return total


def _correlations(
    scores: Sequence[Float[Tensor, "_ g m"]], label: Float[Tensor, "p m"], weight: Float[Tensor, "r m"]
) -> Float[Tensor, "gs b"]:
    """Correlation with the label of every mixture of two scores, per penalty and share; 0 where either does not
    vary."""
    weight = weight[:, None]
    n = weight.sum(dim=-1, keepdim=True).clamp(min=1e-9)

    def centred(v: Float[Tensor, "v _ m"]) -> Float[Tensor, "b _ m"]:
        return v - (weight * v).sum(dim=-1, keepdim=True) / n

    y, a, b = centred(label[:, None]), centred(scores[0]), centred(scores[1])
    heavy = weight * y
    yy, ya, yb = ((heavy * v).sum(dim=-1) for v in (y, a, b))
    aa, ab, bb = ((weight * u * v).sum(dim=-1) for u, v in ((a, a), (a, b), (b, b)))
    share = torch.tensor(SHARED, device=y.device)
    own = 1 - share
    mixed = [v[..., None] for v in (yy, ya, yb, aa, ab, bb)]  # versions, penalties, shares
    spread = (own**2 * mixed[3] + 2 * share * own * mixed[4] + share**2 * mixed[5]) * mixed[0]
    together = own * mixed[1] + share * mixed[2]
    found = torch.where(spread > 1e-30, together / spread.clamp(min=1e-30).sqrt(), 0.0)
    return found.flatten(start_dim=1).T
