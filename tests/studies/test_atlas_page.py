"""The page of an atlas: every model, every pair, every failure, and nothing that looks like a number and is none."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from sae_moral.studies import Atlas
from sae_moral.studies.atlas_page import cka_figure, profiles_figure, render_atlas
from tests.studies.test_atlas_results import OLD


@pytest.fixture(scope="module")
def old() -> Atlas:
    return Atlas.load(OLD)


def test_the_page_shows_tables_curves_profiles_and_failures(old: Atlas, tmp_path: Path) -> None:
    report = tmp_path / old.entries[0].results["audited"].report
    report.parent.mkdir(parents=True)
    report.write_text("the page of a diagnosis")
    page = old.report(tmp_path)
    assert page == tmp_path / "atlas.html"
    html = page.read_text()
    for expected in (
        "1 model has no or not all results",
        "could not be loaded: cannot load &#39;nowhere-at-all&#39;",
        "base · instruct",
        "Family A",
        "Models without variants",
        "Unrelated models",
        'href="A-base/audited/report.html"',
        "CKA over the depth",
        "Headlines over the layers, protocol paper",
        "does not prove",
        "−0.107 (1)",
    ):
        assert expected in html, expected
    assert html.count("report.html") == 1  # only what is there is linked
    assert not re.search(r"\b(?:nan|NaN|None)\b", re.sub(r"(?s)<(style|script)>.*?</\1>", "", html))
    assert 'href="A' not in old.report(tmp_path / "elsewhere" / "page.html").read_text()


def test_published_numbers_stand_beside_the_paper_protocol_only(old: Atlas) -> None:
    html = render_atlas(old)
    assert html.count("at most 0.26, adjusted") == html.count("often above 0.5 in middle layers") == 1
    audited = dataclasses.replace(old, provenance={**old.provenance, "protocols": ["audited"]})
    assert "arXiv 2603.15615" not in render_atlas(audited)


def test_an_atlas_without_pairs_or_results_has_a_page(old: Atlas) -> None:
    alone = dataclasses.replace(old, entries=old.entries[2:], similarities=[])
    assert "No two models could be compared" in render_atlas(alone) and "All models" in render_atlas(alone)
    nothing = dataclasses.replace(old, entries=old.entries[3:], similarities=[])
    assert "No two models could be compared" in render_atlas(nothing)


def test_models_of_different_width_are_said_to_be_on_no_common_scale(old: Atlas) -> None:
    assert "flatters the narrower model" not in render_atlas(old)
    first, *rest = old.entries
    wide = {name: dataclasses.replace(one, d_model=10_001) for name, one in first.results.items()}
    html = render_atlas(dataclasses.replace(old, entries=[dataclasses.replace(first, results=wide), *rest]))
    assert "and 10001 dimensions" in html and "flatters the narrower model" in html


def test_a_pair_that_could_not_be_compared_says_why(old: Atlas) -> None:
    pair = dataclasses.replace(old.similarities[0], layers=[], error="<the store> is gone")
    html = render_atlas(dataclasses.replace(old, similarities=[pair, *old.similarities[1:]]))
    assert "not compared: &lt;the store&gt; is gone" in html


def test_names_are_escaped(old: Atlas) -> None:
    evil = dataclasses.replace(old.entries[2], family="<script>x</script>", variant="<b>", error="<i>")
    html = render_atlas(dataclasses.replace(old, entries=[*old.entries[:2], evil, old.entries[3]]))
    assert "<script>x" not in html and "<b>" not in html and "<i>" not in html


def test_figures_of_models_of_different_depth_share_a_relative_axis(old: Atlas) -> None:
    pair = dataclasses.replace(old.similarities[0], depths=(3, 6))
    axes = cka_figure({"x": pair}, old.similarities[1:], ["standardise"]).axes
    assert axes[0].get_xlabel() == "share of the blocks passed" and axes[0].get_title("left") == "standardised"
    assert np.max(axes[0].get_lines()[0].get_xdata()) <= 1
    same = cka_figure({"x": old.similarities[0]}, [], []).axes
    assert same[0].get_xlabel() == "layer" and np.asarray(same[0].get_lines()[0].get_xdata()).tolist() == [0, 1, 2]
    results = {entry.name: entry.results["paper"] for entry in old.entries[:2]}
    panels = profiles_figure(results).axes
    assert [panel.get_title("left") for panel in panels[:2]] == ["categorical · cosine", "dimensional · r2"]
    assert panels[0].get_ylabel() == "cosine\n← less indifferent"
    deeper = {**results, "deep": dataclasses.replace(results["A-base"], n_layers=9)}
    assert profiles_figure(deeper).axes[0].get_xlabel() == "share of the blocks passed"
