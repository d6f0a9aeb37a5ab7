"""The bag of words: equality with scikit-learn and by hand, planted words, and what it must not see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict

from sae_moral.controls.words import bag_of_words, opening_words
from sae_moral.data import MoralData, load_data
from sae_moral.data.moral_data import from_records
from sae_moral.foundations import DIMENSIONS
from sae_moral.metrics import evaluate, get_metric, preprocess, resolve_metrics
from sae_moral.protocol import get_protocol
from tests.tiny import scenarios


def _data(*texts: str) -> MoralData:
    return from_records([(str(i), text, np.zeros(10), 0) for i, text in enumerate(texts)], {})


def _predicted(x: torch.Tensor, data: MoralData) -> float:
    """Correlation of the first dimension with what ridge regression predicts of it for held-out texts."""
    ridge = RidgeCV(alphas=10.0 ** np.arange(-2, 3))
    predicted = cross_val_predict(ridge, x.numpy(), data.vector[:, 0], groups=data.group, cv=GroupKFold(5))
    return float(np.corrcoef(np.asarray(predicted), data.vector[:, 0])[0, 1])


def test_by_hand() -> None:
    # Smoothed idf over 2 distinct texts: of "robbing" ln(3/2) + 1, of "a" ln(3/3) + 1 = 1; each row has norm 1.
    rows = bag_of_words(_data("Robbing a", "a", "robbing  a."), words=(1, 1), characters=None, axes=None)
    idf = np.log(1.5) + 1
    expected = np.array([[1, idf], [1, 0], [1, idf]]) / np.sqrt([[1 + idf**2], [1], [1 + idf**2]])
    assert rows.dtype == torch.float64
    np.testing.assert_allclose(rows.numpy(), expected)


def test_it_equals_scikit_learn_on_the_distinct_texts() -> None:
    data = scenarios(120)
    distinct = sorted(set(data.text))
    assert len(distinct) < len(data)
    by_hand = []
    for settings in (
        {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"\S+"},
        {"analyzer": "char_wb", "ngram_range": (2, 5), "min_df": 2},
    ):
        fitted = TfidfVectorizer(sublinear_tf=True, **settings).fit(distinct)
        by_hand.append(cast(Any, fitted.transform(data.text)).toarray())
    np.testing.assert_allclose(bag_of_words(data, axes=None).numpy(), np.hstack(by_hand), atol=1e-12)


def test_leading_axes_keep_what_they_can() -> None:
    data = scenarios(100)
    every = bag_of_words(data, axes=None)
    first = torch.from_numpy(np.unique(data.group, return_index=True)[1])
    few = bag_of_words(data, axes=20)
    for complete in (bag_of_words(data), bag_of_words(data, axes=10_000)):
        assert complete.shape[1] == torch.linalg.matrix_rank(every) <= len(first)
        torch.testing.assert_close(complete @ complete.T, every @ every.T)  # a rotation
    assert few.shape == (100, 20)
    best = float(torch.linalg.svdvals(every[first])[:20].square().sum())
    assert 0.99 * best < float(few[first].square().sum()) <= best * (1 + 1e-9)


def test_it_is_blind_to_labels_and_duplicates_and_equal_for_equal_texts() -> None:
    data = scenarios(80)
    x = bag_of_words(data)
    order = np.random.default_rng(0).permutation(80)
    relabelled = replace(scenarios(80, seed=1), text=data.text)
    assert torch.equal(bag_of_words(relabelled), x)
    # Other records, in another order, of the same texts.
    torch.testing.assert_close(
        bag_of_words(data.subset(np.concatenate([order, order[:7]])))[:80], x[torch.from_numpy(order)]
    )
    assert torch.equal(bag_of_words(_data("Lying to a friend.", "robbing", "lying to  a friend"))[0],
                       bag_of_words(_data("Lying to a friend.", "robbing", "lying to  a friend"))[2])  # fmt: skip


def test_random_states_stay_as_they_are() -> None:
    data = scenarios(200)
    states = str(np.random.get_state()), torch.get_rng_state()
    x = bag_of_words(data, axes=10)
    assert str(np.random.get_state()) == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert torch.equal(bag_of_words(data, axes=10), x)
    assert torch.equal(bag_of_words(data), bag_of_words(data))


def test_opening_words_by_hand() -> None:
    rows = opening_words(_data("Robbing a bank", "feeding cats", "robbing  a bank.", "robbing a train", "feeding dogs"))
    assert rows.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1], [1, 0]]
    # "helping" opens one text, if two records; nothing is known of any other text by it.
    assert opening_words(_data("Helping out", "helping out", "robbing")).tolist() == [[0], [0], [0]]
    assert opening_words(_data("帮助邻居", "帮人")).tolist() == [[1], [1]]


def test_every_metric_takes_opening_words_that_say_nothing() -> None:
    data = replace(scenarios(120), text=tuple(f"{number} steps" for number in range(120)))
    x = opening_words(data)
    assert x.abs().sum() == 0
    for metric in resolve_metrics(None, get_protocol("audited")):
        assert all(np.isfinite(one.value) for one in evaluate(metric, x, data) if one.value is not None)


def _planted(texts: list[str], good: list[bool]) -> MoralData:
    vectors = np.zeros((len(texts), len(DIMENSIONS)))
    vectors[np.arange(len(texts)), np.where(good, 0, 1)] = 1.0
    return from_records([(str(i), text, vectors[i], 0) for i, text in enumerate(texts)], {})


def test_a_planted_word_is_read_and_random_labels_are_not() -> None:
    rng = np.random.default_rng(0)
    texts = [f"{['helping', 'robbing'][i % 2]} person{rng.integers(1000)} {i}" for i in range(200)]
    told = _planted(texts, [i % 2 == 0 for i in range(200)])
    untold = _planted(texts, (rng.random(200) < 0.5).tolist())
    assert _predicted(bag_of_words(told), told) > 0.95
    assert abs(_predicted(bag_of_words(untold), untold)) < 0.2


def test_only_characters_generalise_over_single_words() -> None:
    rng = np.random.default_rng(0)
    stems = ["".join(rng.choice(list("bdfgklmprst"), 4)) for _ in range(160)]
    data = _planted(
        [stem + ("ful" if i % 2 else "less") for i, stem in enumerate(stems)], [i % 2 == 1 for i in range(160)]
    )
    assert abs(_predicted(bag_of_words(data, characters=None), data)) < 0.2
    assert _predicted(bag_of_words(data), data) > 0.7


def test_chinese_characters_are_words() -> None:
    data = _data("帮助邻居", "偷邻居的钱", "帮助朋友")
    unigrams = bag_of_words(data, words=(1, 1), characters=None, axes=None)
    assert unigrams.shape[1] == len(set("帮助邻居偷的钱朋友"))
    similar = unigrams @ unigrams.T
    assert similar[0, 2] > similar[1, 2] == 0
    assert torch.isfinite(bag_of_words(data)).all()


def test_what_is_no_bag_is_refused() -> None:
    data = scenarios(10)
    with pytest.raises(ValueError, match="neither words nor characters"):
        bag_of_words(data, words=None, characters=None)
    with pytest.raises(ValueError, match=r"n-grams of words from 2 to 1; expected 1 ≤ shortest ≤ longest"):
        bag_of_words(data, words=(2, 1))
    with pytest.raises(ValueError, match="0 axes; expected at least 1"):
        bag_of_words(data, axes=0)
    with pytest.raises(ValueError, match="no n-gram in 2 distinct texts"):
        bag_of_words(_data("ab", "cd"), words=None)  # no n-gram that both have


def test_many_texts_take_the_other_path_to_the_same_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = scenarios(200)
    exact = bag_of_words(data, axes=15)
    monkeypatch.setattr(preprocess, "EXACT", 50)
    monkeypatch.setattr(preprocess, "LEADING", 15)
    approximate = bag_of_words(data)
    assert approximate.shape == (200, 15)
    assert torch.allclose(approximate @ approximate.T, exact @ exact.T, atol=0.02)


@pytest.mark.slow
def test_the_mark_on_the_stratified_sample(stratified_sample: Path) -> None:
    data = load_data(stratified_sample)
    metric = get_metric("dimensional", get_protocol("audited"))
    read = {s.name: s.value for s in evaluate(metric, bag_of_words(data), data) if s.group == "overall"}
    assert (read["r2"] or 0) > 0.10
    assert (read["spearman_valence"] or 0) > 0.51
