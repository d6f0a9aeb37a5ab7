"""The page's section on controls, and what its first glance says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from sae_moral.report.control_tables import ceiling_table, comparison_table, peak_table
from sae_moral.report.control_words import limits, names_words, reliabilities, settings
from sae_moral.report.glance import Glance
from sae_moral.report.judged import VERDICTS, about_length, names_not_run
from sae_moral.report.old_tables import Table
from sae_moral.report.profiles import explained_figure
from sae_moral.report.svg import inline_svg


@dataclass(frozen=True)
class ControlSection:
    """What the template shows.

    Attributes:
        ran: whether any control was.
        not_run: a sentence; empty where all were.
        about_length: metrics whose verdict is sentence length.
        meanings: verdict, sign, tone and meaning of every verdict in the page.
        null, takes_length_out: whether labels were permuted, and whether the protocol takes length out.
    """

    ran: bool
    not_run: str
    missing: list[str]
    about_length: list[str]
    meanings: list[tuple[str, str, str, str]] = field(default_factory=list)
    peaks: Table | None = None
    comparisons: Table | None = None
    ceilings: Table | None = None
    reliabilities: list[str] = field(default_factory=list)
    explained: Markup | None = None
    settings: list[str] = field(default_factory=list)
    limits: list[tuple[str, str]] = field(default_factory=list)
    null: bool = False
    takes_length_out: bool = False


def control_section(
    rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any], cards: Sequence[Glance]
) -> ControlSection:
    """From the rows, `Diagnosis.provenance` and the cards of the metrics."""
    controls: Mapping[str, Any] = provenance.get("controls") or {}
    if not controls.get("names"):
        return ControlSection(False, names_words(None), [], [])
    best = {card.metric: card.best for card in cards if card.best is not None}
    ceilings = ceiling_table(rows, {metric: one.layer for metric, one in best.items()})
    seen = {card.verdict.word for card in cards if card.verdict is not None}
    steps = (provenance.get("protocol") or {}).get("preprocessing") or ()
    return ControlSection(
        ran=True,
        not_run=names_words(controls),
        missing=names_not_run(controls),
        about_length=about_length(controls),
        meanings=[(word, sign, tone, words) for word, (tone, sign, words) in VERDICTS.items() if word in seen],
        peaks=_filled(peak_table(controls, {metric: one.row["ceiling"] for metric, one in best.items()})),
        comparisons=_filled(comparison_table(controls)),
        ceilings=_filled(ceilings),
        reliabilities=reliabilities(provenance.get("ceilings")),
        explained=_explained(provenance, controls),
        settings=settings(controls),
        limits=limits(controls, ceiling=bool(ceilings.rows)),
        null="null" in controls["names"],
        takes_length_out="remove_length" in steps,
    )


def _filled(table: Table) -> Table | None:
    return table if table.rows else None


def _explained(provenance: Mapping[str, Any], controls: Mapping[str, Any]) -> Markup | None:
    shares, layers = controls.get("explained_by_nuisance"), [int(layer) for layer in provenance.get("layers") or []]
    if not shares or not layers:
        return None
    total = [share for share in shares.get("all") or [] if share is not None]
    words = f" All together: {100 * min(total):.0f} % to {100 * max(total):.0f} %." if total else ""
    label = f"Line figure: share of the vectors’ variance explained by {', '.join(shares)}, by layer.{words}"
    return inline_svg(explained_figure(layers, shares), prefix="explained", label=label)
