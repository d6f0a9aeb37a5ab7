"""Scenarios → latents: the SAE's latents of each pooled vector, or of every token and then pooled.

The two are different numbers. Latents are not linear in their input, and an SAE trained on tokens (every community
SAE) has never seen a mean over tokens, whose norm is smaller: `token` is what it was made for. An SAE trained on pooled
scenario vectors (arXiv 2603.15615) needs `scenario`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from sae_moral.capture.hooks import body, resolve_hooks
from sae_moral.capture.pooling import Pooling, Tokens, get_pooling, pooling_name
from sae_moral.capture.prompts import build_prompts
from sae_moral.capture.representations import Representations
from sae_moral.capture.run import TOKENS_PER_BATCH, capture
from sae_moral.errors import unknown
from sae_moral.provenance import describe_model
from sae_moral.sae.columns import ChosenRows, Columns, SparseColumns, columns_of
from sae_moral.sae.load import LoadedSae, SaeLike, load_saes

GRANULARITIES = ("scenario", "token")
TOKEN_BYTES = 1 << 28
"""Memory for the latents of single tokens at a time."""


@dataclass(frozen=True)
class LatentRepresentations(Representations):
    """Latents in the place of residual-stream vectors: `latents[layer]` is a float32 tensor [n, d_sae].

    A whole layer of a wide SAE may not fit in memory: `columns(layer)` reads it a few latents at a time.
    """

    _columns: Callable[[LatentRepresentations, int], Columns]
    saes: Mapping[int, LoadedSae]

    def columns(self, layer: int) -> Columns:
        """One layer's latents of all scenarios, by columns.

        Raises:
            KeyError: a layer without an SAE.
        """
        if layer not in self.layers:
            raise KeyError(f"layer {layer} has no SAE here; there are SAEs for {', '.join(map(str, self.layers))}")
        return self._columns(self, layer)

    def subset(self, index: Int[np.ndarray, "k"]) -> LatentRepresentations:
        """The scenarios at `index`, in that order."""
        return replace(self, row=self.row[index], length=self.length[index], total=self.total[index])

    def __getitem__(self, layer: int) -> Float[Tensor, "n s"]:
        """All latents of one layer.

        Raises:
            KeyError: a layer without an SAE.
        """
        columns = self.columns(layer)
        return columns.read(0, columns.latents).cpu()


def latent_representations(
    source: Any,
    text: Sequence[str] | None,
    saes: SaeLike | Mapping[int, SaeLike],
    *,
    granularity: str | None = None,
    template: str | None = None,
    pooling: str | Pooling | None = None,
    bos: str | None = None,
    tokens_per_batch: int | None = None,
    any_model: bool = False,
    progress: bool | None = None,
) -> LatentRepresentations:
    """Latents of n scenarios, for one SAE per layer.

    Args:
        source: a model, or `Representations` of one (then `scenario`, and `text` is not needed).
        text: the scenarios.
        saes: one SAE, or {layer: SAE}; see `load_sae`.
        granularity: `scenario` (encode the pooled vector) or `token` (encode every pooled token inside the hook, then
            pool). By default what the SAEs say they were trained on, and where they do not say: `token` for a model.
        template, pooling, bos: as for `capture`; by default what the SAEs were trained on, where they say.
        tokens_per_batch, progress: as for `capture`.
        any_model: as for `load_sae`.

    Raises:
        ValueError: an SAE that does not fit, an unknown granularity, `token` of vectors that are already pooled, SAEs
            that want different prompts.
    """
    given = isinstance(source, Representations)
    loaded = load_saes(saes, model=None if given else source, any_model=any_model)
    granularity = _granularity(granularity, loaded, given)
    facts = {"granularity": granularity, "saes": {str(layer): sae.describe() for layer, sae in loaded.items()}}
    if given:
        return _of_vectors(source, loaded, facts)
    if text is None:
        raise ValueError("a model and no text; expected the scenarios")
    options: dict[str, Any] = {
        "template": template or _trained_on(loaded, "template", "{text}"),
        "pooling": pooling or _trained_on(loaded, "pooling", "scenario"),
        "bos": bos or _common("bos", {sae.source: sae.bos for sae in loaded.values()}),
    }
    if granularity == "scenario":
        options |= {"tokens_per_batch": tokens_per_batch, "progress": progress}
        return _of_vectors(capture(source, text, layers=list(loaded), **options), loaded, facts)
    return _of_tokens(source, text, loaded, facts, tokens_per_batch=tokens_per_batch, progress=progress, **options)


def _granularity(asked: str | None, saes: Mapping[int, LoadedSae], given: bool) -> str:
    if asked is None:
        trained = {sae.granularity for sae in saes.values()} & set(GRANULARITIES)
        asked = "scenario" if given else str(trained.pop()) if len(trained) == 1 else "token"
    if asked not in GRANULARITIES:
        raise unknown("granularity", asked, GRANULARITIES)
    if given and asked == "token":
        raise ValueError("granularity 'token' of vectors that are already pooled; expected a model in their place")
    return asked


def _trained_on(saes: Mapping[int, LoadedSae], key: str, default: str) -> str:
    return _common(key, {sae.source: str(sae.trained_on.get(key) or default) for sae in saes.values()})


def _common(key: str, wanted: Mapping[str, str]) -> str:
    if len(set(wanted.values())) > 1:
        raise ValueError(f"these SAEs were trained on different prompts: {key} {dict(wanted)}; pass {key}=")
    return next(iter(wanted.values()))


def _of_vectors(
    vectors: Representations, saes: Mapping[int, LoadedSae], facts: dict[str, Any]
) -> LatentRepresentations:
    missing = sorted(set(saes) - set(vectors.layers))
    if missing:
        raise ValueError(f"SAEs for layers {missing}, and the captured layers are {list(vectors.layers)}")

    def read(these: LatentRepresentations, layer: int) -> Columns:
        return columns_of(saes[layer], vectors._read(layer), torch.from_numpy(these.row))

    return LatentRepresentations(
        tuple(saes), vectors.row, vectors.length, vectors.total, {**vectors.provenance, **facts},
        vectors._read, read, saes,
    )  # fmt: skip


def _of_tokens(
    model: Any,
    text: Sequence[str],
    saes: Mapping[int, LoadedSae],
    facts: dict[str, Any],
    *,
    template: str,
    pooling: str | Pooling,
    bos: str,
    tokens_per_batch: int | None,
    progress: bool | None,
) -> LatentRepresentations:
    prompts = build_prompts(text, model.tokenizer, template=template, bos=bos, n_ctx=model.cfg.n_ctx)
    hooks, weigh = resolve_hooks(model, list(saes)), get_pooling(pooling)
    device = torch.device(model.cfg.device or "cpu")
    budget = tokens_per_batch or TOKENS_PER_BATCH * (16 if device.type == "cuda" else 1)
    kept = {layer: SparseColumns(len(prompts.ids), sae.d_sae) for layer, sae in saes.items()}

    def reader(tokens: Tokens) -> Callable[[int, Tensor], Tensor]:
        weights = weigh(tokens)
        # Sparse, because all layers' latents of a batch are held at once.
        return lambda layer, hidden: pooled_latents(saes[layer], hidden, weights).to_sparse()

    disable = None if progress is None else not progress
    with (
        body(model, hooks, reader) as forward,
        tqdm(total=len(prompts.ids), desc="latents", unit="text", disable=disable) as bar,
    ):
        for start, stop in prompts.batches(budget):
            for layer, latents in forward(prompts.tokens(start, stop, device)).items():
                kept[layer].add(start, latents.to_dense())
            bar.update(stop - start)

    def read(these: LatentRepresentations, layer: int) -> Columns:
        return ChosenRows(kept[layer], torch.from_numpy(these.row))

    provenance = {
        **{"template": template, "pooling": pooling_name(pooling), "bos": bos, "first_token": prompts.first_token},
        **{"tokens_per_batch": budget, "n_texts": len(text), "n_prompts": len(prompts.ids)},
        **{"n_tokens": sum(map(len, prompts.ids)), "model": describe_model(model), **facts},
    }
    nothing: Callable[[int], Tensor] = dict[int, Tensor]().__getitem__
    return LatentRepresentations(
        tuple(saes), prompts.row, prompts.length, prompts.total, provenance, nothing, read, saes
    )


def pooled_latents(
    sae: LoadedSae, hidden: Float[Tensor, "batch pos d"], weights: Float[Tensor, "batch pos"]
) -> Float[Tensor, "batch s"]:
    """Weighted mean over positions of the latents of every token that has a weight."""
    weights = weights.to(sae.sae.device, torch.float32)
    scenario, position = weights.nonzero(as_tuple=True)
    summed = torch.zeros(len(hidden), sae.d_sae, device=weights.device)
    for chosen in torch.arange(len(scenario)).split(max(1, TOKEN_BYTES // (4 * sae.d_sae))):
        here, there = scenario[chosen], position[chosen]
        latents = sae.encode(hidden.to(weights.device)[here, there])
        share = torch.zeros(len(hidden), len(chosen), device=weights.device)
        share[here, torch.arange(len(chosen), device=weights.device)] = weights[here, there]
        summed += share @ latents
    return summed / weights.sum(dim=1, keepdim=True)
