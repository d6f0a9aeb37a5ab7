"""Rows of a sweep: version 0.1's numbers and files, p-values among random directions, the Pareto front."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.errors import DataError
from sae_moral.steering import MeasureSettings
from sae_moral.studies import Sweep, sweep
from sae_moral.studies.sweep_results import beyond_random, pareto
from tests.steering.planted import operated, random_sae
from tests.tiny import scenarios

OLD = Path(__file__).resolve().parents[1] / "data_files" / "v0.1" / "sweep.json"
"""Of version 0.1, on the tiny model: two operations, one on shuffled labels, three strengths, both forms."""


def close(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-4, abs=2e-6)
    return found == expected


READ = ("categorical", "gradient", "categorical_change", "gradient_change", "p_categorical", "p_gradient")
"""What audited readers find behind the edit: they are others since 0.2."""


@pytest.mark.slow
def test_numbers_are_those_of_version_0_1(tiny: Any, tmp_path: Path) -> None:
    old = Sweep.load(OLD)
    settings = MeasureSettings(
        neutral=("a neighbour is counting .", "the team is painting ."),
        openings=("helping", "the"),
        new_tokens=6,
        pairs=(("helping", "hitting"),),
    )
    found = sweep(
        tiny,
        [operated(random_sae(layer=0)), operated(random_sae("jumprelu", layer=1), seed=4)],
        scenarios(240),
        out=tmp_path,
        shuffled=[operated(random_sae(layer=0), seed=9)],
        alphas=[-1.0, 2.0, 3e38],
        forms=("edit", "paper"),
        random_seeds=(0, 1),
        full_measures=1,
        split={"train": np.arange(120), "test": np.arange(120, 240)},
        draws=100,
        settings=settings,
    )
    assert len(found.rows) == len(old.rows) == 60
    for row, before in zip(found.rows, old.rows, strict=True):
        for field in dataclasses.fields(row):
            if field.name in READ:
                assert (getattr(row, field.name) is None) == (getattr(before, field.name) is None)
                continue
            own, was = getattr(row, field.name), getattr(before, field.name)
            assert close(own, was), (row.operation, row.form, row.alpha, row.arm, row.seed, field.name, own, was)
    for name, own in vars(found.unsteered).items():
        assert name == "headlines" or close(own, getattr(old.unsteered, name)), name
    for name in ("data", "n", "source", "units", "positions", "downstream", "settings", "draws"):
        assert found.provenance[name] == old.provenance[name], name
    assert found.provenance["protocol"] == found.provenance["protocol"] | old.provenance["protocol"]


def test_files_of_version_0_1_load_and_can_be_written_anew(tmp_path: Path) -> None:
    old = Sweep.load(OLD)
    assert (old.provenance["positions"], old.provenance.get("migrated_from")) == ("all-but-first", 1)
    assert old.frame["error"].notna().sum() > 0
    new = Sweep.load(old.save(tmp_path).parent)
    assert (new.rows, new.unsteered, new.provenance) == (old.rows, old.unsteered, old.provenance)
    content = json.loads((tmp_path / "sweep.json").read_text(encoding="utf8"))
    assert content["schema_version"] == 2 and "where" not in content["provenance"]
    changed = {**content, "results": [{**content["results"][0], "gain": 9.0}]}
    (tmp_path / "sweep.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match=r"sweep\.json: damaged, or changed by hand"):
        Sweep.load(tmp_path)
    for damage in ({"results": 3}, {"provenance": {}}, {"results": [{"operation": "x"}]}, {"unsteered": None}):
        (tmp_path / "sweep.json").write_text(json.dumps({**json.loads(OLD.read_text()), **damage}))
        with pytest.raises(DataError, match=r"sweep\.json: "):
            Sweep.load(tmp_path)


def test_a_direction_like_the_others_is_not_beyond_them_and_a_better_one_is() -> None:
    rng = np.random.default_rng(0)
    strengths = np.array([1.0, 2.0, 4.0])

    def gains(n: int) -> np.ndarray:
        return rng.standard_normal((n, 1)) * strengths + 0.2 * strengths * rng.standard_normal((n, 3))

    p = [beyond_random(own[0], own[1:]) for own in (gains(20) for _ in range(2000))]
    assert 0.03 < np.mean(np.array(p) <= 0.05) < 0.07  # one in twenty, exactly exchangeable
    others = gains(19)
    assert beyond_random(np.array([0.1, 9.0, 0.1]), others) == 1 / 20  # special at one strength alone
    assert beyond_random(-10 * strengths, others) == 1.0


def test_pareto() -> None:
    points = np.array([[1, 0.1], [2, 0.2], [1.5, 0.3], [2, 0.5], [-1, 0.0], [0.5, 0.05], [2, 0.2]])
    assert pareto(points).tolist() == [True, True, False, False, False, True, True]
    assert pareto(np.empty((0, 2))).tolist() == []
