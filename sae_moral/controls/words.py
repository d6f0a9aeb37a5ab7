"""The bag of words: what can be read from the words alone, without a model.

TF-IDF vectors of the scenarios (Spärck Jones 1972; scikit-learn's `TfidfVectorizer`, ℓ₂ norm, 1 + log tf), of words
and pairs of words, and of character n-grams within words, side by side; then rotated to their leading principal axes
(latent semantic analysis, Deerwester et al. 1990), which keeps a linear probe's cost independent of the vocabulary.
Given to a metric in a model's place, it is the baseline that a layer has to exceed.

The settings were chosen for the strongest baseline of our audited probe on the stratified Social-Chemistry-101 sample
(2,786 records): R² 0.106 and 0.54 for valence, against 0.100 and 0.51 for words alone. Two things matter more than the
settings:

- Leave its columns as they are. Standardising brings the last axes, which are noise, to the size of the first: R²
  falls to 0.065. `remove_length` costs little (0.100).
- Single words hold no other words to learn from, but stems and endings. On MoralStrength's list R² is 0.04 from whole
  words and 0.37 with characters: a stem that is in both halves of a split carries its rating over.

What it does not prove. That what exceeds it is understanding: a representation that knows synonyms generalises over
words where a bag cannot, and that is lexical knowledge, too. That a layer below it holds no morality: the bag sees the
exact words, which a mean over tokens blurs. It is fitted on all texts, which tells it which words are rare and never
what they are labelled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.data.splits import words as split_words

AXES = 1_000
"""Principal axes kept by default: 600 cost a probe a third, and are a little weaker (0.53 for valence); 1,500 reach
R² 0.109 at several times the cost."""
EXACT = 6_000
"""Up to so many distinct texts the axes are exact (2,640 take 7 s on one core); beyond, by randomised iteration."""


def bag_of_words(
    data: MoralData, *, words: tuple[int, int] | None = (1, 2), characters: tuple[int, int] | None = (2, 5),
    axes: int | None = AXES,
) -> Float[Tensor, "n v"]:  # fmt: skip
    """TF-IDF vectors of the scenarios, in float64; equal texts (`data.group`) have equal rows.

    Frequencies and axes are those of the distinct texts, whatever their labels and however many records they are. A
    Chinese or Japanese character counts as a word, so pairs of words are pairs of characters there.

    Args:
        data: the scenarios.
        words: shortest and longest n-gram of words; None for none.
        characters: the same of characters within a word, each in at least two texts; None for none.
        axes: how many principal axes to keep at most; None for the bare TF-IDF vectors, one column per n-gram.

    Raises:
        ValueError: neither words nor characters, a range that is none, axes below 1, no n-gram in the texts.
    """
    _check(words, characters, axes)
    first, row = np.unique(data.group, return_index=True, return_inverse=True)[1:]
    texts = [" ".join(split_words(data.text[i])) for i in first]
    tfidf = _tfidf(texts, words, characters)
    vectors = tfidf.toarray() if axes is None else _leading(tfidf, axes)
    return torch.from_numpy(vectors[row])


def _check(words: tuple[int, int] | None, characters: tuple[int, int] | None, axes: int | None) -> None:
    if words is None and characters is None:
        raise ValueError("neither words nor characters; expected a range of n-grams for one of them, such as (1, 2)")
    for name, span in (("words", words), ("characters", characters)):
        if span is not None and not 1 <= span[0] <= span[1]:
            raise ValueError(f"n-grams of {name} from {span[0]} to {span[1]}; expected 1 ≤ shortest ≤ longest")
    if axes is not None and axes < 1:
        raise ValueError(f"{axes} axes; expected at least 1, or None for all n-grams")


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


def _leading(tfidf: Any, axes: int) -> Float[np.ndarray, "m k"]:
    """Scores on the leading principal axes (not centred), without those that hold nothing."""
    m = tfidf.shape[0]
    if m > EXACT:
        from sklearn.decomposition import TruncatedSVD

        return TruncatedSVD(min(axes, tfidf.shape[1]), random_state=0).fit_transform(tfidf)
    from scipy.linalg import eigh

    values, vectors = eigh((tfidf @ tfidf.T).toarray(), subset_by_index=[max(0, m - axes), m - 1])
    holds = values > 1e-10 * values[-1]
    return (vectors[:, holds] * np.sqrt(values[holds]))[:, ::-1].copy()
