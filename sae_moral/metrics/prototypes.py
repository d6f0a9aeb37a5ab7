"""Prototypes: the mean vector of a foundation's pole, as the paper takes it and cross-fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.data import MoralData


def prototype_items(data: MoralData, foundation: int, pole: int) -> tuple[Bool[np.ndarray, "n"], float]:
    """Which items the paper's prototype is the mean of: those of typicality 1.0, or, where a source has none, those at
    the top of its scale for that dimension. Returns them and that typicality (0 when the pole has no item)."""
    items = data.items(foundation, pole)
    if not items.any():
        return items, 0.0
    top = float(data.typicality[items].max())
    return items & np.isclose(data.typicality, top, rtol=0, atol=1e-6), top


def cosine(x: Float[Tensor, "n d"], y: Float[Tensor, "d"]) -> Float[Tensor, "n"]:
    """Cosine of each row with y; 0 where either is the zero vector."""
    scale = x.norm(dim=1) * y.norm()
    return torch.where(scale > 0, (x @ y) / torch.where(scale > 0, scale, 1.0), 0.0)


@dataclass(frozen=True)
class GroupSums:
    """Sums of the items of one foundation and pole, whole and per group of equal text.

    Attributes:
        total: sum of all items.
        per_group: sums by group.
        group: the groups' numbers, ascending.
        size: items per group.
    """

    total: Float[Tensor, "d"]
    per_group: Float[Tensor, "groups d"]
    group: Int[np.ndarray, "groups"]
    size: Int[np.ndarray, "groups"]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"], items: Bool[np.ndarray, "n"], group: Int[np.ndarray, "n"]) -> GroupSums:
        """Sums over the items of x."""
        index = np.flatnonzero(items)
        names, inverse, size = np.unique(group[index], return_inverse=True, return_counts=True)
        per_group = torch.zeros(len(names), x.shape[1], dtype=x.dtype, device=x.device)
        per_group.index_add_(0, torch.from_numpy(inverse).to(x.device), x[torch.from_numpy(index).to(x.device)])
        return cls(per_group.sum(dim=0), per_group, names, size)

    @property
    def n(self) -> int:
        """Number of items."""
        return int(self.size.sum())

    @property
    def mean(self) -> Float[Tensor, "d"]:
        """The prototype."""
        return self.total / self.n

    def product(self, other: GroupSums) -> float | None:
        """Mean inner product over all pairs of one item of each set with different texts.

        With `other` itself this estimates the squared norm of the true prototype, with another set the inner product
        of the two true prototypes, both without the bias that sampling noise gives to the norm of a mean and to
        prototypes that share texts: the limit of averaging over all splits into disjoint halves.
        """
        _, mine, theirs = np.intersect1d(self.group, other.group, return_indices=True)
        pairs = self.n * other.n - int(self.size[mine] @ other.size[theirs])
        if pairs == 0:
            return None
        total = self.total @ other.total - (self.per_group[mine] * other.per_group[theirs]).sum()
        return float(total) / pairs
