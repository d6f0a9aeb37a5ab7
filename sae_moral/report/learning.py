"""A page's section on learning curves: headlines by the number of scenarios, and what they tend to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_moral.report.page import Section, data_table, figure, joined, paragraph
from sae_moral.report.panels import Line, Panel, panels_figure
from sae_moral.report.style import CHANCE, LEAD, legend_line
from sae_moral.report.words import AT_THIS_N, count, number, with_interval
from sae_moral.results import DiagnosisRecord, LearningCurve
from sae_moral.tables import Table, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTE = (
    "Each headline was measured again at its best layer on fewer scenarios, drawn as whole groups. The band is one "
    "standard deviation of the draws. The limit is that of a power law fitted to the curve. Its interval reaches over "
    "every exponent from ¼ to 1 and holds the error of the sample: read it, not the limit alone. Curves of different "
    "exponents pass through the same values and end far apart, and a structure that only shows with more scenarios is "
    "in none of them."
)


def learning_section(record: DiagnosisRecord) -> list[Section]:
    """The curves with their limits; nothing where they were not asked for."""
    curves = record.learning_curves
    if not curves:
        return []
    told = "; ".join(
        f"{name}: {number(curve.values[-1])} at {count(curve.sizes[-1])}" for name, curve in curves.items()
    )
    drawn = figure(
        learning_figure(record),
        prefix="learning",
        label=f"Line figures, one per metric, headline by number of scenarios. {told}.",
        caption="Headlines by the number of scenarios, each at its best layer.",
    )
    shown = data_table(learning_table(record), "Limits of the learning curves", compact=True)
    return [Section("Learning curves", joined([paragraph(AT_THIS_N), drawn, shown, paragraph(NOTE, "under")]))]


def learning_table(record: DiagnosisRecord) -> Table:
    """One row per metric: layer, the value of all scenarios, and the limit with its interval."""
    return table(
        list(record.learning_curves.values()),
        {"metric": lambda one: one.metric, "statistic": lambda one: one.statistic},
        {
            "layer": lambda one: count(one.layer),
            "n": lambda one: count(one.sizes[-1]),
            "value": lambda one: number(one.values[-1]),
            "limit": lambda one: with_interval(one.limit, one.ci_low, one.ci_high),
            "exponent": lambda one: number(one.exponent),
        },
        always=("value", "limit"),
    )


def learning_figure(record: DiagnosisRecord) -> Figure:
    """One panel per curve."""
    panels = [
        Panel(
            f"{name} · {curve.statistic}",
            {"measured": _line(curve)},
            curve.sizes,
            chance=record.metrics[name].spec.chance,
            xlabel="scenarios",
        )
        for name, curve in record.learning_curves.items()
    ]
    legend = [legend_line("mean of the draws", LEAD), legend_line("chance", CHANCE)]
    return panels_figure(panels, columns=2, height=2.1, legend=[legend])


def _line(curve: LearningCurve) -> Line:
    pairs = list(zip(curve.values, curve.spread, strict=True))
    low, high = (
        [None if value is None or error is None else value + side * error for value, error in pairs] for side in (-1, 1)
    )
    return Line(curve.sizes, curve.values, LEAD, low, high)
