"""Planted worlds: invented scenarios and vectors of which it is known what there is to find.

Labels have the shape of Social-Chemistry-101's stratified sample: its shares of foundations, poles and typicality,
two fifths of the texts named for a second foundation, some texts twice. Texts are invented words from a Zipf law, as
many as real scenarios have tokens. Strengths are shares of the total variance of the vectors: a factor of strength
0.05 explains 5 % of it, in as many random directions as it has columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS, NEUTRAL, VICE

CELLS = np.array([[279, 279, 66], [231, 280, 42], [257, 263, 38], [215, 262, 58], [190, 284, 42]]) / 2786
"""Share of each foundation (rows) and polarity in the stratified sample."""
LEVELS = np.array([0.125, 0.25, 0.375, 0.5, 0.75, 1.0])
TYPICALITY = np.array([[89, 235, 226, 263, 224, 135], [185, 252, 299, 294, 225, 113]])
TYPICALITY = TYPICALITY / TYPICALITY.sum(axis=1, keepdims=True)
"""Share of each level of typicality among virtues, and among vices."""
SECOND_FOUNDATION, REPEATED = 0.4, 0.06
LOG_LENGTH = 2.0, 0.5
"""Mean and standard deviation of the logarithm of a scenario's tokens."""
SYLLABLES = [f"{consonant}{vowel}" for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
VOCABULARY = np.array([f"{a}{b}{c}" for a in SYLLABLES for b in SYLLABLES for c in ("", "n", "s", "r")])
"""Invented words, the most frequent first."""


@dataclass(frozen=True)
class World:
    """Attributes:
    vectors: one tensor [n, d] per layer.
    data: labels, with lengths.
    """

    vectors: tuple[Tensor, ...]
    data: MoralData


def scenarios(rng: np.random.Generator, n: int, *, rho: float = 0.0, repeated: float = REPEATED) -> MoralData:
    """n records; the logarithm of the length correlates with the valence by rho. Some texts are two records: the same
    annotation under its second foundation, or another annotator's."""
    cell = rng.choice(CELLS.size, size=n, p=CELLS.ravel() / CELLS.sum())
    foundation, pole = np.divmod(cell, 3)
    typicality = _typicality(rng, pole)
    second = (foundation + rng.integers(1, 5, n)) % 5
    named = rng.random(n) < SECOND_FOUNDATION
    source = np.arange(n)
    copies = np.flatnonzero(rng.random(n) < repeated)
    copies = copies[copies > 0]
    source[copies] = rng.integers(0, copies)
    source = source[source]
    source = np.where(source == source[source], source, np.arange(n))
    copies = np.flatnonzero(source != np.arange(n))
    other = rng.random(len(copies)) < 0.5
    for record, another in zip(copies, other, strict=True):
        origin = source[record]
        pole[record], named[record] = pole[origin], named[origin]
        if another or not named[origin]:
            foundation[record], second[record] = foundation[origin], second[origin]
            typicality[record] = _typicality(rng, pole[[record]])[0]
        else:
            foundation[record], second[record] = second[origin], foundation[origin]
            typicality[record] = typicality[origin]
    vector = np.zeros((n, len(DIMENSIONS)))
    moral = np.flatnonzero(pole != NEUTRAL)
    vector[moral, 2 * foundation[moral] + pole[moral]] = typicality[moral]
    both = moral[named[moral]]
    vector[both, 2 * second[both] + pole[both]] = typicality[both]
    score = _unit(np.choose(pole, [1.0, -1.0, 0.0]) * typicality)
    log = LOG_LENGTH[0] + LOG_LENGTH[1] * (rho * score + np.sqrt(1 - rho**2) * rng.standard_normal(n))
    length = np.clip(np.round(np.exp(log)), 2, 40).astype(np.int64)[source]
    text = texts(rng, length)
    return MoralData(
        text=tuple(text[i] for i in source),
        vector=vector,
        foundation=foundation,
        pole=pole,
        typicality=typicality,
        id=tuple(f"scenario {i}" for i in range(n)),
        length=length,
    )


def polarity(data: MoralData) -> np.ndarray:
    """One column: virtue 1, vice −1, neutral 0."""
    return np.choose(data.pole, [1.0, -1.0, 0.0])[:, None]


def gradation(data: MoralData) -> np.ndarray:
    """One column: typicality less the mean of its pole, 0 for neutrals; it does not tell the poles apart."""
    means = TYPICALITY @ LEVELS
    return np.where(data.pole == NEUTRAL, 0.0, data.typicality - means[np.minimum(data.pole, VICE)])[:, None]


def foundations(data: MoralData) -> np.ndarray:
    """Five columns, one per foundation."""
    return np.eye(5)[data.foundation]


def whitened(data: MoralData) -> np.ndarray:
    """Ten uncorrelated columns of variance 1 with the span of the moral vectors (their covariance is that of 200,000
    records of this kind)."""
    mean, root = _moments_of_vectors()
    return np.linalg.solve(root, (data.vector - mean).T).T


def length_columns(data: MoralData) -> np.ndarray:
    """n, log n and 1/n, each standardised."""
    n = lengths(data).astype(np.float64)
    return np.stack([_unit(column) for column in (n, np.log(n), 1 / n)], axis=1)


def mixed(
    rng: np.random.Generator,
    data: MoralData,
    d: int,
    factors: list[tuple[np.ndarray, float]],
    *,
    spread: int | None = None,
    decay: float = 0.0,
) -> Tensor:
    """Factors (columns, share of the variance) in random directions, the rest of the variance noise whose principal
    components fall as 1 / rank ** decay. Records of one text have one vector.

    Args:
        spread: random directions that a factor of one column is spread over, with independent noise of the factor's
            own size per direction; None for one.
    """
    n, fixed = len(data), geometry(d)
    basis = np.linalg.qr(fixed.standard_normal((d, d)))[0]
    spectrum = np.arange(1, d + 1) ** -decay
    x = rng.standard_normal((n, d)) * np.sqrt(spectrum / spectrum.sum()) @ basis
    x *= np.sqrt(1 - sum(share for _, share in factors))
    for columns, share in factors:
        if spread is not None:
            columns = np.repeat(columns, spread, axis=1)
            columns = columns + columns.std() * rng.standard_normal(columns.shape)
        directions = np.linalg.qr(fixed.standard_normal((d, columns.shape[1])))[0].T
        part = (columns - columns.mean(axis=0)) @ directions
        x += part * np.sqrt(share / part.var(axis=0).sum())
    return torch.from_numpy(x[first_records(data)]).float()


def _draws(seed: int, n: int, rho: float = 0.0, repeated: float = REPEATED) -> tuple[np.random.Generator, MoralData]:
    rng = np.random.default_rng([seed, n])
    return rng, scenarios(rng, n, rho=rho, repeated=repeated)


def noise(seed: int, n: int, d: int, *, rho: float = 0.0) -> World:
    """Nothing but noise."""
    rng, data = _draws(seed, n, rho)
    return World((mixed(rng, data, d, []),), data)


def length_only(seed: int, n: int, d: int, *, rho: float = 0.5, share: float = 0.6) -> World:
    """Sentence length and noise; labels go with length."""
    rng, data = _draws(seed, n, rho)
    return World((mixed(rng, data, d, [(length_columns(data), share)]),), data)


def sink_only(seed: int, n: int, d: int, *, rho: float = 0.5, size: float = 300.0) -> World:
    """What mean pooling makes of a first token with a huge fixed vector: that vector over the number of tokens, and
    noise; labels go with length."""
    rng, data = _draws(seed, n, rho)
    sink = _sink(d, size)
    x = mixed(rng, data, d, []).double().numpy() + sink / (1 + lengths(data)[:, None])
    return World((torch.from_numpy(x).float(),), data)


def rogue_dimension(seed: int, n: int, d: int, *, share: float = 0.99) -> World:
    """One coordinate with nearly all the variance, unrelated to anything, and noise."""
    rng, data = _draws(seed, n)
    x = mixed(rng, data, d, []).double().numpy()
    x[:, 0] += np.sqrt(share / (1 - share)) * rng.standard_normal(n)[first_records(data)]
    return World((torch.from_numpy(x).float(),), data)


def topic_words(seed: int, n: int, d: int, *, share: float = 0.2, words: int = 6) -> World:
    """Every foundation has its own words, each a direction; a text holds two of them. Nothing else."""
    rng, data = _draws(seed, n)
    held = np.zeros((n, 5 * words))
    for _ in range(2):
        held[np.arange(n), data.foundation * words + rng.integers(words, size=n)] += 1
    return World((mixed(rng, data, d, [(held, share)]),), data)


def planted_polarity(
    seed: int, n: int, d: int, *, share: float, dimensions: int = 1, decay: float = 1.0, repeated: float = REPEATED
) -> World:
    """Virtue against vice, in some dimensions; noise has a falling spectrum."""
    rng, data = _draws(seed, n, repeated=repeated)
    spread = None if dimensions == 1 else dimensions
    return World((mixed(rng, data, d, [(polarity(data), share)], spread=spread, decay=decay),), data)


def planted_typicality(
    seed: int, n: int, d: int, *, share: float, decay: float = 1.0, repeated: float = REPEATED
) -> World:
    """Grave against slight, the same direction for every dimension."""
    rng, data = _draws(seed, n, repeated=repeated)
    return World((mixed(rng, data, d, [(gradation(data), share)], decay=decay),), data)


def planted_clusters(seed: int, n: int, d: int, *, share: float = 0.5) -> World:
    """One tight cloud per foundation."""
    rng, data = _draws(seed, n)
    return World((mixed(rng, data, d, [(foundations(data), share)]),), data)


def planted_vectors(
    seed: int, n: int, d: int, *, share: float, decay: float = 1.0, repeated: float = REPEATED
) -> World:
    """The ten human dimensions, whitened, in ten random directions."""
    rng, data = _draws(seed, n, repeated=repeated)
    return World((mixed(rng, data, d, [(whitened(data), share)], decay=decay),), data)


def topics_and_polarity(seed: int, n: int, d: int, *, topics: float = 0.1, polar: float = 0.05) -> World:
    """A topic per foundation, shared by both poles, and a polarity: prototypes with a known cosine. No text is in two
    foundations: it would blur them."""
    rng, data = _draws(seed, n, repeated=0.0)
    return World((mixed(rng, data, d, [(foundations(data), topics), (polarity(data), polar)]),), data)


def everything(seed: int, n: int, d: int, *, strength: float = 0.05, rho: float = 0.3, layers: int = 3) -> World:
    """A sink, a rogue dimension, topics, polarity, typicality and noise at once; morality grows with the layers, from
    nothing to `strength` for each of its three parts."""
    rng, data = _draws(seed, n, rho)
    sink = _sink(d, 100.0)
    vectors = []
    for layer in range(layers):
        share = strength * layer / max(1, layers - 1)
        parts = [(polarity(data), share), (gradation(data), share), (foundations(data), share)]
        factors = [*(part for part in parts if share), (length_columns(data), 0.2)]
        x = mixed(rng, data, d, factors, decay=1.0).double().numpy() + sink / (1 + lengths(data)[:, None])
        x[:, 0] += 5 * rng.standard_normal(n)[first_records(data)]
        vectors.append(torch.from_numpy(x).float())
    return World(tuple(vectors), data)


def shuffled(seed: int, n: int, d: int, *, strength: float = 0.05, rho: float = 0.3, layers: int = 1) -> World:
    """Everything at full strength, and then the labels of texts permuted."""
    world = everything(seed, n, d, strength=strength, rho=rho, layers=layers + 1)
    rng, data = np.random.default_rng([seed, n, 1]), world.data
    size = np.unique(data.group, return_counts=True)[1][data.group]
    index, order = np.arange(n), np.argsort(data.group, kind="stable")
    for records in np.unique(size):  # a text's records move together, to a text of as many records
        members = order[size[order] == records].reshape(-1, records)
        index[members] = members[rng.permutation(len(members))]
    return World(world.vectors[1:], replace(data.relabelled(index), strata=None))


Make = Callable[[int, int, int], World]


def geometry(d: int) -> np.random.Generator:
    """Directions are the same in all worlds of d dimensions: seeds are samples of one population with one truth."""
    return np.random.default_rng([d, 7])


def _sink(d: int, size: float) -> np.ndarray:
    return np.random.default_rng([d, 8]).standard_normal(d) * size / np.sqrt(d)


def _typicality(rng: np.random.Generator, pole: np.ndarray) -> np.ndarray:
    cumulative = TYPICALITY.cumsum(axis=1)[np.minimum(pole, VICE)]
    level = (rng.random(len(pole))[:, None] > cumulative).sum(axis=1).clip(max=len(LEVELS) - 1)
    return np.where(pole == NEUTRAL, 0.0, LEVELS[level])


def texts(rng: np.random.Generator, length: np.ndarray) -> list[str]:
    """Invented texts of so many words; the first word is the text's own, so that no two are equal by chance."""
    frequency = 1 / np.arange(1, len(VOCABULARY) + 1)
    words = VOCABULARY[rng.choice(len(VOCABULARY), size=int(length.sum()), p=frequency / frequency.sum())]
    parts = np.split(words, np.cumsum(length)[:-1])
    return [" ".join([f"{part[0]}{i}", *part[1:]]) for i, part in enumerate(parts)]


def _unit(column: np.ndarray) -> np.ndarray:
    return (column - column.mean()) / max(float(column.std()), 1e-12)


def first_records(data: MoralData) -> np.ndarray:
    """The first record of each record's text."""
    first, inverse = np.unique(data.group, return_index=True, return_inverse=True)[1:]
    return first[inverse]


def lengths(data: MoralData) -> np.ndarray:
    """Tokens of each record."""
    assert data.length is not None
    return data.length


def _moments_of_vectors() -> tuple[np.ndarray, np.ndarray]:
    if not _MOMENTS:
        vector = scenarios(np.random.default_rng(0), 200_000, repeated=0.0).vector
        values, vectors = np.linalg.eigh(np.cov(vector.T))
        _MOMENTS.append((vector.mean(axis=0), (vectors * np.sqrt(values)) @ vectors.T))
    return _MOMENTS[0]


_MOMENTS: list[tuple[np.ndarray, np.ndarray]] = []
