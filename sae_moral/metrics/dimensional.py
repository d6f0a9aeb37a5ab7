"""Dimensional indifference: can the ten human dimensions be read linearly from the representation?

`paper`: one linear layer trained by AdamW on the mean squared error, R² on a random test part (arXiv 2603.15615 §3).

`audited`: ridge regression with nested cross-validation grouped by text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS
from sae_moral.metrics.base import Metric, Statistic
from sae_moral.metrics.folds import folds, spearman, within_folds
from sae_moral.metrics.ridge import nested_ridge
from sae_moral.protocol import Protocol


def r_squared(y: Float[np.ndarray, "n k"], predicted: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "k"]:
    """1 − SSE / SST per column; NaN where y does not vary."""
    total = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    error = ((y - predicted) ** 2).sum(axis=0)
    varies = total > 1e-12
    return np.where(varies, 1 - error / np.where(varies, total, 1), np.nan)


def adjusted_r_squared(r2: Float[np.ndarray, "k"], n: int, p: Float[np.ndarray, "k"] | float) -> Float[np.ndarray, "k"]:
    """1 − (1 − R²)(n − 1)/(n − p − 1) with p parameters; NaN where n ≤ p + 1."""
    room = n - np.asarray(p, dtype=np.float64) - 1
    return np.where(room > 0, 1 - (1 - r2) * (n - 1) / np.where(room > 0, room, 1), np.nan)


def _rows(name: str, values: Float[np.ndarray, "10"], n: int) -> list[Statistic]:
    known = values[~np.isnan(values)]
    overall = Statistic(name, float(known.mean()) if len(known) else None, n=n, n_dropped=0)
    return [overall] + [
        Statistic(name, None if np.isnan(value) else float(value), dimension, n, 0)
        for dimension, value in zip(DIMENSIONS, values, strict=True)
    ]


@dataclass(frozen=True)
class PaperDimensional:
    """R² of a linear probe on the test part, per dimension and as their mean; and `r2_adjusted` with the textbook
    formula 1 − (1 − R²)(n − 1)/(n − d − 1) over the n test items and d inputs, None where n ≤ d + 1 (applied to small
    n − d it is what gives the paper its values down to −50,000)."""

    learning_rate: float = 1e-3
    batch_size: int = 512
    epochs: int = 100
    patience: int = 10
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    name: str = "dimensional"
    headline: str = "r2"
    chance: float | None = 0.0
    higher_is: str = "less indifferent"
    raw: bool = True
    means: str = (
        "Share of the variance of the ten human dimensions that a linear probe explains on a random test part. The "
        "paper finds at most 0.26."
    )
    does_not_prove: str = (
        "Equal texts fall on both sides of the split, and the probe's short training without scaling or "
        "regularisation makes its R² a measure of how easily AdamW fits that layer: strongly negative values are "
        "an artefact of optimisation, not a finding about the model."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """`r2` and `r2_adjusted` per dimension and overall."""
        n = len(data)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        n_test, n_validation = round(n * self.test), round(n * self.validation)
        parts = order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test]
        if min(map(len, parts)) < 2:
            none = np.full(len(DIMENSIONS), np.nan)
            return _rows("r2", none, n_test) + _rows("r2_adjusted", none, n_test)
        y = torch.from_numpy(data.vector).float().to(representation.device)
        predicted = self._probe(representation.float(), y, *parts)
        r2 = r_squared(y[parts[2]].cpu().double().numpy(), predicted.cpu().double().numpy())
        adjusted = adjusted_r_squared(r2, n_test, float(representation.shape[1]))
        return _rows("r2", r2, n_test) + _rows("r2_adjusted", adjusted, n_test)

    def _probe(
        self, x: Float[Tensor, "n d"], y: Float[Tensor, "n 10"], train: Tensor, validation: Tensor, test: Tensor
    ) -> Float[Tensor, "test 10"]:
        generator = torch.Generator().manual_seed(self.seed)
        bound = x.shape[1] ** -0.5
        weight, bias = (
            ((torch.rand(*shape, generator=generator) * 2 - 1) * bound).to(x.device).requires_grad_()
            for shape in ((x.shape[1], y.shape[1]), (y.shape[1],))
        )
        optimiser = torch.optim.AdamW([weight, bias], lr=self.learning_rate)
        best, best_loss, waited = (weight.detach().clone(), bias.detach().clone()), float("inf"), 0
        for _ in range(self.epochs):
            shuffled = train[torch.randperm(len(train), generator=generator)]
            for batch in shuffled.split(self.batch_size):
                optimiser.zero_grad()
                torch.nn.functional.mse_loss(x[batch] @ weight + bias, y[batch]).backward()
                optimiser.step()
            with torch.no_grad():
                loss = float(torch.nn.functional.mse_loss(x[validation] @ weight + bias, y[validation]))
            if loss < best_loss:
                best, best_loss, waited = (weight.detach().clone(), bias.detach().clone()), loss, 0
            elif (waited := waited + 1) >= self.patience:
                break
        return x[test] @ best[0] + best[1]


@dataclass(frozen=True)
class AuditedDimensional:
    """Ridge regression to the ten dimensions; the penalty of each dimension is chosen by the other folds among
    themselves (nested), and every prediction is of a text that neither fit nor penalty has seen.

    - `r2` (headline): 1 − SSE / SST over all held-out predictions, per dimension, and the mean of the ten. Negative
      where there is nothing to predict: it is what a reader gets, not a fit.
    - `r2_adjusted`: 1 − (1 − R²)(n − 1)/(n − p − 1), where p is the effective number of parameters of the ridge fit,
      the trace of its hat matrix. A held-out R² needs no such correction; it is printed because the paper prints one.
    - `spearman_valence`: rank correlation of predicted and human valence (virtue minus vice strengths, summed over
      foundations) within folds: how well good and bad are ordered, whatever the scale.
    """

    folds: int = 5
    seed: int = 0
    name: str = "dimensional"
    headline: str = "r2"
    chance: float | None = 0.0
    higher_is: str = "less indifferent"
    means: str = (
        "Share of the variance of the ten human dimensions that ridge regression predicts for held-out texts (mean "
        "of the ten). Beside it the rank correlation of predicted with human valence."
    )
    does_not_prove: str = (
        "That the model represents morality rather than words that go with it: compare with the bag-of-words "
        "baseline, whose share a model must exceed. A probe shows what can be read, not what the model uses."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """`r2`, `r2_adjusted` per dimension and overall, and `spearman_valence`."""
        fold = folds(data, self.folds, self.seed)
        fit = nested_ridge(representation, data.vector, fold)
        r2 = r_squared(data.vector, fit.predicted)
        statistics = _rows("r2", r2, len(data))
        statistics += _rows("r2_adjusted", adjusted_r_squared(r2, len(data), fit.parameters), len(data))
        return [*statistics, self._valence(data.vector, fit.predicted, fold)]

    def _valence(
        self, y: Float[np.ndarray, "n 10"], predicted: Float[np.ndarray, "n 10"], fold: Int[np.ndarray, "n"]
    ) -> Statistic:
        human, read = (v[:, 0::2].sum(axis=1) - v[:, 1::2].sum(axis=1) for v in (y, predicted))
        value = within_folds(lambda index: spearman(human[index], read[index]), fold)
        return Statistic("spearman_valence", value, n=len(y), n_dropped=0)


def dimensional(protocol: Protocol) -> Metric:
    """The dimensional metric under a protocol (entry point)."""
    if protocol.estimators == "paper":
        return PaperDimensional(seed=protocol.seed)
    return AuditedDimensional(protocol.folds, protocol.seed)
