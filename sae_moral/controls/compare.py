"""A metric's peak over layers, and how far it lies from a baseline's.

The difference D of two peaks is bootstrapped with the same resamples of texts for both. The model's peak may owe
something to being the best of many layers, so its error is taken to be the largest error of any layer, each about its
own value: E_b = max_l (T_bl − T_l) − (B_b − B), with the baseline at its best layer.
p = (1 + #{E_b ≥ D}) / (1 + b), for the alternative that the model's peak lies further from indifference than the
baseline's. The interval's lower end is D less the upper quantile of E; its upper end is had from the errors of the
peak's own layer. With one layer this is the basic bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_moral.controls.inference import alternative_of, interval, p_values
from sae_moral.controls.sampled import Key, Sample
from sae_moral.metrics import Metric
from sae_moral.metrics.base import OVERALL

Curve = Float[np.ndarray, "layers _"]


@dataclass(frozen=True)
class Headline:
    """A metric's headline over the layers: `overall`, or the mean of its groups where it has no `overall`.

    Attributes:
        group: `overall` or `mean of groups`.
        layers: numbers.
        value: per layer, NaN for none.
        resampled, null, free, tasks: draws per layer; None when not drawn.
    """

    metric: str
    statistic: str
    group: str
    layers: list[int]
    value: Float[np.ndarray, "layers"]
    resampled: Curve | None
    null: Curve | None
    free: Curve | None
    tasks: Curve | None

    @classmethod
    def of(
        cls,
        metric: Metric,
        layers: Sequence[int],
        values: Sequence[Mapping[Key, float | None]],
        draws: Mapping[str, Sequence[Sample]],
    ) -> Headline:
        """From the values and draws of every layer; `draws`: the name of a field → one `Sample` per layer."""
        groups = [group for name, group in values[0] if name == metric.headline]
        chosen = [OVERALL] if OVERALL in groups else groups
        keys = [(metric.headline, group) for group in chosen]

        def mean(rows: np.ndarray) -> np.ndarray:
            known = np.isfinite(rows)
            count = known.sum(axis=0)
            return np.where(count > 0, np.where(known, rows, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)

        def curve(name: str) -> Curve | None:
            samples = draws.get(name, [])
            per_layer = [[sample[key] for key in keys if key in sample] for sample in samples]
            if not per_layer or not all(per_layer):
                return None
            return np.stack([mean(np.stack(rows)) for rows in per_layer])

        numbers = np.array([[np.nan if (v := value.get(key)) is None else v for key in keys] for value in values])
        group = OVERALL if chosen == [OVERALL] else "mean of groups"
        found = (curve(name) for name in ("resampled", "null", "free", "tasks"))
        return cls(metric.name, metric.headline, group, list(layers), mean(numbers.T), *found)


def sign_of(metric: Metric) -> float:
    """1 where a higher headline is less indifferent, −1 where a lower one is; 1 where the metric does not say."""
    return -1.0 if alternative_of(metric, metric.headline) == "less" else 1.0


def peak(metric: Metric, headline: Headline, level: float) -> dict[str, Any] | None:
    """The layer where the headline is least indifferent, with its interval, its p-value against the most extreme layer
    of every permutation (`p_value`; `p_value_any_length` where labels moved between texts of any length), and its
    selectivity. None where it has no value."""
    if not np.isfinite(headline.value).any():
        return None
    best = int(np.nanargmax(sign_of(metric) * headline.value))
    values = [None if np.isnan(value) else float(value) for value in headline.value]
    alternative = alternative_of(metric, metric.headline)
    ends = None if headline.resampled is None else interval(headline.resampled[best], level)
    found: dict[str, Any] = {
        "statistic": headline.statistic,
        "group": headline.group,
        "layer": headline.layers[best],
        "value": values[best],
        "ci_low": ends[0] if ends else None,
        "ci_high": ends[1] if ends else None,
        "alternative": alternative,
    }
    for name, null in (("p_value", headline.null), ("p_value_any_length", headline.free)):
        found[name] = None if null is None else p_values(values, list(null), alternative)[best]
    if headline.null is not None:
        extreme = _best(sign_of(metric) * headline.null) * sign_of(metric)
        found["null_peak_low"], found["null_peak_high"] = interval(extreme, level) or (None, None)
    if headline.tasks is not None and np.isfinite(headline.tasks[best]).any():
        task = float(np.nanmean(headline.tasks[best]))
        found["control_task"], found["selectivity"] = task, float(headline.value[best]) - task
    return found


@dataclass(frozen=True)
class Comparison:
    """A model's peak against a baseline's.

    Attributes:
        metric, statistic, against: what is compared, and with which baseline.
        layer, value: the model's peak.
        against_layer, against_value: the baseline's; its layer is None where it has none.
        difference: value − against_value.
        ci_low, ci_high, p_value: of the difference; None where resamples are missing.
    """

    metric: str
    statistic: str
    against: str
    layer: int
    value: float
    against_layer: int | None
    against_value: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def compare(metric: Metric, model: Headline, baseline: Headline, against: str, level: float) -> Comparison | None:
    """The difference of the two peaks; None where one of them has no value."""
    if not (np.isfinite(model.value).any() and np.isfinite(baseline.value).any()):
        return None
    sign = sign_of(metric)
    places = [int(np.nanargmax(sign * headline.value)) for headline in (model, baseline)]
    peaks = [float(headline.value[place]) for headline, place in zip((model, baseline), places, strict=True)]
    difference = peaks[0] - peaks[1]
    low = high = p = None
    if model.resampled is not None and baseline.resampled is not None:
        errors = sign * (model.resampled - model.value[:, None])
        others = sign * (baseline.resampled[places[1]] - peaks[1])
        largest, own = _best(errors) - others, errors[places[0]] - others
        known = np.isfinite(largest) & np.isfinite(own)
        largest, own = largest[known], own[known]
        ends = interval(own, level), interval(largest, level)
        if ends[0] is not None and ends[1] is not None:
            signed = sorted((sign * (sign * difference - ends[1][1]), sign * (sign * difference - ends[0][0])))
            low, high = signed
            p = float((1 + (largest >= sign * difference).sum()) / (1 + len(largest)))
    layer = baseline.layers[places[1]] if len(baseline.layers) > 1 or baseline.layers[0] >= 0 else None
    return Comparison(
        metric=metric.name,
        statistic=model.statistic,
        against=against,
        layer=model.layers[places[0]],
        value=peaks[0],
        against_layer=layer,
        against_value=peaks[1],
        difference=difference,
        ci_low=low,
        ci_high=high,
        p_value=p,
    )


def _best(curve: Curve) -> Float[np.ndarray, "b"]:
    best = np.where(np.isfinite(curve), curve, -np.inf).max(axis=0)
    return np.where(np.isfinite(best), best, np.nan)
