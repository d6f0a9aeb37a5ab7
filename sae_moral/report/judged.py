"""What the controls of a diagnosis say of a metric, read from `Diagnosis.provenance["controls"]`; nothing is decided
here that is not decided there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sae_moral.report.words import listed, number, p_words, signed

CONTROLS = {
    "interval": "intervals",
    "null": "permuted labels",
    "nuisance": "nuisance",
    "words": "bag of words",
    "random-weights": "random weights",
    "selectivity": "control tasks",
}
"""A control's name in `Controls.names` → what the page calls it, which for a baseline is its name in comparisons."""
BASELINES = ("nuisance", "bag of words", "random weights")
VERDICTS: dict[str, tuple[str, str, str]] = {
    "found": ("good", "✓", "beyond permuted labels and every baseline that was tested"),
    "words": ("weak", "=", "no more than the words of the scenarios give without a model"),
    "untrained": ("weak", "=", "no more than the same architecture with random weights shows"),
    "nuisance": ("weak", "=", "no more than length and word frequency give by themselves"),
    "length": ("alarm", "!", "sentence length, not morality"),
    "empty": ("none", "∅", "not beyond permuted labels: morally empty as far as this metric sees"),
    "not tested": ("none", "?", "no permuted labels to compare with"),
}
"""Verdict → tone of its badge, sign, meaning."""


@dataclass(frozen=True)
class Judged:
    """The controls' entries of one metric.

    Attributes:
        word, sentence: the verdict.
        tone, sign: of its badge.
        peak: the metric's entry of `peaks`; empty where it has no value.
        comparisons: the metric's.
        untested: what a verdict can rest on and this one does not: permuted labels, baselines.
        ran: the controls that were run, as the page calls them.
    """

    word: str
    sentence: str
    tone: str
    sign: str
    peak: Mapping[str, Any]
    comparisons: list[Mapping[str, Any]]
    untested: list[str]
    ran: list[str]

    @property
    def has_null(self) -> bool:
        """Whether permuted labels were compared with."""
        return self.peak.get("p_value") is not None


def judged(controls: Mapping[str, Any] | None, metric: str) -> Judged | None:
    """What they say of a metric; None where no controls were run, or none has a verdict on it."""
    found = ((controls or {}).get("verdicts") or {}).get(metric)
    if not controls or not found:
        return None
    word = str(found["verdict"])
    tone, sign, _ = VERDICTS.get(word, ("none", "", ""))
    peak = (controls.get("peaks") or {}).get(metric) or {}
    own = [one for one in controls.get("comparisons") or [] if one["metric"] == metric]
    tested = {one["against"] for one in own if one.get("p_value") is not None}
    untested = [name for name in BASELINES if name not in tested]
    if peak.get("p_value") is None:
        untested.insert(0, CONTROLS["null"])
    return Judged(word, str(found["sentence"]), tone, sign, peak, own, untested, names_run(controls))


def names_run(controls: Mapping[str, Any] | None) -> list[str]:
    """The controls that were run, as the page calls them."""
    names: Iterable[str] = (controls or {}).get("names") or ()
    return [CONTROLS.get(str(name), str(name)) for name in names]


def names_not_run(controls: Mapping[str, Any] | None) -> list[str]:
    """The controls that were not run, as the page calls them."""
    ran = names_run(controls)
    return [words for words in CONTROLS.values() if words not in ran]


def about_length(controls: Mapping[str, Any] | None) -> list[str]:
    """The metrics whose verdict is `length`."""
    verdicts = (controls or {}).get("verdicts") or {}
    return [str(metric) for metric, found in verdicts.items() if found and found["verdict"] == "length"]


def remarks(found: Judged, sign: float, alpha: float) -> tuple[list[str], list[str]]:
    """Findings and cautions beside a verdict's own sentence.

    Args:
        sign: −1 where a lower headline is less indifferent.
        alpha: of verdicts.
    """
    findings: list[str] = []
    cautions: list[str] = []
    for one in found.comparisons:
        p, size = one.get("p_value"), f"{one['against']} (difference {signed(one['difference'])}"
        if p is None:
            cautions.append(f"not tested against {size}): no interval of the difference was computed")
        elif not found.has_null:  # the verdict then names no baseline
            side = findings if p < alpha else cautions
            side.append(f"{'beyond' if p < alpha else 'not beyond'} {size}, {p_words(p)})")
    compared = {one["against"] for one in found.comparisons}
    if nothing := [name for name in found.untested if name in found.ran and name in BASELINES and name not in compared]:
        cautions.append(f"not compared with {listed(nothing)}: no value there")
    task, selectivity = found.peak.get("control_task"), found.peak.get("selectivity")
    if selectivity is not None and sign * selectivity <= 0:
        cautions.append(
            f"no selectivity: the same reader gets {number(task)} on control tasks, whose labels are drawn at random "
            "for each opening word"
        )
    return findings, cautions
