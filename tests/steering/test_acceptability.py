"""The acceptability margin: logits of plain forward passes; the gap and its interval in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.data.moral_data import from_records
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.steering import Steering, steering_hooks
from sae_moral.steering.acceptability import acceptability, gap, text_weights
from tests.steering.planted import operated, random_sae
from tests.tiny import scenarios

DATA = scenarios(40)
PAIRS = (("helping", "hitting"), ("feeding", "robbing"))


def test_margins_are_those_of_plain_forward_passes(tiny: Any) -> None:
    steering = Steering(operated(random_sae("jumprelu")), 1.0)
    found = acceptability(tiny, DATA, steering, pairs=PAIRS, batch_size=7, draws=50)
    ids = [[tiny.tokenizer.convert_tokens_to_ids(word) for word in pair] for pair in PAIRS]
    assert found.tokens == tuple(map(tuple, ids))
    hooks = steering_hooks(tiny, steering)
    for text, margin in list(zip(DATA.text, found.margin, strict=True))[:8]:
        tokens = torch.tensor([tiny.tokenizer("<s>" + text + " is morally", add_special_tokens=False).input_ids])
        with torch.inference_mode():
            logits = tiny.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1]
        assert margin == pytest.approx(float(np.mean([logits[a] - logits[b] for a, b in ids])), abs=1e-4)
    plain = acceptability(tiny, DATA, pairs=PAIRS, draws=50)
    assert not np.allclose(plain.margin, found.margin, atol=1e-2)
    poles = [found.margin[DATA.pole == pole].mean() for pole in (VIRTUE, VICE)]
    assert found.gap == pytest.approx(poles[0] - poles[1])
    assert found.low < found.gap < found.high


def test_the_interval_is_the_sampling_errors() -> None:
    """Distinct texts with unit variance: the standard error of a difference of two means."""
    rng, vector = np.random.default_rng(0), np.zeros((2, 10))
    vector[0, 0] = vector[1, 1] = 1.0
    data = from_records([(str(i), f"text {i}", vector[i % 2], 0) for i in range(400)], {})
    margin = rng.normal(size=400) + np.where(data.pole == VIRTUE, 0.5, -0.5)
    value, low, high = gap(margin, data, text_weights(data, 4000, seed=1))
    error = 1.96 * np.sqrt(sum(margin[data.pole == pole].var() / 200 for pole in (0, 1)))
    assert value == pytest.approx(1.0, abs=0.25)
    assert (low, high) == (pytest.approx(value - error, abs=0.03), pytest.approx(value + error, abs=0.03))


def test_texts_are_drawn_with_all_their_records() -> None:
    vector = np.zeros((2, 10))
    vector[0, 0] = vector[1, 1] = 1.0
    data = from_records([(str(i), f"text {i // 4}", vector[i // 4 % 2], 0) for i in range(40)], {})
    weights = text_weights(data, 20)
    assert (weights.reshape(20, 10, 4) == weights.reshape(20, 10, 4)[..., :1]).all()
    assert (weights.sum(axis=1) == 40).all() and weights.std() > 0


def test_bad_input_is_refused(tiny: Any) -> None:
    for word in (" morally good", "unheard"):
        with pytest.raises(ValueError, match="expected a word that is one, and known"):
            acceptability(tiny, DATA, pairs=((word, "hitting"),))
    virtuous = DATA.subset(DATA.pole == VIRTUE)
    with pytest.raises(ValueError, match=r"16 virtuous and 0 vicious|virtuous and 0 vicious scenarios"):
        acceptability(tiny, virtuous, pairs=PAIRS)
