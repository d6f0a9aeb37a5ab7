"""A diagnosis as one self-contained HTML page, and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sae_moral.controls.verdict import WORDS, answer
from sae_moral.io import jsonable
from sae_moral.protocol import AUDITED, PAPER
from sae_moral.report import figures
from sae_moral.report.card import NO_VALUE, Card, about_length, badge, names_run, not_run_sentence
from sae_moral.report.controls import controls_section
from sae_moral.report.learning import learning_section
from sae_moral.report.page import (
    Section,
    cards,
    columns,
    data_table,
    figure,
    folded,
    folded_table,
    heading,
    html,
    joined,
    pairs,
    paragraph,
    render_page,
    small,
    tree,
    write_page,
)
from sae_moral.report.style import ordered
from sae_moral.report.words import (
    AT_THIS_N,
    CONTROLS,
    MISSING,
    WORDS_BASELINE,
    count,
    interval,
    listed,
    number,
    p_value,
    with_interval,
    wrapped,
)
from sae_moral.results import OVERALL, DiagnosisRecord, Row
from sae_moral.tables import Table, table, text_table

NAME = "report.html"
PAPER_NOTE = Markup(
    "Protocol <code>paper</code>: made to compare with published numbers. It pools over the first token and leaves the "
    "length of the text in the vectors; for a claim about a model use <code>audited</code>."
)
FOOTER = "Written by sae_moral. An en dash marks what was not computed. Full precision is in diagnosis.json."


def write_report(record: DiagnosisRecord, path: str | Path) -> Path:
    """Write the page, whole or not at all, and return its path.

    Args:
        record: a diagnosis.
        path: the file to write; for an existing folder, `report.html` in it. Missing folders are made.

    Raises:
        ValueError: rows that contradict each other (see `layer_figure`).
        OSError: it cannot be written; an older page stays as it was.
    """
    return write_page(path, render_report(record), name=NAME)


def render_report(record: DiagnosisRecord) -> str:
    """The page as a string of HTML; same errors as `write_report`."""
    provenance = record.provenance
    names = [provenance["model"]["name"], _source(record), str(provenance["protocol"]["name"])]
    found = {metric: Card(record, metric) for metric in record.metrics}
    ids = {metric: f"metric-{i}" for i, metric in enumerate(found)}
    sections = [
        *_alarm(record),
        _glance(record, found, ids),
        *(_metric(record, card, ids[metric]) for metric, card in found.items()),
        controls_section(record),
        *learning_section(record),
        *_preprocessing(record),
        Section("Provenance", tree({**provenance, "metrics": jsonable(record.metrics)}), folded=True),
    ]
    return render_page(
        joined((html("{}", name) for name in names), between=Markup(' <span class="times">×</span> ')),
        sections,
        kicker="Diagnosis of moral indifference",
        name=f"Moral indifference: {' × '.join(names)}",
        facts=_facts(record),
        warnings=[*provenance["warnings"], *_dropped(record.rows)],
        footer=FOOTER,
    )


def headlines_table(record: DiagnosisRecord) -> Table:
    """Per metric the headline at its best layer, with interval, p, best baseline and verdict."""
    controls = record.provenance["controls"]
    level = "interval" if controls is None else f"{100 * controls['level']:g} % interval"
    header = ["metric", "headline", "chance", "best", "layer", level, "p", "best baseline", "verdict"]
    return Table(header, [_summary_row(Card(record, metric)) for metric in record.metrics])


def summary_table(record: DiagnosisRecord) -> str:
    """For the terminal: the answer; per metric the headline at its best layer, with interval, p, best baseline and
    verdict; why; its groups there; warnings."""
    provenance = record.provenance
    data, found = provenance["data"], [Card(record, metric) for metric in record.metrics]
    lines = [
        f"{provenance['model']['name']} · {_source(record)} (n = {data['n']}, {data['n_texts']} texts) · "
        f"protocol {provenance['protocol']['name']} · {len(provenance['layers'])} layers",
        "",
    ]
    if said := wrapped("", answer(record)):
        lines += [*said, ""]
    headlines = headlines_table(record)
    lines.append(text_table([headlines.header, *headlines.rows]))
    if reasons := [line for card in found for line in wrapped("- ", card.reason)]:
        lines += ["", *reasons]
    groups = {card.metric: ", ".join(_summary_groups(card)) for card in found}
    if by_group := [line for metric, words in groups.items() if words for line in wrapped(f"{metric}: ", words)]:
        lines += ["", "By group at that layer:", *by_group]
    lines.append("")
    if names := about_length(record):
        sees = f"What {listed(names)} {'sees' if len(names) == 1 else 'see'} under protocol"
        lines += wrapped("!! ", f"{sees} {provenance['protocol']['name']} is sentence length, not morality.")
    if CONTROLS["null"] in names_run(record):
        lines.append(
            "p is corrected for the choice of the best layer and for the number of metrics; the interval is not."
        )
    else:
        lines.append("The best layer is chosen after the fact: without a null it flatters.")
    lines += wrapped("", AT_THIS_N)
    lines += [
        f"{name}: {number(curve.values[-1])} at n = {count(curve.sizes[-1])}; limit with more scenarios "
        f"{with_interval(curve.limit, curve.ci_low, curve.ci_high)}."
        for name, curve in record.learning_curves.items()
    ]
    lines += wrapped("", not_run_sentence(record))
    return "\n".join(lines + [line for warning in provenance["warnings"] for line in wrapped("! ", warning)])


# Parts of the page


def _source(record: DiagnosisRecord) -> str:
    data = {"source": "data", **record.provenance["data"]}
    return str(data["source"])


def _facts(record: DiagnosisRecord) -> list[tuple[str, str]]:
    """What a reader needs before any number."""
    model, data = record.provenance["model"], record.provenance["data"]
    facts = {
        "scenarios": count(data["n"]),
        "layers measured": f"{len(record.provenance['layers'])} of {model['n_layers']}",
        "dtype": model["dtype"],
        "quantised": None if "quantisation" not in model else str(model["quantisation"].get("quant_method", "yes")),
        "wrapper": model["wrapper"],
        "revision": None if model["revision"] is None else model["revision"][:12],
        "model identity": model["identity"][:12],
        "data sha256": data["sha256"][:12],
    }
    return [(name, value) for name, value in facts.items() if value is not None]


def _alarm(record: DiagnosisRecord) -> list[Section]:
    names = about_length(record)
    if not names:
        return []
    one = len(names) == 1
    text = html(
        "Under protocol <code>{}</code> {} out from labels permuted freely, but not from labels permuted among texts "
        "of equal length.",
        record.provenance["protocol"]["name"],
        "its number stands" if one else "their numbers stand",
    )
    title = f"What {listed(names)} {'sees' if one else 'see'} here is sentence length, not morality"
    return [Section(title, paragraph(text), id="about-length", kind="alarm", listed=False)]


def _glance(record: DiagnosisRecord, found: Mapping[str, Card], ids: Mapping[str, str]) -> Section:
    """The cards, how to read them, and the overview."""
    parts = []
    if said := answer(record):
        parts.append(paragraph(said, "answer"))
    if record.provenance["protocol"]["estimators"] == "paper":
        parts.append(paragraph(PAPER_NOTE, "note"))
    if (prompt := record.provenance["protocol"]["template"]) not in (PAPER.template, AUDITED.template):
        parts.append(paragraph(html("What the model read: <code>{}</code>", prompt), "note"))
    parts.append(paragraph(not_run_sentence(record), "note not-run"))
    parts.append(cards(card.block(f"#{ids[metric]}") for metric, card in found.items()))
    parts.append(_how_to_read(record))
    parts.append(paragraph(AT_THIS_N, "note"))
    if record.peaks:
        told = [f"{p.metric}: {p.statistic} {number(p.value)} at layer {p.layer}" for p in record.peaks.values()]
        label = f"Line figures, one per metric, headline by layer. {'; '.join(told)}."
        caption = (
            "Headline of each metric by layer. The ring marks the best layer; gaps are values that were not computed."
        )
        parts.append(figure(figures.overview_figure(record), prefix="overview", label=label, caption=caption))
    return Section("At a glance", joined(parts))


def _how_to_read(record: DiagnosisRecord) -> Markup:
    controls = record.provenance["controls"]
    seen = {card.verdict.word for metric in record.metrics if (card := Card(record, metric)).verdict is not None}
    null = CONTROLS["null"] in names_run(record)
    meanings = [(badge(word), f"{WORDS[word]}.") for word in reversed(WORDS) if word in seen]
    meanings += [
        ("interval", "where the number would fall on other scenarios of the same kind."),
        (
            "null band",
            "where it falls when the labels carry nothing. A number inside says nothing about morality."
            + (" Null peaks: the same for the best of all layers." if null else ""),
        ),
        (
            "baselines",
            "the same metric without the trained model: on length and word frequency (nuisance), on the words alone "
            "(bag of words), on the same architecture untrained (random weights). A number that is not beyond them "
            "says nothing about the model.",
        )
        if controls is not None
        else (
            "baseline",
            "what a simpler reader reaches without the model. A number that does not beat it says nothing about the "
            "model.",
        ),
        ("ceiling", "what the noise in the human labels leaves reachable."),
        ("chance", "what the statistic is when nothing is known, by its definition."),
    ]
    last = "A control that is absent was not computed. The best layer was chosen after looking at all of them"
    last += (
        ": null peaks and every p take that into account, intervals of the number itself do not."
        if null
        else ", which by itself raises its number."
    )
    summary = f"How to read the {'verdicts and ' if seen else ''}controls"
    return html(
        '<details class="how"><summary>{}</summary>\n{}\n{}\n</details>',
        summary,
        pairs(meanings, "meanings"),
        paragraph(last),
    )


def _metric(record: DiagnosisRecord, card: Card, place: str) -> Section:
    """One metric: what it means, its figures, its tables."""
    metric, statistic, peak = card.metric, card.statistic, card.peak
    texts = record.metrics[metric]
    parts = [
        columns(
            [
                ("What the number means", texts.means or "The metric gives no description."),
                ("What it does not prove", texts.does_not_prove or "The metric does not say."),
            ]
        )
    ]
    if peak is None:
        parts.append(paragraph(NO_VALUE, "note"))
    else:
        groups = group_table(card.rows)
        told = f"{statistic} by layer{', all groups' if len(groups.rows) > 1 else ''}."
        told += " Lower is less indifferent." if texts.spec.direction == "lower" else ""
        told += " Null bands are those of each layer by itself." if CONTROLS["null"] in names_run(record) else ""
        label = f"Line figure: {statistic} of {metric} by layer. {card.sentence} Value {number(peak.value)}."
        parts.append(figure(figures.layer_figure(record, metric), prefix=place, label=label, caption=told))
        caption = html("{} by group at layer {}", statistic, peak.layer)
        if "p" in groups.header:
            caption += html('<span class="left-out"> p is corrected over layers, not over groups.</span>')
        if groups.left_out:
            caption += html('<span class="left-out"> Not computed: {}.</span>', ", ".join(groups.left_out))
        parts.append(data_table(groups, caption))
        more: list[str] = []
        if len(groups.rows) > 2 and peak.n_layers > 2:
            label = f"Heat map: {statistic} of {metric} by layer and group; all values are in the table below."
            white = "" if texts.spec.chance is None else "; white is chance"
            told = f"{statistic} by layer and group{white}. Hatched cells were not computed."
            more.append(figure(figures.heatmap_figure(record, metric), prefix=f"{place}-h", label=label, caption=told))
        if (further := figures.statistics_figure(record, metric)) is not None:
            names = ", ".join(figures.further_statistics(record, metric))
            label = f"Line figures by layer: {names}."
            more.append(figure(further, prefix=f"{place}-s", label=label, caption=f"{names}."))
        if more:
            parts.append(folded("By layer and group, and further statistics", joined(more), printed=True))
    full = full_table(record, metric)
    if full.rows:
        caption = f"All rows of {metric}: layers, statistics and groups"
        parts.append(folded_table(full, f"All {len(full.rows)} rows of {metric}", caption))
    title = html("{}{} {}", metric, small(statistic), card.badge)
    return Section(title, joined(parts), short=metric, id=place)


def group_table(rows: Sequence[Row]) -> Table:
    """One row per group of a statistic at one layer."""
    order = ordered(row.group for row in rows)
    return table(
        sorted(rows, key=lambda row: order.index(row.group)),
        {"group": lambda row: row.group},
        {
            "value": lambda row: number(row.value),
            "interval": lambda row: interval(row.ci_low, row.ci_high),
            "null band": lambda row: interval(row.null_low, row.null_high),
            **_LAST,
        },
        always=("value",),
    )


def full_table(record: DiagnosisRecord, metric: str) -> Table:
    """Every row of a metric, in the order of the diagnosis; the ends of intervals apart, so that columns sort."""
    return table(
        [row for row in record.rows if row.metric == metric],
        {"statistic": lambda row: row.statistic, "layer": lambda row: str(row.layer), "group": lambda row: row.group},
        {
            "value": lambda row: number(row.value),
            "interval low": lambda row: number(row.ci_low),
            "interval high": lambda row: number(row.ci_high),
            "null low": lambda row: number(row.null_low),
            "null high": lambda row: number(row.null_high),
            **_LAST,
        },
        always=("value",),
    )


_LAST = {
    "p": lambda row: p_value(row.p_value),
    "ceiling": lambda row: with_interval(row.ceiling, row.ceiling_low, row.ceiling_high),
    WORDS_BASELINE: lambda row: number(row.baseline),
    "n": lambda row: count(row.n),
    "dropped": lambda row: count(row.n_dropped),
}


def _dropped(rows: Iterable[Row]) -> list[str]:
    """One sentence per metric that dropped scenarios."""
    worst: dict[str, int] = {}
    for row in rows:
        if row.n_dropped:
            worst[row.metric] = max(row.n_dropped, worst[row.metric] if row.metric in worst else 0)
    return [f"{metric}: up to {most:,} scenarios dropped in one measurement." for metric, most in worst.items()]


def _preprocessing(record: DiagnosisRecord) -> list[Section]:
    """Capture and preprocessing: their per-layer lists as a figure, everything as given below it."""
    layers, parts = record.provenance["layers"], []
    trees = {"preprocessing": record.provenance["preprocessing"], "capture": record.provenance["capture"]}
    for name, values in trees.items():
        if not values:
            continue
        parts.append(heading(name))
        if lists := per_layer_lists(values, len(layers)) if len(layers) > 1 else {}:
            told = f"{', '.join(lists)} by layer."
            label = f"Line figures by layer: {', '.join(lists)}."
            parts.append(figure(figures.profile_figure(layers, lists), prefix=name, label=label, caption=told))
        parts.append(tree(values))
    return [Section("Preprocessing", joined(parts), folded=True)] if parts else []


def per_layer_lists(values: Mapping[str, Any], n_layers: int, path: str = "") -> dict[str, list[float | None]]:
    """Lists in a nested mapping that hold one number per layer, by dotted name.

    Lists of whole numbers only (token ids, shapes) are not taken, whatever their length: a list counts when it has
    `n_layers` entries, every one a number or None, and at least one a float.
    """
    found: dict[str, list[float | None]] = {}
    for key, value in values.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping):
            found |= per_layer_lists(value, n_layers, f"{name}.")
        elif isinstance(value, list | tuple) and len(value) == n_layers:
            known = [x for x in value if x is not None]
            numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in known)
            if numeric and any(isinstance(x, float) for x in known):
                found[name] = list(value)
    return found


# Parts of the summary


def _summary_row(card: Card) -> list[str]:
    spec, peak = card.record.metrics[card.metric].spec, card.peak
    start = [card.metric, card.statistic, "" if spec.chance is None else f"{spec.chance:g}"]
    if peak is None:
        return [*start, "could not be computed on these scenarios"]
    word = MISSING if card.verdict is None else card.verdict.word
    ends = interval(peak.ci_low, peak.ci_high)
    p, best = p_value(peak.p_corrected), card.best_baseline or MISSING
    return [*start, number(peak.value), str(peak.layer), ends, p, best, word]


def _summary_groups(card: Card) -> list[str]:
    at = {row.group: row.value for row in card.rows if row.group != OVERALL and row.value is not None}
    return [f"{group} {at[group]:.2f}".replace(" -", " −") for group in ordered(at)]
