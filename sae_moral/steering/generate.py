"""`generate`: batched decoding of a model, steered or not, on a TransformerBridge or a HookedTransformer alike."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_moral.capture.agreement import check_agreement, sample_rows, tolerance
from sae_moral.capture.hooks import without_hooks
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import Prompt, left_padded, prompt_ids
from sae_moral.errors import SaeMoralWarning
from sae_moral.provenance import HookedModel
from sae_moral.shown import shown
from sae_moral.steering.hooks import steer
from sae_moral.steering.steering import Steering

Forward = Callable[[Int[Tensor, "batch new"], Int[Tensor, "batch pos"]], Float[Tensor, "batch words"]]
"""Token ids and the mask of all tokens so far → float32 logits after the last position. With a cache each call brings
the new tokens only, without one all of them."""


@shown()
@dataclass(frozen=True)
class Generation:
    """What came after one prompt.

    Attributes:
        prompt_ids: the prompt, without padding.
        ids: the generated tokens, without the one that ended the text.
        text: of those tokens, special ones left out.
        finished: the model ended the text itself; False: it was cut at `max_new_tokens`.
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finished: bool


def generate(
    model: HookedModel | nn.Module,
    prompts: Sequence[Prompt],
    *,
    steerings: Steering | Sequence[Steering] = (),
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool | str = False,
    thinking: bool = False,
    bos: str = "prepend",
    stop_at_eos: bool = True,
    batch_size: int = 8,
    use_cache: bool = True,
    any_model: bool = False,
) -> list[Generation]:
    """Continue every prompt.

    Prompts of similar length share a batch, padded on the left. What comes out for a prompt does not depend on the
    batch it was in: its random numbers follow from `seed` and its own tokens (equal prompts get equal samples).

    Args:
        model: as for `capture`.
        prompts: texts, chats, or token ids; see `prompt_ids` for `chat`, `thinking` and `bos`.
        steerings: see `steering_hooks`; none for the model as it is.
        temperature: 0 takes the likeliest token.
        top_p: sample from the likeliest tokens that together have this probability.
        stop_at_eos: end a text at any of the model's end tokens.
        use_cache: a KV cache, which is faster and gives the same. A model that goes on otherwise with its cache than
            without one (TransformerLens's bridges of MPT and Mamba do) is run without; a warning says so once.
        any_model: as for `steering_hooks`.

    Raises:
        ValueError: a setting outside its range, a bad steering, a chat for a model without a template, a bridge that
            does not compute what its model computes.
        DataError: a prompt that is empty, or longer than the context with `max_new_tokens`.
    """
    for name, value, good, expected in (
        ("temperature", temperature, temperature >= 0, "0 or more"),
        ("top_p", top_p, 0 < top_p <= 1, "more than 0 and at most 1"),
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "1 or more"),
        ("batch_size", batch_size, batch_size >= 1, "1 or more"),
    ):
        if not good:
            raise ValueError(f"{name} is {value}; expected {expected}")
    model = hooked_model(model)
    ids = prompt_ids(model, prompts, chat=chat, thinking=thinking, bos=bos, new_tokens=max_new_tokens)
    if not ids:
        return []
    check_agreement(model)
    use_cache = use_cache and cache_works(model)
    ends = end_tokens(model) if stop_at_eos else []
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: dict[int, Generation] = {}
    with torch.inference_mode(), steer(model, steerings, any_model=any_model) as start:
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            tokens, mask = left_padded([ids[row] for row in rows], model)
            start(mask)
            chance = torch.tensor(np.stack([_uniform(seed, ids[row], max_new_tokens) for row in rows]))
            out = _continue(model, tokens, mask, chance.to(tokens.device), temperature, top_p, ends, use_cache)
            for row, new in zip(rows, out.tolist(), strict=True):
                found[row] = _generation(model.tokenizer, ids[row], new, ends)
    return [found[row] for row in range(len(ids))]


def end_tokens(model: HookedModel) -> list[int]:
    """The tokens that end a text: the tokenizer's, and those of the model's generation settings."""
    settings = getattr(getattr(model, "original_model", None), "generation_config", None)
    given = getattr(settings, "eos_token_id", None)
    listed = given if isinstance(given, list) else [given]
    return sorted({int(token) for token in [*listed, model.tokenizer.eos_token_id] if token is not None})


def _generation(tokenizer: Any, prompt: list[int], new: list[int], ends: list[int]) -> Generation:
    stop = next((i for i, token in enumerate(new) if token in ends), None)
    kept = new[:stop]
    return Generation(prompt, kept, tokenizer.decode(kept, skip_special_tokens=True), stop is not None)


def _uniform(seed: int, ids: Sequence[int], n: int) -> Float[np.ndarray, "n"]:
    """n numbers in [0, 1) that belong to this seed and prompt; fewer are the first of more."""
    digest = hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()]).random(n)


def _continue(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    chance: Float[Tensor, "batch new"],
    temperature: float,
    top_p: float,
    ends: list[int],
    use_cache: bool,
) -> Int[Tensor, "batch some"]:
    """The new tokens; after a row's end token whatever came."""
    forward, stops = last_logits(model, len(tokens), use_cache=use_cache), torch.tensor(ends, device=tokens.device)
    finished = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    given, real, out = tokens, mask.long(), []
    for i in range(chance.shape[1]):
        new = choose(forward(given, real), chance[:, i], temperature, top_p)
        out.append(new)
        finished |= torch.isin(new, stops)
        if ends and finished.all():
            break
        given = new[:, None] if use_cache else torch.cat([given, new[:, None]], dim=1)
        real = torch.cat([real, real.new_ones(len(real), 1)], dim=1)
    return torch.stack(out, dim=1)


def choose(
    logits: Float[Tensor, "batch words"], chance: Float[Tensor, "batch"], temperature: float, top_p: float
) -> Int[Tensor, "batch"]:
    """The next token of each row: the likeliest at temperature 0, else where the summed probabilities pass `chance`."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    p = torch.softmax(logits.double() / temperature, dim=-1)
    ranked = p.sort(dim=-1, descending=True, stable=True)
    kept = torch.where(ranked.values.cumsum(dim=-1) - ranked.values < top_p, ranked.values, 0.0)
    summed = kept.cumsum(dim=-1)
    place = torch.searchsorted(summed, chance.double()[:, None] * summed[:, -1:], right=True)
    last = (kept > 0).sum(dim=-1, keepdim=True) - 1  # rounding must not pass the last token kept
    return ranked.indices.gather(-1, torch.minimum(place, last)).squeeze(-1)


# Forward calls

_works: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def cache_works(model: HookedModel) -> bool:
    """Whether a model goes on with a KV cache as without one, found out by two steps after two short prompts; once per
    object, hooks on it set aside. Where it does not, a warning says so.

    A cache that stays empty leaves the model with the newest token alone, and nothing complains.
    """
    if model not in _works:
        tokens, mask = left_padded(sample_rows(model), model)
        with torch.no_grad(), without_hooks(model):
            expected = _two_steps(model, tokens, mask.long(), use_cache=False)
            try:
                found = _two_steps(model, tokens, mask.long(), use_cache=True)
            except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
                why, _works[model] = f"fails with its KV cache ({error})", False
            else:
                off = float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
                why = f"goes on otherwise with its KV cache than without (logits off by {off:.2g} of their norm)"
                _works[model] = off <= 4 * tolerance(model)  # which is for one block; here rounding adds up
        if not _works[model]:
            name = getattr(model.cfg, "sae_moral_name", None) or model.cfg.model_name
            message = f"{type(model).__name__} of {name} {why}; texts are generated without one, which is slower"
            warnings.warn(SaeMoralWarning(message), stacklevel=3)
    return _works[model]


def _two_steps(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], real: Int[Tensor, "batch pos"], *, use_cache: bool
) -> Float[Tensor, "batch 2 words"]:
    """Logits of the last two positions, one after the other, after all before them."""
    forward, width = last_logits(model, len(tokens), use_cache=use_cache), tokens.shape[1]
    if use_cache:
        forward(tokens[:, :-2], real[:, :-2])
    starts = [(end - 1 if use_cache else 0, end) for end in (width - 1, width)]
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
