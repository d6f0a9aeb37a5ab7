"""Baselines: what stands in a model's place, so that a number can be told from what is there without training.

Each is one record of `BASELINES`: what it needs, and how its vectors are captured.

- `nuisance`: a scenario's length, the share of a sink, how common its words are (`nuisance_features`).
- `bag of words`: TF-IDF vectors of the scenarios (Spärck Jones 1972; ℓ₂ norm, 1 + log tf), of words and pairs of words
  and of character n-grams within words, rotated to their leading principal axes (latent semantic analysis, Deerwester
  et al. 1990), which keeps a linear probe's cost independent of the vocabulary. No step of the protocol is applied:
  standardising or removing length makes this baseline weaker. docs/design/controls.md has how its settings were chosen.
- `random weights`: the same architecture, drawn anew (`sae_moral.controls.random_weights`).
- `residual stream`: of a diagnosis of SAE latents, what they encode.

`explained` is the share of the total variance of a representation x (n × d, centred) that the least-squares fit on k
nuisance features f (with an intercept) explains, adjusted for chance as a regression's R² is (Ezekiel 1930; for many
columns at once this is the adjusted R² of redundancy analysis, Peres-Neto et al. 2006):

    R² = ‖P x‖² / ‖x‖²        adjusted = 1 − (1 − R²)(n − 1)/(n − r − 1)

P projects onto the centred features and r ≤ k is their rank. Features that explain nothing get 0 on average, and may
get a little below it: the number is not clipped, so that its mean over layers stays honest.

What they do not prove. That what exceeds them is understood or moral: a representation that knows synonyms generalises
over words where a bag cannot, and topic, register and syntax are in none of them. That a layer below the bag of words
holds no morality: the bag sees the exact words, which a mean over tokens blurs; it is fitted on all texts, which tells
it which words are rare and never what they are labelled. Families of nuisance features overlap (a long scenario has
many tokens and many characters), so their shares do not add up to that of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.controls.settings import Controls
from sae_moral.data import MoralData, word_frequency
from sae_moral.data.text import words as split_words

if TYPE_CHECKING:
    from sae_moral.capture import Representations
    from sae_moral.provenance import HookedModel


@dataclass(frozen=True)
class Subject:
    """What a diagnosis measures, for baselines that read it otherwise.

    Attributes:
        model: the model.
        read: vectors of a model as the diagnosis reads them (the stream, or SAE latents).
        stream: the residual stream of the model where the diagnosis reads latents; else None.
        seed: of the controls.
    """

    model: HookedModel
    read: Callable[[Any], Representations]
    stream: Callable[[Any], Representations] | None
    seed: int


@dataclass(frozen=True)
class BaselineKind:
    """One baseline, and how its vectors come about: from the scenarios (`vectors`) or from the model (`capture`).

    Attributes:
        name: in results.
        control: the control that asks for it; None: it is there whenever what it needs is.
        shortfall: the verdict where a metric does not exceed it; None: it says nothing about morality.
        vectors: of the scenarios, one per record, as they are given to metrics.
        capture: from the subject; None where it has not what this needs.
    """

    name: str
    control: str | None
    shortfall: str | None
    vectors: Callable[[MoralData], Float[Tensor, "n d"]] | None = None
    capture: Callable[[Subject], Callable[[], Representations] | None] | None = None


def captured(subject: Subject, controls: Controls) -> dict[str, Callable[[], Representations]]:
    """How the baselines that need the model are captured, by name; those that were asked for."""
    found: dict[str, Callable[[], Representations]] = {}
    for kind in BASELINES:
        if kind.capture is not None and (kind.control is None or kind.control in controls):
            how = kind.capture(subject)
            if how is not None:
                found[kind.name] = how
    return found


def _twin(subject: Subject) -> Callable[[], Representations]:
    from sae_moral.controls.random_weights import random_weights

    return lambda: subject.read(random_weights(subject.model, seed=subject.seed))


def _stream(subject: Subject) -> Callable[[], Representations] | None:
    return None if subject.stream is None else partial(subject.stream, subject.model)


def _centred_words(data: MoralData) -> Float[Tensor, "n v"]:
    vectors = bag_of_words(data)
    return vectors - vectors.mean(dim=0)


# Nuisance

FEATURES: dict[str, tuple[str, ...]] = {
    "length": ("tokens", "log tokens", "characters"),
    "sink": ("1 / tokens",),
    "word frequency": ("mean log frequency",),
}
"""Families of nuisance features and their columns, in the order of `nuisance_features`. `sink`: the share that the
first position, whose norm is far above the rest in many layers, has in a mean over n tokens is 1/n."""


def nuisance_features(data: MoralData) -> Float[Tensor, "n k"]:
    """The columns of `FEATURES`, each with mean 0 and variance 1 over the records; one that does not vary is 0.

    The columns are blind to the labels; word frequencies are those of the distinct texts (`word_frequency`).

    Raises:
        ValueError: no token counts; a capture fills them in.
    """
    if data.length is None:
        raise ValueError("no token counts in these data (length is None); pass data that a capture has filled in")
    tokens = data.length.astype(np.float64)
    columns = {
        "tokens": tokens,
        "log tokens": np.log(tokens),
        "characters": np.array([len(text) for text in data.text], dtype=np.float64),
        "1 / tokens": 1 / tokens,
        "mean log frequency": word_frequency(data),
    }
    chosen = np.stack([columns[name] for names in FEATURES.values() for name in names], axis=1)
    return _standardised(torch.from_numpy(chosen))


def explained(x: Float[Tensor, "n d"], features: Float[Tensor, "n k"]) -> float:
    """Adjusted share of the total variance of x that a linear fit on the features explains (see above).

    Computed in float64, on the device of x. Features may be collinear or constant: only their rank counts. A
    representation that does not vary has nothing to explain: 0.

    Raises:
        ValueError: not one row of features per row of x, values that are not finite, or no more than k + 1 rows.
    """
    n, k = features.shape
    if len(x) != n:
        raise ValueError(f"{n} rows of features for {len(x)} vectors; expected one each")
    if n <= k + 1:
        raise ValueError(f"{n} scenarios and {k} features; expected at least {k + 2} scenarios, or fewer features")
    if not (torch.isfinite(x).all() and torch.isfinite(features).all()):
        raise ValueError("values that are not finite in the vectors or the features")
    x, centred = x.double(), features.to(x.device, torch.float64)
    rounding = 1e-24 * float(x.square().sum())
    x = x - x.mean(dim=0)
    total = float(x.square().sum())
    if total <= rounding:
        return 0.0
    basis = _basis(_standardised(centred))
    r2 = float((basis.T @ x).square().sum()) / total
    return 1 - (1 - r2) * (n - 1) / (n - basis.shape[1] - 1)


def explained_by_family(x: Float[Tensor, "n d"], data: MoralData) -> dict[str, float]:
    """`explained` by each family of `FEATURES` alone, and by `all` of them together.

    Raises:
        ValueError: as `nuisance_features` and `explained`.
    """
    features = nuisance_features(data)
    parts = features.split([len(names) for names in FEATURES.values()], dim=1)
    shares = {family: explained(x, part) for family, part in zip(FEATURES, parts, strict=True)}
    return {**shares, "all": explained(x, features)}


def _standardised(columns: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    centred = columns - columns.mean(dim=0)
    scale = centred.square().mean(dim=0).sqrt()
    varies = scale > 1e-12 * columns.abs().amax(dim=0)
    return torch.where(varies, centred / torch.where(varies, scale, 1.0), 0.0)


def _basis(columns: Float[Tensor, "n k"]) -> Float[Tensor, "n r"]:
    """Orthonormal columns with the same span; far from collinear ones the normal equations would lose digits."""
    basis, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    return basis[:, singular > 1e-8 * singular.amax().clamp(min=1e-300)] if len(singular) else basis


# Words

AXES = 1_000
"""Principal axes kept by default (docs/design/controls.md)."""
EXACT = 6_000
"""Up to so many distinct texts the axes are exact; beyond, by randomised iteration."""


def bag_of_words(
    data: MoralData, *, words: tuple[int, int] | None = (1, 2), characters: tuple[int, int] | None = (2, 5),
    axes: int | None = AXES,
) -> Float[Tensor, "n v"]:  # fmt: skip
    """TF-IDF vectors of the scenarios, in float64; equal texts (`data.same_text`) have equal rows.

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
    first, row = np.unique(data.same_text, return_index=True, return_inverse=True)[1:]
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


BASELINES: tuple[BaselineKind, ...] = (
    BaselineKind("nuisance", "nuisance", "nuisance", vectors=nuisance_features),
    BaselineKind("random weights", "random-weights", "untrained", capture=_twin),
    BaselineKind("residual stream", None, None, capture=_stream),
    BaselineKind("bag of words", "words", "words", vectors=_centred_words),
)
"""In the order of results."""
