"""How a headline grows with the number of scenarios, and what it tends to.

A reader fitted on n scenarios scores lower than one fitted on infinitely many, more so the wider the vectors: a value
and its interval are about the reader at this n. The metric is computed again on fewer scenarios, drawn as whole groups
of equal texts, and v(n) = a − b n^(−c) is fitted to the means of the draws by weighted least squares, c from 0.25 to 1:
a is the limit. For a given c that is linear in a and b.

The interval. Curves of different c pass through the same values and end far apart, so c is not taken from the data:
the interval reaches from the lowest limit of any c to the highest. Each is resampled over the draws, and the error of
the whole sample is added: its variance follows from the draws of up to half of the groups, of which m from n without
replacement vary by (1 − m / n) / m instead of 1 / n (Politis & Romano 1994). It is wide on purpose; its coverage in
planted worlds is in docs/design/controls.md.

What it does not prove: that the curve goes on as it began. A structure that only shows with more scenarios than there
are is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from sae_moral.controls.sample import Seen, headline_alone
from sae_moral.data import MoralData
from sae_moral.errors import unknown
from sae_moral.metrics import Metric, Statistic
from sae_moral.metrics.preprocess import preprocess
from sae_moral.protocol import Protocol, get_protocol
from sae_moral.results import LearningCurve, leading_groups

if TYPE_CHECKING:
    from sae_moral.capture import Representations

SHARES = (0.125, 0.2, 0.32, 0.5, 0.75)
"""Shares of the groups that a curve is measured on, below all of them."""
DRAWS = 8
EXPONENTS = np.linspace(0.25, 1.0, 16)
"""1 is the rate of a regression's R², ½ that of a mean direction; slower than ¼ no limit can be told."""
FEWEST = 4
"""Sizes with a value that a limit needs."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Limit:
    """A limit with its interval, and the exponent that fits best."""

    value: float
    low: float
    high: float
    exponent: float


def learning_curve(
    representations: Representations,
    data: MoralData,
    metric: Metric,
    layer: int,
    *,
    protocol: str | Protocol = "audited",
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> LearningCurve:
    """A metric's headline at one layer by the number of scenarios, and its limit.

    Args:
        representations: captured vectors.
        data: their scenarios, with lengths.
        metric: an instance.
        layer: one of the representations'.
        protocol: whose preprocessing is done anew for each draw, as with fewer scenarios it would be.
        shares: of the groups, each between 0 and 1; all of them come by themselves.
        draws: of each share.
        seed: of the draws.
        level: of the interval.

    Raises:
        ValueError: a layer that was not captured, a share outside 0 to 1, or fewer than two draws.
    """
    more = {"protocol": protocol, "shares": shares, "draws": draws, "seed": seed, "level": level}
    return learning_curves(representations, data, {metric.name: (metric, layer)}, **more)[metric.name]


def learning_curves(
    representations: Representations,
    data: MoralData,
    at: Mapping[str, tuple[Metric, int]],
    *,
    protocol: str | Protocol = "audited",
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
    device: torch.device | str = "cpu",
) -> dict[str, LearningCurve]:
    """`learning_curve` of several metrics, each at its own layer, on the same draws of scenarios.

    Args:
        representations: captured vectors.
        data: their scenarios, with lengths.
        at: by name, a metric and its layer.
        protocol: see `learning_curve`.
        shares: see `learning_curve`.
        draws: see `learning_curve`.
        seed: see `learning_curve`.
        level: see `learning_curve`.
        device: where metrics are computed.

    Raises:
        ValueError: see `learning_curve`.
    """
    if missing := [layer for _, layer in at.values() if layer not in representations.layers]:
        raise unknown("layer", str(missing[0]), [str(layer) for layer in representations.layers])
    if draws < 2 or not all(0 < share < 1 for share in shares):
        raise ValueError(f"{draws} draws of shares {tuple(shares)}; expected two draws or more of shares from 0 to 1")
    assert data.length is not None
    steps = get_protocol(protocol).preprocessing
    shares = sorted(set(shares))

    def measured(rows: Int[np.ndarray, "k"]) -> dict[str, list[Statistic]]:
        """The headline of each metric on these scenarios."""
        part = data.subset(rows)
        assert part.length is not None
        found = {}
        for name, (metric, layer) in at.items():
            raw = representations[layer][torch.from_numpy(rows)].to(device)
            seen = Seen(raw, preprocess(raw, part.length, steps)[0])
            found[name] = headline_alone(metric, seen.by(metric), part).statistics
        return found

    whole = measured(np.arange(len(data)))
    groups = {name: leading_groups([s.group for s in own if s.value is not None]) for name, own in whole.items()}
    values = {name: np.full((draws, len(shares) + 1), np.nan) for name in at}
    sizes = np.full((draws, len(shares) + 1), float(len(data)))
    for draw in range(draws):
        rank = _shuffled(data, np.random.default_rng([seed, draw]))
        for place, share in enumerate(shares):
            rows = np.flatnonzero(rank < share)
            sizes[draw, place] = len(rows)
            for name, own in _tried(measured, rows).items():
                values[name][draw, place] = _mean(own, groups[name][1])
    made = {}
    for name, (metric, layer) in at.items():
        values[name][:, -1] = _mean(whole[name], groups[name][1])
        limit = extrapolate(sizes.mean(axis=0), values[name], seed=seed, level=level)
        mean, error = values[name].mean(axis=0), values[name].std(axis=0, ddof=1)
        made[name] = LearningCurve(
            metric=name,
            statistic=metric.headline,
            group=groups[name][0],
            layer=layer,
            sizes=tuple(float(size) for size in sizes.mean(axis=0)),
            values=tuple(None if np.isnan(one) else float(one) for one in mean),
            spread=tuple(None if np.isnan(one) else float(one) for one in error),
            draws=draws,
            limit=limit and limit.value,
            ci_low=limit and limit.low,
            ci_high=limit and limit.high,
            exponent=limit and limit.exponent,
            level=level,
            seed=seed,
        )
    return made


def extrapolate(
    sizes: Float[np.ndarray, "k"], values: Float[np.ndarray, "draws k"], *, seed: int = 0, level: float = 0.95
) -> Limit | None:
    """The limit of values measured at growing sizes, the last of them the whole sample.

    Returns:
        None where fewer than `FEWEST` sizes have a value in every draw, or the whole sample has none.
    """
    known = np.isfinite(values).all(axis=0)
    if int(known.sum()) < FEWEST or not np.isfinite(values[:, -1]).all():
        return None
    n, sizes, values = float(sizes[-1]), sizes[known], values[:, known]
    variance, share = values.var(axis=0, ddof=1), sizes / n
    half = np.flatnonzero(share <= 0.5)
    sampling = float(np.mean((variance * share / (1 - np.minimum(share, 0.9)))[half])) if len(half) else 0.0
    # What stays the same in every draw, as the whole sample does, must not count as known without error.
    weight = 1 / np.maximum(variance, max(np.median(variance[:-1]) / 5, 1e-12))
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    error = np.sqrt(sampling) * rng.standard_t(max(1, len(half)) * (len(values) - 1), size=RESAMPLES)
    limits, misfit = _limits(sizes / n, np.vstack([values.mean(axis=0), drawn]), weight)
    best = int(misfit[:, 0].argmin())
    ends = (1 - level) / 2, (1 + level) / 2
    low = float(np.quantile(limits[:, 1:].min(axis=0) + error, ends[0]))
    high = float(np.quantile(limits[:, 1:].max(axis=0) + error, ends[1]))
    return Limit(float(limits[best, 0]), low, high, float(EXPONENTS[best]))


def _limits(
    share: Float[np.ndarray, "k"], values: Float[np.ndarray, "b k"], weight: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "c b"], Float[np.ndarray, "c b"]]:
    """For each exponent the limit a of a − b share^(−c), and the weighted sum of squared residuals."""
    limits, misfit = [], []
    for c in EXPONENTS:
        design = np.column_stack([np.ones(len(share)), -(share**-c)])
        weighted = design * weight[:, None]
        found = np.linalg.solve(design.T @ weighted, weighted.T @ values.T)
        limits.append(found[0])
        misfit.append(weight @ np.square(values.T - design @ found))
    return np.stack(limits), np.stack(misfit)


def _shuffled(data: MoralData, rng: np.random.Generator) -> Float[np.ndarray, "n"]:
    """A place from 0 to 1 for every scenario, the same within a group, so that those below a share are that share of
    the groups of every foundation × pole (of a group's first scenario)."""
    first, group = np.unique(data.group, return_index=True, return_inverse=True)[1:]
    cell = (data.foundation * 3 + data.pole)[first]
    place = np.empty(len(first))
    for value in np.unique(cell):
        own = np.flatnonzero(cell == value)
        place[own] = (rng.permutation(len(own)) + rng.uniform()) / len(own)
    return place[group]


def _tried(
    measured: Callable[[Int[np.ndarray, "k"]], dict[str, list[Statistic]]], rows: Int[np.ndarray, "k"]
) -> dict[str, list[Statistic]]:
    """Nothing where there are too few scenarios for the metrics."""
    try:
        return measured(rows)
    except ValueError:
        return {}


def _mean(statistics: Sequence[Statistic], groups: Sequence[str]) -> float:
    """The mean over the groups; NaN where one has no value."""
    known = {s.group: s.value for s in statistics}
    values = [known.get(group) for group in groups]
    return float(np.mean([np.nan if value is None else value for value in values])) if values else float("nan")
