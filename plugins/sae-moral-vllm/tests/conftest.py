"""A tiny model, and a stand-in for a vLLM server with vllm-lens: the order in which it calls a hook, and with what.

Written after vllm-lens 1.3.0 (`_worker_ext._hook_inner`, `_activations_plugin`, `_helpers.types`): a post-hook runs for
each request of a forward pass on that request's rows [n, d] of the stream, with a context that lasts as long as the
request; what it raises is swallowed; what it saved comes back as `hook_results`.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from sae_moral.capture import load_model
from tests.tiny import save_tiny_model


@dataclass
class Context:
    """vllm-lens' `HookContext`, as far as it is documented."""

    layer_idx: int = 0
    seq_len: int = 0
    saved: dict[str, Any] = field(default_factory=dict)


class Request:
    """What the engine keeps of a request; a hook is (layer, callable)."""

    def __init__(self, prompt: Sequence[int], hooks: Sequence[tuple[int, Any]]) -> None:
        self.ids, self.prompt, self.hooks = list(prompt), len(prompt), hooks
        self.contexts = [Context() for _ in hooks]
        self.logprobs: list[torch.Tensor] = []
        self.drop()

    def drop(self) -> None:
        """Preempted: what was computed is lost, contexts are not."""
        self.cache, self.computed = DynamicCache(), 0

    @property
    def new(self) -> list[int]:
        return self.ids[self.prompt :]


class Engine:
    """Requests go on in turns, by as many positions as a schedule gives; the model is run on one after the other."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.running: Request | None = None
        self.lock = threading.Lock()
        for number, block in enumerate(self.model.model.layers):
            block.register_forward_hook(lambda _, given, output, number=number: self._hooked(number, output))

    def _hooked(self, layer: int, output: torch.Tensor) -> torch.Tensor:
        request, hidden = self.running, output[0]
        if request is None:
            return output
        for context, (at, hook) in zip(request.contexts, request.hooks, strict=True):
            if at != layer:
                continue
            context.layer_idx, context.seq_len = layer, len(hidden)
            try:
                changed = hook(context, hidden)
            except Exception:
                continue
            hidden = hidden if changed is None else changed
        return hidden[None]

    @torch.inference_mode()
    def advance(self, request: Request, n: int) -> None:
        """One pass over the next n positions; after the last one a token is chosen."""
        given = request.ids[request.computed : request.computed + n]
        self.running = request
        out = self.model(torch.tensor([given]), past_key_values=request.cache, use_cache=True)
        self.running, request.computed = None, request.computed + len(given)
        if request.computed == len(request.ids):
            request.logprobs.append(torch.log_softmax(out.logits[0, -1].float(), dim=-1))
            request.ids.append(int(request.logprobs[-1].argmax()))

    def run(
        self, requests: Sequence[Request], new: int, size: Callable[[], int] = lambda: 10**6, drops: float = 0.0
    ) -> None:
        """Until each has `new` tokens, by passes of these sizes; before each a request loses its cache by chance.

        It is then computed again by at least two positions at first."""
        chance = random.Random(0)
        while unfinished := [request for request in requests if len(request.new) < new]:
            for request in unfinished:
                if request.computed and chance.random() < drops:
                    request.drop()
                again = request.new and not request.computed
                self.advance(request, max(2, size()) if again else size())

    def serve(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat completion as vLLM gives it, with what vllm-lens adds."""
        given = json.loads(body.get("vllm_xargs", {}).get("apply_hooks", "[]"))
        hooks = [(layer, pickle.loads(base64.b64decode(one["fn"]["cloudpickle"]))) for one in given
                 for layer in one["layer_indices"]]  # fmt: skip
        prompt = [1, *self.tokenizer(body["messages"][-1]["content"])["input_ids"]]
        request, n = Request(prompt, hooks), int(body.get("max_tokens", 8))
        with self.lock:
            self.run([request], n)
        message = {"role": "assistant", "content": self.tokenizer.decode(request.new)}
        choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
        usage = {"prompt_tokens": request.prompt, "completion_tokens": n, "total_tokens": request.prompt + n}
        saved = {str(i): {name: value for name, value in one.saved.items() if not isinstance(value, torch.Tensor)}
                 for i, one in enumerate(request.contexts)}  # fmt: skip
        about = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return {**about, "choices": [choice], "usage": usage, **({"hook_results": saved} if saved else {})}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny Llama of the main tests."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-model")


@pytest.fixture(scope="session")
def tiny(folder: Path) -> Any:
    """The model as we run it."""
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="session")
def engine(folder: Path) -> Engine:
    """The model as a server runs it."""
    return Engine(folder)


@pytest.fixture(scope="session")
def new_request() -> type[Request]:
    """Makes a request of a prompt's ids and hooks."""
    return Request


@pytest.fixture
def url(engine: Engine) -> Iterator[str]:
    """The engine behind real HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(engine.serve(body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
