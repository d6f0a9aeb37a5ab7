"""The tables of the page's section on controls: peaks, comparisons with baselines, ceilings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sae_moral.report.old_tables import Table
from sae_moral.report.words import MISSING, count, interval, number, p_value, signed

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]


def comparison_table(controls: Mapping[str, Any]) -> Table:
    """One row per metric and baseline: both peaks, their difference with interval and p, and whether it is beyond."""
    alpha = float(controls.get("alpha") or 0.05)

    def beyond(row: Row) -> str:
        p = row.get("p_value")
        return "not tested" if p is None else "yes" if p < alpha else "no"

    columns: Columns = {
        "model": lambda row: number(row["value"]),
        "layer": lambda row: count(row["layer"]),
        "baseline": lambda row: number(row["against_value"]),
        "its layer": lambda row: "none" if row.get("against_layer") is None else count(row["against_layer"]),
        "difference": lambda row: signed(row["difference"]),
        "interval": lambda row: interval(row.get("ci_low"), row.get("ci_high")),
        "p": lambda row: p_value(row.get("p_value")),
        "beyond": beyond,
    }
    return _table(controls.get("comparisons") or [], ("metric", "against"), columns)


def peak_table(controls: Mapping[str, Any], ceilings: Mapping[str, float | None]) -> Table:
    """One row per metric with a value: its peak, interval, null, p-values, selectivity and ceiling.

    Args:
        ceilings: metric → the ceiling of its headline at the peak's layer.
    """
    rows = [{"metric": metric, "ceiling": ceilings.get(metric), **peak}
            for metric, peak in (controls.get("peaks") or {}).items() if peak]  # fmt: skip
    columns: Columns = {
        "layer": lambda row: count(row["layer"]),
        "peak": lambda row: number(row["value"]),
        "interval": lambda row: interval(row.get("ci_low"), row.get("ci_high")),
        "null peaks": lambda row: interval(row.get("null_peak_low"), row.get("null_peak_high")),
        "p": lambda row: p_value(row.get("p_value")),
        "p, any length": lambda row: p_value(row.get("p_value_any_length")),
        "control tasks": lambda row: number(row.get("control_task")),
        "selectivity": lambda row: MISSING if row.get("selectivity") is None else signed(row["selectivity"]),
        "ceiling": lambda row: number(row.get("ceiling")),
    }
    averaged = any(row.get("group") != "overall" for row in rows)
    return _table(rows, ("metric", "statistic", "group") if averaged else ("metric", "statistic"), columns)


def ceiling_table(rows: Sequence[Row], layers: Mapping[str, int]) -> Table:
    """Every statistic and group with a ceiling, at the best layer of its metric's headline.

    Args:
        layers: metric → best layer.
    """
    chosen = [row for row in rows if row["ceiling"] is not None and layers.get(row["metric"]) == row["layer"]]
    columns: Columns = {
        "layer": lambda row: count(row["layer"]),
        "value": lambda row: number(row["value"]),
        "ceiling": lambda row: number(row["ceiling"]),
    }
    return _table(chosen, ("metric", "statistic", "group"), columns)


def _table(rows: Sequence[Row], keys: tuple[str, ...], columns: Columns) -> Table:
    """Columns without any number are left out and listed."""
    cells = {title: [words(row) for row in rows] for title, words in columns.items()}
    shown = [title for title in cells if any(cell != MISSING for cell in cells[title])]
    body = [[str(row[key]) for key in keys] + [cells[title][i] for title in shown] for i, row in enumerate(rows)]
    return Table([*keys, *shown], body, len(keys), [title for title in cells if title not in shown])
