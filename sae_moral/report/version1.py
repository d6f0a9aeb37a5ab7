"""A diagnosis as version 0.1 kept it (rows and provenance as dictionaries), for pages that still read that."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sae_moral.results import Baseline, DiagnosisRecord, MetricCard

if TYPE_CHECKING:
    import pandas as pd

_SIDES = {"higher": "greater", "lower": "less", None: "two-sided"}
_WORDS = {"higher": "less indifferent", "lower": "more indifferent", None: ""}


class Version1:
    """The rows and the provenance of version 0.1."""

    def __init__(self, record: DiagnosisRecord) -> None:
        self.record = record
        self.rows: list[dict[str, Any]] = [dataclasses.asdict(row) for row in record.rows]

    @property
    def frame(self) -> pd.DataFrame:
        """The tidy table."""
        return self.record.frame

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """With metrics, peaks, verdicts, comparisons and baselines in it."""
        record = self.record
        controls: dict[str, Any] = {}
        if record.provenance["controls"] is not None:
            controls = {name: value for name, value in record.provenance["controls"].items() if value is not None}
            verdicts = record.verdicts.items()
            controls |= {
                "baselines": {name: _baseline(one) for name, one in record.baselines.items()},
                "peaks": {name: self._peak(name) for name in record.metrics},
                "verdicts": {name: {"verdict": one.word, "sentence": one.sentence} for name, one in verdicts},
                "comparisons": [dataclasses.asdict(one) for one in record.comparisons],
            }
            if not controls["explained_by_nuisance"]:
                del controls["explained_by_nuisance"]
        metrics = {name: _card(card) for name, card in record.metrics.items()}
        return {**record.provenance, "metrics": metrics, "controls": controls}

    def _peak(self, metric: str) -> dict[str, Any] | None:
        if metric not in self.record.peaks:
            return None
        found = dataclasses.asdict(self.record.peaks[metric])
        drawn = (self.record.provenance["controls"] or {}).get("names", [])
        low, high = found.pop("null_low"), found.pop("null_high")
        if "null" in drawn:
            found |= {"null_peak_low": low, "null_peak_high": high}
        for name in ("metric", "n_layers", "ceiling"):
            del found[name]
        if found["selectivity"] is None:
            del found["selectivity"], found["control_task"]
        return {**found, "alternative": _SIDES[self.record.metrics[metric].spec.direction]}


def _baseline(one: Baseline) -> dict[str, Any]:
    profiles = one.profiles.values()
    layers = next((list(profile.layers) for profile in profiles if profile.layers), None)
    lines = {p.metric: {"statistic": p.statistic, "group": p.group, "value": list(p.values)} for p in profiles}
    return {"layers": layers, "headlines": lines}


def _card(card: MetricCard) -> dict[str, Any]:
    return {
        "headline": card.headline,
        "means": card.means,
        "does_not_prove": card.does_not_prove,
        "chance": card.spec.chance,
        "higher_is": _WORDS[card.spec.direction],
        "parameters": card.parameters,
    }
