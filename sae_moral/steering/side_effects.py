"""What a steering breaks: next-word predictions on neutral text, and the diversity of what is generated.

Every text is run twice in one batch, once as it is and once with every token steered (but the first, for steerings that
leave it out; otherwise whatever their `positions`: the question is what they do where they act). Over all next-token
predictions, the first one after BOS included:

    kl                 KL(unsteered ‖ steered) in nats, mean per prediction
    perplexity_ratio   exp of the mean difference of −log p(next token), steered minus unsteered; 1: none
    top_agreement      share of predictions whose likeliest token stays
    norm_share         ‖steered − unsteered residual‖ / ‖unsteered residual‖ at the last steered block, mean per token

Small values prove that neutral prediction is intact, not that what is said on moral matters is sound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.capture.hooks import resolve_hooks
from sae_moral.steering.generate import generate
from sae_moral.steering.hooks import steer
from sae_moral.steering.positions import WITHOUT_MASK
from sae_moral.steering.prompts import Prompt, prompt_ids
from sae_moral.steering.steering import Steering


@dataclass(frozen=True)
class SideEffects:
    """See the module. Attributes:
    n: predictions compared.
    """

    kl: float
    perplexity_ratio: float
    top_agreement: float
    norm_share: float
    n: int


def neutral_texts() -> list[str]:
    """Two dozen plain factual sentences, English and Chinese."""
    return (files("sae_moral.steering") / "neutral.txt").read_text(encoding="utf8").splitlines()


def side_effects(
    model: Any,
    steerings: Steering | Sequence[Steering],
    texts: Sequence[str] | None = None,
    *,
    batch_size: int = 4,
    any_model: bool = False,
) -> SideEffects:
    """Compare the steered with the unsteered model on neutral text (see the module for the formulas).

    Args:
        texts: `neutral_texts()` by default.
        batch_size: texts per batch; each is in it twice.

    Raises:
        ValueError: a bad steering, or no text.
        DataError: a text longer than the context.
    """
    ids = sorted(prompt_ids(model, neutral_texts() if texts is None else texts), key=len)
    if not ids:
        raise ValueError("no neutral text given; expected at least one")
    given = [steerings] if isinstance(steerings, Steering) else list(steerings)
    chosen = [
        dataclasses.replace(one, positions=one.positions if one.positions in WITHOUT_MASK else "all")
        for one in given
        if one.alpha
    ]
    found: list[Float[Tensor, "tokens 3"]] = []
    shares: list[Tensor] = []
    device = model.cfg.device or "cpu"

    def compare_halves(hidden: Tensor, hook: Any = None) -> None:
        plain, steered = hidden.float().chunk(2)
        norm = torch.linalg.vector_norm
        shares.append(norm(steered - plain, dim=-1) / norm(plain, dim=-1))

    last = max((one.what.layer for one in chosen), default=0)
    watch = [(resolve_hooks(model, [last])[last], compare_halves)]
    with torch.inference_mode(), steer(model, chosen, any_model=any_model) as start, model.hooks(fwd_hooks=watch):
        for first in range(0, len(ids), batch_size):
            rows = ids[first : first + batch_size]
            # Padded on the right: what follows a token cannot change it, and BOS stays at position 0.
            tokens, real = _right_padded(rows, device)
            nowhere = torch.zeros_like(real)
            start(torch.cat([nowhere, real]))
            logits = model(tokens.repeat(2, 1), attention_mask=real.long().repeat(2, 1), return_type="logits")
            plain, steered = logits.chunk(2)
            found.append(_predictions(plain, steered, tokens)[real[:, 1:]])
            shares[-1] = shares[-1][real]
    kl, worse, same = torch.cat(found).double().mean(dim=0).tolist()
    n = sum(map(len, found))
    return SideEffects(kl, float(torch.tensor(worse).exp()), same, float(torch.cat(shares).mean()), n)


def _right_padded(rows: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    return tokens, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows], device=device)


def _predictions(
    plain: Float[Tensor, "batch pos words"], steered: Float[Tensor, "batch pos words"], tokens: Tensor
) -> Float[Tensor, "batch pos-1 3"]:
    """Per prediction: KL, how much worse the next token is predicted, whether the likeliest token stays."""
    p, q = (logits[:, :-1].float().log_softmax(dim=-1) for logits in (plain, steered))
    kl = (p.exp() * (p - q)).sum(dim=-1)
    following = tokens[:, 1:, None]
    worse = (p.gather(-1, following) - q.gather(-1, following)).squeeze(-1)
    return torch.stack([kl, worse, (p.argmax(dim=-1) == q.argmax(dim=-1)).float()], dim=-1)


OPENINGS = ("The weather today", "In my opinion,", "She opened the door and", "The history of", "今天", "我认为")
"""Beginnings that a text can go on from in many ways."""


def diversity(
    model: Any, steerings: Steering | Sequence[Steering], prompts: Sequence[Prompt] = OPENINGS, **options: Any
) -> dict[str, float | None]:
    """`distinct_1`, `distinct_2` and `repetition` of what is generated (greedily, unless the options say otherwise).

    Args:
        options: as for `generate`.
    """
    found = [one.ids for one in generate(model, prompts, steerings=steerings, **options)]
    repeated = distinct_n(found, 4)
    return {
        "distinct_1": distinct_n(found, 1),
        "distinct_2": distinct_n(found, 2),
        "repetition": None if repeated is None else 1 - repeated,
    }


def distinct_n(texts: Sequence[Sequence[int]], n: int) -> float | None:
    """Distinct n-grams of a text as a share of its n-grams, mean over the texts that have any; None if none has.

    Li et al. 2016 (arXiv 1510.03055) count over all texts together; per text it does not depend on their number. One
    minus the share for n = 4 is our `repetition`.
    """
    shares = []
    for ids in texts:
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None
