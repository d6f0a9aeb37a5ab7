"""`generate`: batched decoding of a model, steered or not, on a TransformerBridge or a HookedTransformer alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_moral.capture.agreement import check_agreement
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import Prompt, left_padded, prompt_ids
from sae_moral.provenance import HookedModel
from sae_moral.shown import shown
from sae_moral.steering.forwards import Cached, Forward, steered
from sae_moral.steering.hooks import Start
from sae_moral.steering.steering import Steering


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
        use_cache: a KV cache, which is faster and gives the same. Of a bridge without hooks on it the wrapped model
            itself runs, which is faster still. Where no cache gives what the model gives without one (Mamba; with hooks
            on the bridge MPT, too) there is none; a warning says so once.
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
    ends = end_tokens(model) if stop_at_eos else []
    found: dict[int, Generation] = {}
    with torch.inference_mode(), steered(model, steerings, use_cache, any_model) as (start, forwards, cached):
        for rows, tokens, mask in _batches(model, ids, batch_size):
            start(mask)
            chance = torch.tensor(np.stack([_uniform(seed, ids[row], max_new_tokens) for row in rows]))
            options = (temperature, top_p, ends, cached)
            out = _continue(forwards(len(rows)), start, tokens, mask, chance.to(tokens.device), *options)
            for row, new in zip(rows, out.tolist(), strict=True):
                found[row] = _generation(model.tokenizer, ids[row], new, ends)
    return [found[row] for row in range(len(ids))]


def next_logprobs(
    model: HookedModel | nn.Module,
    prompts: Sequence[Prompt],
    *,
    steerings: Steering | Sequence[Steering] = (),
    chat: bool | str = False,
    thinking: bool = False,
    bos: str = "prepend",
    batch_size: int = 8,
    any_model: bool = False,
) -> Float[Tensor, "n words"]:
    """Log-probabilities of the token that comes after each prompt, on the CPU (n × vocabulary × 4 bytes).

    Arguments and errors as for `generate`.
    """
    model = hooked_model(model)
    ids = prompt_ids(model, prompts, chat=chat, thinking=thinking, bos=bos, new_tokens=1)
    if not ids:
        return torch.empty(0, int(model.cfg.d_vocab))
    check_agreement(model)
    found: dict[int, Tensor] = {}
    with torch.inference_mode(), steered(model, steerings, True, any_model) as (start, forwards, _):
        for rows, tokens, mask in _batches(model, ids, batch_size):
            start(mask)
            logits = forwards(len(rows))(tokens, mask.long())
            found |= zip(rows, torch.log_softmax(logits, dim=-1).cpu(), strict=True)
    return torch.stack([found[row] for row in range(len(ids))])


def _batches(
    model: HookedModel, ids: Sequence[list[int]], size: int
) -> Iterator[tuple[list[int], Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]]:
    """Prompts of similar length together: which they are, padded on the left, and the mask of their tokens."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        yield rows, *left_padded([ids[row] for row in rows], model)


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
    forward: Forward,
    start: Start,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    chance: Float[Tensor, "batch new"],
    temperature: float,
    top_p: float,
    ends: list[int],
    cached: bool,
) -> Int[Tensor, "batch new"]:
    """The new tokens; after a row's end token only that. Rows that have ended leave the batch where they can."""
    filler = ends[0] if ends else 0
    stops, out = torch.tensor(ends, device=tokens.device), tokens.new_full(chance.shape, filler)
    given, real, rows = tokens, mask.long(), torch.arange(len(tokens), device=tokens.device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    for i in range(chance.shape[1]):
        new = choose(forward(given, real), chance[rows, i], temperature, top_p)
        out[rows, i] = torch.where(ended, filler, new)
        over = torch.isin(new, stops)
        ended = ended | over
        if ended.all():
            break
        if over.any() and isinstance(forward, Cached) and forward.keep(left := (~ended).nonzero().squeeze(1)):
            start.keep(left)
            rows, new, real, ended = rows[left], new[left], real[left], ended[left]
        given = new[:, None] if cached else torch.cat([given, new[:, None]], dim=1)
        real = torch.cat([real, real.new_ones(len(real), 1)], dim=1)
    return out


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
