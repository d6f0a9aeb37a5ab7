"""Selectivity: what a reader scores on a task that has nothing to do with morality, for its labels are drawn at random.

A control task gives every word type a random label (Hewitt & Liang 2019): all texts that open with the same word get
the labels of one randomly drawn text of the same block. Held-out texts share opening words with training texts, so a
reader that is rich enough to know words can do the task; what a statistic has beyond it is its selectivity.

What it does not prove: that a selective reader reads morality. It says only that words known by heart would not do.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae_moral.controls.draws import SCHEMES
from sae_moral.data import MoralData
from sae_moral.data.moral_data import normalise
from sae_moral.errors import unknown


def control_tasks(data: MoralData, scheme: str, n: int, *, seed: int = 0) -> Int[Tensor, "b n"]:
    """n control tasks: record i gets the labels of record `index[v, i]`, the same for all records of a block of the
    scheme that open with the same word.

    Raises:
        ValueError: unknown scheme.
    """
    if scheme not in SCHEMES:
        raise unknown("permutation scheme", scheme, SCHEMES)
    block = SCHEMES[scheme](data)
    opening = {text: normalise(text).split()[0] for text in set(data.text)}
    word = np.unique([opening[text] for text in data.text], return_inverse=True)[1]
    kind = np.unique(np.stack([block, word]), axis=1, return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(seed)
    index = np.empty((n, len(data)), dtype=np.int64)
    for value in np.unique(block):
        members = np.flatnonzero(block == value)
        kinds, place = np.unique(kind[members], return_inverse=True)
        index[:, members] = rng.choice(members, size=(n, len(kinds)))[:, place.reshape(-1)]
    return torch.from_numpy(index)
