"""A sweep as a figure (gain against damage, with the Pareto front) and as a small Markdown page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sae_moral.report.palette import FAINT, INK
from sae_moral.studies.sweep_results import Sweep, SweepRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "operated": "#D55E00",
    "shuffled": "#CC79A7",
    "dense": "#0072B2",
    "random": "#6b7280",
    "pretrained": "#E69F00",
}
MARKS = {"operated": "o", "shuffled": "s", "dense": "^", "random": "x", "pretrained": "D"}
PANELS = (
    ("gain", "gap of the acceptability margin, change (nats)"),
    ("categorical_change", "categorical (audited, downstream), change"),
    ("gradient_change", "gradient (audited, downstream), change"),
)
COLUMNS = (
    *("layer", "form", "alpha", "arm", "gain", "over_random", "p_random", "over_shuffled"),
    *("categorical_change", "gradient_change", "kl", "perplexity_ratio", "top_agreement", "norm_share"),
    *("distinct_2", "repetition", "front"),
)


def pareto_figure(sweep: Sweep) -> Figure:
    """Three effects against KL on neutral text; the front of gain and KL as a line, each operated point with its α."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, (effect, label) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for arm, colour in COLOURS.items():
            rows = [row for row in sweep.rows if row.arm == arm and None not in (getattr(row, effect), row.kl)]
            x, y = [row.kl for row in rows], [getattr(row, effect) for row in rows]
            axes.scatter(x, y, s=22, color=colour, marker=MARKS[arm], label=f"{arm} ({len(rows)})")
            if effect == "gain" and arm == "operated":
                axes.errorbar(x, y, yerr=gain_error(rows), fmt="none", ecolor=colour, linewidth=0.8)
            for row, *place in zip(rows, x, y, strict=True) if arm == "operated" else ():
                axes.annotate(f"L{row.layer} α {row.alpha:g}", place, fontsize=6, color=INK)
        if effect == "gain":
            front = sorted((row.kl, row.gain) for row in sweep.rows if row.front)
            axes.plot(*zip((0.0, 0.0), *front, strict=True), color=INK, linewidth=0.8, label="front")
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_xscale("symlog", linthresh=1e-4)
        axes.set_xlim(left=0)
        axes.set_xlabel("KL(unsteered ‖ steered) on neutral text, nats per token")
        axes.set_ylabel(label)
    figure.axes[0].legend(fontsize=7, frameon=False)
    return figure


def png(sweep: Sweep) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    pareto_figure(sweep).savefig(file, format="png", dpi=150)
    return file.getvalue()


def gain_error(rows: Sequence[SweepRow]) -> list[list[float]]:
    """How far the intervals of the gains reach below and above, of rows that have one."""
    known = [interval for row in rows if (interval := row.interval("gain")) is not None]
    return [[value - low for value, low, _ in known], [high - value for value, _, high in known]]


def page(sweep: Sweep) -> str:
    """Verdicts first, then the figure, the table, and what shaped it."""
    about, base = sweep.provenance, sweep.unsteered
    lines = [
        f"# Steering sweep: {about['model']['name']}",
        "",
        f"{about['n']} held-out scenarios of {about['source']}. Unsteered: gap of the acceptability margin "
        f"{base.gap:.3f} [{base.gap_low:.3f}, {base.gap_high:.3f}] nats.",
        "",
        *verdicts(sweep.rows),
        "",
        "![effect against damage](sweep.png)",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(_shown(row, name) for name in COLUMNS) + " |" for row in _tabled(sweep.rows)),
        "",
        f"Units of α: {about['units']}; steered tokens: {about['positions']}. Audited measures after block: "
        + "; ".join(f"{to or 'none'} for edits after {layer}" for layer, to in about["downstream"].items())
        + f". Intervals: 95 %, {about['draws']} draws of texts; none is corrected for the number of rows "
        f"({len(sweep.rows)}).",
        "",
        "gain: change of the gap between virtuous and vicious scenarios. over_random: the same against random "
        "directions that have, at every token, the operated arm's norm; p_random: of the arm's best strength among "
        "theirs, the number of strengths allowed for. over_shuffled: against the operation on shuffled labels at the "
        "same strength. Of the random directions the best and the worst are shown. "
        "front: no other row, nor the unsteered model, has more gain and less KL. kl, perplexity_ratio, "
        "top_agreement, norm_share: neutral text. distinct_2, repetition: greedy continuations.",
        "",
    ]
    return "\n".join(lines)


def verdicts(rows: Iterable[SweepRow], alpha: float = 0.05) -> list[str]:
    """One sentence per operation and form: where the operated arm beats random directions of its norm, or that it does
    not. It does where the difference from their mean holds for other texts (`over_random`), and hardly any of them
    gains as much at its best strength (`p_random`)."""
    found: dict[tuple[str, int, str], list[SweepRow]] = {}
    for row in rows:
        if row.arm == "operated":
            found.setdefault((row.operation, row.layer, row.form), []).append(row)
    return [_verdict(f"- {op}, layer {layer}, form {form}: ", own, alpha) for (op, layer, form), own in found.items()]


def _verdict(what: str, own: list[SweepRow], alpha: float) -> str:
    compared = [(row, over) for row in own if (over := row.interval("over_random")) is not None]
    below = sum(high < 0 for _, (_, _, high) in compared)
    beats = [(row, value) for row, (value, low, _) in compared if low > 0]
    where = ", ".join(f"{row.alpha:g} (+{value:.3f} nats, KL {_number(row.kl)})" for row, value in beats)
    p = next((row.p_random for row, _ in compared if row.p_random is not None), None)
    if not compared:
        what += "not comparable with random directions (none was measured)"
    elif not beats:
        what += f"beats random directions of its norm at none of the {len(compared)} strengths"
    elif p is None or p > alpha:
        what += f"is above the mean of random directions of its norm at α = {where}, but "
        what += "their spread is not known" if p is None else f"as many of them gain as much that p = {_number(p)}"
    else:
        what += f"beats random directions of its norm (p = {_number(p)}) at α = {where}"
    what += f"; is below their mean at {below}" if below else ""
    failed = sum(row.error is not None for row in own)
    return what + (f"; {failed} strengths gave values that are not finite" if failed else "") + "."


def _tabled(rows: list[SweepRow]) -> list[SweepRow]:
    """All but the random directions in the middle of their place."""
    gains: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        if row.arm == "random" and row.gain is not None:
            gains.setdefault((row.operation, row.form, row.alpha), []).append(row.gain)
    ends = {place: (min(own), max(own)) for place, own in gains.items()}

    def shown(row: SweepRow) -> bool:
        at = ends.get((row.operation, row.form, row.alpha), ())
        return row.arm != "random" or row.gain is None or row.gain in at

    return [row for row in rows if shown(row)]


def _shown(row: SweepRow, name: str) -> str:
    value = getattr(row, name)
    if name in ("gain", "over_random", "over_shuffled") and (interval := row.interval(name)) is not None:
        return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)
    if name == "arm" and row.seed is not None:
        return f"{value} {row.seed}"
    if name == "alpha":
        return f"{value:g}"
    return ("yes" if value else "") if isinstance(value, bool) else value if isinstance(value, str) else _number(value)


def _number(value: float | int | None) -> str:
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"
