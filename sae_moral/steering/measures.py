"""What is measured of one steering: its effect on moral matters, and its damage elsewhere. JSON values only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sae_moral.capture import capture
from sae_moral.data import MoralData
from sae_moral.metrics import evaluate, resolve_metrics
from sae_moral.metrics.preprocess import preprocess
from sae_moral.protocol import AUDITED
from sae_moral.steering.acceptability import PAIRS, TEMPLATE, acceptability
from sae_moral.steering.hooks import steer
from sae_moral.steering.side_effects import OPENINGS, diversity, neutral_texts, side_effects
from sae_moral.steering.steering import Steering

METRICS = ("categorical", "gradient")


@dataclass(frozen=True)
class MeasureSettings:
    """Attributes:
    neutral: texts for the side effects.
    openings: what is continued, for the diversity of generations.
    new_tokens: how far.
    pairs, template: of the acceptability margin.
    """

    neutral: tuple[str, ...] = field(default_factory=lambda: tuple(neutral_texts()))
    openings: tuple[str, ...] = OPENINGS
    new_tokens: int = 32
    pairs: tuple[tuple[str, str], ...] = PAIRS
    template: str = TEMPLATE


def measure_steering(
    model: Any,
    steerings: Sequence[Steering],
    data: MoralData,
    layers: Sequence[int],
    settings: MeasureSettings,
    *,
    full: bool = True,
    any_model: bool = False,
) -> dict[str, Any]:
    """Margins of the scenarios (to 10⁻⁶ nats) and side effects; with `full`, audited headlines at the
    given layers and the diversity of what is generated, too."""
    words = {"pairs": settings.pairs, "template": settings.template}
    margin = acceptability(model, data, steerings, **words, draws=1, any_model=any_model).margin
    effects = side_effects(model, steerings, settings.neutral, any_model=any_model)
    found = {"margin": [round(float(value), 6) for value in margin], **dataclasses.asdict(effects)}
    if not full:
        return found
    return {
        **found,
        "headlines": downstream(model, steerings, data, layers, any_model=any_model),
        **diversity(model, steerings, settings.openings, max_new_tokens=settings.new_tokens, any_model=any_model),
    }


def downstream(
    model: Any, steerings: Sequence[Steering], data: MoralData, layers: Sequence[int], *, any_model: bool = False
) -> dict[str, dict[str, float | None]]:
    """{layer: {metric: overall headline}} of the audited protocol, at layers behind the edit."""
    if not layers:
        return {}
    how: dict[str, Any] = {"template": AUDITED.template, "pooling": AUDITED.pooling, "bos": AUDITED.bos}
    with steer(model, steerings, any_model=any_model):
        representations = capture(model, data.text, layers=layers, progress=False, **how)
    measured = dataclasses.replace(data, length=representations.length)
    found: dict[str, dict[str, float | None]] = {}
    for layer in representations.layers:
        vectors, _ = preprocess(representations[layer], representations.length, AUDITED.preprocessing)
        found[str(layer)] = {}
        for metric in resolve_metrics(METRICS, AUDITED):
            results = {(one.name, one.group): one.value for one in evaluate(metric, vectors, measured)}
            found[str(layer)][metric.name] = results[metric.headline, "overall"]
    return found
