"""One forward call after another of a TransformerBridge or a HookedTransformer, with a mask and a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Forward = Callable[[Tensor, Tensor], Tensor]
"""Token ids [batch, new] and the mask [batch, all so far] → float32 logits [batch, words] after the last position.
With a cache each call brings the new tokens only, without one all of them."""


def last_logits(model: Any, batch: int, *, use_cache: bool = False) -> Forward:
    """A function for one batch of prompts, padded on the left."""
    return _of_bridge(model, use_cache) if hasattr(model, "original_model") else _of_hooked(model, batch, use_cache)


def _of_bridge(model: Any, use_cache: bool) -> Forward:
    cache: Any = None

    def forward(tokens: Tensor, mask: Tensor) -> Tensor:
        nonlocal cache
        # logits_to_keep: unembedding the whole prompt would be three quarters of a small Gemma's forward.
        options = {"attention_mask": mask, "use_cache": use_cache, "logits_to_keep": 1}
        if cache is not None:
            options["past_key_values"] = cache
        logits, found = model(tokens, return_type="logits_and_cache", **options)
        cache = found if use_cache else None
        return logits[:, -1].float()

    return forward


def _of_hooked(model: Any, batch: int, use_cache: bool) -> Forward:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch) if use_cache else None

    def forward(tokens: Tensor, mask: Tensor) -> Tensor:
        # The cache keeps the mask of what went before.
        real = mask[:, -tokens.shape[1] :]
        logits = model(tokens, attention_mask=real, past_kv_cache=cache, return_type="logits")
        return logits[:, -1].float()

    return forward
