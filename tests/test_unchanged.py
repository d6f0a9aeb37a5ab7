"""Numbers as version 0.1 wrote them: the same model, scenarios and seeds give the same values.

`tests/data_files/v0.1` holds what version 0.1 wrote of the tiny model. Values agree to 1e-6, and so do intervals that
need no permuted labels. Labels are permuted among texts of exactly equal length since 0.2, so nulls, p-values, what is
widened by them and verdicts are others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sae_moral import Controls, Diagnosis, diagnose
from tests.tiny import scenarios

FILES = Path(__file__).parent / "data_files" / "v0.1"
FOUR = ["categorical", "gradient", "structural", "dimensional"]
SMALL = Controls(resamples=200, permutations=99)
EVERY = ("interval", "null", "nuisance", "words", "selectivity", "random-weights")
RUNS: dict[str, dict[str, Any]] = {
    "audited": {"metrics": FOUR, "controls": SMALL},
    "audited-all": {
        "metrics": FOUR,
        "layers": [0, 2],
        "controls": Controls(names=EVERY, resamples=200, permutations=99),
    },
    "paper": {"metrics": FOUR, "protocol": "paper", "controls": SMALL},
    "none": {"metrics": FOUR, "controls": "none"},
    "matched": {"metrics": FOUR[:2], "match": "length", "controls": SMALL},
}
NUMBERS = ("value", "ceiling", "baseline", "n", "n_dropped")


def agree(new: Any, old: Any, where: object) -> None:
    assert (new is None) == (old is None), (where, new, old)
    if old is not None:
        assert new == pytest.approx(old, rel=1e-6, abs=1e-6), where


@pytest.mark.parametrize("name", RUNS)
def test_every_number_is_as_version_0_1_wrote_it(name: str, tiny: Any) -> None:
    old = json.loads((FILES / f"{name}.json").read_text(encoding="utf8"))
    new = diagnose(tiny, scenarios(240), **RUNS[name])
    known = {(row.metric, row.statistic, row.layer, row.group): row for row in new.rows}
    assert len(known) == len(old["results"])
    for row in old["results"]:
        key = (row["metric"], row["statistic"], row["layer"], row["group"])
        resampled = new.metrics[row["metric"]].statistics[row["statistic"]].interval == "resampled"
        for number in (*NUMBERS, *(("ci_low", "ci_high") if resampled else ())):
            agree(getattr(known[key], number), row[number], (*key, number))
    _compare_controls(new, old["provenance"]["controls"])


def _compare_controls(new: Diagnosis, old: Mapping[str, Any]) -> None:
    for metric, peak in old.get("peaks", {}).items():
        if peak is None:
            assert metric not in new.peaks
            continue
        assert new.peaks[metric].layer == peak["layer"]
        agree(new.peaks[metric].value, peak["value"], metric)
    comparisons = {(one.metric, one.against): one for one in new.comparisons}
    assert len(comparisons) == len(old.get("comparisons", ()))
    for one in old.get("comparisons", ()):
        for name in ("value", "against_value", "difference"):
            agree(getattr(comparisons[one["metric"], one["against"]], name), one[name], (one["metric"], name))


@pytest.mark.parametrize("path", sorted(FILES.glob("*.json")), ids=lambda path: path.stem)
def test_a_file_of_version_0_1_loads_and_is_as_good_as_a_new_one(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf8"))
    if content["kind"] != "diagnosis":
        pytest.skip("loaded by the tests of its own kind")
    found = Diagnosis.load(path)
    assert len(found.rows) == len(content["results"])
    again = Diagnosis.load(found.save(tmp_path))
    assert (again.rows, again.peaks, again.verdicts) == (found.rows, found.peaks, found.verdicts)
    assert found.summary()
    assert found.report(tmp_path / "report.html").stat().st_size > 10_000
