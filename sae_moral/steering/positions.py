"""Which tokens are steered. A hook sees only the positions of one forward call: with a KV cache one new token, without
it the whole text again. `Place` counts what has passed, so that both are steered at the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

POSITIONS = ("all", "all-but-first", "prompt", "last", "generated")
WITHOUT_MASK = ("all", "all-but-first")
"""Those that can do without knowing the prompts."""


@dataclass
class Place:
    """Where one hook acts, for one generation or any number of forward calls over the same prompts.

    Attributes:
        positions: `all` tokens, `all-but-first` (BOS, or whatever carries the attention sink), the `prompt`, its `last`
            token, or the `generated` ones.
        mask: True on the prompts' tokens, False on padding; whatever follows it was generated. None (only for the first
            two): padding is steered, too, and the first position of a call of several is taken for the first token.
    """

    positions: str
    mask: Bool[Tensor, "batch prompt"] | None = None
    seen: int = 0

    def start(self, mask: Bool[Tensor, "batch prompt"]) -> None:
        """Begin with new prompts."""
        self.mask, self.seen = mask, 0

    def select(self, batch: int, width: int) -> Bool[Tensor, "batch pos"] | bool:
        """Which of the positions of this forward call are steered; True or False for all or none of them.

        A call with as many positions as the prompt or more is one from the beginning, one with fewer goes on with a KV
        cache. (Where the prompt is a single token, the first call is the prompt, and each further one of a single
        position goes on.)

        Raises:
            ValueError: no mask where one is needed, or calls that do not fit it.
        """
        if self.mask is None:
            if self.positions not in WITHOUT_MASK:
                raise ValueError(
                    f"positions={self.positions!r} needs to know the prompts: pass mask=, True on their tokens"
                )
            if self.positions == "all" or width == 1:
                return True
            return (torch.arange(width) > 0).expand(batch, width)
        rows, prompt = self.mask.shape
        again = width >= prompt and (width > 1 or self.seen == 0)
        if batch != rows or (self.seen == 0 and not again):
            raise ValueError(
                f"a forward call of {batch} × {width} positions for a mask of {rows} × {prompt}; expected the "
                "whole prompts first, and hooks made anew for other prompts"
            )
        start = 0 if again else self.seen
        self.seen = start + width
        if start >= prompt:
            return self.positions not in ("prompt", "last")
        if self.positions == "generated" and self.seen <= prompt:
            return False
        return self._from_start(width)

    def _from_start(self, width: int) -> Bool[Tensor, "batch pos"]:
        assert self.mask is not None
        inside = self.mask if self.positions != "generated" else torch.zeros_like(self.mask)
        if self.positions == "last":
            behind = self.mask.long().flip(1).cumsum(dim=1).flip(1)
            inside = self.mask & (behind == 1)
        if self.positions == "all-but-first":
            inside = self.mask & (self.mask.long().cumsum(dim=1) > 1)
        after = inside.new_full((len(inside), width - inside.shape[1]), self.positions not in ("prompt", "last"))
        return torch.cat([inside, after], dim=1)
