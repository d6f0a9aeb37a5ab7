"""The figures of a diagnosis, as `matplotlib.figure.Figure`s made without pyplot and without a display.

Conventions kept in all of them: layers from left to right; `overall` thick and black with its interval; the null band
grey; one colour per foundation, virtue solid, vice dashed; a missing value is a gap. matplotlib loads on first use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sae_moral.report import axes as draw
from sae_moral.report.baselines import MEAN, baseline_style, baseline_tracks, draw_baselines, mean_track
from sae_moral.report.legends import add_legend, baseline_handles, control_handles, dash_handles, group_handles
from sae_moral.report.palette import INK, MUTED, NULL, OVERALL, GroupStyle, group_styles, plain
from sae_moral.report.series import (
    Best,
    Track,
    best_layer,
    headline_of,
    leading_group,
    lower_is_better,
    records,
    tracks_by_group,
)
from sae_moral.report.words import number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def layer_figure(
    frame: pd.DataFrame,
    metric: str,
    provenance_of_metric: Mapping[str, Any],
    controls: Mapping[str, Any] | None = None,
) -> Figure:
    """The headline of one metric over the layers, with its controls; groups and baselines are named at their ends.

    Args:
        frame: `Diagnosis.frame`.
        metric: a metric in `frame`; one without any value gives a figure that says so.
        provenance_of_metric: `Diagnosis.provenance["metrics"][metric]` (headline, chance, higher_is).
        controls: `Diagnosis.provenance["controls"]`: its baselines are drawn.

    Raises:
        ValueError: unknown headline statistic, or two rows for one layer and group.
    """
    statistic = headline_of(frame, metric, provenance_of_metric)
    tracks = tracks_by_group(frame, metric, statistic) if statistic else {}
    best = best_layer(tracks, provenance_of_metric)
    layers = [] if best is None else next(iter(tracks.values())).layers.tolist()
    baselines = baseline_tracks(controls, metric, statistic, layers)
    height = max(3.4, 0.17 * (len(tracks) + len(baselines)) + 0.9)
    figure = draw.blank_figure(7.8, height)
    axes = figure.subplots()
    _titles(axes, metric, statistic, best)
    if best is None:
        draw.say_nothing(axes)
        return figure
    styles = group_styles(frame["group"])
    axes.set_ylabel(plain(_direction(statistic, provenance_of_metric)), fontsize=8.5)
    drawn = _panel(axes, tracks, styles, provenance_of_metric, best, baselines, width=1.4, alpha=0.95)
    axes.set_xlabel("layer", fontsize=8.5)
    named = {name if name not in tracks else f"{name} (baseline)": track for name, track in baselines.items()}
    if len(tracks) + len(named) > 1:
        mean = {MEAN: mean_track(tracks)} if baselines and best.group is None else {}
        styles |= {name: baseline_style(name)[0] for name in named} | {MEAN: GroupStyle(INK)}
        draw.label_ends(axes, tracks | mean | named, styles, lead=best.group, height=height - 1.25, slanted=named)
    add_legend(figure, control_handles(drawn, best.group), baseline_handles(drawn) + dash_handles(tracks))
    return figure


def overview_figure(
    frame: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]], controls: Mapping[str, Any] | None = None
) -> Figure:
    """One panel per metric with its headline over the layers: the diagnosis in one figure.

    Args:
        frame: `Diagnosis.frame`.
        metrics: `Diagnosis.provenance["metrics"]`; one panel each, in this order.
        controls: `Diagnosis.provenance["controls"]`: its baselines are drawn.

    Raises:
        ValueError: no metric given, or one that `layer_figure` refuses.
    """
    if not metrics:
        raise ValueError("no metric to draw; expected provenance['metrics'] with at least one entry")
    columns = 1 if len(metrics) == 1 else 2 if len(metrics) <= 6 else 3
    lines = math.ceil(len(metrics) / columns)
    figure = draw.blank_figure(7.8 if columns < 3 else 10.5, 2.45 * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    styles = group_styles(frame["group"])
    drawn: set[str] = set()
    shown: dict[str, None] = {}
    lead: str | None = None
    for axes, (metric, provenance) in zip(grid, metrics.items(), strict=False):
        statistic = headline_of(frame, metric, provenance)
        tracks = tracks_by_group(frame, metric, statistic) if statistic else {}
        best = best_layer(tracks, provenance)
        _titles(axes, metric, statistic, best, short=True)
        if best is None:
            draw.say_nothing(axes)
            continue
        axes.set_ylabel(_arrow(provenance), fontsize=8.5)
        baselines = baseline_tracks(controls, metric, statistic, next(iter(tracks.values())).layers.tolist())
        drawn |= _panel(axes, tracks, styles, provenance, best, baselines, width=1.0, alpha=0.75)
        lead = lead or best.group
        shown.update(dict.fromkeys(group for group in tracks if group != OVERALL))
    for axes in grid[len(metrics) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(metrics) - columns) : len(metrics)]:
        if axes.lines:
            axes.set_xlabel("layer", fontsize=8.5)
    add_legend(figure, control_handles(drawn, lead), baseline_handles(drawn), *group_handles(shown, styles), columns=6)
    return figure


def statistics_figure(
    frame: pd.DataFrame, metric: str, provenance_of_metric: Mapping[str, Any], *, baseline: str = "baseline"
) -> Figure | None:
    """Small multiples of a metric's further statistics over the layers; None when it has only its headline.

    `baseline`: what the rows' baseline is called.
    """
    headline = headline_of(frame, metric, provenance_of_metric)
    found = dict.fromkeys(str(row["statistic"]) for row in records(frame, metric))
    names = [name for name in found if name != headline]
    if not names:
        return None
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = draw.blank_figure(7.8, 1.75 * lines + 0.5)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    styles = group_styles(frame["group"])
    shown: dict[str, None] = {}
    drawn: set[str] = set()
    for axes, name in zip(grid, names, strict=False):
        tracks = tracks_by_group(frame, metric, name)
        lead = leading_group(tracks)
        axes.set_title(plain(str(name).replace("_", " ")), loc="left", fontsize=8.5)
        if lead is not None:
            drawn |= draw.draw_controls(axes, tracks[lead], baseline=baseline)
        groups = draw.draw_groups(axes, tracks, styles, lead=lead, width=1.0, alpha=0.85)
        shown.update(dict.fromkeys(group for group in groups if group != OVERALL))
        if not groups:
            draw.say_nothing(axes)
            continue
        draw.finish(axes, tracks)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    add_legend(
        figure, control_handles(drawn, OVERALL), baseline_handles(drawn), *group_handles(shown, styles), columns=6
    )
    return figure


def _panel(
    axes: Axes,
    tracks: Mapping[str, Track],
    styles: Mapping[str, GroupStyle],
    provenance: Mapping[str, Any],
    best: Best,
    baselines: Mapping[str, Track],
    *,
    width: float,
    alpha: float,
) -> set[str]:
    """Draws one headline; returns the names of the controls that appeared."""
    drawn: set[str] = set()
    if best.group is not None:
        drawn |= draw.draw_controls(axes, tracks[best.group], baseline=None if baselines else "baseline")
    else:
        for group, track in tracks.items():
            if draw.draw_band(axes, track, "ci", styles[group].colour, 0.12, 1.5):
                drawn.add("ci of groups")
            if draw.draw_band(axes, track, "null", NULL, 0.10, 1.0):
                drawn.add("null")
        if baselines:
            draw.draw_line(axes, mean_track(tracks), MEAN, GroupStyle(INK), width=2.0, zorder=5)
            drawn.add(MEAN)
    drawn |= draw_baselines(axes, baselines)
    draw.draw_groups(axes, tracks, styles, lead=best.group, width=width, alpha=alpha)
    if draw.draw_chance(axes, provenance.get("chance")):
        drawn.add("chance")
    draw.mark_best(axes, best)
    draw.finish(axes, tracks)
    return drawn


def _titles(axes: Axes, metric: str, statistic: str | None, best: Best | None, *, short: bool = False) -> None:
    size = 9 if short else 10
    name = plain(f"{metric} · {statistic}" if statistic else metric)
    axes.set_title(name, loc="left", fontsize=size, fontweight="bold", color=INK)
    if best is None:
        return
    averaged = (
        f"mean of {best.groups} {number(best.value)}" if short else f"mean of {best.groups} groups {number(best.value)}"
    )
    value = number(best.value) if best.group is not None else averaged
    words = value if best.layers == 1 else f"{'' if short else 'best '}layer {best.layer}: {value}"
    if len(name) + len(words) <= (52 if short else 66):
        axes.set_title(words, loc="right", fontsize=size - 1, color=MUTED)


def _arrow(provenance: Mapping[str, Any]) -> str:
    return "← less indifferent" if lower_is_better(provenance) else (
        "less indifferent →" if "less indifferent" in str(provenance.get("higher_is") or "").casefold() else ""
    )  # fmt: skip


def _direction(statistic: str | None, provenance: Mapping[str, Any]) -> str:
    name = str(statistic).replace("_", " ")
    return f"{name}\n({_arrow(provenance)})" if _arrow(provenance) else name
