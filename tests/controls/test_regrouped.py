"""Headlines with other records held together: the values of a diagnosis that is measured so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sae_moral import Controls, Diagnosis, diagnose
from sae_moral.data.groups import groups_of
from tests.tiny import scenarios

LITTLE = Controls(names=("words",))


def test_what_other_groups_give_is_what_measuring_with_them_gives(tiny: Any, tmp_path: Path) -> None:
    run: dict[str, Any] = {"metrics": ["categorical", "gradient"], "controls": LITTLE, "layers": [0, 2]}
    near, equal = (diagnose(tiny, scenarios(240), groups=groups, **run) for groups in ("near", "equal"))
    assert near.provenance["data"]["groups"] == groups_of(scenarios(240).regrouped("near"))
    assert near.provenance["data"]["sha256"] != equal.provenance["data"]["sha256"]
    for this, that in ((near, equal), (equal, near)):
        assert {(one.metric, one.what) for one in this.regrouped} == {
            (metric, what) for metric in run["metrics"] for what in ("model", "bag of words")
        }
        for one in this.regrouped:
            mine, others = (
                found.profiles[one.metric] if one.what == "model" else found.baselines[one.what].profiles[one.metric]
                for found in (this, that)
            )
            at = 0 if one.layer is None else mine.layers.index(one.layer)
            assert one.value == mine.values[at]
            assert one.other_value == pytest.approx(others.values[at], rel=1e-6)
            assert one.n_groups == this.provenance["data"]["groups"]["n_groups"]
            assert one.other_n_groups == that.provenance["data"]["groups"]["n_groups"]
    again = Diagnosis.load(near.save(tmp_path))
    assert again.regrouped == near.regrouped
    page = again.report(tmp_path / "report.html").read_text()
    assert "grouped otherwise" in page and "groups of equal text" in page


def test_nothing_is_regrouped_where_it_changes_nothing(tiny: Any) -> None:
    few: dict[str, Any] = {"metrics": ["categorical"], "layers": [1]}
    data = scenarios(120)
    assert diagnose(tiny, data, controls="none", **few).regrouped == []
    assert diagnose(tiny, data, controls=LITTLE, protocol="paper", **few).regrouped == []
    apart = replace(data, text=tuple(f"x{i}" for i in range(120))).regrouped([f"x{i}" for i in range(120)])
    assert diagnose(tiny, apart, controls=LITTLE, **few).regrouped == []
