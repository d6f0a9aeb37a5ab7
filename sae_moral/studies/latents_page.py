"""The moral latents of one or more SAEs: found layer by layer as a study, and shown on one self-contained HTML page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from torch import nn

from sae_moral import __version__
from sae_moral.capture import hooked_model
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS
from sae_moral.io import check_claim, checksum, claim, locked
from sae_moral.provenance import HookedModel, describe_model
from sae_moral.report.page import (
    Section,
    bullets,
    card,
    cards,
    data_table,
    figure,
    heading,
    html,
    joined,
    pairs,
    paragraph,
    render_page,
    small,
    tokens,
    write_page,
)
from sae_moral.report.panels import WIDTH
from sae_moral.report.style import FAINT, INK, MUTED, NARROW, add_legend, blank_figure, grid_of, group_styles
from sae_moral.report.words import MISSING, count, interval, number
from sae_moral.sae import LatentSettings, MoralLatents, find_moral_latents, latent_representations, load_saes
from sae_moral.sae.latents import latents_by_token
from sae_moral.studies.study import Assembly, Cell, Study
from sae_moral.tables import Table, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sae_moral.data import MoralData
    from sae_moral.data.splits import Split
    from sae_moral.sae import LoadedSae
    from sae_moral.sae.load import SaeLike
    from sae_moral.sae.moral_latents import LatentRow

TokensOf = Mapping[int, Mapping[int, Mapping[str, Sequence[tuple[str, float]]]]]
"""layer → latent → text → its tokens with the latent's activation there."""
LATENTS_PER_DIMENSION = 5
SCENARIOS = 4
FRACTIONS = {
    "audited": "audited",
    "permuted": "audited_null",
    "replicated": "audited_replicated",
    "paper: monosemantic": "paper",
    "permuted (monosemantic)": "paper_null",
    "paper: not weak": "paper_moral",
    "permuted (not weak)": "paper_moral_null",
    "never fires": "dead",
}
"""Columns of the first table, and which of `MoralLatents.fractions` they hold."""
SHARES = (
    "A latent counts for a dimension when its partial correlation with it, given length and word frequency, holds in "
    "both halves of the selection part after false-discovery control. The short black lines are what the same rule "
    "finds with permuted labels."
)
POLARITY = (
    "Held-out partial correlations of each foundation’s moral latents; filled: selected for virtue, hollow: for vice."
)
READING = (
    "Latents were selected on one part of the texts and every number here is of another. Scenarios are the held-out "
    "ones on which a latent is highest; colour shows where in the text it fires, relative to that text’s highest "
    "token. A correlation over scenarios does not prove that the model uses a latent, nor that it means what its "
    "dimension says: topic goes with foundation in these data. The paper’s rule (|r| above 0.1, no correction) stands "
    "beside ours, with what it finds when labels are permuted."
)


def latents_with_page(
    model: HookedModel | nn.Module,
    sae: SaeLike | Mapping[int, SaeLike],
    data: MoralData,
    out: str | Path,
    *,
    settings: LatentSettings | None = None,
    split: Split | None = None,
    select: Sequence[str] = ("train",),
    report: Sequence[str] = ("validation", "test"),
    any_model: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> tuple[dict[int, MoralLatents], Path]:
    """`find_moral_latents_by_layer`, kept in `out/layer_NNN` (`out` itself for one SAE), and the page `latents.html`
    with the tokens of every scenario shown. Run again, it goes on with the layers that are missing.

    Args:
        model: as for `capture`.
        sae: what `load_saes` takes.
        data: the labelled scenarios.
        out: folder for the results.
        settings: as for `find_moral_latents`.
        split: as for `find_moral_latents`.
        select: as for `find_moral_latents`.
        report: as for `find_moral_latents`.
        any_model: accept SAEs of a model with another name.
        overwrite: write to `out` even if it holds something else.
        progress: progress bars; by default only on a terminal.
        options: as for `latent_representations`: granularity, template, pooling, bos.

    Returns:
        The moral latents by layer, and the path of the page.

    Raises:
        ValueError: as `find_moral_latents_by_layer`.
        FolderError: `out` holds other results.
    """
    model = hooked_model(model)
    out, saes, settings = Path(out), load_saes(sae, model=model, any_model=any_model), settings or LatentSettings()
    shaped = {
        "model": describe_model(model)["identity"],
        "data": data.sha256,
        "settings": dataclasses.asdict(settings),
        "split": None if split is None else {name: checksum(np.asarray(rows).tolist()) for name, rows in split.items()},
        "select": list(select),
        "report": list(report),
        "options": options,
        # Where SAEs were trained on different ones, all are read by token.
        "granularities": sorted({str(one.granularity) for one in saes.values()}),
        "version": __version__,
    }
    of_saes = {str(layer): one.sha256 for layer, one in sorted(saes.items())}
    files = ("latents.html", "moral_latents.json")
    if not overwrite:
        check_claim(out, "latents", {**shaped, "saes": of_saes}, files=files)
    with locked(out, wait=True):
        claim(out, "latents", {**shaped, "saes": of_saes}, files=files, overwrite=overwrite)

    @cache
    def latents() -> Any:
        """Those of all SAEs, from one pass of the model; only if a layer is missing."""
        return latent_representations(model, data.text, saes, any_model=any_model, progress=progress, **options)

    def work(layer: int, folder: Path) -> list[Any]:
        own = dataclasses.replace(latents(), layers=(layer,), saes={layer: saes[layer]})
        found = find_moral_latents(saes[layer], own, data, settings=settings, split=split, select=select, report=report)
        found.save(folder)
        return _tokens(model, saes[layer], found)

    cells = [
        Cell(f"layer {layer}", {"sae": of_saes[str(layer)], "layer": layer, **shaped}, lambda f, n=layer: work(n, f))
        for layer in saes
    ]
    assembly, page = Assembly(out), out / "latents.html"
    done = Study(out, "moral-latents").run(cells, what="layers", progress=progress)
    found, by_layer = {}, {}
    for layer, one in zip(saes, done, strict=True):
        assert one.folder is not None
        found[layer] = MoralLatents.load(one.folder)
        by_layer[layer] = {latent: {text: _pairs(words) for text, words in shown} for latent, shown in one.value}

    def write() -> None:
        for layer, one in found.items():
            one.save(out if len(saes) == 1 else out / f"layer_{layer:03d}", overwrite=overwrite)
        write_latents_report(found, page, tokens=by_layer)

    assembly.make([shaped, of_saes], write)
    return found, page


def _tokens(model: HookedModel, sae: LoadedSae, found: MoralLatents) -> list[Any]:
    """Per shown latent and each of its scenarios: tokens with the activation there."""
    shown = shown_latents(found)
    text = sorted({scenario["text"] for latent in shown for scenario in _top(found, latent)})
    if not text:
        return []
    template = str(found.provenance["capture"]["template"])
    values = latents_by_token(model, sae, text, shown, template=template)
    return [[latent, [[t, of[i]] for t, of in zip(text, values, strict=True)]] for i, latent in enumerate(shown)]


def _pairs(words: Sequence[Sequence[Any]]) -> list[tuple[str, float]]:
    """JSON knows no tuples."""
    return [(str(word), float(value)) for word, value in words]


def _top(found: MoralLatents, latent: int) -> Sequence[Mapping[str, Any]]:
    return found.top[str(latent)][:SCENARIOS] if str(latent) in found.top else ()


def shown_latents(found: MoralLatents) -> list[int]:
    """The latents whose scenarios the page shows: the first of every dimension."""
    return sorted({latent for d in DIMENSIONS for latent in found.latents(d, limit=LATENTS_PER_DIMENSION)})


def write_latents_report(
    found: Mapping[int, MoralLatents], path: str | Path, *, tokens: TokensOf | None = None
) -> Path:
    """Write the page and return its path; in an existing folder, `latents.html`.

    Args:
        found: by layer; all of one model and one source of scenarios.
        path: the file to write.
        tokens: activations by token of the scenarios shown (`shown_latents` says which); without it they stand as they
            are.

    Raises:
        ValueError: nothing to show, or results of different data.
        OSError: it cannot be written.
    """
    return write_page(path, render_latents(found, tokens or {}), name="latents.html")


def render_latents(found: Mapping[int, MoralLatents], by_token: TokensOf) -> str:
    """The page as a string of HTML."""
    if not found:
        raise ValueError("no moral latents given; expected those of at least one SAE")
    if len({one.provenance["data"]["sha256"] for one in found.values()}) > 1:
        raise ValueError("these moral latents are of different scenarios; expected one page per source")
    found = dict(sorted(found.items()))
    first = next(iter(found.values()))
    layers = [_layer(one, by_token[layer] if layer in by_token else {}) for layer, one in found.items()]
    return render_page(
        str(first.sae["model_name"] or first.provenance["capture"]["model"]["name"]),
        [Section("How many latents are moral", _how_many(found), short="How many"), *layers,
         Section("How to read it", paragraph(READING))],
        kicker="Moral latents",
        facts=_facts(first, found),
    )  # fmt: skip


def _facts(first: MoralLatents, found: Mapping[int, MoralLatents]) -> list[tuple[str, str]]:
    data, n = first.provenance["data"], first.provenance["n"]
    return [
        ("SAEs", count(len(found))),
        ("latents each", count(len(first))),
        ("architecture", str(first.sae["architecture"]) if "architecture" in first.sae else MISSING),
        ("read by", str(first.provenance["capture"]["granularity"])),
        ("scenarios", f"{count(data['n'])} of {data['source'] if 'source' in data else 'data'}"),
        ("selected on", f"{count(n['selection_texts'])} texts"),
        ("reported on", f"{count(n['report_texts'])} other texts"),
    ]


def _how_many(found: Mapping[int, MoralLatents]) -> Markup:
    shares = {layer: one.fractions() for layer, one in found.items()}
    rows = [
        [
            count(layer),
            *(_percent(shares[layer][name]) for name in FRACTIONS.values()),
            html("{} <code>{}</code>", one.sae["source"], str(one.sae["sha256"])[:12]),
        ]
        for layer, one in found.items()
    ]
    counts = table(
        list(found.items()),
        {"layer": lambda item: count(item[0])},
        {name: lambda item, name=name: count(len(item[1].latents(name))) for name in DIMENSIONS},
    )
    label = "Moral latents by layer and dimension; see the table."
    return joined(
        [
            figure(fractions_figure(found), prefix="fractions", label=label),
            paragraph(SHARES),
            data_table(Table(["layer", *FRACTIONS, "SAE"], rows), "Shares of all latents", hidden=True),
            heading("Moral latents by layer and dimension"),
            data_table(counts, "Moral latents by layer and dimension", hidden=True),
        ]
    )


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.2f} %"


def _layer(found: MoralLatents, by_token: Mapping[int, Mapping[str, Sequence[tuple[str, float]]]]) -> Section:
    rows = {row["latent"]: row for row in found.rows(shown_latents(found))}
    body: list[Markup] = []
    for name in DIMENSIONS:
        chosen, total = found.latents(name, limit=LATENTS_PER_DIMENSION), len(found.latents(name))
        if chosen:
            more = f", the first {len(chosen)} shown" if total > len(chosen) else ""
            body.append(heading(name, f"{total} {'latent' if total == 1 else 'latents'}{more}"))
            body.append(cards(_card(found, rows[n], by_token[n] if n in by_token else {}) for n in chosen))
    if body:
        label = f"Scatter figures: correlation of each moral latent of layer {found.layer} with virtue and vice."
        drawn = figure(polarity_figure(found), prefix=f"polarity{found.layer}", label=label, caption=POLARITY)
        body = [heading("Polarity map"), drawn, *body]
    else:
        body = [paragraph("No latent of this SAE passes the audited rule.")]
    title = html("Layer {}{}", found.layer, small(str(found.sae["source"])))
    return Section(title, joined(body), short=f"Layer {found.layer}")


def _card(found: MoralLatents, row: LatentRow, by_token: Mapping[str, Sequence[tuple[str, float]]]) -> Markup:
    link = found.sae["neuronpedia_id"] if "neuronpedia_id" in found.sae else None
    fails = "" if row["replicated"] else "; does not replicate on the held-out part"
    numbers = [
        ("partial r, held out, 95 %", interval(row["ci_low"], row["ci_high"])),
        ("AUROC", number(row["auroc"])),
        ("prototypicality", number(row["prototypicality"])),
        ("fires on", f"{100 * row['firing']:.1f} % of texts"),
        ("r with length", number(row["length_r"])),
    ]
    texts = [_shown(one["text"], by_token) for one in _top(found, row["latent"])]
    body = [
        paragraph(f"{row['audited_class']}; by the paper's rule {row['paper_class']}{fails}", "note"),
        pairs(numbers, "marks"),
        bullets(texts or ["It fires on no held-out scenario."]),
    ]
    href = f"https://www.neuronpedia.org/{link}/{row['latent']}" if link else ""
    return card(
        f"Latent {row['latent']}",
        number(row["partial_r"]),
        joined(body),
        href=href,
        aside="Neuronpedia" if link else "",
    )


def _shown(text: str, by_token: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """A scenario; where its tokens are known, each by its share of the text's highest activation."""
    if not (words := by_token[text] if text in by_token else ()):
        return text
    highest = max(value for _, value in words)
    return tokens((word, max(value, 0.0) / highest if highest > 0 else 0.0) for word, value in words)


def fractions_figure(found: Mapping[int, MoralLatents], *, width: float = WIDTH) -> Figure:
    """Share of an SAE's latents that are moral for each dimension, stacked by layer; what permuted labels give as a
    mark. `width`: in inches."""
    figure = blank_figure(width, 2.6)
    axes = figure.subplots()
    bottom, styles, places = np.zeros(len(found)), group_styles(DIMENSIONS), range(len(found))
    for d, name in enumerate(DIMENSIONS):
        share = np.array([100 * one.pairs()[:, d].mean() for one in found.values()])
        axes.bar(places, share, bottom=bottom, width=0.7, color=styles[name].colour, label=name,
                 alpha=0.55 if d % 2 else 1.0, edgecolor="white", linewidth=0.5)  # fmt: skip
        bottom += share
    null = [np.nan if (share := one.null["audited"]) is None else 100 * share for one in found.values()]
    axes.plot(places, null, linestyle="none", marker="_", markersize=22, color=INK, label="permuted labels")
    axes.set_xticks(places, [str(layer) for layer in found])
    axes.set_xlabel("layer", fontsize=8.5)
    axes.set_ylabel("% of latents", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, ncol=1, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def polarity_figure(found: MoralLatents, *, width: float = WIDTH) -> Figure:
    """The polarity map: held-out partial correlation with a foundation's virtue (across) and vice (up), one point per
    moral latent of that foundation. A latent that separates the poles is far from the diagonal. `width`: in inches."""
    from matplotlib.lines import Line2D

    columns = 2 if width < NARROW else len(FOUNDATIONS)
    lines = -(-len(FOUNDATIONS) // columns)
    figure = blank_figure(width, 2.1 if lines == 1 else 1.7 * lines)
    panels = grid_of(figure, len(FOUNDATIONS), columns, sharey=True)
    r, pairs, styles = found.arrays["partial_r"], found.pairs(), group_styles(FOUNDATIONS)
    reach = max(0.1, float(np.abs(r[pairs.any(axis=1)]).max(initial=0.0))) * 1.1
    for f, (axes, name) in enumerate(zip(panels, FOUNDATIONS, strict=True)):
        virtue, vice = pairs[:, 2 * f], pairs[:, 2 * f + 1]
        axes.plot([-reach, reach], [-reach, reach], color=FAINT, linewidth=0.8, zorder=0)
        axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        colour = styles[name].colour
        axes.scatter(r[virtue, 2 * f], r[virtue, 2 * f + 1], s=14, color=colour, label="virtue")
        axes.scatter(r[vice, 2 * f], r[vice, 2 * f + 1], s=14, facecolors="white", edgecolors=colour, label="vice")
        axes.set_title(name, fontsize=8, loc="left", color=INK)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.tick_params(labelsize=7, colors=MUTED)
        axes.set_xlabel("r with virtue", fontsize=7.5)
    for axes in panels[::columns]:
        axes.set_ylabel("r with vice", fontsize=7.5)
    dot = {"linestyle": "none", "marker": "o", "markersize": 4, "color": MUTED}
    handles = [
        Line2D([], [], **dot, label="moral for virtue"),
        Line2D([], [], **dot, markerfacecolor="white", label="for vice"),
    ]
    figure.set_figheight(figure.get_figheight() + add_legend(figure, handles))
    return figure
