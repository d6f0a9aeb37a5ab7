"""The rows of a sweep: effects against the unsteered model and against random directions, damage, and who dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from sae_moral.data import MoralData
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.io import write_json, write_text
from sae_moral.steering.acceptability import gap, text_weights

if TYPE_CHECKING:
    import pandas as pd

    from sae_moral.steering.sweep import Cell

DAMAGE = ("kl", "perplexity_ratio", "top_agreement", "norm_share", "distinct_1", "distinct_2", "repetition")
HEADLINES = ("categorical", "gradient")
EFFECTS = ("gap", "gain", "gain_low", "gain_high", "virtue_shift", "vice_shift")
AGAINST = ("random", "shuffled")
"""Arms that the others are compared with, text by text."""
OVER = tuple(f"over_{arm}{end}" for arm in AGAINST for end in ("", "_low", "_high"))
P_VALUES = {"gain": "p_random", **{f"{name}_change": f"p_{name}" for name in HEADLINES}}
"""What is compared with the random directions, and the column of its p-value."""
NORM_OF_THE_OPERATED = ("operated", "dense")
"""Arms that random directions of the operated arm's norm can be compared with."""
Interval = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Attributes:
    rows: one per operation, form, α and arm. `gap` is the margin of virtue over vice; `gain` how much it is above the
        unsteered model's; `over_random` how much above the mean of the random directions of the same norm,
        `over_shuffled` above operations on shuffled labels; each with its 95 % interval over texts. `p_random`: of the
        arm at its best strength among the random directions, each at its own best (`beyond_random`); `p_categorical`
        and `p_gradient` likewise, of the headlines' changes, where every random direction has them. `front`: no other
        row has more gain and less KL.
    unsteered: the same measures of the model as it is.
    provenance: what shaped the numbers. JSON values only.
    """

    rows: list[dict[str, Any]]
    unsteered: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def save(self, folder: str | Path) -> Path:
        """Write sweep.json, sweep.png and sweep.md; returns the page's path."""
        from sae_moral.steering.page import page, pareto_figure

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"provenance": self.provenance, "unsteered": self.unsteered, "results": self.rows}
        write_json(folder / "sweep.json", {"schema_version": 1, "kind": "sweep", **content})
        pareto_figure(self).savefig(folder / "sweep.png", dpi=150)
        write_text(folder / "sweep.md", page(self))
        return folder / "sweep.md"


def summarise(
    cells: Sequence[tuple[Cell, dict[str, Any]]],
    unsteered: dict[str, Any],
    data: MoralData,
    provenance: dict[str, Any],
    *,
    draws: int,
) -> Sweep:
    """Turn what was measured into rows (see `Sweep`).

    Raises:
        ValueError: a pole without held-out scenarios.
    """
    weights = text_weights(data, draws)
    plain = np.asarray(unsteered["margin"])
    others: dict[tuple[Any, ...], list[np.ndarray]] = {}
    for cell, values in cells:
        if cell.arm in AGAINST and "error" not in values:
            others.setdefault((cell.arm, *_place(cell)), []).append(np.asarray(values["margin"]))
    rows = []
    for cell, values in cells:
        row = {name: getattr(cell, name) for name in ("operation", "layer", "form", "alpha", "arm", "seed")}
        row |= dict.fromkeys((*EFFECTS, *OVER, *P_VALUES, *P_VALUES.values(), *HEADLINES, *DAMAGE))
        row |= {"front": False, "error": values.get("error")}
        if "error" not in values:
            margin = np.asarray(values["margin"])
            row |= _effects(margin, plain, data, weights)
            for arm in AGAINST:
                if cell.arm not in (arm, "random") and (given := others.get((arm, *_place(cell)))):
                    over = gap(margin - np.mean(given, axis=0), data, weights)
                    row |= dict(zip((f"over_{arm}{end}" for end in ("", "_low", "_high")), over, strict=True))
            row |= _headlines(values, unsteered) | {name: values.get(name) for name in DAMAGE}
        rows.append(row)
    for name, p in P_VALUES.items():
        _compare_with_random(rows, name, p)
    usable = [row for row in rows if row["gain"] is not None and row["kl"] is not None]
    points = np.array([[row["gain"], row["kl"]] for row in usable]).reshape(-1, 2)
    for row, front in zip(usable, pareto(points), strict=True):
        row["front"] = bool(front)
    effects = dict(zip(("gap", "gap_low", "gap_high"), gap(plain, data, weights), strict=True))
    base = effects | {name: unsteered[name] for name in (*DAMAGE, "headlines")}
    return Sweep(rows, base, provenance)


def beyond_random(own: Float[np.ndarray, "strengths"], random: Float[np.ndarray, "seeds strengths"]) -> float:
    """Share of the directions, the arm itself among them, that gain at their best strength as much as the arm does at
    its own: the p-value of an arm that is one more random direction. Gains are measured in the median size that they
    have at a strength, so that the largest strength does not decide alone.

    One arm's texts are every arm's texts: this asks whether the direction is special, the interval of `over_random`
    whether the difference holds for other texts.
    """
    everyone = np.vstack([own, random])
    size = np.median(np.abs(everyone), axis=0)
    best = (everyone / np.where(size > 0, size, 1.0)).max(axis=1)
    return float((best >= best[0]).mean())


def _compare_with_random(rows: list[dict[str, Any]], name: str, p: str) -> None:
    """Fill the column p, where all directions have a value of that name at all strengths."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["operation"], row["layer"], row["form"], row["arm"], row["seed"]), []).append(row)
    gains = {key: np.array([np.nan if row[name] is None else row[name] for row in own])
             for key, own in groups.items()}  # fmt: skip
    for key, own in groups.items():
        random = [gain for other, gain in gains.items() if other[:3] == key[:3] and other[3] == "random"]
        if key[3] in NORM_OF_THE_OPERATED and random and np.isfinite(np.vstack([gains[key], *random])).all():
            value = beyond_random(gains[key], np.stack(random))
            for row in own:
                row[p] = value


def pareto(points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, "n"]:
    """Which points no other dominates: more gain (first column) and not more damage (second), or as much gain and less
    damage. The unsteered model, (0, 0), is one of the others."""
    everyone = np.vstack([points, [0.0, 0.0]])
    gain, damage = everyone[:, 0], everyone[:, 1]
    at_least = (gain[None] >= points[:, :1]) & (damage[None] <= points[:, 1:])
    better = (gain[None] > points[:, :1]) | (damage[None] < points[:, 1:])
    return np.logical_not(np.any(at_least & better, axis=1))


def _place(cell: Cell) -> tuple[Any, ...]:
    return cell.operation, cell.layer, cell.form, cell.alpha


def _effects(
    margin: Float[np.ndarray, "n"],
    plain: Float[np.ndarray, "n"],
    data: MoralData,
    weights: Float[np.ndarray, "draws n"],
) -> dict[str, float]:
    gain: Interval = gap(margin - plain, data, weights)
    shifts = [float((margin - plain)[data.pole == pole].mean()) for pole in (VIRTUE, VICE)]
    return dict(zip(EFFECTS, (gap(margin, data, weights)[0], *gain, *shifts), strict=True))


def _headlines(values: Mapping[str, Any], unsteered: Mapping[str, Any]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for layer, headlines in values.get("headlines", {}).items():
        for name, value in headlines.items():
            before = unsteered["headlines"][layer][name]
            found |= {name: value, f"{name}_change": None if None in (value, before) else value - before}
    return found
