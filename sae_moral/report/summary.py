"""The table a diagnosis prints in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_moral.report.palette import OVERALL
from sae_moral.report.series import best_layer, headline_of, tracks_by_group

if TYPE_CHECKING:
    import pandas as pd

    from sae_moral.diagnosis import Diagnosis


def summary_table(diagnosis: Diagnosis) -> str:
    """Per metric: the headline at its best layer and its groups there; then the warnings."""
    provenance, frame = diagnosis.provenance, diagnosis.frame
    model, data, protocol = (provenance[key] for key in ("model", "data", "protocol"))
    lines = [
        f"{model['name']} · {data.get('source', 'data')} (n = {data['n']}, {data['n_texts']} texts) · "
        f"protocol {protocol['name']} · {len(provenance['layers'])} layers",
        "",
        f"{'metric':<12} {'headline':<18} {'chance':>6} {'best':>8} {'at layer':>8}  by group at that layer",
        *(_line(frame, name, about) for name, about in provenance["metrics"].items()),
        "",
        "The best layer is chosen after the fact: without a null it flatters.",
        *(f"! {warning}" for warning in provenance["warnings"]),
    ]
    return "\n".join(lines)


def _line(frame: pd.DataFrame, name: str, about: dict[str, Any]) -> str:
    statistic = headline_of(frame, name, about) or about["headline"]
    chance = "" if about.get("chance") is None else f"{about['chance']:g}"
    start = f"{name:<12} {statistic:<18} {chance:>6}"
    tracks = tracks_by_group(frame, name, statistic)
    best = best_layer(tracks, about)
    if best is None:
        return f"{start} could not be computed on these scenarios"
    groups = [
        f"{group} {value:.2f}"
        for group, track in tracks.items()
        if group != OVERALL
        for layer, value in zip(track.layers, track["value"], strict=True)
        if layer == best.layer and value == value
    ]
    return f"{start} {best.value:>8.3f} {best.layer:>8}  {', '.join(groups)}"
