"""What a surgery is compared with: the same labels on other texts, other latents, and none at all.

`shuffled`: poles, typicalities and vectors are permuted over texts of a foundation, of about the same length, within
the training and within the validation part; the third part keeps its own. `random`: each latent gives its place to one
that is no moral latent and fires on about as many training texts. `no-surgery`: nothing is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.controls.draws import permutations
from sae_moral.data import MoralData
from sae_moral.data.splits import Split
from sae_moral.sae.load import LoadedSae
from sae_moral.surgery.vectors import Vectors, pooled

CONTROLS = ("none", "shuffled", "random", "no-surgery")
NEAREST = 10
"""A random latent is drawn from so many with the nearest firing rates."""


def shuffled(data: MoralData, split: Split, length: Int[np.ndarray, "n"], seed: int) -> MoralData:
    """The data with labels permuted within foundation, part and length; a text's records move together.

    Raises:
        ValueError: hardly any label can move.
    """
    rows = np.concatenate([split["train"], split["validation"]])
    part = np.repeat([0, 1], [len(split["train"]), len(split["validation"])])
    learnt_from = dataclasses.replace(data, length=length).subset(rows)
    found = permutations(learnt_from, "labels", 1, seed=seed, fold=part)
    if found.fixed > 0.5:
        raise ValueError(f"{found.fixed:.0%} of the labels cannot move; expected more texts per foundation")
    index = np.arange(len(data))
    index[rows] = rows[found.index[0].numpy()]
    return data.relabelled(index)


@torch.no_grad()
def firing_rates(sae: LoadedSae, vectors: Vectors, prompts: Int[Tensor, "t"]) -> Float[np.ndarray, "s"]:
    """Share of the prompts on which each latent fires."""
    fired = torch.zeros(sae.d_sae, dtype=torch.float64)
    for some in prompts.split(256):
        index, count = vectors.of(some)
        on = sae.encode(vectors.x[index]) > 0
        fired += (pooled(on.float(), count) > 0).sum(dim=0).cpu()
    return (fired / len(prompts)).numpy()


def random_latents(
    by_dimension: Mapping[str, list[int]], rates: Float[np.ndarray, "s"], moral: Collection[int], seed: int
) -> dict[str, list[int]]:
    """Each latent's place taken by another that fires about as often; one per latent, none twice.

    Args:
        moral: latents that are not to be drawn.

    Raises:
        ValueError: fewer other latents that fire than are needed.
    """
    rng, replaced = np.random.default_rng(seed), dict[int, int]()
    free = np.setdiff1d(np.flatnonzero(rates > 0), list(moral))
    wanted = sorted({latent for members in by_dimension.values() for latent in members})
    if len(free) < len(wanted):
        raise ValueError(f"{len(free)} latents fire and are not moral; expected at least {len(wanted)}")
    for latent in rng.permutation(wanted).tolist():
        nearest = free[np.argsort(np.abs(rates[free] - rates[latent]), kind="stable")[:NEAREST]]
        replaced[latent] = int(rng.choice(nearest))
        free = free[free != replaced[latent]]
    return {name: sorted(replaced[latent] for latent in members) for name, members in by_dimension.items()}
