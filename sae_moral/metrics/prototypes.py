"""Prototypes: weighted means of items, held out by folds, and inner products of them that no text has with itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.metrics.base import Variants
from sae_moral.metrics.nuisance import Nuisance


def prototype_items(data: MoralData, foundation: int, pole: int) -> tuple[Bool[np.ndarray, "n"], float]:
    """Which items the paper's prototype is the mean of: those of typicality 1.0, or, where a source has none, those at
    the top of its scale for that dimension. Returns them and that typicality (0 when the pole has no item)."""
    items = data.items(foundation, pole)
    if not items.any():
        return items, 0.0
    top = float(data.typicality[items].max())
    return items & np.isclose(data.typicality, top, rtol=0, atol=1e-6), top


@dataclass(frozen=True, eq=False)
class Items:
    """Some of the scenarios: what a statistic is about.

    Attributes:
        x: their vectors.
        rows: which scenarios they are.
        group: of equal text.
        folds: (fold, positions of its items), where there are folds.
        nuisance: what is taken out of them on each training part; None for nothing.
    """

    x: Float[Tensor, "m d"]
    rows: Int[np.ndarray, "m"]
    group: Int[np.ndarray, "m"]
    folds: list[tuple[int, Int[Tensor, "_"]]]
    nuisance: Nuisance | None = None

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "n d"],
        data: MoralData,
        rows: Int[np.ndarray, "m"],
        fold: Int[np.ndarray, "n"] | None = None,
        nuisance: Nuisance | None = None,
    ) -> Items:
        """Those at `rows`, in float64; the nuisance is that of x."""
        own = np.zeros(0, dtype=np.int64) if fold is None else fold[rows]
        parts = [(int(k), torch.from_numpy(np.flatnonzero(own == k)).to(x.device)) for k in np.unique(own)]
        return cls(x[torch.from_numpy(rows).to(x.device)].double(), rows, data.group[rows], parts, nuisance)

    def weight(self, variants: Variants) -> Float[Tensor, "w m"]:
        """How often each item counts."""
        return variants.weight[:, torch.from_numpy(self.rows).to(variants.weight.device)]

    def fit_weight(self, variants: Variants) -> Float[Tensor, "r m"]:
        """How often each item counts in what is fitted."""
        if variants.fit is None:
            return torch.ones(1, len(self.rows), dtype=torch.float64, device=self.x.device)
        return variants.fit[:, torch.from_numpy(self.rows).to(variants.fit.device)]

    def mean(self, coefficient: Float[Tensor, "b m"]) -> Float[Tensor, "b d"]:
        """Weighted means: one prototype per version; NaN where the coefficients add up to nothing."""
        return coefficient @ self.x.to(coefficient) / coefficient.sum(dim=1, keepdim=True)

    def fold_sums(self, coefficient: Float[Tensor, "b m"]) -> FoldSums:
        """Weighted sums, per fold, in the precision of the coefficients."""
        columns = self._columns.to(coefficient)
        return FoldSums(
            {k: coefficient[:, part] @ columns[part] for k, part in self.folds},
            {k: coefficient[:, part].sum(dim=1) for k, part in self.folds},
            self.x.shape[1],
            self.nuisance,
        )

    def held_out(self, fold: int, *left_out: int) -> Float[Tensor, "_ d"]:
        """A fold's items as readers fitted without it (and without other folds, if given) see them."""
        columns, d = self._columns[dict(self.folds)[fold]], self.x.shape[1]
        if self.nuisance is None:
            return columns
        return columns[:, :d] - columns[:, d:] @ self.nuisance.without(fold, *left_out)

    @cached_property
    def _columns(self) -> Float[Tensor, "m dq"]:
        """The vectors, and the columns of the nuisance beside them."""
        if self.nuisance is None:
            return self.x
        return torch.cat([self.x, self.nuisance.design[torch.from_numpy(self.rows).to(self.x.device)]], dim=1)

    @cached_property
    def _same_text(self) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"], Float[Tensor, "p"]]:
        """All ordered pairs of items with one text, an item with itself included, and their inner products."""
        order = np.argsort(self.group, kind="stable")
        ends = np.flatnonzero(np.diff(self.group[order])) + 1
        runs = np.split(order, ends)
        first = np.concatenate([np.repeat(run, len(run)) for run in runs])
        second = np.concatenate([np.tile(run, len(run)) for run in runs])
        i, j = (torch.from_numpy(part).to(self.x.device) for part in (first, second))
        parts = zip(i.split(4096), j.split(4096), strict=True)  # bounds the copies of vectors
        return i, j, torch.cat([(self.x[a] * self.x[b]).sum(dim=1) for a, b in parts])

    def product(self, a: Float[Tensor, "b m"], b: Float[Tensor, "b m"]) -> Float[Tensor, "b"]:
        """Mean inner product over all pairs of different texts, one item weighed by a, the other by b; NaN where there
        is no such pair.

        With b = a this estimates the squared norm of the true prototype, else the inner product of two true prototypes,
        both without the bias that sampling noise gives to the norm of a mean and to prototypes that share texts: the
        limit of averaging over all splits into disjoint halves.
        """
        i, j, products = self._same_text
        shared, x = a[:, i] * b[:, j], self.x.to(a)
        total = ((a @ x) * (b @ x)).sum(dim=1) - shared @ products.to(a)
        pairs = a.sum(dim=1) * b.sum(dim=1) - shared.sum(dim=1)
        return torch.where(pairs > 0.5, total / pairs, torch.nan)


@dataclass(frozen=True)
class FoldSums:
    """Weighted sums of vectors (and of nuisance columns beside them), and of the weights, per fold."""

    vectors: dict[int, Float[Tensor, "b dq"]]
    counts: dict[int, Float[Tensor, "b"]]
    width: int
    nuisance: Nuisance | None = None

    def without(self, *left_out: int) -> Sums:
        """Of the other folds, with what the nuisance predicts there taken out."""
        others = [k for k in self.vectors if k not in left_out]
        if not others:
            some = next(iter(self.vectors.values()))
            return Sums(torch.zeros_like(some[:, : self.width]), torch.zeros_like(some[:, 0]))
        columns, counts = (torch.stack([part[k] for k in others]).sum(dim=0) for part in (self.vectors, self.counts))
        vectors = columns[:, : self.width]
        if self.nuisance is not None:
            vectors = vectors - columns[:, self.width :] @ self.nuisance.without(*left_out).to(columns)
        return Sums(vectors, counts)


@dataclass(frozen=True)
class Sums:
    """A weighted sum of vectors, and the sum of the weights, per version."""

    vector: Float[Tensor, "b d"]
    count: Float[Tensor, "b"]

    @property
    def mean(self) -> Float[Tensor, "b d"]:
        """The prototype; NaN where the weights add up to nothing."""
        return self.vector / self.count[:, None]
