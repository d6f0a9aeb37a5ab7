"""`Representations`: the residual stream of scenarios, per layer, in memory or in a store on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.shown import shown

Captured = TypeVar("Captured", bound="Representations")


@shown(facts=lambda vectors: {"n": len(vectors)})
@dataclass(frozen=True)
class Representations:
    """Residual-stream vectors: one per prompt, or one per token of the scenario's own.

    `representations[layer]` is a float32 tensor [n, d], one row per scenario; `read(layer)` is [m, d], all vectors,
    prompt by prompt, mapped from disk when they are in a store.

    Attributes:
        layers: the blocks that were captured; a layer's vectors are the residual stream after that block.
        row: for each scenario the number of its prompt (equal prompts were run once).
        length: the scenario's own tokens, per scenario.
        total: all tokens of its prompt, per scenario.
        provenance: prompts, tokens left out of the pooling, sink ratio per layer. JSON values only.
        read: all vectors of a layer.
        first: where each prompt's vectors begin, and where the last one's end; None: one vector per prompt.
    """

    layers: tuple[int, ...]
    row: Int[np.ndarray, "n"]
    length: Int[np.ndarray, "n"]
    total: Int[np.ndarray, "n"]
    provenance: dict[str, Any]
    read: Callable[[int], Float[Tensor, "m d"]]
    first: Int[np.ndarray, "_"] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.row)

    def subset(self: Captured, index: Int[np.ndarray, "k"]) -> Captured:
        """The scenarios at `index`, in that order."""
        return replace(self, row=self.row[index], length=self.length[index], total=self.total[index])

    def __getitem__(self, layer: int) -> Float[Tensor, "n d"]:
        """Vectors of all scenarios at one layer; only this layer is held in memory when they come from a store.

        Raises:
            KeyError: a layer that was not captured.
            ValueError: vectors of tokens, of which a scenario has several.
        """
        self.check(layer)
        if self.first is not None:
            raise ValueError("vectors of single tokens, not one per scenario; read(layer) gives them, prompt by prompt")
        return self.read(layer)[torch.from_numpy(self.row)]

    def check(self, layer: int) -> None:
        """Refuse a layer that was not captured.

        Raises:
            KeyError: it was not.
        """
        if layer not in self.layers:
            raise KeyError(f"layer {layer} was not captured; captured: {', '.join(map(str, self.layers))}")
