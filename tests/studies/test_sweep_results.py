"""Files of version 0.1, its numbers of what is measured alike, and what a row says of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.errors import DataError
from sae_moral.steering import MeasureSettings, Wording
from sae_moral.studies import Sweep, sweep
from sae_moral.studies.sweep_results import DAMAGE
from tests.steering.planted import operated, random_sae
from tests.tiny import scenarios

OLD = Path(__file__).resolve().parents[1] / "data_files" / "v0.1" / "sweep.json"
"""Of version 0.1, on the tiny model: two operations, one on shuffled labels, three strengths, both forms."""


@pytest.mark.slow
def test_numbers_are_those_of_version_0_1(tiny: Any, tmp_path: Path) -> None:
    """Of operations at a given α, and of their SAEs before: gaps and damage."""
    old = Sweep.load(OLD)
    settings = MeasureSettings(
        neutral=("a neighbour is counting .", "the team is painting ."),
        openings=("helping", "the"),
        new_tokens=6,
        wordings=(Wording("margin", "{text} is morally", (("helping", "hitting"),)),),
    )
    found = sweep(
        tiny,
        [operated(random_sae(layer=0)), operated(random_sae("jumprelu", layer=1), seed=4)],
        scenarios(240),
        out=tmp_path,
        kls=[],
        alphas=[-1.0, 2.0, 3e38],
        forms=("edit", "paper"),
        split={"train": np.arange(120), "test": np.arange(120, 240)},
        draws=100,
        settings=settings,
    )
    before = {
        (row.layer, row.form, row.alpha, row.arm): row for row in old.rows if row.arm in ("operated", "pretrained")
    }
    assert len(found.rows) == len(before) == 2 * (2 * 3 + 3)
    for row in found.rows:
        was = before[row.layer, row.form, row.alpha if row.alpha is not None else 3e38, row.arm]
        assert (row.error is None) == (was.error is None)
        for name in DAMAGE:
            assert getattr(row, name) == pytest.approx(getattr(was, name), rel=1e-4, abs=2e-6), (row, name)
        for own, other in zip(row.words[:1], was.words, strict=True):
            for name in ("gap", "gap_change"):
                assert getattr(own, name) == pytest.approx(getattr(other, name), rel=1e-4, abs=2e-5), (row, name)


def test_files_of_version_0_1_load_and_can_be_written_anew(tmp_path: Path) -> None:
    old = Sweep.load(OLD)
    assert (old.provenance["positions"], old.provenance.get("migrated_from")) == ("all-but-first", 1)
    assert old.frame["error"].notna().sum() > 0
    given = json.loads(OLD.read_text())["results"]
    for row, was in zip(old.rows, given, strict=True):
        assert [one.gap_change for one in row.words] == ([] if was["gain"] is None else [was["gain"]])
        assert (row.kl, row.alpha, row.name) == (was["kl"], was["alpha"], was["operation"])
    compared = {(one.layer, one.form, one.alpha, one.twin): one for one in old.beyond}
    for was in (row for row in given if row["arm"] == "operated" and row["over_random"] is not None):
        one = compared[was["layer"], was["form"], was["alpha"], "random direction"]
        assert (one.difference, one.low, one.p, one.statistic) == (
            was["over_random"], was["over_random_low"], was["p_random"], "gap"
        )  # fmt: skip
    new = Sweep.load(old.save(tmp_path).parent)
    for name in ("rows", "beyond", "unsteered", "provenance"):
        assert getattr(new, name) == getattr(old, name)
    content = json.loads((tmp_path / "sweep.json").read_text(encoding="utf8"))
    assert content["schema_version"] == 3 and "where" not in content["provenance"]
    changed = {**content, "results": [{**content["results"][0], "kl": 9.0}]}
    (tmp_path / "sweep.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match=r"sweep\.json: damaged, or changed by hand"):
        Sweep.load(tmp_path)
    for damage in ({"results": 3}, {"provenance": {}}, {"results": [{"operation": "x"}]}, {"unsteered": None}):
        (tmp_path / "sweep.json").write_text(json.dumps({**json.loads(OLD.read_text()), **damage}))
        with pytest.raises(DataError, match=r"sweep\.json: "):
            Sweep.load(tmp_path)
