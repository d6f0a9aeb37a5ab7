"""The section on controls: everything that was run is shown, nothing that was not is explained."""

from __future__ import annotations

import dataclasses

import pytest

from sae_moral.report.controls import controls_section, left_table, reliabilities, settings
from sae_moral.report.page import render_page
from sae_moral.report.words import number, percent, signed
from sae_moral.results import Baseline, DiagnosisRecord, Outcome
from tests.report.drawn import Page
from tests.report.records import BASELINES, facts, realistic

KNOWN = {"value": 0.4753, "ci_low": 0.231, "ci_high": 0.66, "n_texts": 46}


def shown(made: DiagnosisRecord) -> tuple[str, str]:
    """The section's HTML and its words."""
    html = render_page("t", [controls_section(made)], kicker="k")
    html = html[html.index("<main ") :]
    return html, Page(html.partition("</main>")[0] + "</main>").words()


def test_the_section_holds_every_number() -> None:
    made = realistic(layers=2, ceilings={"typicality": KNOWN, "valence": None})
    peaks = {
        m: dataclasses.replace(peak, p_value_any_length=0.0456, ceiling=0.9, at_most=0.4)
        for m, peak in made.peaks.items()
    }
    html, words = shown(dataclasses.replace(made, peaks=peaks))
    for one in made.comparisons:
        cells = [one.metric, one.against, number(one.value), str(one.layer), number(one.against_value)]
        assert " ".join(cells) in words and signed(one.difference) in words
    assert words.count("0.011 to 0.100 0.023 +0.089 0.020 +0.078 more") == len(made.comparisons) == 4 * len(BASELINES)
    for text in (
        "0.046",
        "0.037",
        "0.400",
        "34.5 %",
        "2.34 %",
        "78.9 %",
        "0.456",
        "by 7 at most",
        "400 resamples",
        "99 times",
        "± 0.022",
        "± 0.8 %",
        "seed 7",
        "1.23 %",
    ):
        assert text in words, text
    for text in ("0.475 (interval 0.231 to 0.660; 46 texts", "p, any length: the same", "What each control does not"):
        assert text in words, text
    assert "random weights</dt>" in html and 'id="explained-' in html and "<dt>ceiling</dt>" in html


def test_what_was_not_run_is_not_explained() -> None:
    html, words = shown(realistic(layers=2, names=("interval", "null")))
    assert "Against baselines" not in words and 'id="explained-' not in html
    limits = html[html.index('<dl class="limits">') :]
    assert "intervals</dt>" in limits and "bag of words</dt>" not in limits
    assert "p, any length" not in words
    assert (
        "Not run: nuisance, bag of words, valence, input embeddings, random weights, labels within opening words, "
        "learning curve." in words
    )


def test_a_test_that_is_missing_is_neither_yes_nor_no() -> None:
    html, words = shown(realistic(layers=2, names=("null", "words")))
    assert words.count("0.020 not computed") == 4 * 2 and "Not computed: interval, p, at most, shows." in words
    assert (
        "missed" not in html
        and "p, opening words: labels" not in words
        and "labels within opening words</dt>" not in html
    )


@pytest.mark.parametrize(("outcome", "missed"), [("more", 0), ("not more", 28), ("cannot tell", 28)])
def test_what_is_not_more_is_marked(outcome: Outcome, missed: int) -> None:
    made = realistic(layers=2)
    html, words = shown(
        dataclasses.replace(made, comparisons=[dataclasses.replace(c, outcome=outcome) for c in made.comparisons])
    )
    assert html.count('<tr class="missed">') == missed and words.count(f"+0.078 {outcome}") == len(made.comparisons)


def test_what_is_left_beyond_valence_is_shown_at_the_layer_of_the_peak() -> None:
    made = realistic(layers=3)
    assert left_table(made).rows == []
    _, before = shown(made)
    assert "Left beyond valence" not in before
    peak, spec = made.peaks["categorical"], made.metrics["categorical"].spec
    assert spec.chance is not None
    values = tuple(0.123 if layer == peak.layer else None for layer in (0, 1, 2))
    ends = (tuple(0.1 for _ in values), tuple(0.2 for _ in values))
    profile = dataclasses.replace(
        made.profiles["categorical"], layers=(0, 1, 2), values=values, ci_low=ends[0], ci_high=ends[1]
    )
    left = Baseline("without valence", {"categorical": profile})
    _, words = shown(dataclasses.replace(made, baselines=made.baselines | {left.name: left}))
    share = percent((0.123 - spec.chance) / (peak.value - spec.chance))
    told = ["categorical", profile.statistic, str(peak.layer), number(peak.value), "0.123 0.100 to 0.200", share]
    assert " ".join(told) in words and "Left beyond valence" in words


def test_without_controls_the_section_says_so() -> None:
    _, words = shown(realistic(layers=2, names=()))
    assert "No controls were run" in words and "Settings" not in words


def test_sentences() -> None:
    assert len(settings(facts([]))) == 2
    made = realistic(layers=1, ceilings={"valence": KNOWN | {"ci_low": -0.1}})
    assert reliabilities(made)[0].endswith("the interval reaches 0, so no ceiling follows.")
