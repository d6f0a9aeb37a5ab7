"""The figure of every kind of result, from its file or folder alone."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.diagnosis import Diagnosis
from sae_moral.errors import DataError
from sae_moral.foundations import FOUNDATIONS
from sae_moral.io import write_record, write_text
from sae_moral.report import save_figure
from sae_moral.studies import Atlas, Sweep, latents_with_page, result_figure
from sae_moral.studies.result_figures import KINDS
from tests.report.drawn import data, draw
from tests.report.made import METRICS, compared
from tests.report.records import realistic
from tests.studies.test_latents_page import LAX
from tests.studies.test_sweep_page import OLD, ROWS
from tests.tiny import scenarios

FILES = OLD.parent
ATLAS = FILES / "atlas.json"


@pytest.mark.parametrize("width", [None, 3.3])
@pytest.mark.parametrize("name", ["audited-all", "paper", "no-overall", "own-metrics", "sae"])
def test_every_metric_of_a_diagnosis_has_a_figure(name: str, width: float | None, tmp_path: Path) -> None:
    kept = Diagnosis.load(FILES / f"{name}.json")
    for metric, profile in kept.profiles.items():
        figure = result_figure(FILES / f"{name}.json", metric=metric, width=width)
        assert figure.get_figwidth() == (width or 7.8)
        axes = draw(figure).axes[0]
        values = np.array([np.nan if value is None else value for value in profile.values])
        assert np.array_equal(data(axes, profile.group)[1], values, equal_nan=True)
        assert axes.get_xlabel() == "layer" and profile.statistic.replace("_", " ") in axes.get_ylabel()
    assert len(result_figure(FILES / f"{name}.json").axes) >= len(kept.metrics)


def test_a_folder_is_its_result_and_draws_intervals_and_baselines(tmp_path: Path) -> None:
    made = realistic(layers=6)
    made.save(tmp_path)
    for width in (3.3, 7.0):
        figure = result_figure(tmp_path, metric="gradient", width=width)
        words = {text.get_text() for text in figure.legends[0].get_texts()}
        assert {"overall", "interval", "null band", "chance", *made.baselines} <= words
        draw(figure)
        box = figure.get_tightbbox()
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= figure.get_figheight()
    labels = [text.get_text() for text in draw(result_figure(tmp_path, width=3.3)).texts]
    assert labels == [] and len(result_figure(tmp_path, width=3.3).axes) == len(made.metrics)


def test_an_atlas_is_drawn_by_protocol_and_metric_with_intervals(tmp_path: Path) -> None:
    old = Atlas.load(ATLAS)
    for protocol in old.provenance["protocols"]:
        for metric, spec in old.headlines(protocol):
            (axes,) = draw(result_figure(ATLAS, metric=metric, protocol=protocol, width=3.3)).axes
            for entry in old.entries:
                if protocol in entry.results:
                    assert data(axes, entry.name)[1] == list(entry.results[protocol].profiles[metric].values)
            assert spec.name.replace("_", " ") in axes.get_ylabel() and not axes.collections
    assert len(result_figure(ATLAS).axes) == len(old.headlines(old.provenance["compared"]))

    def bounded(result: Any) -> Any:
        ends = {
            name: dataclasses.replace(one, ci_low=one.values, ci_high=one.values)
            for name, one in result.profiles.items()
        }
        return dataclasses.replace(result, profiles=ends)

    entries = [
        dataclasses.replace(one, results={name: bounded(result) for name, result in one.results.items()})
        for one in old.entries
    ]
    Atlas(entries, old.similarities, old.provenance).save(tmp_path)
    figure = result_figure(tmp_path, metric="categorical")
    measured = [one for one in entries if old.provenance["compared"] in one.results]
    assert len(figure.axes[0].collections) == len(measured) > 0
    with pytest.raises(ValueError, match="unknown protocol 'papre'; did you mean 'paper'"):
        result_figure(ATLAS, protocol="papre")
    with pytest.raises(ValueError, match="unknown metric 'categoric'; did you mean 'categorical'"):
        old.figure("categoric")
    with pytest.raises(ValueError, match="no model has a result under the protocol"):
        Atlas([], [], old.provenance).figure()


def test_a_sweep_keeps_its_points_at_any_width(tmp_path: Path) -> None:
    dataclasses.replace(Sweep.load(OLD), rows=ROWS).save(tmp_path)
    whole, small = result_figure(tmp_path), draw(result_figure(tmp_path, width=7))
    points = [
        {tuple(point) for one in figure.axes[0].collections for point in np.asarray(one.get_offsets())}
        for figure in (whole, small)
    ]
    assert points[0] == points[1] == {(row.kl, row.words[0].auroc_change) for row in ROWS}
    assert small.get_figwidth() == 7
    with pytest.raises(ValueError, match=r"3\.3 inches for the two panels of a sweep; expected 6 to 100"):
        result_figure(tmp_path, width=3.3)
    with pytest.raises(DataError, match=r"sweep\.json: no row has an AUROC and a KL"):
        result_figure(OLD)


def test_moral_latents_of_one_and_of_several_saes(tiny: Any, trained: Path, tmp_path: Path) -> None:
    latents_with_page(tiny, trained, scenarios(), tmp_path / "out", settings=LAX, progress=False)
    (axes,) = result_figure(tmp_path / "out", width=3.3).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    layer = tmp_path / "out" / "layer_001"
    for path in (layer, layer / "moral_latents.json"):
        for width in (3.3, 7.0):
            titles = [one.get_title(loc="left") for one in draw(result_figure(path, width=width)).axes]
            assert [title for title in titles if title] == list(FOUNDATIONS)
    save_figure(result_figure(layer), tmp_path / "latents.svg")


def test_compared_saes_are_drawn_by_metric(tmp_path: Path) -> None:
    found = compared()
    found.save(tmp_path)
    for width in (3.3, 7.0):
        axes = draw(result_figure(tmp_path, width=width)).axes
        assert [one.get_title(loc="left") for one in axes if one.get_title(loc="left")] == list(METRICS)
        drawn = [np.asarray(line.get_xdata())[0] for line in axes[0].lines if line.get_marker() == "o"]
        assert drawn == [row.difference for row in found.rows if row.metric == METRICS[0]]


def test_what_is_no_result_or_has_no_choice_says_so(tmp_path: Path) -> None:
    write_text(tmp_path / "list.json", "[1]")
    write_text(tmp_path / "words.txt", "words")
    write_record(tmp_path / "training.json", "sae_training", 1, {})
    audited, nan = FILES / "audited.json", float("nan")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (audited, {"metric": "gradeint"}, "unknown metric 'gradeint'; did you mean 'gradient'"),
        (audited, {"protocol": "paper"}, "of the kind diagnosis, where there is no protocol"),
        (OLD, {"metric": "gradient"}, "of the kind sweep, where there is no metric to choose; leave it out"),
        (audited, {"width": 0.5}, "a figure 0.5 inches wide; expected 2 to 100"),
        (audited, {"metric": "gradient", "width": nan}, "a figure nan inches wide"),
        (tmp_path, {}, f"{tmp_path}: no result in this folder; expected atlas.json"),
        (tmp_path / "list.json", {}, f"no result of sae-moral; expected a JSON object of the kind {KINDS[0]} or"),
        (tmp_path / "words.txt", {}, "words.txt, row 1: not a result of sae-moral"),
        (tmp_path / "training.json", {}, "'sae_training' has no figure; expected diagnosis"),
    ]
    for path, how, problem in cases:
        with pytest.raises(ValueError, match=re.escape(problem)):
            result_figure(path, **how)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        result_figure(tmp_path / "nowhere")
