"""What is said when a model cannot be loaded: all that the hub said, and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from sae_moral.capture import load_model
from sae_moral.capture.load_errors import why
from tests.capture import hub


@pytest.mark.parametrize(
    ("answer", "said", "advice"),
    [
        (
            hub.error(403, "GatedRepo", "Access to model someone/model is restricted."),
            "Access to model someone/model is restricted",
            r"gated repository: .*its licence at https://huggingface.co/someone/model, then log in \(`hf auth login`",
        ),
        (
            hub.error(404, "RepoNotFound", "Repository not found"),
            "is not a valid model identifier",
            r"not a bundled model \(.*\), not a local folder, and the hub has no such repository, or a private one",
        ),
        (
            hub.error(404, "RevisionNotFound", "Invalid rev id: v9"),
            "v9 is not a valid git identifier",
            r"its branches and tags: https://huggingface.co/someone/model/refs",
        ),
        (hub.unreachable, "couldn't connect", r"the hub could not be reached.*check the connection, or copy it here"),
        (hub.error(429), "", r"too many requests from here: .*; wait, or log in"),
    ],
    ids=["gated", "missing", "revision", "unreachable", "limited"],
)
def test_what_the_hub_says_is_kept_with_what_to_do(
    answer: hub.Answer, said: str, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        hub.answering(answer, monkeypatch, tmp_path),
        pytest.raises(ValueError, match=rf"^cannot load 'someone/model': .*{advice}") as caught,
    ):
        load_model("someone/model", device="cpu", revision="v9")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_that_was_not_asked_is_not_blamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # TRANSFORMERS_OFFLINE sets it, too
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ValueError, match=r"the hub was not asked \(offline\).*unset HF_HUB_OFFLINE and TRANSF"):
        load_model("someone/model", device="cpu")
    with hub.answering(hub.unreachable, monkeypatch, tmp_path):
        monkeypatch.setenv("SAE_MORAL_OFFLINE", "1")  # of our own downloads
        with pytest.raises(ValueError, match="the hub could not be reached"):
            load_model("someone/model", device="cpu")


@pytest.mark.parametrize("name", ["/nowhere/model", "out/models/mine"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(ValueError, match=r"not a local folder, and the hub has no names like this: Repo id must"):
        load_model(name, device="cpu")


def test_a_repository_without_a_model_names_the_way_to_its_gguf_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"README.md": b"quantised", "model.Q4_K_M.gguf": b"GGUF"}
    with (
        hub.answering(hub.repository(files, []), monkeypatch, tmp_path),
        pytest.raises(ValueError, match=r"holds no model in Hugging Face format: .*config.json.*gguf_file='FILE.gguf'"),
    ):
        load_model("someone/tiny", device="cpu")


def test_an_adapter_on_the_hub_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    about = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/base"}).encode()
    monkeypatch.setattr("transformers.utils.import_utils.is_peft_available", lambda: False)
    with (
        hub.answering(hub.repository({"adapter_config.json": about}, []), monkeypatch, tmp_path),
        pytest.raises(ValueError, match=r"an adapter \(LORA\) of 'someone/base', not a whole model; pip install peft"),
    ):
        load_model("someone/tiny", device="cpu")


def test_an_architecture_without_a_bridge(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "ctrl", "architectures": ["CTRLLMHeadModel"]}')
    with pytest.raises(
        ValueError, match=r"TransformerLens \S+ has no bridge for .*CTRL.*; expected an archit"
    ) as caught:
        load_model(folder, device="cpu")
    assert len(str(caught.value)) < 400


def test_an_architecture_that_transformers_does_not_know(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "zebra"}')
    with pytest.raises(ValueError, match=r"transformers does not know this architecture; a newer version may .*zebra"):
        load_model(folder, device="cpu")


def test_code_of_a_model_is_named_and_not_run(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "zebra.Config", "AutoModelForCausalLM": "zebra.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "zebra", "auto_map": code}))
    (folder / "zebra.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match=r"brings code of its own .*if you trust its authors: trust_remote_code=True"):
        load_model(folder, device="cpu")


class _Answered(OSError):
    def __init__(self, status: int) -> None:
        super().__init__("the answer of the hub")
        self.response: Any = type("Response", (), {"status_code": status})()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_Answered(503), r"the hub is out of order \(HTTP 503\): the answer of the hub; try again later"),
        (SafetensorError("incomplete metadata"), r"a damaged file in the cache: incomplete metadata; .*force_download"),
        (torch.OutOfMemoryError("CUDA out of memory"), r"too little memory on the device \(CUDA out of memory\)"),
        (ImportError("it requires optimum (`pip install optimum`)"), r"not installed \(.*\); pip install optimum$"),
        (
            ModuleNotFoundError("No module named 'torchao'", name="torchao"),
            r"not installed \(.*\); pip install torchao$",
        ),
        (ModuleNotFoundError("none", name="flash_attn.bert_padding"), r"not installed \(.*\); pip install flash-attn$"),
        (
            ImportError("too old; run: pip install -U git+https://github.com/a/b.git."),
            r"; pip install git\+https://github.com/a/b.git$",
        ),
        (RuntimeError("two\nlines"), r"and the hub did not give it: two lines"),
    ],
)
def test_other_causes_have_their_own_advice(error: Exception, expected: str) -> None:
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(why("a/b", "hub name", error))


def test_the_cause_of_an_error_counts() -> None:
    try:
        raise OSError("no such thing") from _Answered(500)
    except OSError as error:
        assert "HTTP 500" in why("a/b", "hub name", error)
