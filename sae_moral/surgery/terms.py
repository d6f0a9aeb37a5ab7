"""The terms of the surgery's loss (arXiv 2603.15615): one record per term, and the pure functions they are made of.

The paper's text leaves some of it open; its form here follows the published summary: `polarity`, `prototype_product`,
`alignment_sigmoid` on raw activations with absolute margins. Our default takes activations in units of each latent's
own size, so that a margin means the same for a latent that reaches 0.01 and for one that reaches 50, and replaces two
forms that cannot be satisfied: a sigmoid of non-negative activations is at least ½, so that most typicalities are out
of reach (`alignment` regresses on them directly); and a product with the difference of typicalities asks for a margin
of tied pairs, too, which no activations can give (`prototype` leaves ties out, and asks for more where more differs).

`reading` is ours: all dimensions together are to read the human judgement as a dense reader of the stream does. Items
of one foundation are few; what foundations share is read from all.

A mean over no item is 0, with no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, VICE, VIRTUE

Scalar = Float[Tensor, ""]
_RELEASED_POLARITY = 0.3
"""Typicality above which the released code contrasts poles."""
_SIGN = torch.tensor([1.0, -1.0]).repeat(len(FOUNDATIONS))
"""Of the ten dimensions: virtues and vices take turns."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Of n records.

    Attributes:
        foundation, pole, vector: as in `MoralData`.
    """

    foundation: Int[Tensor, "n"]
    pole: Int[Tensor, "n"]
    vector: Float[Tensor, "n 10"]

    @staticmethod
    def of(data: MoralData, device: torch.device) -> Labels:
        """Of all records of the data."""
        return Labels(
            torch.from_numpy(data.foundation).to(device),
            torch.from_numpy(data.pole).to(device),
            torch.from_numpy(data.vector).float().to(device),
        )

    def at(self, records: Int[Tensor, "r"]) -> Labels:
        """Some of the records."""
        records = records.to(self.pole.device)
        return Labels(self.foundation[records], self.pole[records], self.vector[records])


def by_columns(latents: Int[Tensor, "k"], by_dimension: Mapping[str, list[int]]) -> dict[int, Int[Tensor, "_"]]:
    """For each dimension's index the columns of its latents among the k."""
    return {
        DIMENSIONS.index(name): torch.searchsorted(latents, torch.tensor(sorted(members)))
        for name, members in by_dimension.items()
    }


def means(activation: Float[Tensor, "n k"], columns: Mapping[int, Int[Tensor, "_"]]) -> dict[int, Float[Tensor, "n"]]:
    """Each dimension's activation: the mean of its latents'."""
    share = torch.zeros(activation.shape[1], len(columns), dtype=activation.dtype)
    for column, which in enumerate(columns.values()):
        share[which, column] = 1 / len(which)
    return dict(zip(columns, (activation @ share.to(activation.device)).unbind(dim=1), strict=True))


def contrasts(columns: Mapping[int, Int[Tensor, "_"]]) -> list[int]:
    """Foundations with latents of both poles: the only ones whose poles can be contrasted."""
    return [f for f in range(len(FOUNDATIONS)) if 2 * f in columns and 2 * f + 1 in columns]


@dataclass(frozen=True, eq=False)
class Batch:
    """What terms are computed from: some of the prompts, and the records that they are the texts of.

    Attributes:
        target, made: of the vectors that count: what the k latents should reconstruct, and what they do.
        unit: reconstruction errors are divided by it.
        activation: of the k latents on each vector, in the units of the settings.
        of: each dimension's activation on each record (`means`), in these units, with the gradient of silent latents.
        labels: of the records.
        relative: the form of the settings is `relative`.
        polarity_margin, prototype_margin: of the settings.
        released: items count as in the released code: alignment of those with a typicality, polarity of those above
            0.3; monosemantic activations are squared.
    """

    target: Float[Tensor, "v d"]
    made: Float[Tensor, "v d"]
    unit: float
    activation: Float[Tensor, "m k"]
    of: Mapping[int, Float[Tensor, "n"]]
    labels: Labels
    relative: bool
    polarity_margin: float
    prototype_margin: float
    released: bool = False

    def items(self, dimension: int) -> Bool[Tensor, "n"]:
        """The records of a dimension."""
        return (self.labels.foundation == dimension // 2) & (self.labels.pole == dimension % 2)


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Attributes:
        name: of its weight in `SurgerySettings`, too.
        weight: its weight in the settings `default`, or beside them where it is a term of yours.
        over: what it is computed for, and a mean over: the whole `batch`, each `foundation` with latents of both poles,
            or each `dimension` with latents.
        loss: from a batch and the number of the foundation or dimension (0 for the batch) to the loss.
        paper: its weight in the settings `paper`.
    """

    name: str
    weight: float
    over: Literal["batch", "foundation", "dimension"]
    loss: Callable[[Batch, int], Scalar]
    paper: float = 0.0


def term_values(batch: Batch, columns: Mapping[int, Int[Tensor, "_"]], terms: Mapping[str, Term]) -> dict[str, Scalar]:
    """Every term, unweighted: a mean over the dimensions (or foundations) that have latents."""
    found: dict[str, list[Scalar]] = {name: [] for name in terms}
    over = {"batch": [0], "foundation": contrasts(columns), "dimension": list(columns)}
    # In this order, one dimension after another: gradients are summed in it, and the last digits depend on it.
    for what, numbers in over.items():
        for number in numbers:
            for name, term in terms.items():
                if term.over == what:
                    found[name].append(term.loss(batch, number))
    nothing = batch.activation.sum() * 0
    return {name: torch.stack(values).mean() if values else nothing for name, values in found.items()}


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


def reading(contrast: Float[Tensor, "n"], valence: Float[Tensor, "n"]) -> Scalar:
    """1 − r, r the Pearson correlation of the contrast with the signed typicality; 1 where either does not vary.
    Readers need not grow to read, as they would have to for an error in typicality's own units.

    Args:
        contrast: see the function of that name.
        valence: see `signed_typicality`.
    """
    a, v = contrast - contrast.mean(), valence - valence.mean()
    size = (a.square().sum() * v.square().sum()).clamp(min=0)
    return 1 - torch.where(size > 0, (a @ v) / size.where(size > 0, 1.0).sqrt(), 0.0)


def signed_typicality(vector: Float[Tensor, "n 10"]) -> Float[Tensor, "n"]:
    """Typicality, negative for vices; 0 for neutral items."""
    return vector @ _SIGN.to(vector)


def contrast(of: Mapping[int, Float[Tensor, "n"]]) -> Float[Tensor, "n"]:
    """Activations of virtue dimensions less those of vice dimensions."""
    return torch.stack([_SIGN[d] * activation for d, activation in of.items()]).sum(dim=0)


def _reading(batch: Batch, _: int) -> Scalar:
    if not batch.of:
        return batch.activation.sum() * 0
    return reading(contrast(batch.of), signed_typicality(batch.labels.vector))


def _polarity(batch: Batch, f: int) -> Scalar:
    items = batch.labels.foundation == f if batch.relative else torch.ones_like(batch.labels.pole, dtype=torch.bool)
    if batch.released:
        items = items & (batch.labels.vector.amax(dim=1) > _RELEASED_POLARITY)
    virtue, vice = batch.of[2 * f + VIRTUE][items], batch.of[2 * f + VICE][items]
    return polarity(virtue, vice, batch.labels.pole[items], batch.polarity_margin)


def _alignment(batch: Batch, d: int) -> Scalar:
    activation, m = batch.of[d], batch.labels.vector[:, d]
    if batch.released:
        activation, m = activation[m > 0], m[m > 0]
    return (alignment if batch.relative else alignment_sigmoid)(activation, m)


def _prototype(batch: Batch, d: int) -> Scalar:
    items = batch.items(d)
    rank = prototype if batch.relative else prototype_product
    return rank(batch.of[d][items], batch.labels.vector[items, d], batch.prototype_margin)


def _monosemantic(batch: Batch, d: int) -> Scalar:
    labels, activation = batch.labels, batch.of[d][:, None]
    activation = activation.square() if batch.released else activation
    return monosemantic(activation, (labels.pole != NEUTRAL) & (labels.vector[:, d] == 0))


def _differences(x: Float[Tensor, "n"]) -> Float[Tensor, "p"]:
    first, second = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    return x[first] - x[second]


def _mean(x: Float[Tensor, "n"], counted: Bool[Tensor, "n"]) -> Scalar:
    return torch.where(counted, x, 0.0).sum() / counted.sum().clamp(min=1)


TERMS = {
    term.name: term
    for term in (
        Term("reconstruction", 5.0, "batch", lambda b, _: reconstruction(b.target, b.made, b.unit), paper=1.0),
        Term("sparsity", 1e-4, "batch", lambda b, _: sparsity(b.activation), paper=1e-4),
        Term("alignment", 1.0, "dimension", _alignment, paper=0.5),
        Term("polarity", 1.0, "foundation", _polarity, paper=0.3),
        Term("prototype", 1.0, "dimension", _prototype, paper=0.2),
        Term("monosemantic", 0.1, "dimension", _monosemantic, paper=0.1),
        Term("reading", 5.0, "batch", _reading),
    )
}
"""Why these weights: docs/design/surgery.md."""
