"""A metric's card says what the record says: no more, and nothing against the verdict."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sae_moral.controls.verdict import BASELINES
from sae_moral.report.card import NO_INTERVAL, Card, not_run_sentence
from sae_moral.report.words import number, signed
from sae_moral.results import DiagnosisRecord, Direction, Outcome
from tests.report.drawn import Page
from tests.report.records import EVERY, card, facts, realistic, record, row

LONG = {"preprocessing": {"length_share": [0.97, 0.2, 0.2]}}


def peaked(direction: Direction, peak: dict[str, Any], **more: Any) -> Card:
    """The card of a metric that is 0.7 at three layers."""
    rows = [row("m", "score", i, "overall", 0.7, n=10, n_dropped=2) for i in range(3)]
    return Card(record(rows, [card("m", "score", direction, 0.5)], peaks={"m": peak}, **more), "m")


def changed(made: DiagnosisRecord, **more: Any) -> DiagnosisRecord:
    return dataclasses.replace(made, peaks={m: dataclasses.replace(p, **more) for m, p in made.peaks.items()})


def test_the_number_and_where_it_is_from() -> None:
    made = peaked("higher", {})
    assert made.sentence == "At its best layer, 0 (3 measured). Higher is less indifferent."
    assert made.counts == "n = 10, 2 dropped" and made.verdict is None and made.badge == ""
    assert peaked("lower", {}).sentence.endswith("Lower is less indifferent.")
    alone = Card(record([row("rsa", "tau", 4, "x", 0.25)], [card("rsa", "tau", None)]), "rsa")
    assert alone.sentence == "At layer 4, group x." and alone.counts == ""
    words = Page(alone.block("#x")).words()
    assert words.startswith("rsa tau 0.250 At layer 4, group x.") and "best of" not in words


def test_without_overall_the_groups_are_told() -> None:
    rows = [row("m", "score", i, g, 0.2 * i + j) for i in range(3) for j, g in enumerate("ab")]
    made = Card(record(rows, [card("m", "score")], peaks={"m": {"ci_low": 0.8, "ci_high": 1.1}}), "m")
    assert "mean of 2 groups; they range from 0.400 to 1.400" in made.sentence
    assert {mark.label: mark.words for mark in made.marks()}["interval"] == "0.800 to 1.100"
    assert NO_INTERVAL not in made.remarks()[1]


@pytest.mark.parametrize(
    ("direction", "peak", "more", "caution"),
    [
        ("higher", {}, {}, NO_INTERVAL),
        ("higher", {}, {}, "peak over 3 layers, without a null: reads high by selection"),
        (
            "higher",
            {"n_layers": 1},
            {},
            "no null was computed: how high this number gets without any morality is unknown",
        ),
        ("lower", {}, {}, "no better than chance (0.500)"),
        ("higher", {}, LONG, "text length explained 97 % of this layer’s variance (length_share)"),
    ],
)
def test_what_is_missing_is_cautioned(direction: Direction, peak: dict[str, Any], more: Any, caution: str) -> None:
    findings, cautions = peaked(direction, peak, **more).remarks()
    assert caution in cautions and findings == []


def test_what_is_there_is_not_cautioned() -> None:
    known = {"ci_low": 0.6, "ci_high": 0.8, "p_value": 0.01}
    assert peaked("lower", known).remarks() == ([], [])
    protocol = {"protocol": {"name": "audited", "preprocessing": ["standardise", "remove_length"]}}
    assert peaked("higher", known, **LONG, **protocol).remarks() == ([], [])


def test_the_marks_are_the_peak_and_its_baselines() -> None:
    made = Card(changed(realistic(layers=2), ceiling=0.9), "categorical")
    peak, marks = made.peak, {mark.label: mark for mark in made.marks()}
    assert peak is not None and peak.null_low is not None
    assert set(marks) == {"null peaks", "interval", "chance", "ceiling", "value", *BASELINES}
    assert marks["null peaks"].words.endswith(", p = 0.037") and number(peak.null_low) in marks["null peaks"].words
    assert marks["bag of words"].words == number(0.75 * peak.value)
    assert marks["random weights"].words.endswith(" at its best layer, 0")
    assert marks["nuisance"].low < marks["random weights"].low < marks["bag of words"].low < marks["value"].low
    share = 100 * (peak.value - 0.5) / 0.4
    assert marks["ceiling"].words == f"0.900, reached to {share:.0f} % from chance"


def test_without_permuted_labels_nothing_is_found() -> None:
    made = Card(realistic(layers=2, names=("interval", "nuisance")), "categorical")
    assert made.verdict is not None and made.verdict.word == "not tested" and "badge none" in made.badge
    findings, cautions = made.remarks()
    assert any("without a null: reads high by selection" in words for words in cautions)
    difference = signed(made.comparisons[0].difference)
    assert findings == [f"more than nuisance (difference {difference}, p = 0.023)"]


@pytest.mark.parametrize(
    ("outcome", "words"), [("cannot tell", "not shown to be more than"), ("not more", "no more than")]
)
def test_without_permuted_labels_what_a_comparison_does_not_show_is_cautioned(outcome: Outcome, words: str) -> None:
    made = realistic(layers=2, names=("interval", "nuisance"))
    lost = [dataclasses.replace(one, outcome=outcome) for one in made.comparisons]
    findings, cautions = Card(dataclasses.replace(made, comparisons=lost), "categorical").remarks()
    assert findings == [] and any(text.startswith(f"{words} nuisance (difference") for text in cautions)


def test_a_difference_without_an_interval_is_not_a_finding() -> None:
    made = Card(realistic(layers=2, names=("null", "words")), "categorical")
    findings, cautions = made.remarks()
    assert findings == [] and made.reason == "Sentence on categorical."
    assert any(words.startswith("not tested against bag of words (difference +") for words in cautions)


def test_the_best_baseline_is_named_with_its_number() -> None:
    made = Card(realistic(layers=2), "categorical")
    assert made.peak is not None
    assert made.sentence.endswith(
        f"Higher is less indifferent. Best baseline: bag of words {number(0.75 * made.peak.value)}."
    )
    assert "Best baseline" not in Card(realistic(layers=2, names=("null",)), "categorical").sentence


def test_labels_within_opening_words_are_a_finding_a_caution_or_say_nothing() -> None:
    made = realistic(layers=2)
    said = "beyond labels permuted among texts that open with the same word (p = "
    assert Card(made, "categorical").remarks() == ([f"{said}0.046)"], [])
    made = changed(made, p_value_within_opening=0.2)
    assert Card(made, "categorical").remarks() == ([], [f"not {said}0.200)"])
    controls = facts(variation_within_openings_that_cannot_move={"all": 0.789})
    stuck = dataclasses.replace(made, provenance=made.provenance | {"controls": controls})
    cautions = Card(stuck, "categorical").remarks()[1]
    assert cautions == [f"not {said}0.200): not testable, since 78.9 % of the variation of labels cannot move"]


def test_a_baseline_without_a_value_is_not_compared() -> None:
    made = realistic(layers=2)
    made = dataclasses.replace(made, comparisons=[one for one in made.comparisons if one.against != "nuisance"])
    assert "not compared with nuisance: no value there" in Card(made, "categorical").remarks()[1]


def test_what_was_not_run_is_said() -> None:
    assert not_run_sentence(realistic(layers=1)) == ""
    assert (
        not_run_sentence(realistic(layers=1, names=[name for name in EVERY if name != "random-weights"]))
        == "Not run: random weights. The verdicts rest on the other controls."
    )
    assert not_run_sentence(realistic(layers=1, names=())).startswith("No controls were run")
