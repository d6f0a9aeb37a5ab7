"""Dimensional indifference: can the ten human dimensions be read linearly from the representation?

`paper`: one linear layer trained by AdamW on the mean squared error, R² on a random test part (arXiv 2603.15615 §3).

`audited`: ridge regression with nested cross-validation grouped by text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS
from sae_moral.metrics.base import Metric, Prepared, Statistic, Values, Variants, folds, mean_of_groups
from sae_moral.metrics.nuisance import nuisance_design
from sae_moral.metrics.ranks import mean_of_folds, spearman
from sae_moral.metrics.ridge import NestedRidge, RidgeFit, refitted
from sae_moral.protocol import Protocol
from sae_moral.results import OVERALL, StatisticSpec

K = len(DIMENSIONS)
_VERSIONS = 256
"""Versions predicted at once: bounds the memory that their targets take."""


def r_squared(
    y: Float[Tensor, "*p n k"],
    predicted: Float[Tensor, "*q n k"],
    weight: Float[Tensor, "w n"] | None = None,
    influence: Float[Tensor, "n k"] | None = None,
) -> Float[Tensor, "*b k"]:
    """1 − SSE / SST per column, each item counted `weight` times; NaN where y does not vary.

    The mean that SST is about is not weighed: it is a prediction like the others, and fitting it to each resample would
    shift R² down by about 1/n. With influences the fits are weighed, too, to first order."""
    squares = (y - y.mean(dim=-2, keepdim=True)).square()
    total, error = (_weighed(weight, square) for square in (squares, (y - predicted).square()))
    if influence is not None and weight is not None:
        error = error + _weighed(weight - 1, influence)
    return torch.where(total > 1e-12, 1 - error / torch.where(total > 1e-12, total, 1.0), torch.nan)


def _weighed(weight: Float[Tensor, "w n"] | None, value: Float[Tensor, "*v n k"]) -> Float[Tensor, "*b k"]:
    """Sums over items, each counted `weight` times: one product where either has one row for all."""
    if weight is None:
        return value.sum(dim=-2)
    weight = weight.to(value)
    if value.dim() == 3 and len(value) == 1:
        value = value[0]
    return weight @ value if value.dim() == 2 else (weight[:, None] @ value)[:, 0]


def adjusted_r_squared(
    r2: Float[Tensor, "*b k"], n: Float[Tensor, "*w"] | int, p: Float[Tensor, "*p k"] | float
) -> Float[Tensor, "*b k"]:
    """1 − (1 − R²)(n − 1)/(n − p − 1) with p parameters; NaN where n ≤ p + 1."""
    items = torch.as_tensor(n, dtype=r2.dtype, device=r2.device)[..., None]
    room = items - torch.as_tensor(p, dtype=r2.dtype, device=r2.device) - 1
    return torch.where(room > 0, 1 - (1 - r2) * (items - 1) / torch.where(room > 0, room, 1.0), torch.nan)


def _by_dimension(name: str, values: Float[Tensor, "b k"]) -> Values:
    parts = [values[:, d] for d in range(K)]
    return {(name, OVERALL): mean_of_groups(parts)} | {
        (name, dimension): part for dimension, part in zip(DIMENSIONS, parts, strict=True)
    }


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
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (
        StatisticSpec("r2", "higher", null="labels", chance=0.0, margin=0.02),
        StatisticSpec("r2_adjusted", "higher", null="labels", chance=0.0),
    )
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
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`; weights count in the test part."""
        n, x = len(data), representation.float()
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        n_test, n_validation = round(n * self.test), round(n * self.validation)
        parts = order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test]
        enough = min(map(len, parts)) >= 2

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            r2 = torch.full((variants.n, K), torch.nan, dtype=torch.float64)
            adjusted = r2
            if enough:
                y = variants.moved(data.vector, np.arange(len(data)), data.foundation)
                predicted = torch.cat([self._probe(x, part.float(), *parts) for part in y.split(_VERSIONS)])
                weight = variants.weight[:, parts[2]]
                r2 = r_squared(y[:, parts[2]].float().double(), predicted.double(), weight)
                adjusted = adjusted_r_squared(r2, weight.sum(dim=1), float(x.shape[1]))
            found = _by_dimension("r2", r2) | _by_dimension("r2_adjusted", adjusted)
            return {key: value for key, value in found.items() if only is None or key[0] in only}

        counts = {(name, group): (n_test, 0) for name in ("r2", "r2_adjusted") for group in (OVERALL, *DIMENSIONS)}
        return Prepared(n, counts, run, representation.device)

    def _probe(
        self, x: Float[Tensor, "n d"], y: Float[Tensor, "p n k"], train: Tensor, validation: Tensor, test: Tensor
    ) -> Float[Tensor, "p test k"]:
        """Predictions of the test part by one probe per version, trained side by side: Adam scales every weight by
        itself, and the sum of their losses gives each the gradient it would have alone."""
        versions, generator = len(y), torch.Generator().manual_seed(self.seed)
        y = y.permute(1, 0, 2).reshape(len(x), -1).to(x.device)  # n (p k)
        bound = x.shape[1] ** -0.5
        weight, bias = (
            ((torch.rand(*shape, generator=generator) * 2 - 1) * bound).repeat(*(1,) * (len(shape) - 1), versions)
            for shape in ((x.shape[1], K), (K,))
        )
        weight, bias = (start.to(x.device).requires_grad_() for start in (weight, bias))
        optimiser = torch.optim.AdamW([weight, bias], lr=self.learning_rate)
        best = weight.detach().clone(), bias.detach().clone()
        best_loss = torch.full((versions,), torch.inf, device=x.device)
        waited = torch.zeros(versions, dtype=torch.long, device=x.device)

        def losses(rows: Tensor) -> Float[Tensor, "p"]:
            return (x[rows] @ weight + bias - y[rows]).square().reshape(len(rows), versions, K).mean(dim=(0, 2))

        for _ in range(self.epochs):
            shuffled = train[torch.randperm(len(train), generator=generator)]
            for batch in shuffled.split(self.batch_size):
                optimiser.zero_grad()
                losses(batch).sum().backward()
                optimiser.step()
            with torch.no_grad():
                loss = losses(validation)
            running = waited < self.patience
            better = running & (loss < best_loss)
            columns = better.repeat_interleave(K)
            for kept, now in zip(best, (weight, bias), strict=True):
                kept[..., columns] = now.detach()[..., columns]
            best_loss = torch.where(better, loss, best_loss)
            waited = torch.where(better, 0, waited + 1)
            if bool((waited >= self.patience).all()):
                break
        return (x[test] @ best[0] + best[1]).reshape(len(test), versions, K).permute(1, 0, 2)


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
    remove_length: bool = True
    name: str = "dimensional"
    headline: str = "r2"
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (
        StatisticSpec("r2", "higher", "labels", "linearised", 0.0, margin=0.02),
        StatisticSpec("r2_adjusted", "higher", "labels", "linearised", 0.0),
        StatisticSpec("spearman_valence", "higher", "labels", "fixed", 0.0, "valence"),
    )
    rotation_invariant: ClassVar[bool] = True
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
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`."""
        fold = folds(data, self.folds, self.seed)
        probe = _Probe(NestedRidge.of(representation, fold, nuisance_design(data, length=self.remove_length)), data)

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            y = variants.moved(data.vector, np.arange(len(data)), data.foundation)
            read = probe(variants, y)
            if variants.fit is not None:
                read = probe.refitted(read, y, variants.fit)
            r2 = r_squared(y, read.predicted, variants.weight, read.influence)
            adjusted = adjusted_r_squared(r2, variants.weight.sum(dim=1), read.parameters)
            found = _by_dimension("r2", r2) | _by_dimension("r2_adjusted", adjusted)
            found["spearman_valence", OVERALL] = probe.valence(y, read.predicted, variants.weight)
            return {key: value for key, value in found.items() if only is None or key[0] in only}

        return Prepared(len(data), {}, run, representation.device)


@dataclass(frozen=True)
class _Read:
    """Predictions and effective numbers of parameters per version; influences and fit of a single version."""

    predicted: Float[Tensor, "p n k"]
    parameters: Float[Tensor, "q k"]
    influence: Float[Tensor, "n k"] | None
    fit: RidgeFit | None


@dataclass
class _Probe:
    """The ridge fits of one layer. The last labels' predictions are kept: other weights do not change them."""

    ridge: NestedRidge
    data: MoralData
    _last: tuple[Variants, _Read] | None = None

    def __call__(self, variants: Variants, y: Float[Tensor, "p n k"]) -> _Read:
        last = None if self._last is None else self._last[0]
        if last is None or last.dtype != variants.dtype or not torch.equal(last.index, variants.index):
            self._last = variants, self._fit(y)
        assert self._last is not None
        return self._last[1]

    def refitted(self, read: _Read, y: Float[Tensor, "p n k"], weight: Float[Tensor, "r n"]) -> _Read:
        """With weighed fits, to first order; of one version of the labels."""
        if read.fit is None:
            raise ValueError(f"weighed fits for {len(y)} versions of the labels; expected one")
        predicted = torch.cat([refitted(self.ridge, y[0], read.fit, part) for part in weight.split(_VERSIONS)])
        return replace(read, predicted=predicted.to(y), influence=None)

    def _fit(self, y: Float[Tensor, "p n k"]) -> _Read:
        n = len(self.data)
        fits = [
            self.ridge.fit(part.permute(1, 0, 2).reshape(n, -1), influence=len(y) == 1) for part in y.split(_VERSIONS)
        ]
        predicted = torch.cat([fit.predicted.reshape(n, -1, K) for fit in fits], dim=1).permute(1, 0, 2)
        parameters = torch.from_numpy(np.concatenate([fit.parameters.reshape(-1, K) for fit in fits])).to(y)
        return _Read(predicted.to(y), parameters, fits[0].influence, fits[0] if len(y) == 1 else None)

    def valence(
        self, y: Float[Tensor, "p n k"], predicted: Float[Tensor, "q n k"], weight: Float[Tensor, "w n"]
    ) -> Float[Tensor, "b"]:
        """Spearman of predicted and human valence within folds."""
        human, read = (v[..., 0::2].sum(dim=-1) - v[..., 1::2].sum(dim=-1) for v in (y, predicted))
        parts = self.ridge.parts
        return mean_of_folds(spearman(human[:, part], read[:, part], weight[:, part]) for part in parts)


def dimensional(protocol: Protocol) -> Metric:
    """The dimensional metric under a protocol (entry point)."""
    if protocol.estimators == "paper":
        return PaperDimensional(seed=protocol.seed)
    return AuditedDimensional(protocol.folds, protocol.seed, "remove_length" in protocol.preprocessing)
