"""Readers: what is taken of the residual stream of a batch at a layer. Here those that need no SAE.

`Pooled` takes one vector per prompt, a weighted mean over its tokens; a pooling strategy is a function from a batch of
`Tokens` to a weight per token, and a researcher's own is a plain function of that shape, passed as `pooling=`.
`OwnTokens` takes the vectors of the scenario's own tokens, one each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.capture.prompts import Prompts, Tokens
from sae_moral.errors import unknown

GRANULARITIES = ("scenario", "token")
"""One vector per prompt, or one per token of the scenario's own."""

Pooling = Callable[[Tokens], Float[Tensor, "batch pos"]]

Taken = TypeVar("Taken", covariant=True)


@runtime_checkable
class Reader(Protocol[Taken]):
    """What is taken of the residual stream.

    Calling it with a batch gives a function (layer, hidden [batch, pos, d]) → what is taken at that layer.
    """

    def __call__(self, tokens: Tokens) -> Callable[[int, Tensor], Taken]:
        """The function for one batch."""
        ...

    def first(self, prompts: Prompts) -> Int[np.ndarray, "_"]:
        """The row at which what is taken of each prompt begins, and where the last one's ends."""
        ...


class Pooled:
    """One vector per prompt, with the sink ratio: the norm of the first token over the mean norm of the other real
    ones, NaN for a prompt of one token.

    Taken are `vectors` [batch, d] and `sink` [batch]; vectors that are not finite raise RuntimeError.
    """

    parts = ("vectors", "sink")

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling

    def __call__(self, tokens: Tokens) -> Callable[[int, Tensor], dict[str, Tensor]]:
        weights = self.pooling(tokens)
        return lambda layer, hidden: {
            "vectors": finite(pool(hidden, weights), layer),
            "sink": _sink_ratio(hidden, tokens),
        }

    def first(self, prompts: Prompts) -> Int[np.ndarray, "_"]:
        return one_each(prompts)


class OwnTokens:
    """The vectors of the scenario's own tokens, prompt by prompt: `vectors` [tokens, d].

    Vectors that are not finite raise RuntimeError.
    """

    parts = ("vectors",)

    def __call__(self, tokens: Tokens) -> Callable[[int, Tensor], dict[str, Tensor]]:
        return lambda layer, hidden: {"vectors": finite(hidden[tokens.own.to(hidden.device)].float(), layer)}

    def first(self, prompts: Prompts) -> Int[np.ndarray, "_"]:
        return np.concatenate([[0], np.cumsum(np.diff(prompts.own))])


def one_each(prompts: Prompts) -> Int[np.ndarray, "_"]:
    """`Reader.first` where one row is taken of every prompt."""
    return np.arange(len(prompts.ids) + 1)


def finite(vectors: Float[Tensor, "*rows d"], layer: int) -> Float[Tensor, "*rows d"]:
    """The vectors.

    Raises:
        RuntimeError: one that is not finite.
    """
    if not torch.isfinite(vectors).all():
        raise RuntimeError(f"the residual stream after block {layer} has values that are not finite; try dtype float32")
    return vectors


def _sink_ratio(hidden: Float[Tensor, "batch pos d"], tokens: Tokens) -> Float[Tensor, "batch"]:
    norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    others = tokens.real[:, 1:].to(norms.device)
    return norms[:, 0] * others.sum(dim=1) / (norms[:, 1:] * others).sum(dim=1)


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
    """What provenance calls a strategy: a function is its module and qualified name."""
    if isinstance(pooling, str):
        return pooling
    return f"{pooling.__module__}.{getattr(pooling, '__qualname__', type(pooling).__qualname__)}"


def pool(hidden: Float[Tensor, "batch pos d"], weights: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch d"]:
    """Weighted mean over positions, accumulated in float32.

    Sum first, divide after: near an attention sink of a hundred times the other norms the order of the two is
    visible in the last digits, and HDBSCAN under the paper's protocol sees them (1 to 3 of 2,786 points change side).
    """
    weights = weights.to(hidden.device)
    return (hidden.float() * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
