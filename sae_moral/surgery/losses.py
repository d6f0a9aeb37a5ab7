"""The six terms of the surgery's loss, each a pure function of activations and labels (arXiv 2603.15615).

The paper's text leaves some of it open; its form here follows the published summary: `polarity`, `prototype_product`,
`alignment_sigmoid` on raw activations with absolute margins. Our default takes activations in units of each latent's
own size, so that a margin means the same for a latent that reaches 0.01 and for one that reaches 50, and replaces two
forms that cannot be satisfied: a sigmoid of non-negative activations is at least ½, so that most typicalities are out
of reach (`alignment` regresses on them directly); and a product with the difference of typicalities asks for a margin
of tied pairs, too, which no activations can give (`prototype` leaves ties out, and asks for more where more differs).

A mean over no item is 0, with no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.foundations import VICE, VIRTUE

Scalar = Float[Tensor, ""]


def reconstruction(target: Float[Tensor, "m d"], made: Float[Tensor, "m d"], unit: float = 1.0) -> Scalar:
    """Mean squared error over all numbers, divided by `unit` (1: the paper's; the error before surgery: ours)."""
    return (target - made).square().mean() / unit


def sparsity(activation: Float[Tensor, "m k"]) -> Scalar:
    """L1 of each vector's activations, mean over vectors."""
    return activation.abs().sum(dim=1).mean()


def polarity(virtue: Float[Tensor, "n"], vice: Float[Tensor, "n"], pole: Int[Tensor, "n"], margin: float) -> Scalar:
    """Margin contrast of one foundation: ReLU(margin − a + b) on virtuous items, ReLU(margin − b + a) on vicious ones.

    Args:
        virtue: a, the mean activation of the foundation's virtue latents on each item.
        vice: b, that of its vice latents.
        pole: 0 virtue, 1 vice; others do not count. Ours: that foundation's items alone; the paper: items of all.
        margin: in the units of the activations.
    """
    sign = (pole == VIRTUE).to(virtue) - (pole == VICE).to(virtue)
    return _mean((margin - sign * (virtue - vice)).relu(), sign != 0)


def prototype(activation: Float[Tensor, "n"], typicality: Float[Tensor, "n"], margin: float) -> Scalar:
    """Pairwise ranking of one dimension's items: ReLU(margin·|Δm| − sign(Δm)·Δa) over all pairs of different typicality
    m (RankNet's pairs with a hinge, as in Herbrich et al. 2000). Tied pairs do not count."""
    m, a = _differences(typicality), _differences(activation)
    return _mean((margin * m.abs() - m.sign() * a).relu(), m != 0)


def prototype_product(activation: Float[Tensor, "n"], typicality: Float[Tensor, "n"], margin: float) -> Scalar:
    """The paper's ranking: ReLU(margin − Δm·Δa), over all pairs (it draws random ones, whose expectation this is). A
    tied pair adds the margin and no gradient."""
    m, a = _differences(typicality), _differences(activation)
    return _mean((margin - m * a).relu(), torch.ones_like(m, dtype=torch.bool))


def alignment(activation: Float[Tensor, "n"], typicality: Float[Tensor, "n"]) -> Scalar:
    """(a − m)², mean over items; every m in [0, 1] can be reached by a non-negative activation."""
    return _mean((activation - typicality).square(), torch.ones_like(activation, dtype=torch.bool))


def alignment_sigmoid(activation: Float[Tensor, "n"], typicality: Float[Tensor, "n"]) -> Scalar:
    """The paper's: (sigmoid(a) − m)², mean over items. With a ≥ 0 no m below ½ can be reached."""
    return alignment(activation.sigmoid(), typicality)


def monosemantic(activation: Float[Tensor, "n j"], other: Bool[Tensor, "n"]) -> Scalar:
    """Mean activation of one dimension's j latents on the items of another dimension."""
    return _mean(activation.mean(dim=1), other)


def _differences(x: Float[Tensor, "n"]) -> Float[Tensor, "p"]:
    first, second = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    return x[first] - x[second]


def _mean(x: Float[Tensor, "n"], counted: Bool[Tensor, "n"]) -> Scalar:
    return torch.where(counted, x, 0.0).sum() / counted.sum().clamp(min=1)
