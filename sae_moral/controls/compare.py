"""A headline over the layers: its peak, and how far that lies from a baseline's.

More. The difference D of two peaks is bootstrapped with the same resamples of texts for both. The model's peak is
chosen among many layers, so its error is taken to be the largest error of any layer, each about its own value:
E_b = max_l (T_bl − T_l) − (B_b − B), with the baseline at its best layer.
p = (1 + #{E_b ≥ D}) / (1 + b), for the alternative that the model's peak lies further from indifference than the
baseline's. The interval's lower end is D less the upper quantile of E; its upper end comes from the errors of the
peak's own layer. With one layer this is the basic bootstrap interval.

Not more. No layer leads by a margin: the upper bound at 1 − alpha of each layer's lead, (T_l − B) less the alpha
quantile of its error (T_bl − T_l) − (B_b − B), lies inside the margin. That is the upper one of two one-sided tests
(Schuirmann 1987), i.e. an interval at 1 − 2 alpha; over layers each test is at alpha, since all of them have to hold
(intersection-union, Berger 1982). A baseline with layers of its own is taken at its best one, which flatters it.

Cannot tell: neither. `detectable` is the lead that would have been shown four times in five: the 1 − alpha quantile of
E, and z(0.8) times the spread of the error of the peak's own layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sae_moral.controls.inference import detectable, interval, most_extreme, p_values, smallest_p
from sae_moral.controls.sample import Key, Sample
from sae_moral.results import (
    OVERALL,
    Comparison,
    Direction,
    MetricCard,
    Outcome,
    Peak,
    Profile,
    best_layer,
    leading_groups,
)
from sae_moral.shown import shown

Curve = Float[np.ndarray, "layers _"]
DRAWN = ("resampled", "null", "free", "opening")
"""Fields of a `Headline`, and of what is sampled of each layer, that are draws."""


@shown()
@dataclass(frozen=True)
class Headline:
    """A metric's headline over the layers: `overall`, or the mean of its groups where it has no `overall`.

    Attributes:
        metric, statistic, direction: what it is of, and the side that is less indifferent.
        group: `overall`, the only group, or `mean of groups`.
        groups: those it is the mean of.
        layers: numbers; empty for a baseline without layers, whose one value then stands alone.
        value: per layer; NaN where one of the groups has none: such a layer takes no part.
        resampled, null, free, opening: draws per layer; None when not drawn.
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
    opening: Curve | None = None

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
        found = {name: _curve(draws.get(name, ()), keys, value) for name in DRAWN}
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


def outcome(p_value: float | None, at_most: float | None, alpha: float, margin: float | None) -> Outcome:
    """Of a comparison with this p-value and this upper bound of its lead."""
    if p_value is None:
        return "not computed"
    if p_value < alpha:
        return "more"
    return "not more" if at_most is not None and margin is not None and at_most <= margin else "cannot tell"


def peak(headline: Headline, level: float, *, alpha: float = 0.05, margin: float | None = None) -> Peak | None:
    """The layer where the headline is least indifferent, with what was drawn of it; None where it has no value.

    Args:
        headline: over the layers.
        level: of intervals and bands.
        alpha: of the bounds and, before it is corrected for the number of metrics, of the outcome.
        margin: the largest distance from chance that counts as none.
    """
    best = headline.best
    if best is None:
        return None
    values = _none(headline.value)
    ends = None if headline.resampled is None else interval(headline.resampled[best], level)
    p, free, opening = (
        None if null is None else p_values(values, list(null), headline.direction)[best]
        for null in (headline.null, headline.free, headline.opening)
    )
    band = None
    if headline.null is not None:
        band = interval(most_extreme(headline.sign * headline.null) * headline.sign, level)
    at_most, shows = _from_chance(headline, best, alpha)
    return Peak(
        metric=headline.metric,
        statistic=headline.statistic,
        group=headline.group,
        layer=headline.layers[best],
        value=float(headline.value[best]),
        n_layers=int(np.isfinite(headline.value).sum()),
        ci_low=ends[0] if ends else None,
        ci_high=ends[1] if ends else None,
        null_low=band[0] if band else None,
        null_high=band[1] if band else None,
        p_value=p,
        p_value_any_length=free,
        p_value_within_opening=opening,
        smallest_p=None if headline.null is None else smallest_p(headline.null, headline.direction),
        outcome=outcome(p, at_most, alpha, margin),
        margin=margin,
        at_most=at_most,
        detectable=shows,
    )


def _from_chance(headline: Headline, best: int, alpha: float) -> tuple[float | None, float | None]:
    """The upper bound of any layer's distance from the mean of its permuted labels, and the value that would have been
    told from them; None without draws, or where both sides are tested."""
    if headline.null is None or headline.direction is None:
        return None, None
    sign, null = headline.sign, headline.sign * headline.null
    extreme = most_extreme(null)
    if not np.isfinite(extreme).any():
        return None, None
    drawn = headline.null if headline.resampled is None else headline.resampled
    spread = float(np.nanstd(drawn[best])) if np.isfinite(drawn[best]).any() else float(np.nanstd(extreme))
    shows = sign * detectable(float(np.nanquantile(extreme, 1 - alpha)), spread)
    if headline.resampled is None:
        return None, shows
    taking_part = np.isfinite(headline.value)
    chance = np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in null[taking_part]])
    return _bound(sign * headline.resampled[taking_part] - chance[:, None], 1 - alpha), shows


def _bound(leads: Curve, share: float) -> float | None:
    """The largest of the layers' quantiles; None where one of them has too few draws."""
    ends = [interval(row, 2 * share - 1) for row in leads]
    return max(end[1] for end in ends if end) if ends and all(end is not None for end in ends) else None


def compare(
    model: Headline,
    baseline: Headline,
    against: str,
    level: float,
    *,
    alpha: float = 0.05,
    margin: float | None = None,
) -> Comparison | None:
    """The difference of the two peaks; None where one of them has no value.

    Args:
        model: its headline.
        baseline: the baseline's.
        against: the baseline's name.
        level: of the interval.
        alpha: of the outcome.
        margin: the largest lead that counts as none.
    """
    at, other = model.best, baseline.best
    if at is None or other is None:
        return None
    sign, value, theirs = model.sign, float(model.value[at]), float(baseline.value[other])
    lead = sign * (value - theirs)
    low = high = p = at_most = shows = None
    if model.resampled is not None and baseline.resampled is not None:
        errors = sign * (model.resampled - model.value[:, None])
        others = sign * (baseline.resampled[other] - theirs)
        largest, own = most_extreme(errors) - others, errors[at] - others
        known = np.isfinite(largest) & np.isfinite(own)
        largest, own = largest[known], own[known]
        ends = interval(own, level), interval(largest, level)
        if ends[0] is not None and ends[1] is not None:
            low, high = sorted((sign * (lead - ends[1][1]), sign * (lead - ends[0][0])))
            p = float((1 + (largest >= lead).sum()) / (1 + len(largest)))
            shows = detectable(float(np.quantile(largest, 1 - alpha)), float(own.std()))
            leads = sign * (model.value - theirs)[:, None] - (errors - others)
            at_most = _bound(leads[np.isfinite(model.value)], 1 - alpha)
    return Comparison(
        metric=model.metric,
        statistic=model.statistic,
        against=against,
        layer=model.layers[at],
        value=value,
        against_layer=baseline.layers[other] if baseline.layers else None,
        against_value=theirs,
        difference=value - theirs,
        ci_low=low,
        ci_high=high,
        p_value=p,
        outcome=outcome(p, at_most, alpha, margin),
        margin=margin,
        at_most=at_most,
        detectable=shows,
    )


def _none(values: Float[np.ndarray, "layers"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
