"""What the scenarios are to a model: distinct prompts, their tokens, the batches they run in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_moral.capture.prompts import build_prompts
from sae_moral.planning.sizes import Cost, ModelSizes
from sae_moral.protocol import Protocol

TOKENISED = 20_000
"""Distinct texts that are tokenised; of more, so many at even distances stand for all."""


@dataclass(frozen=True)
class Texts:
    """Texts as prompts.

    Attributes:
        n: distinct texts.
        tokens: of their prompts.
        own: tokens of the scenarios' own.
        batches: (prompts, padded width) of each batch; of those that were tokenised.
        scale: distinct texts per one that was tokenised.
    """

    n: int
    tokens: int
    own: int
    batches: tuple[tuple[int, int], ...]
    scale: float

    @property
    def estimated(self) -> bool:
        """Whether only some were tokenised."""
        return self.scale > 1

    @property
    def passes(self) -> int:
        """Batches that are run."""
        return round(len(self.batches) * self.scale)

    @property
    def largest(self) -> tuple[int, int]:
        """The batch of most padded tokens."""
        return max(self.batches, key=lambda one: one[0] * one[1])

    def cost(self, cost: Cost) -> float:
        """Of running all of them."""
        return self.scale * sum(cost.of(rows, width) for rows, width in self.batches)


def texts_of(text: Sequence[str], sizes: ModelSizes, protocol: Protocol, budget: int) -> Texts:
    """Tokenise texts as a capture would.

    Raises:
        ValueError, DataError: what the capture would raise.
    """
    distinct = list(dict.fromkeys(text))
    step = max(1, -(-len(distinct) // TOKENISED))
    some = distinct[::step]
    prompts = build_prompts(
        some,
        sizes.tokenizer,
        template=protocol.template,
        bos=protocol.bos,
        n_ctx=sizes.n_ctx,
        n_vocab=sizes.n_vocab,
    )
    scale = len(distinct) / len(some)
    batches = tuple((stop - start, len(prompts.ids[stop - 1])) for start, stop in prompts.batches(budget))
    own = int(np.diff(prompts.own).sum())
    return Texts(len(distinct), round(scale * sum(map(len, prompts.ids))), round(scale * own), batches, scale)
