"""The page of a sweep: its sentences say what is so, and its tables hold what was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sae_moral.studies import Sweep, SweepRow
from sae_moral.studies.beyond import TOGETHER, Beyond
from sae_moral.studies.sweep_page import sweep_page, verdicts
from sae_moral.studies.sweep_results import WordEffect

OLD = Path(__file__).resolve().parents[1] / "data_files" / "v0.1" / "sweep.json"


def row(arm: str, seed: int | None, change: float, error: str | None = None) -> SweepRow:
    effect = WordEffect(TOGETHER, "held_out", 3, 0.6 + change, change, change - 0.01, change + 0.01)
    words = [] if error else [effect]
    return SweepRow(20, "write", arm, seed, f"{arm} {seed}", 0.02, 5.0, words, kl=0.02, error=error)


ROWS = [row("operated", 0, 0.05), row("operated", 1, 0.07), *(row("rotated", i, 0.01 * i - 0.03) for i in range(5))]
BEYOND = [Beyond(20, "write", 0.02, TOGETHER, "held_out", "rotated", 2, 5, 0.07, 0.05, 0.09, 1 / 6, 1 / 6)]


def test_a_sentence_says_the_effect_and_which_twins_it_is_beyond() -> None:
    assert verdicts(ROWS, BEYOND) == [
        "After block 20 (write, KL 0.02), change of the AUROC of held-out words: +0.060 (2 operations); not shown to "
        "be beyond rotated (+0.070 [+0.050, +0.090])."
    ]
    (said,) = verdicts(
        [*ROWS, row("operated", 2, 0.0, "broke")], [dataclasses.replace(BEYOND[0], p=None, p_corrected=None)]
    )
    assert "beyond rotated" in said and "No numbers of 1 of 3 operations." in said
    assert verdicts([dataclasses.replace(ROWS[0], kl_asked=None)], []) == [
        "Operations were not compared with twins at equal damage; expected kls."
    ]


def test_the_page_holds_every_row_and_comparison() -> None:
    sweep = Sweep.load(OLD)
    html = sweep_page(ROWS, BEYOND, sweep.unsteered, sweep.provenance)
    assert all(sentence in html for sentence in verdicts(ROWS, BEYOND))
    assert "+0.070 [+0.050, +0.090]" in html and "rotated (5)" in html
    # Of the rotated writes the best and the worst are in the first table, all in the folded one.
    assert [html.count(f"rotated {seed}") for seed in range(5)] == [2, 1, 1, 1, 2]


def test_sweeps_of_version_0_1_have_a_page() -> None:
    sweep = Sweep.load(OLD)
    html = sweep_page(sweep.rows, sweep.beyond, sweep.unsteered, sweep.provenance)
    assert "random direction" in html and "gap" in html
    rows = [one for one in sweep.rows if one.error is not None]
    broken = dataclasses.replace(sweep, rows=rows, beyond=[])
    assert "not finite" in sweep_page(rows, [], sweep.unsteered, sweep.provenance) and broken.summary()
