"""From measured worlds to rates: false positives, coverage, detection, bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from benchmarks.validity.plan import METRICS

Entries = Sequence[dict[str, Any]]
LEAST = 20
"""Worlds that a coverage rests on, at least."""
BEYOND = ("nuisance", "untrained", "words", "beyond chance", "found")
"""Verdicts on what is beyond chance."""


@dataclass(frozen=True)
class Rate:
    """k of n, with its 95 % Wilson interval."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """k / n."""
        return self.k / self.n

    @property
    def ends(self) -> tuple[float, float]:
        """Wilson's interval."""
        z = NormalDist().inv_cdf(0.975)
        middle = (self.value + z * z / (2 * self.n)) / (1 + z * z / self.n)
        half = z / (1 + z * z / self.n) * np.sqrt(self.value * (1 - self.value) / self.n + z * z / (4 * self.n**2))
        return max(0.0, float(middle - half)), min(1.0, float(middle + half))

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.k + other.k, self.n + other.n)


def peaks(entries: Entries, metric: str, name: str) -> np.ndarray:
    """A number of the headline's peak in each world, NaN for none."""
    found = [(entry["peaks"].get(metric) or {}).get(name) for entry in entries]
    return np.array([np.nan if value is None else value for value in found], dtype=float)


def rows(entries: Entries, row: str) -> np.ndarray:
    """value, ci_low, ci_high, p of a row `metric/statistic/group` in each world, NaN for none."""
    found = [entry["rows"].get(row) or [None] * 4 for entry in entries]
    return np.array([[np.nan if value is None else value for value in one] for one in found], dtype=float)


def rejected(p: np.ndarray, alpha: float = 0.05) -> Rate | None:
    """How often p ≤ alpha (with 99 permutations of labels that mean nothing: exactly 5 %)."""
    p = p[np.isfinite(p)]
    return Rate(int((p <= alpha + 1e-9).sum()), len(p)) if len(p) else None


@dataclass(frozen=True)
class Coverage:
    """How often the intervals hold the mean of all worlds, how wide they are, and how far the values spread.

    Attributes:
        rate: of intervals that hold it.
        truth, spread: mean and standard deviation of the values.
        width: mean half width over 1.96 standard deviations of the values; 1 where normal intervals are right.
        below, above: share of the intervals that lie entirely below (above) the mean of all worlds.
    """

    rate: Rate
    truth: float
    spread: float
    width: float
    below: float
    above: float


def coverage(values: np.ndarray) -> Coverage | None:
    """From [worlds, (value, low, high, …)]; None with too few worlds or values that do not vary."""
    values = values[np.isfinite(values[:, :3]).all(axis=1)]
    if len(values) < LEAST or values[:, 0].std() < 1e-9:
        return None
    value, low, high = values[:, :3].T
    truth, spread = float(value.mean()), float(value.std(ddof=1))
    below, above = high < truth, low > truth
    rate = Rate(int((~below & ~above).sum()), len(values))
    width = float((high - low).mean() / (2 * 1.96) / spread)
    return Coverage(rate, truth, spread, width, float(below.mean()), float(above.mean()))


def headline_coverage(entries: Entries, metric: str) -> Coverage | None:
    """Of a metric's headline, by its peak."""
    return coverage(np.stack([peaks(entries, metric, name) for name in ("value", "ci_low", "ci_high")], axis=1))


def mostly_faultless(entries: Entries, metric: str) -> bool:
    """Whether most values of its headline are 1: intervals of those are exact bounds, which hold more than they say."""
    return bool((peaks(entries, metric, "value") >= 1).mean() > 0.5) if entries else False


def verdicts(entries: Entries, metric: str) -> Counter[str]:
    """How often each verdict was given."""
    return Counter(entry["verdicts"][metric]["verdict"] for entry in entries if metric in entry["verdicts"])


def family(entries: Entries) -> Rate | None:
    """In how many worlds at least one metric is beyond chance, by its verdict; None without worlds."""
    said = [any(one["verdict"] in BEYOND for one in entry["verdicts"].values()) for entry in entries]
    return Rate(sum(said), len(said)) if said else None


def family_between(entries: Entries, alpha: float = 0.05) -> float | None:
    """The rate of `family` among nulls, were there permutations without end: the smallest p of m metrics must be at
    most alpha / m, which lies between two of the p-values that few permutations can give, so each p is taken to be
    anywhere between the one it has and the next smaller one."""
    rates = []
    for entry in entries:
        found = [one for one in entry["peaks"].values() if one is not None and one["p_value"] is not None]
        steps = np.array([[one["p_value"], one["smallest_p"]] for one in found], dtype=float).reshape(-1, 2)
        if len(steps):
            below = (alpha / len(steps) - steps[:, 0]) / steps[:, 1] + 1
            rates.append(1 - np.prod(1 - below.clip(0, 1)))
    return float(np.mean(rates)) if rates else None


def total(rates: Iterable[Rate | None]) -> Rate | None:
    """All together; None where there is none."""
    known = [rate for rate in rates if rate is not None]
    return sum(known[1:], known[0]) if known else None


def holds(rates: Sequence[Rate], low: float, high: float) -> str:
    """Whether rates lie in a range, or at least their Wilson intervals reach into it."""
    if all(low <= rate.value <= high for rate in rates):
        return "yes"
    return "within chance" if all(rate.ends[1] >= low and rate.ends[0] <= high for rate in rates) else "no"


def percent(rate: Rate | None) -> str:
    """With its interval and number of worlds."""
    if rate is None:
        return "–"
    low, high = rate.ends
    return f"{100 * rate.value:.1f} % ({100 * low:.1f}–{100 * high:.1f}; {rate.n})"


def named(entries: Entries) -> list[str]:
    """All rows that any world has, metrics in their order."""
    seen = dict.fromkeys(row for entry in entries for row in entry["rows"])
    return sorted(seen, key=lambda row: METRICS.index(row.split("/")[0]))
