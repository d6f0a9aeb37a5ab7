"""Which SAELens objects can be measured, and how one is put together around given weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

REFUSED = {
    "transcoder": "it predicts another hook's activations",
    "temporal": "its latents depend on the whole sequence",
}
"""Kinds of architecture that are not SAEs of one vector, and why."""


def check_usable(sae: Any, name: str) -> None:
    """Refuse an SAE whose latents of a vector do not follow from that vector and its own configuration.

    Raises:
        ValueError: a transcoder or a sequence model, a normalisation that is not folded in, damaged weights.
    """
    architecture = str(sae.cfg.architecture())
    for kind, reason in REFUSED.items():
        if kind in architecture:
            raise ValueError(f"{name} is a {architecture}: {reason}; expected an SAE of the residual stream")
    if sae.cfg.normalize_activations in ("expected_average_only_in", "covariance_whitening"):
        raise ValueError(
            f"{name} expects its input normalised by {sae.cfg.normalize_activations}, which is not folded into its "
            "weights, and the constants are not in its files; fold them with fold_activation_norm_scaling_factor or "
            "fold_activation_whitening first"
        )
    bad = [key for key, value in sae.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{name} has weights that are not finite: {', '.join(bad)}; the file is damaged")
    if tuple(sae.W_dec.shape) != (sae.cfg.d_sae, sae.cfg.d_in) or sae.W_dec.dtype != sae.dtype:
        raise ValueError(
            f"{name} has a decoder of {tuple(sae.W_dec.shape)} in {sae.W_dec.dtype}, and its configuration says "
            f"{(sae.cfg.d_sae, sae.cfg.d_in)} in {sae.dtype}; use sae.to(dtype=...) to change the dtype"
        )


def for_inference(sae: Any) -> Any:
    """What SAELens would save of an SAE in training: a BatchTopK becomes a JumpReLU with its threshold."""
    from sae_lens import TrainingSAE

    if not isinstance(sae, TrainingSAE):
        return sae
    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    return assembled(sae.cfg.get_inference_sae_cfg_dict(), state, sae.device)


def assembled(config: dict[str, Any], state: dict[str, Tensor], device: torch.device | str) -> Any:
    """An SAELens object around given weights, without copying them."""
    from sae_lens import SAE

    made = SAE.from_dict({**config, "device": "meta"})
    made.load_state_dict(state, assign=True)
    made.cfg.device, made.device = str(device), torch.device(device)
    return made
