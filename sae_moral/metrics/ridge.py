"""Ridge regression with nested, grouped cross-validation, for many targets and penalties at once.

Columns that a reader may not use (an intercept among them) are regressed out of the inputs on each training part, and
predictions hold none of them but the mean of the target (Frisch & Waugh 1933; `sae_moral.metrics.nuisance`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.metrics.nuisance import least_squares

PENALTIES = 10.0 ** np.arange(-2, 3.25, 0.5)
"""Grid of penalties, as multiples of the mean squared singular value of the training part's inputs."""


_TARGETS = 512
"""Targets predicted at once while penalties are chosen."""
_NOTHING = 1e-30
"""Variation below which there is none; its inverse is a number in single precision, too."""


@dataclass(frozen=True)
class RidgeFit:
    """Attributes:
    predicted: held-out predictions, one per item and target.
    parameters: effective number of parameters per target (trace of the hat matrix), averaged over folds.
    penalty: the chosen penalty per fold and target, as a multiple (see `PENALTIES`).
    influence: derivative of the held-out squared error, summed over all folds, by the weight that an item has in the
        fits it takes part in, penalties given.
    """

    predicted: Float[Tensor, "n k"]
    parameters: Float[np.ndarray, "k"]
    penalty: Float[np.ndarray, "folds k"]
    influence: Float[Tensor, "n k"] | None = None


@dataclass(frozen=True)
class NestedRidge:
    """Ridge regression that predicts every item of a fold from the others, with penalties those others choose by
    leaving out one fold each. Everything that does not depend on targets is done once, so targets may be many.

    Sums of squares and products are additive over folds, so each is formed once and every training part is a
    difference of them: f(f + 1)/2 eigendecompositions for f folds, whatever the number of penalties and targets. Inputs
    wider than the sample are first rotated into its span, which leaves ridge predictions as they are.
    """

    parts: list[Int[Tensor, "_"]]
    x: list[Float[Tensor, "_ d"]]
    design: list[Float[Tensor, "_ q"]]
    inner: dict[tuple[int, int], _Path]
    outer: list[_Path]

    @classmethod
    def of(
        cls, x: Float[Tensor, "n d"], fold: Int[np.ndarray, "n"], design: Float[np.ndarray, "n q"] | None = None
    ) -> NestedRidge:
        """For inputs, the fold of each item (grouped by the caller), and the columns that are not to be used, a
        constant among them (by default that alone)."""
        # Moments about 0 lose the digits of an input far from it; float32 has too few for their differences.
        x = x.double() - x.double().mean(dim=0)
        if x.shape[1] > x.shape[0]:
            u, s, _ = torch.linalg.svd(x, full_matrices=False)
            x = u * s
        parts = [torch.from_numpy(np.flatnonzero(fold == k)).to(x.device) for k in np.unique(fold)]
        inputs = [x[part] for part in parts]
        columns = np.ones((len(x), 1)) if design is None or not design.shape[1] else design
        designs = [torch.from_numpy(columns).to(x)[part] for part in parts]
        moments = [_Moments.of(part, own) for part, own in zip(inputs, designs, strict=True)]
        total = moments[0]
        for part in moments[1:]:
            total = total + part
        f = len(parts)
        pairs = [(i, j) for i in range(f) for j in range(i + 1, f)] if f > 2 else []
        inner = {(i, j): (total - moments[i] - moments[j]).path((i, j), inputs, designs) for i, j in pairs}
        outer = [(total - moment).path((i,), inputs, designs) for i, moment in enumerate(moments)]
        return cls(parts, inputs, designs, inner, outer)

    def fit(self, y: Float[Tensor, "n k"], *, influence: bool = False) -> RidgeFit:
        """Held-out predictions of k targets, with an intercept per training part; the influences if asked for. Targets
        in single precision are predicted in it."""
        if y.dtype == torch.float32 != self.x[0].dtype:
            return self.single.fit(y, influence=influence)
        y = y.to(self.x[0])
        targets = [y[part] for part in self.parts]
        sums = [target.sum(dim=0) for target in targets]
        with_design = [own.T @ target for own, target in zip(self.design, targets, strict=True)]
        products = [x.T @ target for x, target in zip(self.x, targets, strict=True)]
        f, k, grid = len(self.parts), y.shape[1], len(PENALTIES)

        def solve(path: _Path) -> _Targets:
            rest = [i for i in range(f) if i not in path.left_out]
            own, along, with_inputs = (
                torch.stack([part[i] for i in rest]).sum(dim=0) for part in (sums, with_design, products)
            )
            return path.targets(own, along, with_inputs)

        errors = torch.zeros(f, grid, k, dtype=y.dtype, device=y.device)
        for i in range(f):
            for j in range(i + 1, f):
                shared = solve(self.inner[i, j]) if f > 2 else None
                for test, outer in ((j, i), (i, j)):
                    # With two folds nothing is left to choose a penalty from; each fold then chooses on itself.
                    solved = shared or solve(self.outer[outer])
                    errors[outer] += solved.errors(test, targets[test])
        predicted, influences = torch.zeros_like(y), torch.zeros_like(y)
        parameters, penalty = np.zeros((f, k)), np.zeros((f, k))
        for i, path in enumerate(self.outer):
            best, solved = errors[i].argmin(dim=0), solve(path)
            predicted[self.parts[i]] = solved.predict_best(i, best)
            parameters[i] = path.parameters[best].cpu().numpy()
            penalty[i] = PENALTIES[best.cpu().numpy()]
            if influence:
                error = targets[i] - predicted[self.parts[i]]
                for j in range(f):
                    if j != i:
                        left = path.residual(self.x[j], self.design[j])
                        influences[self.parts[j]] += solved.influence(i, best, error, left, targets[j])
        return RidgeFit(predicted, parameters.mean(axis=0), penalty, influences if influence else None)

    @cached_property
    def single(self) -> NestedRidge:
        """In single precision."""
        inner, outer = ({pair: path.single() for pair, path in self.inner.items()}, [p.single() for p in self.outer])
        return NestedRidge(self.parts, [x.float() for x in self.x], [own.float() for own in self.design], inner, outer)


def refitted(ridge: NestedRidge, y: Float[Tensor, "n k"], fit: RidgeFit, weight: Float[Tensor, "b n"]) -> Tensor:
    """Held-out predictions [b, n, k] of fits in which items are weighed, to first order and with the penalties of `fit`
    (see `_Targets.influence`)."""
    ridge = ridge.single if y.dtype == torch.float32 else ridge
    y, weight = y.to(ridge.x[0]), weight.to(ridge.x[0])
    b, k, found = len(weight), y.shape[1], fit.predicted.to(y)[None].repeat(len(weight), 1, 1)
    for i, path in enumerate(ridge.outer):
        rest = [j for j in range(len(ridge.parts)) if j != i]
        rows = torch.cat([ridge.parts[j] for j in rest])
        centred, own = torch.cat([path.residual(ridge.x[j], ridge.design[j]) for j in rest]), y[rows]
        shrunk = path.shrunk[torch.from_numpy(np.searchsorted(PENALTIES, fit.penalty[i])).to(y.device)].T
        mean = own.mean(dim=0)
        residual = own - mean - centred @ (path.vectors @ (shrunk * (path.vectors.T @ (centred.T @ (own - mean)))))
        push = ((weight[:, rows].T - 1)[:, :, None] * residual[:, None, :]).reshape(len(rows), b * k)
        moved = (shrunk[:, None, :] * (path.vectors.T @ (centred.T @ push)).reshape(-1, b, k)).reshape(-1, b * k)
        change = path.rotated[i] @ moved + push.sum(dim=0) / path.n
        found[:, ridge.parts[i]] += change.reshape(-1, b, k).permute(1, 0, 2)
    return found


def nested_ridge(x: Float[Tensor, "n d"], y: Float[np.ndarray, "n k"], fold: Int[np.ndarray, "n"]) -> RidgeFit:
    """`NestedRidge` of one set of targets."""
    return NestedRidge.of(x, fold).fit(torch.from_numpy(y))


def leave_one_out(
    x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m"]
) -> tuple[Float[np.ndarray, "d"], float, float]:
    """Coefficients, intercept and penalty of a ridge regression of few items: of `PENALTIES` (multiples of the mean
    squared singular value) the one with the smallest leave-one-out error."""
    from sklearn.linear_model import RidgeCV

    centred = x - x.mean(axis=0)
    squares = (centred**2).sum(axis=0)
    mean = float(squares.sum()) / max(1, min(len(x) - 1, np.count_nonzero(squares)))
    if mean <= 1e-24 * max(1.0, float((x**2).sum())):  # nothing varies: there is nothing to read
        return np.zeros(x.shape[1]), float(y.mean()), float(PENALTIES[0])
    fitted = RidgeCV(alphas=PENALTIES * mean).fit(x, y)
    return np.asarray(fitted.coef_, dtype=np.float64), float(fitted.intercept_), cast(float, fitted.alpha_) / mean


@dataclass(frozen=True)
class _Moments:
    """n, and sums of products of inputs x and design columns l of a part of the sample."""

    n: int
    xx: Float[Tensor, "d d"]
    lx: Float[Tensor, "q d"]
    ll: Float[Tensor, "q q"]

    @classmethod
    def of(cls, x: Float[Tensor, "m d"], design: Float[Tensor, "m q"]) -> _Moments:
        return cls(len(x), x.T @ x, design.T @ x, design.T @ design)

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.n + other.n, self.xx + other.xx, self.lx + other.lx, self.ll + other.ll)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.n - other.n, self.xx - other.xx, self.lx - other.lx, self.ll - other.ll)

    def path(
        self, left_out: tuple[int, ...], inputs: list[Float[Tensor, "_ d"]], designs: list[Float[Tensor, "_ q"]]
    ) -> _Path:
        fit, d = least_squares(self.ll, self.lx), len(self.xx)
        if self.n < d:
            # The same directions from inner products of the items, of which there are fewer; the others have no length.
            rest = [i for i in range(len(inputs)) if i not in left_out]
            rows = torch.cat([inputs[i] - designs[i] @ fit for i in rest])
            values, turned = torch.linalg.eigh(rows @ rows.T)
            holds = values > 1e-12 * values[-1].clamp(min=1e-300)
            values, vectors = values[holds], rows.T @ (turned[:, holds] / values[holds].sqrt())
        else:
            values, vectors = torch.linalg.eigh(self.xx - self.lx.T @ fit)
            values = values.clamp(min=0)
        penalties = torch.from_numpy(PENALTIES).to(fit) * (values.sum() / d).clamp(min=_NOTHING)
        shrunk = 1 / (values + penalties[:, None])
        read = left_out if len(inputs) > 2 else (0, 1)  # of two folds, each chooses its penalty on itself
        rotated = {i: (inputs[i] - designs[i] @ fit) @ vectors for i in read}
        return _Path(left_out, self.n, fit, vectors, shrunk, rotated, (values * shrunk).sum(dim=1))


@dataclass(frozen=True)
class _Path:
    """Ridge regressions of one training part for every penalty, before any target is known.

    Attributes:
        left_out: the folds that are not in the training part.
        n: its items.
        fit: coefficients of the inputs on the design's columns.
        vectors: eigenvectors of what is left of the inputs, those without length left out where items are fewer.
        shrunk: one over (eigenvalue + penalty).
        rotated: left-out items in the eigenvectors' coordinates.
        parameters: effective number of parameters (trace of the hat matrix).
    """

    left_out: tuple[int, ...]
    n: int
    fit: Float[Tensor, "q d"]
    vectors: Float[Tensor, "d r"]
    shrunk: Float[Tensor, "p r"]
    rotated: dict[int, Float[Tensor, "_ r"]]
    parameters: Float[Tensor, "p"]

    def single(self) -> _Path:
        """In single precision."""
        rotated = {fold: items.float() for fold, items in self.rotated.items()}
        fit, vectors, shrunk = self.fit.float(), self.vectors.float(), self.shrunk.float()
        return replace(self, fit=fit, vectors=vectors, shrunk=shrunk, rotated=rotated)

    def residual(self, x: Float[Tensor, "m d"], design: Float[Tensor, "m q"]) -> Float[Tensor, "m d"]:
        """Inputs as this part's regressions see them."""
        return x - design @ self.fit

    def targets(
        self, sums: Float[Tensor, "k"], along: Float[Tensor, "q k"], products: Float[Tensor, "d k"]
    ) -> _Targets:
        """The same, for targets with these sums and sums of products with the design and the inputs."""
        return _Targets(self, sums / self.n, self.vectors.T @ (products - self.fit.T @ along))


@dataclass(frozen=True)
class _Targets:
    """The same, for given targets."""

    path: _Path
    mean: Float[Tensor, "k"]
    projected: Float[Tensor, "r k"]

    def errors(self, fold: int, y: Float[Tensor, "m k"]) -> Float[Tensor, "p k"]:
        """Squared errors of a left-out fold's items by penalty, less those of the mean. In single precision: they only
        choose a penalty, and without what all penalties share that loses little."""
        rotated, projected, shrunk = self.path.rotated[fold].float(), self.projected.float(), self.path.shrunk.float()
        # Σ p̂² − 2 Σ p̂ (y − ȳ). The second sum is one product for all penalties: predictions are passed over once, and
        # in parts that stay in the processor's cache.
        together = shrunk @ (projected * (rotated.T @ (y - self.mean).float()))
        parts = [part.contiguous() for part in projected.split(_TARGETS, dim=1)]
        squares = [torch.stack([((rotated * own) @ part).square_().sum(dim=0) for own in shrunk]) for part in parts]
        return torch.cat(squares, dim=1) - 2 * together

    def predict_best(self, fold: int, penalty: Int[Tensor, "k"]) -> Float[Tensor, "m k"]:
        """A left-out fold's items with a penalty per target."""
        return self.path.rotated[fold] @ (self.path.shrunk[penalty].T * self.projected) + self.mean

    def influence(
        self,
        fold: int,
        penalty: Int[Tensor, "k"],
        error: Float[Tensor, "m k"],
        x: Float[Tensor, "t d"],
        y: Float[Tensor, "t k"],
    ) -> Float[Tensor, "t k"]:
        """What training items (x as these regressions see them, y) do to a left-out fold's squared error by the weight
        they have in the fit.

        Item j moves the prediction for x* by (x̃*ᵀ (X̃ᵀX̃ + λ)⁻¹ x̃_j + 1/n) (y_j − ŷ_j), with its training residual.
        """
        path, shrunk = self.path, self.path.shrunk[penalty].T
        residual = y - self.mean - x @ (path.vectors @ (shrunk * self.projected))
        pull = path.vectors @ (shrunk * (path.rotated[fold].T @ error))
        return -2 * residual * (x @ pull + error.sum(dim=0) / path.n)
