"""`capture`: scenarios through a model, once, into one pooled vector per scenario and layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from sae_moral.capture.hooks import body, pooled, resolve_hooks
from sae_moral.capture.models import active_hooks
from sae_moral.capture.pooling import Pooling, get_pooling, pooling_name
from sae_moral.capture.prompts import Prompts, build_prompts
from sae_moral.capture.representations import Representations
from sae_moral.capture.store import Store
from sae_moral.provenance import describe_model

TOKENS_PER_BATCH = 1024
"""Padded tokens per batch. On two CPU cores throughput is flat from 256 to 1,024 (nine tenths of the time are matrix
products); on CUDA 16 times as many."""


def capture(
    model: Any,
    text: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    template: str = "{text}",
    pooling: str | Pooling = "scenario",
    bos: str = "prepend",
    tokens_per_batch: int | None = None,
    store: Path | str | None = None,
    progress: bool | None = None,
) -> Representations:
    """Residual-stream vectors of n scenarios after the given blocks, in one pass over the distinct prompts.

    Prompts run shortest first in batches of a token budget, are pooled inside the hooks on the model's device, and
    the forward pass ends after the deepest block asked for.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an SAE variant of either, with its tokenizer.
        text: the scenarios; duplicates are run once.
        layers: blocks, by number; all by default.
        template: the prompt, with `{text}` for the scenario.
        pooling: a name of `POOLINGS`, or a function of `Tokens`.
        bos: `prepend` (exactly one BOS in front) or `tokenizer` (whatever the tokenizer itself adds).
        tokens_per_batch: padded tokens per batch; `TOKENS_PER_BATCH` by default, 16 times that on CUDA.
        store: folder to stream to instead of memory (4 bytes × distinct prompts × layers × d); an interrupted
            capture with the same key is taken up where it ended.
        progress: show a progress bar; by default only on a terminal.

    Raises:
        ValueError: a layer or hook the model does not have, a bad template or pooling; a store asked for while hooks
            are active on the model (its key could not cover them).
        DataError: a text without tokens or longer than the context.
        RuntimeError: a hook that did not fire exactly once; values that are not finite; a store in use.
    """
    chosen = tuple(sorted(set(range(model.cfg.n_layers) if layers is None else layers)))
    if not chosen:
        raise ValueError("no layers given; expected at least one")
    hooks = resolve_hooks(model, chosen)
    prompts = build_prompts(text, model.tokenizer, template=template, bos=bos, n_ctx=model.cfg.n_ctx)
    device = torch.device(model.cfg.device or "cpu")
    budget = tokens_per_batch or TOKENS_PER_BATCH * (16 if device.type == "cuda" else 1)
    run = _Run(model, prompts, hooks, get_pooling(pooling), budget, device, progress)
    n_tokens = sum(map(len, prompts.ids))
    provenance = {
        "template": template,
        "pooling": pooling_name(pooling),
        "bos": bos,
        "first_token": prompts.first_token,
        "tokens_per_batch": budget,
        "n_texts": len(text),
        "n_prompts": len(prompts.ids),
        "n_tokens": n_tokens,
        "special_tokens": int(prompts.special.sum()),
        "template_tokens": int(n_tokens - prompts.special.sum() - np.diff(prompts.own).sum()),
        "excluded_tokens": n_tokens - run.pooled_tokens(),
    }
    if store is None:
        vectors, sinks = run.in_memory()
        read = vectors.__getitem__
    else:
        on_disk = _open_store(model, prompts, chosen, provenance, Path(store))
        run.to_disk(on_disk)
        read, sinks = on_disk.read, {layer: on_disk.read(layer, "sink") for layer in chosen}
        provenance["store"] = on_disk.folder.name
    # A prompt of one token has no other token to compare its first with.
    provenance["sink_norm_ratio"] = [
        None if median.isnan() else round(float(median), 4) for median in (sinks[layer].nanmedian() for layer in chosen)
    ]
    return Representations(chosen, prompts.row, prompts.length, prompts.total, provenance, read)


def _open_store(
    model: Any, prompts: Prompts, layers: tuple[int, ...], provenance: dict[str, Any], folder: Path
) -> Store:
    if active := active_hooks(model):
        raise ValueError(
            f"hooks are active on the model ({', '.join(active[:5])}), and a store's key cannot cover what they do; "
            "remove them with model.reset_hooks(), or capture with store=None"
        )
    digest = hashlib.sha256()
    for ids, span in zip(prompts.ids, prompts.own, strict=True):
        digest.update(np.asarray([len(ids), *span, *ids], dtype="<i8").tobytes())
    parameters = {
        **{k: v for k, v in provenance.items() if k not in ("n_texts",)},
        "model": describe_model(model),
        "prompts": digest.hexdigest(),
        "layers": list(layers),
    }
    return Store(folder, parameters, layers, (len(prompts.ids), model.cfg.d_model))


class _Run:
    """One pass over the prompts, into memory or into a store."""

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        hooks: dict[int, str],
        pooling: Pooling,
        budget: int,
        device: torch.device,
        progress: bool | None,
    ) -> None:
        self.model, self.prompts, self.hooks, self.pooling = model, prompts, hooks, pooling
        self.batches, self.device, self.progress = list(prompts.batches(budget)), device, progress

    def pooled_tokens(self) -> int:
        """How many tokens have a share in a vector."""
        return sum(int(self.pooling(self.prompts.tokens(*batch, "cpu")).count_nonzero()) for batch in self.batches)

    def _bar(self, done: int) -> tqdm:
        disable = None if self.progress is None else not self.progress
        initial = self.batches[done][0] if done < len(self.batches) else len(self.prompts.ids)
        return tqdm(total=len(self.prompts.ids), initial=initial, desc="capture", unit="text", disable=disable)

    def in_memory(self) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        n = len(self.prompts.ids)
        vectors = {layer: torch.empty(n, self.model.cfg.d_model) for layer in self.hooks}
        sinks = {layer: torch.empty(n) for layer in self.hooks}
        with self._bar(0) as bar, body(self.model, self.hooks, pooled(self.hooks, self.pooling)) as forward:
            for start, stop in self.batches:
                for layer, (mean, sink) in forward(self.prompts.tokens(start, stop, self.device)).items():
                    vectors[layer][start:stop], sinks[layer][start:stop] = mean.cpu(), sink.cpu()
                bar.update(stop - start)
        return vectors, sinks

    def to_disk(self, store: Store) -> None:
        if store.complete:
            store.tidy()
            return
        store.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(store.folder / ".lock").acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"another process is writing {store.folder}; wait for it, or choose another store"
            ) from None
        with lock:
            try:
                done = store.open()
                with self._bar(done) as bar, body(self.model, self.hooks, pooled(self.hooks, self.pooling)) as forward:
                    for index in range(done, len(self.batches)):
                        start, stop = self.batches[index]
                        store.write(start, forward(self.prompts.tokens(start, stop, self.device)))
                        store.done(index + 1, last=index + 1 == len(self.batches))
                        bar.update(stop - start)
                if done == len(self.batches):
                    store.done(done, last=True)
            finally:
                store.close()
