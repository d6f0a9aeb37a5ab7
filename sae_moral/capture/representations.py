"""`Representations`: one vector per scenario and layer, in memory or in a store on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Representations:
    """Pooled residual-stream vectors: `representations[layer]` is a float32 tensor [n, d].

    Attributes:
        layers: the blocks that were captured; a layer's vectors are the residual stream after that block.
        row: for each scenario the row of its prompt (equal prompts were run once).
        length: the scenario's own tokens, per scenario.
        total: all tokens of its prompt, per scenario.
        provenance: model, prompts, tokens left out of the pooling, sink ratio per layer. JSON values only.
    """

    layers: tuple[int, ...]
    row: Int[np.ndarray, "n"]
    length: Int[np.ndarray, "n"]
    total: Int[np.ndarray, "n"]
    provenance: dict[str, Any]
    _read: Callable[[int], Float[Tensor, "prompts d"]]

    def __len__(self) -> int:
        return len(self.row)

    def subset(self, index: Int[np.ndarray, "k"]) -> Representations:
        """The scenarios at `index`, in that order."""
        return replace(self, row=self.row[index], length=self.length[index], total=self.total[index])

    def __getitem__(self, layer: int) -> Float[Tensor, "n d"]:
        """Vectors of all scenarios at one layer; only this layer is held in memory when they come from a store.

        Raises:
            KeyError: a layer that was not captured.
        """
        if layer not in self.layers:
            raise KeyError(f"layer {layer} was not captured; captured: {', '.join(map(str, self.layers))}")
        return self._read(layer)[torch.from_numpy(self.row)]
