"""What estimators aim at, where it has a closed form: the value with readers fitted on infinitely many scenarios.

All from the planted covariances, after the preprocessing of the protocol: `audited` divides each coordinate by its
standard deviation, `paper` does not. The two rank correlations need one more integral, over what is not planted:
200,000 draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from benchmarks.validity import worlds
from benchmarks.validity.worlds import CELLS, LEVELS, TYPICALITY
from sae_moral.foundations import NEUTRAL, VICE, VIRTUE
from sae_moral.metrics.discriminant import PENALTIES
from sae_moral.metrics.structural import PENALTY

PROBABILITY = CELLS / CELLS.sum()
SIGN = np.array([1.0, -1.0, 0.0])


@dataclass(frozen=True)
class Planted:
    """Factors in d dimensions: mean of every cell (foundation, polarity), standard deviation of the isotropic noise
    and of every coordinate."""

    means: np.ndarray
    noise: float
    scale: np.ndarray

    @classmethod
    def of(cls, d: int, columns: list[tuple[np.ndarray, float]], protocol: str) -> Planted:
        """From factors, each with one row per cell and a share of the variance."""
        # The same draws as `worlds.mixed` makes: its noise basis comes first.
        fixed = worlds.geometry(d)
        fixed.standard_normal((d, d))
        weight = PROBABILITY.ravel()
        means = np.zeros((weight.size, d))
        for rows, share in columns:
            directions = np.linalg.qr(fixed.standard_normal((d, rows.shape[1])))[0].T
            centred = rows - weight @ rows
            means += centred @ directions * np.sqrt(share / (weight @ centred**2).sum())
        noise = np.sqrt((1 - sum(share for _, share in columns)) / d)
        scale = np.sqrt(noise**2 + weight @ means**2) if protocol == "audited" else np.ones(d)
        return cls(means.reshape(5, 3, d), float(noise), scale)

    def apart(self, a: np.ndarray, b: np.ndarray, penalties: Iterable[float] = PENALTIES) -> float:
        """Distance of two means as the regularised discriminant sees it, with the best of the penalties, in standard
        deviations of the noise there."""
        difference, noise = (a - b) / self.scale, (self.noise / self.scale) ** 2
        means = self.means.reshape(-1, len(noise)) / self.scale
        covariance = np.diag(noise) + np.cov(means.T, aweights=PROBABILITY.ravel(), bias=True)
        return max(
            float(w @ difference / np.sqrt(w**2 @ noise))
            for w in (np.linalg.solve(regularised(covariance, penalty), difference) for penalty in penalties)
        )

    def cosine(self, a: np.ndarray, b: np.ndarray) -> float:
        """Of two means."""
        a, b = a / self.scale, b / self.scale
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def regularised(covariance: np.ndarray, penalty: float) -> np.ndarray:
    """S + λ s̄ I, s̄ the median of the eigenvalues of S (`sae_moral.metrics.discriminant`)."""
    return covariance + penalty * np.median(np.linalg.eigvalsh(covariance)) * np.eye(len(covariance))


POLARITY = np.tile(SIGN, 5)[:, None]
FOUNDATION = np.repeat(np.eye(5), 3, axis=0)


def auroc(d: int, share: float) -> float:
    """Φ(distance of the poles / √2)."""
    planted = Planted.of(d, [(POLARITY, share)], "audited")
    return float(norm.cdf(planted.apart(planted.means[0, VIRTUE], planted.means[0, VICE]) / np.sqrt(2)))


def accuracy_polarity(d: int, share: float) -> float:
    """Balanced accuracy between three means in a line, rescaled to chance 0."""
    planted = Planted.of(d, [(POLARITY, share)], "audited")
    virtue, vice, neutral = (planted.means[0, pole] for pole in (VIRTUE, VICE, NEUTRAL))
    up, down = (float(norm.cdf(planted.apart(pole, neutral, [PENALTY]) / 2)) for pole in (virtue, vice))
    return ((up + down + (up + down - 1)) / 3 - 1 / 3) / (1 - 1 / 3)


def prototype_cosine(d: int, topics: float, polar: float, protocol: str) -> float:
    """Mean over foundations of the cosine of the two true prototypes."""
    planted = Planted.of(d, [(FOUNDATION, topics), (POLARITY, polar)], protocol)
    return float(np.mean([planted.cosine(planted.means[f, VIRTUE], planted.means[f, VICE]) for f in range(5)]))


def r_squared(d: int, share: float) -> float:
    """Signal over signal and noise in each of the ten whitened directions."""
    signal, rest = share / 10, (1 - share) / d
    return signal / (signal + rest)


def spearman(d: int, share: float, protocol: str, draws: int = 200_000) -> float:
    """Of typicality and a held-out score: the regularised reader's with the best of its penalties, within a pole, mean
    of both (`audited`); the cosine with the true direction, with the neutrals at 0, all poles pooled (`paper`)."""
    rng = np.random.default_rng(0)
    cell = rng.choice(PROBABILITY.size, size=draws, p=PROBABILITY.ravel())
    pole = cell % 3
    level = np.where(pole == NEUTRAL, 0.0, 1.0)
    for value in (VIRTUE, VICE):
        level[pole == value] = rng.choice(LEVELS, size=int((pole == value).sum()), p=TYPICALITY[value])
    graded = np.where(pole == NEUTRAL, 0.0, level - (TYPICALITY @ LEVELS)[np.minimum(pole, VICE)])
    fixed = worlds.geometry(d)
    fixed.standard_normal((d, d))
    direction = np.linalg.qr(fixed.standard_normal((d, 1)))[0][:, 0]
    noise = np.sqrt((1 - share) / d)
    x = np.sqrt(share) * (graded / graded.std())[:, None] * direction + noise * rng.standard_normal((draws, d))
    if protocol == "audited":
        x /= x.std(axis=0)
        covariance, along = np.cov(x.T), x.T @ graded / draws
        scores = [x @ np.linalg.solve(regularised(covariance, penalty), along) for penalty in PENALTIES]
        poles = [pole == p for p in (VIRTUE, VICE)]
        return max(float(np.mean([_spearman(level[p], score[p]) for p in poles])) for score in scores)
    score = x @ direction / np.linalg.norm(x, axis=1)
    pooled = np.concatenate([np.flatnonzero((pole == p) | (pole == NEUTRAL)) for p in (VIRTUE, VICE)])
    return _spearman(level[pooled], score[pooled])


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def truths(d: int) -> dict[tuple[str, str, str], float]:
    """(protocol, world of the part `bias`, metric/statistic) → its truth."""
    return {
        ("audited", "clean polarity", "categorical/auroc"): auroc(d, 0.05),
        ("audited", "clean polarity", "structural/accuracy_polarity"): accuracy_polarity(d, 0.05),
        ("audited", "clean topics and polarity", "categorical/cosine"): prototype_cosine(d, 0.1, 0.05, "audited"),
        ("audited", "clean topics and polarity", "categorical/cosine_corrected"): prototype_cosine(
            d, 0.1, 0.05, "audited"
        ),
        ("paper", "clean topics and polarity", "categorical/cosine"): prototype_cosine(d, 0.1, 0.05, "paper"),
        ("audited", "clean typicality", "gradient/spearman"): spearman(d, 0.05, "audited"),
        ("paper", "clean typicality", "gradient/spearman"): spearman(d, 0.05, "paper"),
        ("audited", "clean ten dimensions", "dimensional/r2"): r_squared(d, 0.1),
        ("paper", "clean ten dimensions", "dimensional/r2"): r_squared(d, 0.1),
    }
