"""Load language models: bundled ones, folders, names on the hub; wrap those that are in memory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_moral.capture.agreement import check_agreement
from sae_moral.capture.bundled import BUNDLED, bundled_path
from sae_moral.capture.bundled import bundled_folder as bundled_folder  # whose place was here
from sae_moral.capture.bundled import convert_gguf as convert_gguf
from sae_moral.capture.load_errors import why
from sae_moral.capture.loading import HUB, LoadRequest, bridge_of, load_tokenizer
from sae_moral.capture.model_files import check_files, gguf_file
from sae_moral.errors import DataError, in_one_line
from sae_moral.log import timed
from sae_moral.provenance import HookedModel

logger = logging.getLogger(__name__)
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "fp32": "float32", "f32": "float32"}
"""Short forms of names of dtypes that torch does not know."""


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
        ValueError: neither a bundled name, nor a folder, nor to be had from the hub; a revision of what is no hub name;
            an unknown dtype; no such device; a package that the model needs is missing; a kind of model that
            TransformerLens does not know, or does not compute as the model does (`sae_moral.capture.agreement`).
        DataError: a file of the folder is damaged; names it.
        ModuleNotFoundError: a bundled model whose weights are not installed.
    """
    dtype = as_dtype(dtype)
    where = _placement(device, device_map=device_map, max_memory=max_memory, n_devices=n_devices)
    given = str(name)
    path = bundled_path(given) if given in BUNDLED else Path(name)
    more = from_pretrained | _given(quantization_config=quantization_config, revision=revision, token=token)
    request, kind = load_request(path, dtype=dtype, **where, trust_remote_code=trust_remote_code, more=more)
    try:
        with timed(logger, f"loading {given}"):
            request = request.pinned() if kind == "hub name" else request
            model = request.load()
    except (MemoryError, DataError):
        raise
    except Exception as error:  # whatever the libraries trip over in a user's files
        raise ValueError(why(given, kind, error, BUNDLED)) from error
    model.cfg.sae_moral_name = given if given in BUNDLED or kind == "hub name" else path.name
    model.cfg.sae_moral_revision = request.commit
    if request.commit is not None and model.tokenizer is not None:
        model.tokenizer.sae_moral_revision = request.commit  # where the tokenizer is loaded again without its BOS
    size = f"{model.cfg.n_layers} blocks of {model.cfg.d_model} dimensions"
    logger.info("%s: %s, %s, on %s", given, size, model.cfg.dtype, model.cfg.device)
    check_agreement(model, remember=True)
    return model


def load_request(
    path: Path,
    *,
    dtype: torch.dtype,
    device: str | None = None,
    placement: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    more: Mapping[str, Any] | None = None,
) -> tuple[LoadRequest, str]:
    """What `load_model` loads, and what it is: a folder, a file or a hub name. Nothing is loaded yet.

    Args:
        path: a folder, a GGUF file, or a hub name as a path.
        placement: as `LoadRequest` has it.
        more: of `from_pretrained`; `revision`, `token` and the like among it.

    Raises:
        ValueError: a revision of what is no hub name; an option of old.
        DataError: a file of the folder is damaged; names it.
    """
    more = dict(more or {})
    source, kind = str(path), "folder" if path.is_dir() else "file" if path.exists() else "hub name"
    if path.is_dir():
        check_files(path)
    if more.get("revision") is not None and kind != "hub name":
        raise ValueError(f"revision {more['revision']!r} of {source}, which is no hub name; leave it out")
    if "torch_dtype" in more:
        raise ValueError(f"torch_dtype={more['torch_dtype']} given; expected dtype=, its name today")
    if gguf := gguf_file(path):
        source, more = str(gguf.parent), {**more, "gguf_file": gguf.name}
    request = LoadRequest(
        source,
        dtype,
        device=device,
        placement=placement or {},
        hub={key: value for key, value in more.items() if key in HUB},
        trust_remote_code=trust_remote_code,
        more={key: value for key, value in more.items() if key not in HUB},
    )
    return request, kind


def hooked_model(model: Any, *, tokenizer: Any = None) -> HookedModel:
    """A model as this package uses it: itself when it has hooks; a transformers model inside a TransformerBridge.

    The bridge shares the weights of the model and leaves the model itself as it was. It takes the model as it is:
    dtype, devices, quantisation, kernel of the attention.

    Args:
        model: a HookedTransformer, a TransformerBridge or an SAE variant of either, or a transformers model
            (of nnsight and nnterp: `model._module`).
        tokenizer: of a transformers model; by default that of its `name_or_path`.

    Raises:
        ValueError: neither; a tokenizer for a model that has hooks; a transformers model with adapters, without weights
            in memory, without a tokenizer, or of a kind that TransformerLens does not know, or does not compute as the
            model does.
    """
    if hasattr(model, "hook_dict") and hasattr(model, "cfg"):
        if tokenizer is not None:
            raise ValueError(f"tokenizer= is of transformers models; set that of this {type(model).__name__}")
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
    except MemoryError:
        raise
    except Exception as error:  # whatever an architecture's own code trips over
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
        said = in_one_line(error)
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


def as_device(device: torch.device | str | None) -> str:
    """The device as text, by default CUDA when there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["mps"] if torch.backends.mps.is_available() else []), *(f"cuda:{i}" for i in range(n))]
    if device is None:
        return "cuda" if n else "cpu"
    if str(device) not in (*here, *(f"{kind}:0" for kind in here), *(["cuda"] if n else [])):
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
        ValueError: both; no such device; fewer devices than one.
    """
    if n_devices is not None and n_devices < 1:
        raise ValueError(f"n_devices is {n_devices}; expected at least 1")
    shared = device_map is not None or (n_devices or 1) > 1
    if shared and device is not None:
        raise ValueError(f"device {str(device)!r} and device_map or n_devices were given; expected one or the other")
    if max_memory is not None and not shared:
        raise ValueError("max_memory is a limit for device_map; expected device_map='auto' or n_devices beside it")
    if not shared:
        return {"device": as_device(device), "placement": {}}
    return {"device": None, "placement": _given(device_map=device_map, max_memory=max_memory, n_devices=n_devices)}


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
