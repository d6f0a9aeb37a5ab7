"""Hooks on the residual stream: their names, those that are active, a model without them."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sae_moral.errors import SaeMoralWarning, nearest
from sae_moral.provenance import HookedModel

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
