"""How fast this machine is: a forward pass through one block, a write to the disk, a step of an SAE's training.

Each takes about half a second. On a CPU it is processor time that counts (`Watch`).
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_moral.io import open_in_place, write_all
from sae_moral.planning.needs import Rate
from sae_moral.planning.sizes import ModelSizes, blocks_of

if TYPE_CHECKING:
    from sae_moral.sae.activations import Activations
    from sae_moral.sae.train_config import TrainSettings

SECONDS = 0.4
"""A rate is measured for so long."""
MOST_PARAMETERS, MOST_FLOPS = 64 << 20, 2e10
"""Of a block that is run: with more, making it takes longer than measuring it, and products are all of its time."""
WRITTEN = 64 << 20
"""Bytes that are written at most."""
SAE_WIDTH, SAE_STEPS = 256, 6
"""Of the SAE whose training is measured; a step's time goes with the number of weights."""


def forward_rate(sizes: ModelSizes, dtype: torch.dtype, device: str, rows: int, width: int) -> Rate:
    """FLOP/s of the model's first block with random weights, on batches like those of the study; of a plain product
    where the block is large."""
    name, blocks = blocks_of(sizes.empty, sizes.n_layers)
    if sum(one.numel() for one in blocks[0].parameters()) > MOST_PARAMETERS:
        return _product_rate(dtype, device)
    rows = max(1, min(rows, int(MOST_FLOPS / max(sizes.blocks[0].of(1, width), 1.0))))
    base = copy.deepcopy(sizes.empty.base_model)
    parent, _, last = name.rpartition(".")
    setattr(base.get_submodule(parent), last, blocks_of(base, sizes.n_layers)[1][:1])
    base = base.to(dtype).to_empty(device=device)
    with torch.random.fork_rng(devices=[]):
        for one in base.get_submodule(name).parameters():
            torch.nn.init.normal_(one, std=0.02)  # what lay in that memory may be slow to multiply
    for one in base.buffers():
        one.zero_()
    ids = torch.zeros(rows, width, dtype=torch.long, device=device)

    def run() -> None:
        with torch.inference_mode():
            base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)

    try:
        seconds, share = _seconds(run, device)
    except Exception:  # a model whose code needs its own weights or buffers
        return _product_rate(dtype, device)
    how = f"measured on this machine: one block, {rows} prompts of {width} tokens, {_on(device, share)}"
    return Rate(f"forward pass, {_name(dtype)}", sizes.blocks[0].of(rows, width) / seconds, "FLOP/s", how)


def _product_rate(dtype: torch.dtype, device: str) -> Rate:
    n, d = 256, 2048
    a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((n, d), (d, d)))
    seconds, share = _seconds(lambda: torch.mm(a, b), device)
    how = f"measured on this machine: a product of {n} × {d} and {d} × {d}, {_on(device, share)}"
    return Rate(f"forward pass, {_name(dtype)}", 2 * n * d * d / seconds, "FLOP/s", how)


def write_rate(folder: Path) -> Rate:
    """Bytes per second to the disk of a folder, flushed."""
    chunk = memoryview(os.urandom(4 << 20))
    written = 0
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as scratch:
        with open_in_place(Path(scratch) / "probe", WRITTEN, fresh=True) as file:
            started = time.perf_counter()
            while written < WRITTEN and time.perf_counter() - started < SECONDS:
                write_all(file, chunk)
                written += len(chunk)
                os.fsync(file.fileno())
            seconds = time.perf_counter() - started
    how = f"measured on this machine: {written >> 20} MiB, flushed"
    return Rate("disk", written / seconds, "bytes/s", how)


def training_rate(activations: Activations, settings: TrainSettings, device: str) -> Rate:
    """Seconds of a training step per weight of the SAE, of `settings` but for the width of the input.

    Args:
        activations: see `random_activations`.
    """
    from sae_moral.sae.train_config import configure
    from sae_moral.sae.train_layer import LayerTraining

    d_sae = settings.expansion * activations.vectors(0).shape[1]
    few = replace(settings, steps=SAE_STEPS, checkpoints=0, target_l0=min(settings.target_l0, d_sae))
    training = LayerTraining(activations, 0, few, configure(activations, few, device=device))
    weights = sum(one.numel() for one in training.sae.parameters())
    watch = Watch(device)
    training.fit(progress=False)
    seconds, share = watch.read()
    steps = f"{SAE_STEPS} steps of {settings.batch} vectors, {weights:,} weights"
    how = f"measured on this machine: {steps}, {_on(device, share)}"
    return Rate("training step of an SAE", seconds / SAE_STEPS / weights, "s per step and weight", how)


def random_activations(d: int, n: int) -> Activations:
    """n random vectors of d dimensions as if they were of a layer 0: training and validation halves."""
    from sae_moral.capture.vectors import Representations
    from sae_moral.sae.activations import Activations

    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    rows = np.arange(n)
    captured = Representations((0,), rows, rows, rows, {}, lambda _: vectors)
    about = {"model": {"name": ""}, "capture": {"pooling": None, "first_token": ""}, "data": {}}
    return Activations(captured, {0: "blocks.0.hook_resid_post"}, rows % 2, about)


def sae_parameters(settings: TrainSettings, d: int) -> int:
    """Numbers in the weights of such an SAE, as SAELens builds it on the meta device.

    Raises:
        ValueError: what SAELens refuses.
    """
    from sae_moral.sae.train_config import sae_config
    from sae_moral.sae.train_input import new_sae

    config = sae_config(random_activations(d, 2), 0, settings.resolved(1), device="meta")
    return sum(one.numel() for one in new_sae(config, 0).parameters())


class Watch:
    """Time since it was made: of a GPU by the clock, of a CPU that of its processors, divided by the threads.

    Other processes take processors away, so the clock says how busy a machine is and not how fast it is. `share` is
    what this process had of its processors.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._wall, self._processors = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Seconds, and the share."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        wall = time.perf_counter() - self._wall
        if self.device != "cpu":
            return wall, 1.0
        own = min(wall, (time.process_time() - self._processors) / torch.get_num_threads())
        return own, own / wall


def _seconds(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Of one call, the mean over `SECONDS` but the first, and the share of the processors that there was."""
    run()
    watch, calls = Watch(device), 0
    while calls == 0 or watch.read()[0] < SECONDS:
        run()
        calls += 1
    seconds, share = watch.read()
    return seconds / calls, share


def _on(device: str, share: float) -> str:
    if device != "cpu":
        return device
    return f"processor time, {torch.get_num_threads()} threads, of whose time this process had {share:.0%}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
