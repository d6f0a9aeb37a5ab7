"""What an atlas keeps: its file, files of version 0.1, its table, matched layers and correlations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae_moral import DataError
from sae_moral.results import Profile, StatisticSpec
from sae_moral.studies import Atlas, AtlasResult
from sae_moral.studies.atlas_results import SCHEMA_VERSION, matched_layers, profile_correlations

OLD = Path(__file__).resolve().parents[1] / "data_files" / "v0.1" / "atlas.json"


@pytest.fixture(scope="module")
def old() -> Atlas:
    """Two variants, an unrelated model and one that could not be loaded, as version 0.1 kept them."""
    return Atlas.load(OLD)


def test_an_atlas_of_version_0_1_loads_with_its_numbers(old: Atlas) -> None:
    content = json.loads(OLD.read_text())
    assert [entry.name for entry in old.entries] == ["A-base", "A-chat", "B", "gone"]
    assert old.provenance == {**content["provenance"], "migrated_from": 1}
    assert old.failures == {"gone": content["entries"][3]["error"]}
    for before, entry in zip(content["entries"], old.entries, strict=True):
        assert list(before["results"]) == list(entry.results)
        for protocol, result in entry.results.items():
            for headline in before["results"][protocol]["headlines"]:
                metric = headline["metric"]
                peak, profile, spec = result.peaks[metric], result.profiles[metric], result.headlines[metric]
                assert (peak.layer, peak.value, peak.ci_low) == tuple(headline[n] for n in ("layer", "value", "ci_low"))
                assert list(profile.values) == headline["profile"] and list(profile.layers) == headline["layers"]
                assert (spec.name, spec.chance) == (headline["statistic"], headline["chance"])
                assert (spec.direction == "lower") == headline["lower_is_better"]
    assert old.entries[0].results["paper"].peaks["categorical"].group == "mean of groups"
    for before, pair in zip(content["similarities"], old.similarities, strict=True):
        assert [vars(row) for row in pair.layers] == before["layers"]
        assert [vars(row) for row in pair.profiles] == before["profiles"]
        assert (pair.a, pair.b, pair.kind, list(pair.depths)) == tuple(before[n] for n in ("a", "b", "kind", "depths"))


def test_what_is_saved_is_loaded_as_it_was(old: Atlas, tmp_path: Path) -> None:
    assert json.loads(old.save(tmp_path).read_text())["schema_version"] == SCHEMA_VERSION
    again = Atlas.load(tmp_path)
    assert isinstance(again, Atlas)
    assert (again.entries, again.similarities, again.provenance) == (old.entries, old.similarities, old.provenance)
    assert [list(e.results) for e in again.entries] == [list(e.results) for e in old.entries]


def test_what_is_no_atlas_is_refused(old: Atlas, tmp_path: Path) -> None:
    path = old.save(tmp_path)
    whole = path.read_text()
    for damaged, message in (
        ('{"kind": "diagnosis"}', "whose kind is 'atlas'"),
        (whole.replace('"depths"', '"deeps"'), "damaged, or changed by hand"),
        (whole.replace("0.", "1.", 1), "damaged, or changed by hand"),
        (whole[:-200], "not an atlas"),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=f"atlas.json.*{message}"):
            Atlas.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        Atlas.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["entries"][0]["results"]["paper"]["headlines"][0].pop("profile"),
        lambda c: c["entries"][0]["results"]["paper"]["headlines"][0].update(profile=["a", "b", "c"]),
        lambda c: c["entries"][0]["results"]["paper"].update(headlines=None),
        lambda c: c["entries"][0].update(results=[]),
        lambda c: c["entries"].append("x"),
        lambda c: c.pop("similarities"),
        lambda c: c.update(more=1),
        lambda c: c["similarities"][0].update(kind="twins"),
        lambda c: c["similarities"][0].update(depths=[3]),
        lambda c: c["provenance"].pop("compared"),
    ],
)
def test_a_damaged_file_of_version_0_1_is_an_error_with_its_name(spoil: Any, tmp_path: Path) -> None:
    content = json.loads(OLD.read_text())
    spoil(content)
    path = tmp_path / "atlas.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"atlas\.json"):
        Atlas.load(path)


def test_table_and_summary(old: Atlas) -> None:
    table = old.table().set_index(["name", "protocol"])
    assert len(table) == 8
    result = old.entries[0].results["paper"]
    assert table.loc[("A-base", "paper"), "categorical"] == result.peaks["categorical"].value
    assert table.loc[("A-base", "paper"), "dimensional_published"] == "at most 0.26, adjusted"
    assert table["dimensional_published"].dropna().index.get_level_values("protocol").unique().tolist() == ["paper"]
    assert table.loc[("gone", "paper"), "error"] == old.failures["gone"]
    summary = old.summary()
    assert "A-base · A-chat" in summary and "categorical cosine" in summary and "0.044 (1)" in summary


def test_layers_are_compared_with_those_of_equal_depth() -> None:
    assert matched_layers([0, 2, 5], 6, [0, 1, 2], 6) == [(0, 0), (2, 2)]
    assert matched_layers([0, 1, 2, 3], 4, [1, 3, 5, 7], 8) == [(0, 1), (1, 3), (2, 5), (3, 7)]
    assert matched_layers([1, 3, 5, 7], 8, [0, 3], 4) == [(1, 0), (7, 3)]
    assert matched_layers([0], 30, [9], 10) == []


def test_profile_correlations() -> None:
    def result(*values: float | None) -> AtlasResult:
        layers, nothing = tuple(range(len(values))), (None,) * len(values)
        profile = Profile("m", "s", "overall", layers, values, nothing, nothing)
        return AtlasResult(9, len(values), 8, layers, "", {"m": StatisticSpec("s")}, {"m": profile}, {}, [], {})

    (found,) = profile_correlations(result(1.0, 2.0, None, 4.0, 9.0), result(2.0, 3.0, 1.0, 5.0, 10.0), "paper")
    assert (found.protocol, found.layers, found.mean_difference) == ("paper", 4, 1.0)
    assert (found.spearman, found.pearson) == pytest.approx((1.0, 1.0))
    (few,) = profile_correlations(result(1.0, 2.0, 3.0), result(1.0, 2.0, 4.0), "paper")
    assert few.spearman is None and few.mean_difference == pytest.approx(1 / 3)
    (flat,) = profile_correlations(result(*[1.0] * 5), result(1.0, 2.0, 3.0, 4.0, 5.0), "paper")
    assert flat.pearson is None
    other = AtlasResult(9, 2, 8, (0, 1), "", {"m": StatisticSpec("another")}, {}, {}, [], {})
    assert profile_correlations(result(1.0, 2.0), other, "paper") == []
