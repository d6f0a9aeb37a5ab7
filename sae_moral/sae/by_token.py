"""Where in a text a latent fires: its activation at every token, for reading a latent by eye."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sae_moral.capture.hooks import body, resolve_hooks
from sae_moral.capture.pooling import Tokens
from sae_moral.capture.prompts import build_prompts
from sae_moral.capture.run import TOKENS_PER_BATCH
from sae_moral.sae.load import LoadedSae

TokenValues = list[tuple[str, float]]
"""A text's own tokens, as the tokenizer writes each by itself, with one latent's activation there."""


def latents_by_token(
    model: Any, sae: LoadedSae, text: Sequence[str], latents: Sequence[int], *, template: str = "{text}"
) -> list[list[TokenValues]]:
    """Activations of a few latents at every token of a few texts.

    Returns:
        Per text, per latent: the text's own tokens (BOS and the template's words left out) with their activations.

    Raises:
        ValueError: latents the SAE does not have; as `build_prompts` and `LoadedSae.encode`.
    """
    if outside := [latent for latent in latents if not 0 <= latent < sae.d_sae]:
        raise ValueError(f"latents {outside} of an SAE with {sae.d_sae}; expected 0 to {sae.d_sae - 1}")
    prompts = build_prompts(text, model.tokenizer, template=template, bos=sae.bos, n_ctx=model.cfg.n_ctx)
    hooks = resolve_hooks(model, [sae.layer])

    def reader(tokens: Tokens) -> Callable[[int, Tensor], list[Tensor]]:
        def take(layer: int, hidden: Tensor) -> list[Tensor]:
            own = tokens.own.to(hidden.device)
            return [sae.encode(row[at])[:, list(latents)].cpu() for row, at in zip(hidden, own, strict=True)]

        return take

    values: list[Tensor] = []
    with body(model, hooks, reader) as forward:
        for batch in prompts.batches(TOKENS_PER_BATCH):
            values += forward(prompts.tokens(*batch, torch.device(model.cfg.device or "cpu")))[sae.layer]
    words = [
        [model.tokenizer.decode([token]) for token in ids[first:last]]
        for ids, (first, last) in zip(prompts.ids, prompts.own, strict=True)
    ]
    return [
        [list(zip(words[row], values[row][:, i].tolist(), strict=True)) for i in range(len(latents))]
        for row in prompts.row
    ]
