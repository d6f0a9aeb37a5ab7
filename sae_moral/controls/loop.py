"""Any metric, one version of the sample after the other: what controls use for a metric that has no `prepare`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.metrics import Metric, Statistic, evaluate
from sae_moral.metrics.base import checked
from sae_moral.metrics.variants import Prepared, Preparing, Values, Variants


def prepare(metric: Metric, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
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


def own_statistics(metric: Metric, prepared: Prepared, x: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
    """Those of the sample as it is, checked."""
    if isinstance(metric, Preparing):
        return checked(metric, prepared.statistics(), len(data))
    return evaluate(metric, x, data)


def scheme(metric: Metric, statistic: str) -> str | None:
    """What a statistic's labels are permuted within; None where its value does not depend on labels.

    A metric says so in `nulls`: a scheme for all statistics, or a mapping from statistic to scheme. One that says
    nothing gets `all`: labels move freely.
    """
    nulls = getattr(metric, "nulls", "all")
    return nulls if isinstance(nulls, str) else nulls.get(statistic)
