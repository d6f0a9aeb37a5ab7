"""Dense readers: latents that are opened, so that they read every token and not a few.

A latent of an SAE is active on a few tokens in a hundred, and what few tokens say of a scenario is less than what all
of them say: a gate that is silent below one standard deviation moves a model half as far as one that is not, at equal
damage (docs/design/surgery.md). So before training, in every dimension, the latents whose loss costs the reconstruction
least become readers of the stream,

    a_k(h) = σ_k · ReLU(±(w·h + b))        + for virtues, − for vices

with w, b the ridge regression of the signed typicality on the vectors of single tokens (`ridge_of_tokens`). Virtues
less vices are then w·h + b itself. A threshold of such a latent (`jumprelu`) becomes 0. σ_k gives it the size that it
had, or as much of it as the tolerance of the reconstruction error allows.

What it does not prove. That a latent was about morality before: it gets a new encoder. Random latents become the same
readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.foundations import VIRTUE
from sae_moral.surgery.operation import Rows
from sae_moral.surgery.part import Frozen, Part
from sae_moral.surgery.vectors import pooled

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge, as a multiple of the number of prompts."""
PARTS = 5
"""One in so many prompts chooses the penalty."""


def ridge_of_tokens(
    x: Float[Tensor, "m d"], count: Int[Tensor, "t"], y: Float[Tensor, "t"]
) -> tuple[Float[Tensor, "d"], float]:
    """Weights and bias of the ridge regression of each prompt's y on its tokens' vectors, standardised; every prompt
    counts once. The penalty is the one with which the mean reading of left-out prompts correlates most with y.

    Args:
        x: prompt by prompt.
        count: vectors of each prompt.
        y: of the prompts.

    Raises:
        ValueError: a y that does not vary.
    """
    from sklearn.linear_model import Ridge

    if not len(y) or bool((y == y[0]).all()):
        raise ValueError(f"{len(y)} prompts with one label; expected labels that vary")
    of = torch.repeat_interleave(torch.arange(len(count)), count).numpy()
    z, weight, target = x.double().cpu().numpy(), 1 / count.double().numpy()[of], y.double().cpu().numpy()
    mean = np.average(z, axis=0, weights=weight)
    deviation = np.sqrt(np.average((z - mean) ** 2, axis=0, weights=weight))
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12 * np.abs(z).max())
    z = (z - mean) * scale

    def fitted(penalty: float, prompts: np.ndarray) -> tuple[np.ndarray, float]:
        rows = prompts[of]
        model = Ridge(alpha=penalty * prompts.sum(), solver="cholesky")
        model.fit(z[rows], target[of[rows]], sample_weight=weight[rows])
        return model.coef_, float(model.intercept_)

    left_out = np.arange(len(count)) % PARTS == PARTS - 1
    every, best = np.ones(len(count), dtype=bool), PENALTIES[-1]
    if left_out.any() and np.ptp(target[left_out]) > 0 and np.ptp(target[~left_out]) > 0:

        def agreement(penalty: float) -> float:
            read = z @ fitted(penalty, ~left_out)[0]
            means = np.bincount(of, weights=read * weight)[left_out]
            return float(np.corrcoef(means, target[left_out])[0, 1]) if np.ptp(means) > 0 else -1.0

        best = max(PENALTIES, key=agreement)
    coefficients, intercept = fitted(best, every)
    w = coefficients * scale
    return torch.from_numpy(w).to(x), intercept - float(mean @ w)


def loss_without(part: Part, frozen: Frozen) -> Float[Tensor, "k"]:
    """By how much the mean squared reconstruction error grows where one latent falls silent."""
    moved = part(part.start, frozen)
    wrote, error = frozen.undo * moved.activation, frozen.target - moved.made
    decoder = part.start["W_dec"]
    grown = wrote.square() * decoder.square().sum(dim=1) + 2 * wrote * (error @ decoder.T)
    return grown.mean(dim=0) / decoder.shape[1]


def cheapest(
    loss: Float[Tensor, "k"], columns: Mapping[int, Int[Tensor, "_"]], each: int, limit: float
) -> dict[int, float]:
    """{column: sign} of the latents to open: in every dimension the `each` that cost least, the cheapest dimensions
    first while all of them together cost at most `limit`; none without both poles.

    Args:
        columns: for each dimension's index its latents, among the k. One that is in dimensions of both poles is left
            out.
    """
    signs: dict[int, set[int]] = {}
    for d, members in columns.items():
        for column in members.tolist():
            signs.setdefault(column, set()).add(1 if d % 2 == VIRTUE else -1)
    wanted = set[int]()
    for members in columns.values():
        own = [column for column in members.tolist() if len(signs[column]) == 1]
        wanted |= {*sorted(own, key=lambda column: float(loss[column]))[:each]}
    chosen, spent = dict[int, float](), 0.0
    for column in sorted(wanted, key=lambda column: float(loss[column])):
        spent += max(0.0, float(loss[column]))
        if spent <= limit:
            chosen[column] = float(*signs[column])
    return chosen if len({*chosen.values()}) == 2 else {}


def as_readers(
    part: Part, rows: Rows, chosen: Mapping[int, float], weight: Float[Tensor, "d"], bias: float, size: Sequence[float]
) -> Rows:
    """Rows with ReLU(sign · (weight·x + bias)) · size in the place of these latents' activations."""
    made = {name: value.clone() for name, value in rows.items()}
    for (column, sign), factor in zip(chosen.items(), size, strict=True):
        gain = sign * factor
        inner = gain / float(part.gain[column])
        made["W_enc"][:, column] = inner * weight
        for name in ("b_enc", "b_gate"):
            if name in made:
                made[name][column] = inner * bias
        if "b_mag" in made:
            made["b_mag"][column] = gain * bias
        if "threshold" in made:
            made["threshold"][column] = 0.0
    return made


def mean_reading(
    x: Float[Tensor, "m d"], count: Int[Tensor, "t"], weight: Float[Tensor, "d"], bias: float, sign: float
) -> Float[Tensor, "t"]:
    """The mean of ReLU(sign · (weight·x + bias)) over each prompt's vectors."""
    return pooled((sign * (x @ weight + bias)).relu()[:, None], count)[:, 0]
