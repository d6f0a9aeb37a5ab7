"""Pooling strategies: which tokens of a prompt a scenario's vector is the mean of.

A strategy is a function from a batch of `Tokens` to a weight per token; the pooled vector is the weighted mean of the
token vectors. A researcher's own strategy is a plain function of the same shape, passed as `pooling=`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.errors import unknown


@dataclass(frozen=True)
class Tokens:
    """One right-padded batch.

    Attributes:
        ids: token ids, right-padded.
        real: True on tokens, False on padding.
        own: True on the scenario's own tokens: neither special, nor of the template, nor padding.
    """

    ids: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    own: Bool[Tensor, "batch pos"]


Pooling = Callable[[Tokens], Float[Tensor, "batch pos"]]


def all_tokens(tokens: Tokens) -> Float[Tensor, "batch pos"]:
    """Mean over every token, the first included (arXiv 2603.15615). The first token is an attention sink of huge
    norm whose share is one over the prompt's length, so these vectors are mostly a measure of length."""
    return tokens.real.float()


def scenario_tokens(tokens: Tokens) -> Float[Tensor, "batch pos"]:
    """Mean over the scenario's own tokens, without special tokens and the template's words."""
    return tokens.own.float()


def last_token(tokens: Tokens) -> Float[Tensor, "batch pos"]:
    """The last real token of the prompt."""
    last = tokens.real.sum(dim=1) - 1
    return torch.nn.functional.one_hot(last, tokens.real.shape[1]).float()


POOLINGS: dict[str, Pooling] = {"all": all_tokens, "scenario": scenario_tokens, "last": last_token}
"""Strategies by name."""


def get_pooling(pooling: str | Pooling) -> Pooling:
    """The strategy of that name, or the given function itself.

    Raises:
        ValueError: unknown name.
    """
    if not isinstance(pooling, str):
        return pooling
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    return POOLINGS[pooling]


def pooling_name(pooling: str | Pooling) -> str:
    """What provenance and store keys call a strategy: a function is its module and qualified name."""
    return pooling if isinstance(pooling, str) else f"{pooling.__module__}.{pooling.__qualname__}"


def pool(hidden: Float[Tensor, "batch pos d"], weights: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch d"]:
    """Weighted mean over positions, accumulated in float32.

    Sum first, divide after: near an attention sink of a hundred times the other norms the order of the two is
    visible in the last digits, and HDBSCAN under the paper's protocol sees them (1 to 3 of 2,786 points change side).
    """
    weights = weights.to(hidden.device)
    return (hidden.float() * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
