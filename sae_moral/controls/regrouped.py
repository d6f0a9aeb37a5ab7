"""How much it changes which records are held together: headlines at the model's best layers, grouped otherwise.

Without draws and at one layer per metric, so that it costs little. What it does not prove: that the stricter groups
are strict enough; and a difference of two numbers is not an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from sae_moral.capture import Representations
from sae_moral.controls.baselines import BASELINES
from sae_moral.controls.measure import Measured, measure
from sae_moral.controls.sample import with_length
from sae_moral.controls.settings import Controls
from sae_moral.data import MoralData
from sae_moral.data.groups import groups_of
from sae_moral.protocol import Protocol
from sae_moral.results import Regrouped

if TYPE_CHECKING:
    from sae_moral.metrics import Metric

WORDS = "bag of words"


def regrouped(
    measured: Measured,
    representations: Representations,
    data: MoralData,
    metrics: Sequence[Metric],
    protocol: Protocol,
    *,
    device: torch.device | str = "cpu",
) -> list[Regrouped]:
    """Each headline at its peak, of the model and of the bag of words (where it was measured), with groups of equal
    text; with groups of near text, if those of equal text are what was measured with. None where nothing is
    cross-fitted, or both are the same groups.

    Args:
        measured: what was measured.
        representations: of the model.
        data: the scenarios, with lengths and groups.
        metrics: those that were measured.
        protocol: that was measured under.
        device: where metrics are computed.
    """
    if protocol.estimators == "paper":
        return []
    other = data.regrouped("near" if groups_of(data)["kind"] == "equal" else "equal")
    if len(np.unique(other.group)) == len(np.unique(data.group)):
        return []
    found: list[Regrouped] = []
    for layer in sorted({peak.layer for peak in measured.peaks.values()}):
        own = [
            metric for metric in metrics if metric.name in measured.peaks and measured.peaks[metric.name].layer == layer
        ]
        values = {name: peak.value for name, peak in measured.peaks.items()}
        again = _peaks(replace(representations, layers=(layer,)), other, own, protocol, device)
        found += _compared("model", measured, values, again, data, other)
    if WORDS in measured.baselines:
        profiles = measured.baselines[WORDS].profiles
        values = {name: profile.values[0] for name, profile in profiles.items() if name in measured.peaks}
        vectors = next(kind.vectors for kind in BASELINES if kind.name == WORDS)
        assert vectors is not None and data.length is not None
        words, rows = vectors(data), np.arange(len(data))
        as_captured = Representations((0,), rows, data.length, data.length, {}, lambda _: words)
        own = [with_length(metric) for metric in metrics if metric.name in values]
        again = _peaks(as_captured, other, own, replace(protocol, preprocessing=()), device)
        found += _compared(WORDS, measured, values, again, data, other)
    return found


def _peaks(
    representations: Representations,
    data: MoralData,
    metrics: Sequence[Metric],
    protocol: Protocol,
    device: torch.device | str,
) -> dict[str, float]:
    again = measure(representations, data, metrics, protocol, Controls(names=()), device=device, progress=False)
    return {name: peak.value for name, peak in again.peaks.items()}


def _compared(
    what: str,
    measured: Measured,
    values: Mapping[str, float | None],
    again: Mapping[str, float],
    data: MoralData,
    other: MoralData,
) -> list[Regrouped]:
    first, second = groups_of(data), groups_of(other)
    return [
        Regrouped(
            metric=name,
            statistic=measured.peaks[name].statistic,
            layer=measured.peaks[name].layer if what == "model" else None,
            what=what,
            groups=first["kind"],
            n_groups=first["n_groups"],
            value=value,
            other_groups=second["kind"],
            other_n_groups=second["n_groups"],
            other_value=again[name],
        )
        for name, value in values.items()
        if name in again and value is not None
    ]
