"""Dense baselines from the same data: a difference of means, a random direction, and either at an edit's own norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_moral.capture import Representations
from sae_moral.data import MoralData
from sae_moral.errors import unknown
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, VICE, VIRTUE
from sae_moral.surgery import Operation


@dataclass(frozen=True, eq=False)
class Direction:
    """One vector added at every steered token.

    Attributes:
        layer: the block after which it is added.
        vector: in the units of the residual stream.
        name: what tables call it.

    Raises:
        ValueError: values that are not finite, or nothing but zeros.
    """

    layer: int
    vector: Float[Tensor, "d"]
    name: str

    def __post_init__(self) -> None:
        if not torch.isfinite(self.vector).all() or not self.vector.any():
            raise ValueError(f"the direction {self.name} is zero or not finite; expected a vector with a length")


@dataclass(frozen=True, eq=False)
class Matched:
    """A direction with, at every token, the norm that an operation's own term has there: the control for its size.

    Raises:
        ValueError: a direction and an operation of different layers.
    """

    direction: Direction
    operation: Operation

    def __post_init__(self) -> None:
        if self.direction.layer != self.operation.layer:
            raise ValueError(
                f"{self.direction.name} is of layer {self.direction.layer} and {self.operation.name} of layer "
                f"{self.operation.layer}; expected the same layer"
            )

    @property
    def layer(self) -> int:
        """The block after which it is added."""
        return self.direction.layer

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.direction.name} at the norm of {self.operation.name}"


def difference_in_means(
    representations: Representations, data: MoralData, layer: int, which: str | None = None
) -> Direction:
    """Mean vector of some items minus the mean of others (Marks & Tegmark 2023, arXiv 2310.06824).

    Args:
        which: a foundation (its virtue minus its vice items), a dimension (its items minus the foundation's others), or
            None (all virtue minus all vice items).

    Raises:
        ValueError: an unknown name, no items on one side, or representations of other scenarios.
    """
    if len(representations) != len(data):
        raise ValueError(f"{len(representations)} vectors for {len(data)} scenarios; expected one each")
    items, others = _sides(data, which)
    if not items.any() or not others.any():
        raise ValueError(
            f"{which or 'all foundations'}: {items.sum()} items against {others.sum()}; expected some on both sides"
        )
    vectors = representations[layer]
    vector = vectors[torch.from_numpy(items)].mean(dim=0) - vectors[torch.from_numpy(others)].mean(dim=0)
    return Direction(layer, vector, f"difference in means ({which or 'virtue − vice'})")


def _sides(data: MoralData, which: str | None) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    virtue, vice = data.pole == VIRTUE, data.pole == VICE
    if which is None:
        return virtue, vice
    if which in FOUNDATIONS:
        own = data.foundation == FOUNDATIONS.index(which)
        return own & virtue, own & vice
    if which in DIMENSIONS:
        slot = DIMENSIONS.index(which)
        own = data.foundation == slot // 2
        return own & (data.pole == slot % 2), own & (data.pole != slot % 2)
    raise unknown("foundation or dimension", which, [*FOUNDATIONS, *DIMENSIONS])


def random_direction(d: int, layer: int, seed: int, norm: float = 1.0) -> Direction:
    """A direction uniform on the sphere of that norm; layers have different ones from the same seed (0 or more)."""
    if not math.isfinite(norm) or norm <= 0:
        raise ValueError(f"norm {norm}; expected a number above 0")
    vector = torch.from_numpy(np.random.default_rng((layer, seed)).standard_normal(d, dtype=np.float32))
    return Direction(layer, norm * vector / vector.norm(), f"random direction {seed}")
