"""Control tasks: random labels per opening word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_moral.controls.draws import SCHEMES, control_tasks
from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import NEUTRAL
from tests.metrics.worlds import LEVELS, moral_data

OPENINGS = ["Helping", "helping", "“helping", "robbing", "mocking"]


def random_data(seed: int, n: int = 60) -> MoralData:
    rng = np.random.default_rng(seed)
    foundation, pole = rng.integers(0, 2, n), rng.integers(0, 3, n)
    foundation = np.where((pole == NEUTRAL) & (rng.random(n) < 0.3), -1, foundation)
    text = [f"{OPENINGS[i]} person {k}" for i, k in zip(rng.integers(5, size=n), rng.integers(20, size=n), strict=True)]
    return moral_data(foundation, pole, rng.choice(LEVELS, n), text=text)


def opening(text: str) -> str:
    return text.split()[0].strip("“").casefold()


@pytest.mark.parametrize("scheme", SCHEMES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_what_opens_with_one_word_has_one_label_and_it_is_of_the_same_block(scheme: str, seed: int) -> None:
    data = random_data(seed)
    index, block = control_tasks(data, scheme, 9, seed=seed), SCHEMES[scheme](data)
    assert (index.shape, index.dtype) == ((9, 60), torch.int64)
    assert (block[index.numpy()] == block).all()
    kinds = np.array([f"{b} {opening(text)}" for b, text in zip(block, data.text, strict=True)])
    for kind in np.unique(kinds):
        own = index[:, torch.from_numpy(kinds == kind)]
        assert (own == own[:, :1]).all()


def test_every_record_of_a_block_is_drawn_as_often_as_another_and_words_are_independent() -> None:
    text = [f"{word} {i}" for i, word in enumerate(["a", "b"] * 4)]
    data = moral_data([0] * 8, [0] * 8, [1.0] * 8, text=text)
    index = control_tasks(data, "all", 8000).numpy()
    for column in (0, 1):
        counts = np.bincount(index[:, column], minlength=8)
        assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000 * 7 / 8)
    assert (index[:, 0] == index[:, 1]).mean() == pytest.approx(1 / 8, abs=0.02)


def test_the_same_seed_gives_the_same_draw_and_another_another() -> None:
    data = random_data(0)
    first, again, other = (control_tasks(data, "all", 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_unknown_scheme_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown permutation scheme 'label'; did you mean 'labels'"):
        control_tasks(random_data(0), "label", 1)
