"""An atlas as one self-contained HTML file, beside the reports of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol, runtime_checkable

import jinja2
from markupsafe import Markup

from sae_moral.io import write_text
from sae_moral.report.atlas_figures import cka_figure, depth_of, overlay_figure
from sae_moral.report.page import resource
from sae_moral.report.svg import inline_svg
from sae_moral.report.words import MISSING, count, detail, interval, number


@runtime_checkable
class AtlasLike(Protocol):
    """What the page needs of an `Atlas`."""

    @property
    def entries(self) -> list[dict[str, Any]]:
        """One dict per model, with its results."""
        ...

    @property
    def similarities(self) -> list[dict[str, Any]]:
        """One dict per compared pair."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """Data, protocols, versions."""
        ...


def write_atlas_report(atlas: AtlasLike, path: str | Path) -> Path:
    """Write the page and return its path; in an existing folder, `atlas.html`. Never half a page.

    The reports of the single models are linked where they are beside it.

    Raises:
        OSError: the folder cannot be written.
    """
    target = Path(path)
    target = target / "atlas.html" if target.is_dir() else target
    html = render_atlas(atlas, target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html)
    return target


def render_atlas(atlas: AtlasLike, folder: Path | None = None) -> str:
    """The page as a string of HTML; `folder`: where it will be, for links."""
    from sae_moral.atlas.result import PUBLISHED

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(resource),
    )  # fmt: skip
    environment.filters.update(detail=detail, number=number, interval=lambda ends: interval(*ends))
    baselines = [pair for pair in atlas.similarities if pair["kind"] == "baseline"]
    families = _families(atlas, baselines)
    protocols = atlas.provenance["protocols"]
    return environment.get_template("atlas.html.j2").render(
        facts=_facts(atlas),
        failures={entry["name"]: entry["error"] for entry in atlas.entries if entry["error"]},
        cards=[card for family in families for card in family["cards"]],
        tables=[_table(atlas, protocol, PUBLISHED if protocol == "paper" else {}, folder) for protocol in protocols],
        families=families,
        warnings=_warnings(atlas),
        provenance=atlas.provenance,
        compared=atlas.provenance["compared"],
        css=Markup(resource("report.css")),
    )


def _facts(atlas: AtlasLike) -> list[tuple[str, str]]:
    data = atlas.provenance["data"]
    measured = [entry for entry in atlas.entries if entry["results"]]
    facts = [
        ("models", f"{len(measured)} of {len(atlas.entries)}"),
        ("data", str(data.get("source", "data"))),
        ("scenarios", count(data["n"])),
        ("distinct texts", count(data["n_texts"])),
        ("protocols", ", ".join(atlas.provenance["protocols"])),
        ("data sha256", str(data["sha256"])[:12]),
    ]
    return [(name, value) for name, value in facts if value != MISSING]


def _table(
    atlas: AtlasLike, protocol: str, published: Mapping[tuple[str, str], str], folder: Path | None
) -> dict[str, Any]:
    """Families of rows, one cell per headline: value, layer and interval."""
    results = {entry["name"]: entry["results"].get(protocol) for entry in atlas.entries}
    headlines = [h for result in results.values() if result for h in result["headlines"]]
    columns = list(dict.fromkeys((h["metric"], h["statistic"]) for h in headlines))
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in atlas.entries:
        result = results[entry["name"]]
        found = {(h["metric"], h["statistic"]): h for h in (result["headlines"] if result else ())}
        linked = result and folder is not None and (folder / result["report"]).exists()
        groups.setdefault(entry["family"], []).append(
            {
                "name": entry["name"],
                "variant": entry["variant"],
                "link": result["report"] if result and linked else None,
                "depth": count(result["n_layers"]) if result else MISSING,
                "error": entry["error"] if result is None else None,
                "cells": [found.get(column) for column in columns],
            }
        )
    chance = {(h["metric"], h["statistic"]): h["chance"] for h in headlines}
    return {
        "protocol": protocol,
        "columns": [{"metric": m, "statistic": s, "chance": chance[m, s]} for m, s in columns],
        "published": [published.get(column) for column in columns] if published else None,
        "groups": groups,
        "intervals": any(h["ci_low"] is not None for h in headlines),
    }


def _families(atlas: AtlasLike, baselines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A section for each family of several models, one for the models without variants, one for unrelated pairs."""
    members: dict[str, list[dict[str, Any]]] = {}
    for entry in atlas.entries:
        if entry["results"]:
            members.setdefault(entry["family"], []).append(entry)
    several = {family: entries for family, entries in members.items() if len(entries) > 1}
    alone = [entry for entries in members.values() if len(entries) == 1 for entry in entries]
    found = []
    for family, entries in several.items():
        pairs = [pair for pair in atlas.similarities if pair["family"] == family]
        found.append(_section(atlas, f"Family {family}", entries, pairs, baselines, len(found)))
    if alone:
        title = "Models without variants" if several else "All models"
        found.append(_section(atlas, title, alone, [], [], len(found)))
    if baselines:
        found.append(_section(atlas, "Unrelated models", [], baselines, [], len(found)))
    return found


def _section(
    atlas: AtlasLike,
    title: str,
    entries: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
    baselines: Sequence[dict[str, Any]],
    index: int,
) -> dict[str, Any]:
    variants = [entry["variant"] for entry in entries]
    distinct = None not in variants and len(set(variants)) == len(variants)
    labels = {e["name"]: e["variant"] if distinct and len(entries) > 1 and pairs else e["name"] for e in atlas.entries}
    named = {f"{labels[pair['a']]} · {labels[pair['b']]}": pair for pair in pairs}
    drawn = {label: pair for label, pair in named.items() if pair["layers"]}
    overlays = []
    for protocol in atlas.provenance["protocols"] if entries else ():
        results = {labels[e["name"]]: e["results"][protocol] for e in entries if protocol in e["results"]}
        if results:
            words = f"Headlines over the layers, protocol {protocol}: {', '.join(results)}."
            svg = inline_svg(overlay_figure(results), prefix=f"o{index}{protocol}", label=words)
            overlays.append({"protocol": protocol, "figure": svg})
    curves = None
    if drawn:
        words = "; ".join(f"{label}: median {number(_median(pair, 'cka'))}" for label, pair in drawn.items())
        curves = inline_svg(
            cka_figure(drawn, baselines, atlas.provenance["preprocessing"]),
            prefix=f"c{index}",
            label=f"CKA over the depth. {words}.",
        )
    reference = [middle for pair in baselines if (middle := _median(pair, "cka")) is not None]
    return {
        "id": f"part-{index}",
        "title": title,
        "curves": curves,
        "overlays": overlays,
        "pairs": named,
        "depths": {label: [depth_of(row, pair["depths"]) for row in pair["layers"]] for label, pair in named.items()},
        "cards": [_card(title, label, pair, reference, f"part-{index}") for label, pair in drawn.items()],
    }


def _median(pair: Mapping[str, Any], name: str) -> float | None:
    values = [row[name] for row in pair["layers"] if row[name] is not None]
    return median(values) if values else None


def _card(title: str, label: str, pair: Mapping[str, Any], reference: Sequence[float], where: str) -> dict[str, Any]:
    """The median over layers, its range, and where unrelated models lie."""
    rows = [row for row in pair["layers"] if row["cka"] is not None]
    low, high = (pick(rows, key=lambda row: row["cka"]) if rows else None for pick in (min, max))
    correlations = [row for row in pair["profiles"] if row["spearman"] is not None]

    def at(value: float) -> str:
        return f"{100 * min(1.0, max(0.0, value)):.1f}%"

    return {
        "title": title,
        "label": label,
        "where": where,
        "value": number(_median(pair, "cka")),
        "raw": number(_median(pair, "raw")),
        "low": low,
        "high": high,
        "left": None if low is None else at(low["cka"]),
        "right": None if high is None else at(high["cka"]),
        "middle": None if not rows else at(_median(pair, "cka") or 0.0),
        "reference": [at(value) for value in reference],
        "reference_words": ", ".join(number(value) for value in reference),
        "correlations": correlations,
        "same_depth": pair["depths"][0] == pair["depths"][1],
    }


def _warnings(atlas: AtlasLike) -> list[tuple[str, str, str]]:
    """What each diagnosis warns of: model, protocol, sentence."""
    return [
        (entry["name"], protocol, warning)
        for entry in atlas.entries
        for protocol, result in entry["results"].items()
        for warning in result["warnings"]
    ]
