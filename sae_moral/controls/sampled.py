"""One metric on one representation with everything that was drawn: values, resamples, permuted labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.controls import loop
from sae_moral.controls.control_tasks import control_tasks
from sae_moral.controls.draws import Permutations, in_folds, permutations, perturbed, resamples
from sae_moral.controls.inference import narrowed, widened
from sae_moral.controls.settings import Controls
from sae_moral.data import MoralData
from sae_moral.metrics import Metric, Statistic
from sae_moral.metrics.variants import Prepared, Preparing, Variants

Key = tuple[str, str]
"""(statistic, group)."""
GIVEN = ("given", "averaged")
"""Kinds of `readers` whose weighed versions leave the readers as they are."""
Sample = dict[Key, Float[np.ndarray, "_"]]


@dataclass(frozen=True)
class Draws:
    """What all metrics and layers of a diagnosis share.

    Attributes:
        weight: resamples of texts; None when no interval is asked for.
        perturbed: small perturbations of the weights of texts, for held-out scores of given readers.
        reader: resamples of texts that readers are fitted to, as many as there are permutations.
        permuted: scheme → permutations within strata of length (or free, if the settings say so).
        free: scheme → permutations among texts of any length; empty where the protocol takes length out.
        tasks: scheme → labels of control tasks.
        fold: of each scenario; None where nothing is cross-fitted.
    """

    weight: Float[Tensor, "b n"] | None
    perturbed: Float[Tensor, "b n"] | None
    reader: Float[Tensor, "r n"] | None
    permuted: Mapping[str, Permutations]
    free: Mapping[str, Permutations]
    tasks: Mapping[str, Int[Tensor, "t n"]]
    fold: Int[np.ndarray, "n"] | None = None

    @classmethod
    def of(
        cls,
        data: MoralData,
        schemes: Sequence[str],
        controls: Controls,
        *,
        fold: Int[np.ndarray, "n"] | None,
        free: bool,
    ) -> Draws:
        """Draw them.

        Args:
            schemes: those the metrics name.
            fold: labels stay in their fold.
            free: draw permutations among texts of any length, too.
        """
        seed, b = controls.seed, controls.permutations
        needed = list(schemes) if "null" in controls or "interval" in controls else []
        stratum = controls.stratum if data.length is not None else None
        return cls(
            resamples(data, controls.resamples, seed=seed) if "interval" in controls else None,
            perturbed(data, controls.resamples, seed=seed) if "interval" in controls else None,
            resamples(data, b, seed=seed + 1) if "interval" in controls else None,
            {s: permutations(data, s, b, seed=seed, fold=fold, stratum=stratum) for s in needed},
            {s: permutations(data, s, b, seed=seed, fold=fold, stratum=None) for s in needed if free},
            {s: control_tasks(data, s, controls.control_tasks, seed=seed) for s in schemes}
            if "selectivity" in controls
            else {},
            fold,
        )


@dataclass(frozen=True)
class Sampled:
    """Attributes:
    statistics: of the sample as it is.
    resampled: bootstrap draws, with what readers add (`sae_moral.controls.inference`).
    null: draws of permuted labels.
    free: the same, labels moved between texts of any length.
    tasks: draws of control tasks, of the headline.
    """

    statistics: list[Statistic]
    resampled: Sample = field(default_factory=dict)
    null: Sample = field(default_factory=dict)
    free: Sample = field(default_factory=dict)
    tasks: Sample = field(default_factory=dict)

    @property
    def values(self) -> dict[Key, float | None]:
        """(statistic, group) → value."""
        return {(s.name, s.group): s.value for s in self.statistics}


def sample(
    metric: Metric,
    representation: Float[Tensor, "n d"],
    data: MoralData,
    draws: Draws,
    controls: Controls,
    *,
    baseline: bool = False,
) -> Sampled:
    """A metric with all that is asked for; of a baseline only values, and the resamples of the headline."""
    prepared = loop.prepare(metric, representation, data)
    statistics = loop.own_statistics(metric, prepared, representation, data)
    readers = getattr(metric, "readers", {}) if isinstance(metric, Preparing) else {}
    names = [metric.headline] if baseline else list(dict.fromkeys(s.name for s in statistics))
    by_scheme: dict[str, list[str]] = defaultdict(list)
    for name in names:
        scheme = loop.scheme(metric, name)
        if scheme is not None:
            by_scheme[scheme].append(name)
    null, free, tasks = ({} for _ in range(3))
    for scheme, own in by_scheme.items():
        # Intervals of what readers read need permuted labels, too, whether or not they are asked for.
        read = [name for name in own if name in readers] if "interval" in controls else []
        permuted = own if "null" in controls and not baseline else read
        if scheme in draws.permuted and permuted:
            null |= _arrays(prepared, Variants.relabelled(draws.permuted[scheme].index), permuted)
        if scheme in draws.free and not baseline:
            free |= _arrays(prepared, Variants.relabelled(draws.free[scheme].index), own)
        if scheme in draws.tasks and metric.headline in own and not baseline:
            tasks |= _arrays(prepared, Variants.relabelled(draws.tasks[scheme]), [metric.headline])
    resampled: Sample = {}
    if draws.weight is not None and draws.perturbed is not None and draws.reader is not None:
        moved, refitted = {}, {}
        for kind in GIVEN:
            if not (given := [name for name in names if readers.get(name) == kind]):
                continue
            fold = draws.fold if kind == "averaged" else None
            weight = draws.perturbed if fold is None else in_folds(draws.perturbed, data, fold)
            moved |= _arrays(prepared, Variants.weighed(weight), given)
            refitted |= _arrays(prepared, Variants.refitted(draws.reader), given)
        if others := [name for name in names if readers.get(name) not in GIVEN]:
            resampled = _arrays(prepared, Variants.weighed(draws.weight), others)
        values = {(s.name, s.group): s.value for s in statistics}
        for key, own in values.items():
            if key in moved and own is not None:
                resampled[key] = widened(moved[key], refitted[key], own, null.get(key), controls.seed)
            elif key in resampled and readers.get(key[0]) == "linear" and key in null and own is not None:
                resampled[key] = narrowed(resampled[key], own, null[key])
    return Sampled(statistics, resampled, null if "null" in controls and not baseline else {}, free, tasks)


def _arrays(prepared: Prepared, variants: Variants, only: Sequence[str] | None) -> Sample:
    return {key: value.detach().numpy() for key, value in prepared(variants, only).items()}
