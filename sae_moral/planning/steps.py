"""The steps of a study, and what each of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sae_moral.capture.store import layer_bytes
from sae_moral.controls import Controls
from sae_moral.controls.baselines import BASELINES
from sae_moral.planning.needs import Rate, Step
from sae_moral.planning.sizes import ModelSizes
from sae_moral.planning.texts import Texts

NUMBER = 4
"""Bytes of a float32: of stored vectors, of SAEs, of metrics."""
PER_TEXT, PER_PRODUCT = 9e-3, 1.56e-5
"""Processor seconds that all draws of a layer take per scenario, and per scenario and dimension (evidence:
docs/design/controls.md; 1,000 resamples, 199 permutations)."""
VALUES, BASELINE = 0.1, 0.15
"""Of a layer's draws: what its values alone take, and a baseline at the layer where it is drawn."""
LOSSES = 3
"""Forward passes of `loss_recovered`: clean, spliced, zero."""


@dataclass(frozen=True)
class Setting:
    """What all steps have in common.

    Attributes:
        sizes: of the model.
        dtype: of its weights.
        layers: blocks that are read.
        process: bytes of Python and its libraries on the same device; 0 on another than the CPU.
        forward, disk: rates; None where they are not known.
    """

    sizes: ModelSizes
    dtype: torch.dtype
    layers: Sequence[int]
    process: int
    forward: Rate | None
    disk: Rate | None

    @property
    def weights(self) -> int:
        """Bytes of the weights in memory."""
        return self.sizes.parameters * self.dtype.itemsize

    @property
    def held(self) -> int:
        """Bytes that are there whatever runs."""
        return self.process + self.weights

    def batch(self, texts: Texts) -> int:
        """Bytes that a block computes for the largest batch."""
        return int(self.sizes.made.of(*texts.largest) * self.dtype.itemsize / NUMBER)

    def seconds(self, flops: float, written: int = 0) -> float | None:
        """Of operations, and of bytes written (or read: that is taken to be as fast)."""
        if (flops and self.forward is None) or (written and self.disk is None):
            return None
        found = flops / self.forward.value if flops and self.forward else 0.0
        return found + (written / self.disk.value if written and self.disk else 0.0)


def loading(on: Setting) -> list[Step]:
    """Loading the model, and its conversion where it was not converted yet."""
    found = []
    whole = on.sizes.parameters * NUMBER
    if not on.sizes.converted:
        how = {"memory": "process + 4 × parameters", "disk": "4 × parameters", "time": "not known"}
        found.append(Step("convert", on.process + whole, whole, files=1, seconds=None, formulas=how))
    read = on.sizes.file_bytes or on.weights
    formulas = {
        "memory": f"process + parameters × {on.dtype.itemsize}",
        "time": "weights ÷ rate of the disk; imports and hashes not counted",
    }
    found.append(Step("load", on.held, seconds=on.seconds(0, read), formulas=formulas))
    return found


def capture(on: Setting, texts: Texts, *, stored: bool, token: bool = False, name: str = "capture") -> Step:
    """One pass over the prompts."""
    rows, d, n = texts.own if token else texts.n, on.sizes.d_model, len(on.layers)
    each = layer_bytes(rows, d, ("vectors",) if token else ("vectors", "sink"))
    flops = texts.cost(on.sizes.until(max(on.layers)))
    what = "tokens of the scenarios" if token else "distinct prompts"
    vectors = f"4 × {what} × (d{'' if token else ' + 1'}) × layers"
    return Step(
        name,
        memory=on.held + on.batch(texts) + (0 if stored else each * n),
        disk=each * n if stored else 0,
        files=n + 1 if stored else 0,
        forwards=texts.n,
        flops=flops,
        seconds=on.seconds(flops, each * n if stored else 0),
        formulas={
            "memory": "process + weights + what a block computes for the largest batch"
            + ("" if stored else f" + vectors ({vectors})"),
            **({"disk": f"{vectors} + headers; store.json takes 2 KB more"} if stored else {}),
            "forward passes": "one per distinct prompt",
            "TFLOP": f"blocks 0 to {max(on.layers)}, padded prompts, counted by torch without weights",
            "time": "FLOP ÷ rate of the forward pass" + (" + bytes ÷ rate of the disk" if stored else ""),
        },
    )


def controls(
    on: Setting, texts: Texts, valence: Texts, asked: Controls, n: int, words: int, *, stored: bool
) -> list[Step]:
    """Metrics with their draws, and the baselines that run the model."""
    found = []
    captured = 0 if stored else len(on.layers) * layer_bytes(texts.n, on.sizes.d_model)
    rest = Setting(on.sizes, on.dtype, on.layers, on.process + captured, on.forward, on.disk)
    if "valence" in asked:
        found.append(capture(rest, valence, stored=stored, name="valence reader"))
        captured += 0 if stored else len(on.layers) * layer_bytes(valence.n, on.sizes.d_model)
    if "random-weights" in asked:
        one = capture(rest, texts, stored=stored, name="random weights")
        twin = on.weights + on.sizes.parameters * NUMBER
        formulas = {**one.formulas, "memory": f"{one.formulas['memory']} + a twin + 4 × parameters while it is drawn"}
        found.append(Step(**{**vars(one), "memory": one.memory + twin, "formulas": formulas}))
        captured += 0 if stored else len(on.layers) * layer_bytes(texts.n, on.sizes.d_model)
    d = on.sizes.d_model
    r = min(n, d)
    wide = max(d, words if "words" in asked else 0)
    draws = asked.resamples * ("interval" in asked) + asked.permutations * ("null" in asked)
    memory = on.held + captured + 16 * n * wide + 15 * 8 * min(n, wide) ** 2 + 8 * draws * n
    layer = n * (PER_TEXT * asked.resamples / 1000 * ("interval" in asked))
    layer += n * r * PER_PRODUCT * asked.permutations / 199 * ("null" in asked)
    there = [kind for kind in BASELINES if kind.control is not None and kind.control in asked]
    every = 1 + VALUES * sum(kind.name in ("random weights", "without valence", "valence reader") for kind in there)
    seconds = layer * (len(on.layers) * every + BASELINE * len(there))
    formulas = {
        "memory": "process + weights + captured vectors + 16 × n × the widest input (d, or the words of the bag) + 15 "
        "eigendecompositions of min(n, width)² in float64 + 8 × n × draws",
        "time": f"n × ({PER_TEXT:g} s + min(n, d) × {PER_PRODUCT:g} s) × (layers × {every:g} + {BASELINE:g} × "
        f"{len(there)} baselines): processor time of the machine of docs/design/controls.md, not measured here",
    }
    found.append(Step("metrics and draws", memory, 0, seconds=seconds, formulas=formulas))
    return found


def results(files: int) -> Step:
    """What is written at the end."""
    how = {"disk": "diagnosis.json, report.html and run.json: a few MB at most"}
    return Step("results", disk=4 << 20, files=files, formulas=how)


def training(
    on: Setting, texts: Texts, spliced: Texts, weights: int, steps: int, batch: int, rate: Rate | None, checkpoints: int
) -> list[Step]:
    """An SAE per layer, one after another, and what it does to the model's loss.

    Args:
        weights: numbers in an SAE.
        steps, batch, checkpoints: of `TrainSettings`.
    """
    n, latents = len(on.layers), weights // (2 * on.sizes.d_model)
    seconds = None if rate is None else n * steps * weights * rate.value
    flops = n * LOSSES * spliced.cost(on.sizes.whole)
    fit = {
        "memory": "process + weights of the model + 16 × weights of an SAE (themselves, gradients, two moments) + 12 × "
        "the same (a checkpoint, as it is written) + 16 × batch × latents",
        "disk": "4 × weights of an SAE × layers",
        "files": "per layer weights, sparsity, two of SAELens and sae_moral.json",
        "time": f"layers × {steps:,} steps × weights of an SAE × rate of a training step; latents that die cost more",
    }
    splice = {
        "memory": "process + weights of the model + an SAE + logits of the largest batch, three times",
        "TFLOP": f"layers × {LOSSES} losses × whole forward passes of {spliced.n} held-out texts",
    }
    rows, width = spliced.largest
    logits = 3 * NUMBER * rows * width * (on.sizes.n_vocab or 0)
    found = [
        Step(
            f"train {n} SAE{'s' * (n > 1)}",
            memory=on.held + (7 if checkpoints else 4) * NUMBER * weights + 4 * NUMBER * batch * latents,
            disk=n * NUMBER * (weights + latents),
            scratch=2 * 3 * NUMBER * weights if checkpoints else 0,
            files=n * 5 + 2,
            seconds=seconds,
            formulas=fit,
        )
    ]
    if spliced.n:
        memory = on.held + NUMBER * weights + on.batch(spliced) + logits
        more = {"forwards": n * LOSSES * spliced.n, "flops": flops, "seconds": on.seconds(flops), "formulas": splice}
        found.append(Step("loss recovered", memory, **more))
    return found
