"""Which model it is: what a hooked model must have, an identity of all that shapes its numbers, and the facts of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from sae_moral.io import canonical
from sae_moral.results import ModelFacts

PLACES = frozenset(
    (
        "_name_or_path",
        "transformers_version",
        "device",
        "n_devices",
        "model_name",
        "tokenizer_name",
        "sae_moral_name",
        "sae_moral_revision",
    )
)
"""Configuration that says where a model came from, or where it is; nothing else is left out of its identity."""


@runtime_checkable
class HookedModel(Protocol):
    """What this package needs of a model: a HookedTransformer, a TransformerBridge, or an SAE variant of either.

    Attributes:
        cfg: TransformerLens's configuration: `n_layers`, `d_model`, `n_ctx`, `device`, `model_name`.
        training: whether the model is in training mode.
    """

    cfg: Any
    training: bool

    @property
    def tokenizer(self) -> Any:
        """The model's Hugging Face tokenizer."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name."""
        ...

    def hooks(self, fwd_hooks: list[Any] = ...) -> AbstractContextManager[Any]:
        """Hooks that are active within the context: pairs of a hook's name and a function."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A forward run: token ids [batch, pos], `attention_mask`, `return_type`."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by name, tied ones once."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules by name, each once."""
        ...


def describe_model(model: HookedModel) -> ModelFacts:
    """What shaped a model's numbers, and the names it goes by."""
    cfg = model.cfg
    folded = str(getattr(cfg, "normalization_type", "")).endswith("Pre")
    compatible = bool(getattr(model, "compatibility_mode", False))
    quantised = getattr(_hf_config(model), "quantization_config", None)
    facts = ModelFacts(
        name=getattr(cfg, "sae_moral_name", None) or cfg.model_name,
        revision=getattr(cfg, "sae_moral_revision", None) or getattr(_hf_config(model), "_commit_hash", None),
        identity=model_identity(model),
        dtype=str(next(parameter.dtype for _, parameter in model.named_parameters())).removeprefix("torch."),
        wrapper=type(model).__name__,
        weight_processing="layer norms folded" if folded else "compatibility mode" if compatible else "none",
        attached_saes=sorted(getattr(model, "acts_to_saes", {})),
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
    )
    if quantised is not None:
        found = quantised if isinstance(quantised, dict) else quantised.to_dict()
        facts["quantisation"] = json.loads(json.dumps(found, default=str))
    return facts


def tensor_hash(tensors: Mapping[str, Tensor], *shaped_by: object) -> str:
    """Hash of named tensors, with their shapes and dtypes, and of what else belongs to them."""
    found = hashlib.sha256("".join(map(repr, shaped_by)).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def model_identity(model: HookedModel) -> str:
    """Hash of every byte of all weights and buffers (those that are not saved included) and of the configuration.

    Equal on every device and in every process. Whatever changes a single weight, buffer or configuration value
    changes it, `PLACES` excepted. Tied weights count once, under their first name. `docs/design/identity.md` has the
    time it takes.

    Raises:
        ValueError: weights that are not in memory (a model loaded without its weights, or off-loaded to disk).
    """
    import xxhash

    digest = xxhash.xxh3_128(canonical(model_configuration(model)))
    for name, tensor in sorted(_tensors(model), key=lambda pair: pair[0]):
        if tensor.is_meta:
            raise ValueError(f"the weights {name} are not in memory; load the whole model onto the CPU or a GPU")
        digest.update(f"\0{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(_bytes(tensor).numpy().data)
    return digest.hexdigest()


def model_configuration(model: HookedModel) -> dict[str, Any]:
    """The part of a model's configuration that `model_identity` is made of, as JSON values.

    Raises:
        ValueError: a configuration value of a type that has no canonical form.
    """
    found: dict[str, Any] = {"class": type(model).__name__, "transformer_lens": _json(vars(model.cfg))}
    if (config := _hf_config(model)) is not None:
        # to_dict leaves the choice of the attention kernel out, which is visible in the last digits.
        found |= {"transformers": _json(config.to_dict()), "attention": str(config._attn_implementation)}
    for hook, sae in getattr(model, "acts_to_saes", {}).items():
        found[f"sae at {hook}"] = _json(vars(sae.cfg))
    # Whether the wrapper of an attached SAE adds the SAE's error back.
    terms = {name: getattr(module, "use_error_term", None) for name, module in model.named_modules()}
    found["error_terms"] = {name: term for name, term in terms.items() if isinstance(term, bool)}
    return found


def _hf_config(model: HookedModel) -> Any:
    return getattr(getattr(model, "original_model", None), "config", None)


def _json(value: Any) -> Any:
    """A configuration value as JSON; two values that differ stay different."""
    if isinstance(value, torch.dtype | torch.device | PurePath | Enum):
        return {type(value).__name__: str(value)}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}  # infinities included
    if isinstance(value, Mapping):
        # Pairs, because keys may be numbers (id2label).
        pairs = [[_json(name), _json(item)] for name, item in value.items() if name not in PLACES]
        return {"pairs": sorted(pairs, key=repr)}
    if isinstance(value, set | frozenset):
        return {"set": sorted(map(_json, value), key=repr)}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _json(value.tolist())
    if isinstance(getattr(value, "__qualname__", None), str):  # a function or a class
        return {"function": f"{value.__module__}.{value.__qualname__}"}
    if hasattr(value, "__dict__"):
        return {type(value).__name__: _json(vars(value))}
    raise ValueError(f"the configuration value {value!r:.80} has no canonical form; expected text, numbers or lists")


def _tensors(model: HookedModel) -> Iterator[tuple[str, Tensor]]:
    """All that a forward run computes with, by unique names."""
    seen: set[int] = set()
    # A TransformerBridge is no parent of the model it wraps, and wraps a part of it only; nor is one of attached SAEs.
    roots = {"": model, "original.": getattr(model, "original_model", None)}
    roots |= {f"sae at {hook}.": sae for hook, sae in getattr(model, "acts_to_saes", {}).items()}
    for root, parent in roots.items():
        for prefix, module in parent.named_modules() if isinstance(parent, nn.Module) else ():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield from _inner(f"{root}{prefix}.{name}", tensor.detach())
                    # bitsandbytes keeps the scales of quantised weights beside them, 8-bit ones from the first run on
                    # in the layer's state.
                    yield from _attached(f"{root}{prefix}.{name}", getattr(tensor, "quant_state", None))
                    yield from _attached(f"{root}{prefix}.{name}", tensor, ("SCB",))
            yield from _attached(f"{root}{prefix}.weight", getattr(module, "state", None), ("SCB",))


def _attached(name: str, holder: Any, names: Sequence[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """Tensors among an object's attributes: those of the names, or all, those of a nested quantisation too."""
    for attribute in names or sorted(getattr(holder, "__dict__", ())):
        value = getattr(holder, attribute, None)
        if isinstance(value, Tensor):
            yield f"{name}.{attribute}", value.detach()
        elif attribute == "state2":
            yield from _attached(f"{name}.{attribute}", value)


def _inner(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a tensor subclass (torchao's quantised weights) is made of; the tensor itself of any other."""
    if (flatten := getattr(tensor, "__tensor_flatten__", None)) is None:
        yield name, tensor
        return
    for part in flatten()[0]:
        yield from _inner(f"{name}.{part}", getattr(tensor, part))


def _bytes(tensor: Tensor) -> UInt8[Tensor, "_"]:
    """The bytes of a tensor's values in order, without a copy where it is contiguous and on the CPU."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that shape numbers, by name; those that are installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    ours = ("sae-moral", "torch", "transformers", "transformer-lens", "sae-lens")
    names = (*ours, "numpy", "scipy", "scikit-learn", "vaderSentiment")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
