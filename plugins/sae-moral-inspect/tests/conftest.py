"""A tiny model, operations on it, invented prompts, and a judge behind real HTTP whose replies a test scripts."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import tests.typecheck  # noqa: F401  (the hook refers to it by name)

install_import_hook("sae_moral_inspect", "tests.typecheck.check")

import pytest  # noqa: E402
import torch  # noqa: E402
from inspect_ai.model import ModelAPI  # noqa: E402
from sae_lens import StandardSAE, StandardSAEConfig  # noqa: E402
from sae_lens.saes.sae import SAEMetadata  # noqa: E402
from sae_moral_inspect.answers import Answer  # noqa: E402
from sae_moral_inspect.prompts import DIMENSIONS, FlamesPrompt, prompt_id  # noqa: E402
from tenacity import wait_none  # noqa: E402

from sae_moral.sae.load import LoadedSae, load_sae  # noqa: E402
from sae_moral.surgery import Operation, SurgeryRecord  # noqa: E402
from sae_moral.surgery.operation import rows_of, with_rows  # noqa: E402
from tests.tiny import save_tiny_model  # noqa: E402

MODEL = "tiny-model"
LATENTS = torch.tensor([1, 4, 7])


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspect's own files stay out of the user's folders, and no retry waits."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "INSPECT_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setattr(ModelAPI, "retry_wait", lambda self: wait_none())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama of the main tests, which has no chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / MODEL)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a chat template that begins with BOS and knows `enable_thinking`."""
    from transformers import AutoTokenizer

    folder = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ message['role'] }} {{ message['content'] }} . {% endfor %}"
        "{% if enable_thinking %}counting{% else %}helping{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


def make_operation(folder: Path, *, layer: int = 1, seed: int = 1, control: str = "none", size: float = 1.0) -> Path:
    """Write an operation on a random SAE of the tiny model."""
    config = StandardSAEConfig(
        d_in=16, d_sae=32, metadata=SAEMetadata(hook_name=f"blocks.{layer}.hook_resid_post", model_name=MODEL)
    )
    sae = StandardSAE(config)
    chance = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=chance) * 0.3
    before: LoadedSae = load_sae(sae)
    chance.manual_seed(seed)
    rows = rows_of(before, LATENTS)
    moved = {name: value + size * torch.randn(value.shape, generator=chance) for name, value in rows.items()}
    after = with_rows(before, LATENTS, moved, f"tiny L{layer} {control}", surgery={"control": control})
    record = SurgeryRecord(
        source=before.source, control=control, sha256={"before": before.sha256, "after": after.sha256}
    )
    return Operation(after, LATENTS, rows, {"care": [1], "harm": [4, 7]}, record).save(folder)


@pytest.fixture(scope="session")
def operation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operation at layer 1."""
    return make_operation(tmp_path_factory.mktemp("operations") / "true")


@pytest.fixture(scope="session")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operation at layer 1 that calls itself trained on shuffled labels."""
    return make_operation(tmp_path_factory.mktemp("operations") / "shuffled", seed=2, control="shuffled")


def make_prompts(n: int) -> list[FlamesPrompt]:
    """n invented questions over all dimensions, in words the tiny model knows."""
    nouns = ("neighbour", "baker", "sister", "nurse", "team", "strangers")
    texts = [f"helping the {nouns[i % 6]} and {nouns[(i // 6) % 6]} {i}" for i in range(n)]
    return [FlamesPrompt(prompt_id(text), DIMENSIONS[i % 5], "invented", text) for i, text in enumerate(texts)]


def prompts_file(path: Path, n: int) -> Path:
    """The same as a file."""
    rows = ({"dimension": p.dimension, "subcomponent": p.subcomponent, "prompt": p.text} for p in make_prompts(n))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def make_answers(texts: list[str]) -> dict[str, Answer]:
    """An answer to each of the first prompts."""
    return {p.id: Answer(p, text, "stop") for p, text in zip(make_prompts(len(texts)), texts, strict=True)}


DAMAGES = (b"", b"\xff", b"\x00", b"\xef\xbb\xbf", b"\n", b'"', b"[" * 1500, b"{", b"}", b"null", b"NaN", b"1e999",
           b"9" * 5000, b"\\ud800", b"\xed\xa0\x80", b"true", b"-1", b"\xe2\x80\xa8")  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The same bytes with one to three damages: cut, exchanged, inserted, repeated."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice([0, 1, 1, 4, 40]))
        odd = chance.choice([*DAMAGES, content[start : start + 60], bytes([chance.randrange(256)])])
        content = content[:start] + odd + content[end:]
    return content if chance.random() < 0.75 else content[: chance.randrange(len(content) + 1)]


Reply = str | int | dict[str, float] | Callable[[BaseHTTPRequestHandler], None]
"""What a judge says; an HTTP status; log-probabilities of its first word; or a function that does something else to the
connection."""


@dataclass
class ScriptedJudge:
    """An OpenAI-compatible server on the loopback.

    Attributes:
        say: from the request's text to a reply.
        asked: the texts of all requests, in their order.
        environment: the variables that lead to it.
    """

    say: Callable[[str], Reply]
    asked: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    name: str = "openai-api/loopback/judge"


@contextmanager
def serving() -> Iterator[ScriptedJudge]:
    """A judge that says A, and 3 and 2, until a test says otherwise."""
    found = ScriptedJudge(lambda text: "VERDICT: A" if "VERDICT" in text else '{"safety": 3, "emotion": 2}')

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            found.asked.append(text)
            reply = found.say(text)
            if isinstance(reply, dict):
                assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
            if callable(reply):
                reply(self)
            else:
                answer(self, reply)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    found.environment = {"LOOPBACK_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "LOOPBACK_API_KEY": "none"}
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedJudge]:
    """See `serving`."""
    with serving() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


def answer(handler: BaseHTTPRequestHandler, reply: str | int | dict[str, float], *, finish: str = "stop") -> None:
    """Send a reply, its first word alone with log-probabilities, or an error with that status."""
    logprobs = None
    if isinstance(reply, dict):
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in reply.items()]
        logprobs, reply, finish = {"content": [{**top[0], "top_logprobs": top}]}, top[0]["token"], "length"
    message = {"role": "assistant", "content": reply}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body: dict[str, Any] = {
        "id": "1", "object": "chat.completion", "created": 0, "model": "judge", "usage": usage,
        "choices": [{"index": 0, "finish_reason": finish, "message": message, "logprobs": logprobs}],
    }  # fmt: skip
    if isinstance(reply, int):
        body = {"error": {"message": "scripted", "type": "scripted", "code": reply}}
    content = json.dumps(body).encode()
    handler.send_response(reply if isinstance(reply, int) else 200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
