"""Run a model's body and pool inside its hooks: resolve the names, stop after the deepest block, fire exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.capture.pooling import Pooling, Tokens, pool
from sae_moral.errors import nearest


class _DeepestBlockReached(Exception):
    """Leaves the forward pass: the remaining blocks and the unembedding (three quarters of a small Gemma's forward)
    are not needed, and TransformerBridge's `stop_at_layer` does not skip the latter."""


def resolve_hooks(model: Any, layers: Sequence[int]) -> dict[int, str]:
    """Hook names of the residual stream after each block, checked against the model.

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
        candidates = [name for end in ("hook_resid_post", "hook_out") if (name := f"blocks.{layer}.{end}") in known]
        if candidates:
            names[layer] = candidates[0]
        else:
            name = f"blocks.{layer}.hook_resid_post"
            attached = [key for key in getattr(model, "acts_to_saes", {}) if key.startswith(f"blocks.{layer}.")]
            hint = (
                f"SAEs are attached at {attached}: measure the model before attaching them, or load it again"
                if attached
                else nearest(name, [key for key in known if key.startswith(f"blocks.{layer}.")][:20])
            )
            raise ValueError(f"{type(model).__name__} has no hook {name!r}; {hint}")
    return names


Taken = TypeVar("Taken")
Reader = Callable[[Tokens], Callable[[int, Tensor], Taken]]
"""From a batch to a function (layer, hidden [batch, pos, d]) → what is taken of it."""


@contextmanager
def body(model: Any, hooks: dict[int, str], reader: Reader[Taken]) -> Iterator[Callable[[Tokens], dict[int, Taken]]]:
    """Within the context, a function that runs one batch through the body of the model and returns what was taken of
    the residual stream, per layer.

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


def pooled(hooks: dict[int, str], pooling: Pooling) -> Reader[tuple[Tensor, Tensor]]:
    """Reads pooled vectors [batch, d] and sink ratios [batch]: the norm of the first token over the mean norm of the
    other real ones, NaN for a prompt of one token.

    Raises:
        RuntimeError: (when reading) vectors that are not finite.
    """

    def reader(tokens: Tokens) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        weights = pooling(tokens)
        return lambda layer, hidden: (finite(pool(hidden, weights), hooks[layer]), _sink_ratio(hidden, tokens))

    return reader


def finite(vectors: Float[Tensor, "*rows d"], name: str) -> Float[Tensor, "*rows d"]:
    """The vectors.

    Raises:
        RuntimeError: one that is not finite.
    """
    if not torch.isfinite(vectors).all():
        raise RuntimeError(f"{name} gave values that are not finite; try dtype float32")
    return vectors


def _sink_ratio(hidden: Float[Tensor, "batch pos d"], tokens: Tokens) -> Float[Tensor, "batch"]:
    norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    others = tokens.real[:, 1:].to(norms.device)
    return norms[:, 0] * others.sum(dim=1) / (norms[:, 1:] * others).sum(dim=1)
