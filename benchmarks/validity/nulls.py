"""Further planted worlds, each of a kind that a first version of this suite did not have: families of near-equal texts,
nonlinear length, a heavy-tailed direction, labels that can hardly move, and poles that no linear reader sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.validity.worlds import (
    SYLLABLES,
    VOCABULARY,
    World,
    first_records,
    gradation,
    lengths,
    mixed,
    polarity,
    scenarios,
    texts,
)
from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS, NEUTRAL, VICE, VIRTUE

FAMILY = 4
"""Texts of a family."""
ENDINGS = ("", "s", "ed", "ing", "er", "ful", "ly", "ness")
MIDDLE = 1.6
"""Tokens (as a factor, up or down) at which virtues lie from the mean length in worlds of `between`."""


def family_noise(seed: int, n: int, d: int, *, words: bool, share: float = 0.5, groups: str = "equal") -> World:
    """Families of texts that say nearly the same and have the same labels; vectors hold what family a text is of, and
    noise. Nothing of morality: but a reader that knows a family from its training part knows the labels of the rest.

    Args:
        words: texts are single words with a common stem; else sentences of which one word in six is another.
        share: of the variance, of the families' own directions.
        groups: what is held together, `equal` or `near` texts.
    """
    rng = np.random.default_rng([seed, n, 2])
    of = np.arange(n) // FAMILY
    base = scenarios(rng, int(of[-1]) + 1, repeated=0.0)
    text = _inflected(rng, of) if words else _paraphrased(rng, base, of)
    data = base.subset(of)
    length = rng.integers(2, 5, n) if words else lengths(data)
    data = MoralData(
        text=tuple(text),
        vector=data.vector,
        foundation=data.foundation,
        pole=data.pole,
        typicality=data.typicality,
        id=tuple(f"scenario {i}" for i in range(n)),
        length=length,
    )
    kin = rng.standard_normal((len(base), d)) * np.sqrt(share / d)
    x = kin[of] + rng.standard_normal((n, d)) * np.sqrt((1 - share) / d)
    vectors = torch.from_numpy(x[_same_text(data)]).float()
    return World((vectors,), data if groups == "equal" else data.regrouped(groups))


def between(rng: np.random.Generator, data: MoralData) -> MoralData:
    """The same labels with new texts: vices are of middling length, virtues shorter or longer than they."""
    side = np.where(rng.random(len(data)) < 0.5, MIDDLE, 1 / MIDDLE)
    typical = 8 * np.choose(data.pole, [side, np.ones(len(data)), side ** rng.random(len(data))])
    length = np.clip(np.round(typical * np.exp(0.25 * rng.standard_normal(len(data)))), 2, 40).astype(np.int64)
    return MoralData(
        text=tuple(texts(rng, length)),
        vector=data.vector,
        foundation=data.foundation,
        pole=data.pole,
        typicality=data.typicality,
        id=data.id,
        length=length,
    )


def nonlinear_length(seed: int, n: int, d: int, *, code: str, share: float = 0.6) -> World:
    """Labels go with length, though not monotonically, and vectors hold length and noise.

    Args:
        code: `steps`: one direction for being longer than each of 4, 5, 6, 8, 10, 12 and 16 tokens; `one-hot`: one for
            each number of tokens from 2 to 16, and one for more.
    """
    rng = np.random.default_rng([seed, n, 3])
    data = between(rng, scenarios(rng, n, repeated=0.0))
    length = lengths(data)[:, None]
    columns = length > np.array([4, 5, 6, 8, 10, 12, 16]) if code == "steps" else length.clip(2, 17) == np.arange(2, 18)
    return World((mixed(rng, data, d, [(columns.astype(float), share)]),), data)


def heavy_tails(seed: int, n: int, d: int, *, share: float = 0.05, tail: float = 0.9, df: float = 1.5) -> World:
    """Virtue against vice beside a direction of Student's t with few degrees of freedom that has most of the variance
    and lies across all coordinates.

    Args:
        share: of the variance, of polarity.
        tail: of the variance, of the heavy-tailed direction.
        df: its degrees of freedom.
    """
    rng = np.random.default_rng([seed, n, 4])
    data = scenarios(rng, n)
    heavy = rng.standard_t(df, size=(n, 1))[first_records(data)]
    factors = [(polarity(data), share), (heavy, tail)]
    return World((mixed(rng, data, d, [one for one in factors if one[1]]),), data)


def one_pole(seed: int, n: int, d: int, *, vice: float) -> World:
    """Noise, and a share of vices among labels that are otherwise virtues; of 1.0, a pole is missing."""
    rng = np.random.default_rng([seed, n, 5])
    data = scenarios(rng, n, repeated=0.0)
    pole = np.where(rng.random(n) < vice, VICE, VIRTUE)
    typicality = np.where(data.pole == NEUTRAL, 0.5, data.typicality)
    vector = np.zeros((n, len(DIMENSIONS)))
    vector[np.arange(n), 2 * data.foundation + pole] = typicality
    data = MoralData(data.text, vector, data.foundation, pole, typicality, data.id, length=data.length)
    return World((mixed(rng, data, d, []),), data)


def immovable(seed: int, n: int, d: int) -> World:
    """Noise, and groups of 1, 2, 3, … records (a column of the user's), which move together: no two groups have labels
    that could be exchanged."""
    rng = np.random.default_rng([seed, n, 9])
    data = scenarios(rng, n, repeated=0.0)
    of = np.repeat(np.arange(n), np.arange(1, n + 1))[:n]
    return World((mixed(rng, data, d, []),), data.regrouped(of))


def missing_virtues(seed: int, n: int, d: int, *, foundations: Sequence[int] = (0, 1)) -> World:
    """Noise, and some foundations of which all virtues are missing."""
    rng = np.random.default_rng([seed, n, 6])
    data = scenarios(rng, 2 * n, repeated=0.0)
    kept = np.flatnonzero(~(np.isin(data.foundation, foundations) & (data.pole == VIRTUE)))[:n]
    data = data.subset(kept)
    return World((mixed(rng, data, d, []),), data)


def exclusive_or(seed: int, n: int, d: int, *, share: float = 0.2) -> World:
    """Two signs in two directions of their own; virtue where they agree, vice where they differ. Neither tells anything
    of the pole by itself, and no line separates the poles."""
    rng = np.random.default_rng([seed, n, 7])
    data = scenarios(rng, n)
    first = rng.choice([-1.0, 1.0], size=n)[first_records(data)]
    second = first * np.where(data.pole == NEUTRAL, rng.choice([-1.0, 1.0], size=n), polarity(data)[:, 0])
    second = second[first_records(data)]
    return World((mixed(rng, data, d, [(np.stack([first, second], axis=1), share)]),), data)


def told_by_words(seed: int, n: int, d: int, *, share: float = 0.005) -> World:
    """A weak polarity in the vectors, and a word in every text that tells its pole: words alone read it perfectly."""
    rng = np.random.default_rng([seed, n, 8])
    data = scenarios(rng, n, repeated=0.0)
    telling = ("lovely", "wicked", "usual")
    text = tuple(f"{text} {telling[pole]}" for text, pole in zip(data.text, data.pole.tolist(), strict=True))
    data = MoralData(text, data.vector, data.foundation, data.pole, data.typicality, data.id, length=lengths(data) + 1)
    return World((mixed(rng, data, d, [(polarity(data), share), (gradation(data), share)]),), data)


def _paraphrased(rng: np.random.Generator, base: MoralData, of: np.ndarray) -> list[str]:
    """Each family's text, a sixth of its words (but not the first) replaced by others in every record."""
    found = []
    for text in (base.text[i].split() for i in of):
        while len(text) < 6:
            text.append(f"{text[0]}{len(text)}")
        at = 1 + rng.permutation(len(text) - 1)[: max(1, len(text) // 6)]
        for place in at:
            text[place] = str(rng.choice(VOCABULARY))
        found.append(" ".join(text))
    return found


def _inflected(rng: np.random.Generator, of: np.ndarray) -> list[str]:
    """A stem of six letters per family, and endings. No two stems have five letters in common."""
    heads = [f"{a}{b}{consonant}" for a in SYLLABLES for b in SYLLABLES for consonant in "bdfgklmnprstvz"]
    stems = [f"{heads[i]}o" for i in rng.permutation(len(heads))[: int(of[-1]) + 1]]
    endings = np.stack([rng.permutation(len(ENDINGS))[:FAMILY] for _ in stems])
    return [stems[family] + ENDINGS[endings[family, i % FAMILY]] for i, family in enumerate(of)]


def _same_text(data: MoralData) -> np.ndarray:
    """The first record of each record's text, whatever else is held together with it."""
    first, inverse = np.unique(list(data.text), return_index=True, return_inverse=True)[1:]
    return first[inverse]
