"""Numbers as version 0.1 wrote them: the same model, scenarios and seeds give the same values.

`tests/data_files/v0.1` holds what version 0.1 wrote of the tiny model. Values agree to 1e-6, and so do intervals that
need no permuted labels. Labels are permuted among texts of exactly equal length since 0.2, so nulls, p-values, what is
widened by them and verdicts are others. Audited readers have changed, too: what 0.1 read with stands beside them
(`AS_BEFORE`) and is compared here, with the length removal of that time; what has no such twin (`CHANGED`) is not.

Two records of one text have one score. In 0.1 rounding ordered them, by the processor; now they are tied. Numbers that
this changes (`TIED`) may be others by what a few items of a fold can do to a rank statistic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral import Controls, Diagnosis, diagnose
from sae_moral.metrics import preprocess
from sae_moral.metrics.categorical import AuditedCategorical
from sae_moral.metrics.dimensional import AuditedDimensional
from sae_moral.metrics.gradient import AuditedGradient
from sae_moral.metrics.structural import AuditedStructural
from tests.tiny import scenarios

FILES = Path(__file__).parent / "data_files" / "v0.1"
FOUR = ["categorical", "gradient", "structural", "dimensional"]
READERS = [
    AuditedCategorical(remove_length=False),
    AuditedGradient(remove_length=False),
    AuditedStructural(remove_length=False),
    AuditedDimensional(remove_length=False),
]
AS_BEFORE = {"auroc": "auroc_prototype", "spearman": "spearman_graded"}
CHANGED = (
    "accuracy_polarity",
    "accuracy_foundation",
    "accuracy_both",
    "spearman_partial",
    "asymmetry",
    "spearman_valence",
)
TIED = {
    *(("auroc_prototype", 0, group) for group in ("sanctity-degradation", "overall")),
    *(("spearman_graded", 2, group) for group in ("cheating", "overall")),
    *(("spearman_prototype", layer, group) for layer in (0, 1, 2) for group in ("cheating", "overall")),
    *(("spearman_with_neutral", layer, group) for layer in (0, 1, 2) for group in ("authority", "overall")),
    *(("spearman_with_neutral", 1, group) for group in ("cheating", "harm")),
    ("spearman_prototype", 1, "fairness"),
}
"""(statistic, layer, group) of values; under `paper` no value, and the ends of `spearman`."""
FEW_ITEMS = 0.08
NEAR_SINGULAR = ("cosine", 0, "overall")
"""Its interval, from −2 on, divides by norms of almost nothing: by the processor it differs in the fifth digit."""
SMALL = Controls(resamples=200, permutations=99)
EVERY = ("interval", "null", "nuisance", "words", "selectivity", "random-weights")
RUNS: dict[str, dict[str, Any]] = {
    "audited": {"metrics": READERS, "controls": SMALL},
    "audited-all": {
        "metrics": READERS,
        "layers": [0, 2],
        "controls": Controls(names=EVERY, resamples=200, permutations=99),
    },
    "paper": {"metrics": FOUR, "protocol": "paper", "controls": SMALL},
    "none": {"metrics": READERS, "controls": "none"},
    "matched": {"metrics": READERS[:2], "match": "length", "controls": SMALL},
}
NUMBERS = ("value", "n", "n_dropped")


def agree(new: Any, old: Any, where: object, within: float = 1e-6) -> None:
    assert (new is None) == (old is None), (where, new, old)
    if old is not None:
        assert new == pytest.approx(old, rel=within, abs=within), where


def smooth_length(length: np.ndarray) -> np.ndarray:
    """What 0.1 took out: an orthonormal basis of 1, n, log n and 1/n."""
    n = length.astype(float)
    columns = np.stack([np.ones_like(n), n, np.log(n), 1 / n], axis=1)
    columns[:, 1:] = (columns[:, 1:] - columns[:, 1:].mean(axis=0)) / np.maximum(columns[:, 1:].std(axis=0), 1e-12)
    basis, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return basis[:, singular > 1e-8 * singular[0]]


@pytest.mark.parametrize("name", RUNS)
def test_every_number_is_as_version_0_1_wrote_it(name: str, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "length_design", smooth_length)
    old = json.loads((FILES / f"{name}.json").read_text(encoding="utf8"))
    new = diagnose(tiny, scenarios(240), groups="equal", **RUNS[name])
    known = {(row.metric, row.statistic, row.layer, row.group): row for row in new.rows}
    compared = 0
    for row in old["results"]:
        statistic: str = row["statistic"]
        if name != "paper":
            statistic = AS_BEFORE.get(statistic, statistic)
            if statistic in CHANGED:
                continue
        key = (row["metric"], statistic, row["layer"], row["group"])
        resampled = new.metrics[row["metric"]].statistics[statistic].interval == "resampled"
        tied = statistic == "spearman" if name == "paper" else key[1:] in TIED
        for number in (*NUMBERS, *(("ci_low", "ci_high") if resampled else ())):
            end = number.startswith("ci_")
            moved = tied and number in (("ci_low", "ci_high") if name == "paper" else ("value",))
            loose = FEW_ITEMS if moved else 1e-4 if end and key[1:] == NEAR_SINGULAR else 1e-6
            agree(getattr(known[key], number), row[number], (*key, number), loose)
        compared += 1
    assert compared > 0.6 * len(old["results"])
    if name == "paper":
        _compare_controls(new, old["provenance"]["controls"])


def _compare_controls(new: Diagnosis, old: Mapping[str, Any]) -> None:
    for metric, peak in old.get("peaks", {}).items():
        if peak is None:
            assert metric not in new.peaks
            continue
        assert new.peaks[metric].layer == peak["layer"]
        agree(new.peaks[metric].value, peak["value"], metric)
    comparisons = {(one.metric, one.against): one for one in new.comparisons}
    for one in old["comparisons"]:
        # The bag of words keeps all its axes since 0.2, and the paper's probe depends on which there are.
        words = one["against"] == "bag of words"
        for number in ("value",) if words else ("value", "against_value", "difference"):
            # Read from length, which many scenarios share, scores are tied throughout.
            within = 1e-3 if one["metric"] == "gradient" and number != "value" else 1e-6
            agree(getattr(comparisons[one["metric"], one["against"]], number), one[number], one["metric"], within)


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
