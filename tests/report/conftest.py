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
