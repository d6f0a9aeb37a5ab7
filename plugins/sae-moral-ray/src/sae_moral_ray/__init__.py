"""sae_moral on Ray: studies as Ray tasks (`ray_workers`), capture as Ray Data over actors (`ray_capture`).

Ray starts the processes, gives each its devices, and starts again those that die. Tasks divide a study by the leases of
its folder (`sae_moral.io.leases`); actors run the batches that a capture in one process runs. So the results are those
of one process, bit for bit.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray  # pyright: ignore[reportMissingImports]
import torch
from ray.data import ActorPoolStrategy, from_items  # pyright: ignore[reportMissingImports]
from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from tqdm import tqdm

from sae_moral.capture import Representations, capture, hooked_model
from sae_moral.capture.hooks import warn_of_saes
from sae_moral.capture.prompts import Prompts
from sae_moral.capture.readers import Reader
from sae_moral.capture.run import batch_size, read_prompts
from sae_moral.errors import SaeMoralWarning
from sae_moral.provenance import HookedModel, describe_model
from sae_moral.workers import SECONDS_TO_END

__all__ = ["ray_capture", "ray_workers"]
Result = TypeVar("Result")
Load = Callable[[], HookedModel | nn.Module]
Batch = dict[int, dict[str, Tensor]]
PIECE = 64 << 20
"""Bytes of vectors after which a piece, which an actor captures in one call, ends with its batch."""


def ray_workers(n: int, work: Callable[[], Result], **options: Any) -> Result:
    """Call `work()` in n Ray tasks. When the first has returned, which is when all results are there, the others are
    cancelled. Tasks that Ray has no room for wait, and join when there is.

    Args:
        n: tasks.
        work: what each calls: a study on a folder that all machines share. It is sent to the tasks by cloudpickle, so
            it should load the model, not hold it.
        options: of a Ray task, as `ray.remote` has them: `num_gpus` (1 by default where the cluster has GPUs now),
            `num_cpus` (1 by default; as many threads, unless OMP_NUM_THREADS says how many), `max_retries` (how often
            a task whose process died is started again; 3 by default), `resources`, `runtime_env`, ...

    Raises:
        ValueError: no task.
        RayError: all tasks failed; the error of the last is also of the type that its work raised.

    Warns:
        SaeMoralWarning: a task failed; the others did its work.
    """
    if n < 1:
        raise ValueError(f"{n} Ray tasks; expected at least 1")
    task = ray.remote(lambda work: work()).options(**_with_gpus(options))
    left, failed = [task.remote(work) for _ in range(n)], list[RayError]()
    try:
        while True:
            (ended,), left = ray.wait(left)
            try:
                result = ray.get(ended)
                break
            except RayError as error:
                if not left:
                    raise
                failed.append(error)
    finally:
        _end(left)
    for error in failed:
        said = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"a Ray task failed; the others did its work: {said[-1]}", SaeMoralWarning, stacklevel=2)
    return result


def _with_gpus(options: Mapping[str, Any]) -> dict[str, Any]:
    if not ray.is_initialized():
        ray.init()
    return {"num_gpus": 1 if ray.cluster_resources().get("GPU") else 0, **options}


def _end(tasks: Sequence[Any]) -> None:
    """Cancel tasks so that they let go of their leases; end those that do not."""
    for one in tasks:
        ray.cancel(one)
    for one in ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_TO_END)[1] if tasks else ():
        ray.cancel(one, force=True)


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
    read = functools.partial(_read, load, actors, _with_gpus({"num_cpus": 1, **(ray_options or {})}))
    return capture(load(), text, store=store, read_with=read, **how)


def _read(
    load: Load,
    actors: int,
    options: Mapping[str, Any],
    model: HookedModel,
    prompts: Prompts,
    layers: Sequence[int],
    reader: Reader[Mapping[str, Tensor]],
    take: Callable[[int, Batch], None],
    **how: Any,
) -> None:
    """`read_prompts` by actors."""
    warn_of_saes(model)
    done, until, progress = how.pop("done"), how.pop("until"), how.pop("progress")
    first, budget = reader.first(prompts), batch_size(model, how["tokens_per_batch"])
    end = int(first[-1]) if until is None else until
    ends = [int(first[stop]) for _, stop in prompts.batches(budget) if done < first[stop] <= end]
    size = min(PIECE // (4 * model.cfg.d_model * len(layers)), (end - done) // (4 * actors))
    if not (pieces := list(_pieces(done, ends, size))):
        return
    data = from_items(pieces, override_num_blocks=len(pieces))
    data.context.execution_options.preserve_order = True
    data.context.enable_progress_bars = False
    given = ray.put((prompts, layers, reader, {**how, "tokens_per_batch": budget}))
    about = (load, describe_model(model)["identity"], given)
    pool = ActorPoolStrategy(size=actors)
    vectors = data.map_batches(_Actor, batch_size=1, compute=pool, fn_constructor_args=about, **options)
    hidden = None if progress is None else not progress
    with tqdm(total=end, initial=done, desc="capture", unit="row", disable=hidden) as bar:
        for batch in vectors.iter_batches(batch_size=None, batch_format="numpy"):
            rows, found = batch.pop("row"), Batch()
            for column, values in batch.items():
                layer, _, name = column.partition(" ")
                found.setdefault(int(layer), {})[name] = torch.from_numpy(np.array(values))  # Arrow's own is read-only
            take(int(rows[0]), found)
            bar.update(len(rows))


def _pieces(done: int, ends: Sequence[int], size: int) -> Iterator[dict[str, int]]:
    """Whole batches from row `done` on, in pieces of `size` rows or just above."""
    for end in ends:
        if end - done >= size or end == ends[-1]:
            yield {"begin": done, "end": end}
            done = end


class _Actor:
    def __init__(self, load: Load, identity: str, given: Any) -> None:
        self.model = hooked_model(load())
        if describe_model(self.model)["identity"] != identity:
            raise ValueError(
                "the model that an actor loaded has other weights or another configuration than that of the process "
                "that called ray_capture; expected `load` to give the same everywhere: compare its files on both hosts"
            )
        self.prompts, self.layers, self.reader, self.how = ray.get(given)

    def __call__(self, piece: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        begin, end = int(piece["begin"][0]), int(piece["end"][0])
        found: dict[str, list[np.ndarray]] = {}

        def take(start: int, batch: Batch) -> None:
            for layer, tensors in batch.items():
                for name, tensor in tensors.items():
                    found.setdefault(f"{layer} {name}", []).append(tensor.to("cpu", torch.float32).numpy())

        how = {"done": begin, "until": end, "progress": False, **self.how}
        read_prompts(self.model, self.prompts, self.layers, self.reader, take, **how)
        return {"row": np.arange(begin, end), **{name: np.concatenate(parts) for name, parts in found.items()}}
