"""Prompts → token ids: plain texts with one BOS, chats through the template exactly once; left-padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_moral.capture.prompts import BOS_MODES, sink_token, unaltered_tokenizer
from sae_moral.errors import DataError, unknown

Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]
"""A text, a chat (messages with `role` and `content`), or token ids, which are used as they are."""


def prompt_ids(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    chat: bool | str = False,
    thinking: bool = False,
    bos: str = "prepend",
    new_tokens: int = 0,
) -> list[list[int]]:
    """Token ids of every prompt.

    Args:
        chat: True: a text is a user's message, for the model's chat template. False: plain text. `auto`: the template
            where the model has one; a chat on a model without one is then its contents, as plain text.
        thinking: passed to the template as `enable_thinking`; most templates do not know it.
        bos: of plain texts: `prepend` (exactly one BOS) or `tokenizer` (whatever that adds). Templates bring their own.
        new_tokens: how many tokens must still fit after the prompt.

    Raises:
        ValueError: an unknown setting, or a chat for a model without a template.
        DataError: a prompt that is empty, or longer than the context; `row` counts from 1.
    """
    if chat not in (True, False, "auto"):
        raise ValueError(f"chat is {chat!r}; expected True, False or 'auto'")
    if bos not in BOS_MODES:
        raise unknown("bos", bos, BOS_MODES)
    tokenizer = model.tokenizer
    templated = getattr(tokenizer, "chat_template", None) is not None
    found = []
    for row, prompt in enumerate(prompts, start=1):
        if isinstance(prompt, str):
            as_chat = templated if chat == "auto" else bool(chat)
            ids = (
                _chat(tokenizer, [{"role": "user", "content": prompt}], thinking)
                if as_chat
                else _plain(tokenizer, prompt, bos)
            )
        elif len(prompt) and isinstance(prompt[0], Mapping):
            messages = [dict(message) for message in prompt if isinstance(message, Mapping)]
            if templated or chat != "auto":
                ids = _chat(tokenizer, messages, thinking)
            else:
                ids = _plain(tokenizer, "\n\n".join(message["content"] for message in messages), bos)
        else:
            ids = [int(token) for token in prompt if not isinstance(token, Mapping)]
        _check(ids, row, new_tokens, model.cfg.n_ctx)
        found.append(ids)
    return found


def _plain(tokenizer: Any, text: str, bos: str) -> list[int]:
    if bos == "tokenizer":
        return list(unaltered_tokenizer(tokenizer)(text, verbose=False).input_ids)
    ids, first = list(tokenizer(text, verbose=False).input_ids), sink_token(tokenizer)
    while ids[:1] == [first]:
        ids = ids[1:]
    return [first, *ids]


def _chat(tokenizer: Any, messages: list[dict[str, str]], thinking: bool) -> list[int]:
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"{tokenizer.name_or_path} has no chat template (a base model?); use chat=False with texts, or chat='auto'"
        )
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=thinking, tokenize=True, return_dict=False
    )
    return list(ids)


def _check(ids: list[int], row: int, new_tokens: int, n_ctx: int) -> None:
    if not ids:
        raise DataError("a prompt without a token; expected at least one", row=row)
    if len(ids) + new_tokens > n_ctx:
        raise DataError(
            f"a prompt of {len(ids)} tokens with {new_tokens} to come is longer than the model's context of {n_ctx}; "
            "shorten it, or ask for fewer new tokens",
            row=row,
        )


def left_padded(
    ids: Sequence[Sequence[int]], tokenizer: Any, device: torch.device | str
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """One batch, padded on the left so that all prompts end together, and where it is not padding."""
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    width = max(map(len, ids))
    tokens = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in ids], device=device)
    return tokens, mask
