"""SAEs of one model on a page: what encoding does to each headline, beside what another seed of training does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sae_moral.report.page import (
    Section,
    bullets,
    data_table,
    figure,
    joined,
    pairs,
    paragraph,
    render_page,
    tree,
)
from sae_moral.report.panels import WIDTH
from sae_moral.report.style import FAINT, INK, NARROW, blank_figure, grid_of
from sae_moral.report.words import count, listed, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sae_moral.studies.compared_saes import ComparedSaes, SaeComparison

MEANINGS = (
    ("stream", "the headline of the residual stream at the SAE's layer, on the same scenarios"),
    ("encoded", "the same of the SAE's latents"),
    ("difference", "encoded less stream, 95 % interval over texts"),
    ("verdict", "of the latents, against permuted labels and the baselines"),
    ("between seeds", "highest less lowest of SAEs that differ in the seed of their training alone"),
)
PROVES = (
    "Latents that show less than the stream have lost it or spread it over directions that these readers do not find; "
    "latents are more numbers than the stream has, so that readers fitted on few scenarios find less in them. A "
    "difference that another seed makes as well says nothing of the SAE."
)


def compared_page(found: ComparedSaes) -> str:
    """The page as a string of HTML."""
    first, *reseeds = found.tables()
    drawn = figure(
        differences_figure(found.rows),
        prefix="saes",
        label="Difference of encoded and stream with its interval, a panel per metric; see the table.",
        caption="Encoded less stream, 95 % interval; left of the line the latents show less.",
    )
    sections = [
        Section(
            "What does encoding do?",
            joined([bullets(answers(found.rows)), drawn, data_table(first, "One row per SAE and metric")]),
            short="Answer",
        ),
        *[Section("Other seeds", data_table(one, "SAEs that differ in their seed alone")) for one in reseeds],
        Section("How to read it", joined([pairs(MEANINGS, "meanings"), paragraph(PROVES, "under")])),
        Section(
            "What shaped it",
            tree({"model": found.model, "data": found.data, **found.options}),
            short="Provenance",
            folded=True,
        ),
    ]
    facts = [
        ("SAEs", count(len({one.sha256 for one in found.rows}))),
        ("metrics", count(len({one.metric for one in found.rows}))),
        ("other seeds", count(len({name for one in found.reseeds for name in one.reseeds}))),
    ]
    return render_page(str(found.model["name"]), sections, kicker="SAEs compared", facts=facts)


def answers(rows: Sequence[SaeComparison]) -> list[str]:
    """In how many comparisons latents show less than the stream; then a sentence per SAE: for which headlines less, for
    which more, and for which neither is shown."""
    known = [row for row in rows if row.ci_low is not None and row.ci_high is not None]
    less, more = (sum(test(row) for row in known) for test in (_less, _more))
    said = [
        f"Of {count(len(known))} comparisons of latents with the stream they encode, {count(less)} show less and "
        f"{count(more)} more (95 % intervals, not corrected)."
    ]
    for sha in dict.fromkeys(row.sha256 for row in rows):
        own = [row for row in rows if row.sha256 == sha]
        kinds: dict[str, list[str]] = {"less": [], "more": [], "unsure": [], "unknown": []}
        for row in own:
            if row.ci_low is None or row.ci_high is None:
                kinds["unknown"].append(row.metric)
                continue
            kind = "less" if _less(row) else "more" if _more(row) else "unsure"
            kinds[kind].append(f"{row.metric} ({signed(row.difference)} [{signed(row.ci_low)}, {signed(row.ci_high)}])")
        words = {
            "less": "shows less than the stream it encodes for",
            "more": "shows more for",
            "unsure": "cannot be told from it for",
            "unknown": "was not compared for",
        }
        parts = [f"{words[kind]} {listed(names)}" for kind, names in kinds.items() if names]
        said.append(f"{own[0].sae} (layer {own[0].layer}) {'; '.join(parts)}.")
    return said


def _less(row: SaeComparison) -> bool:
    return row.ci_high is not None and row.ci_high < 0


def _more(row: SaeComparison) -> bool:
    return row.ci_low is not None and row.ci_low > 0


def differences_figure(rows: Sequence[SaeComparison], *, width: float = WIDTH) -> Figure:
    """Encoded less stream, with its interval: a panel per metric, a line per SAE. `width`: in inches."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    saes = list(dict.fromkeys((row.sha256, row.layer, row.sae) for row in rows))
    columns = 1 if width < NARROW else len(metrics)
    drawn = blank_figure(width, (0.9 + 0.28 * len(saes)) * len(metrics) / columns)
    panels = grid_of(drawn, len(metrics), columns, sharey=True)
    for axes, metric in zip(panels, metrics, strict=True):
        for row in rows:
            if row.metric != metric or row.difference is None:
                continue
            y = saes.index((row.sha256, row.layer, row.sae))
            if row.ci_low is not None and row.ci_high is not None:
                axes.plot([row.ci_low, row.ci_high], [y, y], color=INK, linewidth=1.2)
            axes.plot([row.difference], [y], marker="o", markersize=4, color="#0072B2")
        axes.axvline(0, color=FAINT, linewidth=0.8)
        axes.set_title(metric, fontsize=8.5, loc="left", color=INK)
        axes.tick_params(labelsize=7.5)
        axes.set_ylim(len(saes) - 0.5, -0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(saes)), [f"{_short(name)} L{layer}" for _, layer, name in saes])
    return drawn


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"
