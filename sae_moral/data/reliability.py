"""The noise ceiling of human labels: how well could anything predict one annotation?

Where a text was annotated several times, the annotations are y_ij = μ_s + a_i + e_ij: the mean of the text's stratum
(its foundation and pole, where a label is judged within a pole), what the text is, and what its annotator added. The
share of the variance within strata that belongs to the texts, ICC(1) = σ²_a / (σ²_a + σ²_e), is the reliability of one
annotation (one-way random effects; Shrout & Fleiss 1979). With k texts of n_i annotations in S strata, N in all
(unequal sizes: Donner 1986):

    MSB = Σ n_i (ȳ_i − ȳ_s)² / (k − S)        MSW = Σ_ij (y_ij − ȳ_i)² / (N − k)
    n₀ = (N − Σ_s Σ_i n_i² / N_s) / (k − S)    ICC(1) = (MSB − MSW) / (MSB + (n₀ − 1) MSW)

The interval is a jackknife over texts of log(MSB / MSW) with Student's t, taken back to the ICC: a percentile bootstrap
covers too seldom with few texts (docs/design/data.md).

The true score of a text correlates √ICC with one annotation of it, and explains ICC of its variance. No predictor can
be expected to do better on labels that are one annotation each: √ICC is the ceiling of a correlation, ICC that of an
R². For a Spearman correlation the same is done with the ranks of all annotations, which is an approximation.

What it does not prove. The texts that happen to be annotated twice are the short and common ones; for rarer ones
annotators may agree less, or more. Two annotations of one text were made in view of different situations, so part of
what counts as noise may be the situation. Texts whose annotators chose different poles are not in a reliability within
a pole. Agreement on a shared prejudice is reliability, too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from sae_moral.data.cells import NOTHING
from sae_moral.data.moral_data import MoralData
from sae_moral.data.social_chem_tsv import Annotations
from sae_moral.errors import unknown
from sae_moral.foundations import NEUTRAL, VICE, VIRTUE
from sae_moral.io import typed
from sae_moral.shown import shown

Label = Literal["typicality", "polarity", "valence"]
"""typicality: the strength, 0–1, within foundation and pole. polarity: −1 vice, 0 neutral, 1 virtue. valence: the
strength with that sign, over all."""
LABELS: tuple[Label, ...] = ("typicality", "polarity", "valence")
FEWEST = 20
"""Repeated texts that a ceiling needs at least."""
WIDEST = 0.5
"""A ceiling of a correlation with a wider interval says too little to be shown."""


@shown()
@dataclass(frozen=True)
class Reliability:
    """The reliability of one annotation, with everything that shaped it.

    Attributes:
        label: what was annotated.
        value: ICC(1); below 0 where annotations of one text differ more than those of different texts.
        ci_low: lower end of its interval.
        ci_high: upper end.
        n_texts: texts with several annotations; only these count.
        n_annotations: of these texts.
        level: of the interval.
        ranks: whether it is the ICC of ranks, for a Spearman correlation.
        variance: of one annotation within strata, σ²_a + σ²_e.
    """

    label: str
    value: float
    ci_low: float
    ci_high: float
    n_texts: int
    n_annotations: int
    level: float
    ranks: bool
    variance: float

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

    @property
    def why_no_ceiling(self) -> str | None:
        """Why it is too uncertain to be shown as a ceiling; None where it can be shown."""
        if self.n_texts < FEWEST:
            return f"fewer than {FEWEST} texts"
        if self.ci_low <= 0:
            return "the interval reaches 0"
        low, high = self.correlation_ceiling[1:]
        return f"the interval of the ceiling, {low:.2f} to {high:.2f}, is too wide" if high - low > WIDEST else None

    def at_spread(self, variance: float) -> Reliability:
        """The reliability among texts that were chosen by their label, whose labels have another `variance`.

        Choosing by the label y leaves the regression of the true score on y as it is: with u the ratio of the
        variances, ICC u / (ICC u + 1 − ICC).

        Raises:
            ValueError: it is of ranks, whose variance is the same in every sample.
        """
        if self.ranks:
            raise ValueError("the reliability is of ranks; expected one of the labels themselves")
        u = variance / self.variance
        moved = {name: getattr(self, name) for name in ("value", "ci_low", "ci_high")}
        moved = {name: r * u / (r * u + 1 - r) if r > 0 else r for name, r in moved.items()}
        return dataclasses.replace(self, **moved, variance=variance)


class _NotDefined(ValueError):
    """Nothing was annotated twice, or all annotations are the same."""


def icc(
    values: Float[np.ndarray, "n"], groups: Int[np.ndarray, "n"], strata: Int[np.ndarray, "n"] | None = None
) -> float:
    """ICC(1) of annotations of the texts `groups`; texts with one annotation count as well, if given.

    Args:
        values: the annotations.
        groups: the text of each.
        strata: of each; those of a text are equal. By default there is one.

    Raises:
        ValueError: no two texts of a stratum, no text with two annotations, all values equal, or one not finite.
    """
    return float(_checked(_Sums.of(values, groups, strata, groups)).total.icc[0])


def reliability(
    values: Float[np.ndarray, "n"],
    groups: Int[np.ndarray, "n"],
    clusters: Int[np.ndarray, "n"] | None = None,
    strata: Int[np.ndarray, "n"] | None = None,
    *,
    label: str = "values",
    ranks: bool = False,
    level: float = 0.95,
) -> Reliability:
    """ICC(1) of the texts with several annotations, with an interval.

    Args:
        values: one per annotation.
        groups: what was annotated: equal numbers, equal text.
        clusters: what the jackknife leaves out, if that is more than a group: groups of one cluster go together.
        strata: whose means do not count as differences of texts.
        label: name of the values.
        ranks: replace the annotations by their ranks within strata, as a share of the annotations there.
        level: of the interval.

    Raises:
        ValueError: as `icc`, of the texts with several annotations.
    """
    from scipy.stats import t as student

    groups = np.unique(groups, return_inverse=True)[1]
    strata = np.zeros(len(groups), dtype=np.int64) if strata is None else strata
    several = np.bincount(groups)[groups] > 1
    if not several.any():
        raise _NotDefined("no text with two annotations; expected at least two such texts")
    values = _ranks(values, strata) if ranks else values.astype(np.float64)
    clusters = groups if clusters is None else clusters
    sums = _checked(_Sums.of(values[several], groups[several], strata[several], clusters[several]))
    whole, parts = sums.total, sums.without_each
    n, low, high = len(parts.log_f), -1.0, 1.0
    # Where leaving out a text leaves nothing that differs, the interval is everything that is possible.
    if np.isfinite(parts.log_f).all():
        error = np.sqrt((n - 1) / n * np.square(parts.log_f - parts.log_f.mean()).sum())
        reach = student.ppf((1 + level) / 2, max(1.0, min(n - 1, float(whole.df[0])))) * error
        low, high = (float(end) for end in whole.icc_of(np.exp(whole.log_f[0] + np.array([-reach, reach]))))
    n_texts, n_annotations = int(sums.texts.sum()), int(several.sum())
    value, variance = float(whole.icc[0]), float(whole.variance[0])
    return Reliability(label, value, low, high, n_texts, n_annotations, level, ranks, variance)


def label_reliability(
    data: MoralData | Annotations, label: Label = "typicality", *, ranks: bool = False
) -> Reliability | None:
    """The reliability of human labels: of typicality among the texts of one foundation and pole, of polarity and
    valence among all.

    Args:
        data: scenarios: repeated are records of one text and foundation with different ids. Or the annotations of the
            raw table: repeated are those of one rule of thumb with m > 1, which different workers annotated.
        label: what of it.
        ranks: of its ranks, for the ceiling of a Spearman correlation.

    Returns:
        None where no two texts have several annotations that can be compared, as in most sources.

    Raises:
        ValueError: an unknown label.
    """
    if label not in LABELS:
        raise unknown("label", label, LABELS)
    try:
        found = _of_table(data, label) if isinstance(data, Annotations) else _of_scenarios(data, label)
        return reliability(*found, label=label, ranks=ranks)
    except _NotDefined:
        return None


def known_reliability(data: MoralData, label: Label) -> Reliability | None:
    """The best that is known of a label's reliability in these scenarios: what their source says of annotations by
    several workers, at the spread that the labels have here; else that of the ranks of repeated records.

    Raises:
        DataError: a provenance whose `reliability` is none.
    """
    given = (data.provenance.get("reliability") or {}).get(label)
    if given is None:
        return label_reliability(data, label, ranks=True)
    source = typed(given, Reliability, file="the provenance of the data")
    spread = _spread(*_strength(data.pole, data.typicality, data.foundation, label))
    return source if source.ranks or not spread else source.at_spread(spread)


def provided(annotations: Annotations) -> dict[str, Any]:
    """What a source keeps in its provenance of a table that several workers annotated: {label: `Reliability`}."""
    found = {label: label_reliability(annotations, label) for label in LABELS}
    return {label: dataclasses.asdict(known) for label, known in found.items() if known is not None}


# Which annotations are of one text

Numbers = Float[np.ndarray, "n"]
Indices = Int[np.ndarray, "n"]


def _of_scenarios(data: MoralData, label: Label) -> tuple[Numbers, Indices, Indices, Indices]:
    """Values, groups, clusters and strata of the records of different ids."""
    cell = data.same_text * 6 + data.foundation
    named = np.unique(np.asarray(data.id), return_inverse=True)[1]
    rows = np.sort(np.unique(np.column_stack([cell, named]), axis=0, return_index=True)[1])
    rows = rows[data.pole[rows] != NEUTRAL] if label == "typicality" else rows
    if not len(rows):
        raise _NotDefined("no text of a pole; expected at least two")
    part = data.subset(rows)
    values, strata = _strength(part.pole, part.typicality, part.foundation, label)
    groups = np.unique(np.column_stack([part.same_text, part.foundation, strata]), axis=0, return_inverse=True)[1]
    return values, groups.ravel(), part.group, strata


def _of_table(table: Annotations, label: Label) -> tuple[Numbers, Indices, Indices, Indices]:
    """The same of a rule's annotations by several workers; within poles, one for each foundation that is named."""
    signed = table.judgment / 2 * table.agreement / 4
    rule = np.unique(np.asarray(table.rot_id), return_inverse=True)[1]
    kept = (table.m > 1) & np.array([name not in NOTHING for name in table.rot_id])
    kept &= (signed != 0) | (label != "typicality")
    times = [len(named) if label == "typicality" else 1 for named in table.foundations]
    place = np.repeat(np.arange(len(table)), times)
    place = place[kept[place]]
    foundation = np.zeros(len(place), dtype=np.int64)
    if label == "typicality":
        named = [index for i in np.flatnonzero(kept) for index in table.foundations[i]]
        foundation = np.array(named, dtype=np.int64)
    pole = np.where(signed > 0, VIRTUE, np.where(signed < 0, VICE, NEUTRAL))[place]
    values, strata = _strength(pole, np.abs(signed)[place], foundation, label)
    groups = np.unique(np.column_stack([rule[place], strata]), axis=0, return_inverse=True)[1].ravel()
    return values, groups, rule[place], strata


def _strength(pole: Indices, strength: Numbers, foundation: Indices, label: Label) -> tuple[Numbers, Indices]:
    """A label's values and strata; of neutral texts there is no typicality within a pole."""
    if label == "typicality":
        moral = pole != NEUTRAL
        return strength[moral], (foundation * 2 + pole)[moral]
    sign = np.where(pole == NEUTRAL, 0.0, np.where(pole == VICE, -1.0, 1.0))
    return sign * (strength if label == "valence" else 1.0), np.zeros(len(pole), dtype=np.int64)


def _spread(values: Numbers, strata: Indices) -> float:
    """The variance within strata; 0 where there is none."""
    index = np.unique(strata, return_inverse=True)[1]
    n = np.bincount(index)
    squares = np.square(values - (np.bincount(index, values) / n)[index]).sum() if len(index) else 0.0
    return float(squares / max(1, len(values) - len(n)))


def _ranks(values: Numbers, strata: Indices) -> Numbers:
    from scipy.stats import rankdata

    found = np.empty(len(values))
    for stratum in np.unique(strata):
        own = strata == stratum
        found[own] = rankdata(values[own]) / own.sum()
    return found


# The analysis of variance


@dataclass(frozen=True)
class _Anova:
    """Mean squares, one each per sample of texts."""

    msb: Float[np.ndarray, "b"]
    msw: Float[np.ndarray, "b"]
    n0: Float[np.ndarray, "b"]
    df: Float[np.ndarray, "b"]

    @property
    def log_f(self) -> Float[np.ndarray, "b"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.msb / self.msw)

    @property
    def icc(self) -> Float[np.ndarray, "b"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.msb - self.msw) / (self.msb + (self.n0 - 1) * self.msw)

    @property
    def variance(self) -> Float[np.ndarray, "b"]:
        return self.msw + (self.msb - self.msw) / self.n0

    def icc_of(self, f: Float[np.ndarray, "ends"]) -> Float[np.ndarray, "ends"]:
        """What ratios of the mean squares of this sample would give."""
        return 1 - self.n0[0] / (f + self.n0[0] - 1)


@dataclass(frozen=True)
class _Sums:
    """Per cluster and stratum, summed over its texts: n, total, squares within, n², total² / n, and how many texts.
    Values are centred first."""

    n: Float[np.ndarray, "c s"]
    value: Float[np.ndarray, "c s"]
    within: Float[np.ndarray, "c s"]
    n_squared: Float[np.ndarray, "c s"]
    between: Float[np.ndarray, "c s"]
    texts: Float[np.ndarray, "c s"]

    @classmethod
    def of(cls, values: Numbers, groups: Indices, strata: Indices | None, clusters: Indices) -> _Sums:
        if len(values) != len(groups):
            raise ValueError(f"{len(values)} values for {len(groups)} groups; expected one each")
        if not len(values) or not np.isfinite(values).all():
            raise ValueError("values that are not finite, or none; expected a number per annotation")
        first, index = np.unique(groups, return_index=True, return_inverse=True)[1:]
        n, centred = np.bincount(index).astype(np.float64), values - values.mean()
        total = np.bincount(index, centred)
        within = np.bincount(index, (centred - (total / n)[index]) ** 2)
        within[within < 1e-24 * np.square(centred).sum()] = 0.0  # rounding
        stratum = np.zeros(len(first), dtype=np.int64) if strata is None else strata[first]
        row, column = (np.unique(own, return_inverse=True)[1] for own in (clusters[first], stratum))
        shape = int(row.max()) + 1, int(column.max()) + 1
        cell = row * shape[1] + column
        sums = (n, total, within, n**2, total**2 / n, np.ones(len(n)))
        return cls(*(np.bincount(cell, own, shape[0] * shape[1]).reshape(shape) for own in sums))

    @property
    def total(self) -> _Anova:
        """Of all texts."""
        return self._anova(*(own.sum(axis=0, keepdims=True) for own in self._parts))

    @property
    def without_each(self) -> _Anova:
        """Of all but one cluster, for each."""
        return self._anova(*(own.sum(axis=0) - own for own in self._parts))

    @property
    def _parts(self) -> tuple[Float[np.ndarray, "c s"], ...]:
        return self.n, self.value, self.within, self.n_squared, self.between, self.texts

    @staticmethod
    def _anova(*sums: Float[np.ndarray, "b s"]) -> _Anova:
        n, value, within, n_squared, between, texts = sums
        there = texts > 0.5
        size = np.where(there, n, 1.0)
        df = (texts - there).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            msb = np.where(there, between - value**2 / size, 0.0).sum(axis=1) / df
            msw = within.sum(axis=1) / (n - texts).sum(axis=1)
            n0 = np.where(there, n - n_squared / size, 0.0).sum(axis=1) / df
        return _Anova(msb, msw, n0, df)


def _checked(sums: _Sums) -> _Sums:
    if not np.isfinite(sums.total.icc[0]):
        raise _NotDefined("ICC(1) needs two texts, one with two annotations, and values that are not all equal")
    return sums
