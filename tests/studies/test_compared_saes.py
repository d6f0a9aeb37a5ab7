"""`compare_saes`: each SAE is measured once, and what is kept says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sae_moral import DataError
from sae_moral.controls import Controls
from sae_moral.errors import FolderError
from sae_moral.io import claim
from sae_moral.sae import TrainSettings, load_saes, train_saes
from sae_moral.studies import ComparedSaes, compare_saes, compared_saes
from tests.tiny import scenarios

FEW = Controls(names=("interval", "null"), resamples=50, permutations=19)
OPTIONS: dict[str, Any] = {"metrics": ["categorical"], "controls": FEW, "progress": False}


@pytest.fixture(autouse=True)
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_moral.diagnosis.Diagnosis.report", lambda diagnosis, path: path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layer of every SAE that was measured."""
    layers: list[int] = []
    diagnose = compared_saes.diagnose

    def noted(*given: Any, sae: dict[int, Any], **options: Any) -> Any:
        layers.extend(sae)
        return diagnose(*given, sae=sae, **options)

    monkeypatch.setattr(compared_saes, "diagnose", noted)
    return layers


def test_compared_saes_are_not_measured_twice(tiny: Any, trained: Path, tmp_path: Path, measured: list[int]) -> None:
    data = scenarios(90)
    first = compare_saes(tiny, [trained], data, tmp_path, **OPTIONS)
    assert [(row.layer, row.metric) for row in first.rows] == [(1, "categorical"), (2, "categorical")]
    for row in first.rows:
        assert row.difference is not None and row.after is not None and row.before is not None
        assert row.difference == pytest.approx(row.after - row.before)
        assert row.p_value is not None and 0 < row.p_value <= 1
    assert compare_saes(tiny, [trained], data, tmp_path, **OPTIONS).rows == first.rows and measured == [1, 2]
    assert (tmp_path / "saes.html").read_text().count("categorical (auroc)") == 2
    only = compare_saes(tiny, [{2: load_saes(trained)[2]}], data, tmp_path, **OPTIONS)
    assert only.rows == first.rows[1:] and measured == [1, 2]
    compare_saes(tiny, [trained], scenarios(91), tmp_path, **OPTIONS)
    assert measured == [1, 2, 1, 2]
    compare_saes(tiny, [trained], data, tmp_path, **{**OPTIONS, "controls": dataclasses.replace(FEW, seed=1)})
    assert measured == [1, 2, 1, 2, 1, 2]


def test_what_is_kept_is_loaded_as_it_was(tiny: Any, trained: Path, tmp_path: Path) -> None:
    found = compare_saes(tiny, [trained], scenarios(90), tmp_path, **{**OPTIONS, "controls": "none"})
    again = ComparedSaes.load(tmp_path)
    assert (again.rows, again.model, again.data) == (found.rows, found.model, found.data)
    assert all(row.after is not None and row.p_value is None and row.verdict is None for row in again.rows)
    assert "blocks.2.hook_resid_post" in again.summary() and again.table() == found.table()
    path = tmp_path / "saes.json"
    old = json.loads(path.read_text())
    model = {"weights" if name == "identity" else name: value for name, value in old["model"].items()}
    del old["checksum"]
    path.write_text(json.dumps({**old, "schema_version": 1, "model": model, "options": {"metrics": "None"}}))
    before = ComparedSaes.load(path)
    assert (before.rows, before.model["identity"]) == (found.rows, found.model["identity"])
    path.write_text(path.read_text().replace('"layer": 1', '"layer": "1"', 1))
    with pytest.raises(DataError, match=r"saes\.json: results\.0\.layer"):
        ComparedSaes.load(path)


def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    tiny: Any, trained: Path, tmp_path: Path, measured: list[int]
) -> None:
    data, out = scenarios(90), tmp_path / "out"
    with pytest.raises(ValueError, match="no SAE given"):
        compare_saes(tiny, [], data, out, **OPTIONS)
    with pytest.raises(ValueError, match="unknown metric"):
        compare_saes(tiny, [trained], data, out, metrics=["categorial"])
    assert not out.exists()
    claim(tmp_path, "atlas", {})
    with pytest.raises(FolderError, match="holds a atlas, not a compared_saes"):
        compare_saes(tiny, [trained], data, tmp_path, **OPTIONS)
    assert not measured


def test_another_seed_shows_what_a_seed_does(
    tiny: Any, trained: Path, tiny_folder: Path, tmp_path: Path, measured: list[int]
) -> None:
    settings = TrainSettings(steps=30, expansion=20, architecture="batchtopk", target_l0=8, checkpoints=1)
    other = dataclasses.replace(settings, expansion=10)
    for name, one in (("seed 1", dataclasses.replace(settings, seed=1)), ("narrow", other)):
        train_saes(str(tiny_folder), scenarios(), [1], one, out=tmp_path / name, splice_texts=0)
    data, out, options = scenarios(90), tmp_path / "out", {**OPTIONS, "controls": "none"}
    given = [trained, tmp_path / "narrow"]
    found = compare_saes(tiny, given, data, out, reseed=[tmp_path / "seed 1"], **options)
    assert [(row.layer, row.d_sae) for row in found.rows] == [(1, 20 * 16), (2, 20 * 16), (1, 10 * 16)]
    assert measured == [1, 2, 1, 1]
    (noise,) = found.reseeds
    own, seed = noise.values
    wide, _, narrow = (row.after for row in found.rows)
    assert own is not None and seed is not None and narrow is not None and own != seed
    assert (noise.layer, noise.metric, own, len(noise.reseeds)) == (1, "categorical", wide, 1)
    assert noise.between_seeds == pytest.approx(abs(own - seed)) and noise.sae_to_sae == pytest.approx(
        abs(own - narrow)
    )
    assert ComparedSaes.load(out).reseeds == found.reseeds
    assert "between seeds" in found.summary() and "between seeds" in (out / "saes.html").read_text()
    alone = compare_saes(tiny, given, data, out, **options)
    assert alone.rows == found.rows and alone.reseeds == [] and "between seeds" not in alone.summary()
    with pytest.raises(ValueError, match=r"layer 1, .*, 160 latents.* of none of the SAEs; expected those of one"):
        compare_saes(tiny, [trained], data, out, reseed=[tmp_path / "narrow"], **options)
    with pytest.raises(ValueError, match="has the very weights of"):
        compare_saes(tiny, [trained], data, out, reseed=[{1: load_saes(trained)[1]}], **options)
