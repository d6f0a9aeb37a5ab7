"""Attribution: the slope of the margin in a latent's contribution, and which latents are taken for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.foundations import VICE, VIRTUE
from sae_moral.steering import Attribution, Wording, attribution, measure
from sae_moral.steering.twins import margin_gradients
from tests.steering.planted import random_sae
from tests.tiny import scenarios

DATA = scenarios(60)
MORAL = DATA.subset(np.flatnonzero(DATA.pole != 2))
WORDINGS = [
    Wording("tiny", "{text} is morally", (("helping", "hitting"),)),
    Wording("is", "{text} is", (("feeding", "robbing"), ("helping", "hitting"))),
]


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_it_is_the_slope_of_the_margin(tiny: Any, architecture: str) -> None:
    sae = random_sae(architecture)
    found = attribution(tiny, sae, MORAL, WORDINGS, limit=len(MORAL), batch_size=7)
    mean = np.abs(found.margin).mean(axis=0)
    row, size = {text: i for i, text in enumerate(found.data.text)}, 1e-2
    at = [row[text] for text in MORAL.text]
    for latent in np.argsort(-mean)[:3]:

        def add(hidden: torch.Tensor, hook: Any, sign: float, latent: int = int(latent)) -> torch.Tensor:
            extra = size * sign * sae.encode(hidden)[..., latent, None] * sae.sae.W_dec[latent]
            extra[:, 0] = 0  # the first token, which no prompt of this model pads
            return hidden + extra

        margins = []
        for sign in (1, -1):
            with tiny.hooks(fwd_hooks=[("blocks.1.hook_out", lambda x, hook, s=sign: add(x, hook, s))]):
                found_by = measure(tiny, MORAL, (), WORDINGS, batch_size=1)
            margins.append(np.mean([own.mean(axis=0) for own in found_by.values()], axis=0))
        slope = (margins[0] - margins[1]) / (2 * size)
        np.testing.assert_allclose(found.margin[at, latent], slope, rtol=0.03, atol=2e-4 * np.abs(slope).max() + 1e-5)
    assert not any(parameter.grad is not None for parameter in tiny.parameters())


def test_all_latents_carry_what_the_reconstruction_carries(tiny: Any) -> None:
    sae = random_sae("standard")
    found = attribution(tiny, sae, MORAL, WORDINGS[:1], limit=len(MORAL))
    _, batches = margin_gradients(tiny, MORAL, 1, WORDINGS[:1], limit=len(MORAL))
    total = 0.0
    for batch in batches:
        kept = batch.behind_first
        made = sae.sae.decode(sae.sae.encode(batch.hidden[kept])) - sae.sae.b_dec
        weight = np.bincount(batch.row)[batch.prompts]
        which = kept.nonzero()[:, 0].numpy()
        total += float(((made * batch.gradient[kept]).sum(dim=1).detach().numpy() * weight[which]).sum())
    assert found.margin.sum() == pytest.approx(total, rel=1e-4)


def test_an_sae_of_another_width_is_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="width"):
        attribution(tiny, random_sae("standard", d=8), MORAL, WORDINGS)


def made(margin: np.ndarray, activation: np.ndarray, data: Any) -> Attribution:
    return Attribution(data, margin.astype(np.float32), activation.astype(np.float32))


def test_latents_are_taken_by_what_they_carry() -> None:
    """Of one foundation: 0 and 1 on virtues, 2 on vices, 3 lowers the gap, 4 carries nothing."""
    virtue, vice = (MORAL.pole == pole for pole in (VIRTUE, VICE))
    foundation = int(np.bincount(MORAL.foundation).argmax())
    own = MORAL.foundation == foundation
    activation = np.zeros((len(MORAL), 5))
    activation[own & virtue, :2], activation[own & vice, 2], activation[own & virtue, 3] = 1, 1, 1
    margin = activation * np.array([0.5, 1.0, -0.7, -0.2, 0.0])
    found = made(margin, activation, MORAL)
    np.testing.assert_allclose(found.gap(foundation), [0.5, 1.0, 0.7, -0.2, 0.0], rtol=1e-6)
    chosen = {name: latents for name, latents in found.by_dimension().items() if latents}
    assert list(chosen.values()) == [[1, 0], [2]]
    assert [*found.by_dimension(limit=1).values()].count([1]) == 1
    names = list(chosen)
    among = found.by_dimension(among={names[0]: [0, 3], names[1]: [1]})
    assert among[names[0]] == [0] and among[names[1]] == [1]
    alone = made(margin[virtue], activation[virtue], MORAL.subset(np.flatnonzero(virtue)))
    assert np.isnan(alone.gap()).all() and not any(alone.by_dimension().values())
