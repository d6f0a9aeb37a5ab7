"""Which model it is: what a hooked model must have, an identity of all that shapes its numbers, and the facts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from sae_moral.io import canonical
from sae_moral.results import ModelFacts

PLACES = frozenset(
    ("_name_or_path", "transformers_version", "device", "n_devices", "model_name", "tokenizer_name", "sae_moral_name")
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

    def hooks(
        self, fwd_hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = ...
    ) -> AbstractContextManager[Any]:
        """Hooks that are active within the context."""
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
    return ModelFacts(
        name=getattr(cfg, "sae_moral_name", None) or cfg.model_name,
        revision=getattr(_hf_config(model), "_commit_hash", None),
        identity=model_identity(model),
        dtype=str(next(parameter.dtype for _, parameter in model.named_parameters())).removeprefix("torch."),
        wrapper=type(model).__name__,
        weight_processing="layer norms folded" if folded else "compatibility mode" if compatible else "none",
        attached_saes=sorted(getattr(model, "acts_to_saes", {})),
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
    )


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
        digest.update(memoryview(_bytes(tensor).numpy()))
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
    return found


def _hf_config(model: HookedModel) -> Any:
    return getattr(getattr(model, "original_model", None), "config", None)


def _json(value: Any) -> Any:
    """A configuration value as JSON; two values that differ stay different."""
    if value is None or (isinstance(value, str | bool | int) and not isinstance(value, Enum)):
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
    if hasattr(value, "tolist"):  # of numpy and torch
        return _json(value.tolist())
    if isinstance(value, torch.dtype | torch.device | PurePath | Enum):
        return str(value)
    if hasattr(value, "__qualname__"):  # a function or a class
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "__dict__"):
        return {type(value).__name__: _json(vars(value))}
    raise ValueError(f"the configuration value {value!r:.80} has no canonical form; expected text, numbers or lists")


def _tensors(model: HookedModel) -> Iterator[tuple[str, Tensor]]:
    """All that a forward run computes with, by unique names."""
    for name, parameter in model.named_parameters():
        yield from _inner(f"parameter {name}", parameter.detach())
        # bitsandbytes keeps the scales of quantised weights beside them.
        for part, tensor in _scales(getattr(parameter, "quant_state", None)):
            yield f"parameter {name} {part}", tensor
        if isinstance(scale := getattr(parameter, "SCB", None), Tensor):
            yield f"scale {name}", scale
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield from _inner(f"buffer {prefix}.{name}", buffer.detach())
        # After the first forward run, 8-bit layers hold their scales in their own state.
        if isinstance(scale := getattr(getattr(module, "state", None), "SCB", None), Tensor):
            yield f"scale {prefix}.weight", scale


def _inner(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a tensor subclass (torchao's quantised weights) is made of; the tensor itself of any other."""
    if (flatten := getattr(tensor, "__tensor_flatten__", None)) is None:
        yield name, tensor
        return
    for part in flatten()[0]:
        yield from _inner(f"{name}.{part}", getattr(tensor, part))


def _scales(state: Any) -> Iterator[tuple[str, Tensor]]:
    if state is None:
        return
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            yield name, value
        elif name == "state2":
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in _scales(value))


def _bytes(tensor: Tensor) -> UInt8[Tensor, "_"]:
    """The bytes of a tensor's values in order, without a copy where it is contiguous and on the CPU."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that shape numbers, by name; those that are installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    names = ("sae-moral", "torch", "transformers", "transformer-lens", "sae-lens", "numpy", "scipy", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
