"""`Atlas`: an atlas in words, for the terminal and as one self-contained HTML file beside the reports of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from sae_moral.errors import unknown
from sae_moral.report.page import (
    Mark,
    Section,
    bullets,
    card,
    cards,
    columns,
    data_table,
    figure,
    folded_table,
    heading,
    html,
    joined,
    pairs,
    paragraph,
    render_page,
    scale,
    tree,
    write_page,
)
from sae_moral.report.panels import WIDTH, Line, Panel, panels_figure, value_label
from sae_moral.report.style import CHANCE, LineStyle, legend_line, line_styles
from sae_moral.report.words import MISSING, count, interval, listed, number
from sae_moral.results import Peak
from sae_moral.shown import shown
from sae_moral.studies.atlas_results import (
    PUBLISHED,
    AtlasEntry,
    AtlasRecord,
    AtlasResult,
    LayerSimilarity,
    PairSimilarity,
    ProfileCorrelation,
)
from sae_moral.tables import Table, table, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEEPEST = -0.25
"""A CKA is not negative but for noise: the axis ends here, whatever an interval does."""
STEPS = {"centre": "centred", "standardise": "standardised", "remove_length": "length removed"}
"""What a preprocessing step is called over a panel."""
UNRELATED = LineStyle(CHANCE.colour, CHANCE.dash, 1.2)
CKA = (
    "Linear CKA, debiased, between two models' representations of the same scenarios under the protocol {}: 1 is the "
    "same up to rotation and scale, 0 is independent. The large number is the median over the compared layers; the bar "
    "spans their lowest and highest value."
)
HEADLINES = (
    "Each metric at its best layer, which stands in brackets. The best of many layers flatters, more so in deeper "
    "models; the profiles below show all of them. Names lead to the full report of a model."
)
WIDTHS = (
    "The models have {} dimensions: at equal n a reader of more dimensions gets less of the same difference, so a "
    "headline flatters the narrower model. Limits of learning curves can be compared, within their intervals."
)
CURVES = (
    "CKA of each pair by layer, with 95 % jackknife intervals over scenarios. Left: vectors prepared as the protocol "
    "{} says; right: as captured, where a few rogue dimensions, and a few scenarios that are extreme in them, can "
    "decide: wide intervals show it."
)
MEANS = (
    "CKA compares which scenarios are near one another in two models, not single coordinates; debiased, independent "
    "representations give about 0 however many dimensions they have. Two variants that stand well above the unrelated "
    "models, with intervals apart, share their geometry of these scenarios. Profiles that correlate rise and fall at "
    "the same depth; the mean difference says whether one is higher throughout."
)
DOES_NOT_PROVE = (
    "The directions of most variance decide a CKA, and those are about words and topics: a change confined to moral "
    "directions can be large and hardly show. A high CKA between variants therefore does not prove that alignment left "
    "the moral geometry unchanged; the headlines and their profiles are the test of that. Profiles of any two models "
    "are smooth over depth and correlate easily: with few layers even a correlation of 0.9 says little."
)


@shown(tables=lambda atlas: atlas.headline_tables().values())
class Atlas(AtlasRecord):
    """Many models, measured alike, with summary and page."""

    def summary(self) -> str:
        """Tables for the terminal: headlines per protocol, then the CKA of every pair."""
        lines = []
        for protocol, made in self.headline_tables().items():
            lines += [
                f"protocol {protocol}: each headline at its best layer, chosen after the fact",
                text_table([made.header, *made.rows]),
                "",
            ]
        rows = [["pair", "kind", "layers", "CKA median", "lowest", "highest", "raw median"]]
        for pair in self.similarities:
            values = [row.cka for row in pair.layers if row.cka is not None]
            ends = (min(values), max(values)) if values else (None, None)
            numbers = [pair.median("cka"), *ends, pair.median("raw")]
            rows.append([f"{pair.a} · {pair.b}", pair.kind, count(len(pair.layers)), *map(number, numbers)])
        compared = f"debiased linear CKA of the representations, protocol {self.provenance['compared']}"
        return "\n".join([*lines, *([compared, text_table(rows)] if self.similarities else [])])

    def figure(self, metric: str | None = None, *, protocol: str | None = None, width: float | None = None) -> Figure:
        """Every model's headlines over its layers, one panel per headline; of one metric with their intervals.

        Args:
            metric: one that was measured; all by default.
            protocol: one of the atlas; by default that whose representations are compared.
            width: in inches, e.g. 3.3 for one column of a paper; by default that of a page.

        Raises:
            ValueError: unknown protocol or metric, or no result under the protocol.
        """
        known, chosen = self.provenance["protocols"], protocol or self.provenance["compared"]
        if chosen not in known:
            raise unknown("protocol", chosen, known)
        results = {entry.name: entry.results[chosen] for entry in self.entries if chosen in entry.results}
        if not (metrics := [name for name, _ in self.headlines(chosen)]):
            raise ValueError(f"no model has a result under the protocol {chosen}; expected an atlas with results")
        if metric is not None and metric not in metrics:
            raise unknown("metric", metric, dict.fromkeys(metrics))
        return profiles_figure(results, metric, width=WIDTH if width is None else width)

    def headline_tables(self) -> dict[str, Table]:
        """Per protocol each model's headlines at their best layers, as words."""
        made = {}
        for protocol in self.provenance["protocols"]:
            headlines = self.headlines(protocol)
            rows = []
            for entry in self.entries:
                result = entry.results.get(protocol)
                peaks = {} if result is None else {(m, peak.statistic): peak for m, peak in result.peaks.items()}
                rows.append([entry.name, *(_peak(peaks.get((metric, spec.name))) for metric, spec in headlines)])
            made[protocol] = Table(["model", *(f"{metric} {spec.name}" for metric, spec in headlines)], rows)
        return made

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page (`atlas.html` in an existing folder); returns its path. The reports of the
        single models are linked where they are beside it.

        Raises:
            OSError: it cannot be written.
        """
        path = Path(path)
        return write_page(path, render_atlas(self, path if path.is_dir() else path.parent), name="atlas.html")


def render_atlas(atlas: AtlasRecord, folder: Path | None = None) -> str:
    """The page as a string of HTML; `folder`: where it will be, for links."""
    baselines = [pair for pair in atlas.similarities if pair.kind == "baseline"]
    families = _families(atlas, baselines)
    sections = [
        Section("At a glance", _glance(atlas, families, baselines)),
        Section("Headlines", joined([paragraph(_about_headlines(atlas)), *_headlines(atlas, folder)])),
        *(family.section(atlas, baselines) for family in families),
        Section("How to read it", columns([("What it means", MEANS), ("What it does not prove", DOES_NOT_PROVE)])),
        *_warnings(atlas),
        Section("Provenance", tree(atlas.provenance), folded=True),
    ]
    if failures := atlas.failures:
        have = "model has" if len(failures) == 1 else "models have"
        listed = bullets(html("<strong>{}</strong> {}", name, error) for name, error in failures.items())
        sections.insert(0, Section(f"{len(failures)} {have} no or not all results", listed, kind="alarm", listed=False))
    return render_page(
        "Which models are similar inside, and where",
        sections,
        kicker="Atlas of moral indifference",
        facts=_facts(atlas),
        footer="Written by sae_moral. An en dash marks what was not computed. Full precision is in atlas.json.",
        name="Atlas of moral indifference",
    )


def _facts(atlas: AtlasRecord) -> list[tuple[str, str]]:
    data = atlas.provenance["data"]
    measured = [entry for entry in atlas.entries if entry.results]
    return [
        ("models", f"{len(measured)} of {len(atlas.entries)}"),
        ("data", str(data["source"]) if "source" in data else "data"),
        ("scenarios", count(data["n"])),
        ("distinct texts", count(data["n_texts"])),
        ("protocols", ", ".join(atlas.provenance["protocols"])),
        ("data sha256", str(data["sha256"])[:12]),
    ]


def _warnings(atlas: AtlasRecord) -> list[Section]:
    """What each diagnosis warns of: model, protocol, sentence."""
    found = [
        html("<strong>{}</strong>, {}: {}", entry.name, protocol, warning)
        for entry in atlas.entries
        for protocol, result in entry.results.items()
        for warning in result.warnings
    ]
    return [Section("Warnings of the single diagnoses", bullets(found), short="Warnings")] if found else []


def _headlines(atlas: AtlasRecord, folder: Path | None) -> list[Markup]:
    """Per protocol a table: families of rows, one cell per headline with its layer and interval."""
    found = []
    for protocol in atlas.provenance["protocols"]:
        specs = atlas.headlines(protocol)
        header = ["model", "blocks"]
        for metric, spec in specs:
            chance = "" if spec.chance is None else _note(f"chance {number(spec.chance)}")
            header.append(html("{}{}{}", metric, _note(spec.name), chance))
        rows: list[list[str]] = []
        kinds: list[str] = []
        published = [PUBLISHED.get((metric, spec.name)) for metric, spec in specs] if protocol == "paper" else []
        if any(published):
            rows.append(["arXiv 2603.15615, all 23 models", "", *(words or MISSING for words in published)])
            kinds.append("muted")
        families: dict[str, list[AtlasEntry]] = {}
        for entry in atlas.entries:
            families.setdefault(entry.family, []).append(entry)
        for family, entries in families.items():
            if len(entries) > 1:
                rows.append([family, ""])
                kinds.append("rowgroup")
            for entry in entries:
                result = entry.results.get(protocol)
                name = _name(entry, result, folder)
                if result is None:
                    error = entry.error or MISSING
                    rows.append([name, error if len(error) <= 140 else f"{error[:139]}…"])
                    kinds.append("error")
                    continue
                peaks = {(metric, peak.statistic): peak for metric, peak in result.peaks.items()}
                cells = [_cell(peaks.get((metric, spec.name))) for metric, spec in specs]
                rows.append([name, count(result.n_layers), *cells])
                kinds.append("top")
        caption = f"Headlines under protocol {protocol}"
        found += [heading(f"Protocol {protocol}"), data_table(Table(header, rows), caption, hidden=True, kinds=kinds)]
    return found


def _name(entry: AtlasEntry, result: AtlasResult | None, folder: Path | None) -> Markup:
    linked = result is not None and folder is not None and (folder / result.report).exists()
    name = html('<a href="{}">{}</a>', result.report, entry.name) if result and linked else html("{}", entry.name)
    return html('{} <span class="statistic">{}</span>', name, entry.variant) if entry.variant else name


def _peak(peak: Peak | None) -> str:
    return MISSING if peak is None else f"{number(peak.value)} ({peak.layer})"


def _cell(peak: Peak | None) -> str:
    ends = MISSING if peak is None else interval(peak.ci_low, peak.ci_high)
    return html("{}{}", _peak(peak), "" if ends == MISSING else _note(ends))


def _about_headlines(atlas: AtlasRecord) -> str:
    """How to read them, and what differing widths do to them."""
    widths = sorted({one.d_model for entry in atlas.entries for one in entry.results.values()})
    if len(widths) < 2:
        return HEADLINES
    return f"{HEADLINES} {WIDTHS.format(listed([str(width) for width in widths]))}"


def _note(words: str) -> Markup:
    return html('<span class="cell-note">{}</span>', words)


class _Family:
    """A section: variants of one model, models without variants, or unrelated pairs."""

    def __init__(
        self, title: str, entries: Sequence[AtlasEntry], compared: Sequence[PairSimilarity], index: int
    ) -> None:
        variants = [entry.variant for entry in entries]
        short = bool(compared) and len(entries) > 1 and None not in variants and len(set(variants)) == len(variants)
        self.title, self.entries, self.index = title, entries, index
        self.labels = {entry.name: (entry.variant or entry.name) if short else entry.name for entry in entries}
        self.pairs = {f"{self._label(pair.a)} · {self._label(pair.b)}": pair for pair in compared}
        self.drawn = {label: pair for label, pair in self.pairs.items() if pair.layers}

    def _label(self, name: str) -> str:
        return self.labels.get(name, name)

    def cards(self, baselines: Sequence[PairSimilarity], protocol: str) -> list[Markup]:
        """One card per pair: the median over layers, its range, and where unrelated models lie."""
        others = [] if self.pairs and next(iter(self.pairs.values())).kind == "baseline" else baselines
        return [
            _card(self.title, label, pair, others, protocol, f"part-{self.index}") for label, pair in self.drawn.items()
        ]

    def section(self, atlas: AtlasRecord, baselines: Sequence[PairSimilarity]) -> Section:
        """Curves, profiles, correlations, and every number folded away."""
        body: list[Markup] = []
        if self.drawn:
            medians = (f"{label}: median {number(pair.median('cka'))}" for label, pair in self.drawn.items())
            others = [] if next(iter(self.drawn.values())).kind == "baseline" else baselines
            body.append(
                figure(
                    cka_figure(self.drawn, others, atlas.provenance["preprocessing"]),
                    prefix=f"c{self.index}",
                    label=f"CKA over the depth. {'; '.join(medians)}.",
                    caption=CURVES.format(atlas.provenance["compared"]),
                )
            )
        for protocol in atlas.provenance["protocols"]:
            results = {self._label(e.name): e.results[protocol] for e in self.entries if protocol in e.results}
            if any(result.headlines for result in results.values()):
                words = f"Headlines over the layers, protocol {protocol}"
                mean = "; where a metric has no overall value, the mean of its groups" if protocol == "paper" else ""
                made = profiles_figure(results)
                label = f"{words}: {', '.join(results)}."
                body.append(figure(made, prefix=f"o{self.index}{protocol}", label=label, caption=f"{words}{mean}."))
        for label, pair in self.pairs.items():
            if pair.error:
                body.append(paragraph(f"{label}: not compared: {pair.error}", "note"))
        if any(pair.profiles for pair in self.pairs.values()):
            body.append(_correlations(self.pairs))
        body += [_layers(label, pair) for label, pair in self.drawn.items()]
        return Section(self.title, joined(body), id=f"part-{self.index}")


def _families(atlas: AtlasRecord, baselines: Sequence[PairSimilarity]) -> list[_Family]:
    """One for each family of several models, one for the models without variants, one for unrelated pairs."""
    members: dict[str, list[AtlasEntry]] = {}
    for entry in atlas.entries:
        if entry.results:
            members.setdefault(entry.family, []).append(entry)
    several = {family: entries for family, entries in members.items() if len(entries) > 1}
    alone = [entry for entries in members.values() if len(entries) == 1 for entry in entries]
    found: list[_Family] = []
    for family, entries in several.items():
        compared = [pair for pair in atlas.similarities if pair.family == family]
        found.append(_Family(f"Family {family}", entries, compared, len(found)))
    if alone:
        found.append(_Family("Models without variants" if several else "All models", alone, [], len(found)))
    if baselines:
        found.append(_Family("Unrelated models", [], baselines, len(found)))
    return found


def _glance(atlas: AtlasRecord, families: Sequence[_Family], baselines: Sequence[PairSimilarity]) -> Markup:
    protocol = atlas.provenance["compared"]
    made = [one for family in families for one in family.cards(baselines, protocol)]
    if not made:
        text = "No two models could be compared: the file names one model only, or the others have no results."
        return paragraph(text, "note")
    return joined([html(f"<p>{CKA}</p>", html("<em>{}</em>", protocol)), cards(made)])


def _card(
    title: str, label: str, pair: PairSimilarity, baselines: Sequence[PairSimilarity], protocol: str, place: str
) -> Markup:
    rows = [(row, row.cka) for row in pair.layers if row.cka is not None]
    middle, body = pair.median("cka"), []
    if middle is not None:
        (low, lowest), (high, highest) = (pick(rows, key=lambda one: one[1]) for pick in (min, max))
        references = [(one, value) for one in baselines if (value := one.median("cka")) is not None]
        marks = [Mark("interval", "all layers", f"{number(lowest)} to {number(highest)}", lowest, highest)]
        marks += [Mark("baseline", f"{one.a} · {one.b}", number(value), value, value) for one, value in references]
        body.append(scale([*marks, Mark("value", "", "", middle, middle)], ends=(0.0, 1.0)))
        ends = [("lowest", _at(lowest, low, pair)), ("highest", _at(highest, high, pair))]
        body.append(pairs([*ends, ("raw vectors", number(pair.median("raw")))], "marks"))
    ranks = [row for row in pair.profiles if row.protocol == protocol and row.spearman is not None]
    if ranks:
        words = [(row.metric, f"{number(row.spearman)} ({row.layers} layers)") for row in ranks]
        body += [paragraph("Rank correlation of the profiles over layers:", "sentence"), pairs(words, "marks")]
    return card(label, number(middle), joined(body), href=f"#{place}", kicker=title)


def _at(value: float, row: LayerSimilarity, pair: PairSimilarity) -> str:
    same = pair.depths[0] == pair.depths[1]
    layers = f"layer {row.layer_a}" if same else f"layers {row.layer_a} and {row.layer_b}"
    return f"{number(value)} ({layers})"


def _correlations(compared: Mapping[str, PairSimilarity]) -> Markup:
    rows = [(label, row) for label, pair in compared.items() for row in pair.profiles]
    seen: set[tuple[str, str]] = set()

    def once(label: str, row: ProfileCorrelation) -> tuple[str, str]:
        """Pair and protocol where they change, else nothing."""
        shown = (
            "" if any(label == one for one, _ in seen) else label,
            "" if (label, row.protocol) in seen else row.protocol,
        )
        seen.add((label, row.protocol))
        return shown

    cells = []
    kinds = []
    for label, row in rows:
        first, protocol = once(label, row)
        headline = html('{} <span class="statistic">{}</span>', row.metric, row.statistic)
        numbers = [number(value) for value in (row.spearman, row.pearson, row.mean_difference)]
        cells.append([first, protocol, headline, count(row.layers), *numbers])
        kinds.append("divider" if first and len(cells) > 1 else "")
    header = ["pair", "protocol", "headline", "layers", "Spearman", "Pearson", "mean difference"]
    caption = "Correlation of the profiles over matched layers. A difference is the second model minus the first."
    return data_table(Table(header, cells, keys=3), caption, kinds=kinds)


def _layers(label: str, pair: PairSimilarity) -> Markup:
    made = table(
        pair.layers,
        {f"layer of {pair.a}": lambda row: count(row.layer_a)},
        {
            f"layer of {pair.b}": lambda row: count(row.layer_b),
            "depth": lambda row: number(depth_of(row, pair.depths)),
            "CKA": lambda row: number(row.cka),
            "CKA interval": lambda row: interval(row.cka_low, row.cka_high),
            "raw": lambda row: number(row.raw),
            "raw interval": lambda row: interval(row.raw_low, row.raw_high),
        },
        always=("CKA", "raw"),
    )
    summary = f"CKA of {label} at all {len(pair.layers)} compared layers, {count(pair.n_texts)} texts"
    return folded_table(made, summary, f"CKA of {label} by layer")


def depth_of(row: LayerSimilarity, depths: tuple[int, int]) -> float:
    """Where two compared layers lie, from 0 to 1: the mean of the shares of the blocks they come after."""
    return ((row.layer_a + 1) / depths[0] + (row.layer_b + 1) / depths[1]) / 2


def cka_figure(
    compared: Mapping[str, PairSimilarity], baselines: Sequence[PairSimilarity], steps: Sequence[str]
) -> Figure:
    """Debiased CKA over the depth with its intervals, of prepared vectors on the left and of raw ones on the right.

    Args:
        compared: by the label of their line.
        baselines: those of unrelated models, drawn in grey.
        steps: how the vectors were prepared.
    """
    styles = line_styles(compared, width=1.8)
    depths = {depth for pair in compared.values() for depth in pair.depths}
    layers = depths.pop() if len(depths) == 1 else None  # of a common depth, layers stand on the axis by number
    drawn = [(f"unrelated {i}", pair, UNRELATED) for i, pair in enumerate(baselines)]
    drawn += [(label, pair, styles[label]) for label, pair in compared.items()]
    titles: tuple[tuple[Literal["cka", "raw"], str], ...] = (
        ("cka", ", ".join(STEPS[step] if step in STEPS else step for step in steps) or "prepared vectors"),
        ("raw", "vectors as captured"),
    )
    panels, lowest = [], 0.0
    for name, title in titles:
        lines = {label: _curve(pair, name, style, layers) for label, pair, style in drawn}
        values = [value for line in lines.values() for value in (*line.values, *line.low) if value is not None]
        lowest = min([lowest, *values])
        where = "layer" if layers else "share of the blocks passed"
        panels.append((title, lines, where))
    made = [
        Panel(
            title, lines, range(layers) if layers else None, xlabel=where,
            ylabel="" if i else "CKA, debiased", ylim=(max(lowest, DEEPEST) - 0.03, 1.03),
        )
        for i, (title, lines, where) in enumerate(panels)
    ]  # fmt: skip
    legend = [legend_line(label, style) for label, style in styles.items()]
    legend += [legend_line("unrelated models", UNRELATED)] if baselines else []
    return panels_figure(made, columns=2, height=3.2, sharey=True, legend=[legend])


def profiles_figure(results: Mapping[str, AtlasResult], only: str | None = None, *, width: float = WIDTH) -> Figure:
    """One panel per headline with every model's profile over its layers, or over its depth where depths differ.

    Args:
        results: of one protocol, by the label of their line.
        only: the headlines of this metric, with their intervals.
        width: in inches.
    """
    styles = line_styles(results)
    specs = {(m, spec.name): spec for result in results.values() for m, spec in result.headlines.items()}
    specs = {key: spec for key, spec in specs.items() if only in (None, key[0])}
    by_layer = len({result.n_layers for result in results.values()}) == 1
    layers = sorted({layer for result in results.values() for layer in result.layers}) if by_layer else None
    panels = []
    for (metric, statistic), spec in specs.items():
        lines = {}
        for label, result in results.items():
            profile = result.profiles.get(metric)
            if profile is not None and profile.statistic == statistic:
                x = [float(layer) if by_layer else (layer + 1) / result.n_layers for layer in profile.layers]
                ends = () if only is None else (profile.ci_low, profile.ci_high)
                lines[label] = Line(x, profile.values, styles[label], *ends, alpha=0.12)
        panels.append(
            Panel(
                f"{metric} · {statistic}", lines, layers, spec.chance,
                xlabel="layer" if by_layer else "share of the blocks passed",
                ylabel=value_label(spec),
            )
        )  # fmt: skip
    legend = [[legend_line(label, style) for label, style in styles.items()], [legend_line("chance", CHANCE)]]
    columns = 1 if len(panels) == 1 else 2
    return panels_figure(panels, columns=columns, height=2.3, below=0.5, legend=legend, width=width)


def _curve(pair: PairSimilarity, name: Literal["cka", "raw"], style: LineStyle, layers: int | None) -> Line:
    depth = [depth_of(row, pair.depths) for row in pair.layers]
    values, low, high = ([getattr(row, key) for row in pair.layers] for key in (name, f"{name}_low", f"{name}_high"))
    return Line([x * layers - 1 if layers else x for x in depth], values, style, low, high)
