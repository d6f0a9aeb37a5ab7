"""Controls in the page, the figures and the terminal: everything that was run is shown, nothing that was not is
claimed, and no sentence contradicts a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sae_moral.controls import NAMES
from sae_moral.controls.verdict import BASELINES as JUDGED_BASELINES
from sae_moral.controls.verdict import WORDS
from sae_moral.report import layer_figure, overview_figure, render_report, statistics_figure
from sae_moral.report.control_words import names_words, reliabilities, settings
from sae_moral.report.glance import glance
from sae_moral.report.judged import BASELINES, CONTROLS, VERDICTS
from sae_moral.report.palette import BASELINE_LINES
from sae_moral.report.profiles import explained_figure
from sae_moral.report.summary import summary_table
from sae_moral.report.words import number, p_words, signed
from tests.report.test_figures import data, draw, line
from tests.report.test_page import HIGHER, Page

Make = Callable[..., Any]


@pytest.fixture
def controlled(make_realistic: Make, make_controls: Make) -> Make:
    """A realistic diagnosis of a few layers with controls: `controlled(verdicts, names=..., layers=2, **more)`."""

    def make(verdicts: dict[str, str] | None = None, layers: int = 2, **more: Any) -> Any:
        fake = make_realistic(layers=layers)
        fake.provenance["controls"] = make_controls(fake, verdicts, **more)
        fake.provenance["data"]["n_texts"] = 1400
        return fake

    return make


def card(fake: Any, metric: str = "categorical") -> Any:
    """The card of one metric."""
    return glance(fake.frame, metric, fake.provenance["metrics"][metric], {}, fake.provenance["controls"])


def test_the_words_are_those_of_the_controls() -> None:
    assert set(VERDICTS) == set(WORDS) and set(CONTROLS) == set(NAMES)
    assert set(BASELINES) == set(JUDGED_BASELINES) and set(BASELINES) <= set(CONTROLS.values())
    # What an SAE encodes is drawn beside its latents, but says nothing about morality: no verdict rests on it.
    assert set(BASELINE_LINES) == {*BASELINES, "residual stream"}


def test_every_verdict_has_a_badge_and_its_sentence(controlled: Make) -> None:
    given = {"gradient": "words", "structural": "empty", "dimensional": "untrained"}
    fake = controlled(given)
    html = render_report(fake)
    page = Page(html)
    badges = [str(attrs["class"]) for _, attrs in page.tags if str(attrs.get("class")).startswith("badge ")]
    assert badges[:4] == ["badge good", "badge weak", "badge none", "badge weak"]
    for metric in fake.provenance["metrics"]:
        assert f"Sentence on {metric}." in page.words()
        assert f"</span> {given.get(metric, 'found')}</span>" in html
    assert "is sentence length" not in page.words() and "Not run" not in page.words()


def test_a_verdict_of_length_stands_above_everything(controlled: Make) -> None:
    fake = controlled({"gradient": "length"})
    words = Page(render_report(fake)).words()
    alarm = "What gradient sees here is sentence length, not morality"
    assert words.index(alarm) < words.index("Warnings") < words.index("At a glance", words.index(alarm))
    fake.provenance["controls"]["verdicts"]["structural"]["verdict"] = "length"
    assert "!! What gradient and structural see under protocol audited is sentence length" in summary_table(fake)


@pytest.mark.parametrize("controls", [{}, "absent"])
def test_a_diagnosis_without_controls_says_so(make_realistic: Make, controls: Any) -> None:
    fake = make_realistic(layers=3, controls=False)
    fake.provenance["data"]["n_texts"] = 1400
    if controls != "absent":
        fake.provenance["controls"] = controls
    words = Page(render_report(fake)).words()
    assert words.count("No controls were run: ") == 2 and "Verdict" not in words and "Not run" not in words
    printed = summary_table(fake)
    assert "without a null it flatters" in printed and "No controls were run: " in printed
    assert "found" not in printed and re.search(r"^categorical .* –  +–  –$", printed, re.M)


def test_the_card_agrees_with_the_verdict(controlled: Make) -> None:
    for word in VERDICTS:
        found = card(controlled({"categorical": word}))
        assert (found.verdict.word, found.findings, found.cautions) == (word, [], [])


def test_the_marks_are_the_peak_and_its_baselines(controlled: Make) -> None:
    fake = controlled()
    peak = fake.provenance["controls"]["peaks"]["categorical"]
    marks = {mark.label: mark for mark in card(fake).marks}
    assert set(marks) == {"null peaks", "interval", "chance", "ceiling", "value", *BASELINES}
    assert (
        marks["null peaks"].words.endswith(", p = 0.012") and number(peak["null_peak_low"]) in marks["null peaks"].words
    )
    assert marks["bag of words"].words == number(0.75 * peak["value"])
    assert marks["random weights"].words.endswith(" at its best layer, 0")
    assert marks["nuisance"].left < marks["random weights"].left < marks["bag of words"].left < marks["value"].left


def test_without_permuted_labels_nothing_is_found(controlled: Make) -> None:
    found = card(controlled(names=("interval", "nuisance")))
    assert found.verdict.word == "not tested" and found.verdict.tone == "none"
    assert any("without a null: reads high by selection" in words for words in found.cautions)
    assert [words for words in found.findings] == [f"beyond nuisance (difference {_difference(found)}, p = 0.023)"]


def _difference(found: Any) -> str:
    return signed(found.verdict.comparisons[0]["difference"])


def test_a_difference_without_an_interval_is_not_a_finding(controlled: Make) -> None:
    fake = controlled(names=("null", "words"))
    found = card(fake)
    assert found.verdict.untested == ["nuisance", "bag of words", "random weights"] and found.findings == []
    assert any(words.startswith("not tested against bag of words (difference +") for words in found.cautions)
    words = Page(render_report(fake)).words()
    assert "Not tested: nuisance, bag of words, random weights." in words
    assert "Not run: intervals, nuisance, random weights and control tasks." in words
    assert "Not computed: interval, p." in words and "selectivity" not in words.lower().split("provenance")[0]


def test_no_selectivity_is_cautioned(controlled: Make) -> None:
    fake = controlled()
    fake.provenance["controls"]["peaks"]["categorical"] |= {"control_task": 0.9, "selectivity": -0.1}
    assert card(fake).cautions == [
        "no selectivity: the same reader gets 0.900 on control tasks, whose labels are drawn at random for each "
        "opening word"
    ]


def test_a_baseline_without_a_value_is_not_compared(controlled: Make) -> None:
    fake = controlled()
    controls = fake.provenance["controls"]
    controls["comparisons"] = [one for one in controls["comparisons"] if one["against"] != "nuisance"]
    assert "not compared with nuisance: no value there" in card(fake).cautions


def test_the_mean_of_groups_takes_its_interval_from_the_peak(make_diagnosis: Make, make_row: Make) -> None:
    rows = [make_row("m", "score", i, g, 0.2 * i + j) for i in range(3) for j, g in enumerate("ab")]
    peak = {"statistic": "score", "group": "mean of groups", "layer": 2, "value": 0.9, "ci_low": 0.8, "ci_high": 1.1,
            "p_value": 0.01, "null_peak_low": 0.1, "null_peak_high": 0.2}  # fmt: skip
    verdicts = {"m": {"verdict": "found", "sentence": "Yes."}}
    controls = {"names": ["interval", "null"], "level": 0.95, "alpha": 0.05, "peaks": {"m": peak}, "verdicts": verdicts}
    controls["baselines"] = {"nuisance": {"layers": None, "headlines": {
        "m": {"statistic": "score", "group": "mean of groups", "value": [0.3]}}}}  # fmt: skip
    fake = make_diagnosis(rows, {"m": HIGHER}, controls=controls)
    found = glance(fake.frame, "m", HIGHER, {}, controls)
    assert {mark.label: mark.words for mark in found.marks}["interval"] == "0.800 to 1.100" and not found.cautions
    axes = draw(layer_figure(fake.frame, "m", HIGHER, controls)).axes[0]
    assert data(axes, "mean of groups")[1] == pytest.approx([0.5, 0.7, 0.9])
    peak["layer"], peak["value"] = 1, 0.95
    assert any("layer 1 (0.950)" in words for words in glance(fake.frame, "m", HIGHER, {}, controls).cautions)


def test_baselines_are_drawn_and_named(controlled: Make) -> None:
    fake = controlled()
    controls = fake.provenance["controls"]
    for metric, about in fake.provenance["metrics"].items():
        axes = draw(layer_figure(fake.frame, metric, about, controls)).axes[0]
        for name, baseline in controls["baselines"].items():
            drawn = baseline["headlines"][metric]["value"]
            assert data(axes, name)[1] == (drawn if name == "random weights" else drawn * 2)
            assert [text.get_fontstyle() for text in axes.texts if text.get_text() == name] == ["italic"]
        assert not [one for one in axes.get_lines() if one.get_label() == "baseline"]
        legend = [text.get_text() for text in axes.get_figure().legends[0].get_texts()]
        assert {*BASELINES, "interval", "null band", "chance"} <= set(legend)
    dashes = {str(line(axes, name).get_linestyle()) + str(line(axes, name)._dash_pattern) for name in BASELINES}
    assert len(dashes) == 3, "told apart without colour"
    assert data(overview_figure(fake.frame, fake.provenance["metrics"], controls).axes[0], "random weights")[1]
    further = statistics_figure(fake.frame, "gradient", fake.provenance["metrics"]["gradient"], baseline="bag of words")
    assert further is not None


def test_baselines_over_one_layer_and_of_another_statistic(controlled: Make) -> None:
    fake = controlled(layers=1)
    controls, about = fake.provenance["controls"], fake.provenance["metrics"]["structural"]
    axes = draw(layer_figure(fake.frame, "structural", about, controls)).axes[0]
    assert all(len(set(data(axes, name)[1])) == 1 for name in BASELINES)
    controls["baselines"]["nuisance"]["headlines"]["structural"]["statistic"] = "other"
    axes = draw(layer_figure(fake.frame, "structural", about, controls)).axes[0]
    assert "nuisance" not in {one.get_label() for one in axes.get_lines()}


def test_the_section_holds_every_number(controlled: Make) -> None:
    fake = controlled()
    controls = fake.provenance["controls"]
    controls["peaks"]["gradient"]["p_value_any_length"] = 0.0456
    fake.provenance["ceilings"] = {"typicality": {"value": 0.4753, "ci_low": 0.231, "ci_high": 0.66, "n_texts": 46}}
    html = render_report(fake)
    words = Page(html).words()
    for one in controls["comparisons"]:
        cells = [one["metric"], one["against"], number(one["value"]), str(one["layer"]), number(one["against_value"])]
        assert " ".join(cells) in words and signed(one["difference"]) in words
    assert words.count("0.011 to 0.100 0.023 yes") == 12
    for text in ("0.046", "+0.068", "400 resamples", "99 times", "± 0.022", "± 0.8 %", "seed 7", "1.23 %"):
        assert text in words, text
    for text in ("0.475 (interval 0.231 to 0.660; 46 texts", "p, any length: the same", "What each control does not"):
        assert text in words, text
    assert "random weights</dt>" in html and 'id="explained-' in html


def test_what_was_not_run_is_not_explained(controlled: Make) -> None:
    html = render_report(controlled(names=("interval", "null")))
    words = Page(html).words()
    assert "Against baselines" not in words and 'id="explained-' not in html
    limits = html[html.index('<dl class="limits">') :]
    assert "intervals</dt>" in limits and "bag of words</dt>" not in limits
    assert "p, any length" not in words


def test_the_explained_shares_are_the_lines() -> None:
    axes = draw(explained_figure([0, 5], {"length": [0.2, None], "all": [0.25, -0.01]})).axes[0]
    assert data(axes, "all together")[1] == [25, -1] and np.isnan(data(axes, "length")[1][1])
    assert axes.get_ylim()[0] <= -1
    with pytest.raises(ValueError, match="length has 1 shares for 2 layers"):
        explained_figure([0, 5], {"length": [0.2]})


def test_with_a_null_nothing_says_that_the_peak_flatters(controlled: Make) -> None:
    fake = controlled()
    words, printed = Page(render_report(fake)).words(), summary_table(fake)
    for text in ("flatters", "reads high by selection", "which by itself raises its number"):
        assert text not in printed and text not in words.split("What the number means")[0]
    assert "p is corrected for the choice of the best layer; the interval is not." in printed


def test_the_terminal_shows_interval_p_and_verdict(controlled: Make) -> None:
    printed = summary_table(controlled({"gradient": "words"}))
    assert max(len(text) for text in printed.splitlines()) <= 120
    assert re.search(r"^metric .* 95 % interval +p  verdict$", printed, re.M)
    assert re.search(r"^gradient +spearman +0 +0\.\d{3} +\d  0\.\d{3} to 0\.\d{3} +0\.012  words$", printed, re.M)
    assert "gradient: Sentence on gradient." in printed and printed.splitlines()[-1].startswith("! Foundation")


def test_hostile_controls_stay_text(make_diagnosis: Make, make_row: Make) -> None:
    bad = "<script>alert('x')</script>\"'--><img src=http://evil/x onerror=alert(1)>{{ 7*7 }}$\\frac{"
    rows = [make_row(bad, bad, i, "overall", 0.5 + i / 10) for i in range(3)]
    one = {"metric": bad, "against": bad, "layer": 2, "value": 0.7, "against_value": 0.1, "difference": 0.6,
           "p_value": None}  # fmt: skip
    controls = {
        "names": [bad, "null"], "level": 0.95, "comparisons": [one], "explained_by_nuisance": {bad: [0.1, 0.2, 0.3]},
        "verdicts": {bad: {"verdict": bad, "sentence": bad}},
        "peaks": {bad: {"statistic": bad, "group": bad, "layer": 2, "value": 0.7, "p_value": 0.01}},
        "baselines": {bad: {"layers": [0, 1, 2], "headlines": {bad: {"statistic": bad, "value": [0.1, None, 0.2]}}}},
    }  # fmt: skip
    page = Page(render_report(make_diagnosis(rows, {bad: {"headline": bad}}, controls=controls)))
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs) and "{{ 7*7 }}" in page.words()
    assert all(attrs["class"] == "badge none" for _, attrs in page.tags if str(attrs.get("class")).startswith("badge"))


def test_sentences() -> None:
    assert settings({"names": []}) == [] and names_words({"names": list(NAMES)}) == ""
    assert (
        names_words({"names": list(NAMES[:-1])}) == "Not run: random weights. The verdicts rest on the other controls."
    )
    assert reliabilities({"valence": None}) == []
    assert reliabilities({"valence": {"value": 0.2, "ci_low": -0.1, "ci_high": 0.4, "n_texts": 5}})[0].endswith(
        "the interval reaches 0, so no ceiling follows."
    )
    assert [signed(0.04), signed(-0.009), signed(None)] == ["+0.040", "−0.009", "–"]
    assert [p_words(0.0004), p_words(0.02), p_words(None)] == ["p < 0.001", "p = 0.020", "p not computed"]
