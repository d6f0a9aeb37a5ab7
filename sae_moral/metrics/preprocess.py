"""Preprocessing of one layer's vectors, and what it says about them.

All steps are blind to the moral labels, so they are fitted on all scenarios: they cannot carry a label into a held-out
item, and under permuted labels they stay what they are. Everything that sees a label is cross-fitted instead.

Length is the exception: where labels go with it, residuals of held-out items mirror those of the others, so the audited
readers fit it again on each of their training parts (`sae_moral.metrics.nuisance`), which undoes what this step took
from held-out items. For clusterings and metrics of your own, this step is what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.errors import unknown
from sae_moral.metrics.nuisance import length_design

EXACT = 6_000
"""Up to so many rows `within_span` keeps every axis (docs/design/controls.md)."""
LEADING = 2_000
"""Of more, so many leading ones."""


def centre(x: Float[Tensor, "n d"], length: Int[np.ndarray, "n"]) -> Float[Tensor, "n d"]:
    """Subtract the mean over the sample (arXiv 2603.15615)."""
    return x - x.mean(dim=0)


def standardise(x: Float[Tensor, "n d"], length: Int[np.ndarray, "n"]) -> Float[Tensor, "n d"]:
    """Each dimension to mean 0 and variance 1; one that does not vary becomes 0. A few rogue dimensions otherwise own
    every cosine (Timkey & van Schijndel 2021)."""
    centred = x - x.mean(dim=0)
    scale = centred.square().mean(dim=0).sqrt()
    varies = scale > 1e-7 * x.abs().amax(dim=0)
    return torch.where(varies, centred / torch.where(varies, scale, 1.0), 0.0)


def remove_length(x: Float[Tensor, "n d"], length: Int[np.ndarray, "n"]) -> Float[Tensor, "n d"]:
    """Residual of each dimension's least-squares fit on length (see `length_design`)."""
    return x - length_fit(x, length)


def length_fit(x: Float[Tensor, "n d"], length: Int[np.ndarray, "n"]) -> Float[Tensor, "n d"]:
    """The part of x that length predicts by least squares, without the mean."""
    design = torch.from_numpy(length_design(length)).to(x.device, x.dtype)
    return design @ (design.T @ x) - x.mean(dim=0)


STEPS: dict[str, Callable[[Float[Tensor, "n d"], Int[np.ndarray, "n"]], Float[Tensor, "n d"]]] = {
    "centre": centre,
    "standardise": standardise,
    "remove_length": remove_length,
}
"""Steps by name; `length` is the number of tokens a vector is the mean of."""


def preprocess(
    x: Float[Tensor, "n d"], length: Int[np.ndarray, "n"], steps: Sequence[str]
) -> tuple[Float[Tensor, "n d"], dict[str, float]]:
    """Apply the steps in order, in float64, and say what length and the first principal component hold.

    Returns:
        The vectors, and `pc1_share` (the first principal component's share of the variance as captured),
        `pc1_length_r` (correlation, without sign, of its scores with one over the length) and `length_share` (share
        of the variance that length explains: of the captured vectors, or of those that `remove_length` is given).

    Raises:
        ValueError: unknown step.
    """
    x = x.double()
    facts = {"length_share": _length_share(x, length), **_first_component(x, length)}
    for step in steps:
        if step not in STEPS:
            raise unknown("preprocessing step", step, STEPS)
        if step == "remove_length":
            facts["length_share"] = _length_share(x, length)
        x = STEPS[step](x, length)
    return x, facts


def within_span(x: Any) -> Float[np.ndarray, "n r"]:
    """Coordinates in a basis of the rows' span: the same inner products between items in at most n numbers.

    For what is wider than the sample, such as the latents of an SAE or n-grams; what a rotation cannot change stays as
    it is, up to the square root of rounding. The basis is that of a pivoted Cholesky factorisation of the inner
    products. Of more than `EXACT` rows the `LEADING` axes have to do (docs/design/controls.md).

    Args:
        x: [n, d], a NumPy array or one of SciPy's sparse matrices.
    """
    if x.shape[0] > EXACT:
        return leading_axes(x, LEADING)
    from scipy.linalg.lapack import dpstrf  # pyright: ignore[reportAttributeAccessIssue]

    products: Any = x @ x.T
    factor, pivot, rank, _ = dpstrf(products if isinstance(products, np.ndarray) else products.toarray(), lower=1)
    kept = max(rank, 1)  # of rows that are all zero one column of zeros
    vectors = np.empty((len(factor), kept))
    vectors[pivot - 1] = np.tril(factor)[:, :kept]
    return vectors


def leading_axes(x: Any, axes: int) -> Float[np.ndarray, "n k"]:
    """Scores on the leading principal axes (not centred), without those that hold nothing; of more than `EXACT` rows by
    randomised iteration. `x` as for `within_span`."""
    n = x.shape[0]
    if n > EXACT:
        from sklearn.decomposition import TruncatedSVD

        return TruncatedSVD(min(axes, x.shape[1]), random_state=0).fit_transform(x)
    from scipy.linalg import eigh

    products: Any = x @ x.T
    dense = products if isinstance(products, np.ndarray) else products.toarray()
    values, vectors = eigh(dense, subset_by_index=[max(0, n - axes), n - 1])
    holds = values > 1e-10 * values[-1]
    return (vectors[:, holds] * np.sqrt(values[holds]))[:, ::-1].copy()


def _length_share(x: Float[Tensor, "n d"], length: Int[np.ndarray, "n"]) -> float:
    total = (x - x.mean(dim=0)).square().sum()
    return float(length_fit(x, length).square().sum() / total) if total > _rounding(x) else 0.0


def _first_component(x: Float[Tensor, "n d"], length: Int[np.ndarray, "n"]) -> dict[str, float]:
    rounding, x = _rounding(x), x - x.mean(dim=0)
    total = float(x.square().sum())
    if total <= rounding:
        return {"pc1_share": 0.0, "pc1_length_r": 0.0}
    value, scores = _first_scores(x)
    inverse = torch.from_numpy(1 / length).to(x.device)
    inverse = inverse - inverse.mean()
    scale = float(scores.norm() * inverse.norm())
    return {
        "pc1_share": value / total,
        "pc1_length_r": float((scores @ inverse).abs()) / scale if scale > 1e-12 else 0.0,
    }


def _first_scores(x: Float[Tensor, "n d"]) -> tuple[float, Float[Tensor, "n"]]:
    """The largest eigenvalue of xᵀx, and the scores of its direction up to a factor, by Lanczos iteration: all of its
    eigenvectors would take d³."""
    n, d = x.shape
    if d == 1:
        return float(x.square().sum()), x[:, 0]
    from scipy.sparse.linalg import LinearOperator, eigsh

    wide = d > n

    def times(v: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
        given = torch.from_numpy(v.ravel()).to(x.device)
        return (x @ (x.T @ given) if wide else x.T @ (x @ given)).cpu().numpy()

    m = min(n, d)
    start = np.random.default_rng(0).normal(size=m)
    values, vectors = eigsh(LinearOperator((m, m), times, dtype=np.float64), k=1, v0=start)  # pyright: ignore[reportArgumentType, reportCallIssue]
    first = torch.from_numpy(vectors[:, 0].copy()).to(x.device)
    return float(values[0]), first if wide else x @ first


def _rounding(x: Float[Tensor, "n d"]) -> float:
    """Sum of squares that a representation without any variation may still show about its mean."""
    return 1e-24 * float(x.square().sum())
