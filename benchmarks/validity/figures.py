"""The figures of the results page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.validity.plan import METRICS, MORE_NULLS, NULLS, POWER_METRICS, SHARES, VERDICT_WORLDS, Configuration
from benchmarks.validity.store import Records
from benchmarks.validity.summary import Rate, headline_coverage, peaks, rejected
from sae_moral.report.style import DASHED, DOTTED, FAINT, INK, MUTED, OTHER_COLOURS, SOLID, blank_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = dict(zip(METRICS, (OTHER_COLOURS[i] for i in (0, 2, 6, 4)), strict=True))
MARKS: dict[str, str] = dict(zip(METRICS, "osD^", strict=True))
VERDICTS = {
    "not tested": ("#ffffff", "no value"),
    "not testable": ("#ffffff", "not testable"),
    "not shown": ("#f6f7f9", "not shown"),
    "empty": ("#eceef1", "empty"),
    "length": ("#f6c98f", "length"),
    "nuisance": ("#f3e3a0", "nuisance"),
    "untrained": ("#f3e3a0", "untrained"),
    "words": ("#f3e3a0", "words"),
    "beyond chance": ("#d7e6f3", "beyond chance"),
    "found": ("#a9cbe8", "found"),
}
"""Verdict → colour of its cell, and the word in it."""
ENOUGH = 5
"""Worlds that a detection rate is shown for, at least."""


def overview(records: Records, plan: Mapping[str, Configuration]) -> Figure:
    """Verdicts of the audited metrics and the paper's, above false positives and coverage of the headlines."""
    figure = blank_figure(11.5, 10)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.1])
    top, bottom = parts
    _verdicts(top, records, plan)
    left, right = bottom.subplots(1, 2)
    _false_positives(left, records, plan)
    _coverage(right, records, plan)
    handles, names = left.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    bottom.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def power(records: Records) -> Figure:
    """How often each headline is told from permuted labels, against the share of the variance that is planted."""
    from matplotlib.lines import Line2D

    figure = blank_figure(11.5, 3.4)
    grid: Any = figure.subplots(1, len(METRICS), sharey=True)
    for axes, metric in zip(grid, METRICS, strict=True):
        world = next(world for world, metrics in POWER_METRICS.items() if metric in metrics)
        for n, dash in ((500, DOTTED), (1000, DASHED), (2000, SOLID)):
            for protocol, colour in (("paper", FAINT), ("audited", COLOURS[metric])):
                rates = [
                    rejected(peaks(records.get(f"power/{protocol}/{world} {share}/{n}x100", []), metric, "p_value"))
                    for share in SHARES
                ]
                known = [
                    (share, rate.value)
                    for share, rate in zip(SHARES, rates, strict=True)
                    if rate is not None and rate.n >= ENOUGH
                ]
                if known:
                    axes.plot(
                        *zip(*known, strict=True), color=colour, linestyle=dash, marker="o", markersize=3,
                        linewidth=1.3 if protocol == "paper" else 2, clip_on=False,
                    )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(SHARES, [f"{100 * share:g}" for share in SHARES])
        axes.minorticks_off()
        axes.set_ylim(0, 1)
        axes.set_title(f"{metric}: {world} planted", fontsize=9, color=INK)
        axes.set_xlabel("% of the variance", color=MUTED)
        axes.axhline(0.05, color=FAINT, linewidth=0.8, linestyle=DOTTED)
        _plain(axes)
    grid[0].set_ylabel("share of worlds detected", color=MUTED)
    shown = [
        Line2D([], [], color=colour, linestyle=dash, linewidth=width, label=f"{protocol}, n = {n}")
        for protocol, colour, width in (("audited (in colour)", INK, 2), ("paper", FAINT, 1.3))
        for n, dash in ((500, DOTTED), (1000, DASHED), (2000, SOLID))
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _verdicts(part: Any, records: Records, plan: Mapping[str, Configuration]) -> None:
    columns = [(protocol, metric) for protocol in ("audited", "paper") for metric in METRICS]
    axes = part.subplots()
    for i, world in enumerate(VERDICT_WORLDS):
        for j, (protocol, metric) in enumerate(columns):
            entry = _verdict_entry(records, plan, world, protocol)
            if entry is None or metric not in entry["verdicts"]:
                continue
            colour, word = VERDICTS[entry["verdicts"][metric]["verdict"]]
            value = (entry["peaks"].get(metric) or {}).get("value")
            gap = 0.15 * (j >= len(METRICS))
            axes.add_patch(_cell(j + gap, i, colour))
            text = word if value is None else f"{word}  {value:.2f}"
            axes.text(j + gap + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, len(columns) + 0.15)
    axes.set_ylim(len(VERDICT_WORLDS), 0)
    axes.set_yticks(np.arange(len(VERDICT_WORLDS)) + 0.5, VERDICT_WORLDS, fontsize=8.5)
    places = [j + 0.5 + 0.15 * (j >= len(METRICS)) for j in range(len(columns))]
    axes.set_xticks(places, [f"{protocol}\n{metric}" for protocol, metric in columns], fontsize=8.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("Verdict and value of every metric in one world of each kind", fontsize=10, color=INK, loc="left")


def _verdict_entry(
    records: Records, plan: Mapping[str, Configuration], world: str, protocol: str
) -> dict[str, Any] | None:
    names = [c.name for c in plan.values() if (c.part, c.world, c.protocol) == ("verdicts", world, protocol)]
    return next((records[name][0] for name in names if name in records), None)


def _cell(x: float, y: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.02, y + 0.04), 0.96, 0.92, facecolor=colour, edgecolor="#d5d9df", linewidth=0.6)


def _false_positives(axes: Axes, records: Records, plan: Mapping[str, Configuration]) -> None:
    shown = [
        (c, f"{c.world}, {c.n} × {c.d}")
        for c in plan.values()
        if c.part == "draws" and c.protocol == "audited" and c.world.split(", four")[0] in (*NULLS, *MORE_NULLS)
    ]
    _dots(axes, records, shown, lambda entries, metric: rejected(peaks(entries, metric, "p_value")), (0.03, 0.07), 0.05)
    axes.set_xlim(0, 0.16)
    axes.set_title("False positives at 5 %, audited, worlds without morality", fontsize=10, color=INK, loc="left")


def _coverage(axes: Axes, records: Records, plan: Mapping[str, Configuration]) -> None:
    shown = [
        (c, f"{c.world}, {c.n} × {c.d}")
        for c in plan.values()
        if c.part == "draws" and c.protocol == "audited" and "interval" in c.controls.names
    ]

    def covered(entries: Any, metric: str) -> Rate | None:
        found = headline_coverage(entries, metric)
        return None if found is None else found.rate

    _dots(axes, records, shown, covered, (0.92, 0.97), 0.95)
    axes.set_xlim(0.80, 1.005)
    axes.set_xticks([0.8, 0.85, 0.9, 0.95, 1.0])
    axes.set_title("Coverage of the 95 % intervals, audited", fontsize=10, color=INK, loc="left")


def _dots(axes: Axes, records: Records, shown: Any, rate_of: Any, band: tuple[float, float], aim: float) -> None:
    axes.axvspan(*band, color="#e6ecf5", zorder=0)
    axes.axvline(aim, color=FAINT, linewidth=0.8, linestyle=DOTTED)
    labels = []
    for configuration, label in shown:
        entries = records.get(configuration.name, [])
        rates = {metric: rate_of(entries, metric) for metric in METRICS}
        if all(rate is None for rate in rates.values()):
            continue
        for k, (metric, rate) in enumerate(rates.items()):
            if rate is not None:
                y = len(labels) + 0.18 * (k - 1.5)
                axes.plot(rate.ends, [y, y], color=COLOURS[metric], linewidth=1, alpha=0.6)
                axes.plot(
                    [rate.value], [y], color=COLOURS[metric], marker=MARKS[metric], markersize=4.5, linestyle="none",
                    label=metric,
                )  # fmt: skip
        labels.append(label)
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    _plain(axes)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=MUTED)
