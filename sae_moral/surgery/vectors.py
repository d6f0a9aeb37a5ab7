"""The vectors an SAE is operated on: one per scenario, or the residual at every token of it, as it was trained."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from sae_moral.capture import Representations, capture
from sae_moral.capture.hooks import resolve_hooks
from sae_moral.capture.prompts import build_prompts
from sae_moral.protocol import AUDITED
from sae_moral.provenance import describe_model
from sae_moral.sae.columns import ChosenRows, Columns, SparseColumns
from sae_moral.sae.encoded import LatentRepresentations, _granularity, latent_representations
from sae_moral.sae.find_latents import warn_of_prompts
from sae_moral.sae.load import LoadedSae
from sae_moral.sae.token_activations import token_store


@dataclass(frozen=True, eq=False)
class Vectors:
    """Raw residual-stream vectors of one layer.

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

    def of(self, prompts: Int[Tensor, "t"]) -> tuple[Int[Tensor, "r"], Int[Tensor, "t"]]:
        """Positions of these prompts' vectors in `x`, prompt by prompt, and how many each has."""
        return ranges(self.first[prompts], count := self.first[prompts + 1] - self.first[prompts]), count


def ranges(start: Int[Tensor, "t"], count: Int[Tensor, "t"]) -> Int[Tensor, "r"]:
    """start, start + 1, … of each, `count` numbers each."""
    within = torch.arange(int(count.sum())) - torch.repeat_interleave(count.cumsum(0) - count, count)
    return torch.repeat_interleave(start, count) + within


def pooled(values: Float[Tensor, "r k"], count: Int[Tensor, "t"]) -> Float[Tensor, "t k"]:
    """Mean over each prompt's vectors, which stand one after the other."""
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
    granularity = _granularity(granularity, {sae.layer: sae}, given)
    if not given and torch.device(source.cfg.device or "cpu").type != sae.sae.device.type:
        raise ValueError(
            f"device: the model is on {source.cfg.device} and {sae.source} on {sae.sae.device}; expected both on one: "
            f"load the SAE with device={str(source.cfg.device)!r}"
        )
    if granularity == "token":
        found = _of_tokens(source, text, sae, store, progress)
    else:
        if not given:
            source = capture(
                source,
                text,
                layers=[sae.layer],
                template=sae.trained_on.get("template") or "{text}",
                pooling=sae.trained_on.get("pooling") or "scenario",
                bos=sae.bos,
                store=store,
                progress=progress,
            )
        latents = latent_representations(source, None, sae)  # nothing is encoded yet; it checks layer and prompts
        warn_of_prompts(latents)
        x = source._read(sae.layer)
        about = {key: value for key, value in latents.provenance.items() if key != "saes"}
        found = Vectors(x, torch.arange(len(x) + 1), torch.from_numpy(source.row), source.length, about)
    _check(found, len(text), sae)
    return found


def latents_of(vectors: Vectors, sae: LoadedSae) -> LatentRepresentations:
    """All latents of the SAE on these vectors, mean over each record's: what `find_moral_latents` reads."""
    kept = SparseColumns(len(vectors.first) - 1, sae.d_sae)
    for some in torch.arange(len(vectors.first) - 1).split(256):
        index, count = vectors.of(some)
        kept.add(int(some[0]), pooled(sae.encode(vectors.x[index]), count))

    def read(these: LatentRepresentations, layer: int) -> Columns:
        return ChosenRows(kept, torch.from_numpy(these.row))

    length, nothing = vectors.length, dict[int, Tensor]().__getitem__
    row, about = vectors.row.numpy(), vectors.provenance
    return LatentRepresentations((sae.layer,), row, length, length, about, nothing, read, {sae.layer: sae})


def _of_tokens(model: Any, text: Sequence[str], sae: LoadedSae, store: Path | str | None, progress: bool | None) -> Any:
    protocol = dataclasses.replace(AUDITED, template=sae.trained_on.get("template") or "{text}", bos=sae.bos)
    prompts = build_prompts(text, model.tokenizer, template=protocol.template, bos=protocol.bos, n_ctx=model.cfg.n_ctx)
    with tempfile.TemporaryDirectory() as temporary:
        about, folder = token_store(
            model, prompts, resolve_hooks(model, [sae.layer]), protocol, Path(store or temporary), progress
        )
        with safe_open(folder / f"layer_{sae.layer:03d}.safetensors", "pt") as file:
            x = file.get_tensor("vectors")
        x = x.clone() if store is None else x  # mapped from disk, and a temporary folder goes
    length = np.diff(prompts.own)[:, 0]
    first = torch.from_numpy(np.concatenate([[0], np.cumsum(length)]))
    about = {**about, "model": describe_model(model)}
    return Vectors(x, first, torch.from_numpy(prompts.row), length[prompts.row], about)


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
