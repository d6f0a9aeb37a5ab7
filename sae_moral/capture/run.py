"""The one loop from a model to vectors: prompts in batches through the model, once; a reader says what is kept of them.

`capture` is that loop with the readers of `capture.readers`; `sae.latents` has those that read through an SAE.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import xxhash
from torch import nn
from tqdm import tqdm

from sae_moral.capture.agreement import check_agreement
from sae_moral.capture.forward import forward_run
from sae_moral.capture.hooks import refuse_hooks, resolve_hooks, warn_of_saes
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import Prompts, prompts_of
from sae_moral.capture.readers import GRANULARITIES, OwnTokens, Pooled, Pooling, Reader, get_pooling, pooling_name
from sae_moral.capture.store import DTYPES, ROUNDING, Batch, Store
from sae_moral.capture.vectors import Representations
from sae_moral.errors import unknown
from sae_moral.log import timed
from sae_moral.provenance import HookedModel, describe_model

Taken = TypeVar("Taken")
logger = logging.getLogger(__name__)
TOKENS_PER_BATCH = 1024
"""Padded tokens per batch. On two CPU cores throughput is flat from 256 to 1,024 (nine tenths of the time are matrix
products); on CUDA 16 times as many."""


def read_prompts(
    model: HookedModel,
    prompts: Prompts,
    layers: Sequence[int],
    reader: Reader[Taken],
    take: Callable[[int, dict[int, Taken]], None],
    *,
    sites: Mapping[int, str] | None = None,
    tokens_per_batch: int | None = None,
    done: int = 0,
    until: int | None = None,
    progress: bool | None = None,
    what: str = "capture",
) -> None:
    """Run prompts through the model once, batch by batch, and hand on what a reader takes of the residual stream.

    Args:
        model: the model; hooks on it stay active: a steered model is read as it is.
        prompts: what to run.
        layers: blocks to read after; the forward run ends with the deepest.
        sites: by layer, where in the block to read instead of after it: a name of `hooks.SITES`.
        reader: what to take.
        take: called per batch with the number of its first row (as `reader.first` counts them) and what was taken, by
            layer.
        tokens_per_batch: padded tokens; see `batch_size`.
        done: so many rows were handed on before, by whole batches; they are not run again.
        until: the row to end at, where a batch begins; the last by default.
        progress: show a progress bar; by default only on a terminal.
        what: its label.

    Raises:
        ValueError: a layer or hook the model does not have; a bridge that does not compute what its model computes.
        RuntimeError: a hook that did not fire exactly once.

    Warns:
        SaeMoralWarning: SAEs are attached to the model.
    """
    check_agreement(model)
    hooks, device, first = resolve_hooks(model, layers, sites), _device(model), reader.first(prompts)
    warn_of_saes(model)
    end = first[-1] if until is None else until
    batches = [b for b in prompts.batches(batch_size(model, tokens_per_batch)) if done < first[b[1]] <= end]
    n, disable = batches[-1][1] if batches else len(prompts.ids), None if progress is None else not progress
    begin = batches[0][0] if batches else n
    with (
        timed(logger, f"{what} of {n - begin:,} prompts at {len(layers)} layers"),
        tqdm(total=n, initial=begin, desc=what, unit="text", disable=disable) as bar,
        forward_run(model, hooks, reader) as forward,
    ):
        for start, stop in batches:
            take(int(first[start]), forward(prompts.tokens(start, stop, device)))
            bar.update(stop - start)


def batch_size(model: HookedModel, asked: int | None = None) -> int:
    """Padded tokens per batch: what is asked, or `TOKENS_PER_BATCH`, 16 times that on CUDA."""
    return asked or budget_on(_device(model).type)


def budget_on(device: str) -> int:
    """Padded tokens per batch on a device: `TOKENS_PER_BATCH`, 16 times that on CUDA."""
    return TOKENS_PER_BATCH * (16 if device.startswith("cuda") else 1)


def capture(
    model: HookedModel | nn.Module,
    text: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    sites: Mapping[int, str] | None = None,
    granularity: str = "scenario",
    template: str = "{text}",
    pooling: str | Pooling = "scenario",
    bos: str = "prepend",
    tokens_per_batch: int | None = None,
    store: Path | str | None = None,
    store_dtype: str = "float32",
    shards: int = 1,
    read_with: Callable[..., None] | None = None,
    progress: bool | None = None,
) -> Representations:
    """Residual-stream vectors of n scenarios after the given blocks, in one pass over the distinct prompts.

    Prompts run shortest first in batches of a token budget, are pooled inside the hooks on the model's device, and
    the forward run ends after the deepest block asked for.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an SAE variant of either, with its tokenizer; or a
            transformers model, as `hooked_model` wraps it.
        text: the scenarios; duplicates are run once.
        layers: blocks, by number; all by default.
        sites: by layer, where in the block to read instead of after it: a name of `hooks.SITES`.
        granularity: `scenario` (one pooled vector each) or `token` (every token of the scenario's own: neither special
            ones nor the template's words; `pooling` then has no effect).
        template: the prompt, with `{text}` for the scenario.
        pooling: a name of `POOLINGS`, or a function of `Tokens`.
        bos: `prepend` (exactly one BOS in front) or `tokenizer` (whatever the tokenizer itself adds).
        tokens_per_batch: padded tokens per batch; `TOKENS_PER_BATCH` by default, 16 times that on CUDA.
        store: folder to stream to instead of memory (4 bytes × distinct prompts, or their tokens, × layers × d); an
            interrupted capture with the same key is taken up where it ended, and one that another process is at is
            waited for.
        store_dtype: of the vectors there: `float32`, or `bfloat16`, which takes half the space and rounds every number
            by up to 0.4 % (`provenance["store_rounding"]`); a layer that is read is then whole in memory.
        shards: with a store: parts that processes which capture the same in as many shards divide among themselves;
            the vectors are the same, bit for bit.
        read_with: what runs the prompts: a function with the parameters of `read_prompts` that hands on the same,
            such as one that has other machines run them. No key covers it.
        progress: show a progress bar; by default only on a terminal.

    Raises:
        ValueError: a layer or hook the model does not have, a bad template, pooling, granularity or dtype of the store;
            a store asked for while hooks are active on the model (its key could not cover them).
        DataError: a text without tokens or longer than the context; a store that was damaged.
        RuntimeError: a hook that did not fire exactly once; values that are not finite.
        OSError: too little space for the store.
    """
    model = hooked_model(model)
    chosen = tuple(sorted(set(range(model.cfg.n_layers) if layers is None else layers)))
    if not chosen:
        raise ValueError("no layers given; expected at least one")
    if granularity not in GRANULARITIES:
        raise unknown("granularity", granularity, GRANULARITIES)
    if store_dtype not in DTYPES:
        raise unknown("store_dtype", store_dtype, DTYPES)
    resolve_hooks(model, chosen, sites)
    prompts = prompts_of(model, text, template=template, bos=bos)
    reader = Pooled(get_pooling(pooling)) if granularity == "scenario" else OwnTokens()
    budget, first = batch_size(model, tokens_per_batch), reader.first(prompts)
    weights, excluded = _weights(reader, prompts, budget)
    provenance = {
        "granularity": granularity,
        "template": template,
        "pooling": pooling_name(pooling) if granularity == "scenario" else None,
        "bos": bos,
        "first_token": prompts.first_token,
        "tokens_per_batch": budget,
        "n_texts": len(text),
        **prompts.counts(),
        "excluded_tokens": excluded,
        **({"sites": {str(layer): site for layer, site in sorted(sites.items())}} if sites else {}),
    }
    shape = int(first[-1]), int(model.cfg.d_model)

    def run(done: int, take: Callable[[int, Batch], None], until: int | None = None) -> None:
        how = {"sites": sites, "tokens_per_batch": budget, "done": done, "until": until, "progress": progress}
        (read_with or read_prompts)(model, prompts, chosen, reader, take, **how)

    if store is None:
        held = {
            layer: {part: torch.empty(shape if part == "vectors" else shape[0]) for part in reader.parts}
            for layer in chosen
        }

        def keep(start: int, batch: Batch) -> None:
            for layer, tensors in batch.items():
                for part, tensor in tensors.items():
                    held[layer][part][start : start + len(tensor)] = tensor.cpu()

        def read(layer: int, name: str = "vectors") -> torch.Tensor:
            return held[layer][name]

        run(0, keep)
    else:
        refuse_hooks(model)
        if store_dtype != "float32":
            provenance |= {"store_dtype": store_dtype, "store_rounding": ROUNDING[store_dtype]}
        shaped_by = {
            **{name: value for name, value in provenance.items() if name not in ("n_texts", "pooling")},
            "weights": weights,
            "model": describe_model(model)["identity"],
            "prompts": prompts.digest,
            "layers": list(chosen),
        }
        on_disk = Store(Path(store), shaped_by, chosen, shape, reader.parts, store_dtype)
        if shards > 1:
            batches = list(prompts.batches(budget))
            starts = [int(first[batches[len(batches) * i // shards][0]]) for i in range(min(shards, len(batches)))]
            on_disk.fill_in_shards(lambda done, until, take: run(done, take, until), [*starts, shape[0]])
        else:
            on_disk.fill(run)
        read = on_disk.read
        provenance["store"] = on_disk.folder.name
    if "sink" in reader.parts:
        medians = [read(layer, "sink").nanmedian() for layer in chosen]
        # A prompt of one token has no other token to compare its first with.
        provenance["sink_norm_ratio"] = [None if one.isnan() else round(float(one), 4) for one in medians]
    each = None if granularity == "scenario" else first
    return Representations(chosen, prompts.row, prompts.length, prompts.total, provenance, read, first=each)


def _weights(reader: Pooled | OwnTokens, prompts: Prompts, budget: int) -> tuple[str | None, int]:
    """Hash of every token's share in the vectors, which is all that a pooling strategy does (a user's own may have no
    name), and how many tokens have none."""
    n_tokens = sum(map(len, prompts.ids))
    if isinstance(reader, OwnTokens):
        return None, n_tokens - int(reader.first(prompts)[-1])
    digest, pooled = xxhash.xxh3_128(), 0
    for batch in prompts.batches(budget):
        weights = reader.pooling(prompts.tokens(*batch, "cpu")).to(torch.float32).contiguous()
        digest.update(weights.numpy().data)
        pooled += int(weights.count_nonzero())
    return digest.hexdigest(), n_tokens - pooled


def _device(model: HookedModel) -> torch.device:
    return torch.device(model.cfg.device or "cpu")
