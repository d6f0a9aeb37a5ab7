"""An operation on a page: what its latents read before and after, what it cost, what was written, what shaped it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from sae_moral.report.panels import Line, Panel, panels_figure
from sae_moral.report.style import DASHED, MUTED, LineStyle, legend_line
from sae_moral.report.words import count, listed, number, percent, signed
from sae_moral.results import OVERALL
from sae_moral.surgery.record import Change, SurgeryRecord
from sae_moral.tables import Table, table

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

SIDES = {"train": LineStyle(MUTED, DASHED), "validation": LineStyle("#0072B2")}
MEANINGS = (
    ("reading", "chance that the latents together are higher for a virtuous scenario than for a vicious one"),
    ("polarity", "the same within each foundation (auroc), and by how much in units of the latents (margin)"),
    ("ordering", "how well a dimension's latents order scenarios by how typical people call them (accuracy, spearman)"),
    ("the rest", "explained variance, reconstruction error and l0 of the whole SAE"),
    (
        "change",
        "after less before, on the same draws; 95 % interval over texts that took no part, this operation given",
    ),
)
PROVES = (
    "That latents read labels says nothing of what the model does: decoder rows change it only as far as something was "
    "written. Whether it acts otherwise, and beyond twins, is what sae-moral sweep measures."
)


def operation_page(name: str, latents: Mapping[str, Sequence[int]], operated: int, record: SurgeryRecord) -> str:
    """The page as a string of HTML.

    Args:
        name: of the operation.
        latents: by dimension; `operated`: how many there are.
        record: what it says of itself.
    """
    overall = [row for row in record.table if row["group"] == OVERALL]
    groups = [row for row in record.table if row["group"] != OVERALL]
    listed_latents = [(dimension, ", ".join(map(str, own))) for dimension, own in latents.items()]
    answer = [bullets(answers(operated, record))]
    answer += [data_table(_changes(overall, of=False), "On scenarios that took no part")] if overall else []
    every = _changes(groups, of=True)
    sections = [
        Section("What do its latents read, and what was written?", joined(answer), short="Answer"),
        Section("Training", _training(record)) if record.history else None,
        Section(
            "Latents",
            joined(
                [
                    pairs(listed_latents, "meanings"),
                    folded_table(every, "By dimension and foundation", "Every group") if groups else "",
                ]
            ),
        ),
        Section("How to read it", joined([pairs(MEANINGS, "meanings"), paragraph(PROVES, "under")])),
        Section("What shaped it", tree(_provenance(record)), short="Provenance", folded=True),
    ]
    facts = [
        ("SAE", record.source),
        ("latents", count(operated)),
        ("weights changed", percent(record.weights["share_changed"])),
        ("control", record.control),
        ("seed", str(record.seed)),
    ]
    kept = [one for one in sections if one]
    return render_page(name, kept, kicker="Operation", facts=[one for one in facts if one[1]])


def answers(operated: int, record: SurgeryRecord) -> list[str]:
    """Sentences: what so many latents read, at which cost, and what was written."""
    of = {row["statistic"]: row for row in record.table if row["group"] == OVERALL}
    said = []
    if (reading := of.get("reading_auroc")) and reading["after"] is not None:
        said.append(
            f"{operated} latents read virtue from vice with an AUROC of {number(reading['after'])} on "
            f"{count(reading['n'])} texts that took no part; before surgery with {number(reading['before'])} "
            f"({_interval(reading)})."
        )
    error = of.get("reconstruction_error")
    if error and error["before"] and error["after"] is not None:
        change = f"{signed(100 * (error['after'] / error['before'] - 1))} %"
        allowed = record.settings.get("tolerance")
        said.append(
            f"Its reconstruction error changed by {change}"
            + ("." if allowed is None else f", where training stops at {percent(allowed)} on its own validation part.")
        )
    if record.written:
        said.append(
            f"Decoder rows gained what {listed(list(record.written['writes']))} writes; the longest row is "
            f"{number(record.written['longest'])} times as long as before."
        )
    else:
        said.append(
            "Nothing was written: the operation reads, and changes the model only as far as its edit happens to."
        )
    if record.control != "none":
        said.append(f"It is a control ({record.control}): what it shows is what surgery shows of anything.")
    return said


def _changes(rows: list[Change], *, of: bool) -> Table:
    keys: dict[str, Callable[[Change], str]] = {"statistic": lambda row: row["statistic"].replace("_", " ")}
    return table(
        rows,
        {**keys, "of": lambda row: row["group"]} if of else keys,
        {
            "before": lambda row: number(row["before"]),
            "after": lambda row: number(row["after"]),
            "change (95 % interval)": _interval,
            "texts": lambda row: count(row["n"]),
        },
    )


def _interval(row: Change) -> str:
    return f"{signed(row['change'])} [{signed(row['ci_low'])}, {signed(row['ci_high'])}]"


def _training(record: SurgeryRecord) -> Markup:
    stopped = record.stopped
    end = (
        ""
        if stopped is None
        else f"Epoch {stopped['kept_epoch']} of {stopped['epochs']} was kept: {stopped['reason']}."
    )
    drawn = figure(
        _curves(record),
        prefix="surgery",
        label="Terms of the loss over epochs, on training and on validation scenarios.",
        caption="Terms of the loss by epoch, unweighted, and their weighted sum.",
    )
    return joined([drawn, paragraph(end, "under")])


def _curves(record: SurgeryRecord) -> Figure:
    epochs = [one["epoch"] for one in record.history]
    by_side = {
        "train": [one["train"] for one in record.history],
        "validation": [one["validation"] for one in record.history],
    }
    names = sorted(record.history[-1]["validation"], key=lambda name: name != "total")
    panels = [
        Panel(
            name,
            {
                side: Line(epochs, [None if one is None else one.get(name) for one in by_side[side]], style)
                for side, style in SIDES.items()
            },
            layers=epochs,
            xlabel="epoch",
        )
        for name in names
    ]
    return panels_figure(panels, columns=4, legend=[[legend_line(side, style) for side, style in SIDES.items()]])


def _provenance(record: SurgeryRecord) -> dict[str, object]:
    """Without what the page shows, and hashes of every text."""
    shown = ("table", "history", "learnt_from", "scale", "scale_after", "opened")
    return {name: value for name, value in dataclasses.asdict(record).items() if name not in shown}
