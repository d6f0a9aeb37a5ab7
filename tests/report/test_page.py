"""A page stands alone, escapes what it is given, and is never half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from sae_moral.report import page
from sae_moral.report.page import Mark, Section, render_page, write_page
from sae_moral.tables import Table
from tests.report.drawn import Page

BAD = "<script>alert('x')</script>\"'--><img src=http://evil/x onerror=alert(1)>{{ 7*7 }}{0}%s"


def test_sections_stand_in_their_order_alarms_first_and_ids_are_unique() -> None:
    sections = [
        Section("One", page.paragraph("a")),
        Section("One", Markup("")),
        Section("Long title", Markup(""), short="Short", id="own"),
        Section("Danger", Markup(""), kind="alarm", listed=False),
    ]
    html = render_page("Title", sections, kicker="Kind", facts=[("n", "3")], warnings=["Careful."])
    made = Page(html)
    assert made.ids() == ["content", "danger", "warnings", "one", "one-2", "own"]
    links = [attrs["href"] for tag, attrs in made.tags if tag == "a"]
    assert links == ["#content", "#one", "#one-2", "#own"]
    assert "To the content Kind Title n 3 One One Short Danger Warnings Careful. One a" in made.words()
    assert "<title>Kind: Title</title>" in html


def test_every_block_escapes_what_it_is_given() -> None:
    table = Table([BAD, "v"], [[BAD, BAD]], left_out=[BAD])
    blocks = [
        page.paragraph(BAD, "note"),
        page.heading(BAD, BAD),
        page.bullets([BAD]),
        page.pairs([(BAD, BAD)], "facts"),
        page.columns([(BAD, BAD)]),
        page.data_table(table, BAD, compact=True, tall=True, kinds=["missed"]),
        page.folded(BAD, BAD),
        page.folded_table(table, BAD, BAD),
        page.tree({BAD: [BAD, {BAD: None}], "long": list(range(20)), "none": {}}),
        page.card(BAD, BAD, page.scale([Mark("null", BAD, BAD, 0.0, 1.0)]), href="#x", kicker=BAD, aside=BAD),
        page.badge(BAD, BAD, "none"),
        page.tokens([(BAD, 0.5), (BAD, 0.0)]),
    ]
    html = render_page(
        BAD, [Section(BAD, page.joined(blocks))], kicker=BAD, facts=[(BAD, BAD)], warnings=[BAD], footer=BAD
    )
    made = Page(html)
    assert sum(tag == "script" for tag, _ in made.tags) == 1 and not any(tag == "img" for tag, _ in made.tags)
    assert not any(name.startswith("on") for _, attrs in made.tags for name in attrs)
    assert "<!--" not in html and "{{ 7*7 }}{0}%s" in made.words()
    assert "20 entries" in made.words() and "not computed" in made.words()


def test_a_scale_holds_every_mark_in_place() -> None:
    marks = [Mark("null", "null band", "w", 0.4, 0.6), Mark("chance", "chance", "w", 0.5, 0.5),
             Mark("interval", "interval", "w", 0.6, 0.8), Mark("value", "value", "w", 0.7, 0.7)]  # fmt: skip
    made = Page(page.scale(marks))
    first: dict[str, dict[str, str | None]] = {}
    for tag, attrs in made.tags:
        if tag in ("rect", "line", "circle"):
            first.setdefault(str(attrs["class"]), attrs)
    del first["axis"]
    at = {kind: float(str(a.get("x") or a.get("x1") or a.get("cx"))[:-1]) for kind, a in first.items()}
    assert 0 < at["null"] < at["chance"] < at["interval"] < at["value"] < 100
    ends = float(str(first["interval"]["x2"])[:-1])
    assert at["value"] == pytest.approx((at["interval"] + ends) / 2, abs=0.01)
    assert made.words() == "null band w chance w interval w"
    whole = Page(page.scale([Mark("value", "", "", 0.25, 0.25), *marks[:2]], ends=(0.0, 1.0)))
    assert ("circle", {"class": "value", "cx": "25.00%", "cy": "17", "r": "5.5"}) in whole.tags


def test_write_page_returns_the_file(tmp_path: Path) -> None:
    assert write_page(tmp_path / "new" / "page.html", "x") == tmp_path / "new" / "page.html"
    assert write_page(str(tmp_path), "y", name="atlas.html") == tmp_path / "atlas.html"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["atlas.html", "page.html"]


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")

    def refuse(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_page(target, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and target.read_text(encoding="utf-8") == "old"
