"""Diagnosis files of older versions as today's content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_moral.io import jsonable
from sae_moral.results.types import (
    OVERALL,
    Baseline,
    Direction,
    MetricCard,
    Outcome,
    Profile,
    StatisticSpec,
    best_layer,
    leading_groups,
)


def migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Today's content from an older version's."""
    return _as_schema_3(jsonable(_as_schema_2(content)) if version == 1 else content)


def _as_schema_3(content: dict[str, Any]) -> dict[str, Any]:
    """Comparisons have an outcome. A verdict that took "not shown to be more" for "no more", or a comparison that was
    not computed for one that was passed, is one of less certain words."""
    controls = content["provenance"]["controls"]
    if controls is None:
        return content
    alpha, rest = controls["alpha"], {name: value for name, value in controls.items() if name != "control_tasks"}
    cards = content["metrics"].values()
    lower = [card["name"] for card in cards if card["statistics"][card["headline"]]["direction"] == "lower"]
    comparisons = [_with_outcome(one, alpha, one["metric"] in lower) for one in content["comparisons"]]
    peaks = {
        name: peak | {"outcome": "not computed" if (p := peak["p_value"]) is None else _outcome(p, alpha)}
        for name, peak in content["peaks"].items()
    }
    verdicts = {
        metric: _less_certain(one, {c["against"]: c["outcome"] for c in comparisons if c["metric"] == metric})
        for metric, one in content["verdicts"].items()
    }
    provenance = content["provenance"] | {"controls": rest}
    more = {"peaks": peaks, "comparisons": comparisons, "verdicts": verdicts, "provenance": provenance}
    return content | more


def _outcome(p_value: float, alpha: float) -> Outcome:
    return "more" if p_value < alpha else "cannot tell"


def _with_outcome(one: dict[str, Any], alpha: float, lower: bool) -> dict[str, Any]:
    """`not more` where the whole interval lies on the baseline's side."""
    if one["p_value"] is None:
        return one | {"outcome": "not computed"}
    at_most = -one["ci_low"] if lower else one["ci_high"]
    if one["p_value"] >= alpha and at_most <= 0:
        return one | {"outcome": "not more", "margin": 0.0, "at_most": at_most}
    return one | {"outcome": _outcome(one["p_value"], alpha)}


_OLD_WORDS = {"nuisance": "nuisance", "random weights": "untrained", "bag of words": "words"}


def _less_certain(verdict: dict[str, Any], outcomes: dict[str, Outcome]) -> dict[str, Any]:
    word, sentence = verdict["word"], verdict["sentence"]
    if word == "empty":
        told = sentence.replace(": morally empty as far as this metric sees", "")
        return verdict | {"word": "not shown", "sentence": told}
    if word not in ("found", *_OLD_WORDS.values()):
        return verdict
    done = {name for name, outcome in outcomes.items() if outcome != "not computed"}
    missing = [name for name in _OLD_WORDS if name not in done]
    least = [name for name in _OLD_WORDS if outcomes.get(name) == "not more"]
    needed = [name for name in ("nuisance", "bag of words") if name in missing]
    if word != "found":
        sentence = f"{sentence.rpartition(': ')[0]}."
    if needed:
        sentence += f" Not compared with {' and '.join(needed)}."
    found = "found" if word == "found" and not needed else "beyond chance"
    return verdict | {
        "word": _OLD_WORDS[least[0]] if least else found,
        "sentence": sentence,
        "not_compared": missing,
    }


def _as_schema_2(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 (sae_moral 0.1) as schema 2: what it kept in `provenance["metrics"]` and `provenance["controls"]`, and
    what its readers worked out from the rows anew each time."""
    if set(content) != {"provenance", "results"}:
        raise ValueError(f"it has {', '.join(content)}; expected provenance and results")
    rows: list[dict[str, Any]] = content["results"]
    old: dict[str, Any] = dict(content["provenance"])
    described, found = old.pop("metrics"), old.pop("controls")
    cards = {name: _old_card(name, about, rows) for name, about in described.items()}
    peaks = {name: _old_peak(name, peak) for name, peak in found.pop("peaks", {}).items() if peak is not None}
    profiles = {name: profile for name, card in cards.items() if (profile := _old_profile(card, rows, peaks))}
    for name, profile in profiles.items():
        own = [row for row in rows if row["metric"] == name and row["headline"]]
        peaks[name] = _completed(profile, cards[name].spec.direction, own, peaks.get(name, {}))
    verdicts = {
        name: {"metric": name, "word": verdict["verdict"], "sentence": verdict["sentence"]}
        for name, verdict in found.pop("verdicts", {}).items()
    }
    comparisons, baselines = found.pop("comparisons", []), found.pop("baselines", {})
    model = {"identity" if name == "weights" else name: value for name, value in old["model"].items()}
    controls = {"resamples": None, "permutations": None, "explained_by_nuisance": {}} | found
    return {
        "provenance": old | {"model": model, "controls": controls if found else None, "migrated_from": 1},
        "metrics": cards,
        "results": rows,
        "profiles": profiles,
        "peaks": {name: peaks[name] for name in cards if name in peaks},
        "verdicts": verdicts,
        "comparisons": comparisons,
        "baselines": {name: _old_baseline(name, baseline, profiles) for name, baseline in baselines.items()},
    }


def _old_card(name: str, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> MetricCard:
    """A metric's declarations: its direction stood in English words, its null and its interval under other names."""
    told = str(about["higher_is"] or "").casefold()
    default = "higher" if "less indifferent" in told else "lower" if "more indifferent" in told else None
    directions: dict[str, Direction | None] = {"greater": "higher", "less": "lower", "two-sided": None}
    kinds = {"": "resampled", "given": "fixed", "averaged": "fixed_by_fold", "linear": "linearised"}
    stated, intervals, nulls = about.get("alternatives", {}), about.get("readers", {}), about.get("nulls", "all")
    given = [row["statistic"] for row in rows if row["metric"] == name]
    statistics = {
        statistic: StatisticSpec(
            name=statistic,
            direction=directions[stated[statistic]] if statistic in stated else default,
            null=nulls if isinstance(nulls, str) else nulls.get(statistic),
            interval=kinds[intervals.get(statistic, "")],
            chance=about["chance"] if statistic == about["headline"] else None,
        )
        for statistic in dict.fromkeys([about["headline"], *given])
    }
    texts = {text: about[text] or "" for text in ("means", "does_not_prove")}
    return MetricCard(name, about["headline"], statistics, **texts, parameters=about.get("parameters"))


def _old_profile(card: MetricCard, rows: Sequence[dict[str, Any]], peaks: dict[str, dict[str, Any]]) -> Profile | None:
    """A headline over the layers; None where it has no value. A mean's interval is known at its peak alone."""
    own = {(row["layer"], row["group"]): row for row in rows if row["metric"] == card.name and row["headline"]}
    known = dict.fromkeys(group for (_, group), row in own.items() if row["value"] is not None)
    every = {group for _, group in own}
    if not known or (OVERALL in every and OVERALL not in known):
        return None
    name, groups = leading_groups(list(known))
    layers = sorted({layer for layer, _ in own})
    at = [[own[layer, group] for group in groups if (layer, group) in own] for layer in layers]
    whole = [len(found) == len(groups) and all(row["value"] is not None for row in found) for found in at]
    pairs = list(zip(at, whole, strict=True))
    values = [sum(row["value"] for row in found) / len(found) if ok else None for found, ok in pairs]
    peak = peaks.get(card.name, {})
    ends = {
        end: tuple(
            found[0][end] if len(groups) == 1 and ok else peak[end] if peak and peak["layer"] == layer else None
            for layer, found, ok in zip(layers, at, whole, strict=True)
        )
        for end in ("ci_low", "ci_high")
    }
    return Profile(card.name, card.headline, name, tuple(layers), tuple(values), **ends)


def _old_peak(name: str, peak: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in peak.items() if key not in ("alternative", "null_peak_low", "null_peak_high")}
    return kept | {"metric": name, "null_low": peak.get("null_peak_low"), "null_high": peak.get("null_peak_high")}


def _completed(
    profile: Profile, direction: Direction | None, rows: Sequence[dict[str, Any]], peak: dict[str, Any]
) -> dict[str, Any]:
    """A peak with its group, its ceiling and the number of layers; chosen here where no controls were run."""
    values = np.array([np.nan if value is None else value for value in profile.values])
    if not peak:
        if (best := best_layer(values, direction)) is None:
            return {}
        peak = {"metric": profile.metric, "statistic": profile.statistic}
        peak |= {"layer": profile.layers[best], "value": profile.values[best]}
    at = [row for row in rows if row["layer"] == peak["layer"] and row["group"] == profile.group]
    return peak | {
        "group": profile.group,
        "n_layers": int(np.isfinite(values).sum()),
        "ceiling": at[0]["ceiling"] if at else None,
    }


def _old_baseline(name: str, baseline: dict[str, Any], models: dict[str, Profile]) -> Baseline:
    """The profiles of a baseline, without those that have no value; its group is called as the model's."""
    found: dict[str, Profile] = {}
    for metric, line in baseline["headlines"].items():
        values = tuple(line["value"])
        if any(value is not None for value in values):
            group = models[metric].group if metric in models else line["group"]
            nothing = (None,) * len(values)
            layers = tuple(baseline["layers"] or ())
            found[metric] = Profile(metric, line["statistic"], group, layers, values, nothing, nothing)
    return Baseline(name, found)
