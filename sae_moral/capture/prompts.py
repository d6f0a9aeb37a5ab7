"""Texts → token ids: the template, one BOS, which tokens are the scenario's own; chats; batches.

`build_prompts` is for reading scenarios: distinct prompts, padded on the right, in batches of a token budget.
`prompt_ids` is for prompts that are continued: texts, chats through the model's template exactly once, or ids; padded
on the left (`left_padded`), so that all end together.

What looks like a control token in a text or a message (`<s>`, `<|im_start|>`) is text; in a template it is the token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Int
from jinja2 import TemplateError
from torch import Tensor

from sae_moral.data.text import is_blank
from sae_moral.errors import DataError, in_one_line, unknown
from sae_moral.provenance import HookedModel

BOS_MODES = ("tokenizer", "prepend", "none")
Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]
"""A text, a chat (messages with `role` and `content`), or token ids, which are used as they are."""


@dataclass(frozen=True)
class Tokens:
    """One padded batch.

    Attributes:
        ids: token ids, padded.
        real: True on tokens, False on padding.
        own: True on the scenario's own tokens: neither special, nor of the template, nor padding.
    """

    ids: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    own: Bool[Tensor, "batch pos"]


@dataclass(frozen=True)
class Prompts:
    """The distinct prompts of n scenarios, shortest first, as token ids.

    Attributes:
        ids: token ids of each distinct prompt.
        own: positions of the scenario's own tokens, as (start, stop) in `ids`.
        row: for each scenario the index of its prompt.
        special: special tokens per prompt (BOS and whatever else the tokenizer adds).
        first_token: what stands at position 0: the BOS token's text, or "text" when the tokenizer adds none.
        pad: the id used for padding.
    """

    ids: list[list[int]]
    own: Int[np.ndarray, "prompts 2"]
    row: Int[np.ndarray, "n"]
    special: Int[np.ndarray, "prompts"]
    first_token: str
    pad: int

    @property
    def length(self) -> Int[np.ndarray, "n"]:
        """The scenario's own tokens, per scenario."""
        return (self.own[:, 1] - self.own[:, 0])[self.row]

    @property
    def total(self) -> Int[np.ndarray, "n"]:
        """All tokens of the prompt, per scenario: special ones and the template's words included."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)[self.row]

    @property
    def digest(self) -> str:
        """Hash of all token ids and of the scenario's own among them, for keys."""
        digest = xxhash.xxh3_128()
        for ids, span in zip(self.ids, self.own, strict=True):
            digest.update(np.asarray([len(ids), *span, *ids], dtype="<i8").tobytes())
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        """Prompts, tokens, and how many of these are special ones and the template's, over the distinct prompts."""
        n_tokens, special = sum(map(len, self.ids)), int(self.special.sum())
        return {
            "n_prompts": len(self.ids),
            "n_tokens": n_tokens,
            "special_tokens": special,
            "template_tokens": int(n_tokens - special - np.diff(self.own).sum()),
        }

    def batches(self, budget: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of consecutive prompts whose padded size stays within `budget` tokens (one prompt at least).

        A batch also ends where the next prompt would make more than a tenth of it padding, once it has an eighth of
        the budget: few texts of many lengths would otherwise spend their time on padding.
        """
        start, real = 0, 0
        for i, ids in enumerate(self.ids):
            padded, real = (i - start + 1) * len(ids), real + len(ids)
            if i > start and (padded > budget or (padded > 1.1 * real and padded > budget / 8)):
                yield start, i
                start, real = i, len(ids)
        yield start, len(self.ids)

    def tokens(self, start: int, stop: int, device: torch.device | str, *, left: bool = False) -> Tokens:
        """Prompts start … stop as one batch, padded on the right, or on the left so that all end together."""
        return self.batch(range(start, stop), device, left=left)

    def batch(self, which: Sequence[int], device: torch.device | str, *, left: bool = False) -> Tokens:
        """These prompts as one batch, padded as `tokens` does."""
        width = max(len(self.ids[i]) for i in which)
        ids = torch.full((len(which), width), self.pad, dtype=torch.long)
        real = torch.zeros_like(ids, dtype=torch.bool)
        own = torch.zeros_like(real)
        for i, prompt in enumerate(which):
            sequence, (first, last) = self.ids[prompt], self.own[prompt]
            begin = width - len(sequence) if left else 0
            ids[i, begin : begin + len(sequence)] = torch.tensor(sequence)
            real[i, begin : begin + len(sequence)] = True
            own[i, begin + first : begin + last] = True
        return Tokens(ids.to(device), real.to(device), own.to(device))


def tokenizer_of(model: HookedModel) -> Any:
    """The model's tokenizer.

    Raises:
        ValueError: it has none.
    """
    if model.tokenizer is None:
        raise ValueError(f"this {type(model).__name__} has no tokenizer; give it one: model.set_tokenizer(tokenizer)")
    return model.tokenizer


def prompts_of(model: HookedModel, text: Sequence[str], *, template: str = "{text}", bos: str = "prepend") -> Prompts:
    """`build_prompts` for a model: its tokenizer, its context, its embedding."""
    cfg = model.cfg
    return build_prompts(text, tokenizer_of(model), template=template, bos=bos, n_ctx=cfg.n_ctx, n_vocab=cfg.d_vocab)


def build_prompts(
    text: Sequence[str],
    tokenizer: Any,
    *,
    template: str = "{text}",
    bos: str = "prepend",
    n_ctx: int | None = None,
    n_vocab: int | None = None,
) -> Prompts:
    """Tokenise `template.format(text=...)` for every scenario, each distinct prompt once.

    Args:
        bos: `tokenizer`: whatever the tokenizer itself adds; `prepend`: exactly one BOS in front. A tokenizer without
            a BOS token gets its end-of-text token there, which models trained on packed documents know as a start.
            `none`: nothing is added, for templates that have all that is needed (`chat_prompt`).
        n_ctx: the model's context length.
        n_vocab: rows of the model's embedding.

    Raises:
        ValueError: a template without `{text}`, an unknown `bos`, a tokenizer with neither BOS nor end-of-text token
            (`prepend`) or one whose original cannot be loaded again (`tokenizer`).
        DataError: a prompt longer than `n_ctx`, a scenario without a token of its own, one with a token that the
            embedding does not have, or one with a control token beside a template that has some, too.
    """
    if template.count("{text}") != 1:
        raise ValueError(f"template {template!r}; expected exactly one {{text}} in it, e.g. '{{text}} is morally'")
    if bos not in BOS_MODES:
        raise unknown("bos", bos, BOS_MODES)
    if bos == "tokenizer":
        tokenizer = unaltered_tokenizer(tokenizer)
    distinct, inverse = np.unique(np.array(text, dtype=object), return_inverse=True)
    before, _, after = template.partition("{text}")
    encoded = _encode(tokenizer, before, distinct.tolist(), after, added=bos != "none")
    if bos == "prepend":
        encoded = [_with_bos(sink_token(tokenizer), *prompt) for prompt in encoded]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    prompts = Prompts(
        ids=[encoded[i][0] for i in order],
        own=np.array([encoded[i][1] for i in order], dtype=np.int64),
        row=rank[inverse],
        special=np.array([encoded[i][2] for i in order], dtype=np.int64),
        first_token=_first_token(tokenizer, encoded[order[0]][0]),
        pad=_pad(tokenizer, n_vocab),
    )
    _check(prompts, text, n_ctx, n_vocab, _control_ids(tokenizer))
    return prompts


_Encoded = tuple[list[int], tuple[int, int], int]
"""Ids, the span of the scenario's own tokens, the number of special tokens."""


def _encode(tokenizer: Any, before: str, scenarios: list[str], after: str, *, added: bool) -> list[_Encoded]:
    if not tokenizer.is_fast and (before or after):
        raise ValueError(
            f"{type(tokenizer).__name__} has no character offsets, so a template's tokens cannot be told from the "
            "scenario's; use a fast tokenizer or the template '{text}'"
        )
    # Control tokens are written in the template or nowhere. (A tokenizer adds its own to either.)
    as_text = _control(tokenizer).search(before + after) is None
    encoding = tokenizer(
        [before + scenario + after for scenario in scenarios],
        add_special_tokens=added,
        split_special_tokens=as_text,
        return_offsets_mapping=tokenizer.is_fast,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
    )
    prompts = []
    for i, scenario in enumerate(scenarios):
        ids, special = encoding["input_ids"][i], encoding["special_tokens_mask"][i]
        if tokenizer.is_fast:
            start, stop = len(before), len(before) + len(scenario)
            spans = encoding["offset_mapping"][i]
            own = [k for k, (a, b) in enumerate(spans) if not special[k] and b > a and a < stop and b > start]
        else:
            own = [k for k, flag in enumerate(special) if not flag]
        prompts.append((list(ids), (own[0], own[-1] + 1) if own else (0, 0), int(sum(special))))
    return prompts


def _with_bos(token: int, ids: list[int], own: tuple[int, int], special: int) -> _Encoded:
    """Exactly one `token` in front."""
    return (ids, own, special) if ids[:1] == [token] else ([token, *ids], (own[0] + 1, own[1] + 1), special + 1)


def _control(tokenizer: Any) -> re.Pattern[str]:
    """Finds the strings that are control tokens."""
    written = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, written)) or r"(?!)")


def _control_ids(tokenizer: Any) -> frozenset[int]:
    """Of the control tokens; that for unknown words is none of a text's."""
    return frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def _pad(tokenizer: Any, n_vocab: int | None) -> int:
    """A padding token is often added without a row of the embedding; any other will do, since padding is masked."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((i for i in found if i is not None and (n_vocab is None or i < n_vocab)), 0)


def unaltered_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer as its authors made it. TransformerLens reloads tokenizers with `add_bos_token=True`, so that the
    one on a model may add a BOS that the model's own does not (SmolLM2, GPT-2).

    Raises:
        ValueError: it has such a BOS and its original cannot be loaded again.
    """
    if not getattr(tokenizer, "add_bos_token", False):
        return tokenizer
    try:
        return _load_tokenizer(tokenizer.name_or_path, getattr(tokenizer, "sae_moral_revision", None))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"TransformerLens may have added a BOS to this tokenizer, and its original {tokenizer.name_or_path!r} "
            f"cannot be loaded again to see ({in_one_line(error)}); use bos='prepend', or give the model a "
            "tokenizer whose add_bos_token is False"
        ) from error


@lru_cache(maxsize=4)
def _load_tokenizer(name_or_path: str, revision: str | None) -> Any:
    """Gemma's takes seconds to load, as long as a hundred texts through the model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name_or_path, revision=revision)


def sink_token(tokenizer: Any) -> int:
    """Id of the token put first to take the attention sink: BOS, else end-of-text.

    Raises:
        ValueError: the tokenizer has neither.
    """
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, name, None) is not None:
            return int(getattr(tokenizer, name))
    raise ValueError(
        f"{type(tokenizer).__name__} has neither a BOS nor an end-of-text token to put first; set tokenizer.bos_token, "
        "or use bos='tokenizer' and know that the first word then carries the attention sink"
    )


def _first_token(tokenizer: Any, ids: list[int]) -> str:
    special = ids[:1] if set(ids[:1]) & set(tokenizer.all_special_ids) else []
    return str(tokenizer.convert_ids_to_tokens(special[0])) if special else "text"


def _check(
    prompts: Prompts, text: Sequence[str], n_ctx: int | None, n_vocab: int | None, control: frozenset[int]
) -> None:
    empty = np.flatnonzero((prompts.length == 0) | np.array([is_blank(one) for one in text]))
    if empty.size:
        row = int(empty[0])
        raise DataError(f"{text[row]!r} has no token of its own; expected words the tokenizer knows", row=row + 1)
    for i, (ids, (start, stop)) in enumerate(zip(prompts.ids, prompts.own, strict=True)):
        if found := control.intersection(ids[start:stop]):
            row = int(np.flatnonzero(prompts.row == i)[0])
            problem = f"{text[row]!r} holds a control token of the model (id {min(found)}), and so does the template"
            raise DataError(f"{problem}; expected a text without, or a template without", row=row + 1)
        if n_vocab is not None and max(ids) >= n_vocab:
            row = int(np.flatnonzero(prompts.row == i)[0])
            raise DataError(_beyond(max(ids), n_vocab), row=row + 1)
    if n_ctx is not None and len(prompts.ids[-1]) > n_ctx:
        row = int(np.flatnonzero(prompts.total > n_ctx)[0])
        problem = f"{int((prompts.total > n_ctx).sum())} prompts are longer than the model's context of {n_ctx} tokens"
        these = f"this one has {prompts.total[row]}, the longest {len(prompts.ids[-1])}"
        raise DataError(f"{problem} ({these}); shorten or leave them out", row=row + 1)


def _beyond(token: int, n_vocab: int) -> str:
    return (
        f"token {token} has no row in the model's embedding of {n_vocab}: the tokenizer is of another model, or has "
        "tokens that were added without resizing the embedding"
    )


# Prompts that are continued


def prompt_ids(
    model: HookedModel,
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
        bos: of plain texts: `prepend` (exactly one BOS), `tokenizer` (whatever that adds) or `none`. Chat templates
            bring their own.
        new_tokens: how many tokens must still fit after the prompt.

    Raises:
        ValueError: an unknown setting, a chat for a model without a template, or one that the template refuses.
        DataError: a prompt that is empty, longer than the context, or with a token that the embedding does not have;
            `row` counts from 1.
    """
    if chat not in (True, False, "auto"):
        raise ValueError(f"chat is {chat!r}; expected True, False or 'auto'")
    if bos not in BOS_MODES:
        raise unknown("bos", bos, BOS_MODES)
    found, tokenizer = [], tokenizer_of(model)
    for row, prompt in enumerate(prompts, start=1):
        try:
            ids = _ids_of(tokenizer, prompt, chat, thinking, bos)
        except TemplateError as error:
            why = f"prompt {row}: the chat template of {tokenizer.name_or_path} refuses it ({error})"
            raise ValueError(f"{why}; change the messages, e.g. put what the system says into the first one") from error
        _check_length(ids, row, new_tokens, model.cfg.n_ctx)
        if max(ids) >= model.cfg.d_vocab:
            raise DataError(_beyond(max(ids), model.cfg.d_vocab), row=row)
        found.append(ids)
    return found


def _ids_of(tokenizer: Any, prompt: Prompt, chat: bool | str, thinking: bool, bos: str) -> list[int]:
    if isinstance(prompt, str):
        messages, as_chat = [{"role": "user", "content": prompt}], chat
    else:
        messages = [dict(message) for message in prompt if isinstance(message, Mapping)]
        if not messages:
            return [int(token) for token in prompt if not isinstance(token, Mapping)]
        as_chat = chat or True
    if as_chat == "auto":
        as_chat = getattr(tokenizer, "chat_template", None) is not None
    if as_chat:
        return _chat(tokenizer, messages, thinking)
    return _plain(tokenizer, "\n\n".join(message["content"] for message in messages), bos)


def _plain(tokenizer: Any, text: str, bos: str) -> list[int]:
    if bos != "prepend":
        added = bos == "tokenizer"
        own = unaltered_tokenizer(tokenizer) if added else tokenizer
        return list(own(text, add_special_tokens=added, split_special_tokens=True, verbose=False).input_ids)
    # A prompt that was written with its BOS has that one.
    written = text.removeprefix(tokenizer.bos_token or "")
    ids = list(tokenizer(written, split_special_tokens=True, verbose=False).input_ids)
    first = sink_token(tokenizer)
    while ids[:1] == [first]:
        ids = ids[1:]
    return [first, *ids]


def _chat(tokenizer: Any, messages: list[dict[str, str]], thinking: bool) -> list[int]:
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"{tokenizer.name_or_path} has no chat template (a base model?); use chat=False with texts, or chat='auto'"
        )
    how: dict[str, Any] = {"add_generation_prompt": True, "enable_thinking": thinking}
    control = _control(tokenizer)
    held = {
        f"\ue000{i}\ue001": message["content"]
        for i, message in enumerate(messages)
        if control.search(message["content"])
    }
    if not held:
        return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **how))
    # The template's control tokens are tokens, those in a message are text: each is encoded by itself.
    names = {content: name for name, content in held.items()}
    marked = [{**message, "content": names.get(message["content"], message["content"])} for message in messages]
    written = tokenizer.apply_chat_template(marked, tokenize=False, **how)
    ids: list[int] = []
    for part in re.split(f"({'|'.join(held)})", written):
        more = {"add_special_tokens": False, "split_special_tokens": part in held, "verbose": False}
        ids += tokenizer(held.get(part, part), **more).input_ids if part else []
    return ids


def _check_length(ids: list[int], row: int, new_tokens: int, n_ctx: int) -> None:
    if not ids:
        raise DataError("a prompt without a token; expected at least one", row=row)
    if len(ids) + new_tokens > n_ctx:
        raise DataError(
            f"a prompt of {len(ids)} tokens with {new_tokens} to come is longer than the model's context of {n_ctx}; "
            "shorten it, or ask for fewer new tokens",
            row=row,
        )


def left_padded(
    ids: Sequence[Sequence[int]], model: HookedModel
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """One batch, padded on the left so that all prompts end together, and where it is not padding."""
    pad, device = _pad(model.tokenizer, model.cfg.d_vocab), model.cfg.device or "cpu"
    width = max(map(len, ids))
    tokens = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in ids], device=device)
    return tokens, mask
