"""Runs that start at a block give what whole runs give, and where they cannot, they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sae_moral.capture.resume import Resume
from sae_moral.steering import Steering, Wording, generate, measure, random_direction, side_effects
from tests.libraries import transformer_lens_3
from tests.tiny import scenarios

DATA = scenarios(40)
WORDING = Wording("morally", "{text} is morally", (("helping", "hitting"),))
NEUTRAL = ("a neighbour is counting .", "the team is painting .")


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """How often each block ran."""
    times = [0] * model.cfg.n_layers

    def count(i: int) -> Any:
        def hook(*_: Any) -> None:
            times[i] += 1

        return hook

    inner = [getattr(block, "original_component", None) or block.ln1 for block in model.blocks]
    handles = [one.register_forward_hook(count(i)) for i, one in enumerate(inner)]
    yield times
    for handle in handles:
        handle.remove()


def everything(model: Any, alpha: float) -> tuple[Any, Any]:
    steering = Steering(random_direction(model.cfg.d_model, 2, 0), alpha, units="relative")
    return measure(model, DATA, steering, [WORDING])["morally"].tolist(), side_effects(model, steering, NEUTRAL)


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_equal_to_the_bit_and_earlier_blocks_run_once(tiny: Any, kind: str) -> None:
    model = tiny if kind == "bridge" else _hooked(tiny)
    whole = [everything(model, alpha) for alpha in (0.1, 0.2)]
    resume = Resume(model, 2)
    assert resume.usable
    with counted(model) as times:
        for alpha, expected in zip((0.1, 0.2, 0.1), (*whole, whole[0]), strict=True):
            with resume():
                assert everything(model, alpha) == expected
    # Three distinct batches; each time two of scenarios and neutral text twice, unsteered and steered.
    assert times[0] == times[1] and 3 * times[2] == 3 * 4 * times[0] > 0
    assert everything(model, 0.2) == whole[1]


def _hooked(tiny: Any) -> Any:
    lens = transformer_lens_3()
    shape: dict[str, Any] = {"n_layers": 3, "d_model": 16, "n_ctx": 64, "d_head": 8, "d_vocab": len(tiny.tokenizer)}
    return lens.HookedTransformer(lens.HookedTransformerConfig(**shape, act_fn="gelu", seed=0), tiny.tokenizer)


def test_runs_with_a_cache_are_whole(tiny: Any) -> None:
    steering = Steering(random_direction(16, 2, 0), 0.3, units="relative")
    options = {"steerings": steering, "max_new_tokens": 5, "stop_at_eos": False}
    expected = [one.ids for one in generate(tiny, ["helping", "the team"], **options)]
    resume = Resume(tiny, 2)
    for _ in range(2):
        with resume():
            assert [one.ids for one in generate(tiny, ["helping", "the team"], **options)] == expected


def test_hooks_on_earlier_blocks_fire(tiny: Any) -> None:
    resume, fired = Resume(tiny, 2), list[str]()
    for name in ("blocks.0.hook_out", "embed.hook_out"):
        with tiny.hooks(fwd_hooks=[(name, lambda x, hook: fired.append(hook.name))]):
            for _ in range(2):
                with resume():
                    tiny(torch.tensor([[1, 2, 3]]))
        assert len(fired) == 2
        fired.clear()


def test_the_first_block_and_blocks_that_hand_on_more_run_whole(tiny: Any) -> None:
    assert not Resume(tiny, 0).usable
    side: list[torch.Tensor] = []
    first, last = (tiny.blocks[i].original_component for i in (0, 2))
    handles = [
        first.register_forward_hook(lambda module, given, out: side.append(_stream(out))),
        last.register_forward_hook(lambda module, given, out: _stream(out) + side.pop()),
    ]
    assert not Resume(tiny, 2).usable  # nothing is in the side channel
    handles[1].remove()
    side.clear()
    last.register_forward_hook(lambda module, given, out: _stream(out) + side[-1] * len(side))
    resume = Resume(tiny, 2)
    assert not resume.usable  # other numbers
    handles[0].remove()
    assert Resume(tiny, 2).usable


def _stream(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out
