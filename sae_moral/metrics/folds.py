"""Cross-fitting: folds grouped by text."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
from jaxtyping import Int
from sklearn.model_selection import StratifiedGroupKFold

from sae_moral.data import MoralData


@lru_cache(maxsize=16)
def folds(data: MoralData, k: int, seed: int) -> Int[np.ndarray, "n"]:
    """Fold of each scenario: equal texts share a fold, foundations × poles are spread evenly over the folds.

    Permuted labels (`MoralData.relabelled`) leave the folds as they are.

    Raises:
        ValueError: fewer distinct texts than folds.
    """
    groups = len(np.unique(data.group))
    if not 2 <= k <= groups:
        raise ValueError(
            f"{k} folds for {groups} distinct texts; expected 2 to {groups}: give more scenarios or fewer folds"
        )
    cell = data.strata if data.strata is not None else data.foundation * 3 + data.pole
    if np.unique(cell, return_counts=True)[1].max() < k:
        cell = np.zeros_like(cell)  # the splitter refuses cells that are all smaller than k: only texts are spread then
    fold = np.zeros(len(data), dtype=np.int64)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A cell with fewer items than folds (Social Norms vignettes, a small table) is spread as far as it goes.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for i, (_, test) in enumerate(splitter.split(cell, cell, data.group)):
            fold[test] = i
    fold.setflags(write=False)
    return fold
