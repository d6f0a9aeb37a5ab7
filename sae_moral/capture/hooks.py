"""Hooks on the residual stream: resolve the names, stop after the deepest block, see that each fires exactly once."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from sae_moral.capture.prompts import Tokens
from sae_moral.capture.readers import Reader
from sae_moral.errors import SaeMoralWarning, nearest
from sae_moral.provenance import HookedModel


class _DeepestBlockReached(Exception):
    """Leaves the forward pass: the remaining blocks and the unembedding (three quarters of a small Gemma's forward)
    are not needed, and TransformerBridge's `stop_at_layer` does not skip the latter."""


STREAM = "resid_post"
SITES = {STREAM: ("hook_resid_post", "hook_out"), "resid_mid": ("hook_resid_mid",), "mlp_out": ("hook_mlp_out",)}
"""Where in a block vectors of the stream's width are read, with the hooks of it: the stream after the block, the stream
between attention and MLP, what the MLP adds to it."""


def resolve_hooks(model: HookedModel, layers: Sequence[int], sites: Mapping[int, str] | None = None) -> dict[int, str]:
    """Hook names of the residual stream after each block, or of another site in it, checked against the model.

    Raises:
        ValueError: a layer the model does not have, or a hook name it does not know (TransformerBridge itself is
            silent about those).
    """
    n_layers = model.cfg.n_layers
    outside = [layer for layer in layers if not 0 <= layer < n_layers]
    if outside:
        raise ValueError(
            f"layers {outside} of a model with {n_layers} blocks; expected numbers from 0 to {n_layers - 1}"
        )
    known = model.hook_dict
    names: dict[int, str] = {}
    for layer in layers:
        # SAETransformerBridge lists a bridge's own names only, of which hook_resid_post is an alias.
        ends = SITES[(sites or {}).get(layer, STREAM)]
        candidates = [name for end in ends if (name := f"blocks.{layer}.{end}") in known]
        if candidates:
            names[layer] = candidates[0]
        else:
            name = f"blocks.{layer}.{ends[0]}"
            attached = [key for key in getattr(model, "acts_to_saes", {}) if key.startswith(f"blocks.{layer}.")]
            hint = (
                f"SAEs are attached at {attached}: measure the model before attaching them, or load it again"
                if attached
                else nearest(name, [key for key in known if key.startswith(f"blocks.{layer}.")][:20])
            )
            raise ValueError(f"{type(model).__name__} has no hook {name!r}; {hint}")
    return names


Taken = TypeVar("Taken")


@contextmanager
def forward_run(
    model: HookedModel, hooks: dict[int, str], reader: Reader[Taken]
) -> Iterator[Callable[[Tokens], dict[int, Taken]]]:
    """Within the context, a function that runs one batch through the model and returns what the reader took of the
    residual stream, per layer. A run ends after the deepest block asked for.

    The hooks are put on once for all batches: on a TransformerBridge that alone takes a fifth of a second. Other hooks
    on the model stay active: a steered model is read as it is.

    Raises:
        RuntimeError: (the function) a hook that did not fire exactly once.
    """
    deepest = max(hooks)
    current: dict[str, Any] = {}

    def make_hook(layer: int) -> Callable[..., None]:
        def hook(hidden: Tensor, hook: Any = None) -> None:
            current["fired"][layer] += 1
            current["found"][layer] = current["take"](layer, hidden)
            if layer == deepest:
                raise _DeepestBlockReached

        return hook

    def run(tokens: Tokens) -> dict[int, Taken]:
        found: dict[int, Taken] = {}
        fired = dict.fromkeys(hooks, 0)
        current.update(take=reader(tokens), found=found, fired=fired)
        with torch.inference_mode():
            try:
                model(tokens.ids, attention_mask=tokens.real.long(), return_type=None)
            except _DeepestBlockReached:
                pass
        wrong = {hooks[layer]: count for layer, count in fired.items() if count != 1}
        if wrong:
            raise RuntimeError(
                f"hooks fired {wrong} times in one forward pass of {type(model).__name__}; expected once each"
            )
        return found

    with model.hooks(fwd_hooks=[(name, make_hook(layer)) for layer, name in hooks.items()]):
        yield run


def warn_of_saes(model: HookedModel) -> None:
    """Warns:
    SaeMoralWarning: SAEs are attached whose reconstructions take the place of what the model computes.
    """
    wrapped = [(name, module) for name, module in model.named_modules() if hasattr(module, "sae")]
    if attached := [name for name, module in wrapped if getattr(module, "use_error_term", None) is False]:
        warnings.warn(
            f"SAEs are attached to the model ({', '.join(attached)}): what is measured behind them is computed from "
            "their reconstructions; model.reset_saes() detaches them",
            SaeMoralWarning,
            stacklevel=4,
        )


def refuse_hooks(model: HookedModel) -> None:
    """Refuse a model with hooks on it, where a key must cover all that shapes its numbers.

    Raises:
        ValueError: hooks are active.
    """
    if active := active_hooks(model):
        raise ValueError(
            f"hooks are active on the model ({', '.join(active[:5])}), and a store's key cannot cover what they do; "
            "remove them with model.reset_hooks(), or capture with store=None"
        )


def active_hooks(model: HookedModel) -> list[str]:
    """Names of the hook points that have forward hooks on them right now."""
    return sorted(name for name, point in model.hook_dict.items() if getattr(point, "fwd_hooks", None))


@contextmanager
def without_hooks(model: HookedModel) -> Iterator[Mapping[str, Any]]:
    """Within the context, no hook point has hooks on it (the points by name are given); afterwards those that were
    there are back, and no others."""
    points = model.hook_dict  # put together anew on each access; a bridge lists some points twice
    held = {id(point): (point, point._forward_hooks) for point in points.values()}
    try:
        for point, _ in held.values():
            point._forward_hooks = OrderedDict()
        yield points
    finally:
        for point, hooks in held.values():
            point._forward_hooks = hooks
