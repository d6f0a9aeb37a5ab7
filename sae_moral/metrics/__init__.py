"""One file per type of indifference, and the registry."""

from sae_moral.metrics.base import FunctionMetric, Metric, Statistic, evaluate
from sae_moral.metrics.registry import get_metric, metric, metric_names, register, resolve_metrics
from sae_moral.results import StatisticSpec

__all__ = [
    "FunctionMetric",
    "Metric",
    "Statistic",
    "StatisticSpec",
    "evaluate",
    "get_metric",
    "metric",
    "metric_names",
    "register",
    "resolve_metrics",
]
