"""Hooks: they do what the arithmetic by hand does, at the tokens asked for, and nothing silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_moral.capture import capture
from sae_moral.steering import Direction, Matched, Steering, random_direction, steer, steering_hooks
from sae_moral.steering.edits import edit, reconstruction_error
from sae_moral.steering.hooks import Place
from sae_moral.steering.steering import POSITIONS
from tests.libraries import saelens
from tests.steering.planted import D, operated, random_sae

IDS = torch.randint(3, 20, (2, 6), generator=torch.Generator().manual_seed(0))
LAST = "blocks.2.hook_resid_post"
OWN = torch.tensor([[0, 0, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
"""Which tokens are the scenarios' own; the second's first token is the text's first."""


def residual(model: Any, hooks: list[Any], layer: int = 2, ids: torch.Tensor = IDS, **options: Any) -> torch.Tensor:
    """The residual stream after a block, with the hooks on."""
    found: list[torch.Tensor] = []
    keep = (f"blocks.{layer}.hook_resid_post", lambda h, hook: found.append(h.clone()))
    with torch.inference_mode(), model.hooks(fwd_hooks=[*hooks, keep]):
        model(ids, **options)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("form", ["edit", "paper"])
@pytest.mark.parametrize("units", ["alpha", "relative"])
def test_what_is_added(tiny: Any, form: str, units: str) -> None:
    operation = operated(random_sae("jumprelu"))
    h = residual(tiny, [], layer=1)
    term = edit(operation)(h) if form == "edit" else reconstruction_error(operation.sae)(h)
    size = h.norm(dim=-1, keepdim=True) / term.norm(dim=-1, keepdim=True) if units == "relative" else 1.0
    hooks = steering_hooks(tiny, Steering(operation, -0.7, units=units, form=form, positions="all"))
    torch.testing.assert_close(residual(tiny, hooks, layer=1), h - 0.7 * size * term, atol=1e-5, rtol=1e-5)


def test_relative_units_add_nothing_where_the_edit_is_zero(tiny: Any) -> None:
    sae = random_sae()
    with torch.no_grad():
        sae.sae.b_enc.fill_(-1e6)  # nothing fires, before or after
    operation = operated(sae, size=0.1)
    hooks = steering_hooks(tiny, Steering(operation, 0.5, units="relative"))
    assert torch.equal(residual(tiny, hooks, layer=1), residual(tiny, [], layer=1))


def test_two_layers_and_two_operations_are_the_composition_by_hand(tiny: Any) -> None:
    a, b = operated(random_sae(layer=0), seed=1), operated(random_sae(layer=0, seed=3), seed=2)
    c = operated(random_sae("topk", layer=2, seed=4), seed=3)
    every: dict[str, Any] = {"positions": "all"}
    chosen = [Steering(a, 1.5, **every), Steering(b, -0.5, form="paper", **every), Steering(c, 2.0, **every)]
    found = residual(tiny, steering_hooks(tiny, chosen))

    def by_hand(h: torch.Tensor, hook: Any) -> torch.Tensor:
        first = h + 1.5 * edit(a)(h)
        return first - 0.5 * reconstruction_error(b.sae)(first)

    middle = residual(tiny, [("blocks.0.hook_resid_post", by_hand)])
    torch.testing.assert_close(found, middle + 2.0 * edit(c)(middle), atol=1e-4, rtol=1e-4)
    other_order = residual(tiny, steering_hooks(tiny, [chosen[1], chosen[0], chosen[2]]))
    assert not torch.allclose(found, other_order, atol=1e-3)


def test_alpha_zero_installs_nothing(tiny: Any) -> None:
    assert steering_hooks(tiny, [Steering(operated(random_sae()), 0.0)]) == []
    with steer(tiny, Steering(operated(random_sae()), 0.0)):
        assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


@pytest.mark.parametrize("positions", POSITIONS)
def test_padding_is_never_steered(tiny: Any, positions: str) -> None:
    direction = Direction(1, 10 * torch.ones(D), "up")
    for mask in ([[0, 0, 1, 1, 1, 1], [1] * 6], [[1, 1, 1, 1, 0, 0], [1] * 6]):
        real = torch.tensor(mask, dtype=torch.bool)
        options = {"layer": 1, "attention_mask": real.long()}
        plain = residual(tiny, [], **options)
        steered = residual(
            tiny, steering_hooks(tiny, Steering(direction, 1.0, positions=positions), mask=real, own=OWN), **options
        )
        last, rest, nowhere = torch.zeros_like(real), real.clone(), torch.zeros_like(real)
        last[0, int(real[0].nonzero().max())] = last[1, 5] = True
        rest[0, int(real[0].nonzero().min())] = rest[1, 0] = False
        places = {"all": real, "all-but-first": rest, "prompt": real, "last": last, "generated": nowhere}
        places |= {"scenario": rest & OWN, "template": rest & ~OWN}
        expected = places[positions]
        assert torch.equal((steered != plain).all(dim=-1), expected)
        assert torch.equal((steered != plain).any(dim=-1), expected)


@pytest.mark.parametrize("prompt", [1, 2, 4])
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_same_tokens_with_and_without_cache(positions: str, prompt: int) -> None:
    mask = torch.ones(2, prompt, dtype=torch.bool)
    if prompt > 1:
        mask[0, 0] = False

    def full(found: Any, n: int) -> torch.Tensor:
        return found if isinstance(found, torch.Tensor) else torch.full((2, n), found)

    own = torch.tensor([[False, True, True, False], [True, True, False, False]])[:, :prompt]
    whole, cached = Place(positions, mask, own), Place(positions, mask, own)
    parts = [full(cached.select(2, prompt), prompt)]
    assert torch.equal(full(whole.select(2, prompt), prompt), parts[0])
    for step in range(1, 4):
        parts.append(full(cached.select(2, 1), 1))
        assert torch.equal(full(whole.select(2, prompt + step), prompt + step), torch.cat(parts, dim=1))
    expected = torch.zeros(2, prompt + 3, dtype=torch.bool)
    if positions in ("all", "all-but-first", "prompt"):
        expected[:, :prompt] = mask
    if positions == "all-but-first":
        expected[0, min(prompt - 1, 1)] = expected[1, 0] = False
    if positions in ("scenario", "template"):
        rest = mask & (mask.cumsum(dim=1) > 1)
        expected[:, :prompt] = rest & (own if positions == "scenario" else ~own)
    if positions in ("all", "all-but-first", "generated"):
        expected[:, prompt:] = True
    if positions == "last":
        expected[:, prompt - 1] = True
    assert torch.equal(torch.cat(parts, dim=1), expected)
    if prompt > 1:  # the prompt again: a new generation of it
        assert torch.equal(full(cached.select(2, prompt), prompt), parts[0])


def test_by_default_the_first_token_is_left_alone_without_a_mask_too(tiny: Any) -> None:
    plain = residual(tiny, [], layer=1)
    hooks = steering_hooks(tiny, Steering(Direction(1, torch.ones(D), "up"), 1.0))
    changed = (residual(tiny, hooks, layer=1) != plain).any(dim=-1)
    assert torch.equal(changed, (torch.arange(6) > 0).expand(2, 6))
    assert hooks[0][1].place.select(2, 1) is True  # the next token, from a KV cache


def test_calls_that_do_not_fit_the_mask_are_errors(tiny: Any) -> None:
    direction = random_direction(D, 1, 0)
    hooks = steering_hooks(tiny, Steering(direction, 1.0, positions="last"), mask=torch.ones(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"2 × 6 positions for a mask of 2 × 9; expected the whole prompts first"):
        residual(tiny, hooks)
    for positions in ("prompt", "last", "generated"):
        with pytest.raises(ValueError, match=rf"positions='{positions}' needs to know the prompts: pass mask="):
            steering_hooks(tiny, Steering(direction, 1.0, positions=positions))
        with (
            pytest.raises(ValueError, match="needs to know the prompts"),
            steer(tiny, Steering(direction, 1, positions=positions)),
        ):
            tiny(IDS)


def test_which_tokens_are_the_scenarios_has_to_be_known(tiny: Any) -> None:
    mask = torch.ones(2, 6, dtype=torch.bool)
    for positions in ("scenario", "template"):
        steering = Steering(random_direction(D, 1, 0), 1.0, positions=positions)
        with pytest.raises(ValueError, match=rf"positions='{positions}' needs to know the prompts: pass mask="):
            steering_hooks(tiny, steering, own=OWN)
        message = rf"positions='{positions}' needs to know which tokens of the prompts are the scenarios': pass own="
        with pytest.raises(ValueError, match=message):
            steering_hooks(tiny, steering, mask=mask)
        with pytest.raises(ValueError, match=message), steer(tiny, steering) as start:
            start(mask)
            tiny(IDS)
        with steer(tiny, steering) as start:
            start(mask, OWN)
            steered = residual(tiny, [], layer=1)
        changed = (steered != residual(tiny, [], layer=1)).any(dim=-1)
        inside = OWN if positions == "scenario" else ~OWN
        assert torch.equal(changed, inside & (torch.arange(6) > 0))


def test_matched_direction_has_the_edits_norm_at_every_token(tiny: Any) -> None:
    operation, direction = operated(random_sae()), random_direction(D, 1, 7, norm=3.0)
    h = residual(tiny, [], layer=1)
    for form, term in (("edit", edit(operation)(h)), ("paper", reconstruction_error(operation.sae)(h))):
        hooks = steering_hooks(tiny, Steering(Matched(direction, operation), -2.0, form=form, positions="all"))
        added = residual(tiny, hooks, layer=1) - h
        torch.testing.assert_close(added.norm(dim=-1), 2 * term.norm(dim=-1), atol=1e-4, rtol=1e-4)
        cosine = torch.cosine_similarity(added, direction.vector.expand_as(added), dim=-1)
        assert (cosine < -0.999)[term.norm(dim=-1) > 1e-2].all()


def test_capture_downstream_sees_the_edit(tiny: Any) -> None:
    operation = operated(random_sae(layer=1))
    text = ["helping a neighbour", "robbing the team"]
    plain = capture(tiny, text, progress=False)
    with steer(tiny, Steering(operation, 2.0)):
        steered = capture(tiny, text, layers=[0, 1, 2], progress=False)
    assert torch.equal(plain[0], steered[0])
    hooks = steering_hooks(tiny, Steering(operation, 2.0))
    ids = torch.tensor([[1, *tiny.tokenizer(text[0], add_special_tokens=False).input_ids]])
    for layer in (1, 2):
        expected = residual(tiny, hooks, layer=layer, ids=ids)[0, 1:].mean(dim=0)
        torch.testing.assert_close(steered[layer][0], expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(steered[layer], plain[layer], atol=1e-3)
    with (
        pytest.raises(RuntimeError, match=r"blocks.1.hook_resid_post never fired"),
        steer(tiny, Steering(operation, 2)),
    ):
        capture(tiny, text, layers=[0], progress=False)


def test_a_hook_that_never_fires_is_an_error_but_hides_no_other(tiny: Any) -> None:
    steering = Steering(random_direction(D, 1, 0), 1.0)
    with pytest.raises(RuntimeError, match=r"blocks.1.hook_resid_post never fired: nothing was steered there"):
        with steer(tiny, steering):
            pass
    with pytest.raises(KeyError, match="mine"), steer(tiny, steering):
        raise KeyError("mine")
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_bad_steerings_are_refused(tiny: Any) -> None:
    operation = operated(random_sae())
    for alpha in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"alpha is .*; expected a finite number"):
            Steering(operation, alpha)
    for option, value in (("units", "relativ"), ("form", "papre"), ("positions", "lsat")):
        with pytest.raises(ValueError, match=rf"unknown {option} '{value}'; did you mean"):
            Steering(operation, 1.0, **{option: value})
    with pytest.raises(ValueError, match="was not operated on, so it has no edit; use form='paper'"):
        Steering(operation.sae, 1.0)
    with pytest.raises(ValueError, match="has no reconstruction; use form='edit'"):
        Steering(random_direction(D, 1, 0), 1.0, form="paper")
    with pytest.raises(ValueError, match="is zero or not finite"):
        Direction(1, torch.zeros(D), "nothing")
    with pytest.raises(ValueError, match="of layer 0 and operated-1 of layer 1; expected the same layer"):
        Matched(random_direction(D, 0, 0), operation)


def test_what_does_not_belong_to_the_model_is_refused(tiny: Any) -> None:
    for what in (operated(random_sae(d=24)), random_sae(d=24)):
        with pytest.raises(ValueError, match=r"width: .* reads vectors of 24 numbers"):
            steering_hooks(tiny, Steering(what, 1.0, form="paper"))
    with pytest.raises(ValueError, match="width: random direction 0 has 24 numbers and the model 16"):
        steering_hooks(tiny, Steering(random_direction(24, 1, 0), 1.0))
    with pytest.raises(ValueError, match=r"hook: .* reads blocks.7.hook_resid_post"):
        steering_hooks(tiny, Steering(operated(random_sae(layer=7)), 1.0))
    with pytest.raises(ValueError, match=r"layers \[3\] of a model with 3 blocks"):
        steering_hooks(tiny, Steering(random_direction(D, 3, 0), 1.0))
    other = operated(random_sae(metadata={"hook_name": "blocks.1.hook_resid_post", "model_name": "another-model"}))
    with pytest.raises(ValueError, match=r"model: .* was trained on another-model"):
        steering_hooks(tiny, Steering(other, 1.0))
    elsewhere = operated(random_sae())
    elsewhere.sae.sae.device = torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"device: .* is on cuda:0 and the model on cpu; load it with device='cpu'"):
        steering_hooks(tiny, Steering(elsewhere, 1.0))


def test_values_that_are_not_finite_are_an_error(tiny: Any) -> None:
    hooks = steering_hooks(tiny, Steering(operated(random_sae()), 1.0))
    broken = [("blocks.1.hook_resid_post", lambda h, hook: h * float("nan")), *hooks]
    with pytest.raises(RuntimeError, match=r"operated-1 at blocks.1.hook_resid_post gave values that are not finite"):
        residual(tiny, broken)


def test_an_sae_variant_of_the_model(tiny_folder: Path, tiny: Any) -> None:
    saelens()
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model: Any = SAETransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    hooks = [Steering(operated(random_sae()), 1.0)]
    with torch.inference_mode():
        found = model.run_with_hooks(IDS, fwd_hooks=steering_hooks(model, hooks))
        torch.testing.assert_close(found, tiny.run_with_hooks(IDS, fwd_hooks=steering_hooks(tiny, hooks)))
        assert not torch.allclose(found, tiny(IDS), atol=1e-2)
