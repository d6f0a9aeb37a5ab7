"""The tables of the page: a metric's groups at its best layer, all its rows, and the per-layer lists of provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_moral.report.palette import ordered
from sae_moral.report.words import MISSING, count, interval, number, p_value

COLUMNS: tuple[tuple[str, str], ...] = (
    ("value", "value"), ("ci_low", "interval low"), ("ci_high", "interval high"), ("null_low", "null low"),
    ("null_high", "null high"), ("p_value", "p"), ("ceiling", "ceiling"), ("baseline", "baseline"), ("n", "n"),
    ("n_dropped", "dropped"),
)  # fmt: skip
PAIRED: tuple[tuple[str, str], ...] = (
    ("value", "value"), ("ci", "interval"), ("null", "null band"), *COLUMNS[5:],
)  # fmt: skip
"""COLUMNS with the two ends of an interval in one cell: fits a page, but does not sort."""


@dataclass(frozen=True)
class Table:
    """Cells as words. The first `keys` columns name the row; columns without any number are left out and listed."""

    header: list[str]
    rows: list[list[str]]
    keys: int
    left_out: list[str]


def group_table(
    rows: Sequence[Mapping[str, Any]], metric: str, statistic: str, layer: int, baseline: str = "baseline"
) -> Table:
    """One row per group of a statistic at one layer; `baseline`: what the rows' baseline is called."""
    chosen = [r for r in rows if (r["metric"], r["statistic"], r["layer"]) == (metric, statistic, layer)]
    rank = {group: i for i, group in enumerate(ordered(r["group"] for r in chosen))}
    return _table(sorted(chosen, key=lambda r: rank[r["group"]]), ("group",), _named(PAIRED, baseline))


def full_table(rows: Sequence[Mapping[str, Any]], metric: str, baseline: str = "baseline") -> Table:
    """Every row of a metric, in the order of the diagnosis."""
    return _table(
        [r for r in rows if r["metric"] == metric], ("statistic", "layer", "group"), _named(COLUMNS, baseline)
    )


def _named(columns: tuple[tuple[str, str], ...], baseline: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, baseline if name == "baseline" else title) for name, title in columns)


def _table(rows: list[Mapping[str, Any]], keys: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> Table:
    cells = {name: [_cell(name, r) for r in rows] for name, _ in columns}
    shown = [(name, title) for name, title in columns if name == "value" or any(c != MISSING for c in cells[name])]
    left_out = [title for name, title in columns if (name, title) not in shown]
    body = [[str(r[key]) for key in keys] + [cells[name][i] for name, _ in shown] for i, r in enumerate(rows)]
    return Table([*keys, *(title for _, title in shown)], body, len(keys), left_out)


def _cell(name: str, row: Mapping[str, Any]) -> str:
    if name in ("ci", "null"):
        return interval(row.get(f"{name}_low"), row.get(f"{name}_high"))
    value = row.get(name)
    if value is None:
        return MISSING
    return p_value(value) if name == "p_value" else count(value) if name in ("n", "n_dropped") else number(value)


def per_layer_lists(tree: Mapping[str, Any], n_layers: int, path: str = "") -> dict[str, list[float | None]]:
    """Lists in a nested dict that hold one number per layer, by dotted name.

    Lists of whole numbers only (token ids, shapes) are not taken, whatever their length: a list counts when it has
    `n_layers` entries, every one a number or None, and at least one a float.
    """
    found: dict[str, list[float | None]] = {}
    for key, value in tree.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping):
            found |= per_layer_lists(value, n_layers, f"{name}.")
        elif isinstance(value, (list, tuple)) and len(value) == n_layers and _numeric(value):
            found[name] = list(value)
    return found


def _numeric(values: Iterable[Any]) -> bool:
    kinds = [isinstance(x, float) for x in values if x is not None and not isinstance(x, bool)]
    return any(kinds) and all(x is None or (isinstance(x, (int, float)) and not isinstance(x, bool)) for x in values)
