"""The card of one metric: its peak, its controls on one line, its verdict, and what speaks for and against reading it.

Nothing is decided here that the record does not say.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from sae_moral.controls.verdict import BASELINES, MOVING
from sae_moral.report import page
from sae_moral.report.page import Mark, html, joined
from sae_moral.report.words import (
    BADGES,
    CONTROLS,
    WORDS_BASELINE,
    count,
    interval,
    listed,
    number,
    p_words,
    percent,
    signed,
    with_interval,
)
from sae_moral.results import MEAN_OF_GROUPS, OVERALL, Comparison, DiagnosisRecord, Peak, Row, Verdict

NO_VALUE = "No value was computed for this metric."
NO_INTERVAL = "no interval was computed: how far this number would move on other scenarios is unknown"
KINDS = {"nuisance": "nuisance", WORDS_BASELINE: "words", "random weights": "random"}
"""Baseline → kind of its mark."""
OUTCOMES = {"more": "more than", "not more": "no more than", "cannot tell": "not shown to be more than"}


@dataclass(frozen=True)
class Card:
    """One metric of a record."""

    record: DiagnosisRecord
    metric: str

    @property
    def statistic(self) -> str:
        """The headline."""
        return self.record.metrics[self.metric].headline

    @property
    def peak(self) -> Peak | None:
        """None where the headline has no value."""
        return self.record.peaks[self.metric] if self.metric in self.record.peaks else None

    @property
    def verdict(self) -> Verdict | None:
        """None where no controls were run, or there is nothing to judge."""
        return self.record.verdicts[self.metric] if self.peak and self.metric in self.record.verdicts else None

    @property
    def comparisons(self) -> list[Comparison]:
        """The metric's."""
        return [one for one in self.record.comparisons if one.metric == self.metric]

    @property
    def rows(self) -> list[Row]:
        """The headline's rows at the peak's layer."""
        peak = self.peak
        at = [row for row in self.record.rows if row.metric == self.metric and row.statistic == self.statistic]
        return [row for row in at if peak is not None and row.layer == peak.layer]

    @property
    def sign(self) -> float:
        """−1 where lower is less indifferent."""
        return -1.0 if self.record.metrics[self.metric].spec.direction == "lower" else 1.0

    @property
    def badge(self) -> Markup:
        """Of the verdict; nothing where there is none."""
        return badge(self.verdict.word) if self.verdict else Markup("")

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, and what it does not rest on."""
        return self.verdict.sentence if self.verdict else ""

    @property
    def sentence(self) -> str:
        """Where the number is from, and which way it reads."""
        peak = self.peak
        if peak is None:
            return NO_VALUE
        words = f"At layer {peak.layer}"
        if peak.n_layers > 1:
            words = f"At its best layer, {peak.layer} ({peak.n_layers} measured)"
        if peak.group == MEAN_OF_GROUPS:
            values = [row.value for row in self.rows if row.value is not None]
            words += f", mean of {len(values)} groups; they range from {interval(min(values), max(values))}"
        elif peak.group != OVERALL:
            words += f", group {peak.group}"
        direction = self.record.metrics[self.metric].spec.direction
        words = f"{words}." + (f" {direction.capitalize()} is less indifferent." if direction else "")
        return words + (f" Best baseline: {self.best_baseline}." if self.best_baseline else "")

    @property
    def best_baseline(self) -> str:
        """The baseline that the number exceeds least, with its own; empty where it was compared with none."""
        name = self.verdict.best_baseline if self.verdict else None
        return next((f"{name} {number(one.against_value)}" for one in self.comparisons if one.against == name), "")

    @property
    def counts(self) -> str:
        """How many scenarios the number rests on."""
        found = [row for row in self.rows if self.peak is not None and row.group == self.peak.group]
        if not found:
            return ""
        n, dropped = found[0].n, found[0].n_dropped
        words = [] if n is None else [f"n = {count(n)}"]
        return ", ".join(words + ([f"{count(dropped)} dropped"] if dropped else []))

    def marks(self) -> list[Mark]:
        """The number and its controls."""
        peak, chance = self.peak, self.record.metrics[self.metric].spec.chance
        if peak is None:
            return []
        found: list[Mark] = []
        if peak.null_low is not None and peak.null_high is not None:
            words = interval(peak.null_low, peak.null_high)
            words += "" if peak.p_corrected is None else f", {p_words(peak.p_corrected)}"
            label = "null peaks" if peak.n_layers > 1 else "null band"
            found.append(Mark("null", label, words, peak.null_low, peak.null_high))
        if peak.ci_low is not None and peak.ci_high is not None:
            words = interval(peak.ci_low, peak.ci_high)
            found.append(Mark("interval", "interval", words, peak.ci_low, peak.ci_high))
        if chance is not None:
            found.append(_point("chance", "chance", chance))
        for one in self.comparisons:
            kind = KINDS[one.against] if one.against in KINDS else "baseline"
            where = "" if one.against_layer is None else f" at its best layer, {one.against_layer}"
            found.append(_point(kind, one.against, one.against_value, where))
        if peak.ceiling is not None:
            words = with_interval(peak.ceiling, peak.ceiling_low, peak.ceiling_high)
            words += _way(peak.value, chance, peak.ceiling)
            found.append(Mark("ceiling", "ceiling", words, peak.ceiling, peak.ceiling))
        return [*found, _point("value", "value", peak.value)]

    def remarks(self) -> tuple[list[str], list[str]]:
        """Findings and cautions: what the verdict's own sentence does not say."""
        peak = self.peak
        if peak is None:
            return [], []
        cautions = [] if peak.ci_low is not None else [NO_INTERVAL]
        if peak.p_value is None:
            if peak.n_layers > 1:
                cautions.append(f"peak over {peak.n_layers} layers, without a null: reads high by selection")
            else:
                cautions.append("no null was computed: how high this number gets without any morality is unknown")
            chance = self.record.metrics[self.metric].spec.chance
            if chance is not None and self.sign * peak.value <= self.sign * chance:
                cautions.append(f"no better than chance ({number(chance)})")
        findings, more = self._baselines(peak)
        cautions += more
        if peak.p_value_within_opening is not None:
            words, beyond = self._opening(peak.p_value_within_opening)
            (findings if beyond else cautions).append(words)
        share = _length_share(self.record, peak.layer)
        if share is not None and share >= 0.5:
            cautions.append(f"text length explained {100 * share:.0f} % of this layer’s variance (length_share)")
        return findings, cautions

    def _baselines(self, peak: Peak) -> tuple[list[str], list[str]]:
        """Findings and cautions about baselines."""
        findings: list[str] = []
        cautions: list[str] = []
        for one in self.comparisons:
            size = f"{one.against} (difference {signed(one.difference)}"
            if one.p_value is None:
                cautions.append(f"not tested against {size}): no interval of the difference was computed")
            elif peak.p_value is None:  # the verdict then names no baseline
                side = findings if one.outcome == "more" else cautions
                side.append(f"{OUTCOMES[one.outcome]} {size}, {p_words(one.p_value)})")
        ran = names_run(self.record)
        compared = {one.against for one in self.comparisons}
        if nothing := [name for name in BASELINES if name in ran and name not in compared]:
            cautions.append(f"not compared with {listed(nothing)}: no value there")
        return findings, cautions

    def _opening(self, p: float) -> tuple[str, bool]:
        """What labels permuted within opening words say, and whether the number is beyond them."""
        controls, scheme = self.record.provenance["controls"], self.record.metrics[self.metric].spec.null
        beyond = controls is not None and p < controls["alpha"]
        words = (
            f"{'' if beyond else 'not '}beyond labels permuted among texts that open with the same word ({p_words(p)}"
        )
        shares = {} if controls is None else controls.get("variation_within_openings_that_cannot_move", {})
        stuck = None if scheme is None else shares.get(scheme)
        if not beyond and stuck is not None and stuck > MOVING:
            return f"{words}): not testable, since {percent(stuck)} of the variation of labels cannot move", False
        return f"{words})", beyond

    def block(self, href: str) -> Markup:
        """The card; `href`: where its title leads."""
        peak = self.peak
        parts: list[Markup] = []
        if self.reason:
            parts.append(page.paragraph(self.reason, "verdict"))
        told = html(' <span class="counts">{}.</span>', self.counts) if self.counts else ""
        parts.append(page.paragraph(html("{}{}", self.sentence, told), "sentence"))
        if marks := self.marks():
            parts.append(page.scale(marks))
        findings, cautions = self.remarks()
        if findings or cautions:
            items = [html('<li class="finding">{}</li>', words) for words in findings]
            caution = '<li class="caution"><span class="visually-hidden">Caution: </span>{}</li>'
            items += [html(caution, words) for words in cautions]
            parts.append(html('<ul class="remarks">\n{}\n</ul>', joined(items)))
        value = html("{} {}", number(peak.value), self.badge) if peak else Markup("")
        return page.card(self.metric, value, joined(parts), href=href, aside=self.statistic)


def badge(word: str) -> Markup:
    """A verdict's badge."""
    sign, tone = BADGES[word] if word in BADGES else ("", "none")
    return page.badge(word, sign, tone)


def names_run(record: DiagnosisRecord) -> list[str]:
    """The controls that were run, as pages call them."""
    controls = record.provenance["controls"]
    return [] if controls is None else [CONTROLS[name] if name in CONTROLS else name for name in controls["names"]]


def names_not_run(record: DiagnosisRecord) -> list[str]:
    """The controls that were not run, as pages call them."""
    return [words for words in CONTROLS.values() if words not in names_run(record)]


def not_run_sentence(record: DiagnosisRecord) -> str:
    """What was not run; empty where everything was."""
    missing = names_not_run(record)
    if len(missing) == len(CONTROLS):
        return (
            "No controls were run: the numbers come without intervals, nulls and baselines of their own, and "
            "without a verdict. A high number may be sentence length, or words."
        )
    return f"Not run: {listed(missing)}. The verdicts rest on the other controls." if missing else ""


def about_length(record: DiagnosisRecord) -> list[str]:
    """The metrics whose verdict is `length`."""
    return [metric for metric, verdict in record.verdicts.items() if verdict.word == "length"]


def _point(kind: str, label: str, value: float, more: str = "") -> Mark:
    return Mark(kind, label, number(value) + more, value, value)


def _way(value: float, chance: float | None, ceiling: float) -> str:
    """How far the number is from chance to the ceiling, where that is between the two."""
    if chance is None or ceiling == chance or not 0 <= (share := (value - chance) / (ceiling - chance)) <= 1:
        return ""
    return f", reached to {100 * share:.0f} % from chance"


def _length_share(record: DiagnosisRecord, layer: int) -> float | None:
    """The share of a layer's variance that text length explains; None where the protocol takes length out."""
    facts, layers = record.provenance["preprocessing"], record.provenance["layers"]
    if "remove_length" in record.provenance["protocol"]["preprocessing"] or "length_share" not in facts:
        return None
    return facts["length_share"][layers.index(layer)] if layer in layers else None
