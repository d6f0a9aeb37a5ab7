"""`ask`: the answers of an arm from a server, through Inspect, refused where its hooks did not steer all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai import eval
from inspect_ai.model import GenerateConfig, get_model
from sae_moral_inspect.answers import write_answers
from sae_moral_inspect.prompts import FlamesPrompt
from sae_moral_inspect.tasks import answer_of, asking_task

from sae_moral_vllm.hook import request_body, served_edits

KEY = "SERVED_API_KEY"
"""Environment variable with the server's key."""


def check(response: Mapping[str, Any], edits: int) -> None:
    """Refuse a server's response [OpenAI JSON] that was not steered at every position by each of its edits.

    vllm-lens goes on without a hook that fails, and says so in the server's log only.

    Raises:
        RuntimeError: no hook ran, one failed, or one has seen fewer positions than there were.
    """
    ran, usage = response.get("hook_results") or {}, response["usage"]
    # The last token is never fed back.
    positions = usage["prompt_tokens"] + usage["completion_tokens"] - 1
    for number in range(edits):
        saved = ran.get(str(number))
        if saved is None:
            raise RuntimeError(f"edit {number} never ran; start the server with vllm-lens, and without --speculative-*")
        if "failed" in saved or saved["seen"] < positions:
            said = saved.get("failed") or f"it has seen {saved['seen']} positions of {positions}"
            raise RuntimeError(f"edit {number} left something unsteered: {said}")


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
    logs: Path | None = None,
) -> Path:
    """Ask every prompt, as a chat, and write the answers for `sae-moral flames --answers`.

    Args:
        name: of the arm; `baseline` is what others are compared with.
        url: of the server, with `/v1`.
        model: as the server calls it.
        arm: what `export` wrote, under a path that the server has, too; None asks the model as it is.
        alpha: of its edits; None for the exported one.
        logs: folder of Inspect's log; by default beside `out`.

    Raises:
        ValueError: not an exported arm.
        RuntimeError: not all was answered, or not all was steered; nothing is written.
    """
    config = (decoding or GenerateConfig()).merge(GenerateConfig(extra_body=request_body(arm, alpha)))
    served = {"base_url": url, "api_key": os.environ.get(KEY, "none"), "memoize": False}
    [log] = eval(
        asking_task(prompts, config, name),
        model=get_model(f"openai-api/served/{model}", **served),
        log_dir=str(logs or out.parent / "logs"),
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
    by_id = {prompt.id: prompt for prompt in prompts}
    write_answers(out, name, [answer_of(by_id[str(sample.id)], sample.output) for sample in samples])
    return out
