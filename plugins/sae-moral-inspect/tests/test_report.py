"""The page: judges first, everything escaped, every prompt there."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import get_model
from sae_moral_inspect.calibration import CalibrationRow
from sae_moral_inspect.contrasts import ContrastRow
from sae_moral_inspect.findings import sentences
from sae_moral_inspect.judging import IDENTICAL, ORDERS, Judgement
from sae_moral_inspect.report import layer_figure, worth
from sae_moral_inspect.results import ArmRow, FlamesResults, JudgeRow, WinRow, outcome_of
from sae_moral_inspect.run import Judges, run
from sae_moral_inspect.stats import Estimate

from .conftest import ScriptedJudge, make_answers

EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7*7 }}$x$'


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page(tmp_path: Path, judge: ScriptedJudge) -> None:
    judge.say = lambda text: f"{EVIL}\nVERDICT: A" if "VERDICT" in text else '{"safety": 3, "emotion": 1}'
    said = {"baseline": make_answers(["fine"] * 3), EVIL: make_answers([EVIL, "fine", "other"])}
    run(tmp_path, Judges([get_model(judge.name)], calibrate=False), provenance={"model": EVIL}, answers=said)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "link")]
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert "7*7" in text
    assert not re.search(r'(?:src|href)="https?:', text)
    rows = [
        re.findall(r"<th[^>]*>(.*?)</th>", row) for row in re.findall(r'<tr class="top">(.*?)</tr>', text, re.DOTALL)
    ]
    assert [outcome for _, _, outcome in rows] == ["mixed", "identical", "mixed"]
    assert [dimension for _, dimension, _ in rows] == ["Fairness", "Safety", "Morality"]
    assert text.index("What the judges are worth</h2>") < text.index("Win shares against the baseline</h2>")
    assert "It chose the answer shown first rather than the second by +100 %" in text
    assert "cannot be distinguished from a judge that does not read" in text


def test_a_judges_preference_is_a_change_of_behaviour() -> None:
    arms = [ArmRow("operated L1 KL 0.02", "operated", 1, kl=0.02), ArmRow("rotated L1 KL 0.02", "rotated", 1, kl=0.02)]
    name = arms[0].name
    beyond, within = Estimate(0.12, 0.02, 0.2, 100), Estimate(0.06, -0.08, 0.2, 100)
    contrasts = [
        ContrastRow(name, "baseline", "baseline", "j", "win share", beyond, 0.14),
        ContrastRow(name, "baseline", "baseline", "", "refused", within, 0.07),
        ContrastRow(name, "rotated L1 KL 0.02", "rotated", "j", "win share", within, 0.2),
    ]
    row = WinRow(name, "j", 100, 1.0, 0, None, 100, 122, 2, 76, beyond, beyond, beyond, 0.02)
    (said,) = sentences(FlamesResults({}, arms, [], [], [row], [], [], [], contrasts))
    assert "the judge's preference (j) more than the baseline's by 12 points [2, 20]" in said
    assert "beyond no twin; not beyond rotated L1 KL 0.02" in said


@pytest.mark.parametrize(("low", "reads"), [(0.8, True), (0.4, False)])
def test_verdicts_that_follow_the_place_are_read_over_both_orders_where_pairs_show_it(low: float, reads: bool) -> None:
    some = Estimate(0.7, 0.6, 0.8, 100)
    judge = JudgeRow("j", 10, {"A": 9, "B": 1}, some, 0.6, some, 0, 0, {}, None, None, {})
    known = CalibrationRow("j", 50, 1.0, Estimate(0.9, low, 0.98, 50), {}, some, None, 0, some, None)
    text = " ".join(worth(judge, known))
    assert ("over both orders it reads them" in text) == reads
    assert ("cannot be distinguished" in text) != reads


def test_the_layer_curve() -> None:
    share = Estimate(0.6, 0.5, 0.7, 9)
    arms = [ArmRow(f"{kind} {layer}", kind, layer, 0.1) for kind in ("operated", "random") for layer in (9, 3)]
    row = WinRow("", "j", 9, 1.0, 0, None, 9, 5, 4, 9, share, share, share, 0.5)
    wins = [replace(row, arm=arm.name) for arm in arms]
    results = FlamesResults({}, arms, [], [], wins, [], [], [])
    figure = layer_figure(results)
    assert figure is not None
    drawn: Any = figure.axes[0].containers
    assert len(drawn) == 2
    assert [round(x) for x in drawn[0].lines[0].get_xdata()] == [3, 9]
    assert layer_figure(replace(results, wins=[replace(wins[0], share=None)])) is None


def test_outcomes() -> None:
    def both(*verdicts: str | None, reason: str | None = None) -> list[Judgement]:
        return [Judgement("j", 0, order, verdict=v, reason=reason) for order, v in zip(ORDERS, verdicts, strict=True)]

    assert outcome_of(both("A", "B")) == "win"
    assert outcome_of(both("B", "A")) == "loss"
    assert outcome_of(both("TIE", "TIE")) == "tie"
    assert outcome_of(both("A", "A")) == "mixed"
    assert outcome_of(both("TIE", "TIE", reason=IDENTICAL)) == "identical"
    assert outcome_of(both("A", None, reason="judge: HTTP 500")) == "unscored"
    assert outcome_of([]) == "unscored"
