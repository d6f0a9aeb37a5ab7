"""What an SAE is trained on: residual-stream vectors of every layer from one pass of the model, streamed to disk.

Two granularities. `scenario`: one pooled vector per distinct prompt, the capture store's own files (arXiv 2603.15615
trains on these). `token`: the residual at every token of the scenario's own, in the same layout with one row per token.
Train and held-out vectors are told apart by text group, so that equal texts never stand on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sae_moral.capture.hooks import resolve_hooks
from sae_moral.capture.prompts import build_prompts
from sae_moral.capture.run import capture
from sae_moral.data.moral_data import MoralData
from sae_moral.data.splits import PARTS, group_split
from sae_moral.errors import unknown
from sae_moral.protocol import Protocol, get_protocol
from sae_moral.provenance import describe_model
from sae_moral.sae.token_activations import token_store

GRANULARITIES = ("scenario", "token")


@dataclass(frozen=True)
class Activations:
    """n vectors per layer, on disk.

    Attributes:
        hooks: hook name of every layer.
        part: 0 train, 1 validation, 2 test, per vector (`data.splits.group_split`).
        provenance: model, data, prompts, split. JSON values only.
    """

    hooks: dict[int, str]
    part: Int[np.ndarray, "n"]
    provenance: dict[str, Any]
    _path: Callable[[int], Path]

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
        if layer not in self.hooks:
            raise KeyError(f"layer {layer} was not captured; captured: {', '.join(map(str, self.hooks))}")
        return _map_tensor(self._path(layer), "vectors")


def capture_activations(
    model: Any,
    data: MoralData,
    layers: Sequence[int],
    *,
    store: Path | str,
    granularity: str = "scenario",
    protocol: str | Protocol = "audited",
    split_seed: int = 0,
    progress: bool | None = None,
) -> Activations:
    """Vectors of all layers from one pass over the distinct prompts; an interrupted pass is taken up where it ended.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an SAE variant of either, with its tokenizer.
        layers: blocks, by number.
        store: folder for the vectors: 4 bytes × (distinct prompts or their tokens) × layers × d.
        granularity: `scenario` (pooled as the protocol says) or `token` (every token of the scenario's own; neither
            BOS nor the template's words).
        protocol: its template, BOS and pooling.
        split_seed: of `group_split`.

    Raises:
        ValueError: an unknown granularity, a layer the model does not have, hooks active on the model.
        DataError: a text without tokens or longer than the context.
        RuntimeError: a hook that did not fire exactly once, values that are not finite, a store in use.
    """
    if granularity not in GRANULARITIES:
        raise unknown("granularity", granularity, GRANULARITIES)
    chosen, layers = get_protocol(protocol), sorted(set(layers))
    hooks = resolve_hooks(model, layers)
    of_text = np.empty(len(data), dtype=np.int64)
    for number, rows in enumerate(group_split(data, seed=split_seed).values()):
        of_text[rows] = number
    if granularity == "scenario":
        captured = capture(
            model,
            data.text,
            layers=layers,
            template=chosen.template,
            pooling=chosen.pooling,
            bos=chosen.bos,
            store=store,
            progress=progress,
        )
        folder, row, about = Path(store) / captured.provenance["store"], captured.row, captured.provenance
        part = np.empty(row.max() + 1, dtype=np.int64)
        part[row] = of_text
    else:
        prompts = build_prompts(
            data.text, model.tokenizer, template=chosen.template, bos=chosen.bos, n_ctx=model.cfg.n_ctx
        )
        about, folder = token_store(model, prompts, hooks, chosen, Path(store), progress)
        part = np.empty(len(prompts.ids), dtype=np.int64)
        part[prompts.row] = of_text
        part = np.repeat(part, np.diff(prompts.own)[:, 0])
    provenance = {
        "granularity": granularity,
        "model": describe_model(model),
        "data": {**data.provenance, "n": len(data), "n_texts": int(data.group.max()) + 1, "sha256": data.sha256},
        "capture": about,
        "split": {"kind": "group_split", "seed": split_seed},
        "n_vectors": {name: int((part == number).sum()) for number, name in enumerate(PARTS)},
    }
    return Activations(hooks, part, provenance, lambda layer: folder / f"layer_{layer:03d}.safetensors")


def _map_tensor(path: Path, name: str) -> Float[np.ndarray, "n d"]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(size))[name]
    offset = 8 + size + about["data_offsets"][0]
    return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=tuple(about["shape"]))
