"""The Fisher information against the damage that it predicts, and the natural gradient against the plain one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture.prompts import prompt_ids
from sae_moral.steering import Steering, Write, at_kl, fisher, margin_gradient, natural_gradient
from tests.steering.planted import D
from tests.steering.test_model_writes import write_of
from tests.steering.test_twins import DATA, WORDING, Planted, auroc, planted  # noqa: F401

LAST = 2


def damage(model: Any, texts: list[str], change: torch.Tensor) -> float:
    """Mean KL in nats of the next token, over all tokens but the first, when all of those are changed after the last
    block."""
    total, tokens = 0.0, 0
    for ids in prompt_ids(model, texts):
        given = torch.tensor([ids])
        with torch.no_grad():
            before = model(given).log_softmax(dim=-1)[0, 1:].double()
            with model.hooks(fwd_hooks=[(f"blocks.{LAST}.hook_out", lambda hidden, hook: hidden + change)]):
                after = model(given).log_softmax(dim=-1)[0, 1:].double()
        total += float((before.exp() * (before - after)).sum())
        tokens += len(before)
    return total / tokens


def test_it_predicts_the_damage_of_a_small_change(tiny: Any) -> None:
    """After the last block a token moves its own prediction alone."""
    texts = list(dict.fromkeys(DATA.text))[:40]
    found = torch.stack([fisher(tiny, texts, LAST, seed=seed) for seed in range(40)]).mean(dim=0)
    assert found.shape == (D, D) and torch.allclose(found, found.T)
    for seed in range(3):
        change = 0.02 * torch.randn(D, generator=torch.Generator().manual_seed(seed))
        expected = damage(tiny, texts, change)
        assert float(change @ found @ change) / 2 == pytest.approx(expected, rel=0.1)  # 40 draws per token


def test_it_is_the_same_in_other_batches_and_follows_the_seed(tiny: Any) -> None:
    texts = DATA.text[:9]
    assert torch.equal(fisher(tiny, texts, 1, seed=3), fisher(tiny, texts, 1, seed=3))
    assert not torch.equal(fisher(tiny, texts, 1, seed=3), fisher(tiny, texts, 1, seed=4))
    many = [torch.stack([fisher(tiny, texts, LAST, batch_size=b, seed=s) for s in range(60)]) for b in (2, 9)]
    spread = (many[0].std(dim=0) + many[1].std(dim=0)) / 60**0.5
    assert ((many[0].mean(dim=0) - many[1].mean(dim=0)).abs() < 5 * spread + 1e-9).all()
    assert not any(parameter.grad is not None for _, parameter in tiny.named_parameters())


def test_a_large_share_gives_the_plain_gradient(tiny: Any) -> None:
    plain = margin_gradient(tiny, DATA, 1, [WORDING])
    found = natural_gradient(tiny, DATA, 1, [WORDING], share=1e6)
    assert found.layer == 1 and float(found.vector.norm()) == pytest.approx(1)
    assert float(torch.cosine_similarity(found.vector, plain.vector, dim=0)) == pytest.approx(1, abs=1e-4)
    other = natural_gradient(tiny, DATA, 1, [WORDING])
    assert float(torch.cosine_similarity(other.vector, plain.vector, dim=0)) < 0.99


def test_a_margin_that_nothing_moves_is_refused(tiny: Any) -> None:
    same = replace(WORDING, pairs=(("helping", "helping"),))
    with pytest.raises(ValueError, match="gradient of the margin is zero"):
        natural_gradient(tiny, DATA, 1, [same])


def test_it_moves_the_margin_more_than_the_plain_gradient_at_equal_damage(planted: Planted) -> None:  # noqa: F811
    model, data = planted.model, planted.data
    slopes = [slope(model, data, 1, [WORDING]).vector for slope in (natural_gradient, margin_gradient)]
    gate = write_of(planted, slopes[0]).gate
    texts = list(data.text[:8])
    gains = [
        auroc(planted, data, at_kl(model, Steering(Write(1, gate, slope[None], "slope"), 1.0), 0.05, texts))
        for slope in slopes
    ]
    assert gains[0] > gains[1] and np.isfinite(gains).all()
