"""From draws to intervals and p-values.

Interval. A held-out statistic varies with the texts it is read from and with the texts its readers were fitted on, and
the plain bootstrap over held-out texts shows the first alone: too narrow (Nadeau & Bengio 2003; Bates, Hastie &
Tibshirani 2024). A metric says in `readers` which of its statistics have readers, and what its weighed versions do:
- `given` (they stay): texts are weighed a little and deviations scaled up (`draws.perturbed`), because a fold may hold
  six items of a dimension, and resampling six makes their ranks vary more than six new ones would. A second bootstrap
  fits readers to resampled texts and reads every text once; its spread about its mean is added, as if independent.
  Where labels mean nothing, Σ_i y_i Σ_j K_ij y_j has half its variance from either side; where readers are good they
  hardly vary. A value that permuted labels would give, too, varies at least as they do: within two of their standard
  deviations the interval has at least their width, beyond four it owes them nothing.
- `averaged`: the same for a mean over folds of what is not linear in a fold's few items (rank correlations). Weights
  keep each fold's share (`draws.in_folds`): folds have the same sizes in other samples, too. Letting shares vary made
  intervals 1.3 to 1.4 times too wide in planted worlds with a strong gradient. Which kind a statistic is was chosen by
  its coverage there: AUROC stays `given`, because near 1 its percentiles cover 89 % without what this takes off.
- `linear` (refitted to first order, in the same draws: R² gains and loses by scale, so its two sides go together): such
  draws have 2·v0 where there is nothing to find, v0 being the variance over permuted labels, because each text counts
  once as a reader's and once as a read one; v0 is taken off, down to half of what there is. Beyond four standard
  deviations of permuted labels nothing is: with it the intervals of planted worlds covered 88 %, without it 95 % (the
  first-order fit presumably misses there, in penalties chosen anew, what it has twice).
Statistics without readers, and those a loop refits on every resample, are left as they are.

p-value. (1 + number of null draws at least as extreme) / (1 + number of null draws) (Phipson & Smyth 2010). The draws
of one permutation are those of all layers, and the most extreme layer of each draw is what a value is compared with
(max-statistic; Westfall & Young 1993): a best layer among thirty is then no better than it should be by chance.

What it does not prove. Exchangeability within blocks is assumed, not tested; and an interval is about other texts of
the same source, not about other sources, prompts or annotators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_moral.controls.draws import STEP

ENOUGH = 0.9
"""Share of the draws that must have a value."""
Draws = Float[np.ndarray, "_"]


def interval(sampled: Draws, level: float) -> tuple[float, float] | None:
    """Percentile interval; None when too few draws have a value."""
    known = sampled[np.isfinite(sampled)]
    if len(known) < ENOUGH * len(sampled) or not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def widened(perturbed: Draws, refitted: Draws, value: float, null: Draws | None, seed: int) -> Draws:
    """Draws with given readers, plus what resampled readers vary by; where permuted labels give such values, too, at
    least as wide as those.

    Args:
        perturbed: held-out texts weighed by `draws.perturbed`, readers given.
        refitted: readers resampled, every text read once.
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
    """Bootstrap draws with readers refitted to first order, without the variance that they have twice."""
    if not (np.isfinite(sampled).any() and np.isfinite(null).any()):
        return sampled
    total = float(np.nanvar(sampled))
    if total == 0:
        return sampled
    twice = _nearness(value, null) * float(np.nanvar(null)) / total
    return value + (sampled - value) * np.sqrt(max(0.5, 1 - twice))


def _nearness(value: float, null: Draws) -> float:
    """1 for a value within two standard deviations of what permuted labels give, 0 beyond four, linear between."""
    spread = float(np.nanstd(null))
    return float(np.clip(2 - abs(value - np.nanmean(null)) / (2 * spread), 0, 1)) if spread > 0 else 0.0


def p_values(values: Sequence[float | None], null: Sequence[Draws | None], alternative: str) -> list[float | None]:
    """One p-value per layer, corrected for taking the most extreme of them; None where a layer has no value or none of
    the layers has enough draws.

    Args:
        values: per layer.
        null: per layer, the same permutations in the same order.
        alternative: `greater`, `less` or `two-sided`.
    """
    usable = [
        (value, draws)
        for value, draws in zip(values, null, strict=True)
        if value is not None and draws is not None and np.isfinite(draws).mean() >= ENOUGH
    ]
    # Labels that cannot move make no null: every draw is the value itself.
    if all(np.allclose(draws[np.isfinite(draws)], value, rtol=0, atol=1e-12) for value, draws in usable):
        usable = []
    if not usable:
        return [None] * len(values)
    if alternative == "two-sided":
        tails = [p_values(values, null, side) for side in ("greater", "less")]
        return [None if a is None or b is None else min(1.0, 2 * min(a, b)) for a, b in zip(*tails, strict=True)]
    sign = {"greater": 1.0, "less": -1.0}[alternative]
    stacked = sign * np.stack([draws for _, draws in usable])
    extreme = np.where(np.isfinite(stacked), stacked, -np.inf).max(axis=0)
    extreme = extreme[np.isfinite(extreme)]
    # Values and draws come by different routes: what is equal but for rounding counts as a tie.
    slack = 1e-9 * (1 + np.abs(extreme))
    return [
        None
        if value is None or draws is None or np.isfinite(draws).mean() < ENOUGH
        else float((1 + (extreme >= sign * value - slack).sum()) / (1 + len(extreme)))
        for value, draws in zip(values, null, strict=True)
    ]


def alternative_of(metric: Any, statistic: str) -> str:
    """Which way a statistic lies from its null where the model is not indifferent: what the metric's `alternatives`
    say, else the way of its headline (`higher_is`), else `two-sided`."""
    stated = getattr(metric, "alternatives", {}).get(statistic)
    if stated is not None:
        return stated
    higher = str(getattr(metric, "higher_is", "") or "").casefold()
    return "greater" if "less indifferent" in higher else "less" if "more indifferent" in higher else "two-sided"
