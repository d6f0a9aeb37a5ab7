"""The residual stream at every token of the scenarios' own, from one pass for all layers, streamed to disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sae_moral.capture.hooks import Reader, body, finite
from sae_moral.capture.models import active_hooks
from sae_moral.capture.pooling import Tokens
from sae_moral.capture.prompts import Prompts
from sae_moral.capture.run import TOKENS_PER_BATCH
from sae_moral.capture.store import Store
from sae_moral.protocol import Protocol
from sae_moral.provenance import describe_model


def token_store(
    model: Any, prompts: Prompts, hooks: dict[int, str], protocol: Protocol, folder: Path, progress: bool | None
) -> tuple[dict[str, Any], Path]:
    """Every own token's vectors on disk, prompt by prompt; what provenance says of them, and the folder.

    Raises:
        ValueError: hooks active on the model.
        RuntimeError: a hook that did not fire exactly once, values that are not finite, a store in use.
    """
    if active := active_hooks(model):
        raise ValueError(
            f"hooks are active on the model ({', '.join(active[:5])}), and a store's key cannot cover what they do; "
            "remove them with model.reset_hooks()"
        )
    digest = hashlib.sha256()
    for ids, span in zip(prompts.ids, prompts.own, strict=True):
        digest.update(np.asarray([len(ids), *span, *ids], dtype="<i8").tobytes())
    device = torch.device(model.cfg.device or "cpu")
    budget = TOKENS_PER_BATCH * (16 if device.type == "cuda" else 1)
    about = {
        "granularity": "token",
        "template": protocol.template,
        "bos": protocol.bos,
        "first_token": prompts.first_token,
        "tokens_per_batch": budget,
        "n_prompts": len(prompts.ids),
    }
    parameters = {
        **about,
        "model": describe_model(model),
        "prompts": digest.hexdigest(),
        "layers": list(hooks),
    }
    n_tokens = int(np.diff(prompts.own).sum())
    store = Store(folder, parameters, tuple(hooks), (n_tokens, model.cfg.d_model))
    _write_tokens(model, prompts, hooks, store, budget, device, progress)
    return {**about, "pooling": None, "store": store.folder.name}, store.folder


def _write_tokens(
    model: Any,
    prompts: Prompts,
    hooks: dict[int, str],
    store: Store,
    budget: int,
    device: torch.device,
    progress: bool | None,
) -> None:
    from tqdm import tqdm

    if store.complete:
        return store.tidy()
    store.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(store.folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"another process is writing {store.folder}; wait for it, or choose another store") from None
    first = np.concatenate([[0], np.cumsum(np.diff(prompts.own))])
    batches = list(prompts.batches(budget))
    with lock:
        try:
            done = store.open()
            bar = tqdm(batches[done:], desc="capture", unit="batch", disable=None if progress is None else not progress)
            with body(model, hooks, _own_tokens(hooks)) as forward:
                for index, (start, stop) in enumerate(bar, start=done):
                    store.write(int(first[start]), forward(prompts.tokens(start, stop, device)))
                    store.done(index + 1, last=False)
            store.done(len(batches), last=True)
        finally:
            store.close()


def _own_tokens(hooks: dict[int, str]) -> Reader[tuple[Tensor, Tensor]]:
    """Reads the own tokens' vectors [tokens, d], prompt by prompt; the second of each pair fills the store's column of
    sink ratios, which a token has none of."""

    def reader(tokens: Tokens) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        def take(layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
            vectors = finite(hidden[tokens.own.to(hidden.device)].float(), hooks[layer])
            return vectors, torch.full((len(vectors),), torch.nan)

        return take

    return reader
