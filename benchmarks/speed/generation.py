"""Tokens per processor second of the Inspect provider against Hugging Face's `generate`, same model, prompts, batch and
length.

    python benchmarks/speed/generation.py [--model gemma-3-270m] [--batch 8] [--new 48] [--rounds 3] [--operation DIR]

Both take the likeliest tokens, end a text at the same end tokens, and get the same padded batch, on one thread; the
ways alternate, and what counts is the ratio within a round. The provider is asked as an evaluation asks it: one request
per prompt, at the same time. With `--operation` a third way is the provider steered. Prompts are of about 15 to 60
tokens; rows that end leave the provider's batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import anyio
import torch
from inspect_ai.model import GenerateConfig, get_model
from transformers import AutoModelForCausalLM

from sae_moral.capture.bundled import BUNDLED, bundled_path
from sae_moral.capture.prompts import left_padded

SUBJECTS = (
    "the weather",
    "old bridges",
    "a long walk",
    "bread",
    "the sea",
    "trains",
    "my neighbour",
    "rivers in spring",
)


def provider(model: Any, prompts: list[str], new: int) -> Callable[[], int]:
    """A function that asks everything at once and returns how many tokens came."""
    config = GenerateConfig(max_tokens=new, temperature=0.0)

    async def every() -> int:
        found: list[int] = []

        async def one(text: str) -> None:
            output = await model.generate(text, config=config)
            found.append(output.usage.output_tokens)

        before = model.api.generated
        async with anyio.create_task_group() as group:
            for text in prompts:
                group.start_soon(one, text)
        assert model.api.generated == before + len(prompts), "answers came from somewhere else than the model"
        return sum(found)

    return lambda: anyio.run(every)


def hugging_face(api: Any, prompts: list[str], new: int, folder: str) -> Callable[[], int]:
    """The same ids through `generate` of the model as transformers loads it."""
    from inspect_ai.model import ChatMessageUser

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [api.prompt_ids([ChatMessageUser(content=text)], [], GenerateConfig()) for text in prompts]
    tokenizer = api.model.tokenizer
    tokens, mask = left_padded(ids, api.model)
    pad = tokenizer.pad_token_id

    def run() -> int:
        with torch.inference_mode():
            out = model.generate(
                tokens, attention_mask=mask.long(), max_new_tokens=new, do_sample=False, pad_token_id=pad
            )
        ends = model.generation_config.eos_token_id
        stop = torch.tensor([ends] if isinstance(ends, int) else ends or [tokenizer.eos_token_id])
        rows = torch.isin(out[:, tokens.shape[1] :], stop)
        return sum(int(row.nonzero()[0]) if row.any() else len(row) for row in rows)

    return run


def main() -> None:
    """Print the table as Markdown, and the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--operation")
    given = parser.parse_args()
    torch.set_num_threads(1)  # processor seconds of several threads count their waiting
    longer = "in a few words, as you would tell a friend, "
    prompts = [f"Please tell me {longer * (i % 4)}what people like about {SUBJECTS[i % 8]}" for i in range(given.batch)]
    options = {"batch_size": given.batch, "device": "cpu"}
    plain = get_model(f"sae-moral/{given.model}", **options)
    folder = str(bundled_path(given.model)) if given.model in BUNDLED else given.model
    ways = {"Hugging Face generate": hugging_face(plain.api, prompts, given.new, folder)}
    ways["provider"] = provider(plain, prompts, given.new)
    if given.operation:
        steered = get_model(f"sae-moral/{given.model}", **options, operation=given.operation, alpha=0.1)
        ways["provider, steered"] = provider(steered, prompts, given.new)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(given.rounds + 1):
        for name, run in ways.items():
            started = time.process_time()
            tokens = run()
            if round_:  # the first one warms up
                speeds[name].append(tokens / (time.process_time() - started))
    first = speeds["Hugging Face generate"]
    ratios = {
        name: statistics.median(a / b for a, b in zip(found, first, strict=True)) for name, found in speeds.items()
    }
    print("| way | tokens per processor second | of Hugging Face |\n|---|---|---|")
    for name, found in speeds.items():
        print(f"| {name} | {statistics.median(found):.1f} | {ratios[name]:.2f} |")
    print(json.dumps({"model": given.model, "batch": given.batch, "new": given.new, "ratios": ratios}))


if __name__ == "__main__":
    main()
