"""Flames asked of a vLLM server: the answers of an arm, for `sae-moral flames --answers`.

    python benchmarks/flames/ask_server.py answers/operated.jsonl --url http://127.0.0.1:8000/v1 --model MODEL \\
        --arm arms/operated.safetensors

`sae-moral-vllm export` writes arms; without one the model is asked as it is. The server's key is read from
SERVED_API_KEY. Refused, and nothing written, where a hook did not steer every position.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from inspect_ai import eval
from inspect_ai.model import GenerateConfig, get_model
from sae_moral_inspect.answers import write_answers
from sae_moral_inspect.prompts import FlamesPrompt, flames_prompts
from sae_moral_inspect.tasks import answer_of, asking_task
from sae_moral_vllm import check, request_body, served_edits


def ask(
    prompts: Sequence[FlamesPrompt],
    name: str,
    out: Path,
    *,
    url: str,
    model: str,
    arm: Path | None = None,
    alpha: float | None = None,
    decoding: GenerateConfig | None = None,
) -> Path:
    """Ask every prompt, as a chat, and write the answers for `sae-moral flames --answers`.

    Args:
        name: of the arm; `baseline` is what others are compared with.
        url: of the server, with `/v1`.
        model: as the server calls it.
        arm: what `export` wrote, under a path that the server has, too; None asks the model as it is.
        alpha: of its edits; None for the exported one.

    Raises:
        ValueError: not an exported arm.
        RuntimeError: not all was answered, or not all was steered; nothing is written.
    """
    config = (decoding or GenerateConfig()).merge(GenerateConfig(extra_body=request_body(arm, alpha)))
    served = {"base_url": url, "api_key": os.environ.get("SERVED_API_KEY", "none"), "memoize": False}
    [log] = eval(
        asking_task(prompts, config, name),
        model=get_model(f"openai-api/served/{model}", **served),
        log_dir=str(out.parent / "logs"),
        log_model_api=True,
        display="none",
    )
    samples = log.samples or []
    if log.status != "success" or len(samples) != len(prompts):
        raise RuntimeError(f"{name}: {log.error.message if log.error else log.status}; run it again")
    edits = 0 if arm is None else len(served_edits(arm))
    for sample in samples:
        calls = [event.call for event in sample.events if event.event == "model" and event.call]
        check(calls[-1].response or {} if calls else {}, edits)
    said = {str(sample.id): sample.output for sample in samples}
    write_answers(out, name, [answer_of(prompt, said[prompt.id]) for prompt in prompts])
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 done, 2 bad input, 3 not all was answered or steered."""
    made = argparse.ArgumentParser(description="Ask a vLLM server the questions of Flames.")
    made.add_argument("out", type=Path, help="a .jsonl file; its name is the arm's, `baseline` the one to compare with")
    made.add_argument("--url", required=True, help="of the server, with /v1")
    made.add_argument("--model", required=True, help="as the server calls it")
    made.add_argument("--arm", type=Path, help="what sae-moral-vllm export wrote; none for the model as it is")
    made.add_argument("--alpha", type=float, help="in place of the exported one")
    made.add_argument("--prompts", type=Path, help="default: the published file, downloaded once")
    made.add_argument("--limit", type=int, help="at most so many, balanced over dimensions")
    made.add_argument("--max-tokens", type=int, default=256)
    made.add_argument("--connections", type=int, default=64, help="requests at a time")
    given = made.parse_args(arguments)
    try:
        prompts = flames_prompts(given.prompts, limit=given.limit)
        decoding = GenerateConfig(max_tokens=given.max_tokens, max_connections=given.connections)
        how = {"url": given.url, "model": given.model, "arm": given.arm, "alpha": given.alpha, "decoding": decoding}
        print(ask(prompts, given.out.stem, given.out, **how))
    except (ValueError, OSError) as error:
        print(f"ask_server.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"ask_server.py: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
