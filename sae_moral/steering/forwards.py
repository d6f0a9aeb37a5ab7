"""Forward calls for decoding: the way through a model that is fastest and gives what the plain way gives.

Of a TransformerBridge there are three: the transformers model that it wraps, with its own KV cache; the bridge, with a
cache; the bridge without one. Each is tried once per object on two steps after two short prompts.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_moral.capture.agreement import comparable, has_copies, is_hooked, sample_rows, tolerance, unwrapped
from sae_moral.capture.hooks import without_hooks
from sae_moral.capture.prompts import left_padded
from sae_moral.errors import SaeMoralWarning
from sae_moral.provenance import HookedModel
from sae_moral.steering.hooks import Start, steer, steer_unwrapped
from sae_moral.steering.steering import Steering

Forward = Callable[[Int[Tensor, "batch new"], Int[Tensor, "batch pos"]], Float[Tensor, "batch words"]]
"""Token ids and the mask of all tokens so far → float32 logits after the last position. With a cache each call brings
the new tokens only, without one all of them. `Cached` goes on with fewer rows where others have ended."""
_FAILS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What architectures raise when they are called as they were not meant to be."""


@contextmanager
def steered(
    model: HookedModel, steerings: Steering | Sequence[Steering], use_cache: bool, any_model: bool
) -> Iterator[tuple[Start, Callable[[int], Forward], bool]]:
    """Within the context the model is steered (see `steer`). Yields the function that takes the masks of the next
    prompts, one that makes a `Forward` for a number of them, and whether that goes on with a cache."""
    if use_cache and _runs_alone(model):
        with steer_unwrapped(model, steerings, any_model=any_model) as (original, start), fused_attention(original):
            yield start, lambda batch: Cached(original), True
    else:
        cached = use_cache and cache_works(model)
        with steer(model, steerings, any_model=any_model) as start:
            yield start, lambda batch: last_logits(model, batch, use_cache=cached), cached


def keeps_cache(model: HookedModel) -> bool:
    """Whether texts are continued with a KV cache, the wrapped model's or the bridge's."""
    return _runs_alone(model) or cache_works(model)


_works: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_alone: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _runs_alone(model: HookedModel) -> bool:
    """Whether the model that a bridge wraps may take its place: it goes on with its cache as the bridge does without
    one, and nothing is hooked into the bridge that would be left out. A bridge that holds copies of weights is compared
    each time."""
    if not comparable(model) or is_hooked(model):
        return False
    if model not in _alone or has_copies(model):
        _alone[model] = _agrees_alone(model)
    return _alone[model]


@torch.no_grad()
def _agrees_alone(model: HookedModel) -> bool:
    tokens, mask = left_padded(sample_rows(model), model)
    expected = _two_steps(last_logits(model, len(tokens)), tokens, mask.long(), cached=False)
    try:
        with unwrapped(model) as original, fused_attention(original):
            found = _two_steps(Cached(original), tokens, mask.long(), cached=True)
    except _FAILS:
        return False
    return _off(found, expected) <= 4 * tolerance(model)


@contextmanager
def fused_attention(model: Any) -> Iterator[None]:
    """Within the context a transformers model attends by torch's fused kernel where it can, in the place of the written
    out one (`eager`) that TransformerLens has for the sake of patterns: nobody looks at those here."""
    written_out = getattr(getattr(model, "config", None), "_attn_implementation", None) == "eager"
    if not (written_out and getattr(model, "_supports_sdpa", False) and model._can_set_attn_implementation()):
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation("eager")


def _off(found: Float[Tensor, "batch 2 words"], expected: Float[Tensor, "batch 2 words"]) -> float:
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def cache_works(model: HookedModel) -> bool:
    """Whether a model goes on with a KV cache as without one, found out by two steps after two short prompts; once per
    object, hooks on it set aside. Where it does not, a warning says so.

    A cache that stays empty leaves the model with the newest token alone, and nothing complains.
    """
    if model not in _works:
        tokens, mask = left_padded(sample_rows(model), model)
        with torch.no_grad(), without_hooks(model):
            expected = _two_steps(last_logits(model, len(tokens)), tokens, mask.long(), cached=False)
            try:
                forward = last_logits(model, len(tokens), use_cache=True)
                found = _two_steps(forward, tokens, mask.long(), cached=True)
            except _FAILS as error:
                why, _works[model] = f"fails with its KV cache ({error})", False
            else:
                off = _off(found, expected)
                why = f"goes on otherwise with its KV cache than without (logits off by {off:.2g} of their norm)"
                _works[model] = off <= 4 * tolerance(model)  # which is for one block; here rounding adds up
        if not _works[model]:
            name = getattr(model.cfg, "sae_moral_name", None) or model.cfg.model_name
            message = f"{type(model).__name__} of {name} {why}; texts are generated without one, which is slower"
            warnings.warn(SaeMoralWarning(message), stacklevel=3)
    return _works[model]


def _two_steps(
    forward: Forward, tokens: Int[Tensor, "batch pos"], real: Int[Tensor, "batch pos"], *, cached: bool
) -> Float[Tensor, "batch 2 words"]:
    """Logits of the last two positions, one after the other, after all before them."""
    width = tokens.shape[1]
    if cached:
        forward(tokens[:, :-2], real[:, :-2])
    starts = [(end - 1 if cached else 0, end) for end in (width - 1, width)]
    return torch.stack([forward(tokens[:, start:end], real[:, :end]) for start, end in starts], dim=1)


def last_logits(model: HookedModel, batch: int, *, use_cache: bool = False) -> Forward:
    """A function for one batch of prompts, padded on the left."""
    return _of_bridge(model, use_cache) if hasattr(model, "original_model") else _of_hooked(model, batch, use_cache)


def _of_bridge(model: HookedModel, use_cache: bool) -> Forward:
    cache: Any = None

    def forward(tokens: Tensor, mask: Tensor) -> Tensor:
        nonlocal cache
        # Unembedding every position can cost more than all blocks together.
        options = {"attention_mask": mask, "use_cache": use_cache, "logits_to_keep": 1}
        if cache is not None:
            options["past_key_values"] = cache
        logits, found = model(tokens, return_type="logits_and_cache", **options)
        cache = found if use_cache else None
        return logits[:, -1].float()

    return forward


def _of_hooked(model: HookedModel, batch: int, use_cache: bool) -> Forward:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch) if use_cache else None

    def forward(tokens: Tensor, mask: Tensor) -> Tensor:
        # The cache keeps the mask of what went before.
        real = mask[:, -tokens.shape[1] :]
        logits = model(tokens, attention_mask=real, past_kv_cache=cache, return_type="logits")
        return logits[:, -1].float()

    return forward


class Cached:
    """The `Forward` of a transformers model itself, with its cache."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._cache = model, None
        self._known = inspect.signature(model.forward).parameters
        fixed = {"use_cache": True, "logits_to_keep": 1}
        self._fixed: dict[str, Any] = {name: value for name, value in fixed.items() if name in self._known}

    def __call__(
        self, tokens: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch words"]:
        options = {"attention_mask": mask, **self._fixed}
        if self._cache is not None:
            # transformers renames it, and warns of the old name until 5.40.
            options["cache" if "cache" in self._known else "past_key_values"] = self._cache
        if "position_ids" in self._known:  # without it, padding on the left would count
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        found = self._model(input_ids=tokens, **options)
        self._cache = found.past_key_values
        return found.logits[:, -1].float()

    def keep(self, rows: Int[Tensor, "k"]) -> bool:
        """Go on with some of the rows; False, and all stay, where the cache holds more than keys and values."""
        from transformers.cache_utils import DynamicLayer

        cache: Any = self._cache
        if not all(isinstance(layer, DynamicLayer) for layer in getattr(cache, "layers", [None])):
            return False
        cache.batch_select_indices(rows)
        return True
