"""A sweep on a page and on the terminal: where operations beat random directions, gain against damage, every arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sae_moral.report.page import (
    Section,
    bullets,
    data_table,
    figure,
    folded_table,
    joined,
    pairs,
    paragraph,
    render_page,
    tree,
)
from sae_moral.report.style import FAINT, INK, blank_figure, grid_of, numbers
from sae_moral.report.words import MISSING, number, p_value, signed, wrapped
from sae_moral.studies.sweep_results import ARMS, SweepProvenance, SweepRow, Unsteered
from sae_moral.tables import Table, table, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = dict(zip(ARMS, ("#D55E00", "#CC79A7", "#0072B2", "#6b7280", "#E69F00"), strict=True))
MARKS: dict[str, str] = dict(zip(ARMS, "os^xD", strict=True))
PANELS = (
    ("gain", "gap of the acceptability margin, change (nats)"),
    ("categorical_change", "categorical (audited, downstream), change"),
    ("gradient_change", "gradient (audited, downstream), change"),
)
Words = Callable[[SweepRow], str]
PLACE: dict[str, Words] = {
    "layer": lambda row: str(row.layer),
    "form": lambda row: row.form,
    "α": lambda row: f"{row.alpha:g}",
}
KEYS: dict[str, Words] = {
    **PLACE,
    "arm": lambda row: row.arm if row.seed is None else f"{row.arm} {row.seed}",
}
EFFECTS: dict[str, Words] = {
    "gain": lambda row: _interval(row, "gain"),
    "over random": lambda row: _interval(row, "over_random"),
    "p random": lambda row: p_value(row.p_random),
    "over shuffled": lambda row: _interval(row, "over_shuffled"),
}
HEADLINES: dict[str, Words] = {
    "categorical": lambda row: signed(row.categorical_change),
    "p categorical": lambda row: p_value(row.p_categorical),
    "gradient": lambda row: signed(row.gradient_change),
    "p gradient": lambda row: p_value(row.p_gradient),
}
DAMAGE: dict[str, Words] = {
    "KL": lambda row: number(row.kl),
    "perplexity ratio": lambda row: number(row.perplexity_ratio),
    "top agreement": lambda row: number(row.top_agreement),
    "norm share": lambda row: number(row.norm_share),
    "distinct-2": lambda row: number(row.distinct_2),
    "repetition": lambda row: number(row.repetition),
}
ENDS: dict[str, Words] = {
    "front": lambda row: "yes" if row.front else MISSING,
    "error": lambda row: "not finite" if row.error else MISSING,
}
EVERYTHING = {**EFFECTS, **HEADLINES, **DAMAGE, **ENDS}
MEANINGS = (
    ("gain", "change of the gap between virtuous and vicious scenarios, in nats, with its interval over texts"),
    ("over random", "gap above the mean of random directions that have, at every token, the operated arm's norm"),
    ("p random", "of the arm's best strength among theirs, the number of strengths allowed for"),
    ("over shuffled", "gap above the operation on shuffled labels at the same strength"),
    (
        "categorical, gradient",
        "change of the audited headline behind the edit; p as for the gain, where measured",
    ),
    ("KL, perplexity ratio, top agreement, norm share", "on neutral text, against the unsteered model"),
    ("distinct-2, repetition", "of greedy continuations"),
    ("front", "no other row, nor the unsteered model, has more gain and less KL"),
)


def sweep_page(rows: Sequence[SweepRow], base: Unsteered, about: SweepProvenance) -> str:
    """The page: sentences first, then the figure, the tables, and what shaped it."""
    behind = "; ".join(
        f"{', '.join(map(str, to)) or 'none'} for edits after {layer}" for layer, to in about["downstream"].items()
    )
    alike = f"{number(base.gap)} [{number(base.gap_low)}, {number(base.gap_high)}] nats"
    notes = (
        f"Intervals: 95 %, {about['draws']} draws of texts; none is corrected for the number of rows "
        f"({len(rows)}). Of the random directions the best and the worst are shown."
    )
    drawn = figure(
        pareto_figure(rows),
        prefix="sweep",
        label="Three effects against damage on neutral text, one point per arm and strength",
        caption="Three effects against KL on neutral text; the line joins the rows that no other row dominates.",
    )
    shown = data_table(table(_without_middle(rows), KEYS, EVERYTHING), "", tall=True)
    every = table(rows, {"operation": lambda row: row.operation, **KEYS}, EVERYTHING)
    sections = [
        Section(
            "Does an operation do more than a random direction?",
            joined([bullets(verdicts(rows)), paragraph(f"Unsteered gap of the acceptability margin: {alike}.")]),
            short="Verdicts",
        ),
        Section("Effect against damage", drawn),
        Section(
            "Arms and strengths",
            joined([shown, paragraph(notes, "under"), folded_table(every, "All rows", "Every arm at every strength")]),
        ),
        Section("How to read it", pairs(MEANINGS, "meanings")),
        Section("What shaped it", tree(about), short="Provenance"),
    ]
    facts = [
        ("scenarios", f"{about['n']} held out of {about['source']}"),
        ("units of α", about["units"]),
        ("steered tokens", about["positions"]),
        ("audited headlines after block", behind),
    ]
    return render_page(about["model"]["name"], sections, kicker="Steering sweep", facts=facts)


def operated_table(rows: Sequence[SweepRow]) -> Table:
    """The operated arms at every strength."""
    operated = [row for row in rows if row.arm == "operated"]
    return table(operated, {"operation": lambda row: row.operation, **PLACE}, {**EFFECTS, "KL": DAMAGE["KL"], **ENDS})


def sweep_summary(rows: Sequence[SweepRow]) -> str:
    """The sentences and a table of the operated arms, for the terminal."""
    lines = [line for sentence in verdicts(rows) for line in wrapped("- ", sentence)]
    made = operated_table(rows)
    return "\n".join([*lines, "", text_table([made.header, *made.rows])])


def pareto_figure(rows: Sequence[SweepRow]) -> Figure:
    """Three effects against KL on neutral text; the front of gain and KL as a line, each operated point with its α."""
    drawn = blank_figure(13, 4.2)
    for axes, (effect, label) in zip(grid_of(drawn, len(PANELS), len(PANELS)), PANELS, strict=True):
        for arm, colour in COLOURS.items():
            own = [row for row in rows if row.arm == arm and None not in (getattr(row, effect), row.kl)]
            x, y = numbers(row.kl for row in own), numbers(getattr(row, effect) for row in own)
            axes.scatter(x, y, s=22, color=colour, marker=MARKS[arm], label=f"{arm} ({len(rows)})")
            if effect == "gain" and arm == "operated":
                axes.errorbar(x, y, yerr=gain_error(own), fmt="none", ecolor=colour, linewidth=0.8)
            for row, across, up in zip(own, x, y, strict=True) if arm == "operated" else ():
                axes.annotate(f"L{row.layer} α {row.alpha:g}", (across, up), fontsize=6, color=INK)
        if effect == "gain":
            front = sorted((row.kl, row.gain) for row in rows if row.front)
            axes.plot(*zip((0.0, 0.0), *front, strict=True), color=INK, linewidth=0.8, label="front")
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_xscale("symlog", linthresh=1e-4)
        axes.set_xlim(left=0)
        axes.set_xlabel("KL(unsteered ‖ steered) on neutral text, nats per token")
        axes.set_ylabel(label)
    drawn.axes[0].legend(fontsize=7, frameon=False)
    return drawn


def gain_error(rows: Sequence[SweepRow]) -> list[list[float]]:
    """How far the intervals of the gains reach below and above, of rows that have one."""
    known = [interval for row in rows if (interval := row.interval("gain")) is not None]
    return [[value - low for value, low, _ in known], [high - value for value, _, high in known]]


def verdicts(rows: Iterable[SweepRow], alpha: float = 0.05) -> list[str]:
    """One sentence per operation and form: where the operated arm beats random directions of its norm, or that it does
    not. It does where the difference from their mean holds for other texts (`over_random`), and hardly any of them
    gains as much at its best strength (`p_random`)."""
    found: dict[tuple[str, int, str], list[SweepRow]] = {}
    for row in rows:
        if row.arm == "operated":
            found.setdefault((row.operation, row.layer, row.form), []).append(row)
    return [_verdict(f"{op}, layer {layer}, form {form}: ", own, alpha) for (op, layer, form), own in found.items()]


def _verdict(what: str, own: list[SweepRow], alpha: float) -> str:
    compared = [(row, over) for row in own if (over := row.interval("over_random")) is not None]
    below = sum(high < 0 for _, (_, _, high) in compared)
    beats = [(row, value) for row, (value, low, _) in compared if low > 0]
    at = ", ".join(f"{row.alpha:g} (+{value:.3f} nats, KL {_short(row.kl)})" for row, value in beats)
    p = next((row.p_random for row, _ in compared if row.p_random is not None), None)
    if not compared:
        what += "not comparable with random directions (none was measured)"
    elif not beats:
        what += f"beats random directions of its norm at none of the {len(compared)} strengths"
    elif p is None or p > alpha:
        what += f"is above the mean of random directions of its norm at α = {at}, but "
        what += "their spread is not known" if p is None else f"as many of them gain as much that p = {_short(p)}"
    else:
        what += f"beats random directions of its norm (p = {_short(p)}) at α = {at}"
    what += f"; is below their mean at {below}" if below else ""
    failed = sum(row.error is not None for row in own)
    return what + (f"; values were not finite at {failed} of {len(own)} strengths" if failed else "") + "."


def _without_middle(rows: Sequence[SweepRow]) -> list[SweepRow]:
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


def _interval(row: SweepRow, name: str) -> str:
    interval = row.interval(name)
    if interval is None:
        return MISSING
    value, low, high = map(signed, interval)
    return f"{value} [{low}, {high}]"


def _short(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"
