"""Loading models, and saying which one it was."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_moral.capture import load_model
from sae_moral.capture.hooks import active_hooks
from sae_moral.errors import DataError
from sae_moral.provenance import describe_model


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


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(tiny_folder: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / file).write_bytes(LFS)
    with pytest.raises(DataError, match=rf"{file}: a pointer of Git LFS.*git lfs pull"):
        load_model(folder, device="cpu")


def test_a_folder_in_a_models_folder_does_no_harm(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / "converted.bin").mkdir()
    assert load_model(folder, device="cpu").cfg.n_layers == 3


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
