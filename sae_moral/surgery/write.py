"""What operated latents write: decoder rows gain a component that the model acts on.

Every term of the loss reads activations, and reconstruction alone shapes decoder rows: what trained readers write is
left to chance. A write sets it. With readers trained, and a_k the mean activation of latent k on a scenario,

    w_k ← w_k + s · c_k · u_k

    c   sizes ≥ 0: the sum over latents of ±c_k a_k (+ for latents of virtues, − for those of vices) reads the human
        judgement of all training scenarios, neutral ones as 0: least squares with a penalty, so that the write is
        silent where nothing is to be said (`sizes`)
    u   unit directions, the choice of a `WriteTerm`
    s   the largest size with which the reconstruction error on the validation part stays within the tolerance, and no
        row grows beyond `row_cap` times its length (`fit.Fit.largest`)

`REPRESENTATION`: u of a dimension is its difference in means (Marks & Tegmark 2023, arXiv 2310.06824): rows of virtues
gain the way to that virtue, rows of vices the way to that vice. It uses no word and no gradient of the model's output.
`SHARED`: the same with the difference in means of all virtues and all vices: fewer texts make a noisy direction.
`along(v)`: all rows along ±v, e.g. the gradient of an answer's margin (`sae_moral.steering.margin_gradient`), a
rank-one write as in ROME (arXiv 2202.05262), with a gate in the place of its key.

What it does not prove. That the model acts on what is written: compare with the twins (`sae_moral.steering`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.errors import unknown
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.shown import shown
from sae_moral.surgery.terms import Labels, signed_typicality

PENALTY = 0.1
"""Of the sizes, as a multiple of the mean squared activation (docs/design/surgery.md)."""


@shown()
@dataclass(frozen=True, eq=False)
class Scene:
    """What a write is made from: the training records, read by the trained latents.

    Attributes:
        activation: mean activation of the k latents on each record, in units of each latent's size.
        mean: the mean vector of each record.
        labels: of the records.
        columns: for each dimension's index its latents, among the k.
    """

    activation: Float[Tensor, "n k"]
    mean: Float[Tensor, "n d"]
    labels: Labels
    columns: Mapping[int, Int[Tensor, "_"]]

    @property
    def sign(self) -> Float[Tensor, "k"]:
        """+1 for latents of virtues, −1 for those of vices; 0 for one of both."""
        found = torch.zeros(self.activation.shape[1], device=self.activation.device)
        for d, members in self.columns.items():
            found[members] += 1.0 if d % 2 == VIRTUE else -1.0
        return found.sign()


@shown()
@dataclass(frozen=True)
class WriteTerm:
    """One write; several add up, each with its weight.

    Attributes:
        name: in the record.
        weight: beside other writes.
        rows: from a scene to the direction that each of the k rows gains, at c = s = 1.
    """

    name: str
    weight: float
    rows: Callable[[Scene], Float[Tensor, "k d"]]


def along(vector: Float[Tensor, "d"], name: str = "along a vector", weight: float = 1.0) -> WriteTerm:
    """All rows along one direction: rows of virtues as it points, rows of vices against it.

    Args:
        vector: towards what virtue is to do, e.g. the gradient of the margin of " right" over " wrong".

    Raises:
        ValueError: a vector of zeros, or not finite.
    """
    if not torch.isfinite(vector).all() or not vector.any():
        raise ValueError(f"the vector of {name!r} is zero or not finite; expected a direction")
    unit = vector.detach().float() / vector.detach().float().norm()
    return WriteTerm(name, weight, lambda scene: scene.sign[:, None] * unit.to(scene.sign.device))


def representation(scene: Scene) -> Float[Tensor, "k d"]:
    """Each dimension's difference in means: its items less the other items of its foundation."""
    rows = scene.mean.new_zeros(scene.activation.shape[1], scene.mean.shape[1])
    labels = scene.labels
    for d, members in scene.columns.items():
        own = labels.foundation == d // 2
        rows[members] += _difference(scene.mean, own & (labels.pole == d % 2), own & (labels.pole != d % 2))
    return torch.nn.functional.normalize(rows, dim=1)


def shared(scene: Scene) -> Float[Tensor, "k d"]:
    """The difference in means of all virtuous and all vicious items, with each latent's sign."""
    pole = scene.labels.pole
    return scene.sign[:, None] * _difference(scene.mean, pole == VIRTUE, pole == VICE)


def _difference(mean: Tensor, items: Tensor, others: Tensor) -> Float[Tensor, "d"]:
    if not items.any() or not others.any():
        raise ValueError(
            f"{int(items.sum())} items against {int(others.sum())} for a difference in means; expected both"
        )
    return torch.nn.functional.normalize(mean[items].mean(dim=0) - mean[others].mean(dim=0), dim=0)


REPRESENTATION, SHARED = WriteTerm("representation", 1.0, representation), WriteTerm("shared", 1.0, shared)
WRITES = {"representation": REPRESENTATION, "shared": SHARED}
Writes = str | WriteTerm | Sequence[str | WriteTerm]


def get_writes(writes: Writes | None) -> tuple[WriteTerm, ...]:
    """The terms of these names, or the given ones.

    Raises:
        ValueError: an unknown name, or one twice.
    """
    if writes is None:
        return ()
    given = [writes] if isinstance(writes, str | WriteTerm) else list(writes)
    for one in given:
        if isinstance(one, str) and one not in WRITES:
            raise unknown("write", one, WRITES)
    found = tuple(WRITES[one] if isinstance(one, str) else one for one in given)
    if len({term.name for term in found}) < len(found):
        raise ValueError(f"writes {[term.name for term in found]}; expected each name once")
    return found


def rows_gained(writes: Sequence[WriteTerm], scene: Scene, scale: Float[Tensor, "k"]) -> Float[Tensor, "k d"]:
    """c_k · u_k, the weighted sum over the writes, for activations in the SAE's own units.

    Args:
        scale: each latent's size.

    Raises:
        ValueError: rows of another shape, not finite, or nothing to write.
    """
    shape = scene.activation.shape[1], scene.mean.shape[1]
    made = torch.zeros(shape, device=scene.mean.device)
    for term in writes:
        rows = term.rows(scene)
        if rows.shape != shape or not torch.isfinite(rows).all():
            raise ValueError(f"the write {term.name!r} gave rows of shape {tuple(rows.shape)}; expected finite {shape}")
        made = made + term.weight * rows
    gained = (sizes(scene).to(made) / scale)[:, None] * made
    if not gained.any():
        raise ValueError("the operated latents read nothing of the labels that could be written; train them first")
    return gained


def sizes(scene: Scene, penalty: float = PENALTY) -> Float[Tensor, "k"]:
    """c ≥ 0 that minimises Σ over records (Σ_k ±c_k a_k − y)² + penalty · n · mean(a²) · Σ c², y the signed typicality
    and 0 for neutral records (non-negative least squares, Lawson & Hanson 1974)."""
    from scipy.optimize import nnls

    a = (scene.activation * scene.sign).double().cpu()
    y = signed_typicality(scene.labels.vector).double().cpu()
    ridge = (penalty * len(a) * a.square().mean()).sqrt() * torch.eye(a.shape[1], dtype=a.dtype)
    found, _ = nnls(torch.cat([a, ridge]).numpy(), torch.cat([y, y.new_zeros(len(ridge))]).numpy())
    return torch.from_numpy(found)
