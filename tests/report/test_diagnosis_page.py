"""A diagnosis' page and summary: parse, stand alone, escape, and say what is missing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest

from sae_moral.controls.verdict import answer
from sae_moral.report import render_report, summary_table, write_report
from sae_moral.report.diagnosis_page import per_layer_lists
from sae_moral.report.words import MISSING, interval, number
from sae_moral.results import DiagnosisRecord
from tests.report.drawn import Page
from tests.report.records import card, realistic, record, row

FILES = Path(__file__).parents[1] / "data_files" / "v0.1"
M = card("m", "score", "higher", 0.5)


def _is_diagnosis(path: Path) -> bool:
    return json.loads(path.read_text(encoding="utf8"))["kind"] == "diagnosis"


@pytest.fixture(scope="module")
def whole() -> tuple[DiagnosisRecord, str]:
    """A realistic diagnosis and its page."""
    made = realistic(layers=5)
    return made, render_report(made)


def test_the_page_parses_and_stands_alone(whole: tuple[DiagnosisRecord, str]) -> None:
    html = whole[1]
    page = Page(html)
    assert "http:" not in html and "https:" not in html
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/png")), (tag, attrs)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert len(page.ids()) == len(set(page.ids()))
    targets = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert {str(target)[1:] for target in targets} <= set(page.ids())


def test_the_page_is_accessible(whole: tuple[DiagnosisRecord, str]) -> None:
    page = Page(whole[1])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    for tag, attrs in page.tags:
        if tag == "th":
            assert attrs.get("scope") in ("row", "col")
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or (attrs.get("role") == "img" and attrs.get("aria-label"))
    assert ("html", {"lang": "en"}) in page.tags


def test_everything_that_was_measured_is_there(whole: tuple[DiagnosisRecord, str]) -> None:
    made, html = whole
    words = Page(html).words()
    for text in (*made.provenance["warnings"], "toy", "planted", "audited", "600"):
        assert text in words
    for declared in made.metrics.values():
        assert declared.means in words and declared.does_not_prove in words
    for key in ("sha256", "permutations", "sae-moral", "length_share", "first_token_sink_ratio", "controls", "folds"):
        assert key in words
    for one in made.rows:
        cells = "".join(f'<th scope="row">{key}</th>' for key in (one.statistic, one.layer, one.group))
        assert f"{cells}<td>{number(one.value)}</td>" in html


def test_the_same_diagnosis_gives_the_same_page(whole: tuple[DiagnosisRecord, str]) -> None:
    assert render_report(realistic(layers=5)) == whole[1]


def test_hostile_text_stays_text() -> None:
    bad = "<script>alert('x')</script>\"'--><img src=http://evil/x onerror=alert(1)>{{ 7*7 }}$\\frac{"
    rows = [row(bad, bad, i, g, 0.5 + i / 10) for i in range(4) for g in (bad, "overall", "b")]
    rows += [row(bad, "further" + bad, i, bad, 0.1 * i) for i in range(4)]
    nested = {bad: {bad: bad}, "list": [bad], "shares" + bad: [0.1, 0.2, 0.3, 0.4]}
    made = record(
        rows, [card(bad, bad, chance=0.5, means=bad, does_not_prove=bad)], names=(bad, "null", "words"),
        verdicts={bad: bad}, warnings=[bad], capture=nested, preprocessing=nested,
    )  # fmt: skip
    html = render_report(made)
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<!--" not in html and "{{ 7*7 }}" in page.words() and "alert('x')" in page.words()
    badges = [attrs["class"] for _, attrs in page.tags if str(attrs.get("class")).startswith("badge ")]
    assert badges and set(badges) == {"badge none"}


def test_missing_numbers_are_dashes_and_never_nan() -> None:
    nan = float("nan")
    values = [0.5, None, None]
    rows = [row("m", "score", i, g, v, n=3, ceiling=nan) for i, v in enumerate(values) for g in ("overall", "a")]
    html = render_report(record(rows, [card("m", "score")], capture={"ratio": [1.0, nan, None], "mean": nan}))
    assert not re.search(r"\b(nan|NaN|None|undefined|inf)\b", Page(html).words())
    assert f"<td>{MISSING}</td>" in html and "not computed" in html
    left_out = "Not computed: interval, null band, p, ceiling, bag of words, dropped."
    assert left_out in Page(html).words()


def test_a_metric_without_any_value() -> None:
    rows = [row("m", "score", i, "overall", None) for i in range(3)]
    words = Page(render_report(record(rows, [M, card("never-ran", "x")]))).words()
    assert words.count("No value was computed for this metric.") == 4
    assert Page(render_report(record([], []))).words()


def test_one_layer_and_what_was_dropped() -> None:
    rows = [row("rsa", "tau", 4, g, 0.25, n=10, n_dropped=2) for g in ("overall", "x", "y")]
    words = Page(render_report(record(rows, [card("rsa", "tau", None)], capture={"ratio": [3.5]}))).words()
    assert "At layer 4." in words and "0.250" in words and "n = 10, 2 dropped." in words
    assert "best of" not in words and "peak over" not in words and "The metric gives no description." in words
    assert "rsa: up to 2 scenarios dropped" in words


def test_a_peak_without_controls_is_cautioned() -> None:
    made = realistic(layers=4, names=())
    words = Page(render_report(made)).words()
    assert words.count("peak over 4 layers, without a null: reads high by selection") == 4
    assert words.count("no interval was computed") == 4
    assert "without a null it flatters" in summary_table(made)


def test_every_verdict_has_a_badge_and_its_sentence() -> None:
    given = {"gradient": "words", "structural": "empty", "dimensional": "untrained"}
    made = realistic(layers=2, verdicts=given)
    html = render_report(made)
    page = Page(html)
    badges = [str(attrs["class"]) for _, attrs in page.tags if str(attrs.get("class")).startswith("badge ")]
    assert badges[:4] == ["badge good", "badge weak", "badge none", "badge weak"]
    for metric in made.metrics:
        assert f"Sentence on {metric}." in page.words()
        assert f"</span> {given.get(metric, 'found')}</span>" in html
    assert "is sentence length" not in page.words() and "Not run" not in page.words()


def test_a_verdict_of_length_stands_above_everything() -> None:
    made = realistic(layers=2, verdicts={"gradient": "length"})
    words = Page(render_report(made)).words()
    alarm = "What gradient sees here is sentence length, not morality"
    assert words.index(alarm) < words.index(made.provenance["warnings"][0]) < words.rindex("At a glance")
    assert "!! What gradient sees under protocol audited is sentence length, not morality." in summary_table(made)


def test_with_a_null_nothing_says_that_the_peak_flatters(whole: tuple[DiagnosisRecord, str]) -> None:
    words, printed = Page(whole[1]).words(), summary_table(whole[0])
    for text in ("flatters", "reads high by selection", "which by itself raises its number"):
        assert text not in printed and text not in words.split("What the number means")[0]
    assert (
        "p is corrected for the choice of the best layer and for the number of metrics; the interval is not." in printed
    )


def test_the_paper_protocol_is_named_for_what_it_is(whole: tuple[DiagnosisRecord, str]) -> None:
    assert "for a claim about a model" not in Page(whole[1]).words()
    protocol = {"template": "{text} is morally", "estimators": "paper", "preprocessing": ["centre"]}
    paper = realistic(layers=2, protocol={"name": "paper", **protocol})
    assert "for a claim about a model" in Page(render_report(paper)).words()


def test_write_report_returns_the_file_and_a_failure_leaves_the_old_page(tmp_path: Path) -> None:
    made = record([row("m", "score", i, "overall", 0.5) for i in range(3)], [M])
    written = write_report(made, tmp_path / "new" / "page.html")
    assert written == tmp_path / "new" / "page.html" and written.read_text(encoding="utf-8") == render_report(made)
    assert write_report(made, str(tmp_path)) == tmp_path / "report.html"
    before = (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="two rows"):
        write_report(dataclasses.replace(made, rows=made.rows * 2), tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["page.html", "report.html"]


def test_the_terminal_shows_interval_p_and_verdict() -> None:
    printed = summary_table(realistic(layers=2, verdicts={"gradient": "words"}))
    assert max(len(text) for text in printed.splitlines()) <= 120
    assert re.search(r"^metric .* 95 % interval +p  best baseline +verdict$", printed, re.M)
    assert re.search(
        r"^gradient +spearman +0 +0\.\d{3} +\d  0\.\d{3} to 0\.\d{3} +0\.037  bag of words 0\.\d{3}  words$",
        printed,
        re.M,
    )
    assert "- Sentence on gradient." in printed and printed.splitlines()[-1].startswith("! Foundation")


def test_the_answer_stands_first_in_the_terminal_and_on_the_page() -> None:
    made = realistic(layers=2, verdicts={"gradient": "words"})
    said = answer(made)
    assert said.startswith("In toy (planted, n = 600), what categorical")
    printed, words = " ".join(summary_table(made).split()), Page(render_report(made)).words()
    assert printed.index(said) < printed.index("metric headline")
    assert words.index("At a glance") < words.index(said) < words.index("Sentence on categorical.")
    bare = realistic(layers=2, names=())
    assert 'class="answer"' not in render_report(bare) and "In toy" not in summary_table(bare)


def test_a_metric_of_one_s_own_without_overall_shows_the_interval_of_its_peak() -> None:
    made = DiagnosisRecord.load(FILES / "no-overall.json")
    assert made.peaks
    printed, page = summary_table(made), Page(render_report(made)).words()
    for metric, peak in made.peaks.items():
        ends = interval(peak.ci_low, peak.ci_high)
        assert ends != MISSING and peak.group != "overall"
        (line,) = [text for text in printed.splitlines() if text.startswith(f"{metric} ")]
        assert re.search(rf" {re.escape(number(peak.value))} +{peak.layer}  {re.escape(ends)} ", line), line
        glance = page.split("How to read the")[0]
        assert f"At its best layer, {peak.layer} " in glance and f"interval {ends}" in glance


@pytest.mark.parametrize("path", [p for p in sorted(FILES.glob("*.json")) if _is_diagnosis(p)], ids=lambda p: p.stem)
def test_every_diagnosis_of_version_0_1_has_a_summary(path: Path) -> None:
    made = DiagnosisRecord.load(path)
    printed = summary_table(made)
    for metric, peak in made.peaks.items():
        (line,) = [text for text in printed.splitlines() if re.match(rf"{metric} +{peak.statistic} ", text)]
        assert number(peak.value) in line and interval(peak.ci_low, peak.ci_high) in line


def test_per_layer_lists_are_found_and_token_ids_are_not() -> None:
    tree = {
        "shares": [0.1, None, 0.3],
        "ids": [1, 2, 3],
        "deep": {"ratio": [1, 2.5, 3]},
        "short": [0.1],
        "flags": [True, 1.0, 2],
    }
    assert per_layer_lists(tree, 3) == {"shares": [0.1, None, 0.3], "deep.ratio": [1, 2.5, 3]}
