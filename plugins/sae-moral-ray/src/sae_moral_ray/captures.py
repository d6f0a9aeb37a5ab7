"""`ray_capture`: `capture` whose forward passes are done by actors of Ray Data.

The process that calls it makes the prompts and their batches, and writes the vectors; each actor has a model and runs
the batches it is given. No folder is shared: vectors come back through Ray's object store.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy, from_items
from torch import Tensor, nn
from tqdm import tqdm

from sae_moral.capture import Representations, capture, hooked_model
from sae_moral.capture.hooks import warn_of_saes
from sae_moral.capture.prompts import Prompts
from sae_moral.capture.readers import Reader
from sae_moral.capture.run import batch_size, read_prompts
from sae_moral.provenance import HookedModel, describe_model
from sae_moral_ray.tasks import with_gpus

Load = Callable[[], HookedModel | nn.Module]
PIECE = 64 << 20
"""Bytes of vectors after which a piece, which an actor captures in one call, ends with its batch."""


def ray_capture(
    load: Load,
    text: Sequence[str],
    store: str | Path,
    *,
    actors: int,
    ray_options: Mapping[str, Any] | None = None,
    **how: Any,
) -> Representations:
    """`capture(load(), text, store=store, **how)` by actors of Ray Data: the same files under the same key. A capture
    that was interrupted, under Ray or not, goes on where it was; an actor that dies is started again.

    Args:
        load: loads the model, such as `functools.partial(load_model, "gemma-3-270m")`; called here, because the key
            has the weights in it, and in each actor.
        text: the scenarios; duplicates are run once.
        store: folder to stream to. Only this process writes to it.
        actors: how many; each has a model. All are needed at the same time.
        ray_options: of each actor, as `map_batches` has them: `num_gpus` (1 by default where the cluster has GPUs now),
            `num_cpus`, `resources`, `runtime_env`, ...
        how: of `capture`. Without `tokens_per_batch` the device of this process decides, not that of the actors.

    Raises:
        ValueError: no actor; else as `capture`.
        RayError: an actor failed: a model of other weights than here, or whatever reading a batch raised.
    """
    if actors < 1:
        raise ValueError(f"{actors} actors; expected at least 1")
    read = functools.partial(_read, load, actors, with_gpus({"num_cpus": 1, **(ray_options or {})}))
    return capture(load(), text, store=store, read_with=read, **how)


def _read(
    load: Load,
    actors: int,
    options: Mapping[str, Any],
    model: HookedModel,
    prompts: Prompts,
    layers: Sequence[int],
    reader: Reader[Mapping[str, Tensor]],
    take: Callable[[int, dict[int, dict[str, Tensor]]], None],
    *,
    sites: Mapping[int, str] | None,
    tokens_per_batch: int | None,
    done: int,
    until: int | None,
    progress: bool | None,
) -> None:
    """`read_prompts` by actors."""
    warn_of_saes(model)
    budget, first = batch_size(model, tokens_per_batch), reader.first(prompts)
    end = int(first[-1]) if until is None else until
    ends = [int(first[stop]) for _, stop in prompts.batches(budget) if done < first[stop] <= end]
    size = min(PIECE // (4 * model.cfg.d_model * len(layers)), (end - done) // (4 * actors))
    pieces = list(_pieces(done, ends, size))
    if not pieces:
        return
    given = ray.put((prompts, layers, reader, {"sites": sites, "tokens_per_batch": budget}))
    data = from_items(pieces, override_num_blocks=len(pieces))
    data.context.execution_options.preserve_order = True
    data.context.enable_progress_bars = False
    vectors = data.map_batches(
        _Actor,
        batch_size=1,
        compute=ActorPoolStrategy(size=actors),
        fn_constructor_args=(load, describe_model(model)["identity"], given),
        **options,
    )
    hidden = None if progress is None else not progress
    with tqdm(total=end, initial=done, desc="capture", unit="row", disable=hidden) as bar:
        for batch in vectors.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
            rows = batch.pop("row")
            found: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}
            for column, values in batch.items():
                layer, _, name = column.partition(" ")
                found[int(layer)][name] = torch.from_numpy(np.array(values))  # Arrow's memory is read-only
            take(int(rows[0]), found)
            bar.update(len(rows))


def _pieces(done: int, ends: Sequence[int], size: int) -> Iterator[dict[str, int]]:
    """Whole batches from row `done` on, in pieces of `size` rows or just above."""
    begin = done
    for end in ends:
        if end - begin >= size or end == ends[-1]:
            yield {"begin": begin, "end": end}
            begin = end


class _Actor:
    """A model, which runs pieces."""

    def __init__(self, load: Load, identity: str, given: Any) -> None:
        self.model = hooked_model(load())
        if describe_model(self.model)["identity"] != identity:
            raise ValueError(
                "the model that an actor loaded has other weights or another configuration than that of the process "
                "that called ray_capture; expected `load` to give the same everywhere: see its files on both machines"
            )
        self.prompts, self.layers, self.reader, self.how = ray.get(given)

    def __call__(self, piece: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows of one piece: their numbers, and a column per layer and part."""
        begin, end = int(piece["begin"][0]), int(piece["end"][0])
        parts: dict[str, list[np.ndarray]] = {}

        def take(start: int, batch: Mapping[int, Mapping[str, Tensor]]) -> None:
            for layer, tensors in batch.items():
                for name, tensor in tensors.items():
                    parts.setdefault(f"{layer} {name}", []).append(tensor.to("cpu", torch.float32).numpy())

        read_prompts(
            self.model, self.prompts, self.layers, self.reader, take, done=begin, until=end, progress=False, **self.how
        )
        return {"row": np.arange(begin, end), **{name: np.concatenate(arrays) for name, arrays in parts.items()}}
