"""The notebooks of the documentation run from top to bottom, and what their words say of the numbers is so."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.conftest import bundled

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))


def run(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a notebook leaves behind. It is a script: no notebook software is needed."""
    bundled("smollm2-135m-instruct")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matplotlib.use("agg")
    return runpy.run_path(str(DOCS / "notebooks" / f"{name}.py"))


@pytest.mark.slow  # every build of the documentation runs it, too
def test_diagnose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    left = run("diagnose", monkeypatch, tmp_path)
    verdicts = {name: one.word for name, one in left["diagnosis"].verdicts.items()}
    assert verdicts == {"categorical": "beyond chance", "gradient": "found"}
    nearest = {one.against for one in left["diagnosis"].comparisons if one.outcome != "more"}
    assert nearest == {"valence reader"}  # mere pleasantness comes too near
    assert left["nothing"].verdicts["categorical"].word == "not shown"
    assert left["nothing"].peaks["categorical"].value > 0.5  # the best of five looks a little good


@pytest.mark.slow  # every build of the documentation runs it, too
def test_latents_and_surgery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    left = run("latents-and-surgery", monkeypatch, tmp_path)
    share = left["share"]
    assert share["audited"] > 5 * share["audited_null"] and share["audited"] > 0.01  # next to none where nothing is
    assert share["paper_null"] > 0.5 * share["paper"] > 0.05  # the paper's rule finds as many in permuted labels
    assert 0 < share["audited_replicated"] < 0.6  # some hold on the other texts, and not all
    assert {row["dimension"] for row in left["rows"][:3]} == {"sanctity"}  # latents of one topic
    intervals = dict(re.findall(r"(?m)^(\w+) .*  (\S+ … \S+)$", left["summary"](left["operation"])))
    low, high = (float(end) for end in intervals["reading_auroc"].split(" … "))
    assert low < 0 < high and float(intervals["explained_variance"].split(" … ")[1]) < 0  # the price alone is certain
    assert len(left["test"]) == 42 and set(left["effects"]) == {"operated", "rotated 0", "rotated 1"}
    operated, *twins = (one.auroc_change for one in left["effects"].values())
    assert operated.low < 0 and max(one.value for one in twins) > operated.value / 2  # twins do as much


@pytest.mark.slow  # every build of the documentation runs it, too
def test_hooks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    left = run("hooks", monkeypatch, tmp_path)
    norms = left["added"].norm(dim=-1)
    assert norms[0] == 0  # every token but the first
    assert norms[1:].tolist() == pytest.approx([left["norm"]] * (len(norms) - 1), rel=1e-3)
    assert left["steered"] != left["plain"] and len(left["norms"]) == 2
    assert set(left["found"]) == {"virtue − vice", "random 0", "random 1"}
    change, own = left["found"]["virtue − vice"], left["moved"]
    assert change.low < 0 < change.high  # no change of judgement is shown
    assert min(own["virtue − vice"]) > 0.1  # both poles move
    assert max(own["random 0"] + own["random 1"]) > 0.5 * max(own["virtue − vice"])  # a random direction does as much


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_to_pages(path: Path) -> None:
    """A notebook is a folder of the site, whose links mkdocs does not look at."""
    links = re.findall(r"\]\((\.\./[^)#]*)", path.read_text(encoding="utf8"))
    assert links
    for link in links:
        page = (path.with_suffix("") / link).resolve()
        assert any(page.with_suffix(suffix).is_file() for suffix in (".md", ".py")), link


def test_all_are_run_here_and_shown_on_the_site() -> None:
    names = {path.stem for path in NOTEBOOKS}
    assert {f"test_{name.replace('-', '_')}" for name in names} <= set(globals()) and len(names) == 3
    site = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf8")
    assert all(f"notebooks/{name}.py" in site for name in names)
