"""Texts per second of several ways to the same pooled vectors, in one run, and the memory of a capture to disk.

    python benchmarks/speed/capture.py [--data SOURCE] [--texts 320] [--rounds 3] [--memory]

1. paper: full forward, every layer copied out of the model, pooled afterwards (file order, batches of 32);
2. cache: TransformerBridge.run_with_cache of all residuals (same batches);
3. mark: body only, sorted by length, batches of 32, pooled inside the hooks;
4. hooks: the body of the transformers model itself (fused attention), sorted, batches of 32, torch's own hooks;
5. nnsight: the same in a trace (peers.txt; left out where it is not installed);
6. ours: sae_moral.capture.capture.

Seconds are processor seconds on one thread; the ways take turns.

The limit: a forward of the body costs 2 × (weights of the body) operations per token. The last column says how far each
way is from what one large matrix product reaches on the same machine in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_moral import load_data, load_model
from sae_moral.capture import capture
from sae_moral.capture.bundled import bundled_path
from sae_moral.capture.prompts import unaltered_tokenizer

TEMPLATE = "{text} is morally"
MODELS = ("smollm2-135m-instruct", "gemma-3-270m")


NNSIGHT = importlib.util.find_spec("nnsight") is not None


class _Stop(Exception):
    pass


def _batches(tokenizer: Any, text: list[str], *, by_length: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = [tokenizer(TEMPLATE.format(text=t)).input_ids for t in text]
    if by_length:
        ids.sort(key=len)
    batches = []
    for start in range(0, len(ids), 32):
        part = ids[start : start + 32]
        tokens = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for i, sequence in enumerate(part):
            tokens[i, : len(sequence)], mask[i, : len(sequence)] = torch.tensor(sequence), 1
        batches.append((tokens, mask))
    return batches


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def paper(model: Any, text: list[str]) -> None:
    copies: dict[str, torch.Tensor] = {}
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]

    def keep(hidden: torch.Tensor, hook: Any) -> None:
        copies[hook.name] = hidden.detach().clone()

    with torch.inference_mode(), model.hooks(fwd_hooks=[(name, keep) for name in names]):
        for tokens, mask in _batches(unaltered_tokenizer(model.tokenizer), text, by_length=False):
            model(tokens, attention_mask=mask, return_type="logits")
            for hidden in copies.values():
                _mean(hidden, mask)


def cached(model: Any, text: list[str]) -> None:
    with torch.inference_mode():
        for tokens, mask in _batches(unaltered_tokenizer(model.tokenizer), text, by_length=False):
            _, kept = model.run_with_cache(
                tokens, attention_mask=mask, names_filter=lambda name: name.endswith("hook_resid_post")
            )
            for layer in range(model.cfg.n_layers):
                _mean(kept[f"blocks.{layer}.hook_resid_post"], mask)


def mark(model: Any, text: list[str]) -> None:
    last, current = model.cfg.n_layers - 1, {}

    def make(layer: int) -> Callable[..., None]:
        def hook(hidden: torch.Tensor, hook: Any) -> None:
            _mean(hidden, current["mask"])
            if layer == last:
                raise _Stop

        return hook

    hooks = [(f"blocks.{layer}.hook_resid_post", make(layer)) for layer in range(last + 1)]
    with torch.inference_mode(), model.hooks(fwd_hooks=hooks):
        for tokens, current["mask"] in _batches(unaltered_tokenizer(model.tokenizer), text, by_length=True):
            try:
                model(tokens, attention_mask=current["mask"], return_type=None)
            except _Stop:
                pass


@cache
def body(name: str) -> Any:
    """The model as transformers loads it, without what predicts words."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(bundled_path(name), dtype=torch.float32).eval()


def hooks(model: Any, text: list[str]) -> None:
    plain, current = body(model.cfg.sae_moral_name), {}

    def hook(layer: Any, given: Any, output: Any) -> None:
        _mean(output, current["mask"])

    placed = [layer.register_forward_hook(hook) for layer in plain.layers]
    try:
        with torch.inference_mode():
            for tokens, current["mask"] in _batches(unaltered_tokenizer(model.tokenizer), text, by_length=True):
                plain(input_ids=tokens, attention_mask=current["mask"], use_cache=False)
    finally:
        for one in placed:
            one.remove()


def nnsight(model: Any, text: list[str]) -> None:
    from nnsight import NNsight  # pyright: ignore[reportMissingImports]

    wrapped = NNsight(body(model.cfg.sae_moral_name))
    with torch.inference_mode():
        for tokens, mask in _batches(unaltered_tokenizer(model.tokenizer), text, by_length=True):
            with wrapped.trace(tokens, attention_mask=mask, use_cache=False):
                for layer in wrapped.layers:
                    ((layer.output * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)).save()


def ours(model: Any, text: list[str]) -> None:
    capture(model, text, template=TEMPLATE, pooling="all", bos="tokenizer", progress=False)


WAYS = {"paper": paper, "cache": cached, "mark": mark, "hooks": hooks, "nnsight": nnsight, "ours": ours}
WAYS = {name: way for name, way in WAYS.items() if name != "nnsight" or NNSIGHT}


def operations_per_second() -> float:
    """What one large float32 matrix product reaches here."""
    a = torch.randn(2048, 2048)
    started = time.process_time()
    for _ in range(4):
        torch.mm(a, a)
    return 4 * 2 * 2048**3 / (time.process_time() - started)


def compare(name: str, text: list[str], rounds: int) -> None:
    model = load_model(name, device="cpu")
    weights = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n)
    tokens = sum(
        len(ids) for ids in unaltered_tokenizer(model.tokenizer)([TEMPLATE.format(text=t) for t in text]).input_ids
    )
    for way in WAYS.values():
        way(model, text[:32])
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    peak = []
    for _ in range(rounds):  # in turn, so that a change of the machine's speed meets all of them
        peak.append(operations_per_second())
        for way, run in WAYS.items():
            started = time.process_time()
            run(model, text)
            seconds[way].append(time.process_time() - started)
    print(
        f"\n{name}: {len(text)} texts × {tokens / len(text):.1f} tokens, body of {weights / 1e6:.0f}M, {rounds} rounds"
    )
    bases = ("paper", "mark", "hooks")
    heads = "".join(f"{f'× {base}':>10}" for base in bases)
    print(f"{'way':<8}{'texts/s':>10}{heads}{'of the limit':>14}")
    for way, times in seconds.items():
        ratios = [statistics.median(b / a for a, b in zip(times, seconds[base], strict=True)) for base in bases]
        limit = statistics.median(2 * weights * tokens / t / p for t, p in zip(times, peak, strict=True))
        columns = "".join(f"{ratio:>10.2f}" for ratio in ratios)
        print(f"{way:<8}{len(text) / statistics.median(times):>10.1f}{columns}{limit:>14.0%}", flush=True)


def invented(n: int) -> list[str]:
    """n distinct short scenarios."""
    parts = [
        words.split("|")
        for words in (
            "Helping|Ignoring|Thanking|Mocking|Paying|Following|Calling|Leaving|Teaching|Painting",
            "my neighbour|the old teacher|a nervous driver|two strangers|the whole class|a tired nurse|the cook|him",
            "before breakfast|at the station|in front of everybody|for no reason|during the storm|after the meeting",
            "because it was easy|to make a point|and saying so|though nobody saw it|with a smile|a third time|again",
            "on Monday|last year|in spring|at night|every week|once|twice|on the way home",
        )
    ]
    return [" ".join(words) for words in itertools.islice(itertools.product(*parts), n)]


def memory(n: int) -> None:
    """In a fresh process: peak memory of capturing n scenarios × all layers of SmolLM2 to disk, and the model's own."""

    def status(key: str) -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1e6

    text = invented(n)
    assert len(set(text)) == n
    model = load_model(MODELS[0], device="cpu")
    capture(model, text[:64], progress=False)
    own = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        representations = capture(model, text, store=folder, progress=False)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 1e9
        assert np.isfinite(representations[model.cfg.n_layers - 1].numpy()).all()
        found = {
            "n": n,
            "own_gb": own,
            "peak_gb": status("VmHWM"),
            "store_gb": size,
            "seconds": time.perf_counter() - started,
        }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="moralstrength", help="a source or a table (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument(
        "--memory", type=int, nargs="?", const=20_000, metavar="N", help="also measure memory over N texts"
    )
    parser.add_argument("--memory-here", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_here:
        return memory(arguments.memory_here)
    torch.set_num_threads(1)  # processor seconds of several threads count their waiting
    text = list(load_data(arguments.data).sample(arguments.texts).text)
    for name in arguments.models:
        compare(name, text, arguments.rounds)
    if arguments.memory:
        command = [sys.executable, __file__, "--memory-here", str(arguments.memory)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(
            f"\nmemory: {found['n']} scenarios × all layers of {MODELS[0]} to disk ({found['store_gb']:.2f} GB) in "
            f"{found['seconds']:.0f} s: peak {found['peak_gb']:.2f} GB, the model's own {found['own_gb']:.2f} GB, "
            f"over it {found['peak_gb'] - found['own_gb']:.2f} GB"
        )
    return None


if __name__ == "__main__":
    main()
