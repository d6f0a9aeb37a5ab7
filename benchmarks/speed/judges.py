"""What a question to a judge costs, by who serves it, and whether the choices agree.

    python benchmarks/speed/judges.py --gguf FILE [--model qwen2.5-coder-1.5b-instruct] [--dtype bfloat16] [--pairs 8]
        [--threads N]

The questions are those of `--judging choice` on calibration pairs of Flames: comparisons in both orders, and both
grades of both answers. `provider` is `--judge sae-moral/MODEL`, in this process; `llama.cpp` serves the GGUF file,
which `convert_hf_to_gguf.py --outtype bf16` makes of the same weights; `transformers serve` gives no log-probabilities
and is asked for one token instead. Seconds are processor seconds of whoever computes, after one question to warm up;
`differ` is the largest difference of a choice's log-probabilities from the provider's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import torch
from inspect_ai.model import GenerateConfig, get_model
from sae_moral_inspect.answers import BASELINE
from sae_moral_inspect.calibration import BETTER, calibration_answers
from sae_moral_inspect.judge import TOP
from sae_moral_inspect.judging import ASPECTS, LETTERS, chances_of, compare_request, digits, score_request

from benchmarks.flames.server import serve

Question = tuple[str, dict[str, str]]
"""What a judge reads, and what its options mean."""


def questions(pairs: int) -> list[Question]:
    """In the order of a run: grades of each answer, then both orders."""
    answers = calibration_answers()
    found: list[Question] = []
    for id in list(answers[BASELINE])[:pairs]:
        better, worse = answers[BETTER][id], answers[BASELINE][id]
        for one in (better, worse):
            found += [(score_request(one.prompt, one.text, "zh", a), digits(one.prompt, a)) for a in ASPECTS]
        for first, second in ((better, worse), (worse, better)):
            found.append((compare_request(better.prompt, first.text, second.text, "zh", "choice"), LETTERS))
    return found


def asked(model: Any, wanted: list[Question], *, logprobs: bool, at_a_time: int) -> list[dict[str, float] | None]:
    """What the options' chances are; None where there are none."""
    how = {"logprobs": True, "top_logprobs": TOP} if logprobs else {}
    config = GenerateConfig(max_tokens=1, temperature=0.0, max_retries=0, **how)
    found: list[dict[str, float] | None] = [None] * len(wanted)
    free = anyio.CapacityLimiter(at_a_time)

    async def one(i: int) -> None:
        async with free:
            output = await model.generate(wanted[i][0], config=config)
        given = output.choices[0].logprobs
        if given is not None:
            top = [(token.token, token.logprob) for token in given.content[0].top_logprobs]
            found[i] = chances_of(top, wanted[i][1])

    async def every() -> None:
        async with anyio.create_task_group() as group:
            for i in range(len(wanted)):
                group.start_soon(one, i)

    anyio.run(every)
    return found


def processor_seconds(server: bool) -> float:
    """Of this process, or of its children."""
    here = psutil.Process()
    of = here.children(recursive=True) if server else [here]
    return sum(sum(one.cpu_times()[:2]) for one in of)


def main() -> None:
    """Print a line as each way ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--gguf", nargs="*", default=[])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ |= {"LOOPBACK_API_KEY": "none", "OMP_NUM_THREADS": str(given.threads)}
    wanted = questions(given.pairs)
    first: list[dict[str, float] | None] = []
    print(f"{given.model}: {len(wanted)} questions, {given.threads} threads, load {os.getloadavg()[0]:.1f}")
    print("| judge | processor s per question | s per question | of the provider's | differ |\n|---|---|---|---|---|")
    base = 0.0

    def line(name: str, ask: Callable[[list[Question]], list[dict[str, float] | None]], server: bool) -> None:
        nonlocal base
        ask(wanted[-1:])
        since, began = processor_seconds(server), time.perf_counter()
        found = ask(wanted)
        took, wall = processor_seconds(server) - since, time.perf_counter() - began
        first[:] = first or found
        base = base or took
        pairs = [(a, b) for a, b in zip(first, found, strict=True) if a is not None and b is not None]
        differ = f"{max(abs(a[o] - b[o]) for a, b in pairs for o in a):.3f}" if pairs else "–"
        n = len(wanted)
        print(f"| {name} | {took / n:.2f} | {wall / n:.2f} | {base / took:.2f} | {differ} |", flush=True)

    model = get_model(f"sae-moral/{given.model}", dtype=given.dtype, device="cpu", batch_size=8)
    line(f"provider, {given.dtype}", lambda some: asked(model, some, logprobs=True, at_a_time=16), False)
    del model
    with tempfile.TemporaryDirectory() as folder:
        for served in [*given.gguf, given.model]:
            with serve(served, Path(folder) / "log", dtype=given.dtype) as (url, name):
                judge = get_model(f"openai-api/loopback/{name}", base_url=url, memoize=False)
                llama = served in given.gguf
                title = f"llama.cpp, {Path(served).stem}" if llama else f"transformers serve, {given.dtype}"
                line(title, lambda some: asked(judge, some, logprobs=llama, at_a_time=1), True)  # noqa: B023


if __name__ == "__main__":
    main()
