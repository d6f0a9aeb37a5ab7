"""What an SAE is trained on: the vectors of every layer from one pass of the model, in a store on disk.

One pooled vector per distinct prompt (arXiv 2603.15615 trains on these), or the residual at every token of the
scenario's own. Train and held-out vectors are told apart by text group, so that equal texts never stand on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from sae_moral.capture.hooks import resolve_hooks
from sae_moral.capture.models import hooked_model
from sae_moral.capture.run import capture
from sae_moral.capture.vectors import Representations
from sae_moral.data.moral_data import MoralData
from sae_moral.data.splits import PARTS, group_split
from sae_moral.errors import unknown
from sae_moral.protocol import Protocol, get_protocol
from sae_moral.provenance import HookedModel, describe_model


@dataclass(frozen=True)
class Activations:
    """n vectors per layer, on disk, and which of them are for what.

    Attributes:
        captured: the vectors.
        hooks: hook name of every layer.
        part: 0 train, 1 validation, 2 test, per vector (`data.splits.group_split`).
        provenance: model, data, prompts, split. JSON values only.
    """

    captured: Representations
    hooks: dict[int, str]
    part: Int[np.ndarray, "n"]
    provenance: dict[str, Any]

    @property
    def layers(self) -> tuple[int, ...]:
        """The captured blocks, ascending."""
        return tuple(self.hooks)

    def rows(self, part: str) -> Int[np.ndarray, "_"]:
        """Positions of one part's vectors.

        Raises:
            ValueError: a part other than train, validation, test.
        """
        if part not in PARTS:
            raise unknown("part", part, PARTS)
        return np.flatnonzero(self.part == PARTS.index(part))

    def vectors(self, layer: int) -> Float[np.ndarray, "n d"]:
        """One layer's vectors, mapped from disk: only the rows that are read come into memory.

        Raises:
            KeyError: a layer that was not captured.
        """
        self.captured.check(layer)
        return self.captured.read(layer).numpy()


def capture_activations(
    model: HookedModel | nn.Module,
    data: MoralData,
    layers: Sequence[int],
    *,
    store: Path | str,
    granularity: str = "scenario",
    protocol: str | Protocol = "audited",
    split_seed: int = 0,
    store_dtype: str = "float32",
    shards: int = 1,
    progress: bool | None = None,
) -> Activations:
    """Vectors of all layers from one pass over the distinct prompts; an interrupted pass is taken up where it ended.

    Args:
        model: as for `capture`.
        layers: blocks, by number.
        store: folder for the vectors: 4 bytes × (distinct prompts or their tokens) × layers × d.
        granularity: `scenario` (pooled as the protocol says) or `token` (every token of the scenario's own; neither
            BOS nor the template's words).
        protocol: its template, BOS and pooling.
        split_seed: of `group_split`.
        store_dtype: as for `capture`.
        shards: as for `capture`.

    Raises:
        ValueError: an unknown granularity, a layer the model does not have, hooks active on the model.
        DataError: a text without tokens or longer than the context.
        RuntimeError: a hook that did not fire exactly once, values that are not finite.
    """
    chosen, model = get_protocol(protocol), hooked_model(model)
    captured = capture(
        model,
        data.text,
        layers=layers,
        granularity=granularity,
        template=chosen.template,
        pooling=chosen.pooling,
        bos=chosen.bos,
        store=store,
        store_dtype=store_dtype,
        shards=shards,
        progress=progress,
    )
    of_text = np.empty(len(data), dtype=np.int64)
    for number, rows in enumerate(group_split(data, seed=split_seed).values()):
        of_text[rows] = number
    part = np.empty(captured.row.max() + 1, dtype=np.int64)
    part[captured.row] = of_text
    if captured.first is not None:
        part = np.repeat(part, np.diff(captured.first))
    provenance = {
        "granularity": granularity,
        "model": describe_model(model),
        "data": {**data.provenance, "n": len(data), "n_texts": int(data.same_text.max()) + 1, "sha256": data.sha256},
        "capture": captured.provenance,
        "split": {"kind": "group_split", "seed": split_seed},
        "n_vectors": {name: int((part == number).sum()) for number, name in enumerate(PARTS)},
    }
    return Activations(captured, resolve_hooks(model, captured.layers), part, provenance)
