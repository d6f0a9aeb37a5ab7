"""The moral latents of one or more SAEs as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sae_moral.foundations import DIMENSIONS
from sae_moral.io import write_text
from sae_moral.report.page import resource
from sae_moral.report.sae_figures import fractions_figure, polarity_figure
from sae_moral.report.svg import inline_svg
from sae_moral.report.words import MISSING, count, interval, number
from sae_moral.sae.moral_latents import MoralLatents

TokensOf = Mapping[int, Mapping[int, Mapping[str, list[tuple[str, float]]]]]
"""layer → latent → text → its tokens with the latent's activation there."""
LATENTS_PER_DIMENSION = 5
SCENARIOS = 4


def write_sae_report(found: Mapping[int, MoralLatents], path: str | Path, *, tokens: TokensOf | None = None) -> Path:
    """Write the page and return its path; in an existing folder, `latents.html`. Never half a page.

    Args:
        found: by layer; all of one model and one source of scenarios.
        path: the file to write.
        tokens: activations by token of the scenarios shown (`shown_latents` says which); without it they stand as they
            are.

    Raises:
        ValueError: nothing to show, or results of different data.
    """
    target = Path(path)
    target = target / "latents.html" if target.is_dir() else target
    html = render_sae(found, tokens or {})
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html)
    return target


def shown_latents(found: MoralLatents) -> list[int]:
    """The latents whose scenarios the page shows: the first of every dimension."""
    return sorted({latent for d in DIMENSIONS for latent in found.latents(d, limit=LATENTS_PER_DIMENSION)})


def render_sae(found: Mapping[int, MoralLatents], tokens: TokensOf) -> str:
    """The page as a string of HTML."""
    if not found:
        raise ValueError("no moral latents given; expected those of at least one SAE")
    if len({one.provenance["data"]["sha256"] for one in found.values()}) > 1:
        raise ValueError("these moral latents are of different scenarios; expected one page per source")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(resource),
    )  # fmt: skip
    first = next(iter(found.values()))
    fractions = {layer: one.fractions() for layer, one in sorted(found.items())}
    return environment.get_template("sae.html.j2").render(
        title=str(first.sae["model_name"] or first.provenance["capture"]["model"]["name"]),
        facts=_facts(first, found),
        fractions=[_fraction_row(layer, found[layer], row) for layer, row in fractions.items()],
        fractions_figure=inline_svg(
            fractions_figure(found), prefix="fractions", label="Moral latents by layer and dimension; see the table."
        ),
        counts=[(layer, [len(found[layer].latents(d)) for d in DIMENSIONS]) for layer in sorted(found)],
        dimensions=DIMENSIONS,
        layers=[_layer(found[layer], tokens.get(layer, {})) for layer in sorted(found)],
        css=Markup(resource("report.css")),
    )


def _facts(first: MoralLatents, found: Mapping[int, MoralLatents]) -> list[tuple[str, str]]:
    data, n = first.provenance["data"], first.provenance["n"]
    return [
        ("SAEs", count(len(found))),
        ("latents each", count(len(first))),
        ("architecture", str(first.sae.get("architecture", MISSING))),
        ("read by", str(first.provenance["capture"]["granularity"])),
        ("scenarios", f"{data['n']:,} of {data.get('source', 'data')}"),
        ("selected on", f"{n['selection_texts']:,} texts"),
        ("reported on", f"{n['report_texts']:,} other texts"),
    ]


def _fraction_row(layer: int, found: MoralLatents, shares: Mapping[str, float | None]) -> dict[str, str]:
    def percent(name: str) -> str:
        value = shares[name]
        return MISSING if value is None else f"{100 * value:.2f} %"

    return {
        "layer": str(layer),
        "source": str(found.sae["source"]),
        "sha256": str(found.sae["sha256"])[:12],
        **{name: percent(name) for name in shares},
    }


def _layer(found: MoralLatents, tokens: Mapping[int, Mapping[str, list[tuple[str, float]]]]) -> dict[str, Any]:
    rows = {row["latent"]: row for row in found.rows(shown_latents(found))}
    dimensions = []
    for name in DIMENSIONS:
        chosen = found.latents(name, limit=LATENTS_PER_DIMENSION)
        if chosen:
            cards = [_card(found, rows[latent], tokens.get(latent, {})) for latent in chosen]
            dimensions.append({"name": name, "total": len(found.latents(name)), "latents": cards})
    label = f"Scatter figures: correlation of each moral latent of layer {found.layer} with virtue and vice."
    figure = inline_svg(polarity_figure(found), prefix=f"polarity{found.layer}", label=label) if dimensions else None
    return {"layer": found.layer, "source": found.sae["source"], "dimensions": dimensions, "polarity": figure}


def _card(found: MoralLatents, row: Mapping[str, Any], tokens: Mapping[str, list[tuple[str, float]]]) -> dict[str, Any]:
    link = found.sae.get("neuronpedia_id")
    top = found.top.get(str(row["latent"]), [])[:SCENARIOS]
    return {
        "latent": row["latent"],
        "link": f"https://www.neuronpedia.org/{link}/{row['latent']}" if link else None,
        "classes": f"{row['audited_class']}; by the paper's rule {row['paper_class']}",
        "replicated": row["replicated"],
        "numbers": [
            ("partial r, held out", f"{number(row['partial_r'])} ({interval(row['ci_low'], row['ci_high'])})"),
            ("AUROC", number(row["auroc"])),
            ("prototypicality", number(row["prototypicality"])),
            ("fires on", f"{100 * row['firing']:.1f} % of texts"),
            ("r with length", number(row["length_r"])),
        ],
        "top": [{**scenario, "words": _words(tokens.get(scenario["text"]))} for scenario in top],
    }


def _words(tokens: Sequence[tuple[str, float]] | None) -> list[tuple[str, float]] | None:
    """Tokens with their share of the text's highest activation."""
    if not tokens:
        return None
    highest = max((value for _, value in tokens), default=0.0)
    return [(word, max(value, 0.0) / highest if highest > 0 else 0.0) for word, value in tokens]
