"""`Steering`: what is added to the residual stream h after one block, how strongly, and at which tokens.

The forms of an operation are in `edits`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_moral.capture import Representations
from sae_moral.data import MoralData
from sae_moral.errors import unknown
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, VICE, VIRTUE
from sae_moral.provenance import tensor_hash
from sae_moral.sae.load import LoadedSae
from sae_moral.shown import shown
from sae_moral.steering.edits import Term, Write, edit, reconstruction_error, written
from sae_moral.surgery import Operation
from sae_moral.surgery.vectors import Vectors

UNITS, FORMS = ("alpha", "relative"), ("edit", "write", "paper")
OF_PROMPTS = ("all-but-first", "all", "prompt", "last", "generated")
WITHOUT_MASK = ("all-but-first", "all")
"""Positions that are known without a mask of the prompts."""
OF_SCENARIOS = ("scenario", "template")
"""Positions that are known only of scenarios in a template."""
POSITIONS = (*OF_PROMPTS, *OF_SCENARIOS)


@shown(facts=lambda direction: {"name": direction.name})
@dataclass(frozen=True, eq=False)
class Direction:
    """One vector added at every steered token.

    Attributes:
        layer: the block after which it is added.
        vector: in the units of the residual stream.
        name: what tables call it.

    Raises:
        ValueError: values that are not finite, or nothing but zeros.
    """

    layer: int
    vector: Float[Tensor, "d"]
    name: str

    def __post_init__(self) -> None:
        if not torch.isfinite(self.vector).all() or not self.vector.any():
            raise ValueError(f"the direction {self.name} is zero or not finite; expected a vector with a length")


@shown(facts=lambda matched: {"name": matched.name})
@dataclass(frozen=True, eq=False)
class Matched:
    """A direction with, at every token, the norm that an operation's own term has there: the control for its size.

    Raises:
        ValueError: a direction and an operation of different layers.
    """

    direction: Direction
    operation: Operation

    def __post_init__(self) -> None:
        if self.direction.layer != self.operation.layer:
            raise ValueError(
                f"{self.direction.name} is of layer {self.direction.layer} and {self.operation.name} of layer "
                f"{self.operation.layer}; expected the same layer"
            )

    @property
    def layer(self) -> int:
        """The block after which it is added."""
        return self.direction.layer

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.direction.name} at the norm of {self.operation.name}"


@shown(facts=lambda steering: {"what": steering.name})
@dataclass(frozen=True, eq=False)
class Steering:
    """One addition to the residual stream after one block.

    Of scenarios in a template (`measure`) there are two more `positions`: the tokens of the `scenario`, and those of
    the `template`. Both leave the first token out, so that together they are `all-but-first`.

    Attributes:
        what: an `Operation`, a `Write`, a `Direction`, a direction `Matched` to an operation's norm, or (paper's form
            only) an SAE that was not operated on.
        alpha: strength; negative turns it round, 0 installs nothing.
        units: `alpha`: h + α·term, as in the paper. `relative`: h + α·‖h‖·term/‖term‖, so that |α| is the share of
            the norm injected; where the term is zero (no operated latent changed), nothing is added.
        form: of an operation: `edit`: Dec'(Enc'(h)) − Dec(Enc(h)). `write`: Dec'(Enc'(h)) − Dec(Enc'(h)), what its
            decoder rows gained. `paper`: Dec'(Enc'(h)) − h.
        positions: the tokens that are steered: `all-but-first` (BOS carries the attention sink, where an edit is a
            hundred times larger), `all`, the `prompt`, its `last` token, or the `generated` ones.

    Raises:
        ValueError: an unknown name, an α that is not finite, or a form that `what` does not have: the write of an
            operation whose rows gained nothing.
    """

    what: Operation | Write | Direction | Matched | LoadedSae
    alpha: float
    units: str = "alpha"
    form: str = "edit"
    positions: str = "all-but-first"

    def __post_init__(self) -> None:
        for kind, given, valid in (
            ("units", self.units, UNITS),
            ("form", self.form, FORMS),
            ("positions", self.positions, POSITIONS),
        ):
            if given not in valid:
                raise unknown(kind, given, valid)
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha is {self.alpha}; expected a finite number")
        if isinstance(self.what, LoadedSae) and self.form != "paper":
            raise ValueError(f"{self.what.source} was not operated on, so it has no {self.form}; use form='paper'")
        if isinstance(self.what, Operation) and self.form == "write":
            written(self.what)  # refuses an operation that writes nothing
        if isinstance(self.what, Direction | Write) and self.form == "paper":
            raise ValueError(f"{self.what.name} has no reconstruction; use form='edit'")

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.what.source if isinstance(self.what, LoadedSae) else self.what.name

    def term(self, device: torch.device | str) -> Term:
        """What is added at α = 1, as a function of h."""
        what = self.what
        if isinstance(what, Write):
            return what.term(device)
        if isinstance(what, Direction):
            vector = what.vector.to(device, torch.float32)
            return lambda h: vector.expand(h.shape)
        if isinstance(what, Matched):
            unit = what.direction.vector.to(device, torch.float32)
            unit, like = unit / unit.norm(), _sae_term(what.operation, self.form, device)
            return lambda h: torch.linalg.vector_norm(like(h).float(), dim=-1, keepdim=True) * unit
        return _sae_term(what, self.form, device)

    def describe(self) -> dict[str, Any]:
        """Everything that shapes what is added, names left out; JSON values. SAEs by the hash of their weights."""
        what, found = self.what, {"layer": self.what.layer, "alpha": float(self.alpha), "units": self.units}
        found |= {"form": self.form, "positions": self.positions}
        if isinstance(what, Direction | Matched):
            direction = what if isinstance(what, Direction) else what.direction
            found["vector"] = tensor_hash({"vector": direction.vector.float()})
        if isinstance(what, Write):
            found["write"] = what.describe()
        if isinstance(what, Operation | Matched):
            operation = what if isinstance(what, Operation) else what.operation
            # With the operated SAE, what its latents were is all that the original is made of.
            before = tensor_hash(operation.before, operation.latents.tolist())
            found["sae"] = {"after": operation.sae.sha256, "before": before}
        if isinstance(what, LoadedSae):
            found["sae"] = what.sha256
        return found


def _sae_term(what: Operation | LoadedSae, form: str, device: torch.device | str) -> Term:
    if isinstance(what, LoadedSae):
        return reconstruction_error(what)
    if form == "write":
        return written(what).term(device)
    return edit(what) if form == "edit" else reconstruction_error(what.sae)


# Dense baselines


def difference_in_means(
    representations: Representations, data: MoralData, layer: int, which: str | None = None
) -> Direction:
    """Mean vector of some items minus the mean of others (Marks & Tegmark 2023, arXiv 2310.06824).

    Args:
        which: a foundation (its virtue minus its vice items), a dimension (its items minus the foundation's others), or
            None (all virtue minus all vice items).
        representations: one vector per scenario, or per token, whose means are taken.

    Raises:
        ValueError: an unknown name, no items on one side, or representations of other scenarios.
    """
    if len(representations) != len(data):
        raise ValueError(f"{len(representations)} vectors for {len(data)} scenarios; expected one each")
    items, others = _sides(data, which)
    if not items.any() or not others.any():
        raise ValueError(
            f"{which or 'all foundations'}: {items.sum()} items against {others.sum()}; expected some on both sides"
        )
    vectors = Vectors.of_layer(representations, layer).mean()
    vector = vectors[torch.from_numpy(items)].mean(dim=0) - vectors[torch.from_numpy(others)].mean(dim=0)
    return Direction(layer, vector, f"difference in means ({which or 'virtue − vice'})")


def _sides(data: MoralData, which: str | None) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    virtue, vice = data.pole == VIRTUE, data.pole == VICE
    if which is None:
        return virtue, vice
    if which in FOUNDATIONS:
        own = data.foundation == FOUNDATIONS.index(which)
        return own & virtue, own & vice
    if which in DIMENSIONS:
        slot = DIMENSIONS.index(which)
        own = data.foundation == slot // 2
        return own & (data.pole == slot % 2), own & (data.pole != slot % 2)
    raise unknown("foundation or dimension", which, [*FOUNDATIONS, *DIMENSIONS])


def random_direction(d: int, layer: int, seed: int, norm: float = 1.0) -> Direction:
    """A direction uniform on the sphere of that norm; layers have different ones from the same seed (0 or more)."""
    if not math.isfinite(norm) or norm <= 0:
        raise ValueError(f"norm {norm}; expected a number above 0")
    vector = torch.from_numpy(np.random.default_rng((layer, seed)).standard_normal(d, dtype=np.float32))
    return Direction(layer, norm * vector / vector.norm(), f"random direction {seed}")
