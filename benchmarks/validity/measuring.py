"""One world through the product's own pipeline: preprocessing, metrics, controls, verdicts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.validity.worlds import World
from sae_moral.capture.vectors import Representations
from sae_moral.controls import Controls, Measured, measure
from sae_moral.metrics.registry import resolve_metrics
from sae_moral.protocol import get_protocol

KEPT_GROUPS = ("overall", "care-harm", "harm")


def representations(world: World) -> Representations:
    """A world's vectors, as if a capture had read them."""
    data, layers = world.data, dict(enumerate(world.vectors))
    assert data.length is not None
    return Representations(
        layers=tuple(layers),
        row=np.arange(len(data)),
        length=data.length,
        total=data.length + 1,
        provenance={"model": "planted"},
        read=layers.__getitem__,
    )


def measured(world: World, protocol: str, controls: Controls, metrics: list[str] | None = None) -> Measured:
    """What a diagnosis of this world would hold."""
    used = get_protocol(protocol)
    return measure(
        representations(world),
        world.data,
        resolve_metrics(metrics or ["categorical", "gradient", "structural", "dimensional"], used),
        used,
        controls,
        progress=False,
    )


def record(found: Measured) -> dict[str, Any]:
    """What is kept of it: the peaks, the verdicts, and of every statistic of the last layer the overall row and those
    of one foundation and one dimension, as [value, ci_low, ci_high, p]."""
    last = max(row.layer for row in found.rows)
    rows = {
        f"{row.metric}/{row.statistic}/{row.group}": [
            _short(getattr(row, name)) for name in ("value", "ci_low", "ci_high", "p_value")
        ]
        for row in found.rows
        if row.layer == last and row.group in KEPT_GROUPS
    }
    return {
        "rows": rows,
        "peaks": {metric: dataclasses.asdict(peak) for metric, peak in found.peaks.items()},
        "verdicts": {metric: {"verdict": one.word, "sentence": one.sentence} for metric, one in found.verdicts.items()},
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
