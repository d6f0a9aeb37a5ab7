"""Seconds that a diagnosis with all controls takes after capture, beside those of calling every metric once per draw.

    python benchmarks/speed/controls.py [--data SOURCE] [--model NAME] [--layers all] [--workers N] [--naive 3]

1. ours: `sae_moral.controls.measure` with every control but those that need other texts of the model (valence reader,
   input embeddings), shared by `--workers` processes as `sae-moral diagnose --workers` shares it; the first pass of the
   model is not in it, that of its twin with random weights is;
2. naive: a loop that relabels or resamples the data and calls the metric anew, timed for a few draws of each kind at
   the middle layer and multiplied by the number of draws and layers (its statistics under permuted labels are checked
   to be those of `measure`'s draws).

The limit. For n scenarios, d dimensions, k = 10 targets, f = 5 folds, g = 11 penalties and b permutations, the ridge
regressions of permuted labels cost 2·(f − 1)·b·k·g·n·d operations for the inner predictions alone: 0.28·10¹² per layer
of SmolLM2. The last line says what one large matrix product reaches in the same run, and how far `dimensional` is.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_moral import AUDITED, load_data, load_model
from sae_moral.capture import capture
from sae_moral.capture.vectors import Representations
from sae_moral.controls import Controls, measure, random_weights
from sae_moral.controls.checkpoint import Checkpoint
from sae_moral.controls.draws import permutations, resamples
from sae_moral.controls.settings import NAMES
from sae_moral.data import MoralData
from sae_moral.metrics import Metric, evaluate, resolve_metrics
from sae_moral.metrics.base import Variants, declared, folds
from sae_moral.metrics.dimensional import AuditedDimensional
from sae_moral.metrics.preprocess import preprocess
from sae_moral.metrics.ridge import PENALTIES
from sae_moral.protocol import parse_layers
from sae_moral.workers import workers


def naive(metric: Metric, x: torch.Tensor, data: MoralData, draws: int) -> dict[str, float]:
    """Mean seconds of one permutation of the headline's scheme, and of one resample."""
    index = permutations(data, declared(metric)[metric.headline].null or "all", draws, fold=folds(data, 5, 0)).index
    weight = resamples(data, draws)
    seconds = {}
    started, found = time.perf_counter(), []
    for row in index:
        statistics = evaluate(metric, x, data.relabelled(row.numpy()))
        found.append(next(s.value for s in statistics if s.name == metric.headline and s.group == "overall"))
    seconds["permutation"] = (time.perf_counter() - started) / draws
    ours = metric.prepare(x, data)(Variants.relabelled(index), [metric.headline])  # pyright: ignore
    np.testing.assert_allclose(ours[metric.headline, "overall"].numpy(), found, atol=1e-6)
    started = time.perf_counter()
    for row in weight:
        rows = np.repeat(np.arange(len(data)), row.numpy().astype(int))
        evaluate(metric, x[torch.from_numpy(rows)], data.subset(rows))
    seconds["resample"] = (time.perf_counter() - started) / draws
    return seconds


def ours(given: argparse.Namespace, folder: Path) -> tuple[dict[str, float], float]:
    """All layers with their controls, shared with whoever does the same: seconds of its parts as this process saw
    them, and in all. The vectors are in the folder already."""
    model, data, layers = _asked(given)

    def read(some: Any) -> Representations:
        return capture(some, data.text, layers=layers, store=folder, shards=given.workers, progress=False)

    representations = read(model)
    started = time.perf_counter()
    result = measure(
        representations,
        dataclasses.replace(data, length=representations.length),
        resolve_metrics(None, AUDITED),
        AUDITED,
        Controls(names=NAMES),
        baselines={"random weights": lambda: read(random_weights(model, seed=0))},
        checkpoint=Checkpoint(folder / "samples", {}),
        progress=False,
    )
    return (result.controls or {})["seconds"], time.perf_counter() - started


def _asked(given: argparse.Namespace) -> tuple[Any, MoralData, list[int]]:
    model = load_model(given.model)
    return model, load_data(given.data), parse_layers(given.layers, model.cfg.n_layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="moralstrength", help="a source or a table")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--naive", type=int, default=3, help="draws of each kind to time; 0: none")
    given = parser.parse_args()
    model, data, layers = _asked(given)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        representations = capture(model, data.text, layers=layers, store=scratch)
        captured, cpu = time.perf_counter() - started, _processor_seconds()
        started = time.perf_counter()
        with workers(given.workers, partial(ours, given, Path(scratch)), logs=Path(scratch) / "logs"):
            parts, own = ours(given, Path(scratch))
        total, cpu = time.perf_counter() - started, _processor_seconds() - cpu
        data = dataclasses.replace(data, length=representations.length)
        x, _ = preprocess(representations[layers[len(layers) // 2]], representations.length, AUDITED.preprocessing)
    print(f"{given.model}, {len(data)} scenarios, {len(layers)} layers, {given.workers} workers")
    print(f"capture {captured:.0f} s; parts of ours as the first worker saw them: {parts}")
    print(f"ours, all controls, after capture: {own:.0f} s ({own / 60:.1f} min), with start and end of the workers")
    print(f"{total:.0f} s; {cpu:.0f} processor seconds of all workers")
    naive_total = 0.0
    for metric in resolve_metrics(None, AUDITED) if given.naive else ():
        seconds = naive(metric, x, data, given.naive)
        # Fits are refitted as often as labels are permuted; control tasks and further schemes are left out.
        controls = Controls()
        per_layer = 2 * controls.permutations * seconds["permutation"] + controls.resamples * seconds["resample"]
        naive_total += per_layer * len(layers)
        said = ", ".join(f"{value:.2f} s per {name}" for name, value in seconds.items())
        print(f"naive {metric.name:<12} {said}: {per_layer * len(layers) / 3600:.1f} h for all layers")
    if given.naive:
        print(
            f"naive, extrapolated, the model's layers alone: {naive_total / 3600:.1f} h, {naive_total / own:.0f} × ours"
        )
    _distance(x, data, Controls().permutations)


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _distance(x: torch.Tensor, data: MoralData, b: int) -> None:
    a, c = torch.randn(2000, 576, dtype=torch.float64), torch.randn(576, 4000, dtype=torch.float64)
    started = time.perf_counter()
    for _ in range(5):
        torch.mm(a, c)
    reached = 5 * 2 * a.shape[0] * a.shape[1] * c.shape[1] / (time.perf_counter() - started)
    prepared = AuditedDimensional().prepare(x, data)
    index = permutations(data, "labels", b, fold=folds(data, 5, 0)).index
    started = time.perf_counter()
    prepared(Variants.relabelled(index), ["r2"])
    seconds = time.perf_counter() - started
    operations = 2 * 4 * b * 10 * len(PENALTIES) * len(data) * min(x.shape)
    print(
        f"dimensional, {b} permutations of one layer: {seconds:.1f} s, at {operations / seconds / reached:.0%} of the "
        f"{reached / 1e9:.0f}·10⁹ operations per second of a matrix product (inner predictions alone)"
    )


if __name__ == "__main__":
    main()
