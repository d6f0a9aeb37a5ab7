"""SAELens objects: made from weights, out of training, and with the centring of their input folded in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FOLDED = "folded into the encoder"
"""What `metadata.centring` says of an SAE that `centred` made."""


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


def centred(sae: Any, name: str) -> Any:
    """The SAE, made to take the mean over dimensions out of its input, where its record says that it was trained on a
    stream without: TransformerLens' `center_writing_weights` takes it out of the weights that write to the stream.

    x − mean(x) = x C with C = I − 1/d, so that C W_enc reads a stream with its mean and gives the same latents of one
    without. The weights of the object given stay as they are.

    Raises:
        ValueError: an input that is scaled by its norm, which the mean is part of.
    """
    kwargs = dict(sae.cfg.metadata.model_from_pretrained_kwargs or {})
    if not kwargs.get("center_writing_weights") or sae.cfg.normalize_activations == "layer_norm":
        return sae  # a layer norm takes the mean out itself
    if sae.cfg.normalize_activations != "none":
        raise ValueError(
            f"{name} reads a stream whose mean over dimensions was taken out (center_writing_weights), scaled by "
            f"{sae.cfg.normalize_activations}; expected normalize_activations none or layer_norm"
        )
    config, state = sae.cfg.to_dict(), {key: value.detach().clone() for key, value in sae.state_dict().items()}
    metadata = {**config["metadata"], "centring": FOLDED}
    metadata["model_from_pretrained_kwargs"] = {**kwargs, "center_writing_weights": None}
    made = assembled({**config, "metadata": metadata}, state, sae.device)
    bias, identity = made.b_dec.detach().clone(), torch.eye(made.cfg.d_in, device=made.device)
    if made.cfg.apply_b_dec_to_input:
        made.cfg.apply_b_dec_to_input = False
        made.fold_activation_whitening(bias, identity, identity)
    made.fold_activation_whitening(torch.zeros_like(bias), identity - 1 / made.cfg.d_in, identity)
    with torch.no_grad():
        made.b_dec.copy_(bias)
    return made
