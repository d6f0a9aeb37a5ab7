"""`Steering`: what is added to the residual stream, how strongly, and at which tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sae_moral.errors import unknown
from sae_moral.sae import LoadedSae
from sae_moral.steering.directions import Direction, Matched
from sae_moral.steering.edit import Term, edit, reconstruction_error
from sae_moral.steering.positions import POSITIONS
from sae_moral.surgery import Operation

UNITS, FORMS = ("alpha", "relative"), ("edit", "paper")


@dataclass(frozen=True, eq=False)
class Steering:
    """One addition to the residual stream after one block.

    Attributes:
        what: an `Operation`, a `Direction`, a direction `Matched` to an operation's norm, or (paper's form only) an SAE
            that was not operated on.
        alpha: strength; negative turns it round, 0 installs nothing.
        units: `alpha`: h + α·term, as in the paper. `relative`: h + α·‖h‖·term/‖term‖, so that |α| is the share of
            the norm injected; where the term is zero (no operated latent changed), nothing is added.
        form: `edit`: Dec'(Enc'(h)) − Dec(Enc(h)). `paper`: Dec'(Enc'(h)) − h.
        positions: the tokens that are steered: `all-but-first` (BOS carries the attention sink, where most edits are a
            hundred times larger), `all`, the `prompt`, its `last` token, or the `generated` ones.

    Raises:
        ValueError: an unknown name, an α that is not finite, or a form that `what` does not have.
    """

    what: Operation | Direction | Matched | LoadedSae
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
        if isinstance(self.what, LoadedSae) and self.form == "edit":
            raise ValueError(f"{self.what.source} was not operated on, so it has no edit; use form='paper'")
        if isinstance(self.what, Direction) and self.form == "paper":
            raise ValueError(f"{self.what.name} is a direction: it has no reconstruction; use form='edit'")

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.what.source if isinstance(self.what, LoadedSae) else self.what.name

    def term(self, device: torch.device | str) -> Term:
        """What is added at α = 1, as a function of h."""
        what = self.what
        if isinstance(what, Direction):
            vector = what.vector.to(device, torch.float32)
            return lambda h: vector.expand(h.shape)
        if isinstance(what, Matched):
            unit = what.direction.vector.to(device, torch.float32)
            unit, like = unit / unit.norm(), _sae_term(what.operation, self.form)
            return lambda h: torch.linalg.vector_norm(like(h).float(), dim=-1, keepdim=True) * unit
        return _sae_term(what, self.form)


def _sae_term(what: Operation | LoadedSae, form: str) -> Term:
    if isinstance(what, LoadedSae):
        return reconstruction_error(what)
    return edit(what) if form == "edit" else reconstruction_error(what.sae)
