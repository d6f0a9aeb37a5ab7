"""Fake diagnoses: planted values in exactly the shape that `sae_moral.diagnosis` promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sae_moral.foundations import DIMENSIONS, FOUNDATIONS

COLUMNS = (
    *("metric", "statistic", "layer", "group", "value", "ci_low", "ci_high", "null_low", "null_high", "p_value"),
    *("ceiling", "baseline", "n", "n_dropped", "headline"),
)


def row(metric: str, statistic: str, layer: int, group: str, value: float | None, **more: Any) -> dict[str, Any]:
    """One result row; everything not given is None, `headline` is False."""
    made: dict[str, Any] = dict.fromkeys(COLUMNS) | {"headline": False}
    made.update(metric=metric, statistic=statistic, layer=layer, group=group, value=value, **more)
    return made


def diagnosis_of(rows: list[dict[str, Any]], metrics: dict[str, Any], **provenance: Any) -> SimpleNamespace:
    """A duck-typed Diagnosis."""
    layers = sorted({r["layer"] for r in rows})
    base: dict[str, Any] = {
        "model": {"name": "toy", "n_layers": len(layers)},
        "data": {"source": "planted", "n": 600, "sha256": "ab" * 32},
        "protocol": {"name": "audited", "seed": 0},
        "metrics": metrics,
        "warnings": [],
        "layers": layers,
    }
    return SimpleNamespace(rows=rows, frame=pd.DataFrame(rows, columns=list(COLUMNS)), provenance=base | provenance)


def _curve(layers: int, peak: float, floor: float, at: float, wobble: float, seed: float) -> list[float]:
    x = np.linspace(0, 1, layers)
    bump = floor + (peak - floor) * np.exp(-(((x - at) / 0.38) ** 2))
    return [float(v) for v in bump + wobble * np.sin(9 * x + seed) + 0.4 * wobble * np.cos(31 * x + 2 * seed)]


def realistic(layers: int = 30, controls: bool = True) -> SimpleNamespace:
    """Four metrics × `layers`, five foundations, ten dimensions, with intervals, nulls, ceilings and baselines."""
    rows: list[dict[str, Any]] = []

    def add(
        metric: str, statistic: str, groups: list[str], peak: float, floor: float, chance: float, head: bool
    ) -> None:
        for i, group in enumerate(groups):
            lead = group == "overall"
            offset = 0.0 if lead else 0.16 * (peak - floor) * math.sin(2.3 * i)
            values = _curve(layers, peak + offset, floor + offset / 2, 0.55 + 0.02 * (i % 5), 0.012 * (1 + i % 3), i)
            for layer, value in enumerate(values):
                width = 0.025 if lead else 0.05
                extra: dict[str, Any] = {"n": 1500 if lead else 300, "n_dropped": 0, "headline": head}
                if controls:
                    extra |= {"ci_low": value - width, "ci_high": value + width, "null_low": chance - width,
                              "null_high": chance + width, "p_value": 1 / 101}  # fmt: skip
                    if head and lead:
                        extra |= {"ceiling": min(1.0, peak + 0.17), "baseline": (peak + floor) / 2}
                rows.append(row(metric, statistic, layer, group, value, **extra))

    foundations, dimensions = ["overall", *FOUNDATIONS], ["overall", *DIMENSIONS]
    add("categorical", "auroc", foundations, 0.74, 0.56, 0.5, True)
    add("categorical", "cosine", list(FOUNDATIONS), -0.2, 0.6, 0.9, False)
    add("categorical", "cosine_corrected", list(FOUNDATIONS), -0.3, 0.5, 0.9, False)
    add("categorical", "reliability", list(FOUNDATIONS), 0.8, 0.4, 0.1, False)
    add("gradient", "spearman", dimensions, 0.31, 0.05, 0.0, True)
    add("gradient", "spearman_with_neutral", dimensions, 0.45, 0.1, 0.0, False)
    add("gradient", "spearman_partial", dimensions, 0.28, 0.04, 0.0, False)
    add("gradient", "asymmetry", list(FOUNDATIONS), 0.1, 0.0, 0.0, False)
    add("structural", "accuracy_polarity", ["overall"], 0.68, 0.51, 0.5, True)
    scores = [f"{score}_{labels}_{clusters}" for score in ("ari", "ami") for labels in ("polarity", "foundation")
              for clusters in ("hdbscan", "kmeans")]  # fmt: skip
    for name in ("accuracy_foundation", *scores, "noise"):
        add("structural", name, ["overall"], 0.2, 0.02, 0.0, False)
    add("dimensional", "r2", dimensions, 0.155, -0.01, 0.0, True)
    add("dimensional", "r2_adjusted", dimensions, 0.14, -0.02, 0.0, False)
    add("dimensional", "spearman_valence", ["overall"], 0.7, 0.4, 0.0, False)
    metrics = {
        "categorical": {
            "headline": "auroc",
            "means": "How well a direction learnt on other texts separates virtue from vice.",
            "does_not_prove": "That the model uses it: it may be a direction of words. Compare with the baseline.",
            "chance": 0.5, "higher_is": "less indifferent",
        },
        "gradient": {
            "headline": "spearman",
            "means": "Rank correlation of typicality with the distance to the pole’s prototype.",
            "does_not_prove": "That mild and grave acts are told apart: low typicality is mostly low consensus.",
            "chance": 0.0, "higher_is": "less indifferent",
        },
        "structural": {
            "headline": "accuracy_polarity",
            "means": "Share of scenarios whose nearest neighbours have the same polarity.",
            "does_not_prove": "That clusters exist without labels; see ARI and AMI below.",
            "chance": 0.5, "higher_is": "less indifferent",
        },
        "dimensional": {
            "headline": "r2",
            "means": "Variance of the ten dimensions that a ridge probe explains on held-out texts.",
            "does_not_prove": "That the dimensions are represented separately: one valence axis lifts all ten.",
            "chance": 0.0, "higher_is": "less indifferent",
        },
    }  # fmt: skip
    x = np.linspace(0, 1, layers)
    sinks = [float(v) for v in 1 + 60 * np.exp(-(((x - 0.45) / 0.3) ** 4))]
    return diagnosis_of(
        rows, metrics,
        model={"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "7e27bd9f95328f0f3b08261d1252705110c806f8",
               "dtype": "float32", "wrapper": "HookedTransformer", "n_layers": layers},
        data={"source": "moralstrength", "revision": "2020-06", "n": 1512, "sha256": "6a289ec5f814ec97" * 4},
        protocol={"name": "audited", "template": "{scenario} is morally", "pooling": "mean over scenario tokens",
                  "standardise": True, "folds": 5, "bootstrap": {"draws": 200, "seed": 0}, "permutations": 100},
        capture={"hook": "blocks.{layer}.hook_resid_post", "excluded_special_tokens": ["<|im_start|>"],
                 "n_tokens_mean": 11.4, "first_token_sink_ratio": sinks},
        preprocessing={"centre": True, "length_share": [float(v) for v in 0.08 + 0.25 * x],
                       "pc1_share": [float(v) for v in 0.9 - 0.5 * x**2]},
        warnings=["12 scenarios are longer than 64 tokens and were cut.",
                  "Foundation sanctity-degradation has only 41 scenarios at typicality 1.0."],
        versions={"sae_moral": "0.1.0", "transformer_lens": "4.0.0", "torch": "2.8.0"},
        seconds={"capture": 41.7, "metrics": 12.94, "controls": 88.21},
    )  # fmt: skip


def controls_of(
    fake: SimpleNamespace,
    verdicts: dict[str, str] | None = None,
    *,
    names: tuple[str, ...] = ("interval", "null", "nuisance", "words", "selectivity", "random-weights"),
    **more: Any,
) -> dict[str, Any]:
    """`provenance["controls"]` of a diagnosis whose headlines have an `overall`: numbers that can be told apart, and
    the verdict `found` where none is given. What `names` leaves out is null or absent."""
    layers, metrics = fake.provenance["layers"], fake.provenance["metrics"]
    values = {
        metric: [next((r["value"] for r in fake.rows if (r["metric"], r["statistic"], r["group"], r["layer"])
                       == (metric, about["headline"], "overall", layer)), None) for layer in layers]
        for metric, about in metrics.items()
    }  # fmt: skip
    known = {metric: [v for v in line if v is not None] for metric, line in values.items()}
    shares = {"nuisance": 0.25, "random weights": 0.5, "bag of words": 0.75}
    wanted = {"nuisance": "nuisance", "random-weights": "random weights", "words": "bag of words"}
    baselines = {
        name: {"layers": layers if name == "random weights" else None,
               "headlines": {metric: {"statistic": metrics[metric]["headline"], "group": "overall",
                                      "value": [share * v for v in line] if name == "random weights"
                                      else [share * max(line)]} for metric, line in known.items() if line}}
        for key, name in wanted.items() for share in [shares[name]] if key in names
    }  # fmt: skip
    found: dict[str, Any] = {
        "names": list(names), "level": 0.95, "alpha": 0.05, "seed": 7, "stratum": 10,
        "resamples": 400 if "interval" in names else None, "permutations": 99 if "null" in names else None,
        "monte_carlo": {"interval_tail": 0.00781, "p_value": 0.0219}, "labels_that_cannot_move": {"pole": 0.0123},
        "baselines": baselines, "peaks": {}, "verdicts": {}, "comparisons": [], "seconds": {"measure": 12.3},
    }  # fmt: skip
    if "nuisance" in names:
        found["explained_by_nuisance"] = {"length": [0.31 - 0.01 * i for i in range(len(layers))],
                                          "all": [0.42 - 0.01 * i for i in range(len(layers))]}  # fmt: skip
    if "selectivity" in names:
        found["control_tasks"] = 20
    for metric, line in known.items():
        word = (verdicts or {}).get(metric, "found" if "null" in names else "not tested")
        found["verdicts"][metric] = {"verdict": word, "sentence": f"Sentence on {metric}."}
        best = max(line, default=None)
        found["peaks"][metric] = None if best is None else {
            "statistic": metrics[metric]["headline"], "group": "overall", "layer": layers[values[metric].index(best)],
            "value": best, "ci_low": best - 0.0321 if "interval" in names else None,
            "ci_high": best + 0.0321 if "interval" in names else None, "alternative": "greater",
            "p_value": 0.0123 if "null" in names else None, "p_value_any_length": None,
        }  # fmt: skip
        if best is None:
            continue
        if "null" in names:
            found["peaks"][metric] |= {"null_peak_low": best - 0.2345, "null_peak_high": best - 0.1345}
        if "selectivity" in names:
            found["peaks"][metric] |= {"control_task": best - 0.0678, "selectivity": 0.0678}
        for name, baseline in baselines.items():
            other = max(baseline["headlines"][metric]["value"])
            found["comparisons"].append({
                "metric": metric, "statistic": metrics[metric]["headline"], "against": name,
                "layer": found["peaks"][metric]["layer"], "value": best,
                "against_layer": layers[0] if name == "random weights" else None, "against_value": other,
                "difference": best - other, "ci_low": 0.0111 if "interval" in names else None,
                "ci_high": 0.0999 if "interval" in names else None, "p_value": 0.0234 if "interval" in names else None,
            })  # fmt: skip
    return found | more


@pytest.fixture
def make_controls() -> Callable[..., dict[str, Any]]:
    """`controls_of(fake, verdicts=None, *, names=..., **more)`."""
    return controls_of


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """`row(metric, statistic, layer, group, value, **more)`."""
    return row


@pytest.fixture
def make_diagnosis() -> Callable[..., SimpleNamespace]:
    """`diagnosis_of(rows, metrics, **provenance)`."""
    return diagnosis_of


@pytest.fixture
def make_realistic() -> Callable[..., SimpleNamespace]:
    """`realistic(layers=30, controls=True)`."""
    return realistic
