"""What a metric is: a pure function (representation, data) → named statistics, and what it declares of them.

A metric that can do many versions of one sample at once (permuted labels, reweighted scenarios) has a method
`prepare(representation, data)` beside its call. It does once what does not depend on labels and weights (Gram
matrices, decompositions, clusterings), and returns a function from `Variants` to values. Other metrics are called once
per version (`sae_moral.controls.sample`).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.io import jsonable
from sae_moral.results import OVERALL, MetricCard, StatisticSpec
from sae_moral.shown import shown


@shown()
@dataclass(frozen=True)
class Statistic:
    """One number of one layer.

    Attributes:
        name: of the statistic.
        value: None where it cannot be computed (a pole without items, no cluster): never 0, never NaN.
        group: a foundation, a dimension, or `overall`.
        n: how many scenarios it rests on.
        n_dropped: how many of those it asked for it could not use.
    """

    name: str
    value: float | None
    group: str = OVERALL
    n: int | None = None
    n_dropped: int | None = None


Results = Iterable[Statistic] | Mapping[str, float | None] | Mapping[tuple[str, str], float | None]
"""What a metric may return: statistics, or a mapping from name (group `overall`) or (name, group) to value."""


@runtime_checkable
class Metric(Protocol):
    """Any object with these attributes that can be called so.

    Optional attributes:
        statistics: a sequence of `StatisticSpec`, one per statistic it declares. One that is returned and not declared
            has no direction, and its labels are permuted freely.
        means, does_not_prove: sentences for reports.
        raw: True: it gets the vectors before the protocol's preprocessing.
        rotation_invariant: True: vectors wider than the sample may come in coordinates of their span.
        remove_length: a dataclass's field: True: it takes length out of the vectors on its own training folds; of
            baselines made of the scenarios it does not. A metric that has this field takes `MoralData.nuisance` out in
            the same way, whatever its value.
        parameters: a mapping of JSON values to what else shapes its numbers; a dataclass's own fields by default.
        prepare: see `Preparing`.
    """

    @property
    def name(self) -> str:
        """What it is called in results and on the command line."""
        ...

    @property
    def headline(self) -> str:
        """The statistic that stands for it in summaries."""
        ...

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> Results:
        """The statistics of one layer."""
        ...


@shown()
@dataclass(frozen=True)
class FunctionMetric:
    """A metric made of a plain function, by the `metric` decorator."""

    name: str
    headline: str
    function: Callable[[Any, MoralData], Results]
    statistics: Sequence[StatisticSpec] = ()
    means: str = ""
    does_not_prove: str = ""
    raw: bool = False
    rotation_invariant: bool = False
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> Results:
        """The statistics of one layer."""
        return self.function(representation, data)


@shown()
@dataclass(frozen=True)
class PreparedFunctionMetric(FunctionMetric):
    """The same, with a second function that does many versions of a sample at once."""

    many: Callable[[Any, MoralData], Prepared] | None = None

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `Preparing`."""
        assert self.many is not None
        return self.many(representation, data)


# Declarations

GONE = {"nulls": "null", "alternatives": "direction", "higher_is": "direction", "readers": "interval",
        "chance": "chance"}  # fmt: skip
"""Attributes of version 0.1, and the field of `StatisticSpec` that says the same of one statistic."""
_NO_PARAMETERS = ("name", "headline", "statistics", "means", "does_not_prove", "raw", "rotation_invariant")


def declared(metric: Metric) -> dict[str, StatisticSpec]:
    """What a metric declares of its statistics, by name; its headline first, declared or not.

    Raises:
        TypeError: attributes of version 0.1, or declarations that are no `StatisticSpec`.
        ValueError: a statistic declared twice, or an interval that needs `prepare` of a metric without it.
    """
    if old := [name for name in GONE if hasattr(metric, name)]:
        raise gone(metric.name, metric.headline, old)
    specs: list[Any] = list(getattr(metric, "statistics", ()))
    if wrong := [spec for spec in specs if not isinstance(spec, StatisticSpec)]:
        raise TypeError(
            f"metric {metric.name!r} declares {wrong[0]!r}; expected statistics = (StatisticSpec({metric.headline!r}, "
            "…), …), a sequence of sae_moral.StatisticSpec"
        )
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"metric {metric.name!r} declares {twice} more than once; expected each statistic once")
    if not isinstance(metric, Preparing) and (fixed := [spec for spec in specs if spec.interval != "resampled"]):
        raise ValueError(
            f"metric {metric.name!r} declares interval {fixed[0].interval!r} for {fixed[0].name!r}, which is for "
            "metrics with `prepare`; without it everything is fitted anew on every resample: interval='resampled'"
        )
    found: dict[str, StatisticSpec] = {spec.name: spec for spec in specs}
    return {metric.headline: found.pop(metric.headline, StatisticSpec(metric.headline)), **found}


def gone(metric: str, headline: str, old: Sequence[str]) -> TypeError:
    """The error for attributes or keywords of version 0.1."""
    fields = ", ".join(f"`{name}` → {GONE[name]}" for name in old)
    return TypeError(
        f"metric {metric!r} has {', '.join(f'`{name}`' for name in old)}, which is no longer read; declare it per "
        f"statistic ({fields}): statistics = (StatisticSpec({headline!r}, direction='higher', null='all', chance=0.0),"
        " …), with direction 'higher' or 'lower' for the side that is less indifferent and None for neither; "
        "@metric takes the same as keywords for its headline"
    )


def card_of(metric: Metric, returned: Iterable[str] = ()) -> MetricCard:
    """What a metric says of itself; `returned` are statistics it gave, declared or not.

    Raises:
        TypeError, ValueError: as `declared`; parameters that JSON cannot hold.
    """
    specs = declared(metric)
    specs |= {name: StatisticSpec(name) for name in returned if name not in specs}
    given = getattr(metric, "parameters", None)
    if given is None and dataclasses.is_dataclass(metric):
        names = [field.name for field in dataclasses.fields(metric) if field.name not in _NO_PARAMETERS]
        given = {name: getattr(metric, name) for name in names}
    try:
        parameters = jsonable(given or {})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metric {metric.name!r}: {error}; results keep a metric's parameters, so give it an attribute "
            "`parameters`, a mapping of JSON values that says the same"
        ) from error
    texts = {name: str(getattr(metric, name, "") or "") for name in ("means", "does_not_prove")}
    return MetricCard(metric.name, metric.headline, specs, **texts, parameters=parameters)


# Results of one call


def evaluate(metric: Metric, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
    """Run a metric on one layer and bring what it returned into one form.

    Raises:
        TypeError: it returned neither statistics nor a mapping to numbers.
        ValueError: a NaN or infinite value, a statistic given twice, or its headline missing.
    """
    return checked(metric, metric(representation, data), len(data))


def checked(metric: Metric, results: Results, n: int) -> list[Statistic]:
    """What a metric returned for n scenarios, in one form (see `evaluate`)."""
    if isinstance(results, Mapping):
        named: list[tuple[Any, Any]] = [(k if isinstance(k, tuple) else (k, OVERALL), v) for k, v in results.items()]
        statistics = [Statistic(name, value, group, n, 0) for (name, group), value in named]
    elif isinstance(results, Iterable):
        statistics = list(results)
    else:
        raise TypeError(
            f"metric {metric.name!r} returned {results!r}; expected Statistic objects or a mapping to numbers"
        )
    for i, statistic in enumerate(statistics):
        if not isinstance(statistic, Statistic):
            raise TypeError(
                f"metric {metric.name!r} returned {statistic!r}; expected Statistic objects or a mapping to numbers"
            )
        if statistic.value is not None:
            value = float(statistic.value)
            if not math.isfinite(value):
                problem = f"metric {metric.name!r} gave {value} for {statistic.name!r} of {statistic.group!r}"
                raise ValueError(f"{problem}; return None for what cannot be computed")
            statistics[i] = dataclasses.replace(statistic, value=value)
    keys = [(statistic.name, statistic.group) for statistic in statistics]
    if len(keys) != len(set(keys)):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"metric {metric.name!r} gave {twice} more than once; expected each (statistic, group) once")
    if metric.headline not in {name for name, _ in keys}:
        raise ValueError(
            f"metric {metric.name!r} did not give its headline {metric.headline!r}; "
            f"it gave {sorted({name for name, _ in keys})}"
        )
    return statistics


def mean_over_groups(name: str, parts: Iterable[Statistic]) -> Statistic:
    """The `overall` statistic: the unweighted mean of the groups that could be computed."""
    known = [part for part in parts if part.value is not None]
    value = sum(part.value for part in known if part.value is not None) / len(known) if known else None
    return Statistic(
        name, value, OVERALL, sum(part.n or 0 for part in known), sum(part.n_dropped or 0 for part in known)
    )


# Many versions of one sample

Values = dict[tuple[str, str], Float[Tensor, "b"]]
"""(statistic, group) → one value per version; NaN where it cannot be computed."""


@dataclass(frozen=True)
class Variants:
    """b versions of a sample of n scenarios; an array may have one row, which all versions share.

    Attributes:
        index: scenario i has the labels of scenario `index[v, i]`.
        weight: how often scenario i counts. What is fitted to labels on other folds stays as it is: only held-out
            scores are weighed, so a spread over weights is that of the scores of given fits over texts.
        fit: how often it counts in what is fitted for other folds (ridge: to first order); None for once.
        dtype: precision of the vectors that are made of them. Ranks and weights are in double precision whatever it is.
    """

    index: Int[Tensor, "p n"]
    weight: Float[Tensor, "w n"]
    fit: Float[Tensor, "r n"] | None = None
    dtype: torch.dtype = torch.float64

    @classmethod
    def one(cls, n: int) -> Variants:
        """The sample as it is."""
        return cls(torch.arange(n)[None], torch.ones(1, n, dtype=torch.float64))

    @classmethod
    def relabelled(cls, index: Int[Tensor, "b n"]) -> Variants:
        """Labels moved, every scenario counted once."""
        return cls(index, torch.ones(1, index.shape[1], dtype=torch.float64))

    @classmethod
    def weighed(cls, weight: Float[Tensor, "b n"]) -> Variants:
        """Labels in place, scenarios counted `weight` times."""
        return cls(torch.arange(weight.shape[1])[None], weight.double())

    @classmethod
    def refitted(cls, fit: Float[Tensor, "b n"]) -> Variants:
        """Labels in place, fits to resampled scenarios, each scored once."""
        return cls(torch.arange(fit.shape[1])[None], torch.ones(1, fit.shape[1]).double(), fit.double())

    @property
    def n(self) -> int:
        """How many versions."""
        return max(len(self.index), len(self.weight), 0 if self.fit is None else len(self.fit))

    @property
    def nothing(self) -> Float[Tensor, "b"]:
        """The values of a statistic that no version has."""
        return torch.full((self.n,), torch.nan, dtype=torch.float64, device=self.weight.device)

    def to(self, device: torch.device | str) -> Variants:
        """On a device."""
        fit = None if self.fit is None else self.fit.to(device)
        return dataclasses.replace(self, index=self.index.to(device), weight=self.weight.to(device), fit=fit)

    def single(self) -> Variants:
        """In single precision: half the time, for draws, of which a spread and an order are wanted."""
        return dataclasses.replace(self, dtype=torch.float32)

    def moved(self, label: np.ndarray, rows: Int[np.ndarray, "m"], within: np.ndarray) -> Tensor:
        """The labels [p, m] that the scenarios at `rows` have.

        Raises:
            ValueError: labels came from a scenario of another value of `within`; the set of items would change.
        """
        index = self.index[:, torch.from_numpy(rows).to(self.index.device)]
        blocks = torch.from_numpy(np.ascontiguousarray(within)).to(index.device)
        if not bool((blocks[index] == blocks[torch.from_numpy(rows).to(index.device)]).all()):
            raise ValueError(
                "labels were moved between scenarios that this statistic keeps apart; permute them within its blocks "
                "(`sae_moral.controls.draws.SCHEMES`)"
            )
        labels = torch.from_numpy(np.ascontiguousarray(label)).to(index.device)
        return (labels.to(self.dtype) if labels.is_floating_point() else labels)[index]


Counts = Mapping[tuple[str, str], tuple[int, int]]
"""(statistic, group) → how many scenarios it rests on, and how many it dropped."""


@runtime_checkable
class Compute(Protocol):
    """From versions to values."""

    def __call__(self, variants: Variants, only: Collection[str] | None = None) -> Values:
        """The statistics of every version; of those named in `only`, if given."""
        ...


@dataclass(frozen=True)
class Prepared:
    """What `prepare` returns: one metric on one layer, ready for any number of versions of the sample.

    Attributes:
        n: scenarios.
        counts: per (statistic, group); one that is missing here rests on all scenarios.
        compute: from versions to values, on the device given here.
        device: where versions are computed; values are returned on the CPU.
    """

    n: int
    counts: Counts
    compute: Compute
    device: torch.device | str = "cpu"

    def __call__(self, variants: Variants, only: Collection[str] | None = None) -> Values:
        """The statistics of every version; of those named in `only`, if given."""
        found = self.compute(variants.to(self.device), only)
        return {key: value.cpu().double() for key, value in found.items()}

    def statistics(self, only: Collection[str] | None = None) -> list[Statistic]:
        """Of the sample as it is; `overall` first. Those named in `only`, if given."""
        found = {key: float(value[0]) for key, value in self(Variants.one(self.n), only).items()}
        ordered = sorted(found, key=lambda key: key[1] != OVERALL)
        counts = [self.counts.get(key, (self.n, 0)) for key in ordered]
        return [
            Statistic(key[0], None if np.isnan(found[key]) else found[key], key[1], *count)
            for key, count in zip(ordered, counts, strict=True)
        ]


@runtime_checkable
class Preparing(Protocol):
    """A metric that does many versions of one sample together."""

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """Everything that labels and weights leave as it is, done once."""
        ...


def mean_of_groups(parts: Sequence[Float[Tensor, "b"]]) -> Float[Tensor, "b"]:
    """Unweighted mean of the groups that could be computed."""
    return torch.stack(torch.broadcast_tensors(*parts)).nanmean(dim=0)


# Folds


@lru_cache(maxsize=16)
def folds(data: MoralData, k: int, seed: int) -> Int[np.ndarray, "n"]:
    """Fold of each scenario: the texts of a group share a fold, foundations × poles are spread evenly over the folds.

    Permuted labels (`MoralData.relabelled`) leave the folds as they are.

    Raises:
        ValueError: fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = len(np.unique(data.group))
    if k < 2:
        raise ValueError(f"{k} folds; expected at least 2")
    if k > groups:
        raise ValueError(
            f"{groups} distinct text{'s' * (groups != 1)}; {k} folds need at least {k}: give more scenarios, or fewer "
            "folds"
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
