"""From draws to intervals and p-values.

Interval. A held-out statistic varies with the texts it is scored on and with the texts it was fitted on, and the plain
bootstrap over held-out texts shows the first alone: too narrow (Nadeau & Bengio 2003; Bates, Hastie & Tibshirani 2024).
A metric declares per statistic what its weighed versions do (`INTERVALS`). How the kinds were chosen, and what they
cover in planted worlds: docs/design/controls.md.

p-value. (1 + number of null draws at least as extreme) / (1 + number of null draws) (Phipson & Smyth 2010). The draws
of one permutation are those of all layers, and the most extreme layer of each draw is what a value is compared with
(max-statistic; Westfall & Young 1993): a best layer among thirty is then no better than it should be by chance.

What it does not prove. Exchangeability within blocks is assumed, not tested; and an interval is about other texts of
the same source, not about other sources, prompts or annotators.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from sae_moral.controls.draws import STEP
from sae_moral.results import Direction

FIXED = ("fixed", "fixed_by_fold")
"""Kinds of interval whose weighed versions leave what was fitted as it is."""
INTERVALS = {
    "resampled": "texts are drawn with replacement; percentiles. For what is not fitted to other texts, and for a loop "
    "that fits everything anew.",
    "fixed": "fits stay, texts are weighed a little and deviations scaled up (`draws.perturbed`); a second bootstrap "
    "fits to resampled texts, and its spread is added. A value that permuted labels would give, too, varies at least "
    "as they do (`widened`).",
    "fixed_by_fold": "the same for a mean over folds of rank correlations: weights keep each fold's share "
    "(`draws.in_folds`).",
    "linearised": "texts are drawn with replacement, fits follow to first order; the variance that this counts twice "
    "is taken off (`narrowed`).",
}
"""Kinds of interval a statistic may declare."""
ENOUGH = 0.9
"""Share of the draws that must have a value."""
ROUNDING = 2e-6
"""Difference, relative where values are above 1, up to which a value and draws of it are equal: draws are in single
precision."""
POWER = 0.8
"""Of `detectable`."""
Draws = Float[np.ndarray, "_"]


def interval(sampled: Draws, level: float) -> tuple[float, float] | None:
    """Percentile interval; None when too few draws have a value."""
    known = sampled[np.isfinite(sampled)]
    if len(known) < ENOUGH * len(sampled) or not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def widened(perturbed: Draws, refitted: Draws, value: float, null: Draws | None, seed: int) -> Draws:
    """Draws with fits as they are, plus what fits to resampled texts vary by; where permuted labels give such values,
    too, at least as wide as those.

    Args:
        perturbed: held-out texts weighed by `draws.perturbed`, fits as they are.
        refitted: fits to resampled texts, every text scored once.
        value: of the sample as it is.
        null: of permuted labels.
        seed: of the draw that pairs the two parts.
    """
    found = value + (perturbed - np.nanmean(perturbed)) / STEP if np.isfinite(perturbed).any() else perturbed
    known = refitted[np.isfinite(refitted)]
    if len(known):
        found = found + np.random.default_rng(seed).choice(known - known.mean(), size=len(found))
    variance = np.nanvar(found) if np.isfinite(found).any() else 0.0
    if null is None or not np.isfinite(null).any() or variance == 0:
        return found
    least = float(np.nanvar(null))
    return value + (found - value) * np.sqrt(1 + _nearness(value, null) * max(0.0, least / variance - 1))


def narrowed(sampled: Draws, value: float, null: Draws) -> Draws:
    """Bootstrap draws with fits that follow to first order, without the variance that they have twice."""
    if not (np.isfinite(sampled).any() and np.isfinite(null).any()):
        return sampled
    total = float(np.nanvar(sampled))
    if total == 0:
        return sampled
    twice = _nearness(value, null) * float(np.nanvar(null)) / total
    return value + (sampled - value) * np.sqrt(max(0.5, 1 - twice))


def faultless(value: float, best: float | None, drawn: Draws, null: Draws | None, seed: int) -> Draws:
    """Draws that stay on this side of the best value; where the sample reaches it, those of the rule of three.

    A sample without an error has resamples without one, and an interval without a width. That k pairs of texts are all
    in order leaves room for a share of 1 − 0.05^(1/k) that are not (about 3/k, 95 %, one-sided: Hanley & Lippman-Hand
    1983; exact by Clopper & Pearson 1934). Half of the draws are the value itself and half are those of the exact
    bound, so that the percentiles of a two-sided interval end there. k is the number of independent pairs of one
    virtue and one vice for which permuted labels would vary as they do: the AUROC of k against k texts has variance
    1/(6k), and so has a mean over foundations with their sum.

    Args:
        best: `StatisticSpec.best`; None leaves draws as they are.
        null: of permuted labels; None or constant leaves draws as they are.
    """
    if best is None:
        return drawn
    drawn = np.minimum(drawn, best)
    spread = 0.0 if null is None or not np.isfinite(null).any() else float(np.nanvar(null))
    if value < best - ROUNDING or spread == 0:
        return drawn
    uniform = np.random.default_rng(seed).permutation((np.arange(len(drawn)) + 0.5) / len(drawn))
    return best - 1 + np.minimum(1.0, 2 * uniform) ** (6 * spread)


def _nearness(value: float, null: Draws) -> float:
    """1 for a value within two standard deviations of what permuted labels give, 0 beyond four, linear between."""
    spread = float(np.nanstd(null))
    return float(np.clip(2 - abs(value - np.nanmean(null)) / (2 * spread), 0, 1)) if spread > 0 else 0.0


def most_extreme(curve: Float[np.ndarray, "layers b"]) -> Draws:
    """The highest of the layers in every draw; NaN where none has a value."""
    best = np.where(np.isfinite(curve), curve, -np.inf).max(axis=0)
    return np.where(np.isfinite(best), best, np.nan)


def smallest_p(null: Float[np.ndarray, "layers b"], direction: Direction | None) -> float | None:
    """The p-value of the most extreme of the null draws themselves, which no value that permuted labels can give goes
    below: few labels that can move give the same few values again and again. None without draws."""
    tails = {"higher": (1.0,), "lower": (-1.0,), None: (1.0, -1.0)}[direction]
    found = []
    for sign in tails:
        extreme = most_extreme(sign * null)
        extreme = extreme[np.isfinite(extreme)]
        if not len(extreme):
            return None
        ties = int((extreme >= extreme.max() - ROUNDING * (1 + abs(extreme.max()))).sum())
        found.append(max(1, ties) / (1 + len(extreme)))
    return float(min(1.0, len(tails) * min(found)))


def detectable(critical: float, spread: float) -> float:
    """The true size that exceeds a critical value four times in five, estimates being normal about it: critical value +
    z(0.8) · spread. For a one-sided test of one normal estimate that is (z(1 − alpha) + z(0.8)) · spread."""
    return critical + float(norm.ppf(POWER)) * spread


def holm(p: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number by Holm's step-down procedure (1979), which holds under any dependence: of m,
    the i-th smallest times m − i + 1, no less than those before it, at most 1. None is no test and stays."""
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    found: list[float | None] = [None] * len(p)
    least = 0.0
    for rank, (value, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * value))
        found[i] = least
    return found


def p_values(
    values: Sequence[float | None], null: Sequence[Draws | None], direction: Direction | None
) -> list[float | None]:
    """One p-value per layer, corrected for taking the most extreme of them; None where a layer has no value or none of
    the layers has enough draws.

    Args:
        values: per layer.
        null: per layer, the same permutations in the same order.
        direction: the side that is less indifferent; None tests both.
    """
    usable = [
        (value, draws)
        for value, draws in zip(values, null, strict=True)
        if value is not None and draws is not None and np.isfinite(draws).mean() >= ENOUGH
    ]
    # Labels that cannot move make no null: every draw is the value itself.
    if all(np.allclose(draws[np.isfinite(draws)], value, rtol=0, atol=ROUNDING) for value, draws in usable):
        usable = []
    if not usable:
        return [None] * len(values)
    if direction is None:
        tails = p_values(values, null, "higher"), p_values(values, null, "lower")
        return [None if a is None or b is None else min(1.0, 2 * min(a, b)) for a, b in zip(*tails, strict=True)]
    sign = -1.0 if direction == "lower" else 1.0
    stacked = sign * np.stack([draws for _, draws in usable])
    extreme = np.where(np.isfinite(stacked), stacked, -np.inf).max(axis=0)
    extreme = extreme[np.isfinite(extreme)]
    # What is equal but for rounding counts as a tie.
    slack = ROUNDING * (1 + np.abs(extreme))
    return [
        None
        if value is None or draws is None or np.isfinite(draws).mean() < ENOUGH
        else float((1 + (extreme >= sign * value - slack).sum()) / (1 + len(extreme)))
        for value, draws in zip(values, null, strict=True)
    ]
