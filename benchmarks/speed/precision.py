"""What less precision saves, and what it does to headlines: vectors stored in bfloat16, and a model that runs in it.

    python benchmarks/speed/precision.py [--model smollm2-135m-instruct] [--data SOURCE] [--layers 5,15,25] [--texts N]

Processor seconds of the capture on one thread, bytes of the store, and the largest difference of an audited headline
(`overall`) from the exact way, over the layers. `dtype` is part of a model's identity and `store_dtype` of a store's
key: neither is mixed with the exact way.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import torch

from sae_moral import AUDITED, load_data, load_model
from sae_moral.capture import capture
from sae_moral.controls import Controls, measure
from sae_moral.metrics import resolve_metrics
from sae_moral.protocol import parse_layers

WAYS = {
    "float32": ("float32", "float32"),
    "store bfloat16": ("float32", "bfloat16"),
    "model bfloat16": ("bfloat16",) * 2,
}
"""Dtype of the model, and of the store."""


def main() -> None:
    """Print a line as each way ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default="moralstrength", help="a source or a table (default: %(default)s)")
    parser.add_argument("--texts", type=int)
    parser.add_argument("--layers", default="5,15,25")
    given = parser.parse_args()
    torch.set_num_threads(1)  # processor seconds of several threads count their waiting
    data = load_data(given.data)
    data = (data if given.texts is None else data.sample(given.texts)).held_by(AUDITED.groups)
    metrics = resolve_metrics(None, AUDITED)
    exact: dict[tuple[str, int], float] = {}
    print(f"{given.model}: {len(data)} scenarios, layers {given.layers}")
    print("| way | capture, processor s | store, MB | largest difference by metric |\n|---|---|---|---|")
    for name, (dtype, store_dtype) in WAYS.items():
        model = load_model(given.model, device="cpu", dtype=dtype)
        layers = parse_layers(given.layers, model.cfg.n_layers)
        capture(model, data.text[:64], layers=layers, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            how = {"store": folder, "store_dtype": store_dtype, "progress": False}
            started = time.process_time()
            read = capture(model, data.text, layers=layers, template=AUDITED.template, bos=AUDITED.bos, **how)
            seconds = time.process_time() - started
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
            measured = dataclasses.replace(data, length=read.length)
            found = measure(read, measured, metrics, AUDITED, Controls(()), progress=False)
        values = {
            (row.metric, row.layer): row.value
            for row in found.rows
            if row.headline and row.group == "overall" and row.value is not None
        }
        exact = exact or values
        apart: dict[str, float] = {}
        for (metric, layer), value in values.items():
            apart[metric] = max(apart.get(metric, 0.0), abs(value - exact[metric, layer]))
        words = ", ".join(f"{metric} {far:.4f}" for metric, far in apart.items())
        print(f"| {name} | {seconds:.1f} | {size / 1e6:.0f} | {words} |", flush=True)


if __name__ == "__main__":
    main()
