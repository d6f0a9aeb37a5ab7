"""The page of a sweep: its sentences say what is so, and its tables hold what was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sae_moral.studies import Sweep, SweepRow
from sae_moral.studies.sweep_page import sweep_page, verdicts

OLD = Path(__file__).resolve().parents[1] / "data_files" / "v0.1" / "sweep.json"


def test_verdicts() -> None:
    def row(alpha: float, low: float | None, high: float | None, p: float | None = 0.05) -> SweepRow:
        over = None if low is None or high is None else (low + high) / 2
        ends: Any = {"over_random": over, "over_random_low": low, "over_random_high": high}
        return SweepRow("op", 3, "edit", alpha, "operated", kl=0.5, p_random=p, **ends)

    start = "op, layer 3, form edit: "
    better = verdicts([row(1, -0.1, 0.1), row(2, 0.1, 0.3)])
    at = "at α = 2 (+0.200 nats, KL 0.5)"
    assert better == [f"{start}beats random directions of its norm (p = 0.05) {at}."]
    above = f"{start}is above the mean of random directions of its norm {at}, but "
    assert verdicts([row(2, 0.1, 0.3, 0.4)]) == [f"{above}as many of them gain as much that p = 0.4."]
    assert verdicts([row(2, 0.1, 0.3, None)]) == [f"{above}their spread is not known."]
    none = verdicts([row(1, -0.1, 0.1), row(2, -0.3, -0.1)])
    beats_none = "op, layer 3, form edit: beats random directions of its norm at none of the 2 strengths"
    assert none == [f"{beats_none}; is below their mean at 1."]


def test_the_page_holds_every_row_and_the_summary_the_operated_ones() -> None:
    sweep = Sweep.load(OLD)
    html = sweep_page(sweep.rows, sweep.unsteered, sweep.provenance)
    assert all(sentence.replace("'", "&#39;") in html for sentence in verdicts(sweep.rows))
    middle = next(row for row in sweep.rows if row.arm == "random" and row.gain is not None)
    assert f"{middle.gain:+.3f}".replace("-", "−") in html
    assert html.count('<tr><th scope="row">operated-') == len(sweep.rows)
    lines = sweep.summary().splitlines()
    first = next(row for row in sweep.rows if row.arm == "operated")
    assert any(line.startswith("operated-") and f"{first.kl:.3f}" in line for line in lines)
    assert sum(line.startswith("operated-") for line in lines) == sum(row.arm == "operated" for row in sweep.rows)


def test_a_sweep_without_any_number_has_a_page() -> None:
    sweep = Sweep.load(OLD)
    rows = [row for row in sweep.rows if row.error is not None]
    broken = dataclasses.replace(sweep, rows=rows)
    assert "not finite" in sweep_page(rows, sweep.unsteered, sweep.provenance) and "not finite" in broken.summary()
