"""One batch through a model, as deep as somebody reads: hooks that fire exactly once, and a stop after the last."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sae_moral.capture.agreement import is_hooked, stands_in, unwrapped
from sae_moral.capture.hooks import SITES, STREAM
from sae_moral.capture.prompts import Tokens
from sae_moral.capture.readers import Reader
from sae_moral.provenance import HookedModel

Taken = TypeVar("Taken")
Take = Callable[[int, Tensor], None]
Run = Callable[[Tokens], None]


class _DeepestBlockReached(Exception):
    """Leaves the forward pass: the remaining blocks and the unembedding (three quarters of a small Gemma's forward)
    are not needed, and TransformerBridge's `stop_at_layer` does not skip the latter."""


@contextmanager
def forward_run(
    model: HookedModel, hooks: dict[int, str], reader: Reader[Taken]
) -> Iterator[Callable[[Tokens], dict[int, Taken]]]:
    """Within the context, a function that runs one batch through the model and returns what the reader took of the
    residual stream, per layer. A run ends after the deepest block asked for.

    Other hooks on the model stay active: a steered model is read as it is. Where there are none, the model that a
    bridge wraps runs in its place: the same vectors in less time (docs/design/agreement.md).

    Raises:
        RuntimeError: (the function) a hook that did not fire exactly once.
    """
    deepest, current = max(hooks), {}

    def take(layer: int, hidden: Tensor) -> None:
        current["fired"][layer] += 1
        current["found"][layer] = current["take"](layer, hidden)
        if layer == deepest:
            raise _DeepestBlockReached

    stream = all(name.endswith(SITES[STREAM]) for name in hooks.values())
    alone = stream and stands_in(model) and not is_hooked(model)
    with (_of_wrapped if alone else _of_hooked)(model, hooks, take) as forward:

        def run(tokens: Tokens) -> dict[int, Taken]:
            found: dict[int, Taken] = {}
            fired = dict.fromkeys(hooks, 0)
            current.update(take=reader(tokens), found=found, fired=fired)
            with torch.inference_mode():
                try:
                    forward(tokens)
                except _DeepestBlockReached:
                    pass
            wrong = {hooks[layer]: count for layer, count in fired.items() if count != 1}
            if wrong:
                raise RuntimeError(
                    f"hooks fired {wrong} times in one forward pass of {type(model).__name__}; expected once each"
                )
            return found

        yield run


@contextmanager
def _of_hooked(model: HookedModel, hooks: dict[int, str], take: Take) -> Iterator[Run]:
    """The hooks are put on once for all batches: on a TransformerBridge that alone takes a fifth of a second."""

    def hook(layer: int, hidden: Tensor, hook: Any = None) -> None:
        take(layer, hidden)

    with model.hooks(fwd_hooks=[(name, partial(hook, layer)) for layer, name in hooks.items()]):
        yield lambda tokens: model(tokens.ids, attention_mask=tokens.real.long(), return_type=None)


@contextmanager
def _of_wrapped(model: HookedModel, hooks: dict[int, str], take: Take) -> Iterator[Run]:
    def hook(layer: int, block: nn.Module, given: Any, output: Any) -> None:
        take(layer, output[0] if isinstance(output, tuple) else output)

    blocks: Any = getattr(model, "blocks")  # noqa: B009  (only bridges are given here)
    at = {layer: blocks[layer].original_component for layer in hooks}
    with unwrapped(model) as original, ExitStack() as stack:
        for layer, block in at.items():
            stack.callback(block.register_forward_hook(partial(hook, layer)).remove)
        options = {"use_cache": False} if "use_cache" in inspect.signature(original.forward).parameters else {}
        yield lambda tokens: original(input_ids=tokens.ids, attention_mask=tokens.real.long(), **options)
