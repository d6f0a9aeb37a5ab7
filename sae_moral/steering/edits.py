"""What an operation adds to the residual stream h, as functions of h; and its `Write`, of which twins are made.

    edit    Dec'(Enc'(h)) − Dec(Enc(h))    of the SAE after and before surgery: the reconstruction error cancels
    write   Dec'(Enc'(h)) − Dec(Enc'(h))   only what decoder rows gained, gated by the activations after surgery
    paper   Dec'(Enc'(h)) − h              arXiv 2603.15615: the reconstruction error is injected, too

The edit is the write and what new activations make of the old rows, Dec(Enc'(h)) − Dec(Enc(h)): readers that were
trained to read better also reconstruct a little differently. The second part aims at nothing.

Where a latent depends on its own encoder column only (`standard`, `jumprelu` and so every saved BatchTopK, `gated`),
everything is computed from the k operated latents alone: the others contribute the same before and after, and so does
the decoder's bias. Encoding is SAELens' own (its cast, normalisation and bias). In the other architectures latents
compete, and SAEs are run in full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.provenance import tensor_hash
from sae_moral.sae.compatibility import ELEMENTWISE
from sae_moral.sae.load import LoadedSae
from sae_moral.sae.objects import assembled
from sae_moral.shown import shown
from sae_moral.surgery import Operation

Term = Callable[[Float[Tensor, "*rows d"]], Float[Tensor, "*rows d"]]
"""From vectors of the residual stream to what is added to them at α = 1, in the SAE's dtype."""


def edit(operation: Operation) -> Term:
    """Dec'(Enc'(h)) − Dec(Enc(h)), by the cheapest exact way."""
    return low_rank_edit(operation) if operation.sae.architecture in ELEMENTWISE else full_edit(operation)


def full_edit(operation: Operation) -> Term:
    """The edit by running both SAEs in full: d·d_sae multiplications per token four times. Holds a copy of the SAE."""
    after, before = operation.sae.sae, operation.original().sae
    return lambda h: after.decode(after.encode(h)) - before.decode(before.encode(h))


def reconstruction_error(sae: LoadedSae) -> Term:
    """Dec(Enc(h)) − h: the paper's form, of an operated or of a pretrained SAE."""
    return lambda h: sae.sae.decode(sae.sae.encode(h)) - h.to(sae.sae.dtype)


def low_rank_edit(operation: Operation) -> Term:
    """The edit from the k operated latents: k·d multiplications per token four times.

    Raises:
        ValueError: an architecture in which latents compete.
    """
    if operation.sae.architecture not in ELEMENTWISE:
        raise ValueError(
            f"latents of a {operation.sae.architecture} SAE compete; expected one of {', '.join(ELEMENTWISE)}"
        )
    own = _own(operation)
    was = {**own, **operation.before}
    coder = _coder(operation.sae, {name: torch.cat([was[name], own[name]], dim=_axis(name)) for name in own})
    decoder = torch.cat([-was["W_dec"], own["W_dec"]])
    return lambda h: _rescaled(coder, coder.encode(h) @ decoder)


def _own(operation: Operation) -> dict[str, Tensor]:
    """All parameters of the k operated latents after surgery."""
    index, state = operation.latents.to(operation.sae.sae.device), operation.sae.sae.state_dict()
    return {name: value.index_select(_axis(name), index) for name, value in state.items() if name != "b_dec"}


def _coder(sae: LoadedSae, parameters: Mapping[str, Tensor]) -> Any:
    """An SAE like this one that has these latents alone."""
    size = parameters["W_enc"].shape[1]
    config = {**sae.sae.cfg.to_dict(), "d_sae": size, "metadata": {"hook_name": sae.hook_name}}
    state = {**parameters, "b_dec": sae.sae.state_dict()["b_dec"]}
    return assembled(config, state, sae.sae.device).requires_grad_(False)


def _rescaled(coder: Any, decoded: Tensor) -> Tensor:
    """The linear part of SAELens' `run_time_activation_norm_fn_out`; the shift it adds cancels in the difference."""
    how = coder.cfg.normalize_activations
    if how == "layer_norm":
        return decoded * coder.ln_std
    return decoded / coder.x_norm_coeff if how == "constant_norm_rescale" else decoded


def _axis(name: str) -> int:
    return 1 if name == "W_enc" else 0


@shown(facts=lambda reader: {"name": reader.name})
@dataclass(frozen=True, eq=False)
class Reader:
    """Gates read from the stream itself: h·weight + bias.

    Attributes:
        name: what it reads.
        weight, bias: of k gates.
    """

    name: str
    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, "k"]


@shown(facts=lambda write: {"name": write.name})
@dataclass(frozen=True, eq=False)
class Write:
    """gate(h) · rows, added at every steered token: an operation's write, or one of its twins.

    Attributes:
        layer: the block after which it is added.
        gate: an operation, whose operated latents' activations are the k gates, or a `Reader` of the stream.
        rows: what each gate writes.
        name: what tables call it.

    Raises:
        ValueError: as many rows as there are not gates, or rows that are zero or not finite.
    """

    layer: int
    gate: Operation | Reader
    rows: Float[Tensor, "k d"]
    name: str

    def __post_init__(self) -> None:
        gates = len(self.gate.latents) if isinstance(self.gate, Operation) else self.gate.weight.shape[1]
        if gates != len(self.rows):
            raise ValueError(f"{gates} gates and {len(self.rows)} rows of {self.name}; expected one row for each gate")
        if not torch.isfinite(self.rows).all() or not self.rows.any():
            raise ValueError(f"{self.name} writes nothing, or values that are not finite; expected rows with a length")

    def term(self, device: torch.device | str) -> Term:
        """What is added at α = 1, as a function of h."""
        if isinstance(self.gate, Reader):
            weight, bias, rows = (x.to(device, torch.float32) for x in (self.gate.weight, self.gate.bias, self.rows))
            return lambda h: (h.float() @ weight + bias) @ rows
        sae, rows = self.gate.sae, self.rows.to(self.gate.sae.sae.device)
        if sae.architecture in ELEMENTWISE:
            coder = _coder(sae, _own(self.gate))
            return lambda h: _rescaled(coder, coder.encode(h) @ rows)
        index = self.gate.latents.to(sae.sae.device)
        return lambda h: _rescaled(sae.sae, _dense(sae.sae.encode(h)).index_select(-1, index) @ rows)

    def describe(self) -> dict[str, Any]:
        """Hashes of all that shapes it; JSON values."""
        rows = tensor_hash({"rows": self.rows})
        if isinstance(self.gate, Operation):
            return {"gate": [self.gate.sae.sha256, self.gate.latents.tolist()], "rows": rows}
        return {"gate": tensor_hash({"weight": self.gate.weight, "bias": self.gate.bias}), "rows": rows}


def written(operation: Operation) -> Write:
    """What an operation writes: the activations of its latents after surgery × what their decoder rows gained.

    Raises:
        ValueError: an operation whose rows gained nothing.
    """
    after, before = (_rows(operation, rows) for rows in (_own(operation)["W_dec"], operation.before["W_dec"]))
    return Write(operation.layer, operation, after - before, f"write of {operation.name}")


def _rows(operation: Operation, rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """As `decode` uses them."""
    rescaled = getattr(operation.sae.sae.cfg, "rescale_acts_by_decoder_norm", False)
    return rows / rows.norm(dim=1, keepdim=True) if rescaled else rows


def rotated(write: Write, seed: int) -> Write:
    """The same gates, with rows turned by a random rotation of the stream: their norms and Gram matrix are kept."""
    from scipy.stats import ortho_group

    d = write.rows.shape[1]
    turn = ortho_group.rvs(d, random_state=np.random.default_rng((write.layer, seed)))
    rows = write.rows.double().cpu() @ torch.from_numpy(np.asarray(turn))
    return replace(write, rows=rows.to(write.rows), name=f"{write.name}, rotated {seed}")


def permuted(write: Write, seed: int) -> Write:
    """The same gates and the same rows, each written by another gate's.

    Raises:
        ValueError: fewer than two rows.
    """
    k = len(write.rows)
    if k < 2:
        raise ValueError(f"{write.name} has {k} row; expected at least two to exchange")
    # A cyclic shift in a random order leaves no row where it was.
    order = torch.from_numpy(np.random.default_rng((write.layer, seed)).permutation(k))
    rows = write.rows.clone()
    rows[order] = write.rows[order.roll(1)]
    return replace(write, rows=rows, name=f"{write.name}, permuted {seed}")


def _dense(latents: Tensor) -> Tensor:
    return latents.to_dense() if latents.is_sparse else latents
