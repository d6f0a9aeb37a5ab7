"""Measure metrics × layers with their controls: the rows of a diagnosis, and what its controls have to say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sae_moral.controls.compare import Comparison, Headline, compare, peak
from sae_moral.controls.inference import alternative_of, interval, p_values
from sae_moral.controls.nuisance import explained_by_family, nuisance_features
from sae_moral.controls.sampled import Draws, Key, Sampled, sample
from sae_moral.controls.settings import Controls
from sae_moral.controls.verdict import verdict
from sae_moral.controls.words import bag_of_words
from sae_moral.data import MoralData
from sae_moral.metrics import Metric
from sae_moral.metrics.folds import folds
from sae_moral.metrics.preprocess import preprocess, within_span
from sae_moral.protocol import Protocol

if TYPE_CHECKING:
    from sae_moral.capture import Representations

NO_LAYER = -1
"""Stands for the layer of a baseline that has none."""


@dataclass
class Measured:
    """Attributes:
    rows: metric, statistic, layer, group, value, ci_low, ci_high, null_low, null_high, p_value, ceiling, baseline, n,
        n_dropped, headline.
    facts: of the preprocessing, per layer.
    controls: what `Diagnosis.provenance["controls"]` holds.
    """

    rows: list[dict[str, Any]]
    facts: dict[str, list[float]]
    controls: dict[str, Any]


def measure(
    representations: Representations,
    data: MoralData,
    metrics: Sequence[Metric],
    protocol: Protocol,
    controls: Controls,
    *,
    baselines: Mapping[str, Callable[[], Representations]] | None = None,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
) -> Measured:
    """All metrics at all layers, one layer in memory at a time.

    Args:
        representations: captured vectors.
        data: their scenarios, with lengths.
        baselines: name → captures the same scenarios otherwise (`random weights`, an SAE's `residual stream`).
        device: where metrics are computed.
    """
    run = _Run(data, metrics, protocol, controls, torch.device(device), progress)
    sampled, facts, nuisance = run.layers(representations, "measure")
    rows = run.rows(representations.layers, sampled)
    if not controls.names:
        return Measured(rows, facts, {})
    found = run.describe(nuisance)
    model = {metric.name: run.headline(metric, representations.layers, sampled) for metric in metrics}
    others = run.baselines(baselines or {})
    _fill_baseline(rows, others.get("bag of words"))
    found["baselines"] = {name: baseline.to_json() for name, baseline in others.items()}
    comparisons: list[Comparison] = []
    found["peaks"], found["verdicts"] = {}, {}
    for metric in metrics:
        compared = (
            compare(metric, model[metric.name], baseline.headlines[metric.name], name, controls.level)
            for name, baseline in others.items()
        )
        own = [comparison for comparison in compared if comparison is not None]
        found["peaks"][metric.name] = peak(metric, model[metric.name], controls.level)
        found["verdicts"][metric.name] = verdict(found["peaks"][metric.name], own, controls.alpha)
        comparisons += own
    found["comparisons"] = [comparison.to_json() for comparison in comparisons]
    found["seconds"] = {name: round(value, 2) for name, value in run.seconds.items()}
    return Measured(rows, facts, found)


@dataclass
class Baseline:
    """A representation in the model's place: its values, and the headlines with their resamples."""

    layers: list[int]
    headlines: dict[str, Headline]
    values: dict[str, list[Mapping[Key, float | None]]]

    def to_json(self) -> dict[str, Any]:
        """The headlines over the layers (none where the baseline has no layers)."""
        return {
            "layers": None if self.layers == [NO_LAYER] else self.layers,
            "headlines": {
                name: {"statistic": line.statistic, "group": line.group, "value": _none(line.value)}
                for name, line in self.headlines.items()
            },
        }


@dataclass
class _Run:
    data: MoralData
    metrics: Sequence[Metric]
    protocol: Protocol
    controls: Controls
    device: torch.device
    progress: bool | None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        schemes = {scheme for metric in self.metrics for scheme in _schemes(metric)}
        fold = None
        if self.protocol.estimators != "paper" and self.protocol.folds <= len(np.unique(self.data.group)):
            fold = folds(self.data, self.protocol.folds, self.protocol.seed)
        length_is_left = "remove_length" not in self.protocol.preprocessing
        free = "null" in self.controls and length_is_left and self.controls.stratum is not None
        self.draws = Draws.of(self.data, sorted(schemes), self.controls, fold=fold, free=free)

    def layers(
        self, representations: Representations, what: str, *, baseline: bool = False
    ) -> tuple[dict[str, list[Sampled]], dict[str, list[float]], dict[str, list[float]]]:
        """Every metric at every layer; the preprocessing's facts; what nuisance explains of the vectors (not of a
        baseline's)."""
        started = time.perf_counter()
        sampled: dict[str, list[Sampled]] = {metric.name: [] for metric in self.metrics}
        facts: dict[str, list[float]] = {}
        nuisance: dict[str, list[float]] = {}
        assert self.data.length is not None
        disable = None if self.progress is None else not self.progress
        for layer in tqdm(representations.layers, desc=what, unit="layer", disable=disable):
            raw = representations[layer].to(self.device)
            prepared, found = preprocess(raw, self.data.length, self.protocol.preprocessing)
            _append(facts, found)
            if not baseline and "nuisance" in self.controls:
                _append(nuisance, explained_by_family(raw, self.data))
            wide = prepared.shape[1] > prepared.shape[0]
            spanned = within_span(prepared) if wide else prepared
            for metric in self.metrics:
                turned = spanned if getattr(metric, "rotation_invariant", False) else prepared
                x = raw.double() if getattr(metric, "raw", False) else turned
                sampled[metric.name].append(sample(metric, x, self.data, self.draws, self.controls, baseline=baseline))
        self.seconds[what] = time.perf_counter() - started
        return sampled, facts, nuisance

    def rows(self, layers: Sequence[int], sampled: Mapping[str, Sequence[Sampled]]) -> list[dict[str, Any]]:
        """One row per metric, statistic, layer and group; p-values corrected over the layers."""
        rows: list[dict[str, Any]] = []
        for metric in self.metrics:
            own = sampled[metric.name]
            keys = dict.fromkeys((s.name, s.group) for one in own for s in one.statistics)
            p = {
                key: p_values(
                    [one.values.get(key) for one in own],
                    [one.null.get(key) for one in own],
                    alternative_of(metric, key[0]),
                )
                for key in keys
            }
            for i, (layer, one) in enumerate(zip(layers, own, strict=True)):
                for statistic in one.statistics:
                    key = statistic.name, statistic.group
                    low, high = self._ends(one.resampled.get(key), statistic.value)
                    null = self._ends(one.null.get(key), statistic.value)
                    rows.append(
                        {
                            "metric": metric.name,
                            "statistic": statistic.name,
                            "layer": layer,
                            "group": statistic.group,
                            "value": statistic.value,
                            "ci_low": low,
                            "ci_high": high,
                            "null_low": null[0],
                            "null_high": null[1],
                            "p_value": p[key][i],
                            "ceiling": None,
                            "baseline": None,
                            "n": statistic.n,
                            "n_dropped": statistic.n_dropped,
                            "headline": statistic.name == metric.headline,
                        }
                    )
        return rows

    def headline(self, metric: Metric, layers: Sequence[int], sampled: Mapping[str, Sequence[Sampled]]) -> Headline:
        """A metric's headline over the layers."""
        own = sampled[metric.name]
        draws = {name: [getattr(one, name) for one in own] for name in ("resampled", "null", "free", "tasks")}
        return Headline.of(metric, layers, [one.values for one in own], draws)

    def baselines(self, captured: Mapping[str, Callable[[], Representations]]) -> dict[str, Baseline]:
        """Whatever was asked for, in the model's place: same metrics, same resamples of texts."""
        found: dict[str, Baseline] = {}
        if "nuisance" in self.controls:
            found["nuisance"] = self._features("nuisance", nuisance_features(self.data))
        for name, capture in captured.items():
            started = time.perf_counter()
            representations = capture()
            self.seconds[f"capture, {name}"] = time.perf_counter() - started
            sampled, _, _ = self.layers(representations, name, baseline=True)
            found[name] = self._baseline(list(representations.layers), sampled)
        if "words" in self.controls:
            started = time.perf_counter()
            vectors = bag_of_words(self.data)
            self.seconds["words"] = time.perf_counter() - started
            # No step of the protocol: standardising or removing length makes this baseline weaker.
            found["bag of words"] = self._features("words", vectors - vectors.mean(dim=0))
        return found

    def _features(self, what: str, x: Float[Tensor, "n d"]) -> Baseline:
        started = time.perf_counter()
        x = x.to(self.device)
        sampled = {
            metric.name: [sample(metric, x, self.data, self.draws, self.controls, baseline=True)]
            for metric in self.metrics
        }
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started
        return self._baseline([NO_LAYER], sampled)

    def _baseline(self, layers: list[int], sampled: Mapping[str, Sequence[Sampled]]) -> Baseline:
        headlines = {metric.name: self.headline(metric, layers, sampled) for metric in self.metrics}
        return Baseline(layers, headlines, {name: [one.values for one in own] for name, own in sampled.items()})

    def describe(self, nuisance: Mapping[str, list[float]]) -> dict[str, Any]:
        """The settings, and what cannot be told from the rows."""
        controls = self.controls
        found: dict[str, Any] = {
            "names": list(controls.names),
            "level": controls.level,
            "alpha": controls.alpha,
            "seed": controls.seed,
            "resamples": controls.resamples if "interval" in controls else None,
            "permutations": controls.permutations if self.draws.permuted else None,
            "monte_carlo": controls.monte_carlo,
            "stratum": controls.stratum,
            "labels_that_cannot_move": {s: round(p.fixed, 4) for s, p in self.draws.permuted.items()},
        }
        if "selectivity" in controls:
            found["control_tasks"] = controls.control_tasks
        if nuisance:
            found["explained_by_nuisance"] = dict(nuisance)
        return found

    def _ends(self, draws: Float[np.ndarray, "b"] | None, value: float | None) -> tuple[float | None, float | None]:
        if draws is None or value is None:
            return None, None
        return interval(draws, self.controls.level) or (None, None)


def _schemes(metric: Metric) -> Iterable[str]:
    nulls = getattr(metric, "nulls", "all")
    return [nulls] if isinstance(nulls, str) else nulls.values()


def _append(lists: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        lists.setdefault(name, []).append(round(value, 6))


def _fill_baseline(rows: list[dict[str, Any]], words: Baseline | None) -> None:
    """The bag of words' value of the same statistic and group."""
    if words is None:
        return
    for row in rows:
        row["baseline"] = words.values[row["metric"]][0].get((row["statistic"], row["group"]))


def _none(values: Float[np.ndarray, "layers"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
