"""What steering costs, in one run: the edit from k latents against the whole one, generation with it against without,
and measuring it again and again.

    python benchmarks/speed/steering.py [--model NAME] [--tokens 24] [--rounds 9] [--latents 256] [--quick]

1. edit: Dec'(Enc'(h)) − Dec(Enc(h)) of a JumpReLU SAE with random weights, 65,536 latents wide, of which k were
   operated on: from those k alone, and by running both SAEs whole (`full_edit`); for 1 and for 64 vectors.
2. generation: a batch of 8 prompts of different lengths, greedy, with a KV cache: unsteered, with the edit hooked in at
   every token of the middle layer, and Hugging Face's own `generate` on a model of its own.
3. a sweep's cell: margins of scenarios and side effects of an edit at several layers, by whole runs and by runs that
   start at the block that is edited after (`Resume`, filled before); equal to the last bit.

Seconds are processor seconds; the arms take turns, so that a busy machine meets all alike; ratios are medians over
rounds. The edit is scaled to nothing (α = 10⁻⁹), so that all arms generate the same tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sae_moral import load_data, load_model
from sae_moral.capture.prompts import left_padded
from sae_moral.capture.resume import Resume
from sae_moral.sae.load import load_sae
from sae_moral.steering import (
    Steering,
    full_edit,
    generate,
    low_rank_edit,
    measure,
    prompt_ids,
    random_direction,
    side_effects,
)
from sae_moral.surgery import Operation, SurgeryRecord
from sae_moral.surgery.operation import rows_of, with_rows

PROMPTS = [
    "The mayor of the town said that",
    "Helping a stranger carry the shopping home in the rain is",
    "In the morning",
    "Robbing a bank is wrong because",
    "The recipe needs two cups of flour and",
    "My neighbour asked me whether I would feed the cat while she is away, and I",
    "Water boils",
    "It was late when the last train left the station and",
]


def random_operation(d: int, width: int, k: int, layer: int) -> Operation:
    """k latents of a random JumpReLU SAE, moved."""
    from sae_lens import SAE

    metadata = {"hook_name": f"blocks.{layer}.hook_resid_post"}
    sae = SAE.from_dict({"architecture": "jumprelu", "d_in": d, "d_sae": width, "metadata": metadata})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sae.state_dict().items():
            drawn = torch.randn(value.shape, generator=generator) / d**0.5
            value.copy_(drawn.abs() if name == "threshold" else drawn)
    loaded = load_sae(sae)
    latents = torch.randperm(width, generator=generator)[:k].sort().values
    before = rows_of(loaded, latents)
    after = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in before.items()}
    made = with_rows(loaded, latents, after, "random operation", surgery=None)
    record = SurgeryRecord(source=loaded.source, sha256={"before": loaded.sha256, "after": made.sha256})
    return Operation(made, latents, before, {}, record)


def in_turn(arms: Mapping[str, Callable[[], Any]], rounds: int, repeats: Mapping[str, int]) -> dict[str, list[float]]:
    """Processor seconds of one call of each arm, per round."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for turn in range(rounds):
        for name in sorted(arms, reverse=bool(turn % 2)):
            started = time.process_time()
            for _ in range(repeats.get(name, 1)):
                arms[name]()
            seconds[name].append((time.process_time() - started) / repeats.get(name, 1))
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """Median over rounds of one arm's seconds over another's."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def edits(d: int, width: int, k: int, rounds: int) -> None:
    operation = random_operation(d, width, k, 0)
    low, full = low_rank_edit(operation), full_edit(operation)
    for n in (1, 64):
        h = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            worst = float((low(h) - full(h)).abs().max() / full(h).abs().max())
            seconds = in_turn({"low": lambda h=h: low(h), "full": lambda h=h: full(h)}, rounds, {"low": 50})
        cheap, dear = (1e3 * statistics.median(seconds[name]) for name in ("low", "full"))
        print(
            f"edit of {n} vectors, {k} of {width} latents, d = {d}: low-rank {cheap:.3f} ms, full {dear:.1f} ms: "
            f"{ratio(seconds, 'full', 'low'):.0f}× cheaper; largest difference {worst:.1e} of the largest value"
        )


def generation(name: str, width: int, k: int, tokens: int, rounds: int) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = load_model(name, device="cpu")
    layer = model.cfg.n_layers // 2
    steering = Steering(random_operation(model.cfg.d_model, width, k, layer), 1e-9)
    options: dict[str, Any] = {"max_new_tokens": tokens, "stop_at_eos": False, "batch_size": len(PROMPTS)}
    hf: Any = AutoModelForCausalLM.from_pretrained(model.original_model.config._name_or_path, dtype=torch.float32)
    ids, mask = left_padded(prompt_ids(model, PROMPTS), model)
    same: Any = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
    seconds = in_turn(
        {
            "unsteered": lambda: generate(model, PROMPTS, **options),
            "steered": lambda: generate(model, PROMPTS, steerings=steering, **options),
            "Hugging Face": lambda: hf.generate(ids, attention_mask=mask.long(), **same),
        },
        rounds,
        {},
    )
    print(f"{name}: {len(PROMPTS)} prompts × {tokens} tokens, {k} of {width} latents at layer {layer}, {rounds} rounds")
    for arm, times in seconds.items():
        speed = len(PROMPTS) * tokens / statistics.median(times)
        unsteered, theirs = (1 / ratio(seconds, arm, other) for other in ("unsteered", "Hugging Face"))
        print(f"  {arm:<13}{speed:>8.1f} tokens/s{unsteered:>8.3f} × unsteered{theirs:>8.3f} × Hugging Face")


def cells(name: str, texts: int, rounds: int) -> None:
    model: Any = load_model(name, device="cpu")
    data, last = load_data("moralstrength").sample(texts), model.cfg.n_layers - 1
    print(f"{name}: margins of {texts} scenarios after one wording, and side effects, {rounds} rounds")
    for layer in (last // 3, last // 2, 2 * last // 3):
        steering, resume = (
            Steering(random_direction(model.cfg.d_model, layer, 0), 0.1, units="relative"),
            Resume(model, layer),
        )

        def whole(steering: Steering = steering) -> Any:
            return measure(model, data, steering)["morally"].tolist(), side_effects(model, steering)

        def resumed(resume: Resume = resume, whole: Callable[[], Any] = whole) -> Any:
            with resume():
                return whole()

        assert resume.usable and whole() == resumed() == resumed()
        seconds = in_turn({"whole": whole, "resumed": resumed}, rounds, {})
        took = (statistics.median(seconds[arm]) for arm in ("whole", "resumed"))
        print("  after block {}: {:.1f} s, {:.1f} s: {:.2f} ×".format(layer, *took, ratio(seconds, "whole", "resumed")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--width", type=int, default=65_536)
    parser.add_argument("--latents", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a narrow SAE, few tokens: only to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.width, arguments.tokens, arguments.rounds = 4096, 8, 2
    torch.set_num_threads(1)  # processor seconds of several threads count their waiting
    edits(576, arguments.width, arguments.latents, arguments.rounds)
    generation(arguments.model, arguments.width, arguments.latents, arguments.tokens, arguments.rounds)
    cells(arguments.model, 8 if arguments.quick else 64, min(arguments.rounds, 3))


if __name__ == "__main__":
    main()
