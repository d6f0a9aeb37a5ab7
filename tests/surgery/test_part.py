"""k latents computed apart from the others are what SAELens computes with all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_moral.surgery.operation import with_rows
from sae_moral.surgery.part import Part
from tests.surgery.worlds import D, sae

LATENTS = torch.tensor([3, 7, 11, 30, 41])
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("standard", {"apply_b_dec_to_input": False}),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
    ("gated", {}),
    ("topk", {}),
    ("topk", {"rescale_acts_by_decoder_norm": True, "normalize_activations": "layer_norm"}),
    ("topk", {"k": 46}),
    ("topk", {"k": 3}),
]


def vectors(n: int = 200) -> torch.Tensor:
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + 1


@pytest.mark.parametrize(("architecture", "config"), KINDS)
def test_activations_and_reconstruction_equal_saelens(architecture: str, config: dict[str, Any]) -> None:
    loaded, x = sae(architecture, **config), vectors()
    part = Part(loaded, LATENTS)
    frozen = part.freeze(x)
    g = torch.Generator().manual_seed(2)
    other = {n: v + 0.4 * torch.randn(v.shape, generator=g) for n, v in part.start.items()}
    for rows in (part.start, other):
        moved = part(rows, frozen, leak=0.1)
        whole = with_rows(loaded, LATENTS, rows, "other", surgery=None).sae
        latents = whole.encode(x)
        assert torch.allclose(moved.activation, latents[:, LATENTS], atol=1e-5)
        assert torch.equal(moved.activation, moved.leaky)
        # x − target is what stays: with what moves added it is the whole reconstruction.
        assert torch.allclose(x - frozen.target + moved.made, whole.decode(latents), atol=1e-4)


def test_moving_latents_push_frozen_ones_out_of_the_k_largest() -> None:
    loaded, x = sae("topk", k=6), vectors()
    part = Part(loaded, LATENTS)
    rows = {name: value.clone() for name, value in part.start.items()}
    rows["b_enc"] += 100
    moved = part(rows, part.freeze(x))
    assert (moved.activation > 0).all()  # five of six places
    latents = with_rows(loaded, LATENTS, rows, "other", surgery=None).sae.encode(x)
    assert ((latents > 0).sum(dim=1) <= 6).all()
    assert torch.allclose(moved.activation, latents[:, LATENTS])


@pytest.mark.parametrize(("architecture", "config"), KINDS[:7])
def test_a_leak_reaches_silent_latents_and_no_leak_does_not(architecture: str, config: dict[str, Any]) -> None:
    part = Part(sae(architecture, **config), LATENTS)
    frozen = part.freeze(vectors())
    for leak in (0.0, 0.1):
        rows = {name: value.clone().requires_grad_() for name, value in part.start.items()}
        moved = part(rows, frozen, leak)
        moved.leaky[moved.activation == 0].sum().backward()
        gradient = rows["W_enc"].grad
        assert gradient is not None and bool(gradient.any()) == (leak > 0)


def test_a_batch_of_vectors_is_the_same_as_all_of_them() -> None:
    part, x = Part(sae("topk"), LATENTS), vectors()
    some = torch.tensor([5, 0, 17])
    found, whole = part(part.start, part.freeze(x).at(some)), part(part.start, part.freeze(x))
    assert torch.allclose(found.made, whole.made[some], atol=1e-6)


def test_an_architecture_that_cannot_be_taken_apart_is_refused() -> None:
    with pytest.raises(ValueError, match=r"matching_pursuit; surgery computes k latents apart.*topk"):
        Part(sae("matching_pursuit", residual_threshold=0.1), LATENTS)
