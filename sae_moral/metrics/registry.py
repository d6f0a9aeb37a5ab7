"""The registry of metrics: entry points of the group `sae_moral.metrics`, the decorator, and plain instances.

An entry names either a metric or a function from `Protocol` to a metric. The four built-ins are declared in the
project's own pyproject.toml through the same entry points.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeGuard

from sae_moral.data import MoralData
from sae_moral.errors import unknown
from sae_moral.metrics.base import (
    GONE,
    FunctionMetric,
    Metric,
    Prepared,
    PreparedFunctionMetric,
    Results,
    card_of,
    gone,
)
from sae_moral.protocol import Protocol
from sae_moral.results import Direction, StatisticSpec

GROUP = "sae_moral.metrics"
_registered: dict[str, Metric] = {}


def _declared() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ValueError(
                f"two packages declare the metric {entry.name!r}: {other.value} and {entry.value}; uninstall one"
            )
    return found


def metric_names() -> list[str]:
    """Names of all metrics, declared and registered."""
    return sorted({*_declared(), *_registered})


def register(metric: Metric) -> Metric:
    """Make a metric available by its name in this process; returns it.

    Raises:
        ValueError: the name is taken, or its declarations contradict each other.
        TypeError: declarations that are none (`sae_moral.metrics.base.declared`).
    """
    card_of(metric)
    if metric.name in _registered or metric.name in _declared():
        raise ValueError(
            f"a metric named {metric.name!r} exists already; choose another name (taken: {', '.join(metric_names())})"
        )
    _registered[metric.name] = metric
    return metric


def metric(
    *,
    headline: str,
    name: str | None = None,
    direction: Direction | None = None,
    null: str | None = "all",
    interval: str = "resampled",
    chance: float | None = None,
    ceiling: str | None = None,
    margin: float | None = None,
    statistics: Sequence[StatisticSpec] = (),
    means: str = "",
    does_not_prove: str = "",
    raw: bool = False,
    rotation_invariant: bool = False,
    parameters: Mapping[str, Any] | None = None,
    prepare: Callable[[Any, MoralData], Prepared] | None = None,
    **gone_or_unknown: Any,
) -> Callable[[Callable[[Any, MoralData], Results]], FunctionMetric]:
    """Decorator: turn a function (representation, data) → statistics into a registered metric.

    Args:
        headline: the statistic that stands for the metric in summaries.
        name: the function's name by default.
        direction: of the headline, see `StatisticSpec`.
        null: of the headline, see `StatisticSpec`.
        interval: of the headline, see `StatisticSpec`.
        chance: of the headline, see `StatisticSpec`.
        ceiling: of the headline, see `StatisticSpec`.
        margin: of the headline, see `StatisticSpec`.
        statistics: declarations of further statistics, or of the headline in the place of these keywords.
        means: a sentence for reports.
        does_not_prove: a sentence for reports.
        raw: see `Metric`.
        rotation_invariant: see `Metric`.
        parameters: see `Metric`.
        prepare: a function (representation, data) → `Prepared`, for many versions at once; needed by intervals other
            than `resampled`.

    Raises:
        TypeError: a keyword of version 0.1 or none of these.
        ValueError: the name is taken, or the headline is declared twice.
    """
    own = StatisticSpec(headline, direction, null, interval, chance, ceiling, margin)
    specs = list(statistics)
    if own != StatisticSpec(headline) or headline not in [getattr(spec, "name", None) for spec in specs]:
        specs.insert(0, own)

    def decorate(function: Callable[[Any, MoralData], Results]) -> FunctionMetric:
        called = name or getattr(function, "__name__", "metric")
        if old := [word for word in gone_or_unknown if word in GONE]:
            raise gone(called, headline, old)
        if gone_or_unknown:
            valid = [word for word in inspect.signature(metric).parameters if word != "gone_or_unknown"]
            raise TypeError(str(unknown("keyword of @metric", next(iter(gone_or_unknown)), valid)))
        facts = (
            called,
            headline,
            function,
            tuple(specs),
            means,
            does_not_prove,
            raw,
            rotation_invariant,
            parameters or {},
        )
        made = FunctionMetric(*facts) if prepare is None else PreparedFunctionMetric(*facts, prepare)
        register(made)
        return made

    return decorate


def _is_metric(made: object) -> TypeGuard[Metric]:
    """Whether it is a metric. A metric's class has the same attributes; built from a protocol, it has it for a name."""
    return isinstance(made, Metric) and not isinstance(made, type) and isinstance(made.name, str)


def get_metric(name: str, protocol: Protocol) -> Metric:
    """The metric of that name, in the form the protocol asks for.

    Raises:
        ValueError: unknown name.
        TypeError: the entry point names something that is no metric.
    """
    if name in _registered:
        return _registered[name]
    declared = _declared()
    if name not in declared:
        raise unknown("metric", name, metric_names())
    loaded = declared[name].load()
    made = loaded(protocol) if callable(loaded) and not _is_metric(loaded) else loaded
    if not _is_metric(made):
        raise TypeError(
            f"entry point {name!r} ({declared[name].value}) gave {made!r}; "
            "expected a metric or a function from Protocol to one"
        )
    return made


def resolve_metrics(metrics: Sequence[str | Metric] | None, protocol: Protocol) -> list[Metric]:
    """Names and instances → metrics; None is all declared and registered ones, built-ins first.

    Raises:
        ValueError: unknown name, two metrics of one name, or declarations that contradict each other.
        TypeError: something that is neither a name nor a metric, or declares its statistics as version 0.1 did.
    """
    if metrics is None:
        metrics = sorted(
            metric_names(), key=lambda name: (BUILT_IN.index(name) if name in BUILT_IN else len(BUILT_IN), name)
        )
    resolved: list[Metric] = []
    for item in metrics:
        if not isinstance(item, str) and not _is_metric(item):
            raise TypeError(
                f"{item!r} is not a metric: expected a name, or an instance with name, headline and "
                "__call__(representation, data)"
            )
        resolved.append(get_metric(item, protocol) if isinstance(item, str) else item)
        card_of(resolved[-1])
    names = [item.name for item in resolved]
    if len(set(names)) != len(names):
        raise ValueError(f"metrics given twice: {sorted({name for name in names if names.count(name) > 1})}")
    return resolved


BUILT_IN = ("categorical", "gradient", "structural", "dimensional")
