"""Ridge regression with nested, grouped cross-validation, for many targets and penalties at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = 10.0 ** np.arange(-2, 3.25, 0.5)
"""Grid of penalties, as multiples of the mean squared singular value of the training part's inputs."""


@dataclass(frozen=True)
class RidgeFit:
    """Attributes:
    predicted: held-out predictions, one per item and target.
    parameters: effective number of parameters per target (trace of the hat matrix), averaged over folds.
    penalty: the chosen penalty per fold and target, as a multiple (see `PENALTIES`).
    """

    predicted: Float[np.ndarray, "n k"]
    parameters: Float[np.ndarray, "k"]
    penalty: Float[np.ndarray, "folds k"]


def nested_ridge(x: Float[Tensor, "n d"], y: Float[np.ndarray, "n k"], fold: Int[np.ndarray, "n"]) -> RidgeFit:
    """Predict every item of a fold from the others, with penalties those others choose by leaving out one fold each.

    Sums of squares and products are additive over folds, so each is formed once and every training part is a
    difference of them: f(f + 1)/2 eigendecompositions for f folds, whatever the number of penalties and targets. Inputs
    wider than the sample are first rotated into its span, which leaves ridge predictions as they are.

    Args:
        x: inputs; y: targets; fold: of each item (grouped by the caller).

    Returns:
        Predictions with an intercept per training part.
    """
    # Moments about 0 lose the digits of an input far from it; float32 has too few for their differences.
    x = x.double() - x.double().mean(dim=0)
    if x.shape[1] > x.shape[0]:
        u, s, _ = torch.linalg.svd(x, full_matrices=False)
        x = u * s
    target = torch.from_numpy(y).to(x.device, x.dtype)
    parts = [torch.from_numpy(np.flatnonzero(fold == k)).to(x.device) for k in np.unique(fold)]
    moments = [_Moments.of(x[part], target[part]) for part in parts]
    total = moments[0]
    for part in moments[1:]:
        total = total + part
    f, k, grid = len(parts), y.shape[1], len(PENALTIES)
    errors = torch.zeros(f, f, grid, k, dtype=x.dtype, device=x.device)
    for i in range(f):
        for j in range(i + 1, f):
            path = (total - moments[i] - moments[j]).path() if f > 2 else None
            for test, outer in ((j, i), (i, j)):
                # With two folds nothing is left to choose a penalty from; each fold then chooses on itself.
                chosen = path or (total - moments[outer]).path()
                residual = chosen.predict(x[parts[test]]) - target[parts[test]]
                errors[outer, test] = residual.square().sum(dim=1)
    predicted = torch.zeros_like(target)
    parameters, penalty = np.zeros((f, k)), np.zeros((f, k))
    for i in range(f):
        best = errors[i].sum(dim=0).argmin(dim=0)
        path = (total - moments[i]).path()
        columns = torch.arange(k, device=x.device)
        predicted[parts[i]] = path.predict(x[parts[i]])[best, :, columns].T
        parameters[i] = path.parameters[best.cpu()].numpy()
        penalty[i] = PENALTIES[best.cpu().numpy()]
    return RidgeFit(predicted.cpu().double().numpy(), parameters.mean(axis=0), penalty)


@dataclass(frozen=True)
class _Moments:
    """n, sums and sums of products of a part of the sample."""

    n: int
    x: Float[Tensor, "d"]
    y: Float[Tensor, "k"]
    xx: Float[Tensor, "d d"]
    xy: Float[Tensor, "d k"]

    @classmethod
    def of(cls, x: Float[Tensor, "m d"], y: Float[Tensor, "m k"]) -> _Moments:
        return cls(len(x), x.sum(dim=0), y.sum(dim=0), x.T @ x, x.T @ y)

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.n + other.n, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.n - other.n, self.x - other.x, self.y - other.y, self.xx - other.xx, self.xy - other.xy)

    def path(self) -> _Path:
        mean_x, mean_y = self.x / self.n, self.y / self.n
        values, vectors = torch.linalg.eigh(self.xx - self.n * torch.outer(mean_x, mean_x))
        values = values.clamp(min=0)
        penalties = torch.from_numpy(PENALTIES).to(values) * values.mean().clamp(min=1e-300)
        shrunk = values + penalties[:, None]
        projected = vectors.T @ (self.xy - self.n * torch.outer(mean_x, mean_y))
        weights = torch.einsum("de,pe,ek->pdk", vectors, 1 / shrunk, projected)
        return _Path(mean_x, mean_y, weights, (values / shrunk).sum(dim=1).cpu())


@dataclass(frozen=True)
class _Path:
    """Ridge solutions of one training part for every penalty."""

    mean_x: Float[Tensor, "d"]
    mean_y: Float[Tensor, "k"]
    weights: Float[Tensor, "p d k"]
    parameters: Float[Tensor, "p"]

    def predict(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "p m k"]:
        return (x - self.mean_x) @ self.weights + self.mean_y
