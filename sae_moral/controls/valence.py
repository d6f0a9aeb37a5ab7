"""Valence: how pleasant a scenario is. Good and bad feelings are not yet good and evil, and labels go with both.

`valence_words`: by its words, from the VADER lexicon (Hutto & Gilbert 2014): the sums of its positive and of its
negative words' valence, and VADER's compound score, which knows negation and emphasis.

`valence_scores`: by a reader of the model's own vectors, trained on sentences about weather, food, illness, journeys,
machines, luck and animals (`valence_sentences.jsonl`, in which nobody does right or wrong) and applied to the
scenarios. Per layer, a ridge regression of pleasant (1) against unpleasant (−1) on each set of sentences, and on all of
them; the columns are the scenarios' scores on each. The penalty is that with the smallest leave-one-out error.

Sentences and scenarios are brought to the same coordinates: each dimension divided by its standard deviation over both
together, and left out where it does not vary over the scenarios. A reader is one function of the residual stream;
dividing each by its own would apply another function than was trained. Means do not matter, as the fit has an intercept
and nothing that reads the scores depends on their zero.

What it does not prove. What is left when these scores are taken out is not shown to be morality: valence that this
reader does not see is still in it. What goes with them is not shown to be valence alone: the sentences may differ in
more (health, plenty), and pleasant is part of what good means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_moral.controls.nuisance import standardised
from sae_moral.data import MoralData
from sae_moral.data.text import words as split_words
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.metrics.ridge import leave_one_out
from sae_moral.results import ValenceFacts

if TYPE_CHECKING:
    from sae_moral.capture import Representations

FILE = "valence_sentences.jsonl"
_ROWS = 256
"""Scenarios taken to double precision at once; latents are wide."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """Pleasant and unpleasant sentences that are not moral.

    Attributes:
        text: the sentences.
        pleasant: which are pleasant.
        topic: the set each belongs to.
        sha256: of the file they are from.
    """

    text: tuple[str, ...]
    pleasant: Bool[np.ndarray, "m"]
    topic: tuple[str, ...]
    sha256: str

    @property
    def sets(self) -> dict[str, Bool[np.ndarray, "m"]]:
        """Topic → its sentences."""
        return {name: np.array([topic == name for topic in self.topic]) for name in dict.fromkeys(self.topic)}


@lru_cache(maxsize=1)
def sentences() -> Sentences:
    """Those that come with the package (docs/design/controls.md says how they were made)."""
    content = files("sae_moral.controls").joinpath(FILE).read_bytes()
    rows = [json.loads(line) for line in content.decode("utf8").splitlines()]
    return Sentences(
        text=tuple(row["text"] for row in rows),
        pleasant=np.array([row["valence"] == "pleasant" for row in rows]),
        topic=tuple(row["set"] for row in rows),
        sha256=hashlib.sha256(content).hexdigest(),
    )


# Words


def valence_words(data: MoralData) -> Float[Tensor, "n 3"]:
    """Positive, negative and compound valence of the scenarios' words (see above), each with mean 0 and variance 1."""
    analyser = _vader()
    by_text = {text: _of_words(analyser, split_words(text)) for text in set(data.text)}
    return standardised(torch.tensor([by_text[text] for text in data.text], dtype=torch.float64))


def _of_words(analyser: Any, words: Sequence[str]) -> tuple[float, float, float]:
    plain = [word.strip(".,;:!?\"'()") for word in words]
    found = [float(analyser.lexicon[word]) for word in plain if word in analyser.lexicon]
    compound = float(analyser.polarity_scores(" ".join(words))["compound"])
    return sum(v for v in found if v > 0), sum(v for v in found if v < 0), compound


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


# Readers


def valence_scores(
    scenarios: Representations, read: Callable[[Sequence[str]], Representations], data: MoralData
) -> Representations:
    """The scenarios' scores on the readers of every layer: one column per set of sentences, and one of all sets.

    `provenance["valence"]` (`ValenceFacts`) says how well they tell virtue from vice, and the sentences themselves.

    Args:
        scenarios: vectors of the scenarios.
        read: vectors of other texts, read as the scenarios were.
        data: the scenarios' labels, for these facts only.
    """
    from sae_moral.capture import Representations

    known = sentences()
    others = read(known.text)
    moral = (data.pole == VIRTUE) | (data.pole == VICE)
    scores: dict[int, Tensor] = {}
    aurocs: list[list[float | None]] = []
    themselves: list[float] = []
    for layer in scenarios.layers:
        scores[layer], own = _read_layer(scenarios[layer], others[layer], known)
        aurocs.append([_auroc(data.pole[moral] == VIRTUE, column[moral]) for column in scores[layer].numpy().T])
        themselves.append(round(own, 4))
    facts = ValenceFacts(
        sets=list(known.sets),
        n_sentences=len(known.text),
        sha256=known.sha256,
        auroc=[row[-1] for row in aurocs],
        auroc_by_set=[row[:-1] for row in aurocs],
        auroc_of_sentences=themselves,
    )
    rows = np.arange(len(scenarios))
    return Representations(
        scenarios.layers, rows, scenarios.length, scenarios.total, {"valence": facts}, scores.__getitem__
    )


def _read_layer(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], known: Sentences
) -> tuple[Float[Tensor, "n k"], float]:
    """Scores of the scenarios at one layer, and how well the sentences of a topic are read by readers of the others."""
    factor = _common_scale(x, other)
    z = (other.double() * factor).cpu().numpy()
    sets = list(known.sets.values())
    y = np.where(known.pleasant, 1.0, -1.0)
    readers = [leave_one_out(z[own], y[own]) for own in [*sets, np.ones(len(z), dtype=bool)]]
    weights = torch.from_numpy(np.stack([coefficients for coefficients, _, _ in readers], axis=1)).to(factor)
    scores = torch.cat([part.double() @ (factor[:, None] * weights) for part in x.split(_ROWS)]).cpu()
    held_out = []
    for own in sets:
        coefficients, _, _ = leave_one_out(z[~own], y[~own])
        held_out.append(_auroc(known.pleasant[own], z[own] @ coefficients))
    return scores, float(np.mean([value for value in held_out if value is not None]))


def _common_scale(x: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> Float[Tensor, "d"]:
    """One over each dimension's standard deviation over both; 0 where it does not vary over x."""
    n, m = len(x), len(other)
    sums = torch.stack([part.double().sum(dim=0) for part in x.split(_ROWS)]).sum(dim=0)
    theirs = other.double()
    mean = (sums + theirs.sum(dim=0)) / (n + m)
    squares = sum(((part.double() - mean).square().sum(dim=0) for part in x.split(_ROWS)), torch.zeros_like(mean))
    within = squares / n - (sums / n - mean).square()
    varies = within.clamp(min=0).sqrt() > 1e-7 * x.abs().amax(dim=0).double()
    scale = ((squares + (theirs - mean).square().sum(dim=0)) / (n + m)).sqrt()
    return torch.where(varies, 1 / torch.where(varies, scale, 1.0), 0.0)


def _auroc(positive: Bool[np.ndarray, "m"], score: Float[np.ndarray, "m"]) -> float | None:
    """None where there is only one kind."""
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return None
    return round(float(roc_auc_score(positive, score)), 4)
