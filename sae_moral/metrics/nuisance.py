"""What readers may not use: columns that go with the labels, regressed out of the vectors on each training part.

A reader of fold k sees x − L B_k, where L holds the columns (length in a flexible basis, and `MoralData.nuisance`) and
B_k is their least-squares fit to the vectors of the other folds. What it is fitted on is then orthogonal to L, and so
are the weights of its training items: a layer with nothing but L in it reads at chance (Frisch & Waugh 1933). A fit on
all scenarios would not do: residuals of held-out items mirror those of the others, and it reads below chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData

BIN = 20
"""Scenarios per bin of lengths, at least; a length that so many have is a bin of its own."""
HELD = 0.05
"""Columns are orthonormal over all scenarios. A combination of them of which a training part holds less than this share
(a length that only held-out scenarios have) is not fitted: its coefficient would be noise of any size."""


def length_design(length: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n k"]:
    """Orthonormal columns for what length can do: 1, n, log n and 1/n of the token counts n (linear effects, and the
    1/n that the share of an attention sink in a mean follows), and an indicator of each bin of `length_bins`, for
    everything else. Fewer where lengths take few values."""
    n = length.astype(np.float64)
    smooth = np.stack([np.ones_like(n), n, np.log(n), 1 / n], axis=1)
    columns = np.concatenate([smooth, np.eye(length_bins(length).max() + 1)[length_bins(length)]], axis=1)
    columns[:, 1:] = (columns[:, 1:] - columns[:, 1:].mean(axis=0)) / np.maximum(columns[:, 1:].std(axis=0), 1e-12)
    basis, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return basis[:, singular > 1e-8 * singular[0]]


def length_bins(length: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Bin of each scenario: neighbouring lengths go together until `BIN` scenarios have one of them."""
    values, counts = np.unique(length, return_counts=True)
    bins, current, held = np.zeros(len(values), dtype=np.int64), 0, 0
    for i, count in enumerate(counts):
        bins[i], held = current, held + count
        if held >= BIN and counts[i + 1 :].sum() >= BIN:
            current, held = current + 1, 0
    return bins[np.searchsorted(values, length)]


def nuisance_design(data: MoralData, *, length: bool) -> Float[np.ndarray, "n q"]:
    """Orthonormal columns of what readers may not use, a constant among them; none where there is nothing.

    Args:
        data: scenarios; `data.nuisance` is part of it.
        length: whether length is, too (where it is known).
    """
    parts = [length_design(data.length)] if length and data.length is not None else []
    if data.nuisance is not None:
        own = data.nuisance.astype(np.float64)
        own = (own - own.mean(axis=0)) / np.maximum(own.std(axis=0), 1e-12)
        parts += [np.ones((len(data), 1)), own]
    if not parts:
        return np.zeros((len(data), 0))
    basis, singular, _ = np.linalg.svd(np.concatenate(parts, axis=1), full_matrices=False)
    return basis[:, singular > 1e-8 * singular[0]]


def least_squares(squares: Float[Tensor, "q q"], products: Float[Tensor, "q d"]) -> Float[Tensor, "q d"]:
    """Coefficients on columns with these sums of squares and products; 0 along what they hardly hold (`HELD`)."""
    return torch.linalg.pinv(squares, hermitian=True, rtol=HELD) @ products


@dataclass(frozen=True, eq=False)
class Nuisance:
    """The columns, and their fits to one representation by training part.

    Attributes:
        design: the columns.
        by_fold: per fold, products of the columns with themselves and with the vectors.
    """

    design: Float[Tensor, "n q"]
    by_fold: dict[int, tuple[Float[Tensor, "q q"], Float[Tensor, "q d"]]]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"], data: MoralData, fold: Int[np.ndarray, "n"], *, length: bool) -> Nuisance:
        """Of a representation's vectors, with the fold of each scenario."""
        design = torch.from_numpy(nuisance_design(data, length=length)).to(x.device)
        parts = {int(k): torch.from_numpy(np.flatnonzero(fold == k)).to(x.device) for k in np.unique(fold)}
        own = {k: (design[part], x[part].double()) for k, part in parts.items()}
        return cls(design, {k: (columns.T @ columns, columns.T @ vectors) for k, (columns, vectors) in own.items()})

    def without(self, *left_out: int) -> Float[Tensor, "q d"]:
        """Least-squares coefficients of the vectors of the other folds; the shortest where columns are collinear."""
        key = tuple(sorted(left_out))
        if key not in self._fitted:
            self._fitted[key] = self._fit(key)
        return self._fitted[key]

    def _fit(self, left_out: tuple[int, ...]) -> Float[Tensor, "q d"]:
        rest = [part for k, part in self.by_fold.items() if k not in left_out]
        zero = next(iter(self.by_fold.values()))
        if not rest or not zero[0].numel():
            return torch.zeros_like(zero[1])
        squares, products = (torch.stack(part).sum(dim=0) for part in zip(*rest, strict=True))
        return least_squares(squares, products)

    @cached_property
    def _fitted(self) -> dict[tuple[int, ...], Float[Tensor, "q d"]]:
        return {}
