"""Labels permuted among texts that open with the same word, and how much of the labels can move at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_moral.controls.draws import MOVED, SCHEMES, Draws, opening_words, permutations
from sae_moral.controls.settings import Controls
from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import NEUTRAL
from sae_moral.metrics.base import folds
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


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_spelling_does_not_make_another_opening_word(seed: int) -> None:
    data = random_data(seed)
    word, names = opening_words(data), np.array([opening(text) for text in data.text])
    assert ((word[:, None] == word) == (names[:, None] == names)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_labels_stay_with_their_opening_word_block_and_fold(scheme: str, seed: int) -> None:
    data = random_data(seed)
    fold, block, word = folds(data, 3, 0), SCHEMES[scheme](data), opening_words(data)
    found = permutations(data, scheme, 9, seed=seed, fold=fold, stratum=None, opening=True)
    index = found.index.numpy()
    for kept in (fold, block, word):
        assert (kept[index] == kept).all()
    whole = permutations(data, scheme, 9, seed=seed, fold=fold, stratum=None)
    assert found.fixed >= whole.fixed and 0 <= found.stuck <= 1


def test_they_are_drawn_where_selectivity_is_asked_for() -> None:
    data = random_data(0)
    drawn = Draws(data, Controls(("selectivity",), permutations=19, seed=2), None, False)
    found = drawn.within_opening("labels")
    assert found is not None and list(drawn.of_kind("opening")) == ["labels"] and drawn.of_kind("strata") == {}
    again = permutations(data, "labels", 19, seed=2, stratum=None, opening=True).index
    assert torch.equal(found.index, again)
    assert Draws(data, Controls(("null",)), None, False).within_opening("labels") is None


class TestStuck:
    def test_without_strata_and_folds_nothing_is(self) -> None:
        data = moral_data([0] * 6, [0, 1, 0, 1, 0, 0], [1.0] * 6)
        assert permutations(data, "pole", 1, stratum=None).stuck == 0

    def test_labels_that_are_all_the_same_cannot_move(self) -> None:
        data = moral_data([0] * 4, [1] * 4, [1.0] * 4)
        assert permutations(data, "pole", 1, stratum=None).stuck == 1
        assert permutations(data, "pole", 1, stratum=None).fixed == 0

    def test_what_length_or_fold_holds_fast_is_counted_against_what_could_move(self) -> None:
        pole = [0, 1, 0, 0, 1, 1]  # two texts of six differ with probability 18 / 30
        data = moral_data([0] * 6, pole, [1.0] * 6, length=np.array([5, 5, 7, 7, 9, 9]))
        # Of three strata of two, one has both poles: a third of the texts, and there two texts always differ.
        assert permutations(data, "pole", 1, stratum=2).stuck == pytest.approx(1 - (1 / 3) / (18 / 30))
        fold = np.array([0, 1, 0, 0, 1, 1])
        assert permutations(data, "pole", 1, stratum=None, fold=fold).stuck == 1

    def test_a_rare_pole_that_can_move_is_not_stuck(self) -> None:
        rng = np.random.default_rng(0)
        n = 4000
        pole = (rng.random(n) < 0.95).astype(int)  # 95 % vice
        data = moral_data([0] * n, pole, [1.0] * n, length=rng.integers(5, 40, n))
        assert permutations(data, "pole", 1).stuck < 0.05

    def test_every_scheme_says_what_it_moves(self) -> None:
        assert MOVED.keys() == SCHEMES.keys()
