"""What a metric's controls say together, in one word and one sentence.

A metric makes two claims: that it is beyond permuted labels, and that it is `found`, i.e. beyond permuted labels and
more than every baseline that it was compared with, those of `REQUIRED` among them. For the second all tests have to
hold, so each is at alpha and p is the largest of theirs (intersection-union; Berger 1982). Over the metrics of a
diagnosis each of the two claims is corrected by Holm's procedure (1979), which holds however the metrics depend on each
other. What was not compared never counts as passed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from sae_moral.controls.baselines import BASELINES as KINDS
from sae_moral.controls.compare import outcome
from sae_moral.controls.inference import holm
from sae_moral.results import Comparison, DiagnosisRecord, MetricCard, Peak, Verdict

WORDS = {
    "not tested": "not tested against permuted labels",
    "not testable": "not testable, since too few labels can move",
    "not shown": "not shown to be beyond chance",
    "empty": "no more than chance",
    "length": "sentence length, not morality",
    "nuisance": "no more than length and word frequency give by themselves",
    "untrained": "no more than the same architecture with random weights shows",
    "valence": "no more than how pleasant or unpleasant the scenarios are",
    "words": "no more than the words of the scenarios give without a model",
    "beyond chance": "beyond chance, and not shown to be beyond the baselines",
    "found": "beyond chance, and beyond what length, word frequency and the words of the scenarios give",
}
"""The verdicts, from the least that can be said to the most: what a metric sees is …"""
BASELINES = {kind.name: kind.shortfall for kind in KINDS if kind.shortfall is not None}
"""Baseline → the verdict where the model is no more than that."""
REQUIRED = ("nuisance", "bag of words")
"""Baselines that a metric has to exceed to be `found`."""
MOVING = 0.5
"""Share of the labels' variation that must be able to move, for a p-value that is not small to say anything."""


def judge(
    cards: Mapping[str, MetricCard],
    peaks: Mapping[str, Peak],
    comparisons: Sequence[Comparison],
    stuck: Mapping[str, float],
    alpha: float,
) -> tuple[dict[str, Peak], dict[str, Verdict]]:
    """The peaks, corrected for the number of metrics, and a verdict per metric.

    Comparisons with a baseline that has no word of its own (an SAE's residual stream) say nothing about morality and
    take no part.

    Args:
        cards: of all metrics of the diagnosis.
        peaks: by metric; one without a value has none.
        comparisons: of all metrics.
        stuck: by metric, the share of its labels' variation that cannot move (`draws.Permutations`); without permuted
            labels a metric is not in it.
        alpha: of every test.
    """
    judged = {name: [one for one in comparisons if one.metric == name and one.against in BASELINES] for name in cards}
    corrected = _over_metrics({name: peak.p_value for name, peak in peaks.items()})
    free = _over_metrics({name: peak.p_value_any_length for name, peak in peaks.items()})
    claims = {name: _claim(peak, judged[name]) for name, peak in peaks.items()}
    claimed = _over_metrics(claims)
    found: dict[str, Peak] = {}
    verdicts: dict[str, Verdict] = {}
    for name, card in cards.items():
        if name not in peaks:
            verdicts[name] = Verdict(name, "not tested", f"{name} could not be computed.")
            continue
        peak = peaks[name]
        how = outcome(corrected[name], peak.at_most, alpha, peak.margin)
        found[name] = dataclasses.replace(peak, p_family=corrected[name], outcome=how)
        metrics = sum(p is not None for p in corrected.values())
        case = _Case(found[name], judged[name], stuck.get(name), free[name], claimed[name], metrics, alpha)
        word, sentence = case.verdict()
        verdicts[name] = Verdict(
            name, word, sentence, claimed[name], best_baseline(judged[name], card), tuple(case.not_compared)
        )
    return found, verdicts


def best_baseline(comparisons: Sequence[Comparison], card: MetricCard) -> str | None:
    """The baseline that a metric exceeds least; None where it was compared with none."""
    sign = -1.0 if card.spec.direction == "lower" else 1.0
    own = [one for one in comparisons if one.metric == card.name and one.against in BASELINES]
    return min(own, key=lambda one: sign * one.difference).against if own else None


def answer(record: DiagnosisRecord) -> str:
    """What a diagnosis says in one sentence; empty without controls."""
    by_word: dict[str, list[str]] = {}
    for name, verdict in record.verdicts.items():
        by_word.setdefault(verdict.word, []).append(name)
    order = [word for word in reversed(WORDS) if word in by_word]
    said = []
    for word in order:
        names = by_word[word]
        clause = f"what {_list(names)} {'sees' if len(names) == 1 else 'see'} is {WORDS[word]}"
        missing = [one for one in BASELINES if any(one in record.verdicts[name].not_compared for name in names)]
        if word in ("found", "beyond chance") and missing:
            clause += f" (not compared with {_list(missing)})"
        said.append(clause)
    if not said:
        return ""
    model, data = record.provenance["model"]["name"], {"source": "data"} | record.provenance["data"]
    return f"In {model} ({data['source']}, n = {data['n']:,}), {'; '.join(said)}."


def _over_metrics(p: Mapping[str, float | None]) -> dict[str, float | None]:
    return dict(zip(p, holm(list(p.values())), strict=True))


def _claim(peak: Peak, comparisons: Sequence[Comparison]) -> float | None:
    """The p-value of `found`; None where one of the comparisons that it needs was not computed."""
    p = {one.against: one.p_value for one in comparisons}
    if peak.p_value is None or any(p.get(name) is None for name in REQUIRED):
        return None
    return max(peak.p_value, *(value for value in p.values() if value is not None))


@dataclasses.dataclass(frozen=True)
class _Case:
    """All that a verdict on one metric rests on; its peak is corrected for the number of metrics."""

    peak: Peak
    comparisons: Sequence[Comparison]
    stuck: float | None
    free: float | None
    claim: float | None
    metrics: int
    alpha: float

    @property
    def subject(self) -> str:
        peak = self.peak
        return f"{peak.metric} ({peak.statistic} {_number(peak.value)} at layer {peak.layer})"

    @property
    def not_compared(self) -> list[str]:
        done = {one.against for one in self.comparisons if one.p_value is not None}
        return [name for name in BASELINES if name not in done]

    def verdict(self) -> tuple[str, str]:
        """Its word and its sentence."""
        peak = self.peak
        if peak.p_value is None and self.stuck is not None and (self.stuck > MOVING or peak.smallest_p == 1):
            return "not testable", f"{self.subject} cannot be tested: {self._why_not_testable()}."
        if peak.p_value is None or peak.p_family is None:
            return "not tested", f"{self.subject} was not compared with permuted labels, so nothing follows from it."
        if peak.outcome == "more":
            return self._beyond_chance()
        short = f"{self.subject} is not beyond permuted labels ({self._p(peak.p_family)})"
        if reason := self._why_not_testable():
            return "not testable", f"{short}, and says nothing: {reason}."
        if self.free is not None and self.free < self.alpha:
            return "length", (
                f"What {self.subject} sees is {WORDS['length']}: beyond labels permuted freely ({self._p(self.free)}), "
                f"but not beyond labels permuted among texts of equal length ({self._p(peak.p_family)})."
            )
        if peak.outcome == "not more":
            bound = f"no layer is further from chance than {_number(peak.at_most)} (margin {_number(peak.margin)})"
            return "empty", f"{short}, and {bound}."
        would = "" if peak.detectable is None else f"; {_number(peak.detectable)} would have shown four times in five"
        return "not shown", f"{short}{would}."

    def _why_not_testable(self) -> str:
        """Empty where there is nothing against a test."""
        within = "within what a label has to stay in (kind of label, fold, length)"
        if self.stuck is not None and self.stuck > MOVING:
            return f"{100 * self.stuck:.0f} % of the labels' variation cannot move {within}"
        least = self.peak.smallest_p
        if least is not None and least >= self.alpha:
            return f"with so few permutations, or labels that can move {within}, p cannot be below {_number(least)}"
        return ""

    def _beyond_chance(self) -> tuple[str, str]:
        parts: dict[str, list[str]] = {"more": [], "not more": [], "cannot tell": []}
        for one in self.comparisons:
            if one.outcome in parts:
                parts[one.outcome].append(_size(one))
        sentence = f"{self.subject} is beyond permuted labels ({self._p(self.peak.p_family)})"
        sentence += f" and more than {_list(parts['more'])}" if parts["more"] else ""
        clauses = [
            f"{words} {_list(own)}"
            for words, own in (
                ("no more than", parts["not more"]),
                ("not shown to be more than", parts["cannot tell"]),
                ("not compared with", self.not_compared),
            )
            if own
        ]
        below = [BASELINES[one.against] for one in self.comparisons if one.outcome == "not more"]
        word = min(below, key=list(WORDS).index) if below else "beyond chance"
        if not below and not parts["cannot tell"] and self.claim is not None:
            if self.claim < self.alpha:
                word = "found"
            else:
                clauses.insert(
                    0, f"but not once all of this is corrected for {self.metrics} metrics ({_p(self.claim)})"
                )
        return word, "; ".join([sentence, *clauses]) + "."

    def _p(self, value: float | None) -> str:
        assert value is not None
        return _p(value) + (f" over {self.metrics} metrics" if self.metrics > 1 else "")


def _size(one: Comparison) -> str:
    """A baseline, the difference, and what its outcome rests on."""
    words = f"{one.against} (difference {_signed(one.difference)}"
    if one.outcome == "not more":
        assert one.at_most is not None
        return f"{words}, ahead by {_signed(one.at_most)} at most; margin {_number(one.margin)})"
    words += "" if one.p_value is None else f", {_p(one.p_value)}"
    if one.outcome == "cannot tell" and one.detectable is not None:
        words += f"; {_signed(one.detectable)} would have shown four times in five"
    return f"{words})"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _number(value: float | None) -> str:
    assert value is not None
    return f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
