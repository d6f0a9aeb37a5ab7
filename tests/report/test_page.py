"""The page: parses, stands alone, escapes, says what is missing, and is never half written."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sae_moral.report import render_report, write_report
from sae_moral.report.glance import glance, length_shares
from sae_moral.report.old_tables import per_layer_lists
from sae_moral.report.words import MISSING, count, detail, interval, number, p_value

Make = Callable[..., Any]
VOID = {"meta", "input", "br", "link", "img"}
HIGHER = {"headline": "score", "chance": 0.5, "higher_is": "less indifferent"}


class Page(HTMLParser):
    """Checks that every tag is closed in order; collects tags, attributes, ids and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def words(self) -> str:
        """The visible text, one space between words."""
        return " ".join(" ".join(self.text).split())

    def ids(self) -> list[str]:
        """Every id in the page."""
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]


def test_the_page_parses_and_stands_alone(make_realistic: Make) -> None:
    html = render_report(make_realistic())
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


def test_the_page_is_accessible(make_realistic: Make) -> None:
    page = Page(render_report(make_realistic()))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    for tag, attrs in page.tags:
        if tag == "th":
            assert attrs.get("scope") in ("row", "col")
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or (attrs.get("role") == "img" and attrs.get("aria-label"))
    assert ("html", {"lang": "en"}) in page.tags


def test_everything_that_was_measured_is_there(make_realistic: Make) -> None:
    fake = make_realistic(layers=5)
    words = Page(render_report(fake)).words()
    for text in (
        *fake.provenance["warnings"],
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "moralstrength",
        "audited",
        "1,512",
    ):
        assert text in words
    for texts in fake.provenance["metrics"].values():
        assert texts["means"] in words and texts["does_not_prove"] in words
    for key in ("sha256", "permutations", "transformer_lens", "length_share", "first_token_sink_ratio", "controls"):
        assert key in words
    html = render_report(fake)
    for row in fake.rows:
        keys = (row["statistic"], row["layer"], row["group"])
        cells = "".join(f'<th scope="row">{key}</th>' for key in keys)
        assert f"{cells}<td>{number(row['value'])}</td>" in html


def test_hostile_text_stays_text(make_diagnosis: Make, make_row: Make) -> None:
    bad = "<script>alert('x')</script>\"'--><img src=http://evil/x onerror=alert(1)>{{ 7*7 }}$\\frac{"
    rows = [make_row(bad, bad, i, g, 0.5 + i / 10) for i in range(4) for g in (bad, "overall", "b")]
    rows += [make_row(bad, "further" + bad, i, bad, 0.1 * i) for i in range(4)]
    texts = {"headline": bad, "means": bad, "does_not_prove": bad, "higher_is": bad, "chance": 0.5}
    nested = {bad: {bad: bad}, "list": [bad], "shares" + bad: [0.1, 0.2, 0.3, 0.4]}
    fake = make_diagnosis(
        rows, {bad: texts}, model={"name": bad, "dtype": bad}, warnings=[bad], capture=nested, preprocessing=nested
    )
    html = render_report(fake)
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<!--" not in html and "{{ 7*7 }}" in page.words() and "alert('x')" in page.words()


def test_missing_numbers_are_dashes_and_never_nan(make_diagnosis: Make, make_row: Make) -> None:
    nan = float("nan")
    rows = [
        make_row("m", "score", i, g, v, n=3, ceiling=nan)
        for i, v in enumerate([0.5, None, nan])
        for g in ("overall", "a")
    ]
    fake = make_diagnosis(rows, {"m": HIGHER | {"chance": None}}, capture={"ratio": [1.0, nan, None], "mean": nan})
    html = render_report(fake)
    assert not re.search(r"\b(nan|NaN|None|undefined|inf)\b", Page(html).words())
    assert not re.search(r"\bnan\b", re.sub(r"aria-label", "", html), re.I)
    assert f"<td>{MISSING}</td>" in html and "not computed" in html
    assert "Not computed: interval, null band, p, ceiling, baseline, dropped." in Page(html).words()


def test_a_metric_without_any_value(make_diagnosis: Make, make_row: Make) -> None:
    rows = [make_row("m", "score", i, "overall", None) for i in range(3)]
    words = Page(render_report(make_diagnosis(rows, {"m": HIGHER, "never-ran": {"headline": "x"}}))).words()
    assert words.count("No value was computed for this metric.") == 4
    assert Page(render_report(make_diagnosis([], {}))).words()


def test_one_layer_and_an_undescribed_metric(make_diagnosis: Make, make_row: Make) -> None:
    rows = [make_row("rsa", "tau", 4, g, 0.25, n=10, n_dropped=2) for g in ("overall", "x", "y")]
    words = Page(render_report(make_diagnosis(rows, {}, capture={"ratio": [3.5]}))).words()
    assert "At layer 4." in words and "0.250" in words and "n = 10, 2 dropped." in words
    assert "best of" not in words and "peak over" not in words
    assert "rsa: up to 2 scenarios dropped" in words


def test_a_peak_without_controls_is_cautioned(make_realistic: Make) -> None:
    words = Page(render_report(make_realistic(layers=8, controls=False))).words()
    assert words.count("peak over 8 layers, without a null: reads high by selection") == 4
    assert words.count("no interval was computed") == 4


@pytest.mark.parametrize(
    ("higher_is", "row", "finding", "caution"),
    [
        ("less indifferent", {"null_low": 0.4, "null_high": 0.6}, "above the null band of every layer", None),
        ("less indifferent", {"null_low": 0.4, "null_high": 0.9}, None, "inside the null band"),
        ("less indifferent", {"null_low": 0.9, "null_high": 0.95}, None, "below the null band"),
        ("more indifferent", {"null_low": 0.9, "null_high": 0.95}, "below the null band of every layer", None),
        ("less indifferent", {"baseline": 0.6, "ci_low": 0.65, "ci_high": 0.8}, "above the baseline (0.600)", None),
        ("less indifferent", {"baseline": 0.6, "ci_low": 0.55, "ci_high": 0.8}, None, "its interval reaches it"),
        ("less indifferent", {"baseline": 0.8}, None, "does not beat the baseline (0.800)"),
        ("more indifferent", {}, None, "no better than chance (0.500)"),
        ("less indifferent", {}, None, "text length explained 97 % of this layer’s variance"),
    ],
)
def test_what_the_controls_say(
    make_diagnosis: Make,
    make_row: Make,
    higher_is: str,
    row: dict[str, float],
    finding: str | None,
    caution: str | None,
) -> None:
    frame = make_diagnosis([make_row("m", "score", i, "overall", 0.7, **row) for i in range(3)], {}).frame
    card = glance(frame, "m", HIGHER | {"higher_is": higher_is}, {0: 0.97})
    assert (card.best and card.best.layer, card.value) == (0, "0.700")
    assert finding is None or finding in card.findings
    assert caution is None or any(caution in words for words in card.cautions)
    assert finding is not None or not any("baseline" in words or "null" in words for words in card.findings)


def test_the_scale_holds_every_control_in_place(make_diagnosis: Make, make_row: Make) -> None:
    controls = {"ci_low": 0.6, "ci_high": 0.8, "null_low": 0.4, "null_high": 0.6, "baseline": 0.6, "ceiling": 0.9}
    rows = [make_row("m", "score", 0, "overall", 0.7, p_value=0.0001, **controls)]
    marks = {mark.kind: mark for mark in glance(make_diagnosis(rows, {}).frame, "m", HIGHER, {}).marks}
    assert {kind: mark.words for kind, mark in marks.items()} == {
        "null": "0.400 to 0.600, p < 0.001", "interval": "0.600 to 0.800", "chance": "0.500", "baseline": "0.600",
        "ceiling": "0.900, reached to 50 % from chance", "value": "0.700",
    }  # fmt: skip
    assert 0 < marks["null"].left < marks["chance"].left < marks["baseline"].left == marks["null"].right
    assert marks["value"].left == pytest.approx((marks["interval"].left + marks["interval"].right) / 2)
    assert marks["interval"].right < marks["ceiling"].left == marks["ceiling"].right < 100


def test_beyond_its_own_null_but_not_every_layers(make_diagnosis: Make, make_row: Make) -> None:
    rows = [
        make_row("m", "score", i, "overall", v, null_low=0.4, null_high=h) for i, v, h in ((0, 0.7, 0.6), (1, 0.5, 0.8))
    ]
    card = glance(make_diagnosis(rows, {}).frame, "m", HIGHER, {})
    assert card.findings == ["above the null band"]
    assert "chosen as the best of 2 layers; other layers’ null bands reach as far" in card.cautions


def test_length_shares_need_one_number_per_layer_and_length_still_there() -> None:
    known = {"layers": [0, 9], "preprocessing": {"length_share": [0.9, None]}}
    assert length_shares(known) == {0: 0.9}
    assert length_shares(known | {"layers": [0]}) == {} == length_shares({})
    assert length_shares(known | {"protocol": {"preprocessing": ["centre", "remove_length"]}}) == {}


def test_the_paper_protocol_is_named_for_what_it_is(make_realistic: Make) -> None:
    fake = make_realistic(layers=3)
    assert "for a claim about a model" not in Page(render_report(fake)).words()
    fake.provenance["protocol"] = {"name": "paper"}
    assert "for a claim about a model" in Page(render_report(fake)).words()


def test_the_same_diagnosis_gives_the_same_page(make_realistic: Make) -> None:
    assert render_report(make_realistic(layers=3)) == render_report(make_realistic(layers=3))


def test_write_report_returns_the_file(tmp_path: Path, make_diagnosis: Make, make_row: Make) -> None:
    fake = make_diagnosis([make_row("m", "score", i, "overall", 0.5) for i in range(3)], {"m": HIGHER})
    written = write_report(fake, tmp_path / "new" / "page.html")
    assert written == tmp_path / "new" / "page.html" and written.read_text(encoding="utf-8") == render_report(fake)
    assert write_report(fake, str(tmp_path)) == tmp_path / "report.html"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["page.html", "report.html"]


@pytest.mark.parametrize("failing", ["render", "rename"])
def test_a_failure_leaves_the_old_page(
    tmp_path: Path, make_diagnosis: Make, make_row: Make, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")
    rows = [make_row("m", "score", 0, "overall", 0.1)] * (2 if failing == "render" else 1)
    if failing == "rename":

        def refuse(*_: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError if failing == "rename" else ValueError):
        write_report(make_diagnosis(rows, {"m": HIGHER}), target)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and target.read_text(encoding="utf-8") == "old"


def test_per_layer_lists_are_found_and_token_ids_are_not() -> None:
    tree = {
        "shares": [0.1, None, 0.3],
        "ids": [1, 2, 3],
        "deep": {"ratio": [1, 2.5, 3]},
        "short": [0.1],
        "flags": [True, 1.0, 2],
    }
    assert per_layer_lists(tree, 3) == {"shares": [0.1, None, 0.3], "deep.ratio": [1, 2.5, 3]}


def test_words() -> None:
    nan = float("nan")
    assert [number(x) for x in (None, nan, -0.5, 0.0, 12, 12345.6, 1e-5)] == [
        *(MISSING, MISSING, "−0.500", "0.000", "12", "12,346", "1.0e−05"),
    ]
    assert [number(float("inf")), number(-float("inf"))] == ["∞", "−∞"]
    assert [count(None), count(1500.0), count(nan)] == [MISSING, "1,500", MISSING]
    assert [p_value(0.0004), p_value(0.02), p_value(None)] == ["<0.001", "0.020", MISSING]
    assert [interval(0.1, 0.2), interval(0.1, None)] == ["0.100 to 0.200", MISSING]
    assert [detail(x) for x in (None, nan, True, 0.25, "a", 3)] == [
        "not computed",
        "not computed",
        "yes",
        "0.25",
        "a",
        "3",
    ]
