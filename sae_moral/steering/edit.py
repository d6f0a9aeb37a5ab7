"""What an operation does to a vector h of the residual stream.

    edit   Dec'(Enc'(h)) − Dec(Enc(h))   Enc, Dec before and Enc', Dec' after surgery: the reconstruction error cancels
    paper  Dec'(Enc'(h)) − h             arXiv 2603.15615: the whole reconstruction error is injected, too

Where a latent depends on its own encoder column only (`standard`, `jumprelu` and thereby every saved BatchTopK,
`gated`), the edit is computed from the k operated latents alone: the others contribute the same before and after, and
so does the decoder's bias. Encoding is SAELens' own (its cast, normalisation and bias), of one coder that holds the k
latents twice, before and after. In the other architectures latents compete, and both SAEs are run whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.sae.compatibility import ELEMENTWISE
from sae_moral.sae.load import LoadedSae, assembled
from sae_moral.surgery import Operation

Term = Callable[[Float[Tensor, "*rows d"]], Float[Tensor, "*rows d"]]
"""From vectors of the residual stream to what is added to them at α = 1, in the SAE's dtype."""


def edit(operation: Operation) -> Term:
    """Dec'(Enc'(h)) − Dec(Enc(h)), by the cheapest exact way."""
    return low_rank_edit(operation) if operation.sae.architecture in ELEMENTWISE else full_edit(operation)


def full_edit(operation: Operation) -> Term:
    """The edit by running both SAEs whole: d·d_sae multiplications per token four times. Holds a copy of the SAE."""
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
    sae = operation.sae
    if sae.architecture not in ELEMENTWISE:
        raise ValueError(f"latents of a {sae.architecture} SAE compete; expected one of {', '.join(ELEMENTWISE)}")
    index, state = operation.latents.to(sae.sae.device), sae.sae.state_dict()
    own = {name: value.index_select(_axis(name), index) for name, value in state.items() if name != "b_dec"}
    was = {**own, **operation.before}
    both = {name: torch.cat([was[name], own[name]], dim=_axis(name)) for name in own}
    config = {**sae.sae.cfg.to_dict(), "d_sae": 2 * len(index), "metadata": {"hook_name": sae.hook_name}}
    coder = assembled(config, {**both, "b_dec": state["b_dec"]}, sae.sae.device).requires_grad_(False)
    decoder = torch.cat([-was["W_dec"], own["W_dec"]])

    def term(h: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        return _rescaled(coder, coder.encode(h) @ decoder)

    return term


def _rescaled(coder: Any, decoded: Tensor) -> Tensor:
    """The linear part of SAELens' `run_time_activation_norm_fn_out`; the shift it adds cancels in the difference."""
    how = coder.cfg.normalize_activations
    if how == "layer_norm":
        return decoded * coder.ln_std
    return decoded / coder.x_norm_coeff if how == "constant_norm_rescale" else decoded


def _axis(name: str) -> int:
    return 1 if name == "W_enc" else 0
