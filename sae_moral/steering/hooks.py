"""The plain hook functions that carry out a `Steering`: for `model.hooks`, `run_with_hooks`, or `steer`.

A hook sees only the positions of one forward call: with a KV cache one new token, without it the whole text again.
`Place` counts what has passed, so that both are steered at the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_moral.capture.agreement import check_agreement, unwrapped
from sae_moral.capture.hooks import resolve_hooks
from sae_moral.provenance import HookedModel
from sae_moral.sae import LoadedSae, check_fit
from sae_moral.sae.load import need_stream
from sae_moral.steering.edits import Reader, Write
from sae_moral.steering.steering import OF_SCENARIOS, WITHOUT_MASK, Direction, Matched, Steering

_IN_PROMPT = ("prompt", "last", *OF_SCENARIOS)
"""Positions that leave what is generated alone."""


@dataclass
class Place:
    """Where one hook acts, for one generation or any number of forward calls over the same prompts.

    Attributes:
        positions: as of a `Steering`.
        mask: True on the prompts' tokens, False on padding; whatever follows it was generated. None (only for those of
            `WITHOUT_MASK`): padding is steered, too, and the first position of a call of several is taken for the
            first token.
        own: True on the scenarios' own tokens, for `scenario` and `template` positions; None: not known.
        seen: positions that have passed since the prompts' first.
    """

    positions: str
    mask: Bool[Tensor, "batch prompt"] | None = None
    own: Bool[Tensor, "batch prompt"] | None = None
    seen: int = 0

    def start(self, mask: Bool[Tensor, "batch prompt"], own: Bool[Tensor, "batch prompt"] | None = None) -> None:
        """Begin with new prompts."""
        self.mask, self.own, self.seen = mask, own, 0

    def keep(self, rows: Int[Tensor, "k"]) -> None:
        """Go on with some of the prompts."""
        self.mask, self.own = (None if one is None else one[rows.to(one.device)] for one in (self.mask, self.own))

    def select(self, batch: int, width: int) -> Bool[Tensor, "batch pos"] | bool:
        """Which of the positions of this forward call are steered; True or False for all or none of them.

        A call with as many positions as the prompt or more is one from the beginning, one with fewer goes on with a KV
        cache. (Where the prompt is a single token, the first call is the prompt, and each further one of a single
        position goes on.)

        Raises:
            ValueError: no mask where one is needed, or calls that do not fit it.
        """
        _check_known(self.positions, self.mask, self.own)
        if self.mask is None:
            if self.positions == "all" or width == 1:
                return True
            return (torch.arange(width) > 0).expand(batch, width)
        rows, prompt = self.mask.shape
        again = width >= prompt and (width > 1 or self.seen == 0)
        if batch != rows or (self.seen == 0 and not again):
            raise ValueError(
                f"a forward call of {batch} × {width} positions for a mask of {rows} × {prompt}; expected the "
                "whole prompts first, and hooks made anew for other prompts"
            )
        start = 0 if again else self.seen
        self.seen = start + width
        if start >= prompt:
            return self.positions not in _IN_PROMPT
        if self.positions == "generated" and self.seen <= prompt:
            return False
        return self._from_start(width)

    def _from_start(self, width: int) -> Bool[Tensor, "batch pos"]:
        assert self.mask is not None
        inside = self.mask if self.positions != "generated" else torch.zeros_like(self.mask)
        if self.positions == "last":
            behind = self.mask.long().flip(1).cumsum(dim=1).flip(1)
            inside = self.mask & (behind == 1)
        if self.positions in ("all-but-first", *OF_SCENARIOS):
            inside = self.mask & (self.mask.long().cumsum(dim=1) > 1)
        if self.positions in OF_SCENARIOS:
            assert self.own is not None
            inside = inside & (self.own if self.positions == "scenario" else ~self.own)
        after = inside.new_full((len(inside), width - inside.shape[1]), self.positions not in _IN_PROMPT)
        return torch.cat([inside, after], dim=1)


class NotFiniteError(RuntimeError):
    """A steering gave values that are not finite."""


class SteeringHook:
    """A plain hook function, `(hidden, hook) -> hidden`, that holds all it needs: nothing is looked up later.

    Attributes:
        name: of the hook point.
        fired: how often it was called.
    """

    def __init__(self, name: str, steering: Steering, place: Place, device: torch.device | str) -> None:
        self.name, self.steering, self.place, self.fired = name, steering, place, 0
        self._term, self._device = steering.term(device), device

    def __call__(self, hidden: Float[Tensor, "batch pos d"], hook: Any = None) -> Float[Tensor, "batch pos d"] | None:
        """The steered residual stream; None, which leaves it as it is, where no position is steered.

        Raises:
            ValueError: forward calls that do not fit the mask.
            NotFiniteError: something to add that is not finite.
        """
        self.fired += 1
        chosen = self.place.select(hidden.shape[0], hidden.shape[1])
        if chosen is False:
            return None
        added = self._added(hidden, None if chosen is True else chosen.to(hidden.device))
        if not torch.isfinite(added).all():
            raise NotFiniteError(
                f"{self.steering.name} at {self.name} gave values that are not finite; use a smaller |alpha| than "
                f"{abs(self.steering.alpha)}, and check the model's own values there (dtype float32 helps)"
            )
        return hidden + added.to(hidden.dtype)

    def _added(
        self, hidden: Float[Tensor, "batch pos d"], chosen: Bool[Tensor, "batch pos"] | None
    ) -> Float[Tensor, "batch pos d"]:
        # Blocks may lie on other devices than the model's first.
        term = self._term(hidden.to(self._device)).to(hidden.device).float()
        if self.steering.units == "relative":
            size = torch.linalg.vector_norm(term, dim=-1, keepdim=True)
            length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
            term = torch.where(size > 0, term * (length / size), 0.0)
        added = self.steering.alpha * term
        return added if chosen is None else torch.where(chosen[..., None], added, 0.0)


class Start:
    """Tells hooks that act together which prompts come next, and which of those go on."""

    def __init__(self, hooks: Sequence[SteeringHook]) -> None:
        self._hooks = hooks

    def __call__(self, mask: Bool[Tensor, "batch prompt"], own: Bool[Tensor, "batch prompt"] | None = None) -> None:
        for hook in self._hooks:
            hook.place.start(mask, own)

    def keep(self, rows: Int[Tensor, "k"]) -> None:
        """The others have ended."""
        for hook in self._hooks:
            hook.place.keep(rows)


def steering_hooks(
    model: HookedModel,
    steerings: Steering | Sequence[Steering],
    *,
    mask: Bool[Tensor, "batch prompt"] | None = None,
    own: Bool[Tensor, "batch prompt"] | None = None,
    any_model: bool = False,
) -> list[tuple[str, SteeringHook]]:
    """Hook functions for `model.hooks(fwd_hooks=...)` or `run_with_hooks`, in the order given: several at one layer act
    one after the other, each on what the one before left. Steerings with α = 0 are left out.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an SAE variant of either.
        mask: True on the prompts' tokens, False on padding; what follows the prompt was generated. Needed for
            `prompt`, `last` and `generated` positions, and for padding to be left alone. The hooks then serve one batch
            of prompts: with or without KV cache, and any number of times, unless the prompt is a single token.
        own: True on the scenarios' own tokens (`Prompts.tokens`), needed for `scenario` and `template` positions.
        any_model: accept an SAE of a model with another name.

    Raises:
        ValueError: a layer or hook the model does not have, an SAE or direction of another width, model or device, or
            positions that need a mask.
    """
    chosen = [steerings] if isinstance(steerings, Steering) else list(steerings)
    for steering in chosen:
        if steering.alpha:
            _check_known(steering.positions, mask, own)
    return [(hook.name, hook) for hook in make_hooks(model, chosen, mask, own, any_model)]


def make_hooks(
    model: HookedModel,
    steerings: Sequence[Steering],
    mask: Bool[Tensor, "batch prompt"] | None,
    own: Bool[Tensor, "batch prompt"] | None,
    any_model: bool,
) -> list[SteeringHook]:
    """As `steering_hooks`; the masks may still come by `Place.start`."""
    if not hasattr(model, "hook_dict"):
        raise ValueError(f"{type(model).__name__} has no hook points; wrap it first: model = hooked_model(model)")
    device = torch.device(model.cfg.device or "cpu")
    hooks = []
    for steering in steerings:
        if steering.alpha == 0:
            continue
        check_steering(steering, model, any_model)
        name = resolve_hooks(model, [steering.what.layer])[steering.what.layer]
        hooks.append(SteeringHook(name, steering, Place(steering.positions, mask, own), device))
    return hooks


def check_steering(steering: Steering, model: HookedModel, any_model: bool) -> None:
    """Refuse what does not belong to this model, or lies on another device.

    Raises:
        ValueError: it does not.
    """
    what = steering.what
    direction = what.direction if isinstance(what, Matched) else what
    if isinstance(direction, Direction | Write):
        width = len(direction.vector) if isinstance(direction, Direction) else direction.rows.shape[1]
        if width != model.cfg.d_model:
            raise ValueError(
                f"width: {direction.name} has {width} numbers and the model {model.cfg.d_model}; expected one of this "
                "model"
            )
    operation = what.operation if isinstance(what, Matched) else what.gate if isinstance(what, Write) else what
    if isinstance(operation, Direction | Reader):
        return
    sae = operation if isinstance(operation, LoadedSae) else operation.sae
    check_fit(sae, model, any_model=any_model)
    need_stream(sae, "steering")
    at, device = torch.device(sae.sae.device), torch.device(model.cfg.device or "cpu")
    if (at.type, at.index or 0) != (device.type, device.index or 0):
        raise ValueError(
            f"device: {sae.source} is on {at} and the model on {device}; load it with device={str(device)!r}"
        )


@contextmanager
def steer(
    model: HookedModel,
    steerings: Steering | Sequence[Steering],
    *,
    mask: Bool[Tensor, "batch prompt"] | None = None,
    own: Bool[Tensor, "batch prompt"] | None = None,
    any_model: bool = False,
) -> Iterator[Start]:
    """Within the context the model is steered; everything else about it stays as it is, other hooks included.

    Yields a function that takes the mask of the next batch of prompts, and which tokens are the scenarios' own where
    that matters, so that the hooks are put on once. Arguments as for `steering_hooks`.

    Raises:
        ValueError: as `steering_hooks`; a bridge that does not compute what its model computes.
        RuntimeError: on leaving, a hook that never fired.
    """
    check_agreement(model)
    hooks = make_hooks(model, [steerings] if isinstance(steerings, Steering) else steerings, mask, own, any_model)
    if not hooks:  # α = 0 or nothing given: the model is not touched at all
        yield Start(hooks)
        return
    with model.hooks(fwd_hooks=[(hook.name, hook) for hook in hooks]):
        yield Start(hooks)
    _check_fired(hooks)


@contextmanager
def steer_unwrapped(
    model: HookedModel, steerings: Steering | Sequence[Steering], *, any_model: bool = False
) -> Iterator[tuple[nn.Module, Start]]:
    """The same on the transformers model that a bridge wraps, which is yielded with the function: faster, and no other
    hooks of the bridge fire."""
    check_agreement(model)
    hooks = make_hooks(model, [steerings] if isinstance(steerings, Steering) else steerings, None, None, any_model)
    blocks: Any = getattr(model, "blocks")  # noqa: B009  (only bridges are given here)
    at = [blocks[hook.steering.what.layer].original_component for hook in hooks]
    with unwrapped(model) as original, ExitStack() as stack:
        for block, hook in zip(at, hooks, strict=True):
            stack.callback(block.register_forward_hook(partial(_replaced, hook)).remove)
        yield original, Start(hooks)
    _check_fired(hooks)


def _replaced(hook: SteeringHook, block: nn.Module, given: Any, output: Any) -> Any:
    """A block's output with the steered residual stream in it; None leaves it as it is."""
    alone = not isinstance(output, tuple)
    hidden = hook(output if alone else output[0])
    return hidden if hidden is None or alone else (hidden, *output[1:])


def _check_fired(hooks: Sequence[SteeringHook]) -> None:
    if silent := sorted({hook.name for hook in hooks if not hook.fired}):
        raise RuntimeError(
            f"the hooks at {', '.join(silent)} never fired: nothing was steered there; run the model inside the "
            "context, and at least as deep as those blocks"
        )


def _check_known(positions: str, mask: Tensor | None, own: Tensor | None) -> None:
    if positions not in WITHOUT_MASK and mask is None:
        raise ValueError(f"positions={positions!r} needs to know the prompts: pass mask=, True on their tokens")
    if positions in OF_SCENARIOS and own is None:
        raise ValueError(
            f"positions={positions!r} needs to know which tokens of the prompts are the scenarios': pass own=, True on "
            "those, as Prompts.tokens has it; or use `measure`, whose prompts are scenarios in a template"
        )
