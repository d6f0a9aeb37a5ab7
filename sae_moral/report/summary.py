"""The table a diagnosis prints in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_moral.diagnosis import Diagnosis

OVERALL = "overall"


def summary_table(diagnosis: Diagnosis) -> str:
    """Per metric: the headline at its highest layer, its groups there, and the range over layers; then the warnings."""
    provenance = diagnosis.provenance
    model, data, protocol = (provenance[key] for key in ("model", "data", "protocol"))
    lines = [
        f"{model['name']} · {data.get('source', 'data')} (n = {data['n']}, {data['n_texts']} texts) · "
        f"protocol {protocol['name']} · {len(provenance['layers'])} layers",
        "",
        f"{'metric':<12} {'headline':<18} {'chance':>6} {'highest':>8} {'at layer':>8} {'lowest':>8}  by group at that layer",
    ]
    for name, about in provenance["metrics"].items():
        rows = [row for row in diagnosis.rows if row["metric"] == name and row["headline"] and row["value"] is not None]
        lines.append(_line(name, about, rows))
    lines += ["", "A highest layer is chosen after the fact: without a null it reads high."]
    if provenance["warnings"]:
        lines += ["", *(f"! {warning}" for warning in provenance["warnings"])]
    return "\n".join(lines)


def _line(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    chance = "" if about.get("chance") is None else f"{about['chance']:g}"
    start = f"{name:<12} {about['headline']:<18} {chance:>6}"
    if not rows:
        return f"{start} could not be computed on these scenarios"
    layers = sorted({row["layer"] for row in rows})
    profile = {layer: _level([row for row in rows if row["layer"] == layer]) for layer in layers}
    best = max(layers, key=lambda layer: profile[layer])
    groups = [f"{row['group']} {row['value']:.2f}" for row in rows if row["layer"] == best and row["group"] != OVERALL]
    return f"{start} {profile[best]:>8.3f} {best:>8} {min(profile.values()):>8.3f}  {', '.join(groups)}"


def _level(rows: list[dict[str, Any]]) -> float:
    """A layer's overall value, or the mean of its groups where a metric gives none."""
    overall = [row["value"] for row in rows if row["group"] == OVERALL]
    values = overall or [row["value"] for row in rows]
    return sum(values) / len(values)
