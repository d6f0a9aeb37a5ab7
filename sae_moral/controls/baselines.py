"""Baselines: what stands in a model's place, so that a number can be told from what is there without training.

Each is one record of `BASELINES`: what it needs, and how its vectors come about.

- `nuisance`: a scenario's length, the share of a sink, how common its words are (`sae_moral.controls.nuisance`).
- `opening word`, `bag of words`: the words, without a model (`sae_moral.controls.words`).
- `input embeddings`: the mean of the model's own embeddings over the tokens a vector is the mean of: its words as it
  knows them, without context and position.
- `valence words`, `valence reader`: how pleasant a scenario is (`sae_moral.controls.valence`).
- `random weights`: the same architecture, drawn anew (`sae_moral.controls.random_weights`).
- `residual stream`: of a diagnosis of SAE latents, what they encode.
- `without valence`: the model's own vectors, from which readers have taken out the scores of the valence reader of
  their layer, each on its training folds. Not something to exceed: it is what is left of a number.

What they do not prove. That what exceeds them is understood or moral: a representation that knows synonyms generalises
over words where a bag cannot, and topic, register and syntax are in none of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sae_moral.controls.nuisance import nuisance_features
from sae_moral.controls.settings import Controls
from sae_moral.controls.valence import valence_scores, valence_words
from sae_moral.controls.words import bag_of_words, opening_words
from sae_moral.data import MoralData

if TYPE_CHECKING:
    from sae_moral.capture import Representations
    from sae_moral.provenance import HookedModel


@dataclass(frozen=True)
class Subject:
    """What a diagnosis measures, for baselines that read it otherwise.

    Attributes:
        model: the model.
        data: the scenarios.
        vectors: theirs, as they are measured.
        read_texts: vectors of other texts of the same model, as the diagnosis reads them.
        read: vectors of a model as the diagnosis reads them (the stream, or SAE latents).
        stream: the residual stream of the model where the diagnosis reads latents; else None.
        embeddings: the model's input embeddings, pooled as the diagnosis pools.
        seed: of the controls.
    """

    model: HookedModel
    data: MoralData
    vectors: Representations
    read_texts: Callable[[Sequence[str]], Representations]
    read: Callable[[Any], Representations]
    stream: Callable[[Any], Representations] | None
    embeddings: Callable[[], Float[Tensor, "n d"]]
    seed: int


Captured = Callable[[], "Representations | Float[Tensor, 'n d']"]
"""Vectors in the model's place: of layers, or of none."""


@dataclass(frozen=True)
class BaselineKind:
    """One baseline, and how its vectors come about: from the scenarios (`vectors`) or from the model (`capture`).

    Attributes:
        name: in results.
        control: the control that asks for it; None: it is there whenever what it needs is.
        shortfall: the verdict where a metric does not exceed it; None: it says nothing about morality.
        vectors: of the scenarios, one per record, as they are given to metrics.
        capture: from the subject; None where it has not what this needs. The protocol's preprocessing is applied.
        without: the name of a baseline before it: this is the model itself, and its readers may not use that baseline's
            vectors.
    """

    name: str
    control: str | None
    shortfall: str | None
    vectors: Callable[[MoralData], Float[Tensor, "n d"]] | None = None
    capture: Callable[[Subject], Captured | None] | None = None
    without: str | None = None


def captured(subject: Subject, controls: Controls) -> dict[str, Captured]:
    """How the baselines that need the model are captured, by name; those that were asked for."""
    found: dict[str, Captured] = {}
    for kind in BASELINES:
        if kind.capture is not None and (kind.control is None or kind.control in controls):
            how = kind.capture(subject)
            if how is not None:
                found[kind.name] = how
    return found


def _twin(subject: Subject) -> Captured:
    from sae_moral.controls.random_weights import random_weights

    return lambda: subject.read(random_weights(subject.model, seed=subject.seed))


def _stream(subject: Subject) -> Captured | None:
    return None if subject.stream is None else partial(subject.stream, subject.model)


def _embeddings(subject: Subject) -> Captured:
    return subject.embeddings


def _valence(subject: Subject) -> Captured:
    return lambda: valence_scores(subject.vectors, subject.read_texts, subject.data)


def _centred(vectors: Callable[[MoralData], Float[Tensor, "n v"]]) -> Callable[[MoralData], Float[Tensor, "n v"]]:
    def centred(data: MoralData) -> Float[Tensor, "n v"]:
        found = vectors(data)
        return found - found.mean(dim=0)

    return centred


def one_layer(vectors: Float[Tensor, "n d"], data: MoralData) -> Representations:
    """Vectors that belong to no layer, as if they were one's."""
    from sae_moral.capture import Representations

    assert data.length is not None
    return Representations((0,), np.arange(len(data)), data.length, data.length, {}, lambda _: vectors)


def barring(data: MoralData, columns: Float[Tensor, "n q"]) -> MoralData:
    """The scenarios with columns that readers may not use."""
    found = dataclasses.replace(data, nuisance=columns.double().cpu().numpy())
    found.__dict__["same_text"] = data.same_text  # slow to find, and the same
    return found


BASELINES: tuple[BaselineKind, ...] = (
    BaselineKind("nuisance", "nuisance", "nuisance", vectors=nuisance_features),
    BaselineKind("random weights", "random-weights", "untrained", capture=_twin),
    BaselineKind("residual stream", None, None, capture=_stream),
    BaselineKind("opening word", "words", "words", vectors=_centred(opening_words)),
    BaselineKind("bag of words", "words", "words", vectors=_centred(bag_of_words)),
    BaselineKind("input embeddings", "embeddings", "words", capture=_embeddings),
    BaselineKind("valence words", "valence", "valence", vectors=valence_words),
    BaselineKind("valence reader", "valence", "valence", capture=_valence),
    BaselineKind("without valence", "valence", None, without="valence reader"),
)
"""In the order of results."""
