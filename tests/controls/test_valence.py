"""Valence: the sentences, the lexicon by hand, equality with scikit-learn, and planted worlds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sae_moral.capture.vectors import Representations
from sae_moral.controls.valence import sentences, valence_scores, valence_words
from sae_moral.data import MoralData
from sae_moral.data.moral_data import from_records
from sae_moral.foundations import NEUTRAL
from tests.tiny import scenarios

MORAL = (
    r"good|bad$|evil|right(eous)?$|wrong|moral|ethic|virtu|vice$|sin(s|ful)?$|guilt|blame|shame|honest|honou?r|"
    r"lie[sd]?$|lying|cheat|steal|stole|rob|thie|fair(ly|ness)?$|unfair|just(ice|ly)?$|equal|loyal|betray|traitor|obey|"
    r"respect|author|law|crime|criminal|kill|murder|hurt|harm|abus|cruel|kind(ly|ness)?$|care[sd]?$|caring|help|protect|"
    r"suffer|victim|pure|purity|sacred|holy|filth|disgust|dirty|clean|famil|friend|neighbo|team|nation|ally$|should$|ought|"
    r"deserv|promis|trust|forgiv|gener|selfish|greed|innocen"
)
"""Beginnings of words of the five foundations and of moral judgement (`badly` is what a machine leaks)."""


class TestSentences:
    def test_they_are_balanced(self) -> None:
        known = sentences()
        assert len(known.text) == len(set(known.text)) == 200 and known.pleasant.sum() == 100
        assert {
            name: (int(own.sum()), int(known.pleasant[own].sum())) for name, own in known.sets.items()
        } == dict.fromkeys(known.sets, (50, 25))
        assert len(known.sets) == 4

    def test_pleasant_and_unpleasant_do_not_differ_in_length_or_opening(self) -> None:
        known = sentences()
        words = np.array([len(text.split()) for text in known.text])
        characters = np.array([len(text) for text in known.text])
        for own in [*known.sets.values(), np.ones(200, dtype=bool)]:
            for size in (words, characters):
                good, bad = size[own & known.pleasant], size[own & ~known.pleasant]
                assert abs(good.mean() - bad.mean()) < 0.2 * good.std()
        opening = [Counter(text.split()[0] for text, p in zip(known.text, known.pleasant, strict=True) if p == kind)
                   for kind in (True, False)]  # fmt: skip
        assert sum((opening[0] & opening[1]).values()) >= 85

    def test_none_has_a_moral_word(self) -> None:
        spoken = {word for text in sentences().text for word in re.findall(r"[a-z]+", text.lower())}
        assert {word for word in spoken if re.match(MORAL, word)} == set()

    def test_what_is_checked_for_is_found(self) -> None:
        assert all(re.match(MORAL, word) for word in ("good", "lying", "kindness", "friends", "robbed", "should"))


def test_valence_words_by_hand() -> None:
    # VADER: happy 2.7, love 3.2, terrible −2.1; compound: Σ / √(Σ² + 15), a word after "not" times −0.74.
    data = from_records([(str(i), text, np.zeros(10), 0) for i, text in enumerate(
        ["Being happy.", "being  happy", "a terrible, happy love", "not happy", "chairs"])], {})  # fmt: skip
    rows = np.array([[2.7, 0, 2.7], [2.7, 0, 2.7], [5.9, -2.1, 3.8], [2.7, 0, -0.74 * 2.7], [0, 0, 0]])
    rows[:, 2] = np.round(rows[:, 2] / np.sqrt(rows[:, 2] ** 2 + 15), 4)
    expected = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    np.testing.assert_allclose(valence_words(data).numpy(), expected, atol=1e-9)


def _world(seed: int = 0, d: int = 8) -> tuple[MoralData, Representations, dict[int, torch.Tensor]]:
    """At layer 0 valence is the direction of virtue, at layer 1 orthogonal to it, at layer 2 there is none."""
    data, rng, known = scenarios(400), np.random.default_rng(seed), sentences()
    data = replace(data, length=rng.integers(4, 12, 400))
    sign = np.choose(data.pole, [1.0, -1.0, 0.0])
    x = {layer: rng.standard_normal((400, d)) for layer in range(3)}
    other = {layer: rng.standard_normal((200, d)) for layer in range(3)}
    for layer in range(3):
        x[layer][:, 0] += 1.5 * sign
        if layer < 2:
            other[layer][:, layer] += np.where(known.pleasant, 1.5, -1.5)
    x[0] = 1000 * x[0] + 50  # scale and place of a layer do not matter
    other[0] = 1000 * other[0] - 700
    vectors = {layer: torch.from_numpy(one).float() for layer, one in x.items()}
    rows, length = np.arange(400), data.length
    assert length is not None
    scenario = Representations((0, 1, 2), rows, length, length, {}, vectors.__getitem__)
    return data, scenario, {layer: torch.from_numpy(one).float() for layer, one in other.items()}


def _reads(other: dict[int, torch.Tensor]) -> object:
    def read(text: Sequence[str]) -> Representations:
        assert tuple(text) == sentences().text
        size = np.full(len(text), 9)
        return Representations(tuple(other), np.arange(len(text)), size, size, {}, other.__getitem__)

    return read


def test_planted_valence_is_read_where_it_is_and_not_where_it_is_not() -> None:
    data, scenario, other = _world()
    scores = valence_scores(scenario, _reads(other), data)  # pyright: ignore[reportArgumentType]
    facts = scores.provenance["valence"]
    assert (scores.layers, scores[0].shape, facts["sets"]) == ((0, 1, 2), (400, 5), list(sentences().sets))
    assert facts["auroc"][0] > 0.95 and all(value > 0.9 for value in facts["auroc_by_set"][0])
    assert abs(facts["auroc"][1] - 0.5) < 0.1
    assert facts["auroc_of_sentences"][0] > 0.95 and facts["auroc_of_sentences"][1] > 0.95
    assert facts["auroc_of_sentences"][2] < 0.6
    assert facts["sha256"] == sentences().sha256 and facts["n_sentences"] == 200


def test_scores_are_one_function_of_scenarios_and_sentences() -> None:
    """Whatever affine map both go through, dimension by dimension, scores are the same up to their zero; a dimension in
    which the scenarios do not vary is not read."""
    data, scenario, other = _world()
    before = valence_scores(scenario, _reads(other), data)  # pyright: ignore[reportArgumentType]
    factor, shift = torch.linspace(0.01, 30, 8), torch.linspace(-5, 5, 8)

    def mapped(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * factor + shift, torch.full((len(x), 1), 3.0)], dim=1)

    vectors = {layer: mapped(scenario[layer]) for layer in range(3)}
    turned = {layer: mapped(one) for layer, one in other.items()}
    for one in turned.values():
        one[:, -1] += torch.linspace(-1, 1, 200)  # varies over the sentences alone
    after = valence_scores(
        replace(scenario, read=vectors.__getitem__), _reads(turned), data  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    for layer in (1, 2):
        a, b = (scores[layer] - scores[layer].mean(dim=0) for scores in (before, after))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_without_both_poles_nothing_is_told_apart() -> None:
    data, scenario, other = _world()
    rows = np.flatnonzero(data.pole == NEUTRAL)
    scores = valence_scores(scenario.subset(rows), _reads(other), data.subset(rows))  # pyright: ignore[reportArgumentType]
    assert scores.provenance["valence"]["auroc"] == [None] * 3 and len(scores) == len(rows)
