"""Scenarios → latents: the SAE's latents of each pooled vector, of every token and then pooled, or at every token.

The first two are different numbers. Latents are not linear in their input, and an SAE trained on tokens (every
community SAE) has never seen a mean over tokens, whose norm is smaller: `token` is what it was made for. An SAE trained
on pooled scenario vectors (arXiv 2603.15615) needs `scenario`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_moral.capture.hooks import STREAM
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import Prompts, Tokens, prompts_of
from sae_moral.capture.readers import GRANULARITIES, Pooling, get_pooling, one_each, pooling_name
from sae_moral.capture.run import batch_size, capture, read_prompts
from sae_moral.capture.vectors import Representations
from sae_moral.errors import unknown
from sae_moral.provenance import HookedModel, describe_model
from sae_moral.sae.columns import ChosenRows, Columns, SparseColumns, columns_of
from sae_moral.sae.load import LoadedSae, SaeLike, load_saes
from sae_moral.shown import shown

TOKEN_BYTES = 1 << 28
"""Memory for the latents of single tokens at a time."""
TokenValues = list[tuple[str, float]]
"""A text's own tokens, as the tokenizer writes each by itself, with one latent's activation there."""


@shown(facts=lambda vectors: {"n": len(vectors)})
@dataclass(frozen=True)
class LatentRepresentations(Representations):
    """Latents in the place of residual-stream vectors: `latents[layer]` is a float32 tensor [n, d_sae].

    A whole layer of a wide SAE may not fit in memory: `columns(layer)` reads it a few latents at a time.

    Attributes:
        saes: the SAE of each layer.
        columns_of_rows: a layer's latents, of the prompts with these numbers.
    """

    saes: Mapping[int, LoadedSae]
    columns_of_rows: Callable[[int, Int[Tensor, "n"]], Columns]

    def columns(self, layer: int) -> Columns:
        """One layer's latents of all scenarios, by columns.

        Raises:
            KeyError: a layer without an SAE.
        """
        if layer not in self.layers:
            raise KeyError(f"layer {layer} has no SAE here; there are SAEs for {', '.join(map(str, self.layers))}")
        return self.columns_of_rows(layer, torch.from_numpy(self.row))

    def __getitem__(self, layer: int) -> Float[Tensor, "n s"]:
        """All latents of one layer.

        Raises:
            KeyError: a layer without an SAE.
        """
        columns = self.columns(layer)
        return columns.read(0, columns.latents).cpu()


def latent_representations(
    source: HookedModel | nn.Module | Representations,
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
        source: a model as for `capture`, or `Representations` of one (then `scenario`, and `text` is not needed).
        text: the scenarios.
        saes: one SAE, or {layer: SAE}; see `load_sae`.
        granularity: `scenario` (encode the pooled vector) or `token` (encode every pooled token inside the hook, then
            pool). By default what the SAEs say they were trained on, and where they do not say: `token` for a model.
        template: as for `capture`; by default what the SAEs were trained on, where they say.
        pooling: likewise.
        bos: likewise.
        tokens_per_batch: as for `capture`.
        progress: as for `capture`.
        any_model: as for `load_sae`.

    Raises:
        ValueError: an SAE that does not fit, an unknown granularity, `token` of vectors that are already pooled, SAEs
            that want different prompts.
    """
    given = isinstance(source, Representations)
    source = source if isinstance(source, Representations) else hooked_model(source)
    loaded = load_saes(saes, model=None if given else source, any_model=any_model)
    granularity = choose_granularity(granularity, loaded, given)
    facts = {"granularity": granularity, "saes": {str(layer): sae.describe() for layer, sae in loaded.items()}}
    if isinstance(source, Representations):
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
        captured = capture(source, text, layers=list(loaded), sites=_sites(loaded), **options)
        return _of_vectors(captured, loaded, facts)
    return _of_tokens(source, text, loaded, facts, tokens_per_batch=tokens_per_batch, progress=progress, **options)


def choose_granularity(asked: str | None, saes: Mapping[int, LoadedSae], given: bool) -> str:
    """What is asked, else what the SAEs were trained on, where they say; `given`: the vectors are there already.

    Raises:
        ValueError: an unknown granularity, or `token` of vectors that are already pooled.
    """
    if asked is None:
        trained = {sae.granularity for sae in saes.values()} & set(GRANULARITIES)
        asked = "scenario" if given else str(trained.pop()) if len(trained) == 1 else "token"
    if asked not in GRANULARITIES:
        raise unknown("granularity", asked, GRANULARITIES)
    if given and asked == "token":
        raise ValueError("granularity 'token' of vectors that are already pooled; expected a model in their place")
    return asked


def _sites(saes: Mapping[int, LoadedSae]) -> dict[int, str]:
    """Those that are not the stream after a block."""
    return {layer: sae.site for layer, sae in saes.items() if sae.site != STREAM}


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
    captured = vectors.provenance.get("sites", {})
    for layer, sae in saes.items():
        if sae.site != (site := captured.get(str(layer), STREAM)):
            raise ValueError(f"{sae.source} reads {sae.site}, and the vectors of layer {layer} are of {site}")

    def columns(layer: int, row: Int[Tensor, "n"]) -> Columns:
        return columns_of(saes[layer], vectors.read(layer), row)

    about = {**vectors.provenance, **facts}
    return LatentRepresentations(
        tuple(saes), vectors.row, vectors.length, vectors.total, about, vectors.read, saes, columns
    )


def _of_tokens(
    model: HookedModel,
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
    prompts = prompts_of(model, text, template=template, bos=bos)
    kept = {layer: SparseColumns(len(prompts.ids), sae.d_sae) for layer, sae in saes.items()}

    def keep(start: int, batch: dict[int, Tensor]) -> None:
        for layer, latents in batch.items():
            kept[layer].add(start, latents.to_dense())

    read_prompts(
        model, prompts, list(saes), PooledLatents(saes, get_pooling(pooling)), keep,
        sites=_sites(saes), tokens_per_batch=tokens_per_batch, progress=progress, what="latents",
    )  # fmt: skip
    provenance = {
        **{"template": template, "pooling": pooling_name(pooling), "bos": bos, "first_token": prompts.first_token},
        **{"tokens_per_batch": batch_size(model, tokens_per_batch), "n_texts": len(text)},
        **{"n_prompts": len(prompts.ids), "n_tokens": prompts.counts()["n_tokens"]},
        **{"model": describe_model(model), **facts},
    }
    return collected(kept, saes, prompts.row, prompts.length, prompts.total, provenance)


def collected(
    kept: Mapping[int, Columns],
    saes: Mapping[int, LoadedSae],
    row: Int[np.ndarray, "n"],
    length: Int[np.ndarray, "n"],
    total: Int[np.ndarray, "n"],
    provenance: dict[str, Any],
) -> LatentRepresentations:
    """Latents that were computed already, one row per prompt; arguments as the attributes of `Representations`."""

    def no_vectors(layer: int) -> Tensor:
        raise ValueError("latents only: the residual stream they were read from was not kept")

    def columns(layer: int, row: Int[Tensor, "n"]) -> Columns:
        return ChosenRows(kept[layer], row)

    return LatentRepresentations(tuple(saes), row, length, total, provenance, no_vectors, saes, columns)


class PooledLatents:
    """Reads the latents [batch, d_sae] of every token, pooled; sparse, because all layers' of a batch are held at
    once."""

    def __init__(self, saes: Mapping[int, LoadedSae], pooling: Pooling) -> None:
        self.saes, self.pooling = saes, pooling

    def __call__(self, tokens: Tokens) -> Callable[[int, Tensor], Tensor]:
        weights = self.pooling(tokens)
        return lambda layer, hidden: pooled_latents(self.saes[layer], hidden, weights).to_sparse()

    def first(self, prompts: Prompts) -> Int[np.ndarray, "_"]:
        return one_each(prompts)


class ChosenLatents:
    """Reads a few latents at each of the scenario's own tokens: a tensor [tokens, latents] per prompt."""

    def __init__(self, sae: LoadedSae, latents: Sequence[int]) -> None:
        self.sae, self.latents = sae, list(latents)

    def __call__(self, tokens: Tokens) -> Callable[[int, Tensor], list[Tensor]]:
        def take(layer: int, hidden: Tensor) -> list[Tensor]:
            own = tokens.own.to(hidden.device)
            return [self.sae.encode(row[at])[:, self.latents].cpu() for row, at in zip(hidden, own, strict=True)]

        return take

    def first(self, prompts: Prompts) -> Int[np.ndarray, "_"]:
        return one_each(prompts)


def latents_by_token(
    model: HookedModel | nn.Module,
    sae: LoadedSae,
    text: Sequence[str],
    latents: Sequence[int],
    *,
    template: str = "{text}",
) -> list[list[TokenValues]]:
    """Activations of a few latents at every token of a few texts, for reading a latent by eye.

    Returns:
        Per text, per latent: the text's own tokens (BOS and the template's words left out) with their activations.

    Raises:
        ValueError: latents the SAE does not have; as `prompts_of` and `LoadedSae.encode`.
    """
    if outside := [latent for latent in latents if not 0 <= latent < sae.d_sae]:
        raise ValueError(f"latents {outside} of an SAE with {sae.d_sae}; expected 0 to {sae.d_sae - 1}")
    model = hooked_model(model)
    prompts = prompts_of(model, text, template=template, bos=sae.bos)
    values: list[Tensor] = []
    read_prompts(
        model, prompts, [sae.layer], ChosenLatents(sae, latents),
        lambda _, batch: values.extend(batch[sae.layer]), sites=_sites({sae.layer: sae}), progress=False,
    )  # fmt: skip
    words = [
        [model.tokenizer.decode([token]) for token in ids[first:last]]
        for ids, (first, last) in zip(prompts.ids, prompts.own, strict=True)
    ]
    return [
        [list(zip(words[row], values[row][:, i].tolist(), strict=True)) for i in range(len(latents))]
        for row in prompts.row
    ]


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
