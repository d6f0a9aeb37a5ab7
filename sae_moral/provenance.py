"""What a diagnosis says about itself: which model, data, protocol, metrics, and what a reader must know first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_moral.capture import Representations
    from sae_moral.controls import Measured
    from sae_moral.data import MoralData
    from sae_moral.metrics import Metric
    from sae_moral.protocol import Protocol


def provenance_of(
    model: Any,
    data: MoralData,
    protocol: Protocol,
    metrics: Sequence[Metric],
    representations: Representations,
    measured: Measured,
) -> dict[str, Any]:
    """JSON values only."""
    from sae_moral.capture import describe_model

    found = {
        "model": describe_model(model),
        "data": {
            **data.provenance,
            "n": len(data),
            "n_texts": len(set(data.group.tolist())),
            "sha256": data.sha256,
        },
        "protocol": _jsonable(dataclasses.asdict(protocol)),
        "metrics": {metric.name: _describe_metric(metric) for metric in metrics},
        "layers": list(representations.layers),
        "saes": representations.provenance.get("saes"),
        "capture": {key: value for key, value in representations.provenance.items() if key != "saes"},
        "preprocessing": measured.facts,
        "controls": measured.controls,
        "prototypes": _prototypes(data) if protocol.estimators == "paper" else None,
        "seed": protocol.seed,
        "versions": _versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    found["warnings"] = _warnings(found)
    return found


def _describe_metric(metric: Metric) -> dict[str, Any]:
    texts, for_controls = ("means", "does_not_prove", "chance", "higher_is"), ("nulls", "alternatives", "readers")
    described = {"headline": metric.headline, **{key: getattr(metric, key, None) for key in texts}}
    given = {key: getattr(metric, key) for key in for_controls if hasattr(metric, key)}
    described |= {key: dict(value) if isinstance(value, Mapping) else value for key, value in given.items()}
    if dataclasses.is_dataclass(metric):
        fields = {field.name: getattr(metric, field.name) for field in dataclasses.fields(metric)}
        told = (*texts, *for_controls, "name", "headline", "raw", "function")
        parameters = {k: v for k, v in fields.items() if k not in told}
        described["parameters"] = _jsonable(parameters)
    return described


def _jsonable(value: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(value, default=str))


def _prototypes(data: MoralData) -> dict[str, dict[str, float]]:
    """Where the paper's prototypes come from: the typicality of their items and how many there are."""
    from sae_moral.foundations import DIMENSIONS
    from sae_moral.metrics.prototypes import prototype_items

    found = {dimension: prototype_items(data, *divmod(d, 2)) for d, dimension in enumerate(DIMENSIONS)}
    return {dimension: {"typicality": top, "n": int(items.sum())} for dimension, (items, top) in found.items()}


def _warnings(provenance: Mapping[str, Any]) -> list[str]:
    """What a reader must know before reading a number."""
    found: list[str] = []
    facts, layers = provenance["preprocessing"], provenance["layers"]
    by_length = [
        (layer, share)
        for layer, share, r in zip(layers, facts["pc1_share"], facts["pc1_length_r"], strict=True)
        if share > 0.5 and r > 0.8
    ]
    if by_length and "standardise" not in provenance["protocol"]["preprocessing"]:
        ruled, shares = zip(*by_length, strict=True)
        found.append(
            f"In {len(ruled)} of {len(layers)} layers ({ruled[0]}–{ruled[-1]}) one direction holds {min(shares):.0%} "
            f"to {max(shares):.1%} of the variance and follows one over the sentence length (|r| > 0.8): what this "
            "protocol measures there is mostly length."
        )
    for dimension, where in (provenance["prototypes"] or {}).items():
        if 0 < where["typicality"] < 1:
            found.append(
                f"{dimension}: no item of typicality 1.0; its prototype is the mean of {where['n']} items at "
                f"{where['typicality']:.3g}."
            )
    verdicts = provenance["controls"].get("verdicts", {})
    found += [f"{name}: {about['sentence']}" for name, about in verdicts.items() if about["verdict"] == "length"]
    if (processing := provenance["model"]["weight_processing"]) != "none":
        found.append(f"The weights were processed ({processing}): the residual stream is not the original model's.")
    return found


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    names = ("sae-moral", "torch", "transformers", "transformer-lens", "sae-lens", "numpy", "scipy", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
