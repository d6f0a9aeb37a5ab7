"""The words of the scenarios, without a model: TF-IDF of all of them, and their opening words.

`bag_of_words`: TF-IDF vectors (Spärck Jones 1972; ℓ₂ norm, 1 + log tf), of words and pairs of words and of character
n-grams within words, rotated into the span of the texts, which leaves every ridge and every angle as it is and keeps
a linear probe's cost independent of the vocabulary. Nothing is cut off. Of very many texts the leading principal axes
stand for it (latent semantic analysis, Deerwester et al. 1990). No step of the protocol is applied: standardising or
removing length makes this baseline weaker. docs/design/controls.md has how its settings were chosen.

`opening_words`: which word a text opens with, and nothing else.

What they do not prove. That a layer below the bag of words holds no morality: the bag sees the exact words, which a
mean over tokens blurs; it is fitted on all texts, which tells it which words are rare and never what they are labelled.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.data.text import words as split_words
from sae_moral.metrics.preprocess import leading_axes, within_span


def bag_of_words(
    data: MoralData,
    *,
    words: tuple[int, int] | None = (1, 2),
    characters: tuple[int, int] | None = (2, 5),
    axes: int | Literal["all"] | None = "all",
) -> Float[Tensor, "n v"]:
    """TF-IDF vectors of the scenarios, in float64; equal texts (`data.same_text`) have equal rows.

    Frequencies and axes are those of the distinct texts, whatever their labels and however many records they are. A
    Chinese or Japanese character counts as a word, so pairs of words are pairs of characters there.

    Args:
        data: the scenarios.
        words: shortest and longest n-gram of words; None for none.
        characters: the same of characters within a word, each in at least two texts; None for none.
        axes: how many principal axes to keep at most; `all`: the whole span, of more than `EXACT` distinct texts the
            `LEADING` axes; None: the bare TF-IDF vectors, one column per n-gram.

    Raises:
        ValueError: neither words nor characters, a range that is none, axes below 1, no n-gram in the texts.
    """
    _check(words, characters, axes)
    first, row = _distinct(data)
    texts = [" ".join(split_words(data.text[i])) for i in first]
    tfidf = _tfidf(texts, words, characters)
    if axes is None:
        vectors = tfidf.toarray()
    else:
        vectors = within_span(tfidf) if axes == "all" else leading_axes(tfidf, axes)
    return torch.from_numpy(vectors[row])


def opening_words(data: MoralData) -> Float[Tensor, "n v"]:
    """One column per opening word that at least two distinct texts share: 1 where a text opens with it.

    A word that one text opens with says nothing about any other. Where no two texts share one (lists of words), there
    is a single column of zeros: nothing can be read from opening words.
    """
    first, row = _distinct(data)
    opening = [split_words(data.text[i])[0] for i in first]
    shared = sorted(word for word, count in Counter(opening).items() if count > 1)
    place = {word: column for column, word in enumerate(shared)}
    found = torch.zeros(len(opening), max(1, len(shared)), dtype=torch.float64)
    for i, word in enumerate(opening):
        if word in place:
            found[i, place[word]] = 1.0
    return found[torch.from_numpy(row)]


def _distinct(data: MoralData) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "n"]]:
    """The first record of every distinct text, and which of these texts each record has."""
    first, row = np.unique(data.same_text, return_index=True, return_inverse=True)[1:]
    return first, row.reshape(-1)


def _check(
    words: tuple[int, int] | None, characters: tuple[int, int] | None, axes: int | Literal["all"] | None
) -> None:
    if words is None and characters is None:
        raise ValueError("neither words nor characters; expected a range of n-grams for one of them, such as (1, 2)")
    for name, span in (("words", words), ("characters", characters)):
        if span is not None and not 1 <= span[0] <= span[1]:
            raise ValueError(f"n-grams of {name} from {span[0]} to {span[1]}; expected 1 ≤ shortest ≤ longest")
    if axes is not None and axes != "all" and axes < 1:
        raise ValueError(f"{axes} axes; expected at least 1, 'all', or None for the bare n-grams")


def _tfidf(texts: list[str], words: tuple[int, int] | None, characters: tuple[int, int] | None) -> Any:
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    parts = []
    for analyzer, span, least in (("word", words, 1), ("char_wb", characters, 2)):
        if span is not None:
            vectorizer = TfidfVectorizer(
                analyzer=analyzer,
                ngram_range=span,
                min_df=least,
                sublinear_tf=True,
                lowercase=False,
                token_pattern=r"\S+" if analyzer == "word" else None,  # pyright: ignore[reportArgumentType]
            )
            try:
                parts.append(vectorizer.fit_transform(texts))
            except ValueError:  # how scikit-learn says that there is no n-gram
                continue
    if not parts:
        raise ValueError(f"no n-gram in {len(texts)} distinct texts; expected longer texts, or more of them")
    return hstack(parts).tocsr()
