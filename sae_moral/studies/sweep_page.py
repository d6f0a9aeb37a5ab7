"""A sweep on a page and on the terminal: which twins operations are beyond, effect against damage, every arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from sae_moral.steering.words import USES
from sae_moral.studies.beyond import TOGETHER, Beyond, sentence
from sae_moral.studies.sweep_results import ARMS, Operated, SweepProvenance, SweepRow, Unsteered, WordEffect
from sae_moral.tables import Table, table, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = {
    "operated": "#D55E00",
    "shuffled": "#CC79A7",
    "random latents": "#8c564b",
    "rotated": "#6b7280",
    "permuted": "#bcbd22",
    "dense": "#0072B2",
    "valence": "#009E73",
    "constant": "#56B4E9",
    "pretrained": "#E69F00",
}
MARKS: dict[str, str] = dict(zip(ARMS, "osPxv^D<*", strict=True))
CHOSEN, HELD_OUT = USES[:2]
ARM: dict[str, Callable[[SweepRow], str]] = {
    "layer": lambda row: str(row.layer),
    "form": lambda row: row.form,
    "KL asked": lambda row: MISSING if row.kl_asked is None else f"{row.kl_asked:g}",
    "arm": lambda row: row.arm if row.seed is None else f"{row.arm} {row.seed}",
}
EFFECTS: dict[str, Callable[[SweepRow], str]] = {
    "AUROC, held-out words": lambda row: _change(row.effect(HELD_OUT)),
    "AUROC, chosen words": lambda row: _change(row.effect(CHOSEN)),
    "gap (nats)": lambda row: _of(row.effect(HELD_OUT) or _first(row), "gap_change"),
    "pushed wrong": lambda row: _of(row.effect(HELD_OUT), "pushed_wrong"),
    "categorical": lambda row: signed(row.categorical_change),
    "gradient": lambda row: signed(row.gradient_change),
    "α": lambda row: number(row.alpha),
    "KL": lambda row: number(row.kl),
    "perplexity ratio": lambda row: number(row.perplexity_ratio),
    "top agreement": lambda row: number(row.top_agreement),
    "norm share": lambda row: number(row.norm_share),
    "repetition": lambda row: number(row.repetition),
    "error": lambda row: row.error or MISSING,
}
AGAINST: dict[str, Callable[[Beyond], str]] = {
    "layer": lambda one: str(one.layer),
    "form": lambda one: one.form,
    "at": lambda one: f"KL {one.kl:g}" if one.kl is not None else f"α {number(one.alpha)}",
    "words": lambda one: f"{one.wording}, {one.use.replace('_', ' ')}",
    "twin": lambda one: f"{one.twin} ({MISSING if one.twins is None else one.twins})",
}
COMPARED: dict[str, Callable[[Beyond], str]] = {
    "operated − twin": lambda one: f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]",
    "of": lambda one: one.statistic,
    "p": lambda one: p_value(one.p),
    "p, layers": lambda one: p_value(one.p_corrected),
    "beyond": lambda one: "yes" if one.holds else "not shown",
}
OPERATION: dict[str, Callable[[Operated], str]] = {
    "after block": lambda one: str(one["layer"]),
    "seed": lambda one: str(one["seed"]),
    "read": lambda one: ", ".join(f"{name} {len(own)}" for name, own in one["latents"].items()),
    "written": lambda one: ", ".join(one["writes"]) or "nothing",
}
OPERATED: dict[str, Callable[[Operated], str]] = {
    "latents": lambda one: str(len({latent for own in one["latents"].values() for latent in own})),
    "they read the pole at AUROC": lambda one: " → ".join(number(value) for value in one["reading"]) or MISSING,
}
MEANINGS = (
    ("AUROC", "chance that a virtuous scenario's margin of approving over disapproving words is above a vicious one's"),
    ("held-out words", "pairs that nothing was learnt from, all wordings of the first language together"),
    ("operated − twin", "mean over operations less the mean over twins; 95 % interval over texts and over seeds"),
    ("p", "rank of the operations among 19 or more twins; p, layers: among each twin's highest layer"),
    ("beyond", "the interval is above 0, and p, corrected, not above 0.05 where there is one"),
    ("pushed wrong", "share of scenarios whose margin moved in the wrong direction"),
    ("categorical, gradient", "change of the audited headline behind the edit"),
    ("KL, perplexity ratio, top agreement, norm share", "on neutral text, against the unsteered model"),
)


def sweep_page(rows: Sequence[SweepRow], beyond: Sequence[Beyond], base: Unsteered, about: SweepProvenance) -> str:
    """The page: sentences first, then the figure, the tables, and what shaped it."""
    behind = "; ".join(
        f"{', '.join(map(str, to)) or 'none'} for edits after {layer}" for layer, to in about["downstream"].items()
    )
    drawn = figure(
        damage_figure(rows),
        prefix="sweep",
        label="Change of the AUROC against damage on neutral text, one point per arm and strength",
        caption="Change of the AUROC of the margin against KL on neutral text; grey crosses: rotated writes.",
    )
    operated = about.get("operated", [])  # version 0.1 does not say
    plain = table(base.words, {"words": lambda one: f"{one.wording}, {one.use.replace('_', ' ')}"}, _UNSTEERED)
    sections = [
        Section(
            "Are operations beyond their twins?",
            joined(
                [
                    bullets(verdicts(rows, beyond)),
                    paragraph(_asked(about), "under"),
                    *([data_table(table(operated, OPERATION, OPERATED), "Read and written")] if operated else []),
                    data_table(beyond_table(beyond), "Against every twin"),
                ]
            ),
            short="Verdicts",
        ),
        Section("Effect against damage", drawn),
        Section("Arms and strengths", data_table(table(_without_middle(rows), ARM, EFFECTS), "", tall=True)),
        Section(
            "Words",
            joined(
                [
                    data_table(plain, "The model without steering"),
                    folded_table(_every_word(rows), "All arms", "Every arm, strength and wording"),
                    folded_table(table(beyond, AGAINST, COMPARED), "All comparisons", "Every wording and use"),
                ]
            ),
        ),
        Section(
            "How to read it",
            joined([pairs(MEANINGS, "meanings"), paragraph(f"{about['draws']} draws of texts and seeds.", "under")]),
        ),
        Section("What shaped it", tree(about), short="Provenance", folded=True),
    ]
    facts = [
        ("scenarios", f"{about['n']} held out of {about['source']}"),
        ("steered tokens", about["positions"]),
        ("audited headlines after block", behind),
    ]
    return render_page(about["model"]["name"], sections, kicker="Steering sweep", facts=facts)


_UNSTEERED: dict[str, Callable[[WordEffect], str]] = {
    "pairs": lambda one: str(one.pairs),
    "AUROC": lambda one: number(one.auroc),
    "gap (nats)": lambda one: number(one.gap),
}


def _asked(about: SweepProvenance) -> str:
    """Which words, after which wordings; nothing of sweeps that do not say."""
    if not (words := about.get("words")):
        return ""
    said = []
    for use, what in ((HELD_OUT, "Held-out words"), (CHOSEN, "Chosen words")):
        pairs = ["/".join(w.strip() for w in one["pair"]) for one in words["scores"] if one["use"] == use]
        said.append(f"{what}: {', '.join(dict.fromkeys(pairs)) or 'none'}.")
    names = [one["name"] + (" (held out)" if one["held_out"] else "") for one in words["wordings"]]
    return f"{' '.join(said)} After the wordings {', '.join(names)}."


def beyond_table(beyond: Sequence[Beyond]) -> Table:
    """Operations against every twin: held-out words of all wordings together, or what there is."""
    main = [one for one in beyond if (one.wording, one.use) == (TOGETHER, HELD_OUT)]
    return table(main or beyond, AGAINST, COMPARED)


def sweep_summary(rows: Sequence[SweepRow], beyond: Sequence[Beyond]) -> str:
    """The sentences and the comparisons, for the terminal."""
    lines = [line for said in verdicts(rows, beyond) for line in wrapped("- ", said)]
    made = beyond_table(beyond)
    return "\n".join([*lines, "", text_table([made.header, *made.rows])])


def verdicts(rows: Sequence[SweepRow], beyond: Sequence[Beyond]) -> list[str]:
    """A sentence per layer, form and damage: the effect, and which twins it is beyond."""
    found = []
    for place in dict.fromkeys(row.place for row in rows if row.arm == "operated"):
        own = [row for row in rows if row.place == place and row.arm == "operated"]
        failed = sum(row.error is not None for row in own)
        changes = [one.auroc_change for row in own if (one := row.effect(HELD_OUT)) and one.auroc_change is not None]
        said = [sentence(beyond, place, HELD_OUT, changes)] if place[2] is not None else []
        if failed:
            said.append(f"No numbers of {failed} of {len(own)} operations.")
        found += [" ".join(said)] if said else []
    return found or ["Operations were not compared with twins at equal damage; expected kls."]


def damage_figure(rows: Sequence[SweepRow]) -> Figure:
    """Change of the AUROC of chosen and of held-out words against KL on neutral text."""
    drawn = blank_figure(10, 4.4)
    for axes, use in zip(grid_of(drawn, 2, 2), (HELD_OUT, CHOSEN), strict=True):
        for arm, colour in COLOURS.items():
            own = [
                (row, effect)
                for row in rows
                if row.arm == arm and row.kl is not None and (effect := row.effect(use)) and effect.auroc is not None
            ]
            x, y = numbers(row.kl for row, _ in own), numbers(effect.auroc_change for _, effect in own)
            axes.scatter(x, y, s=24, color=colour, marker=MARKS[arm], label=f"{arm} ({len(own)})" if own else None)
            for row, across, up in zip((row for row, _ in own), x, y, strict=True) if arm == "operated" else ():
                axes.annotate(f"L{row.layer}", (across, up), fontsize=6, color=INK)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_xscale("symlog", linthresh=1e-4)
        axes.set_xlim(0, 3 * max((row.kl for row in rows if row.kl is not None), default=1.0) or 1.0)
        axes.set_xlabel("KL(unsteered ‖ steered) on neutral text, nats per token")
        axes.set_ylabel(f"AUROC, {use.replace('_', '-')} words, change")
    if drawn.axes[0].get_legend_handles_labels()[1]:
        drawn.axes[0].legend(fontsize=7, frameon=False)
    return drawn


def _every_word(rows: Sequence[SweepRow]) -> Table:
    every = [(row, one) for row in rows for one in row.words]
    keys = {name: (lambda both, of=of: of(both[0])) for name, of in ARM.items()}
    values: dict[str, Callable[[tuple[SweepRow, WordEffect]], str]] = {
        "words": lambda both: f"{both[1].wording}, {both[1].use.replace('_', ' ')}",
        "AUROC": lambda both: number(both[1].auroc),
        "change": lambda both: _change(both[1]),
        "gap (nats)": lambda both: signed(both[1].gap_change),
        "gap / sd": lambda both: signed(both[1].gap_sd_change),
        "pushed wrong": lambda both: number(both[1].pushed_wrong),
    }
    return table(every, keys, values)


def _without_middle(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """All but the rotated writes in the middle of their place."""

    def change(row: SweepRow) -> float | None:
        effect = row.effect(HELD_OUT)
        return None if effect is None else effect.auroc_change

    ends: dict[object, set[float]] = {}
    for place in {row.place for row in rows if row.arm == "rotated"}:
        known = [x for row in rows if (row.place, row.arm) == (place, "rotated") and (x := change(row)) is not None]
        ends[place] = {min(known), max(known)} if known else set()
    return [row for row in rows if row.arm != "rotated" or change(row) is None or change(row) in ends[row.place]]


def _first(row: SweepRow) -> WordEffect | None:
    return row.words[0] if row.words else None


def _change(effect: WordEffect | None) -> str:
    if effect is None or effect.auroc_change is None:
        return MISSING
    return f"{signed(effect.auroc_change)} [{signed(effect.auroc_low)}, {signed(effect.auroc_high)}]"


def _of(effect: WordEffect | None, name: str) -> str:
    value = None if effect is None else getattr(effect, name)
    return MISSING if value is None else signed(value) if name.endswith("change") else number(value)
