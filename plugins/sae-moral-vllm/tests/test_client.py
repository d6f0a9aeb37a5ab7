"""Asking a server through Inspect, and what is refused when its hooks say that they did not steer everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sae_moral_inspect.answers import read_answers
from sae_moral_vllm import check, request_body, served_edits
from sae_moral_vllm.cli import main
from sae_moral_vllm.export import export

from benchmarks.flames.ask_server import main as ask
from sae_moral.steering import Steering, generate, random_direction
from sae_moral.surgery import Operation
from tests.steering.planted import D, operated, random_sae

TEXTS = ["helping the old baker", "robbing a tired nurse on the bus"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspect's own files stay out of the user's folders."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "INSPECT_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [{"prompt": text, "dimension": "Fairness"} for text in TEXTS]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def said(tmp_path: Path, arm: str) -> list[str]:
    return [answer.text for answer in read_answers([tmp_path / f"{arm}.jsonl"])[arm].values()]


def local(tiny: Any, steerings: list[Steering]) -> list[str]:
    found = generate(tiny, TEXTS, steerings=steerings, max_new_tokens=6, stop_at_eos=False)
    return [tiny.tokenizer.decode(one.ids).strip() for one in found]


def test_answers_of_the_server_are_ours(tiny: Any, url: str, prompts: Path, tmp_path: Path) -> None:
    operation = operated(random_sae("jumprelu"))
    operation.save(tmp_path / "operation")
    arm, how = str(tmp_path / "arm"), [f"operation={tmp_path / 'operation'}", "alpha=1.5"]
    assert main(["export", arm, *how]) == 0
    asked = ["--url", url, "--model", "tiny", "--prompts", str(prompts), "--max-tokens", "6"]
    assert ask([str(tmp_path / "baseline.jsonl"), *asked]) == 0
    assert ask([str(tmp_path / "operated.jsonl"), "--arm", arm, *asked]) == 0
    assert ask([str(tmp_path / "weaker.jsonl"), "--arm", arm, "--alpha", "0.5", *asked]) == 0
    loaded = Operation.load(tmp_path / "operation")
    assert said(tmp_path, "baseline") == local(tiny, [])
    assert said(tmp_path, "operated") == local(tiny, [Steering(loaded, 1.5)]) != local(tiny, [])
    assert said(tmp_path, "weaker") == local(tiny, [Steering(loaded, 0.5)])


def test_a_server_without_the_plugin_is_noticed(
    url: str, engine: Any, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arm = export(Steering(random_direction(D, 1, 0), 1.0), tmp_path / "arm")
    serve = engine.serve
    monkeypatch.setattr(engine, "serve", lambda body: serve({k: v for k, v in body.items() if k != "vllm_xargs"}))
    asked = ["--url", url, "--model", "tiny", "--prompts", str(prompts), "--arm", str(arm)]
    assert ask([str(tmp_path / "operated.jsonl"), *asked]) == 3
    assert "edit 0 never ran; start the server with vllm-lens" in capsys.readouterr().err
    assert not (tmp_path / "operated.jsonl").exists()


def test_a_request_that_began_in_the_prefix_cache_is_refused(engine: Any, new_request: Any, tmp_path: Path) -> None:
    [edit] = served_edits(export(Steering(random_direction(D, 1, 0), 1.0), tmp_path / "arm"))
    usage = {"prompt_tokens": 6, "completion_tokens": 3}

    def answered(cached: int) -> dict[str, Any]:
        request = new_request([1, 5, 9, 11, 4, 7], [(1, edit)])
        if cached:
            hooks, request.hooks, request.contexts = (request.hooks, request.contexts), [], []
            engine.advance(request, cached)  # computed for another request, without its hooks
            request.hooks, request.contexts = hooks
        engine.run([request], 3)
        return {"usage": usage, "hook_results": {"0": request.contexts[0].saved}}

    check(answered(0), 1)
    with pytest.raises(RuntimeError, match="edit 0 did not steer what it should: it has seen 4 positions of 8"):
        check(answered(4), 1)
    for seen in (8, 9):
        check({"usage": usage, "hook_results": {"0": {"seen": seen}}}, 1)
    with pytest.raises(RuntimeError, match="it has seen 16 positions of 8"):  # computed again, unnoticed
        check({"usage": usage, "hook_results": {"0": {"seen": 16}}}, 1)
    with pytest.raises(RuntimeError, match="edit 0 did not steer what it should: layer 1: too large"):
        check({"usage": usage, "hook_results": {"0": {"seen": 8, "failed": "layer 1: too large"}}}, 1)
    with pytest.raises(RuntimeError, match="edit 1 never ran"):
        check(answered(0), 2)


def test_what_a_request_needs_is_printed(tmp_path: Path, capsys: Any) -> None:
    arm = export([Steering(random_direction(D, layer, 0), 1.0) for layer in (1, 2)], tmp_path / "arm")
    assert main(["body", str(arm), "--alpha", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == {"extra_body": request_body(arm, 2.0)}
    assert main(["body", str(arm), "--register"]) == 0
    hooks = json.loads(capsys.readouterr().out)["hooks"]
    assert [(hook["layer_indices"], hook["pre"]) for hook in hooks] == [([1], False), ([2], False)]
    assert main(["export", str(tmp_path / "x"), "operation=nowhere", "kl=0.1"]) == 2
    assert "kl= needs the model" in capsys.readouterr().err
