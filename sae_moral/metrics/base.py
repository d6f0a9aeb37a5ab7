"""What a metric is: a pure function (representation, data) → named statistics, one of them its headline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from sae_moral.data import MoralData

OVERALL = "overall"


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
    """Any object with these attributes that can be called so. Optional attributes, shown in reports where present:
    `means`, `does_not_prove` (sentences), `chance` (the headline's value without information), `higher_is` (what a
    higher headline means), `raw` (True: gets the vectors before the protocol's preprocessing), `rotation_invariant`
    (True: vectors wider than the sample may come in coordinates of their span); for controls `nulls` (what labels are
    permuted within: a scheme of `sae_moral.controls.draws.SCHEMES`, or one per statistic; freely by default),
    `alternatives` (statistic → `greater`, `less` or `two-sided`; that of `higher_is` by default) and `readers`
    (`sae_moral.controls.inference`)."""

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


@dataclass(frozen=True)
class FunctionMetric:
    """A metric made of a plain function, by the `metric` decorator."""

    name: str
    headline: str
    function: Callable[[Any, MoralData], Results]
    means: str = ""
    does_not_prove: str = ""
    chance: float | None = None
    higher_is: str = ""
    raw: bool = False
    nulls: str | Mapping[str, str] = "all"
    alternatives: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> Results:
        """The statistics of one layer."""
        return self.function(representation, data)


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
