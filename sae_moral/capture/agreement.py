"""Trust but check: does a TransformerBridge compute what the transformers model that it wraps computes?

TransformerLens writes parts of each architecture anew, and not all of them right: its bridge of Cohere (3.9.0) rotates
queries and keys otherwise than the model from the second position on, and says nothing. So a bridge is compared with
its model once, on two short prompts of random tokens, one of them padded as `capture` pads: the residual stream after
every block, and the logits. In 16 bits each block of the bridge starts from what the model's own block before it gave.

The reference is the wrapped model itself with its own modules back in place (`unwrapped`): it needs no second copy of
the weights, and computes to the last bit what a model computes that transformers alone has loaded.

What it does not prove: positions beyond the first twelve (a sliding window of thousands of tokens, a RoPE that is
scaled for long contexts) are not looked at, and an error below the tolerance is not seen. `docs/design/agreement.md`
has the tolerances and what they rest on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sae_moral.capture.hooks import resolve_hooks, without_hooks
from sae_moral.errors import DataError, SaeMoralWarning, in_one_line
from sae_moral.io import cache_folder, key, read_record, write_record
from sae_moral.provenance import HookedModel, model_identity, versions

LENGTHS = (12, 7)
"""Tokens of the prompts that are compared."""
FLOAT32 = 1e-4
SCHEMA = 1
_compared: WeakSet[Any] = WeakSet()
_agreeing: WeakSet[Any] = WeakSet()
"""Those of them that were found to compute what their models compute."""


@dataclass(frozen=True)
class Comparison:
    """Relative errors ‖bridge − model‖ / ‖model‖ of vectors, each of one token.

    Attributes:
        error: the largest of all, over blocks, logits and tokens.
        tolerance: what rounding may make of it.
        at: where it is first larger, `after block 0 at position 1`; empty where it never is.
        error_there: the error at that place.
    """

    error: float
    tolerance: float
    at: str = ""
    error_there: float = 0.0


def check_agreement(model: HookedModel, *, remember: bool = False) -> None:
    """Refuse a TransformerBridge that does not compute what its model computes; other models pass.

    Each object is compared once. Hooks on it are set aside meanwhile. A bridge in compatibility mode, one with SAEs
    attached and one in training mode compute something else on purpose, and are not compared.

    Args:
        model: any model.
        remember: keep in the cache folder that this model agrees, under the identity of its weights and configuration,
            the kind of its device, and the versions of the libraries: another process need not compare it again.

    Raises:
        ValueError: they differ, or the bridge fails; says where and by how much.
    """
    if model in _compared or not comparable(model):
        return
    place, found = _place(model) if remember else None, None
    known = place is not None and _remembered(place)
    if not known:
        found = compare(model)
        if found is not None and found.at:
            raise ValueError(_refusal(model, found))
        if found is not None and place is not None:
            _remember(place, model, found)
    if known or found is not None:
        _agreeing.add(model)
    _compared.add(model)


def trust(model: HookedModel) -> None:
    """Never compare this object: its weights were changed on purpose after it was wrapped (some bridges hold copies of
    a model's weights, which then differ from the model's own)."""
    _compared.add(model)
    _agreeing.discard(model)


def stands_in(model: HookedModel) -> bool:
    """Whether the model that a bridge wraps may run in its place: the two were compared (`check_agreement`) and agree,
    and the bridge holds no weights of its own, which might have been changed since."""
    return model in _agreeing and comparable(model) and not has_copies(model)


def has_copies(model: HookedModel) -> bool:
    """Whether a bridge holds copies of weights (of joint projections, split): what is changed in one does not change in
    the other."""
    with unwrapped(model) as original:
        shared = {parameter.untyped_storage().data_ptr() for parameter in original.parameters()}
    return any(parameter.untyped_storage().data_ptr() not in shared for _, parameter in model.named_parameters())


def compare(model: HookedModel) -> Comparison | None:
    """Compare a TransformerBridge with the model it wraps. None where transformers cannot run the model on plain tokens
    (a warning says why), or where the bridge has no residual stream to compare (reading it is refused elsewhere).

    Raises:
        ValueError: the bridge itself fails.
    """
    bridge: Any = model
    try:
        hooks = resolve_hooks(model, range(model.cfg.n_layers))
    except ValueError:
        return None
    rows, device = sample_rows(model), model.cfg.device or "cpu"
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    theirs: dict[int, Tensor] = {}
    handles = [
        bridge.blocks[layer].original_component.register_forward_hook(
            lambda _, __, output, at=layer: theirs.update({at: _hidden(output).clone()})
        )
        for layer in hooks
    ]
    try:
        with torch.no_grad(), unwrapped(model) as original:
            theirs[len(hooks)] = original(input_ids=ids, attention_mask=mask)[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # it may need an image, or a package for its kernels
        name = type(bridge.original_model).__name__
        message = f"{name} was not compared with TransformerLens's bridge of it: transformers does not run it on plain "
        warnings.warn(SaeMoralWarning(f"{message}tokens ({in_one_line(error, 300)})"), stacklevel=3)
        return None
    finally:
        for handle in handles:
            handle.remove()

    allowed = tolerance(model, theirs[0].dtype)
    ours: dict[int, Tensor] = {}

    def take(layer: int, output: Tensor) -> Tensor | None:
        ours[layer] = output.clone()
        # Blocks amplify what 16 bits round, until nothing can be told from it: there each starts from the model's own.
        return theirs[layer].to(output.device).reshape_as(output).clone() if allowed > FLOAT32 else None

    with torch.no_grad(), without_hooks(model) as points:
        for layer, name in hooks.items():
            points[name].register_forward_hook(lambda _, __, output, at=layer: take(at, output))
        try:
            ours[len(hooks)] = model(ids, attention_mask=mask, return_type="logits")
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an architecture's own code trips over
            raise ValueError(_failure(model, error)) from error
    real = mask.bool().cpu()

    def tokens(found: dict[int, Tensor]) -> list[Tensor]:
        return [found[at].cpu().reshape(*real.shape, -1)[real] for at in sorted(theirs)]

    positions = np.concatenate([np.arange(len(row)) for row in rows])
    return _comparison(tokens(ours), tokens(theirs), positions, allowed)


def tolerance(model: HookedModel, *more: torch.dtype) -> float:
    """Relative error that rounding may cause in the dtypes of a model's weights: 1e-4, in 16 bits 16 steps of one block
    (0.125 in bfloat16, 0.016 in float16). See `docs/design/agreement.md`."""
    wide = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    dtypes = {parameter.dtype for _, parameter in model.named_parameters()} | set(more)
    return max(FLOAT32, *(16 * torch.finfo(dtype).eps for dtype in dtypes if dtype in wide))


def sample_rows(model: HookedModel) -> list[list[int]]:
    """Two prompts of ordinary tokens, drawn at random and the same every time. (Equal tokens have equal values, so that
    attention that looks at the wrong ones would not show.)"""
    tokenizer, words = model.tokenizer, int(model.cfg.d_vocab)
    special: list[int] = []
    if tokenizer is not None:
        words, special = min(words, len(tokenizer)), tokenizer.all_special_ids
    ordinary = np.delete(np.arange(words), [token for token in special if token < words])
    rng = np.random.default_rng(0)
    return [rng.choice(ordinary, min(length, int(model.cfg.n_ctx))).tolist() for length in LENGTHS]


@contextmanager
def unwrapped(model: HookedModel) -> Iterator[nn.Module]:
    """Within the context, the transformers model of a TransformerBridge with its own modules in their places.

    A bridge puts its components into the model that it wraps, each of which holds the module whose place it took.
    Nothing is copied: hooks that place a model on several devices stay on its modules. Attention patterns, which a
    bridge has its model return from every call, are not asked for either.
    """
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    bridge: Any = model
    taken: list[tuple[nn.Module, str, nn.Module]] = []
    seen: set[int] = set()

    def restore(parent: nn.Module) -> None:
        seen.add(id(parent))
        for name, child in list(parent._modules.items()):  # named_children would leave out a module's second name
            inner = child
            while isinstance(inner, GeneralizedComponent):
                inner = inner.original_component
            if inner is not None and child is not None and inner is not child:
                taken.append((parent, name, child))
                parent._modules[name] = inner
            if inner is not None and id(inner) not in seen:
                restore(inner)

    # Past the setter, which refuses under `sdpa` what a bridge has set before it.
    config = getattr(bridge.original_model, "config", None)
    settings: dict[str, Any] = {} if config is None else vars(config)
    asked = {name: settings[name] for name in ("_output_attentions", "output_attentions") if settings.get(name)}
    try:
        restore(bridge.original_model)
        settings.update(dict.fromkeys(asked, False))
        yield bridge.original_model
    finally:
        settings.update(asked)
        for parent, name, child in reversed(taken):
            parent._modules[name] = child


def is_hooked(model: HookedModel) -> bool:
    """Whether anything is hooked into a bridge, at its hook points or by torch's own means. Hooks of TransformerLens
    itself do not count, nor what is hooked into the modules of the model that it wraps."""
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    own = [module for _, module in model.named_modules() if isinstance(module, GeneralizedComponent | HookPoint)]
    hooks = [hook for one in own for hook in (*one._forward_hooks.values(), *one._forward_pre_hooks.values())]
    return any(not str(getattr(hook, "__module__", "")).startswith("transformer_lens.model_bridge") for hook in hooks)


def comparable(model: HookedModel) -> bool:
    """Whether a model is a bridge that means to compute what the model it wraps computes."""
    return (
        isinstance(getattr(model, "original_model", None), nn.Module)
        and not getattr(model, "compatibility_mode", False)
        and not getattr(model, "_weights_processed", False)
        and not getattr(model, "acts_to_saes", None)
        and not model.training
    )


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _comparison(
    ours: list[Tensor], theirs: list[Tensor], positions: Int[np.ndarray, "tokens"], allowed: float
) -> Comparison:
    largest, at, there = 0.0, "", 0.0
    for stage, (found, expected) in enumerate(zip(ours, theirs, strict=True)):
        norm = expected.float().norm(dim=-1)
        error = (found.float() - expected.float()).norm(dim=-1) / norm.clamp_min(torch.finfo(torch.float32).tiny)
        error[~norm.isfinite()] = 0  # values that overflow in transformers, too, are no difference
        wrong = ~(error <= allowed).numpy()
        largest = max(largest, float(error.nan_to_num(nan=torch.inf).max()))
        if not at and wrong.any():
            first = int(np.flatnonzero(wrong)[positions[wrong].argmin()])
            what = f"the vectors after block {stage}" if stage < len(theirs) - 1 else "the logits"
            at, there = f"{what} at position {positions[first]}", float(error[first])
    return Comparison(largest, allowed, at, there)


def _refusal(model: Any, found: Comparison) -> str:
    kernel = getattr(getattr(model.original_model, "config", None), "_attn_implementation", "eager")
    hint = "" if kernel == "eager" else f"attn_implementation='eager' (it is {kernel!r}), or "
    return (
        f"{_bridge_of(model)} does not compute what transformers computes: {found.at} of a test prompt are off by "
        f"{found.error_there:.2g} of their norm, and {found.error:.2g} at most ({_dtype(model)} allows "
        f"{found.tolerance:.2g}). What is measured with it would not be this model's. Use {hint}another version of "
        "transformer-lens, or a HookedTransformer where it knows the model, or another model; if weights were changed "
        "on purpose after wrapping, call sae_moral.capture.agreement.trust(model) first"
    )


def _failure(model: Any, error: Exception) -> str:
    hint = "" if _dtype(model) == "float32" else "dtype float32, or "
    return (
        f"{_bridge_of(model)} fails on a test prompt in {_dtype(model)} ({in_one_line(error, 300)}); use {hint}another "
        "version of transformer-lens"
    )


def _bridge_of(model: Any) -> str:
    found = versions()
    return (
        f"the bridge of transformer-lens {found['transformer-lens']} to {type(model.original_model).__name__} of "
        f"transformers {found['transformers']}"
    )


def _dtype(model: HookedModel) -> str:
    return str(next(parameter.dtype for _, parameter in model.named_parameters())).removeprefix("torch.")


# What is remembered


def _place(model: HookedModel) -> Path | None:
    """The record's file; None for a model whose identity cannot be had (weights off-loaded to a disk)."""
    try:
        identity = model_identity(model)
    except ValueError:
        return None
    device = torch.device(model.cfg.device or "cpu").type
    return cache_folder("agreement") / f"{key('agreement', model=identity, device=device, **_libraries())}.json"


def _libraries() -> dict[str, str]:
    found = versions()
    return {name: found[name] for name in ("torch", "transformers", "transformer-lens")}


def _remembered(place: Path) -> bool:
    try:
        read_record(place, "agreement", SCHEMA)
    except OSError:  # most often: there is none yet
        return False
    except DataError as error:
        warnings.warn(SaeMoralWarning(f"{error}; the model is compared again"), stacklevel=4)
        return False
    return True


def _remember(place: Path, model: HookedModel, found: Comparison) -> None:
    content = {"model": str(model.cfg.model_name), "error": found.error, "tolerance": found.tolerance, **_libraries()}
    try:
        write_record(place, "agreement", SCHEMA, content)
    except OSError:  # a cache folder that cannot be written costs a second per load, and nothing else
        return
