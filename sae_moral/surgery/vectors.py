"""The vectors an SAE is operated on: one per scenario, or the residual at every token of it, as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.capture import Representations, capture
from sae_moral.provenance import describe_model
from sae_moral.sae.columns import SparseColumns
from sae_moral.sae.find_latents import warn_of_prompts
from sae_moral.sae.latents import LatentRepresentations, choose_granularity, collected, latent_representations
from sae_moral.sae.load import LoadedSae


@dataclass(frozen=True, eq=False)
class Vectors:
    """One layer of `Representations`, as tensors.

    Attributes:
        x: all vectors, prompt by prompt.
        first: where each prompt's vectors begin, and where the last one's end.
        row: the prompt of each record (equal texts are one prompt).
        length: tokens of each record's text.
        provenance: JSON values only.
    """

    x: Float[Tensor, "m d"]
    first: Int[Tensor, "_"]
    row: Int[Tensor, "n"]
    length: Int[np.ndarray, "n"]
    provenance: dict[str, Any]

    @classmethod
    def of_layer(cls, captured: Representations, layer: int) -> Vectors:
        """One layer of what was captured."""
        x = captured.read(layer)
        first = np.arange(len(x) + 1) if captured.first is None else captured.first
        # The SAE and how it reads is not a fact of the vectors.
        about = {name: value for name, value in captured.provenance.items() if name != "saes"}
        return cls(x, torch.from_numpy(first), torch.from_numpy(captured.row), captured.length, about)

    @property
    def count(self) -> Int[Tensor, "p"]:
        """Vectors of each prompt."""
        return self.first.diff()

    def mean(self) -> Float[Tensor, "n d"]:
        """The mean vector of each record."""
        return pooled(self.x.float(), self.count)[self.row]

    def of(self, prompts: Int[Tensor, "t"]) -> tuple[Int[Tensor, "r"], Int[Tensor, "t"]]:
        """Positions of these prompts' vectors in `x`, prompt by prompt, and how many each has."""
        return ranges(self.first[prompts], count := self.first[prompts + 1] - self.first[prompts]), count


def ranges(start: Int[Tensor, "t"], count: Int[Tensor, "t"]) -> Int[Tensor, "r"]:
    """start, start + 1, … of each, `count` numbers each."""
    within = torch.arange(int(count.sum())) - torch.repeat_interleave(count.cumsum(0) - count, count)
    return torch.repeat_interleave(start, count) + within


def pooled(values: Float[Tensor, "r k"], count: Int[Tensor, "t"]) -> Float[Tensor, "t k"]:
    """Mean over each prompt's vectors, one prompt after the other."""
    return torch.segment_reduce(values, "mean", lengths=count.to(values.device), axis=0)


def vectors_of(
    source: Any,
    text: Sequence[str],
    sae: LoadedSae,
    *,
    granularity: str | None = None,
    store: Path | str | None = None,
    progress: bool | None = None,
) -> Vectors:
    """Vectors of the scenarios for one SAE.

    Args:
        source: `Representations` of the scenarios (granularity `scenario`), or a model, which is then captured with the
            template, pooling and BOS that the SAE was trained with, where it says.
        granularity: `scenario` or `token`; by default what the SAE was trained on, and where it does not say `token`
            for a model.
        store: folder for a model's vectors; None keeps them in memory.

    Raises:
        ValueError: vectors of another width, layer or number of scenarios, or that are not finite; an SAE that does
            not fit the model or is on another device.

    Warns:
        SaeMoralWarning: vectors captured otherwise than what the SAE was trained on.
    """
    given = isinstance(source, Representations)
    if not given and not hasattr(source, "hook_dict"):
        raise ValueError(f"a {type(source).__name__} in the place of vectors; expected Representations, or a model")
    granularity = choose_granularity(granularity, {sae.layer: sae}, given)
    if not given and torch.device(source.cfg.device or "cpu").type != sae.sae.device.type:
        raise ValueError(
            f"device: the model is on {source.cfg.device} and {sae.source} on {sae.sae.device}; expected both on one: "
            f"load the SAE with device={str(source.cfg.device)!r}"
        )
    if isinstance(source, Representations):
        captured = source
    else:
        captured = capture(
            source,
            text,
            layers=[sae.layer],
            granularity=granularity,
            template=sae.trained_on.get("template") or "{text}",
            pooling=sae.trained_on.get("pooling") or "scenario",
            bos=sae.bos,
            store=store,
            progress=progress,
        )
        captured.provenance["model"] = describe_model(source)
    if granularity == "scenario":
        captured = latent_representations(captured, None, sae)  # nothing is encoded yet; it checks layer and prompts
        warn_of_prompts(captured)
    found = Vectors.of_layer(captured, sae.layer)
    _check(found, len(text), sae)
    return found


def latents_of(vectors: Vectors, sae: LoadedSae) -> LatentRepresentations:
    """All latents of the SAE on these vectors, mean over each record's: what `find_moral_latents` reads."""
    kept = SparseColumns(len(vectors.first) - 1, sae.d_sae)
    for some in torch.arange(len(vectors.first) - 1).split(256):
        index, count = vectors.of(some)
        kept.add(int(some[0]), pooled(sae.encode(vectors.x[index]), count))
    saes, length = {sae.layer: sae}, vectors.length
    return collected({sae.layer: kept}, saes, vectors.row.numpy(), length, length, vectors.provenance)


def _check(vectors: Vectors, n: int, sae: LoadedSae) -> None:
    if len(vectors.row) != n:
        raise ValueError(f"vectors of {len(vectors.row)} scenarios and {n} records; expected the same scenarios")
    if vectors.x.shape[1] != sae.d_in:
        raise ValueError(f"width: vectors of {vectors.x.shape[1]} numbers, and {sae.source} reads {sae.d_in}")
    bad = ~torch.isfinite(vectors.x).all(dim=1)
    if bad.any():
        prompt = int(torch.searchsorted(vectors.first, bad.nonzero()[0, 0], right=True)) - 1
        record = int((vectors.row == prompt).nonzero()[0, 0]) if (vectors.row == prompt).any() else None
        raise ValueError(f"{int(bad.sum())} vectors are not finite, the first of record {record}; expected numbers")
