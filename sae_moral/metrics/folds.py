"""Cross-fitting: folds grouped by text, and rank statistics averaged within folds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Real
from sklearn.model_selection import StratifiedGroupKFold

from sae_moral.data import MoralData


@lru_cache(maxsize=16)
def folds(data: MoralData, k: int, seed: int) -> Int[np.ndarray, "n"]:
    """Fold of each scenario: equal texts share a fold, foundations × poles are spread evenly over the folds.

    Raises:
        ValueError: fewer distinct texts than folds.
    """
    groups = len(np.unique(data.group))
    if not 2 <= k <= groups:
        raise ValueError(
            f"{k} folds for {groups} distinct texts; expected 2 to {groups}: give more scenarios or fewer folds"
        )
    cell = data.foundation * 3 + data.pole
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


def within_folds(
    statistic: Callable[[Int[np.ndarray, "m"]], tuple[float, float] | None], fold: Int[np.ndarray, "n"]
) -> float | None:
    """Weighted mean over folds of a statistic of each fold's held-out items.

    Rank statistics are averaged over folds, not computed on the pooled scores: each fold has its own fitted direction,
    and the offsets between folds depend on the labels of the other folds, which biases a pooled rank statistic
    below chance when there is nothing to find (Parker et al. 2007; Forman & Scholz 2010).

    Args:
        statistic: from a fold's positions to (value, weight), or None where the fold has too few items.
        fold: of each item.
    """
    parts = [part for i in np.unique(fold) if (part := statistic(np.flatnonzero(fold == i))) is not None]
    weight = sum(part[1] for part in parts)
    return sum(value * share for value, share in parts) / weight if weight > 0 else None


def auroc(score: Float[np.ndarray, "m"], positive: np.ndarray) -> tuple[float, float] | None:
    """Probability that a positive item scores above a negative one (ties half), and the number of pairs."""
    from scipy.stats import rankdata

    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    pairs = n_positive * n_negative
    u = rankdata(score)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / pairs), float(pairs)


def spearman(a: Real[np.ndarray, "m"], b: Real[np.ndarray, "m"]) -> tuple[float, float] | None:
    """Spearman's rank correlation (ties averaged), and its degrees of freedom; None under three items or for a
    constant."""
    from scipy.stats import rankdata

    if len(a) < 3:
        return None
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return (float(x @ y / scale), float(len(a) - 1)) if scale > 0 else None


def partial_spearman(
    a: Float[np.ndarray, "m"], b: Float[np.ndarray, "m"], given: np.ndarray
) -> tuple[float, float] | None:
    """Spearman's correlation of a and b with the linear effect of the ranks of `given` taken out of both ranks."""
    ab, ag, bg = spearman(a, b), spearman(a, given), spearman(b, given)
    if ab is None or ag is None or bg is None:
        return ab
    rest = (1 - ag[0] ** 2) * (1 - bg[0] ** 2)
    return ((ab[0] - ag[0] * bg[0]) / float(np.sqrt(rest)), ab[1] - 1) if rest > 1e-12 and ab[1] > 1 else None
