"""Diagnosis records with planted numbers, whole in every field, for tests of what is drawn of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sae_moral.controls import NAMES
from sae_moral.controls.baselines import BASELINES as KINDS
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS
from sae_moral.results import (
    OVERALL,
    Baseline,
    Comparison,
    ControlFacts,
    DiagnosisRecord,
    Direction,
    MetricCard,
    Peak,
    Profile,
    Provenance,
    Row,
    StatisticSpec,
    Verdict,
    best_layer,
    leading_groups,
)

EVERY = NAMES
BASELINES = {kind.name: kind.control for kind in KINDS if kind.shortfall is not None}
"""Baseline → the control that asks for it."""
SHARES = dict.fromkeys(BASELINES, 0.6) | {"nuisance": 0.25, "random weights": 0.5, "bag of words": 0.75}


def row(metric: str, statistic: str, layer: int, group: str, value: float | None, **more: Any) -> Row:
    """One row; what is not given was not computed."""
    return Row(metric, statistic, layer, group, value, **more)


def card(
    name: str,
    headline: str,
    direction: Direction | None = "higher",
    chance: float | None = None,
    *,
    further: Sequence[str] = (),
    means: str = "",
    does_not_prove: str = "",
) -> MetricCard:
    """A metric's declarations."""
    specs = {headline: StatisticSpec(headline, direction, chance=chance)}
    specs |= {one: StatisticSpec(one, direction) for one in further}
    return MetricCard(name, headline, specs, means, does_not_prove, {"folds": 5})


def facts(names: Sequence[str] = EVERY, layers: Sequence[int] = (), **more: Any) -> ControlFacts:
    """How controls were run, with numbers that can be told apart."""
    shares = {
        "length": [0.31 - 0.01 * i for i in range(len(layers))],
        "all": [0.42 - 0.01 * i for i in range(len(layers))],
    }
    found: dict[str, Any] = {
        "names": list(names),
        "level": 0.95,
        "alpha": 0.05,
        "seed": 7,
        "resamples": 400 if "interval" in names else None,
        "permutations": 99 if "null" in names else None,
        "monte_carlo": {"interval_tail": 0.00781, "p_value": 0.0219},
        "stratum": 10,
        "labels_that_cannot_move": {"pole": 0.0123},
        "variation_that_cannot_move": {"pole": 0.0234},
        "variation_within_openings_that_cannot_move": {"all": 0.345} if "selectivity" in names else {},
        "spread_of_length": {"pole": {"mean": 0.456, "largest": 7, "equal": 0.789}},
        "explained_by_nuisance": shares if "nuisance" in names else {},
        "seconds": {"measure": 12.3},
    }
    return found | more  # pyright: ignore[reportReturnType]


def provenance(layers: Sequence[int], controls: ControlFacts | None = None, **more: Any) -> Provenance:
    """All that shaped the numbers."""
    found: dict[str, Any] = {
        "model": {
            "name": "toy", "revision": None, "identity": "cd" * 16, "dtype": "float32", "wrapper": "TransformerBridge",
            "weight_processing": "none", "attached_saes": [], "n_layers": max(len(layers), 1), "d_model": 8,
        },
        "data": {"source": "planted", "n": 600, "n_texts": 580, "sha256": "ab" * 32},
        "protocol": {
            "name": "audited", "template": "{text}", "estimators": "audited", "preprocessing": ["standardise"],
            "seed": 0,
        },
        "layers": list(layers),
        "saes": None,
        "capture": {},
        "preprocessing": {},
        "controls": controls,
        "prototypes": None,
        "ceilings": {},
        "seed": 0,
        "versions": {"sae-moral": "0.2.0"},
        "created": "2026-11-28T00:00:00+00:00",
        "seconds": {"measure": 1.5},
        "warnings": [],
    }  # fmt: skip
    return found | more  # pyright: ignore[reportReturnType]


def record(
    rows: Sequence[Row],
    cards: Sequence[MetricCard],
    *,
    names: Sequence[str] = (),
    verdicts: Mapping[str, str] | None = None,
    peaks: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> DiagnosisRecord:
    """A record of these rows, with profiles and peaks that follow from them.

    Args:
        rows: of all metrics.
        cards: of the metrics.
        names: controls that were run; with them, planted numbers of peaks, baselines and comparisons.
        verdicts: words by metric; `found` where none is given (`not tested` without permuted labels).
        peaks: fields of single peaks that are to be others.
        **more: fields of the provenance.
    """
    layers = sorted({one.layer for one in rows})
    profiles = {one.name: profile for one in cards if (profile := profile_of(rows, one)) is not None}
    found = {name: _peak(profile, cards, names) for name, profile in profiles.items()}
    found = {name: dataclasses.replace(peak, **(peaks or {}).get(name, {})) for name, peak in found.items()}
    given = [name for name, control in BASELINES.items() if control in names]
    baselines = {name: Baseline(name, {m: _baseline(p, name) for m, p in profiles.items()}) for name in given}
    comparisons = [_comparison(found[m], name, names, layers) for m in found for name in given]
    words = {m: (verdicts or {}).get(m, "found" if "null" in names else "not tested") for m in (found if names else ())}
    controls = facts(names, layers) if names else None
    return DiagnosisRecord(
        rows=list(rows),
        metrics={one.name: one for one in cards},
        profiles=profiles,
        peaks=found,
        verdicts={
            m: Verdict(m, word, f"Sentence on {m}.", best_baseline="bag of words" if "words" in names else None)
            for m, word in words.items()
        },
        comparisons=comparisons,
        baselines=baselines,
        provenance=provenance(layers, **({"controls": controls} | more)),
    )


def profile_of(rows: Sequence[Row], one: MetricCard) -> Profile | None:
    """A headline over the layers."""
    at = {(r.layer, r.group): r for r in rows if r.metric == one.name and r.statistic == one.headline}
    known = list(dict.fromkeys(group for (_, group), r in at.items() if r.value is not None and math.isfinite(r.value)))
    if not known:
        return None
    name, groups = leading_groups(known)
    layers = sorted({layer for layer, _ in at})

    def mean(layer: int, field: str) -> float | None:
        values = [getattr(at[layer, g], field) if (layer, g) in at else None for g in groups]
        known = [v for v in values if v is not None and math.isfinite(v)]
        return sum(known) / len(known) if len(known) == len(values) else None

    columns = ([mean(layer, field) for layer in layers] for field in ("value", "ci_low", "ci_high"))
    return Profile(one.name, one.headline, name, tuple(layers), *map(tuple, columns))


def _peak(profile: Profile, cards: Sequence[MetricCard], names: Sequence[str]) -> Peak:
    (declared,) = (one.spec for one in cards if one.name == profile.metric)
    values = np.array([np.nan if v is None else v for v in profile.values])
    best = best_layer(values, declared.direction)
    assert best is not None
    value = float(values[best])
    more: dict[str, Any] = {"ci_low": profile.ci_low[best], "ci_high": profile.ci_high[best]}
    if "interval" in names:
        more = {"ci_low": value - 0.0321, "ci_high": value + 0.0321}
    if "null" in names:
        more |= {"null_low": value - 0.2345, "null_high": value - 0.1345, "p_value": 0.0123, "p_family": 0.0369}
        more |= {"smallest_p": 0.01, "outcome": "more", "margin": 0.02, "at_most": 0.3, "detectable": value - 0.0987}
    if "selectivity" in names:
        more |= {"p_value_within_opening": 0.0456}
    n_layers = int(np.isfinite(values).sum())
    return Peak(profile.metric, profile.statistic, profile.group, profile.layers[best], value, n_layers, **more)


def _baseline(profile: Profile, name: str) -> Profile:
    known = [v for v in profile.values if v is not None]
    if name == "random weights":
        values: tuple[float | None, ...] = tuple(None if v is None else SHARES[name] * v for v in profile.values)
        layers = profile.layers
    else:
        values, layers = (SHARES[name] * max(known),), ()
    nothing = (None,) * len(values)
    return Profile(profile.metric, profile.statistic, profile.group, layers, values, nothing, nothing)


def _comparison(peak: Peak, name: str, names: Sequence[str], layers: Sequence[int]) -> Comparison:
    other = SHARES[name] * peak.value
    tested = "interval" in names
    return Comparison(
        peak.metric, peak.statistic, name, peak.layer, peak.value, layers[0] if name == "random weights" else None,
        other, peak.value - other, *((0.0111, 0.0999, 0.0234) if tested else (None, None, None)),
        outcome="more" if tested else "not computed", margin=0.02, at_most=0.0888 if tested else None,
        detectable=0.0777 if tested else None,
    )  # fmt: skip


def _curve(layers: int, peak: float, floor: float, at: float, wobble: float, seed: float) -> list[float]:
    x = np.linspace(0, 1, layers)
    bump = floor + (peak - floor) * np.exp(-(((x - at) / 0.38) ** 2))
    return [float(v) for v in bump + wobble * np.sin(9 * x + seed) + 0.4 * wobble * np.cos(31 * x + 2 * seed)]


def realistic(layers: int = 30, *, names: Sequence[str] = EVERY, **more: Any) -> DiagnosisRecord:
    """Four metrics × `layers`, five foundations, ten dimensions, with all that controls fill in."""
    rows: list[Row] = []

    def add(metric: str, statistic: str, groups: Sequence[str], peak: float, floor: float, chance: float) -> None:
        head = statistic in ("auroc", "spearman", "accuracy_polarity", "r2")
        for i, group in enumerate(groups):
            lead = group == OVERALL
            offset = 0.0 if lead else 0.16 * (peak - floor) * math.sin(2.3 * i)
            values = _curve(layers, peak + offset, floor + offset / 2, 0.55 + 0.02 * (i % 5), 0.012 * (1 + i % 3), i)
            for layer, value in enumerate(values):
                width = 0.025 if lead else 0.05
                extra: dict[str, Any] = {"n": 1500 if lead else 300, "n_dropped": 0, "headline": head}
                if "interval" in names:
                    extra |= {"ci_low": value - width, "ci_high": value + width}
                if "null" in names:
                    extra |= {"null_low": chance - width, "null_high": chance + width, "p_value": 1 / 101}
                if names and head and lead:
                    extra |= {"ceiling": min(1.0, peak + 0.17), "baseline": (peak + floor) / 2}
                rows.append(row(metric, statistic, layer, group, value, **extra))

    foundations, dimensions = [OVERALL, *FOUNDATIONS], [OVERALL, *DIMENSIONS]
    add("categorical", "auroc", foundations, 0.74, 0.56, 0.5)
    add("categorical", "cosine", FOUNDATIONS, -0.2, 0.6, 0.9)
    add("gradient", "spearman", dimensions, 0.31, 0.05, 0.0)
    add("gradient", "spearman_with_neutral", dimensions, 0.45, 0.1, 0.0)
    add("gradient", "asymmetry", FOUNDATIONS, 0.1, 0.0, 0.0)
    add("structural", "accuracy_polarity", [OVERALL], 0.68, 0.51, 0.5)
    for name in ("accuracy_foundation", "noise"):
        add("structural", name, [OVERALL], 0.2, 0.02, 0.0)
    add("dimensional", "r2", dimensions, 0.155, -0.01, 0.0)
    add("dimensional", "spearman_valence", [OVERALL], 0.7, 0.4, 0.0)
    cards = [
        card("categorical", "auroc", "higher", 0.5, further=["cosine"], means="How well a direction separates poles.",
             does_not_prove="That the model uses it."),
        card("gradient", "spearman", "higher", 0.0, further=["spearman_with_neutral", "asymmetry"],
             means="Rank correlation of typicality.", does_not_prove="That mild and grave acts differ."),
        card("structural", "accuracy_polarity", "higher", 0.5, further=["accuracy_foundation", "noise"],
             means="Share of neighbours of the same polarity.", does_not_prove="That clusters exist."),
        card("dimensional", "r2", "higher", 0.0, further=["spearman_valence"], means="Variance that a probe explains.",
             does_not_prove="That dimensions are apart."),
    ]  # fmt: skip
    x = np.linspace(0, 1, layers)
    told: dict[str, Any] = {
        "capture": {"hook": "blocks.{layer}.hook_resid_post",
                    "first_token_sink_ratio": [float(v) for v in 1 + 60 * np.exp(-(((x - 0.45) / 0.3) ** 4))]},
        "preprocessing": {"length_share": [float(v) for v in 0.08 + 0.25 * x]},
        "warnings": ["12 scenarios are longer than 64 tokens and were cut.",
                     "Foundation sanctity-degradation has only 41 scenarios at typicality 1.0."],
    }  # fmt: skip
    return record(rows, cards, names=names, **(told | more))
