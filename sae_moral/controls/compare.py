"""A headline over the layers: its peak, and how far that lies from a baseline's.

The difference D of two peaks is bootstrapped with the same resamples of texts for both. The model's peak is chosen
among many layers, so its error is taken to be the largest error of any layer, each about its own value:
E_b = max_l (T_bl − T_l) − (B_b − B), with the baseline at its best layer.
p = (1 + #{E_b ≥ D}) / (1 + b), for the alternative that the model's peak lies further from indifference than the
baseline's. The interval's lower end is D less the upper quantile of E; its upper end comes from the errors of the
peak's own layer. With one layer this is the basic bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sae_moral.controls.inference import interval, p_values
from sae_moral.controls.sample import Key, Sample
from sae_moral.results import (
    OVERALL,
    Comparison,
    Direction,
    MetricCard,
    Peak,
    Profile,
    best_layer,
    leading_groups,
)

Curve = Float[np.ndarray, "layers _"]


@dataclass(frozen=True)
class Headline:
    """A metric's headline over the layers: `overall`, or the mean of its groups where it has no `overall`.

    Attributes:
        metric, statistic, direction: what it is of, and the side that is less indifferent.
        group: `overall`, the only group, or `mean of groups`.
        groups: those it is the mean of.
        layers: numbers; empty for a baseline without layers, whose one value then stands alone.
        value: per layer; NaN where one of the groups has none: such a layer takes no part.
        resampled, null, free, tasks: draws per layer; None when not drawn.
    """

    metric: str
    statistic: str
    direction: Direction | None
    group: str
    groups: tuple[str, ...]
    layers: tuple[int, ...]
    value: Float[np.ndarray, "layers"]
    resampled: Curve | None = None
    null: Curve | None = None
    free: Curve | None = None
    tasks: Curve | None = None

    @classmethod
    def of(
        cls,
        card: MetricCard,
        layers: Sequence[int],
        values: Sequence[Mapping[Key, float | None]],
        draws: Mapping[str, Sequence[Sample]],
        groups: Collection[str] | None = None,
    ) -> Headline:
        """From the values and draws of every layer.

        Args:
            draws: the name of a field → one `Sample` per layer.
            groups: what the headline is the mean of, as in another `Headline` it is compared with; by default
                `overall` if there is one, else all groups that have a value at any layer.
        """
        if groups is None:
            own = [(g, v) for value in values for (name, g), v in value.items() if name == card.headline]
            every, known = dict(own), dict.fromkeys(g for g, v in own if v is not None)
            groups = [OVERALL] if OVERALL in every else list(known)
        group, chosen = leading_groups(list(groups))
        keys = [(card.headline, one) for one in chosen]
        numbers = [[np.nan if (v := value.get(key)) is None else v for key in keys] for value in values]
        value = np.array([np.mean(row) if row else np.nan for row in numbers])
        found = {name: _curve(draws.get(name, ()), keys, value) for name in ("resampled", "null", "free", "tasks")}
        return cls(card.name, card.headline, card.spec.direction, group, tuple(chosen), tuple(layers), value, **found)

    @property
    def sign(self) -> float:
        """−1 where lower is less indifferent."""
        return -1.0 if self.direction == "lower" else 1.0

    @property
    def best(self) -> int | None:
        """Position of the least indifferent layer; None where there is no value."""
        return best_layer(self.value, self.direction)

    def profile(self, level: float) -> Profile:
        """Its values and intervals."""
        none = [None] * len(self.value)
        draws = none if self.resampled is None else list(self.resampled)
        ends = [
            None if one is None or np.isnan(value) else interval(one, level)
            for one, value in zip(draws, self.value, strict=True)
        ]
        low, high = (tuple(None if pair is None else pair[side] for pair in ends) for side in (0, 1))
        return Profile(self.metric, self.statistic, self.group, self.layers, tuple(_none(self.value)), low, high)


def _curve(samples: Sequence[Sample], keys: Sequence[Key], value: Float[np.ndarray, "layers"]) -> Curve | None:
    """Draws of the mean of the groups that a draw has; None unless every layer that takes part was drawn."""
    own = [[sample[key] for key in keys if key in sample] for sample in samples]
    taking_part = [parts for parts, at in zip(own, value, strict=False) if np.isfinite(at)]
    if not taking_part or not all(taking_part):
        return None
    nothing = np.full(len(taking_part[0][0]), np.nan)
    return np.stack(
        [_mean(np.stack(parts)) if np.isfinite(at) else nothing for parts, at in zip(own, value, strict=True)]
    )


def _mean(rows: Float[np.ndarray, "groups b"]) -> Float[np.ndarray, "b"]:
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, rows, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def peak(headline: Headline, level: float, ceiling: float | None = None) -> Peak | None:
    """The layer where the headline is least indifferent, with what was drawn of it; None where it has no value."""
    best = headline.best
    if best is None:
        return None
    values = _none(headline.value)
    ends = None if headline.resampled is None else interval(headline.resampled[best], level)
    p, free = (
        None if null is None else p_values(values, list(null), headline.direction)[best]
        for null in (headline.null, headline.free)
    )
    band = task = None
    if headline.null is not None:
        band = interval(_most_extreme(headline.sign * headline.null) * headline.sign, level)
    value = float(headline.value[best])
    if headline.tasks is not None and np.isfinite(headline.tasks[best]).any():
        task = float(np.nanmean(headline.tasks[best]))
    return Peak(
        metric=headline.metric,
        statistic=headline.statistic,
        group=headline.group,
        layer=headline.layers[best],
        value=value,
        n_layers=int(np.isfinite(headline.value).sum()),
        ci_low=ends[0] if ends else None,
        ci_high=ends[1] if ends else None,
        null_low=band[0] if band else None,
        null_high=band[1] if band else None,
        p_value=p,
        p_value_any_length=free,
        ceiling=ceiling,
        control_task=task,
        selectivity=None if task is None else value - task,
    )


def compare(model: Headline, baseline: Headline, against: str, level: float) -> Comparison | None:
    """The difference of the two peaks; None where one of them has no value."""
    at, other = model.best, baseline.best
    if at is None or other is None:
        return None
    sign, value, theirs = model.sign, float(model.value[at]), float(baseline.value[other])
    difference = value - theirs
    low = high = p = None
    if model.resampled is not None and baseline.resampled is not None:
        errors = sign * (model.resampled - model.value[:, None])
        others = sign * (baseline.resampled[other] - theirs)
        largest, own = _most_extreme(errors) - others, errors[at] - others
        known = np.isfinite(largest) & np.isfinite(own)
        largest, own = largest[known], own[known]
        ends = interval(own, level), interval(largest, level)
        if ends[0] is not None and ends[1] is not None:
            low, high = sorted((sign * (sign * difference - ends[1][1]), sign * (sign * difference - ends[0][0])))
            p = float((1 + (largest >= sign * difference).sum()) / (1 + len(largest)))
    return Comparison(
        metric=model.metric,
        statistic=model.statistic,
        against=against,
        layer=model.layers[at],
        value=value,
        against_layer=baseline.layers[other] if baseline.layers else None,
        against_value=theirs,
        difference=difference,
        ci_low=low,
        ci_high=high,
        p_value=p,
    )


def _most_extreme(curve: Curve) -> Float[np.ndarray, "b"]:
    best = np.where(np.isfinite(curve), curve, -np.inf).max(axis=0)
    return np.where(np.isfinite(best), best, np.nan)


def _none(values: Float[np.ndarray, "layers"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
