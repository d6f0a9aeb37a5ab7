"""One metric on one representation with everything that was drawn: values, resamples, permuted labels."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.controls.draws import Draws, in_folds
from sae_moral.controls.inference import FIXED, faultless, narrowed, widened
from sae_moral.controls.settings import Controls
from sae_moral.data import MoralData
from sae_moral.metrics import Metric, Statistic, evaluate
from sae_moral.metrics.base import Prepared, Preparing, Values, Variants, checked
from sae_moral.metrics.preprocess import EXACT, within_span
from sae_moral.results import StatisticSpec

Key = tuple[str, str]
"""(statistic, group)."""
Sample = dict[Key, Float[np.ndarray, "_"]]


def prepared(metric: Metric, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
    """The metric's own `prepare`, or else a loop that calls it once per version.

    The loop refits everything: a resample is the metric of the drawn texts, copies included (they share a group, so
    folds by `data.group` keep them together). Weights must be whole numbers.
    """
    if isinstance(metric, Preparing):
        return metric.prepare(representation, data)

    def run(variants: Variants, only: Collection[str] | None = None) -> Values:
        found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [float("nan")] * variants.n)
        for v in range(variants.n):
            index = variants.index[min(v, len(variants.index) - 1)].cpu().numpy()
            weight = variants.weight[min(v, len(variants.weight) - 1)].cpu().numpy()
            x, version = representation, data
            if (index != np.arange(len(data))).any():
                version = data.relabelled(index)
            if (weight != 1).any():
                rows = np.repeat(np.arange(len(data)), weight.astype(np.int64))
                x, version = representation[torch.from_numpy(rows).to(x.device)], version.subset(rows)
            for statistic in evaluate(metric, x, version):
                if statistic.value is not None and (only is None or statistic.name in only):
                    found[statistic.name, statistic.group][v] = statistic.value
        return {key: torch.tensor(values, dtype=torch.float64) for key, values in found.items()}

    return Prepared(len(data), {}, run)


def statistics_of(
    metric: Metric,
    ready: Prepared,
    x: Float[Tensor, "n d"],
    data: MoralData,
    only: Collection[str] | None = None,
) -> list[Statistic]:
    """Those of the sample as it is, checked; those named in `only`, if given."""
    if isinstance(metric, Preparing):
        return checked(metric, ready.statistics(only), len(data))
    return [one for one in evaluate(metric, x, data) if only is None or one.name in only]


def headline_alone(metric: Metric, representation: Float[Tensor, "n d"], data: MoralData) -> Sampled:
    """The values of a metric's headline, nothing drawn."""
    ready = prepared(metric, representation, data)
    return Sampled(statistics_of(metric, ready, representation, data, [metric.headline]))


@dataclass(frozen=True)
class Seen:
    """A layer's vectors as they are captured and as they are prepared."""

    raw: Float[Tensor, "n d"]
    prepared: Float[Tensor, "n d"]

    def by(self, metric: Metric) -> Float[Tensor, "n _"]:
        """What a metric is given: the raw vectors, the prepared ones, or those in the coordinates of the rows' span."""
        if getattr(metric, "raw", False):
            return self.raw.double()
        return self._spanned if getattr(metric, "rotation_invariant", False) else self.prepared

    @cached_property
    def _spanned(self) -> Float[Tensor, "n _"]:
        n, d = self.prepared.shape
        if d <= n:
            return self.prepared
        found = torch.from_numpy(within_span(self.prepared.cpu().numpy())).to(self.prepared.device)
        # A column for every row, as a singular value decomposition has: penalties are multiples of a mean over columns.
        return found if n > EXACT else torch.nn.functional.pad(found, (0, n - found.shape[1]))

    @cached_property
    def facts(self) -> dict[str, float]:
        """`span_share`, of the sum of squares of the prepared vectors, where metrics read less than all of it."""
        n, d = self.prepared.shape
        if d <= n or n <= EXACT:
            return {}
        total = float(self.prepared.square().sum())
        return {"span_share": float(self._spanned.square().sum()) / total if total else 1.0}


def with_length(metric: Metric) -> Metric:
    """The metric as it reads a baseline made of the scenarios (length itself, or words): without length, these would
    lack what they stand for."""
    if getattr(metric, "remove_length", False) and dataclasses.is_dataclass(metric) and not isinstance(metric, type):
        return dataclasses.replace(metric, remove_length=False)
    return metric


@dataclass(frozen=True)
class Sampled:
    """Attributes:
    statistics: of the sample as it is.
    resampled: bootstrap draws, with what fits add (`sae_moral.controls.inference`).
    null: draws of permuted labels.
    free: the same, labels moved between texts of any length.
    opening: draws of labels permuted among texts that open with the same word, of the headline.
    """

    statistics: list[Statistic]
    resampled: Sample = field(default_factory=dict)
    null: Sample = field(default_factory=dict)
    free: Sample = field(default_factory=dict)
    opening: Sample = field(default_factory=dict)

    @property
    def values(self) -> dict[Key, float | None]:
        """(statistic, group) → value."""
        return {(s.name, s.group): s.value for s in self.statistics}


def sample(
    metric: Metric,
    specs: Mapping[str, StatisticSpec],
    representation: Float[Tensor, "n d"],
    data: MoralData,
    draws: Draws,
    controls: Controls,
    *,
    baseline: bool = False,
    every: bool = True,
) -> Sampled:
    """A metric with all that is asked for; of a baseline only values, and the resamples of the headline.

    Args:
        specs: what the metric declares of its statistics.
        every: all statistics have values, not the headline alone.
    """
    ready = prepared(metric, representation, data)
    statistics = statistics_of(metric, ready, representation, data, None if every else [metric.headline])
    own = {s.name: specs.get(s.name, StatisticSpec(s.name)) for s in statistics}
    used = {metric.headline: own[metric.headline]} if baseline else own
    by_scheme: dict[str, list[str]] = defaultdict(list)
    for name, spec in used.items():
        if spec.null is not None:
            by_scheme[spec.null].append(name)
    null, free, opening = ({} for _ in range(3))
    for scheme, names in by_scheme.items():
        # Intervals of what is fitted need permuted labels, too, whether or not they are asked for.
        fitted = [name for name in names if used[name].interval != "resampled"] if "interval" in controls else []
        permuted = names if "null" in controls and not baseline else fitted
        if permuted and (drawn := draws.permuted(scheme)) is not None:
            index = drawn.index[: controls.fewer] if baseline else drawn.index
            null |= _arrays(ready, Variants.relabelled(index), permuted)
        if not baseline and (drawn := draws.permuted(scheme, free=True)) is not None:
            free |= _arrays(ready, Variants.relabelled(drawn.index), names)
        if metric.headline in names and not baseline and (drawn := draws.within_opening(scheme)) is not None:
            opening |= _arrays(ready, Variants.relabelled(drawn.index), [metric.headline])
    values = {(s.name, s.group): s.value for s in statistics}
    resampled = _resampled(ready, used, values, null, data, draws, controls.seed)
    return Sampled(statistics, resampled, null if "null" in controls and not baseline else {}, free, opening)


def _resampled(
    ready: Prepared,
    specs: Mapping[str, StatisticSpec],
    values: Mapping[Key, float | None],
    null: Sample,
    data: MoralData,
    draws: Draws,
    seed: int,
) -> Sample:
    """Bootstrap draws by the kinds of interval that the statistics declare."""
    if draws.weight is None or draws.perturbed is None or draws.fit is None:
        return {}
    found, moved, refitted = Sample(), Sample(), Sample()
    fixed = [name for name, spec in specs.items() if spec.interval in FIXED]
    if fixed:
        refitted = _arrays(ready, Variants.refitted(draws.fit), fixed)
    for kind in FIXED:
        if names := [name for name in fixed if specs[name].interval == kind]:
            fold = draws.fold if kind == "fixed_by_fold" else None
            weight = draws.perturbed if fold is None else in_folds(draws.perturbed, data, fold)
            moved |= _arrays(ready, Variants.weighed(weight), names)
    if others := [name for name, spec in specs.items() if spec.interval not in FIXED]:
        found = _arrays(ready, Variants.weighed(draws.weight), others)
    for key, own in values.items():
        if key in moved and own is not None:
            found[key] = widened(moved[key], refitted[key], own, null.get(key), seed)
        elif key in found and specs[key[0]].interval == "linearised" and key in null and own is not None:
            found[key] = narrowed(found[key], own, null[key])
        if key in found and own is not None:
            found[key] = faultless(own, specs[key[0]].best, found[key], null.get(key), seed)
    return found


def _arrays(ready: Prepared, variants: Variants, only: Collection[str] | None) -> Sample:
    return {key: value.detach().numpy() for key, value in ready(variants.single(), only).items()}
