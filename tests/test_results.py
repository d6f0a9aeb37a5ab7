"""`DiagnosisRecord`: to a file and back, and what files of version 0.1 become."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.errors import DataError
from sae_moral.results import (
    MEAN_OF_GROUPS,
    Comparison,
    DiagnosisRecord,
    Outcome,
    Profile,
    StatisticSpec,
    Verdict,
    best_layer,
    leading_groups,
)

FOLDER = Path(__file__).parent / "data_files" / "v0.1"
NAMES = ("audited", "audited-all", "matched", "no-overall", "none", "own-metrics", "paper", "sae")


def old(name: str) -> dict[str, Any]:
    """The file as version 0.1 wrote it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf8"))


def said(p_value: float | None) -> Outcome:
    """What a p-value of an old file says: none of them had a margin."""
    return "not computed" if p_value is None else "more" if p_value < 0.05 else "cannot tell"


def load(name: str) -> DiagnosisRecord:
    return DiagnosisRecord.load(FOLDER / f"{name}.json")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_version_0_1_is_saved_and_loaded_as_today_s(name: str, tmp_path: Path) -> None:
    record = load(name)
    path = record.save(tmp_path)
    again = DiagnosisRecord.load(path)
    for field in dataclasses.fields(DiagnosisRecord):
        assert getattr(again, field.name) == getattr(record, field.name), field.name
    assert list(again.metrics) == list(record.metrics) == list(old(name)["provenance"]["metrics"])
    assert json.loads(path.read_text(encoding="utf8"))["schema_version"] == 3
    assert again.to_text() == record.to_text()


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_provenance_stay(name: str) -> None:
    record, before, since = load(name), old(name), {"ceiling_low": None, "ceiling_high": None}
    assert [dataclasses.asdict(row) for row in record.rows] == [since | row for row in before["results"]]
    assert len(record.frame) == len(before["results"])
    kept = {k: v for k, v in record.provenance.items() if k not in ("model", "controls", "migrated_from")}
    assert kept == {k: v for k, v in before["provenance"].items() if k not in ("model", "controls", "metrics")}
    assert record.provenance["model"]["identity"] == before["provenance"]["model"]["weights"]
    assert record.provenance.get("migrated_from") == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_what_the_controls_said_stays(name: str) -> None:
    record, controls = load(name), old(name)["provenance"]["controls"]
    for metric, before in controls["peaks"].items():
        if before is None:
            assert metric not in record.peaks and metric not in record.profiles
            continue
        peak, profile = record.peaks[metric], record.profiles[metric]
        for kept in ("statistic", "layer", "value", "ci_low", "ci_high", "p_value", "p_value_any_length"):
            assert getattr(peak, kept) == before[kept]
        assert (peak.null_low, peak.null_high) == (before.get("null_peak_low"), before.get("null_peak_high"))
        assert (peak.control_task, peak.selectivity) == (before.get("control_task"), before.get("selectivity"))
        place = profile.layers.index(peak.layer)
        assert profile.values[place] == pytest.approx(peak.value, abs=1e-12)
        assert (profile.ci_low[place], profile.ci_high[place]) == (peak.ci_low, peak.ci_high)
    for metric, given in controls["verdicts"].items():
        word = "not shown" if given["verdict"] == "empty" else given["verdict"]
        sentence = given["sentence"].replace(": morally empty as far as this metric sees", "")
        assert record.verdicts[metric] == Verdict(metric, word, sentence)
    told = [dataclasses.replace(one, outcome="not computed", margin=None, at_most=None) for one in record.comparisons]
    assert told == [Comparison(**given) for given in controls["comparisons"]]
    for one in record.comparisons:
        lower = record.metrics[one.metric].spec.direction == "lower"
        ends = (-one.ci_low, one.ci_high) if one.ci_low is not None and one.ci_high is not None else (1.0, 1.0)
        assert one.outcome == ("not more" if ends[not lower] <= 0 else said(one.p_value)), one
    assert all(peak.outcome == said(peak.p_value) for peak in record.peaks.values())
    for baseline, given in controls["baselines"].items():
        for metric, line in given["headlines"].items():
            if any(value is not None for value in line["value"]):
                profile = record.baselines[baseline].profiles[metric]
                assert list(profile.values) == line["value"] and list(profile.layers) == (given["layers"] or [])
                assert profile.group == record.profiles[metric].group
            else:
                assert metric not in record.baselines[baseline].profiles
    told = record.provenance["controls"]
    assert told is not None
    for name, value in told.items():
        assert value == controls.get(name, {} if name == "explained_by_nuisance" else None)


def test_a_file_of_schema_2_loads() -> None:
    path = FOLDER.parent / "schema2" / "matched.json"
    record, before = DiagnosisRecord.load(path), json.loads(path.read_text(encoding="utf8"))
    since = {"ceiling_low": None, "ceiling_high": None}
    assert [dataclasses.asdict(row) for row in record.rows] == [since | row for row in before["results"]]
    assert record.verdicts == load("matched").verdicts and record.comparisons == load("matched").comparisons
    assert record.peaks == load("matched").peaks


SEPARATES = "Separates from permuted labels (p = 0.010)"
WORDS = f"{SEPARATES}, but not from bag of words (difference −0.100, p = 0.900)"


@pytest.mark.parametrize(
    ("word", "sentence", "ci_high", "expected"),
    [
        ("found", f"{SEPARATES}.", 0.4, ("found", f"{SEPARATES}.", ("random weights",))),
        ("found", f"{SEPARATES}.", None,
         ("beyond chance", f"{SEPARATES}. Not compared with bag of words.", ("random weights", "bag of words"))),
        ("words", f"{WORDS}: no more than the words give.", 0.1, ("beyond chance", f"{WORDS}.", ("random weights",))),
        ("words", f"{WORDS}: no more than the words give.", -0.01, ("words", f"{WORDS}.", ("random weights",))),
        ("empty", "Not beyond permuted labels: morally empty as far as this metric sees (p = 0.900).", 0.1,
         ("not shown", "Not beyond permuted labels (p = 0.900).", ())),
    ],
)  # fmt: skip
def test_old_verdicts_say_no_more_than_was_shown(
    word: str, sentence: str, ci_high: float | None, expected: tuple, tmp_path: Path
) -> None:
    content = old("matched")
    controls = content["provenance"]["controls"]
    controls["verdicts"]["categorical"] = {"metric": "categorical", "verdict": word, "sentence": sentence}
    for one in controls["comparisons"]:
        won = one["against"] != "bag of words" or word == "found"
        one |= {"ci_low": -0.3, "ci_high": 0.4 if won else ci_high, "p_value": 0.01 if won else 0.9}
        if one["against"] == "bag of words" and ci_high is None:
            one |= {"ci_low": None, "ci_high": None, "p_value": None}
    (tmp_path / "diagnosis.json").write_text(json.dumps(content), encoding="utf8")
    got = DiagnosisRecord.load(tmp_path).verdicts["categorical"]
    assert (got.word, got.sentence, got.not_compared) == expected


def test_without_controls_there_are_peaks_but_no_verdicts() -> None:
    record = load("none")
    assert record.provenance["controls"] is None
    assert record.verdicts == record.baselines == {} and record.comparisons == []
    for metric, peak in record.peaks.items():
        rows = [r for r in record.rows if r.metric == metric and r.headline and r.group == "overall"]
        best = max(rows, key=lambda row: row.value if row.value is not None else -np.inf)
        assert (peak.layer, peak.value, peak.n_layers) == (best.layer, best.value, 3)
        assert peak.ci_low is None and peak.p_value is None and peak.null_low is None


def test_a_metric_of_one_s_own_without_overall() -> None:
    record = load("own-metrics")
    peak, profile = record.peaks["spread"], record.profiles["spread"]
    assert record.metrics["spread"].spec.direction == "lower" and peak.group == MEAN_OF_GROUPS
    means = [
        np.mean([r.value for r in record.rows if r.metric == "spread" and r.layer == layer and r.value is not None])
        for layer in (0, 1, 2)
    ]
    assert profile.values == pytest.approx(means) and peak.layer == int(np.argmin(means))
    # Only the peak's interval is known of a mean: other layers must not show it.
    assert [low is not None for low in profile.ci_low] == [layer == peak.layer for layer in (0, 1, 2)]
    assert record.peaks["alone"].group == "care-harm"
    assert record.metrics["alone"].spec.direction is None
    assert None not in record.profiles["alone"].ci_low


def test_directions_nulls_and_intervals_are_declared() -> None:
    audited, paper = load("audited"), load("paper")
    statistics = audited.metrics["categorical"].statistics
    assert statistics["auroc"] == StatisticSpec("auroc", "higher", "pole", "fixed", 0.5)
    assert statistics["cosine"] == StatisticSpec("cosine", "lower", "pole", "resampled", None)
    assert audited.metrics["gradient"].statistics["asymmetry"].direction is None
    assert statistics["reliability"].null is None
    assert paper.metrics["categorical"].spec.direction == "lower"
    assert paper.metrics["structural"].spec.direction == "higher"
    assert audited.metrics["gradient"].means.startswith("Rank correlation")
    assert audited.metrics["gradient"].parameters == {"folds": 5, "seed": 0}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content["results"][3].pop("layer"), "results.3.layer"),
        (lambda content: content["results"][3].update(value="high"), "results.3.value"),
        (lambda content: content["results"][3].update(more=1), "results.3.more: unknown field"),
        (lambda content: content["provenance"].pop("metrics"), "schema 1: KeyError"),
        (lambda content: content["provenance"]["controls"].update(peaks=[1]), "schema 1"),
        (lambda content: content["provenance"]["controls"]["verdicts"].update(gradient={}), "schema 1"),
        (lambda content: content["provenance"].update(seed="0"), "provenance.seed"),
        (lambda content: content.update(more=1), "expected provenance and results"),
        (lambda content: content.update(schema_version=4), "schema version 4; this sae_moral reads 1 to 3"),
        (lambda content: content.update(kind="sweep"), "not a diagnosis"),
    ],
)
def test_a_damaged_file_is_refused_by_place(tmp_path: Path, damage: Callable[[Any], Any], said: str) -> None:
    content = old("audited")
    damage(content)
    path = tmp_path / "diagnosis.json"
    path.write_text(json.dumps(content), encoding="utf8")
    with pytest.raises(DataError, match=r"diagnosis\.json") as caught:
        DiagnosisRecord.load(tmp_path)
    assert said in str(caught.value)


def test_a_file_of_today_has_a_checksum(tmp_path: Path) -> None:
    path = load("none").save(tmp_path)
    text = path.read_text(encoding="utf8")
    path.write_text(text.replace('"layer": 2', '"layer": 1', 1), encoding="utf8")
    with pytest.raises(DataError, match="checksum"):
        DiagnosisRecord.load(path)


def test_which_groups_lead_and_which_layer_is_best() -> None:
    assert leading_groups(["a", "overall"]) == ("overall", ["overall"])
    assert leading_groups(["a"]) == ("a", ["a"])
    assert leading_groups(["a", "b"]) == (MEAN_OF_GROUPS, ["a", "b"])
    values = np.array([0.1, np.nan, 0.9, 0.9, -3.0])
    assert [best_layer(values, direction) for direction in ("higher", "lower", None)] == [2, 4, 2]
    assert best_layer(np.array([np.nan, np.nan]), "higher") is None


def test_a_profile_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("none").profiles["gradient"].group = "x"  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(load("none").profiles["gradient"], Profile)
