"""What the model would say of a scenario: the margin between next tokens that call it right and that call it wrong.

    margin(scenario) = mean over pairs of  logit(approving) − logit(disapproving)  after "{text} is morally"
    gap              = mean margin of virtuous − mean margin of vicious scenarios

A higher gap tells the poles better apart; a margin that moves for both poles alike is a change of tone, not of
discernment. The interval is a percentile bootstrap over texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sae_moral.capture.prompts import build_prompts
from sae_moral.data import MoralData
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.steering.forward import last_logits
from sae_moral.steering.hooks import steer
from sae_moral.steering.prompts import left_padded
from sae_moral.steering.steering import Steering

PAIRS = ((" right", " wrong"), (" good", " bad"), (" acceptable", " unacceptable"))
TEMPLATE = "{text} is morally"


@dataclass(frozen=True, eq=False)
class Acceptability:
    """Attributes:
    margin: per scenario, in nats (differences of logits are log-odds).
    gap, low, high: mean of the virtuous minus mean of the vicious, and its 95 % interval.
    tokens: the token ids of each pair, approving first.
    """

    margin: Float[np.ndarray, "n"]
    gap: float
    low: float
    high: float
    tokens: tuple[tuple[int, int], ...]


def acceptability(
    model: Any,
    data: MoralData,
    steerings: Steering | Sequence[Steering] = (),
    *,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    template: str = TEMPLATE,
    bos: str = "prepend",
    batch_size: int = 32,
    draws: int = 1000,
    seed: int = 0,
    any_model: bool = False,
) -> Acceptability:
    """Margins of the scenarios, and the gap between the poles.

    Args:
        data: held-out scenarios, of both poles.
        pairs: approving and disapproving continuations, each a single token.

    Raises:
        ValueError: a word of several tokens, a pole without scenarios, or a bad steering.
        DataError: a scenario longer than the context.
    """
    tokens = tuple((_token(model.tokenizer, good), _token(model.tokenizer, bad)) for good, bad in pairs)
    prompts = build_prompts(data.text, model.tokenizer, template=template, bos=bos, n_ctx=model.cfg.n_ctx)
    good, bad = (list(side) for side in zip(*tokens, strict=True))
    margins = []
    with torch.inference_mode(), steer(model, steerings, any_model=any_model) as start:
        for first in range(0, len(prompts.ids), batch_size):
            rows = prompts.ids[first : first + batch_size]
            ids, mask = left_padded(rows, model.tokenizer, model.cfg.device or "cpu")
            start(mask)
            logits = last_logits(model, len(rows))(ids, mask.long())
            margins.append((logits[:, good] - logits[:, bad]).mean(dim=1).cpu())
    margin = torch.cat(margins).double().numpy()[prompts.row]
    value, low, high = gap(margin, data, text_weights(data, draws, seed))
    return Acceptability(margin, value, low, high, tokens)


def gap(
    margin: Float[np.ndarray, "n"], data: MoralData, weights: Float[np.ndarray, "draws n"]
) -> tuple[float, float, float]:
    """Mean of the virtuous minus mean of the vicious scenarios, and its 95 % interval over the draws. Of a difference
    of two margins it is how much one steering's gap is above the other's, text by text.

    Raises:
        ValueError: a pole without scenarios.
    """
    virtue, vice = data.pole == VIRTUE, data.pole == VICE
    if not virtue.any() or not vice.any():
        raise ValueError(f"{virtue.sum()} virtuous and {vice.sum()} vicious scenarios; expected some of both")
    with np.errstate(invalid="ignore"):  # a draw without one of the poles says nothing
        good, bad = (weights[:, own] @ margin[own] / weights[:, own].sum(axis=1) for own in (virtue, vice))
    low, high = np.nanpercentile(good - bad, [2.5, 97.5])
    return float(margin[virtue].mean() - margin[vice].mean()), float(low), float(high)


def text_weights(data: MoralData, draws: int, seed: int = 0) -> Float[np.ndarray, "draws n"]:
    """How often each scenario counts in each draw: texts are drawn with replacement, with all their records."""
    present, index = np.unique(data.group, return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(present), np.full(len(present), 1 / len(present)), size=draws)
    return counts[:, index].astype(np.float64)


def _token(tokenizer: Any, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"{word!r} is {len(ids)} tokens here ({tokenizer.convert_ids_to_tokens(ids)}); expected a word that is "
            "one, and known"
        )
    return int(ids[0])
