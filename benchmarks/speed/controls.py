"""Seconds that a diagnosis with all controls takes after capture, beside those of calling every metric once per draw.

    python benchmarks/speed/controls.py [--data SOURCE] [--model NAME] [--layers all] [--naive 3] [--store DIR]

1. ours: `sae_moral.controls.measure` on all layers: interval, null, nuisance, bag of words, selectivity, random weights
   (the twin's capture is timed by itself);
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
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_moral import AUDITED, load_data, load_model
from sae_moral.capture import capture
from sae_moral.capture.vectors import Representations
from sae_moral.controls import Controls, measure, random_weights
from sae_moral.controls.draws import permutations, resamples
from sae_moral.controls.settings import NAMES
from sae_moral.data import MoralData
from sae_moral.metrics import Metric, evaluate, resolve_metrics
from sae_moral.metrics.base import Variants, declared, folds
from sae_moral.metrics.dimensional import AuditedDimensional
from sae_moral.metrics.preprocess import preprocess
from sae_moral.metrics.ridge import PENALTIES
from sae_moral.protocol import parse_layers


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="moralstrength", help="a source or a table")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--naive", type=int, default=3, help="draws of each kind to time")
    parser.add_argument("--store", type=Path)
    arguments = parser.parse_args()
    model, data, controls = load_model(arguments.model), load_data(arguments.data), Controls(names=NAMES)
    layers = parse_layers(arguments.layers, model.cfg.n_layers)
    with tempfile.TemporaryDirectory() as scratch:
        store = arguments.store or Path(scratch)

        def read(some: Any) -> Representations:
            return capture(some, data.text, layers=layers, store=store)

        started = time.perf_counter()
        representations = read(model)
        captured = time.perf_counter() - started
        data = dataclasses.replace(data, length=representations.length)
        metrics = resolve_metrics(None, AUDITED)
        started = time.perf_counter()
        result = measure(
            representations,
            data,
            metrics,
            AUDITED,
            controls,
            baselines={"random weights": lambda: read(random_weights(model, seed=0))},
        )
        ours = time.perf_counter() - started
        x, _ = preprocess(representations[layers[len(layers) // 2]], representations.length, AUDITED.preprocessing)
        total = 0.0
        print(f"{arguments.model}, {len(data)} scenarios, {len(layers)} layers, {torch.get_num_threads()} threads")
        for metric in metrics:
            seconds = naive(metric, x, data, arguments.naive)
            # Fits are refitted as often as labels are permuted; control tasks and further schemes are left out.
            per_layer = 2 * controls.permutations * seconds["permutation"] + controls.resamples * seconds["resample"]
            total += per_layer * len(layers)
            parts = ", ".join(f"{value:.2f} s per {name}" for name, value in seconds.items())
            print(f"naive {metric.name:<12} {parts}: {per_layer * len(layers) / 3600:.1f} h for all layers")
    print(f"capture {captured:.0f} s; parts of ours: {(result.controls or {})['seconds']}")
    print(f"ours, all controls, after capture: {ours:.0f} s ({ours / 60:.1f} min)")
    print(
        f"naive, extrapolated, without random weights and bag of words: {total / 3600:.1f} h, {total / ours:.0f} × ours"
    )
    _distance(x, data, controls.permutations)


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
