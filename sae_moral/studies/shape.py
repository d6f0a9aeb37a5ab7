"""What shapes a diagnosis, for the keys of the studies that are made of diagnoses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_moral import __version__
from sae_moral.controls import Controls, get_controls
from sae_moral.controls.valence import sentences
from sae_moral.metrics import resolve_metrics
from sae_moral.metrics.base import card_of
from sae_moral.protocol import Protocol, get_protocol

if TYPE_CHECKING:
    from sae_moral.data import MoralData
    from sae_moral.metrics import Metric


def shape_of_diagnosis(
    data: MoralData,
    *,
    protocol: str | Protocol = "audited",
    metrics: Sequence[str | Metric] | None = None,
    controls: str | Sequence[str] | Controls = "default",
    match: str | None = None,
) -> dict[str, Any]:
    """Everything but model, layers and SAE that shapes `diagnose`'s numbers, as JSON values.

    Args:
        data: the scenarios that are measured; a `limit` has been applied.

    Raises:
        ValueError: an unknown protocol, metric or control.
        TypeError: a metric with a parameter that JSON cannot hold.
    """
    chosen, settings = get_protocol(protocol), get_controls(controls)
    return {
        "data": data.held_by(chosen.groups).sha256,
        "protocol": dataclasses.asdict(chosen),
        "metrics": [_described(metric) for metric in resolve_metrics(metrics, chosen)],
        "controls": dataclasses.asdict(settings),
        "sentences": sentences().sha256 if "valence" in settings else None,
        "match": match,
        "version": __version__,
    }


def _described(metric: Metric) -> dict[str, Any]:
    # The code of a metric is not part of a key: whoever changes it gives the metric another name.
    card = card_of(metric)
    parts = {"name": card.name, "statistics": list(card.statistics.values()), "parameters": card.parameters}
    return {**parts, "class": f"{type(metric).__module__}.{type(metric).__qualname__}"}
