"""A random twin of a language model: the same architecture, tokenizer and configuration, weights drawn anew.

What a metric finds in the twin is in the words, the tokenizer and the wiring, not in what training taught the model
(the random-weights control of Zhang & Bowman 2018, arXiv 1809.10040; for SAEs Heap et al. 2025, arXiv 2501.17727).

The weights come from the architecture's own initialisation: the Hugging Face class of a TransformerBridge, the
`init_mode` of a HookedTransformer. They are drawn on the CPU in float32 and then rounded, so a seed gives the same twin
whatever the dtype and device of the model; that takes 4 bytes per parameter of CPU memory for the while.

No value of the trained model may be left. A parameter that is equal to the trained one (in more than half of its
values: a padding row is 0 in both) is refused, but for two kinds, neither of which an initialiser that failed can
pretend to:

- one number throughout, such as a norm scale of 1 or a bias of 0: training would have told the values apart;
- what the architecture, built from its configuration with initialisation switched off and all free memory filled with
  NaN, contains: tables of positions, and other constants of the constructor.

What it does not prove. That what is above the twin is learned morality: training teaches words and topics, too; that
is what the bag of words is for. Nor is a twin a neutral zero: random features of tokens keep which words a text has, so
a probe reads from the twin much of what it reads from the words. Its activations have the scale of an untrained model,
and no attention sink.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

SUFFIX = " (random weights)"
"""What a twin's name ends with."""


def random_weights(model: Any, *, seed: int = 0) -> Any:
    """The model's random twin. The model itself and the global random state stay as they are.

    Args:
        model: a TransformerBridge, a HookedTransformer, or an SAE variant of either. Attached SAEs and hooks are not
            carried over; the tokenizer is shared.
        seed: of the draw.

    Returns:
        A model of the same class, dtype and device, in training or evaluation mode as the model is, processed as it is
        (folded norms stay folded). `cfg.sae_moral_name`, which results name the model by, ends with `SUFFIX`.

    Raises:
        TypeError: neither a TransformerBridge of a Hugging Face model nor a HookedTransformer.
        ValueError: a quantised model; a twin with parameters that are not the model's, kept their trained values, or
            are not finite.
    """
    _check_floating(model)
    twin = _build(model, seed)
    _match(twin, model)
    _refuse_trained(twin, model)
    name = getattr(model.cfg, "sae_moral_name", None) or model.cfg.model_name
    twin.cfg.sae_moral_name = name.removesuffix(SUFFIX) + SUFFIX
    return twin


def _build(model: Any, seed: int, *, initialise: bool = True) -> Any:
    """The model's architecture on the CPU in float32. Without initialisation, free memory holds NaN."""
    from transformer_lens.model_bridge import TransformerBridge

    with _local_random_state(), torch.device("cpu"), nullcontext() if initialise else _nan_in_free_memory():
        # torch.manual_seed would also seed CUDA, at once or on its first use.
        torch.default_generator.manual_seed(_draw_number(seed))
        if isinstance(model, TransformerBridge):
            return _bridge(model, initialise)
        # By name: TransformerLens 4 has none.
        if any(kind.__name__ == "HookedTransformer" for kind in type(model).__mro__):
            return _hooked(model, initialise)
    raise TypeError(f"no random twin of a {type(model).__name__}; expected a TransformerBridge or a HookedTransformer")


def _draw_number(seed: int) -> int:
    """A model that was drawn with `torch.manual_seed(seed)`, and never trained, must not get itself for a twin."""
    return int.from_bytes(hashlib.sha256(f"random twin {seed}".encode()).digest()[:7], "little")


def _bridge(model: Any, initialise: bool) -> Any:
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformers import PreTrainedModel
    from transformers.initialization import no_init_weights

    original = model.original_model
    if not isinstance(original, PreTrainedModel):
        raise TypeError(
            f"no random twin of a bridge to a {type(original).__name__}; expected one to a Hugging Face model"
        )
    cfg = copy.deepcopy(model.cfg)
    cfg.device = "cpu"
    if model.compatibility_mode:
        cfg.layer_norm_folding = False  # folding sets it; the new weights are not folded yet
    with nullcontext() if initialise else no_init_weights():
        fresh = type(original)._from_config(copy.deepcopy(original.config), dtype=torch.float32)
    if placed := getattr(original, "hf_device_map", None):
        fresh = _dispatched(fresh, placed, original.dtype)
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(cfg)
    adapter.prepare_model(fresh)
    # Not through boot_transformers: it derives a new configuration and may look for another tokenizer on the hub.
    twin = type(model)(fresh, adapter, model.tokenizer)
    if model.compatibility_mode:
        twin.enable_compatibility_mode(disable_warnings=True, no_processing=not model._weights_processed)
    return twin


def _dispatched(model: Any, device_map: dict[str, Any], dtype: torch.dtype) -> Any:
    """Its blocks where those of the model are, with what moves the stream from one device to the next."""
    from accelerate import dispatch_model

    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)  # one device may not hold more; buffers stay as precise as they are
    return dispatch_model(model, device_map)


def _hooked(model: Any, initialise: bool) -> Any:
    cfg = copy.deepcopy(model.cfg)
    # A seed in the configuration would be set globally; a tokenizer's name would be looked up on the hub.
    changed = {
        "seed": None,
        "tokenizer_name": None,
        "device": "cpu",
        "dtype": torch.float32,
        "init_weights": initialise,
    }
    kept = {name: getattr(cfg, name) for name in changed}
    for name, value in changed.items():
        setattr(cfg, name, value)
    twin = type(model)(cfg, move_to_device=False)
    for name, value in kept.items():
        setattr(cfg, name, value)
    twin.tokenizer = model.tokenizer
    return twin


def _match(twin: Any, model: Any) -> None:
    """Bring every tensor of the twin to the dtype and device of its counterpart; the twin to the model's mode."""
    for ours, theirs in ((_parameters(twin), _parameters(model)), (_buffers(twin), _buffers(model))):
        if ours.keys() != theirs.keys():
            raise ValueError(
                f"the twin of {type(model).__name__} has other parameters: {sorted(ours.keys() ^ theirs.keys())[:10]}; "
                "was the model changed after it was loaded? Load it again"
            )
        for name, tensor in ours.items():
            # Through .data, so that tied parameters stay one parameter.
            tensor.data = tensor.data.to(theirs[name].device, theirs[name].dtype)
            tensor.requires_grad_(theirs[name].requires_grad)
    twin.cfg.device = model.cfg.device
    twin.train(model.training)


def _refuse_trained(twin: Any, model: Any) -> None:
    """Raise if a parameter or persistent buffer of the twin is the trained one, or holds values that are not finite."""
    ours, theirs = ({**_parameters(m), **_buffers(m, persistent=True)} for m in (twin, model))
    memory = {tensor.untyped_storage().data_ptr() for tensor in theirs.values() if tensor.numel()}
    shared = [name for name, tensor in ours.items() if tensor.untyped_storage().data_ptr() in memory]
    equal = [name for name in ours if name not in shared and _kept(ours[name], theirs[name])]
    if equal:
        bare = _build(model, 0, initialise=False)
        constant = {**_parameters(bare), **_buffers(bare, persistent=True)}
        equal = [name for name in equal if not torch.equal(constant[name].to(theirs[name]), theirs[name])]
    if kept := shared + equal:
        raise ValueError(
            f"{len(kept)} parameters of the twin kept their trained values: {', '.join(sorted(kept)[:10])}"
            f"{', …' if len(kept) > 10 else ''}; its numbers would not be those of random weights"
        )
    parameters = _parameters(twin)
    if wild := [name for name, tensor in parameters.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"the initialisation of {type(model).__name__} gave values that are not finite: {wild[:10]}")


def _kept(new: Tensor, trained: Tensor) -> bool:
    """Whether most values of a tensor are the trained ones, and it is not one round number throughout."""
    if not new.is_floating_point() or 2 * int((new == trained).sum()) <= new.numel():
        return False
    first = trained.reshape(-1)[0]
    untrained = bool((trained == first).all()) and (trained.numel() > 1 or float(first) in (-1.0, 0.0, 1.0))
    return not untrained


def _parameters(model: Any) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _buffers(model: Any, *, persistent: bool = False) -> dict[str, Tensor]:
    """Buffers by name; only those that a state dict holds, if `persistent`."""
    return {
        f"{prefix}.{name}": buffer
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not (persistent and name in module._non_persistent_buffers_set)
    }


def _check_floating(model: Any) -> None:
    whole = [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]
    config = getattr(getattr(model, "original_model", None), "config", None)
    if whole or getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"a quantised model ({', '.join(whole[:3]) or 'its config says so'}); load it in full precision"
        )


@contextmanager
def _local_random_state() -> Iterator[None]:
    # Every device is forked only once CUDA is in use: asking for its state would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices), device_type="cuda"):
        yield


@contextmanager
def _nan_in_free_memory() -> Iterator[None]:
    """New tensors without a value hold NaN, not what lay in that memory before: that may be trained weights."""
    deterministic: Any = torch.utils.deterministic
    enabled, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn)
        deterministic.fill_uninitialized_memory = fill
