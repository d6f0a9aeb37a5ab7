"""The figures of a diagnosis, as `matplotlib.figure.Figure`s made without pyplot and without a display.

Conventions kept in all of them: layers from left to right; `overall` thick and black with its interval; the null band
grey; one colour per foundation, virtue solid, vice dashed; a missing value is a gap. matplotlib loads on first use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sae_moral.errors import unknown
from sae_moral.report import style
from sae_moral.report.panels import WIDTH, Line, Panel, heat_map, panels_figure, value_label
from sae_moral.report.style import (
    BASELINES,
    CEILING,
    CHANCE,
    DASHED,
    DOTTED,
    FAINT,
    INK,
    INTERVAL,
    LEAD,
    MUTED,
    NARROW,
    NULL,
    OTHER_BASELINE,
    LineStyle,
    legend_line,
    legend_patch,
    numbers,
    ordered,
    plain,
)
from sae_moral.report.words import WORDS_BASELINE, number
from sae_moral.results import MEAN_OF_GROUPS, OVERALL, DiagnosisRecord, MetricCard, Peak, Profile, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 3.0
"""Of a panel beside others, in inches at least."""
MEAN = LineStyle(INK, width=2.0)
FAMILIES = {
    "all": LineStyle(INK, width=2.2),
    "length": LineStyle("#0072B2", DASHED, 1.6),
    "sink": LineStyle("#D55E00"),
    "word frequency": LineStyle("#009E73", DOTTED, 1.8),
}
"""How a family of nuisance features is drawn."""


class Rows:
    """One statistic's rows: its layers, ascending, and its groups in their order. A row that is absent is a gap."""

    def __init__(self, record: DiagnosisRecord, metric: str, statistic: str) -> None:
        """
        Raises:
            ValueError: no row of that statistic, or two for one layer and group.
        """
        own = [row for row in record.rows if (row.metric, row.statistic) == (metric, statistic)]
        if not own:
            known = dict.fromkeys(f"{row.metric}/{row.statistic}" for row in record.rows)
            raise unknown("statistic", f"{metric}/{statistic}", known)
        self.at: dict[tuple[int, str], Row] = {}
        for row in own:
            if (row.layer, row.group) in self.at:
                raise ValueError(
                    f"{metric}/{statistic} has two rows for layer {row.layer} and group {row.group!r}; "
                    "expected one row per metric, statistic, layer and group"
                )
            self.at[row.layer, row.group] = row
        self.layers = sorted({row.layer for row in own})
        self.groups = ordered(row.group for row in own)

    def __call__(self, group: str, name: str = "value") -> list[float | None]:
        """One attribute of a group's rows, per layer."""
        at = self.at
        return [getattr(at[layer, group], name) if (layer, group) in at else None for layer in self.layers]

    @property
    def filled(self) -> list[str]:
        """The groups that have any value."""
        return [group for group in self.groups if any(math.isfinite(v) for v in numbers(self(group)))]


def layer_figure(record: DiagnosisRecord, metric: str, *, width: float | None = None) -> Figure:
    """The headline of one metric over the layers, with its controls; groups and baselines are named at their ends, in
    a column of a paper in the legend.

    Args:
        record: a diagnosis.
        metric: one of its metrics; one without any value gives a figure that says so.
        width: in inches; by default that of a page.

    Raises:
        ValueError: unknown metric, or two rows for one layer and group.
    """
    card, width = _card(record, metric), WIDTH if width is None else width
    if width < NARROW:
        return overview_figure(record, [metric], width=width)
    if metric not in record.peaks:
        figure = style.blank_figure(width, 3.4)
        axes = figure.subplots()
        _titles(axes, card, None, 0, room=0)
        style.say_nothing(axes)
        return figure
    rows, baselines = Rows(record, metric, card.headline), _baselines(record, metric)
    height = max(3.4, 0.17 * (len(rows.groups) + len(baselines)) + 0.9)
    figure = style.blank_figure(width, height)
    axes = figure.subplots()
    _titles(axes, card, record.peaks[metric], len(rows.filled), room=width - 2.2)
    axes.set_ylabel(value_label(card.spec), fontsize=8.5)
    styles = _styles(record)
    drawn = _headline(axes, record, metric, rows, styles, alpha=0.95)
    axes.set_xlabel("layer", fontsize=8.5)
    profile = record.profiles[metric]
    colours = {group: styles[group].colour for group in rows.filled} | {profile.group: INK}
    named = {name if name not in rows.groups else f"{name} (baseline)": name for name in baselines}
    colours |= {shown: BASELINES.get(name, OTHER_BASELINE).colour for shown, name in named.items()}
    if len(colours) > 1:
        bold = (profile.group, OVERALL)
        style.label_ends(axes, colours, height=height - 1.25, bold=bold, slanted=list(named))
    handles = _control_handles(drawn, lead=profile.group)
    style.add_legend(figure, handles, _baseline_handles(drawn) + style.pole_handles(rows.groups))
    return figure


def overview_figure(
    record: DiagnosisRecord, metrics: Sequence[str] | None = None, *, width: float | None = None
) -> Figure:
    """One panel per metric with its headline over the layers: the diagnosis in one figure.

    Args:
        record: a diagnosis.
        metrics: some of its metrics, in this order; by default all.
        width: in inches; by default that of a page, more for many metrics.

    Raises:
        ValueError: no metric, or one that `layer_figure` refuses.
    """
    cards = [_card(record, metric) for metric in (record.metrics if metrics is None else metrics)]
    if not cards:
        raise ValueError("no metric to draw; expected a diagnosis of at least one")
    n = len(cards)
    columns = 1 if n == 1 else 2 if n <= 6 else 3
    columns = columns if width is None else min(columns, max(1, int(width / PANEL)))
    width = (WIDTH if columns < 3 else 10.5) if width is None else width
    figure = style.blank_figure(width, 1)
    styles, drawn, shown = _styles(record), set[str](), dict[str, None]()
    grid = style.grid_of(figure, n, columns)
    for i, (axes, card) in enumerate(zip(grid, cards, strict=True)):
        metric = card.name
        if metric not in record.peaks:
            _titles(axes, card, None, 0, room=0, short=True)
            style.say_nothing(axes)
            continue
        rows = Rows(record, metric, card.headline)
        _titles(axes, card, record.peaks[metric], len(rows.filled), room=width / columns - 0.75, short=True)
        axes.set_ylabel(value_label(card.spec), fontsize=8.5)
        drawn |= _headline(axes, record, metric, rows, styles, width=1.0, alpha=0.75)
        shown.update(dict.fromkeys(group for group in rows.filled if group != OVERALL))
        if i >= n - columns:
            axes.set_xlabel("layer", fontsize=8.5)
    groups = style.group_handles(shown, styles)
    below = style.add_legend(figure, _control_handles(drawn), _baseline_handles(drawn), *groups, columns=6)
    figure.set_figheight(2.45 * math.ceil(n / columns) + max(0.6, below))
    style.fit_column(figure)
    return figure


def statistics_figure(record: DiagnosisRecord, metric: str) -> Figure | None:
    """Small multiples of a metric's further statistics over the layers; None when it has only its headline."""
    names = further_statistics(record, metric)
    if not names:
        return None
    columns = min(3, len(names))
    figure = style.blank_figure(7.8, 1.75 * math.ceil(len(names) / columns) + 0.5)
    styles, drawn, shown = _styles(record), set[str](), dict[str, None]()
    for axes, name in zip(style.grid_of(figure, len(names), columns), names, strict=True):
        rows = Rows(record, metric, name)
        axes.set_title(plain(name.replace("_", " ")), loc="left", fontsize=8.5)
        if not rows.filled:
            style.say_nothing(axes)
            continue
        lead = OVERALL if OVERALL in rows.filled else rows.filled[0] if len(rows.filled) == 1 else None
        if lead is not None:
            drawn |= _controls(axes, rows, lead) | ({OVERALL} if lead == OVERALL else set())
        _groups(axes, rows, styles, lead, width=1.0, alpha=0.85)
        shown.update(dict.fromkeys(group for group in rows.filled if group != OVERALL))
        style.finish(axes, rows.layers)
    groups = style.group_handles(shown, styles)
    style.add_legend(figure, _control_handles(drawn), _baseline_handles(drawn), *groups, columns=6)
    return figure


def heatmap_figure(record: DiagnosisRecord, metric: str, statistic: str | None = None) -> Figure:
    """Layers × groups of one statistic (the headline by default) as a heat map, white at chance where it is known.

    Raises:
        ValueError: an unknown metric or statistic.
    """
    card = _card(record, metric)
    statistic = statistic or card.headline
    rows = Rows(record, metric, statistic)
    chance = card.statistics[statistic].chance if statistic in card.statistics else None
    values = [rows(group) for group in rows.groups]
    layers = [str(layer) for layer in rows.layers]
    return heat_map(values, rows.groups, layers, title=f"{metric} · {statistic}", middle=chance)


def profile_figure(layers: Sequence[int], values: Mapping[str, Sequence[float | None]]) -> Figure:
    """One small panel per named list with one entry per layer (share of variance explained by length, sink ratio …).

    Raises:
        ValueError: nothing to draw, or a list whose length is not that of `layers`.
    """
    panels = []
    for name, series in values.items():
        known = numbers(series)
        bottom = 0.0 if not (known < 0).any() else None
        line = Line(layers, series, LineStyle(INK, width=1.6))
        panels.append(Panel(name, {name: line}, layers, ylim=(bottom, None)))
    return panels_figure(panels)


def explained_figure(layers: Sequence[int], shares: Mapping[str, Sequence[float | None]]) -> Figure:
    """The share of the vectors' variance that each family of nuisance features explains, by layer.

    Args:
        layers: numbers.
        shares: family → one share per layer; `all` is drawn last, on top.

    Raises:
        ValueError: a family without one share per layer.
    """
    lines = {}
    for name in sorted(shares, key=lambda family: family == "all"):
        values = [None if share is None else 100 * share for share in shares[name]]
        lines["all together" if name == "all" else name] = Line(layers, values, FAMILIES.get(name, OTHER_BASELINE))
    legend = [legend_line(name, line.style) for name, line in reversed(lines.items())]
    lowest = min((v for line in lines.values() for v in line.values if v is not None), default=0.0)
    panel = Panel(
        "", lines, layers, zero=True, xlabel="layer", ylabel="variance explained, %",
        ylim=(0.0 if lowest >= 0 else None, None),
    )  # fmt: skip
    return panels_figure([panel], height=2.3, legend=[legend])


def further_statistics(record: DiagnosisRecord, metric: str) -> list[str]:
    """The statistics of a metric that have rows, without its headline."""
    headline = _card(record, metric).headline
    names = dict.fromkeys(row.statistic for row in record.rows if row.metric == metric)
    return [name for name in names if name != headline]


# Parts


def _card(record: DiagnosisRecord, metric: str) -> MetricCard:
    if metric not in record.metrics:
        raise unknown("metric", metric, record.metrics)
    return record.metrics[metric]


def _styles(record: DiagnosisRecord) -> dict[str, LineStyle]:
    return style.group_styles(row.group for row in record.rows)


def _baselines(record: DiagnosisRecord, metric: str) -> dict[str, Profile]:
    return {name: one.profiles[metric] for name, one in record.baselines.items() if metric in one.profiles}


def _headline(
    axes: Axes,
    record: DiagnosisRecord,
    metric: str,
    rows: Rows,
    styles: Mapping[str, LineStyle],
    *,
    width: float = 1.4,
    alpha: float,
) -> set[str]:
    """Draws one headline; returns the names of what appeared."""
    profile, peak, baselines = record.profiles[metric], record.peaks[metric], _baselines(record, metric)
    drawn = {profile.group}
    lead = profile.group if profile.group in rows.groups else None
    if lead is not None:
        drawn |= _controls(axes, rows, lead, baseline=not baselines)
    else:
        for group in rows.filled:
            ends, null = ((rows(group, f"{kind}_low"), rows(group, f"{kind}_high")) for kind in ("ci", "null"))
            if style.draw_band(axes, rows.layers, *ends, styles[group].colour, alpha=0.12, zorder=1.5):
                drawn.add("intervals of the groups")
            if style.draw_band(axes, rows.layers, *null, NULL, alpha=0.10):
                drawn.add("null band")
        if style.draw_band(axes, profile.layers, profile.ci_low, profile.ci_high, INTERVAL, alpha=0.28, zorder=1.6):
            drawn.add("interval")
        style.draw_line(axes, profile.layers, profile.values, profile.group, MEAN, zorder=5)
    for name, other in baselines.items():
        values = other.values if other.layers else other.values * len(rows.layers)
        if style.draw_level(axes, other.layers or rows.layers, values, _shown(name, rows), _line_of(name)):
            drawn.add(name)
    _groups(axes, rows, styles, lead, width=width, alpha=alpha)
    if style.draw_chance(axes, record.metrics[metric].spec.chance):
        drawn.add("chance")
    axes.axvline(peak.layer, color=FAINT, linewidth=0.8, linestyle=DOTTED, zorder=0.5, label="_best layer")
    axes.plot([peak.layer], [peak.value], marker="o", markersize=8, markerfacecolor="white", markeredgewidth=2,
              markeredgecolor=INK, linestyle="none", label="_best", zorder=6, clip_on=False)  # fmt: skip
    style.finish(axes, rows.layers)
    return drawn


def _controls(axes: Axes, rows: Rows, group: str, *, baseline: bool = True) -> set[str]:
    """Interval, null band, ceiling and baseline of a group; returns the names of those that have values."""
    drawn = set[str]()
    for kind, name, colour, alpha, zorder in (
        ("null", "null band", NULL, 0.22, 1.0), ("ci", "interval", INTERVAL, 0.28, 1.5),
    ):  # fmt: skip
        ends = rows(group, f"{kind}_low"), rows(group, f"{kind}_high")
        if style.draw_band(axes, rows.layers, *ends, colour, alpha=alpha, zorder=zorder):
            drawn.add(name)
    ends = rows(group, "ceiling_low"), rows(group, "ceiling_high")
    style.draw_band(axes, rows.layers, *ends, CEILING.colour, alpha=0.1, zorder=0.8)
    if style.draw_level(axes, rows.layers, rows(group, "ceiling"), "ceiling", CEILING):
        drawn.add("ceiling")
    given = rows(group, "baseline")
    if baseline and style.draw_level(axes, rows.layers, given, WORDS_BASELINE, _line_of(WORDS_BASELINE)):
        drawn.add(WORDS_BASELINE)
    return drawn


def _groups(
    axes: Axes, rows: Rows, styles: Mapping[str, LineStyle], lead: str | None, *, width: float, alpha: float
) -> None:
    """Every group's values; the leading group thick and on top."""
    for group in rows.filled:
        if group == lead:
            style.draw_line(axes, rows.layers, rows(group), group, LEAD, zorder=5)
        else:
            thin = LineStyle(styles[group].colour, styles[group].dash, width)
            style.draw_line(axes, rows.layers, rows(group), group, thin, alpha=alpha)


def _shown(name: str, rows: Rows) -> str:
    return name if name not in rows.groups else f"{name} (baseline)"


def _line_of(baseline: str) -> LineStyle:
    return BASELINES.get(baseline, OTHER_BASELINE)


def _titles(axes: Axes, card: MetricCard, peak: Peak | None, groups: int, *, room: float, short: bool = False) -> None:
    """Metric and headline on the left, the peak on the right; the metric alone where `room`, in inches, is too little
    for both."""
    size = 9 if short else 10
    name = plain(f"{card.name} · {card.headline}")
    axes.set_title(name, loc="left", fontsize=size, fontweight="bold", color=INK)
    if peak is None:
        return
    words = number(peak.value)
    if peak.group == MEAN_OF_GROUPS:
        words = f"mean of {groups}{'' if short else ' groups'} {words}"
    if peak.n_layers > 1:
        words = f"{'' if short else 'best '}layer {peak.layer}: {words}"
    if size / 9 * (0.08 * len(name) + 0.06 * len(words)) > room:
        axes.set_title(plain(card.name, 20), loc="left", fontsize=size, fontweight="bold", color=INK)
    if size / 9 * (0.08 * min(len(card.name), 20) + 0.06 * len(words)) <= room:
        axes.set_title(words, loc="right", fontsize=size - 1, color=MUTED)


def _control_handles(drawn: set[str], lead: str = OVERALL) -> list[Any]:
    """The legend's entries of what was drawn, baselines apart."""
    leads = dict.fromkeys([lead, MEAN_OF_GROUPS])
    handles = [
        *(legend_line(name, MEAN if name == MEAN_OF_GROUPS else LEAD) for name in leads),
        legend_patch("interval", INTERVAL, 0.28),
        legend_patch("intervals of the groups", INK, 0.12),
        legend_patch("null band", NULL, 0.3),
        legend_line("ceiling", CEILING),
        legend_line("chance", CHANCE),
    ]
    return [handle for handle in handles if handle.get_label() in drawn]


def _baseline_handles(drawn: set[str]) -> list[Any]:
    return [legend_line(name, line) for name, line in BASELINES.items() if name in drawn]
