"""The noise ceiling of human labels: how well could anything predict one annotation?

Where a text was annotated several times, the annotations are y_ij = μ + a_i + e_ij: what the text is, and what its
annotator added. The share of the variance that belongs to the texts, ICC(1) = σ²_a / (σ²_a + σ²_e), is the reliability
of one annotation (one-way random effects; Shrout & Fleiss 1979). With k texts of n_i annotations, N in all (unequal
sizes: Donner 1986):

    MSB = Σ n_i (ȳ_i − ȳ)² / (k − 1)        MSW = Σ_ij (y_ij − ȳ_i)² / (N − k)
    n₀ = (N − Σ n_i² / N) / (k − 1)          ICC(1) = (MSB − MSW) / (MSB + (n₀ − 1) MSW)

The true score of a text correlates √ICC with one annotation of it, and explains ICC of its variance. No predictor can
be expected to do better on labels that are one annotation each: √ICC is the ceiling of a correlation, ICC that of an
R². For a Spearman correlation the same is done with the ranks of all annotations, which is an approximation.

What it does not prove. The texts that happen to be annotated twice are the short and common ones; for rarer ones
annotators may agree less, or more. Two annotations of one text were made in view of different situations, so part of
what counts as noise may be the situation. Data sampled by label (the stratified sample) spread the labels, which raises
ICC(1): estimate on all records what is to hold for all. Agreement on a shared prejudice is reliability, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from sae_moral.data.cells import NOTHING
from sae_moral.data.moral_data import MoralData
from sae_moral.data.social_chem_tsv import Annotations
from sae_moral.errors import unknown
from sae_moral.foundations import NEUTRAL, VICE

Label = Literal["typicality", "polarity", "valence"]
"""typicality: the strength, 0–1. polarity: −1 vice, 0 neutral, 1 virtue. valence: the strength with that sign."""
_CHUNK = 2_000_000
"""Bootstrap weights held at once."""


@dataclass(frozen=True)
class Reliability:
    """The reliability of one annotation, with everything that shaped it.

    Attributes:
        label: what was annotated.
        value: ICC(1); below 0 where annotations of one text differ more than those of different texts.
        ci_low, ci_high: percentile interval of the bootstrap over texts.
        n_texts: texts with several annotations; only these count.
        n_annotations: of these texts.
        level: of the interval.
        n_bootstrap: resamples of texts.
        seed: of the bootstrap.
        ranks: whether it is the ICC of ranks, for a Spearman correlation.
    """

    label: str
    value: float
    ci_low: float
    ci_high: float
    n_texts: int
    n_annotations: int
    level: float
    n_bootstrap: int
    seed: int
    ranks: bool

    @property
    def r2_ceiling(self) -> tuple[float, float, float]:
        """Ceiling of an R², and its interval: the ICC, not below 0."""
        value, low, high = np.clip([self.value, self.ci_low, self.ci_high], 0, 1).tolist()
        return value, low, high

    @property
    def correlation_ceiling(self) -> tuple[float, float, float]:
        """Ceiling of a correlation, and its interval: √ICC; of a Spearman one if `ranks`, else of a Pearson one."""
        value, low, high = np.sqrt(self.r2_ceiling).tolist()
        return value, low, high


class _NotDefined(ValueError):
    """Nothing was annotated twice, or all annotations are the same."""


def icc(values: Float[np.ndarray, "n"], groups: Int[np.ndarray, "n"]) -> float:
    """ICC(1) of annotations `values` of the texts `groups`; texts with one annotation count as well, if given.

    Raises:
        ValueError: fewer than two texts, no text with two annotations, all values equal, or one not finite.
    """
    statistics = _Texts.of(values, groups)
    value = float(statistics.icc(np.ones((1, len(statistics.n))))[0])
    if not np.isfinite(value):
        raise _NotDefined("ICC(1) needs two texts, one with two annotations, and values that are not all equal")
    return value


def reliability(
    values: Float[np.ndarray, "n"],
    groups: Int[np.ndarray, "n"],
    clusters: Int[np.ndarray, "n"] | None = None,
    *,
    label: str = "values",
    ranks: bool = False,
    seed: int = 0,
    n_bootstrap: int = 2000,
    level: float = 0.95,
) -> Reliability:
    """ICC(1) of the texts with several annotations, with an interval.

    Args:
        values: one per annotation.
        groups: what was annotated: equal numbers, equal text.
        clusters: what the bootstrap draws, if that is more than a group: groups of one cluster stay together.
        label: name of the values.
        ranks: rank the annotations first.
        seed: of the bootstrap.
        n_bootstrap: resamples.
        level: of the interval.

    Raises:
        ValueError: as `icc`, of the texts with several annotations.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    several = np.bincount(groups)[groups] > 1
    if not several.any():
        raise _NotDefined("no text with two annotations; expected at least two such texts")
    values, groups = values[several].astype(np.float64), groups[several]
    if ranks:
        from scipy.stats import rankdata

        values = rankdata(values)
    value = icc(values, groups)
    first = np.unique(groups, return_index=True)[1]
    cluster = np.unique((groups if clusters is None else clusters[several])[first], return_inverse=True)[1]
    draws = _bootstrap(_Texts.of(values, groups), cluster, np.random.default_rng(seed), n_bootstrap)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Reliability(label, value, low, high, len(first), len(values), level, n_bootstrap, seed, ranks)


def label_reliability(
    data: MoralData | Annotations, label: Label = "typicality", *, ranks: bool = False, seed: int = 0
) -> Reliability | None:
    """The reliability of human labels.

    Args:
        data: scenarios: repeated are records of one text and foundation with different ids (pass the items of a
            foundation and its poles to get the ceiling of what is measured on them). Or the annotations of the raw
            table: repeated are those of one rule of thumb with m > 1, which different workers annotated.
        label: what of it.
        ranks: of its ranks, for the ceiling of a Spearman correlation.
        seed: of the bootstrap, which draws texts (rules of thumb).

    Returns:
        None where no two texts have several annotations that can be compared, as in most sources.

    Raises:
        ValueError: an unknown label.
    """
    if isinstance(data, Annotations):
        signed = data.judgment / 2 * data.agreement / 4
        rows = np.flatnonzero((data.m > 1) & [name not in NOTHING for name in data.rot_id])
        groups = clusters = np.unique(np.asarray(data.rot_id), return_inverse=True)[1].astype(np.int64)
    else:
        sign = np.where(data.pole == NEUTRAL, 0.0, np.where(data.pole == VICE, -1.0, 1.0))
        signed = data.typicality * sign
        groups, clusters = data.same_text * 6 + data.foundation, data.group
        named = np.unique(np.asarray(data.id), return_inverse=True)[1]
        rows = np.sort(np.unique(np.column_stack([groups, named]), axis=0, return_index=True)[1])
    values = {"typicality": np.abs(signed), "polarity": np.sign(signed), "valence": signed}
    if label not in values:
        raise unknown("label", label, values)
    try:
        return reliability(values[label][rows], groups[rows], clusters[rows], label=label, ranks=ranks, seed=seed)
    except _NotDefined:
        return None


@dataclass(frozen=True)
class _Texts:
    """Per text: how many annotations, their sum, and their squares around their mean. Values are centred first."""

    n: Float[np.ndarray, "k"]
    total: Float[np.ndarray, "k"]
    within: Float[np.ndarray, "k"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "n"], groups: Int[np.ndarray, "n"]) -> _Texts:
        if len(values) != len(groups):
            raise ValueError(f"{len(values)} values for {len(groups)} groups; expected one each")
        if not len(values) or not np.isfinite(values).all():
            raise ValueError("values that are not finite, or none; expected a number per annotation")
        index = np.unique(groups, return_inverse=True)[1]
        n, centred = np.bincount(index).astype(np.float64), values - values.mean()
        total = np.bincount(index, centred)
        return cls(n, total, np.bincount(index, (centred - (total / n)[index]) ** 2))

    def icc(self, weight: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "b"]:
        """ICC(1) with each text counted `weight` times; NaN where it is not defined."""
        k, n = weight.sum(axis=1), weight @ self.n
        with np.errstate(divide="ignore", invalid="ignore"):
            between = weight @ (self.total**2 / self.n) - (weight @ self.total) ** 2 / n
            msb, msw = between / (k - 1), weight @ self.within / (n - k)
            n0 = (n - weight @ self.n**2 / n) / (k - 1)
            return (msb - msw) / (msb + (n0 - 1) * msw)


def _bootstrap(
    texts: _Texts, cluster: Int[np.ndarray, "k"], rng: np.random.Generator, n_bootstrap: int
) -> Float[np.ndarray, "b"]:
    n_clusters = int(cluster.max()) + 1
    size = max(1, _CHUNK // len(cluster))
    draws = []
    for start in range(0, n_bootstrap, size):
        drawn = rng.integers(n_clusters, size=(min(size, n_bootstrap - start), n_clusters))
        times = np.stack([np.bincount(row, minlength=n_clusters) for row in drawn]).astype(np.float64)
        draws.append(texts.icc(times[:, cluster]))
    return np.concatenate(draws)
