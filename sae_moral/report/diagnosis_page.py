"""A diagnosis as one self-contained HTML file: opens offline, in any browser, on paper."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jinja2
from markupsafe import Markup

from sae_moral.io import write_text
from sae_moral.report import figures
from sae_moral.report.control_section import control_section
from sae_moral.report.glance import Glance, glance, length_shares
from sae_moral.report.heatmap import heatmap_figure
from sae_moral.report.judged import CONTROLS
from sae_moral.report.old_tables import full_table, group_table, per_layer_lists
from sae_moral.report.profiles import profile_figure
from sae_moral.report.series import lower_is_better, tracks_by_group
from sae_moral.report.svg import inline_svg
from sae_moral.report.words import MISSING, count, detail, listed

if TYPE_CHECKING:
    import pandas as pd


@runtime_checkable
class DiagnosisLike(Protocol):
    """What the page needs of a `Diagnosis`."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dict per measurement."""
        ...

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a table, None as NaN."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """All that shaped the rows."""
        ...


def write_report(diagnosis: DiagnosisLike, path: str | Path) -> Path:
    """Write the page and return its path.

    The file is rendered in full, written beside its place and then renamed, so that a reader never sees half a page and
    a failure leaves an older page as it was.

    Args:
        diagnosis: results and provenance.
        path: the file to write; for an existing folder, `report.html` in it. Missing folders are made.

    Raises:
        ValueError: rows that contradict each other or the provenance (see `layer_figure`).
        OSError: the folder cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        target = target / "report.html"
    html = render_report(diagnosis)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html)
    return target


def render_report(diagnosis: DiagnosisLike) -> str:
    """The page as a string of HTML; same errors as `write_report`."""
    provenance = diagnosis.provenance
    described = metrics_of(diagnosis)
    sections = [_section(diagnosis, i, name, described[name]) for i, name in enumerate(described)]
    cards: list[Glance] = [section["glance"] for section in sections]
    overview = Markup("")
    if any(card.value for card in cards):
        figure = figures.overview_figure(diagnosis.frame, described, provenance.get("controls"))
        overview = inline_svg(figure, prefix="overview", label=_overview_words(cards))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_resource),
    )  # fmt: skip
    environment.filters.update(detail=detail, listed=listed)
    return environment.get_template("report.html.j2").render(
        provenance=provenance,
        title=_title(provenance),
        facts=_facts(provenance),
        warnings=[str(warning) for warning in provenance.get("warnings") or []],
        dropped=_dropped(diagnosis.rows),
        sections=sections,
        overview=overview,
        controls=control_section(diagnosis.rows, provenance, cards),
        conditioning=_conditioning(provenance),
        css=Markup(_resource("report.css")),
        js=Markup(_resource("report.js")),
    )


def metrics_of(diagnosis: DiagnosisLike) -> dict[str, dict[str, Any]]:
    """The metrics' descriptions in their order; a metric that has rows but no description gets an empty one."""
    described = {str(name): dict(texts or {}) for name, texts in (diagnosis.provenance.get("metrics") or {}).items()}
    return described | {str(m): {} for m in dict.fromkeys(diagnosis.frame["metric"]) if m not in described}


def _resource(name: str) -> str:
    return resources.files("sae_moral.report").joinpath(name).read_text(encoding="utf-8")


def _section(diagnosis: DiagnosisLike, index: int, metric: str, texts: dict[str, Any]) -> dict[str, Any]:
    """Everything the template shows of one metric."""
    frame, controls = diagnosis.frame, diagnosis.provenance.get("controls")
    card = glance(frame, metric, texts, length_shares(diagnosis.provenance), controls)
    shown: dict[str, Any] = {"id": f"metric-{index}", "name": metric, "texts": texts, "glance": card, "full": None,
                             "lower_is_better": lower_is_better(texts), "groups": None, "figure": None,
                             "heatmap": None, "further": None}  # fmt: skip
    baseline = CONTROLS["words"] if "words" in ((controls or {}).get("names") or ()) else "baseline"
    full = full_table(diagnosis.rows, metric, baseline)
    if full.rows:
        shown["full"] = full
    if card.best is None or card.statistic is None:
        return shown
    prefix = f"m{index}"
    words = f"Line figure: {card.statistic} of {metric} by layer. {card.sentence} Value {card.value}."
    shown["figure"] = inline_svg(figures.layer_figure(frame, metric, texts, controls), prefix=prefix, label=words)
    shown["groups"] = group_table(diagnosis.rows, metric, card.statistic, card.best.layer, baseline)
    tables = tracks_by_group(frame, metric, card.statistic)
    if len(tables) > 2 and card.best.layers > 2:
        heat = heatmap_figure(frame, metric, card.statistic, chance=texts.get("chance"))
        words = f"Heat map: {card.statistic} of {metric} by layer and group; all values are in the table below."
        shown["heatmap"] = inline_svg(heat, prefix=f"{prefix}h", label=words)
    further = figures.statistics_figure(frame, metric, texts, baseline=baseline)
    if further is not None:
        found = dict.fromkeys(str(r["statistic"]) for r in diagnosis.rows if r["metric"] == metric)
        names = ", ".join(name for name in found if name != card.statistic)
        shown["further"] = inline_svg(further, prefix=f"{prefix}s", label=f"Line figures by layer: {names}.")
        shown["further_names"] = names
    return shown


def _overview_words(cards: list[Glance]) -> str:
    parts = [f"{c.metric}: {c.statistic} {c.value} at layer {c.best.layer}" for c in cards if c.best is not None]
    return "Line figures, one per metric, headline by layer. " + "; ".join(parts) + "."


def _title(provenance: Mapping[str, Any]) -> list[str]:
    names = (("model", "name"), ("data", "source"), ("protocol", "name"))
    return [str((provenance.get(part) or {}).get(key) or f"unnamed {part}") for part, key in names]


def _facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The line under the title: what a reader needs before any number."""
    model, data = provenance.get("model") or {}, provenance.get("data") or {}
    layers = provenance.get("layers") or []
    facts = [
        ("scenarios", count(data.get("n"))),
        ("layers measured", f"{len(layers)} of {model['n_layers']}" if model.get("n_layers") else len(layers) or None),
        ("dtype", model.get("dtype")),
        ("wrapper", model.get("wrapper")),
        ("revision", str(model["revision"])[:12] if model.get("revision") else None),
        ("data sha256", str(data["sha256"])[:12] if data.get("sha256") else None),
    ]
    return [(name, detail(value)) for name, value in facts if value not in (None, MISSING)]


def _dropped(rows: list[dict[str, Any]]) -> list[str]:
    """One sentence per metric that dropped scenarios."""
    worst: dict[str, int] = {}
    for row in rows:
        if row.get("n_dropped") and row["n_dropped"] > 0:
            worst[row["metric"]] = max(worst.get(row["metric"], 0), int(row["n_dropped"]))
    return [f"{metric}: up to {most:,} scenarios dropped in one measurement." for metric, most in worst.items()]


def _conditioning(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Capture and preprocessing: their per-layer lists as a figure, everything as given below it."""
    layers = [int(layer) for layer in provenance.get("layers") or []]
    parts = []
    for name in ("preprocessing", "capture"):
        tree = provenance.get(name)
        if not tree:
            continue
        lists = per_layer_lists(tree, len(layers)) if len(layers) > 1 else {}
        figure = None
        if lists:
            label = f"Line figures by layer: {', '.join(lists)}."
            figure = inline_svg(profile_figure(layers, lists), prefix=name, label=label)
        parts.append({"name": name, "tree": tree, "figure": figure, "lists": lists})
    return parts
