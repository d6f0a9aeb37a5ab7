"""The section on learning curves: what it draws, and that it is left out where there are none."""

from __future__ import annotations

import dataclasses

from sae_moral.report.diagnosis_page import render_report, summary_table
from sae_moral.report.learning import learning_figure, learning_section, learning_table
from sae_moral.report.words import AT_THIS_N
from sae_moral.results import DiagnosisRecord, LearningCurve
from tests.report.drawn import data
from tests.report.records import realistic


def _with_curve() -> DiagnosisRecord:
    made = realistic(layers=2)
    sizes, values, spread = (100.0, 200.0, 400.0, 800.0), (None, 0.6, 0.65, 0.68), (None, 0.02, 0.01, 0.0)
    curve = LearningCurve(
        "categorical", "auroc", "overall", 1, sizes, values, spread, 8, 0.72, 0.66, 0.81, 0.5, 0.95, 0
    )
    return dataclasses.replace(made, learning_curves={"categorical": curve})


def test_the_curve_is_drawn_with_its_limit() -> None:
    made = _with_curve()
    rows = learning_table(made)
    assert rows.rows[0][-4:] == ["800", "0.680", "0.720 (0.660 to 0.810)", "0.500"]
    (axes,) = [axes for axes in learning_figure(made).axes if axes.lines]
    x, y = data(axes, "measured")
    assert list(x) == [100, 200, 400, 800] and list(y[1:]) == [0.6, 0.65, 0.68]
    page, printed = render_report(made), summary_table(made)
    assert "Learning curves" in page and "0.720 (0.660 to 0.810)" in page
    assert "categorical: 0.680 at n = 800; limit with more scenarios 0.720 (0.660 to 0.810)." in printed


def test_without_curves_the_page_still_says_what_a_number_estimates() -> None:
    made = realistic(layers=2)
    assert learning_section(made) == []
    page, printed = render_report(made), summary_table(made)
    assert "Learning curves" not in page and AT_THIS_N[:60] in page
    assert AT_THIS_N.split(".")[0] in " ".join(printed.split())
