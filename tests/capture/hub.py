"""A hub in memory: what a test says of a repository, behind huggingface_hub's own client."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import _http

# huggingface_hub 2 has its client from httpx2, its first version from httpx.
httpx: Any = getattr(_http, "httpx2", None) or importlib.import_module("httpx")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Answer = Callable[[Any], Any]


@contextmanager
def answering(answer: Answer, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    """Within the context, every request to the hub gets this answer; nothing is cached from before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(answer)))
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(_http.default_client_factory)


def error(status: int, code: str = "", message: str = "") -> Answer:
    """The hub's own way to say what is wrong."""
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return lambda request: httpx.Response(status, headers=headers, request=request)


def unreachable(request: Any) -> Any:
    """No connection."""
    raise httpx.ConnectError("Name or service not known", request=request)


def repository(files: Mapping[str, bytes], seen: list[Any]) -> Answer:
    """A repository of these files at one commit, whatever revision is asked for; requests are kept in `seen`."""

    def answer(request: Any) -> Any:
        seen.append(request)
        path = request.url.path
        if "/tree/" in path and "/" not in path.split("/tree/")[1]:
            tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
            return httpx.Response(200, json=tree, request=request)
        if "/resolve/" not in path:
            siblings = [{"rfilename": name} for name in files]
            about = {"id": "someone/tiny", "sha": COMMIT, "siblings": siblings}
            return httpx.Response(200 if "/tree/" not in path else 404, json=about, request=request)
        name = path.split("/resolve/")[1].partition("/")[2]
        commit = {"X-Repo-Commit": COMMIT}
        if name not in files:
            return httpx.Response(404, headers={**commit, "X-Error-Code": "EntryNotFound"}, request=request)
        content = files[name]
        about = {**commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Content-Length": str(len(content))}
        return httpx.Response(200, headers=about, content=b"" if request.method == "HEAD" else content, request=request)

    return answer
