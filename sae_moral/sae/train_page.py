"""A training on a page: how much of vectors that it never saw each SAE rebuilds, how it got there, what shaped it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from sae_moral.report.panels import Line, Panel, panels_figure
from sae_moral.report.style import DASHED, MUTED, LineStyle, legend_line
from sae_moral.report.words import MISSING, count, percent
from sae_moral.sae.train_layer import TrainedSae
from sae_moral.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = {"train": LineStyle(MUTED, DASHED), "held_out": LineStyle("#0072B2")}
MEANINGS = (
    ("explained variance", "of vectors, all dimensions together; a few dimensions of large values can hold most of it"),
    ("per dimension", "mean over dimensions of each one's own; what curves show"),
    ("held out", "vectors of scenarios that no step was taken on"),
    ("L0", "latents that are active on a vector"),
    ("dead", "latents that are silent on all vectors, those trained on included"),
    ("loss recovered", "of the next token on held-out scenarios, from the mean (0) to the model itself (1)"),
)
PROVES = (
    "An SAE that rebuilds these scenarios need not rebuild other text, and a latent that is active need not mean "
    "anything. Where the held-out curve has turned while the other rises, fewer latents or fewer steps do better."
)


def training_page(results: Mapping[int, TrainedSae], table: Table) -> str:
    """The page as a string of HTML.

    Args:
        results: by layer, at least one.
        table: a row per layer (`TrainedSaes.cells`).
    """
    first = next(iter(results.values()))
    about = first["provenance"]
    drawn = figure(
        _curves(results),
        prefix="training",
        label="Explained variance per dimension over training steps, a panel per layer; see the table for the ends.",
        caption="Explained variance per dimension at each checkpoint.",
    )
    sections = [
        Section(
            "Do they rebuild what they never saw?",
            joined([bullets(answers(results)), data_table(table, "One row per layer")]),
            short="Answer",
        ),
        Section("How they got there", drawn) if any(one["history"] for one in results.values()) else None,
        Section("How to read it", joined([pairs(MEANINGS, "meanings"), paragraph(PROVES, "under")])),
        Section("What shaped it", tree(about), short="Provenance", folded=True),
    ]
    data = about.get("data", {})
    facts = [
        ("SAEs", count(len(results))),
        ("latents each", count(first["d_sae"])),
        ("architecture", str(about.get("settings", {}).get("architecture", MISSING))),
        ("trained on", f"{count(first['train']['n'])} {about.get('granularity', '')} vectors"),
        ("scenarios", f"{count(data.get('n'))} of {data.get('source') or 'data'}"),
    ]
    title = str(about.get("model", {}).get("name", MISSING))
    return render_page(title, [one for one in sections if one], kicker="Trained SAEs", facts=facts)


def answers(results: Mapping[int, TrainedSae]) -> list[str]:
    """Sentences: what is explained of held-out vectors, how far training vectors are ahead, how many latents died."""
    rows = list(results.values())
    ahead = [
        one["train"]["explained_variance_per_dimension"] - one["held_out"]["explained_variance_per_dimension"]
        for one in rows
        if one["train"]["explained_variance_per_dimension"] is not None
        and one["held_out"]["explained_variance_per_dimension"] is not None
    ]
    held = [one["held_out"]["explained_variance_per_dimension"] for one in rows]
    many = "The SAE explains" if len(rows) == 1 else f"The {len(rows)} SAEs explain"
    least = min(one["vectors_per_latent"] for one in rows)
    said = [
        f"{many} {_range([one['held_out']['explained_variance'] for one in rows])} of the variance of held-out vectors "
        f"({_range(held)} per dimension), measured on {count(min(one['held_out']['n'] for one in rows))} of them.",
        f"Of training vectors they explain {_points(ahead)} more per dimension; there were {least:.2g} of them for "
        "each latent." if ahead else "",
        f"{_range([one['dead_share'] for one in rows])} of the latents are dead.",
    ]  # fmt: skip
    recovered = [one["loss_recovered"]["recovered"] for one in rows if one["loss_recovered"]]
    if recovered:
        said.append(f"Put in the place of the stream they keep {_range(recovered)} of the next token's loss.")
    return [one for one in said if one]


def _range(shares: Sequence[float | None]) -> str:
    known = sorted(share for share in shares if share is not None)
    if not known:
        return MISSING
    ends = list(dict.fromkeys(percent(share) for share in (known[0], known[-1])))
    return " to ".join(ends)


def _points(differences: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{100 * one:.1f}" for one in (min(differences), max(differences)))
    return f"{' to '.join(ends)} points".replace("-", "−")


def _curves(results: Mapping[int, TrainedSae]) -> Figure:
    panels = [
        Panel(
            f"layer {layer}",
            {
                side: Line([look["step"] for look in one["history"]], [look[side] for look in one["history"]], style)
                for side, style in SIDES.items()
            },
            layers=[look["step"] for look in one["history"]],
            xlabel="step",
        )
        for layer, one in results.items()
    ]
    legend = [legend_line(name.replace("_", " "), style) for name, style in SIDES.items()]
    return panels_figure(panels, legend=[legend])
