"""Steering: the low-rank edit is the full one, in every architecture and normalisation that SAELens has; directions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture import capture
from sae_moral.sae.compatibility import ARCHITECTURES, ELEMENTWISE
from sae_moral.steering import Direction, Matched, Steering, difference_in_means, random_direction
from sae_moral.steering.edits import edit, full_edit, low_rank_edit, reconstruction_error
from tests.libraries import saelens
from tests.steering.planted import LATENTS, D, operated, random_sae
from tests.tiny import scenarios

DATA = scenarios(240)

H = 3 * torch.randn(7, 5, D, generator=torch.Generator().manual_seed(5))
REGISTRY = saelens().registry
USABLE = sorted(
    name
    for name in {
        *REGISTRY.SAE_CLASS_REGISTRY,
        *(name for name in REGISTRY.SAE_TRAINING_CLASS_REGISTRY if "batchtopk" in name),
    }
    if name not in ARCHITECTURES or not ARCHITECTURES[name].refused
)
COMPETING = ["abstopk", "topk"]
WITHOUT_AN_ENCODER = ["matching_pursuit"]  # nothing there that surgery could train
ALONE = [name for name in USABLE if name not in COMPETING + WITHOUT_AN_ENCODER]


def test_every_architecture_is_one_or_the_other() -> None:
    for name in USABLE:
        saved = random_sae(name).architecture
        assert (saved in ELEMENTWISE) == (name in ALONE), (name, saved)
    assert {"batchtopk", "matryoshka_batchtopk", *ELEMENTWISE} == set(ALONE)


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("architecture", ALONE)
def test_low_rank_is_full(architecture: str, bias: bool, normalize: str) -> None:
    sae = random_sae(architecture, apply_b_dec_to_input=bias, normalize_activations=normalize)
    operation = operated(sae)
    full = full_edit(operation)(H)
    assert full.abs().max() > 0.1
    torch.testing.assert_close(low_rank_edit(operation)(H), full, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(edit(operation)(H[0, 0]), full[0, 0], atol=1e-5, rtol=1e-5)


def test_low_rank_is_full_in_half_precision() -> None:
    operation = operated(random_sae("jumprelu", dtype="bfloat16"))
    found, full = low_rank_edit(operation)(H), full_edit(operation)(H)
    assert found.dtype == full.dtype == torch.bfloat16
    # The full one rounds the whole reconstruction; the difference of two of those is the coarser number.
    assert (found - full).abs().max() < 0.02 * operation.sae.sae.decode(operation.sae.sae.encode(H)).abs().max()


def test_the_edit_of_untouched_latents_is_zero() -> None:
    operation = operated(random_sae("jumprelu"), size=0.0)
    torch.testing.assert_close(low_rank_edit(operation)(H), torch.zeros_like(H), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", COMPETING)
def test_where_latents_compete_both_saes_run_whole(architecture: str) -> None:
    operation = operated(random_sae(architecture))
    before, after = operation.original().sae, operation.sae.sae
    expected = after.decode(after.encode(H)) - before.decode(before.encode(H))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(edit(operation)(H), expected)
    with pytest.raises(ValueError, match=r"latents of a .* SAE compete; expected one of standard, jumprelu, gated"):
        low_rank_edit(operation)


def test_closed_form() -> None:
    """One ReLU latent that reads x₀: before it writes e₀, after it reads with a bias of 1 and writes 2e₁."""
    sae = random_sae()
    with torch.no_grad():
        for parameter in sae.sae.parameters():
            parameter.zero_()
        sae.sae.W_enc[0, 4], sae.sae.W_dec[4, 0] = 1.0, 1.0
    operation = operated(sae, torch.tensor([4]), size=0.0)
    with torch.no_grad():
        operation.sae.sae.b_enc[4] = 1.0
        operation.sae.sae.W_dec[4] = 2 * torch.eye(D)[1]
    h = torch.zeros(3, D)
    h[:, 0] = torch.tensor([3.0, -0.5, -2.0])
    expected = torch.zeros(3, D)
    expected[:, 0], expected[:, 1] = torch.tensor([-3.0, 0.0, 0.0]), torch.tensor([8.0, 1.0, 0.0])
    torch.testing.assert_close(low_rank_edit(operation)(h), expected)


def test_paper_form_is_the_whole_error() -> None:
    operation = operated(random_sae("topk"))
    sae = operation.sae.sae
    torch.testing.assert_close(reconstruction_error(operation.sae)(H), sae.decode(sae.encode(H)) - H)


def test_the_edit_holds_its_own_copy_of_nothing_trainable() -> None:
    operation: Any = operated(random_sae("gated"))
    h = H.clone().requires_grad_()
    low_rank_edit(operation)(h).sum().backward()
    assert h.grad is not None and h.grad.abs().max() > 0  # gradients pass through to what lies before
    assert all(parameter.grad is None for parameter in operation.sae.sae.parameters())
    assert len(LATENTS) == len(operation.latents)


def test_the_dense_direction(tiny: Any) -> None:
    representations = capture(tiny, DATA.text, layers=[1], progress=False)
    vectors = representations[1]

    def mean(rows: np.ndarray) -> torch.Tensor:
        return vectors[torch.from_numpy(np.flatnonzero(rows))].mean(dim=0)

    virtue, vice = DATA.pole == 0, DATA.pole == 1
    own = DATA.foundation == 1
    for which, items, others in (
        (None, virtue, vice),
        ("fairness-cheating", own & virtue, own & vice),
        ("fairness", own & virtue, own & ~virtue),
        ("cheating", own & vice, own & ~vice),
    ):
        found = difference_in_means(representations, DATA, 1, which)
        torch.testing.assert_close(found.vector, mean(items) - mean(others))
    with pytest.raises(ValueError, match="unknown foundation or dimension 'fairnes'; did you mean 'fairness'"):
        difference_in_means(representations, DATA, 1, "fairnes")
    with pytest.raises(ValueError, match="240 vectors for 40 scenarios"):
        difference_in_means(representations, DATA.subset(np.arange(40)), 1)
    with pytest.raises(ValueError, match="items against 0; expected some on both sides"):
        difference_in_means(representations.subset(np.flatnonzero(virtue)), DATA.subset(virtue), 1)


def test_random_directions_are_seeded_and_of_their_norm() -> None:
    a, others = random_direction(D, 1, 0, norm=3.0), [random_direction(D, 1, 1), random_direction(D, 2, 0)]
    assert float(a.vector.norm()) == pytest.approx(3.0)
    assert torch.equal(a.vector, random_direction(D, 1, 0, norm=3.0).vector)
    for other in others:
        assert abs(float(torch.cosine_similarity(a.vector, other.vector, dim=0))) < 0.9
    with pytest.raises(ValueError, match="norm 0"):
        random_direction(D, 1, 0, norm=0)
    assert Steering(Matched(a, operated(random_sae())), 1.0).name == "random direction 0 at the norm of operated-1"


def test_any_change_of_what_is_added_changes_the_description() -> None:
    def given() -> Any:
        return operated(random_sae("jumprelu", layer=0))

    directions = [random_direction(D, 0, seed) for seed in (0, 1)]
    other_layer = operated(random_sae("jumprelu", layer=1))
    before, after = given(), given()
    next(iter(before.before.values())).view(-1)[3] += 1e-3
    with torch.no_grad():
        after.sae.sae.b_dec[5] += 1e-3
    after = dataclasses.replace(after, sae=dataclasses.replace(after.sae))  # an SAE keeps its hash
    start = Steering(given(), 1.0)
    found = [
        *(start, *(Steering(one, 1.0) for one in (before, after, other_layer, directions[0], directions[1]))),
        *(dataclasses.replace(start, **{k: v}) for k, v in (("alpha", 1.5), ("units", "relative"), ("form", "paper"))),
        *(dataclasses.replace(start, positions=positions) for positions in ("all", "prompt", "last", "generated")),
        *(Steering(Matched(direction, given()), 1.0) for direction in directions),
        *(Steering(Matched(directions[0], one), 1.0) for one in (before, after)),
        *(Steering(one.sae, 1.0, form="paper") for one in (given(), after)),
        Steering(Direction(1, directions[0].vector, "random direction 0"), 1.0),
    ]
    told = [str(one.describe()) for one in found]
    assert len(set(told)) == len(told) == 20
    assert str(Steering(given(), 1.0).describe()) == told[0]


def test_the_default_leaves_the_first_token_alone() -> None:
    assert Steering(random_direction(D, 0, 0), 1.0).positions == Steering.positions == "all-but-first"
