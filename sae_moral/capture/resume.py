"""Forward runs that differ only behind a block start there: what the block reads is kept from the first of them.

A sweep asks the same prompts of a model again and again, each time with another edit after block l. Blocks 0 … l − 1
compute the same every time. `Resume` runs them once per batch, and goes on from the input of block l afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import xxhash
from torch import Tensor

from sae_moral.capture.hooks import active_hooks
from sae_moral.provenance import HookedModel

_CHECKED = ((1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1))
"""Token ids of the batch on which a run that is resumed is compared with a whole one."""


class Resume:
    """Keeps what block `layer` reads, for one model.

    Attributes:
        layer: the block that runs start at; blocks before it do not run, hooks on them do not fire, and no gradient
            reaches them.
        usable: whether a resumed run gives the logits of a whole one here (tried once, on a small batch). Where it does
            not, because blocks of an architecture hand on more than the residual stream, or where hooks are active on
            earlier blocks, all runs are whole.

    Memory: 4 · d bytes per padded token of the distinct batches, in float32.

    Example:
        resume = Resume(model, 20)
        for steering in steerings:  # all after block 20 or later
            with resume():
                measure(model, data, steering)
    """

    def __init__(self, model: HookedModel, layer: int) -> None:
        self.layer = layer
        self._model, self._run = model, _Run()
        self.usable = layer > 0 and not self._hooked() and self._agrees()

    def _hooked(self) -> bool:
        before = tuple(f"blocks.{i}." for i in range(self.layer))
        return any(name.startswith(before) or not name.startswith("blocks.") for name in active_hooks(self._model))

    @torch.inference_mode()
    def _agrees(self) -> bool:
        tokens = torch.tensor(_CHECKED, device=self._model.cfg.device) % self._model.cfg.d_vocab
        how = {"attention_mask": torch.ones_like(tokens), **without_cache(self._model)}
        whole = self._model(tokens, **how)
        try:
            with self._running():
                kept = self._model(tokens, **how)  # the first one keeps
                resumed = self._model(tokens, **how)
        except Exception:  # whatever an architecture says to blocks that did not run
            return False
        finally:
            self._run.kept.clear()
        return torch.equal(whole, kept) and torch.equal(whole, resumed)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within the context runs of batches that were run before start at the block. Runs with a key-value cache are
        whole."""
        if self.usable and not self._hooked():
            with self._running():
                yield
        else:
            yield

    @contextmanager
    def _running(self) -> Iterator[None]:
        blocks = list(self._model.blocks[: self.layer + 1])  # pyright: ignore[reportAttributeAccessIssue]
        for i, block in enumerate(blocks):
            wrap = self._run.last if i == self.layer else self._run.earlier
            object.__setattr__(block, "forward", wrap(block.forward, i))
        try:
            yield
        finally:
            for block in blocks:
                object.__delattr__(block, "forward")


class _Run:
    """The forward functions of the blocks before the one that is resumed at, and its own."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Tensor] = {}
        self._key: bytes | None = None
        self._width: dict[int, int] = {}
        """What each block returns: the stream alone (0), or first in a tuple of that length."""

    def earlier(self, forward: Callable[..., Any], i: int) -> Callable[..., Any]:
        def wrapped(*given: Any, **options: Any) -> Any:
            if i == 0:
                cached = any("past" in name and value is not None for name, value in options.items())
                self._key = None if cached else _key(given, options)
            if self._key in self.kept and i in self._width:
                hidden, width = _hidden(given, options), self._width[i]
                return (hidden, *[None] * (width - 1)) if width else hidden
            out = forward(*given, **options)
            self._width[i] = len(out) if isinstance(out, tuple) else 0
            return out

        return wrapped

    def last(self, forward: Callable[..., Any], i: int) -> Callable[..., Any]:
        def wrapped(*given: Any, **options: Any) -> Any:
            if self._key is None:
                return forward(*given, **options)
            hidden = self.kept.setdefault(self._key, _hidden(given, options).detach())
            if given:
                return forward(hidden, *given[1:], **options)
            return forward(**{**options, "hidden_states": hidden})

        return wrapped


def without_cache(model: HookedModel) -> dict[str, Any]:
    """How to call the model so that it makes no key-value cache."""
    return {"use_cache": False} if hasattr(model, "original_model") else {}


def _hidden(given: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    return given[0] if given else options["hidden_states"]


def _key(given: tuple[Any, ...], options: dict[str, Any]) -> bytes:
    """Hash of every tensor that the first block is given: the embedded prompts, masks, positions."""
    digest = xxhash.xxh3_128()
    for value in (*given, *options.values()):
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Tensor):
                digest.update(str(tuple(one.shape)).encode())
                digest.update(one.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.digest()
