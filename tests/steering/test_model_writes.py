"""Writes that are trained through the model: the gradient's way, the loss by hand, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture import capture
from sae_moral.foundations import VICE
from sae_moral.steering import (
    Reader,
    Steering,
    Write,
    at_kl,
    downstream,
    rotated,
    side_effects,
    steer,
    typicality_reader,
)
from sae_moral.steering.model_writes import GAP, LEAD, TEMPERATURE, order_loss
from sae_moral.surgery import Operation
from tests.steering.planted import operated, random_sae
from tests.steering.test_twins import DATA, HOW, WORDING, Planted, auroc, planted  # noqa: F401

TEXTS = ("a neighbour is counting .", "the team is painting .")


def test_the_order_of_similarities_by_hand() -> None:
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    judged = torch.tensor([1.0, 0.7, 0.0, -1.0, -0.9])
    centred = (vectors - vectors.mean(dim=0)).double().numpy()
    like = centred @ centred.T / np.outer(*[np.linalg.norm(centred, axis=1)] * 2)
    losses = []
    for i in range(5):
        for j in range(5):
            for k in range(5):
                gap = (abs(judged[i] - judged[k]) - abs(judged[i] - judged[j])) / 2
                if i not in (j, k) and float(gap) >= GAP - 1e-6:
                    x = (LEAD - like[i, j] + like[i, k]) / TEMPERATURE
                    losses.append(TEMPERATURE * math.log1p(math.exp(x)))
    assert float(order_loss(vectors, judged)) == pytest.approx(np.mean(losses), rel=1e-5)
    assert order_loss(vectors, torch.ones(5)) == 0


def write_of(planted: Planted, direction: torch.Tensor) -> Write:  # noqa: F811
    captured = capture(planted.model, planted.data.text, layers=[1], progress=False, **HOW)
    return Write(1, typicality_reader(captured, planted.data, 1), direction[None], "a gate and a direction")


def order_of(planted: Planted, steering: Steering) -> float:  # noqa: F811
    """The loss on all scenarios, in parts."""
    with steer(planted.model, steering):
        vectors = capture(planted.model, planted.data.text, layers=[2], progress=False, **HOW)[2].float()
    judged = torch.from_numpy(planted.data.vector[:, 0] - planted.data.vector[:, 1]).float()
    return float(np.mean([float(order_loss(vectors[i::8], judged[i::8])) for i in range(8)]))


@pytest.mark.parametrize("objective", ["margin", "order"])
def test_training_finds_what_the_model_acts_on(planted: Planted, objective: str) -> None:  # noqa: F811
    """From a random direction, with a gate that reads the judgement: better than it and its rotations at equal KL."""
    data, model = planted.data, planted.model
    write = write_of(planted, torch.randn(16, generator=torch.Generator().manual_seed(1)))
    options: dict[str, Any] = {"kl": 0.05, "lr": 0.1, "texts": TEXTS}
    found = downstream(model, write, data, [WORDING], objective=objective, **options)
    assert found.layer == 1 and found.name == f"downstream ({objective})"
    assert torch.equal(found.vector, downstream(model, write, data, [WORDING], objective=objective, **options).vector)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    trained = Write(1, write.gate, found.vector[None], "trained")

    def good(what: Write) -> float:
        steering = at_kl(model, Steering(what, 1.0), 0.05, TEXTS)
        return auroc(planted, data, steering) if objective == "margin" else -order_of(planted, steering)

    others = [good(what) for what in (write, *(rotated(trained, seed) for seed in range(3)))]
    assert good(trained) > max(others), others
    damage = side_effects(model, Steering(trained, 1.0), TEXTS).kl
    assert 0.01 < damage < 0.08, damage


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_the_direction_is_what_rows_of_virtues_are_to_write(tiny: Any, flip: float) -> None:
    """Whatever sign a singular vector has: without a step it is the write's own direction."""
    one = operated(random_sae("jumprelu"), latents=torch.tensor([1, 4, 9]))
    operation = Operation(one.sae, one.latents, one.before, {"care": [1, 4], "harm": [9]}, one.record)
    way = flip * torch.randn(16, generator=torch.Generator().manual_seed(2))
    rows = torch.tensor([[1.0], [2.0], [-1.5]]) * way
    reader = Reader("one gate", torch.randn(16, 1, generator=torch.Generator().manual_seed(3)), torch.zeros(1))
    for write in (Write(1, operation, rows, "of latents"), Write(1, reader, way[None], "of a reader")):
        found = downstream(tiny, write, DATA, [WORDING], steps=0, texts=TEXTS)
        assert torch.cosine_similarity(found.vector, way, dim=0) == pytest.approx(1.0, abs=1e-5)


def test_what_cannot_be_trained_is_refused(tiny: Any) -> None:
    one = operated(random_sae("jumprelu", layer=2))
    write = Write(2, one, torch.ones(len(one.latents), 16), "write")
    with pytest.raises(ValueError, match="unknown objective 'margins'"):
        downstream(tiny, write, DATA, [WORDING], objective="margins")
    with pytest.raises(ValueError, match="layer 2 for a write after block 2; expected 3 to 2"):
        downstream(tiny, write, DATA, [WORDING], objective="order")
    with pytest.raises(ValueError, match="no vicious scenario"):
        downstream(tiny, write, DATA.subset(np.flatnonzero(DATA.pole != VICE)), [WORDING])
