"""Nuisance: length, the share of a sink, how common the words are, and how much of vectors these explain.

`explained` is the share of the total variance of a representation x (n × d, centred) that the least-squares fit on k
nuisance features f (with an intercept) explains, adjusted for chance as a regression's R² is (Ezekiel 1930; for many
columns at once this is the adjusted R² of redundancy analysis, Peres-Neto et al. 2006):

    R² = ‖P x‖² / ‖x‖²        adjusted = 1 − (1 − R²)(n − 1)/(n − r − 1)

P projects onto the centred features and r ≤ k is their rank. Features that explain nothing get 0 on average, and may
get a little below it: the number is not clipped, so that its mean over layers stays honest.

Families of features overlap (a long scenario has many tokens and many characters), so their shares do not add up to
that of all.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.data import MoralData, word_frequency

FEATURES: dict[str, tuple[str, ...]] = {
    "length": ("tokens", "log tokens", "characters"),
    "sink": ("1 / tokens",),
    "word frequency": ("mean log frequency",),
}
"""Families of nuisance features and their columns, in the order of `nuisance_features`. `sink`: the share that the
first position, whose norm is far above the rest in many layers, has in a mean over n tokens is 1/n."""


def nuisance_features(data: MoralData) -> Float[Tensor, "n k"]:
    """The columns of `FEATURES`, each with mean 0 and variance 1 over the records; one that does not vary is 0.

    The columns are blind to the labels; word frequencies are those of the distinct texts (`word_frequency`).

    Raises:
        ValueError: no token counts; a capture fills them in.
    """
    if data.length is None:
        raise ValueError("no token counts in these data (length is None); pass data that a capture has filled in")
    tokens = data.length.astype(np.float64)
    columns = {
        "tokens": tokens,
        "log tokens": np.log(tokens),
        "characters": np.array([len(text) for text in data.text], dtype=np.float64),
        "1 / tokens": 1 / tokens,
        "mean log frequency": word_frequency(data),
    }
    chosen = np.stack([columns[name] for names in FEATURES.values() for name in names], axis=1)
    return standardised(torch.from_numpy(chosen))


def explained(x: Float[Tensor, "n d"], features: Float[Tensor, "n k"]) -> float:
    """Adjusted share of the total variance of x that a linear fit on the features explains (see above).

    Computed in float64, on the device of x. Features may be collinear or constant: only their rank counts. A
    representation that does not vary has nothing to explain: 0.

    Raises:
        ValueError: not one row of features per row of x, values that are not finite, or no more than k + 1 rows.
    """
    n, k = features.shape
    if len(x) != n:
        raise ValueError(f"{n} rows of features for {len(x)} vectors; expected one each")
    if n <= k + 1:
        raise ValueError(f"{n} scenarios and {k} features; expected at least {k + 2} scenarios, or fewer features")
    if not (torch.isfinite(x).all() and torch.isfinite(features).all()):
        raise ValueError("values that are not finite in the vectors or the features")
    x, centred = x.double(), features.to(x.device, torch.float64)
    rounding = 1e-24 * float(x.square().sum())
    x = x - x.mean(dim=0)
    total = float(x.square().sum())
    if total <= rounding:
        return 0.0
    basis = _basis(standardised(centred))
    r2 = float((basis.T @ x).square().sum()) / total
    return 1 - (1 - r2) * (n - 1) / (n - basis.shape[1] - 1)


def explained_by_family(x: Float[Tensor, "n d"], data: MoralData) -> dict[str, float]:
    """`explained` by each family of `FEATURES` alone, and by `all` of them together.

    Raises:
        ValueError: as `nuisance_features` and `explained`.
    """
    features = nuisance_features(data)
    parts = features.split([len(names) for names in FEATURES.values()], dim=1)
    shares = {family: explained(x, part) for family, part in zip(FEATURES, parts, strict=True)}
    return {**shares, "all": explained(x, features)}


def standardised(columns: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Each column with mean 0 and variance 1; one that does not vary is 0."""
    centred = columns - columns.mean(dim=0)
    scale = centred.square().mean(dim=0).sqrt()
    varies = scale > 1e-12 * columns.abs().amax(dim=0)
    return torch.where(varies, centred / torch.where(varies, scale, 1.0), 0.0)


def _basis(columns: Float[Tensor, "n k"]) -> Float[Tensor, "n r"]:
    """Orthonormal columns with the same span; far from collinear ones the normal equations would lose digits."""
    basis, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    return basis[:, singular > 1e-8 * singular.amax().clamp(min=1e-300)] if len(singular) else basis
