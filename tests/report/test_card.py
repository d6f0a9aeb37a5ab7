"""A metric's card says what the record says: no more, and nothing against the verdict."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sae_moral.controls.verdict import BASELINES
from sae_moral.report.card import NO_INTERVAL, Card, not_run_sentence
from sae_moral.report.words import number, signed
from sae_moral.results import DiagnosisRecord, Direction
from tests.report.drawn import Page
from tests.report.records import EVERY, card, realistic, record, row

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
    assert marks["null peaks"].words.endswith(", p = 0.012") and number(peak.null_low) in marks["null peaks"].words
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
    assert findings == [f"beyond nuisance (difference {difference}, p = 0.023)"]


def test_a_difference_without_an_interval_is_not_a_finding() -> None:
    made = Card(realistic(layers=2, names=("null", "words")), "categorical")
    findings, cautions = made.remarks()
    assert set(made.untested) == set(BASELINES) and findings == []
    assert made.reason.startswith("Sentence on categorical. Not tested: ")
    assert any(words.startswith("not tested against bag of words (difference +") for words in cautions)


def test_no_selectivity_is_cautioned() -> None:
    made = Card(changed(realistic(layers=2), control_task=0.9, selectivity=-0.1), "categorical")
    assert made.remarks()[1] == [
        "no selectivity: the same reader gets 0.900 on control tasks, whose labels are drawn at random for each "
        "opening word"
    ]


def test_a_baseline_without_a_value_is_not_compared() -> None:
    made = realistic(layers=2)
    made = dataclasses.replace(made, comparisons=[one for one in made.comparisons if one.against != "nuisance"])
    assert "not compared with nuisance: no value there" in Card(made, "categorical").remarks()[1]


def test_what_was_not_run_is_said() -> None:
    assert not_run_sentence(realistic(layers=1)) == ""
    assert (
        not_run_sentence(realistic(layers=1, names=EVERY[:-1]))
        == "Not run: random weights. The verdicts rest on the other controls."
    )
    assert not_run_sentence(realistic(layers=1, names=())).startswith("No controls were run")
