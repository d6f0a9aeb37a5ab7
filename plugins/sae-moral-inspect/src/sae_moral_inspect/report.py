"""A run as one self-contained HTML page: first what the judges are worth, then what they said."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from sae_moral.report.svg import inline_svg
from sae_moral_inspect.answers import BASELINE
from sae_moral_inspect.prompts import DIMENSIONS
from sae_moral_inspect.results import OVERALL, FlamesResults, Item, JudgeRow
from sae_moral_inspect.stats import MAX_FIRST, MIN_SCORED, Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTCOMES = ("win", "tie", "loss", "mixed", "identical", "unscored")
COLOURS = {"operated": "#D55E00", "shuffled": "#0072B2", "pretrained": "#009E73", "random": "#6b7280"}


def render(results: FlamesResults, items: Sequence[Item]) -> str:
    """The page as HTML. Everything that a model or a file said is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, span=span, percent=percent, p=p_value)
    figure = layer_figure(results)
    label = "Win share against the baseline by layer; all values are in the table."
    return environment.from_string(_resource("report.html.j2")).render(
        results=results,
        model=results.provenance.get("model"),
        provenance=results.provenance,
        judges=[(judge, worth(judge)) for judge in results.judges],
        figure=inline_svg(figure, prefix="layers", label=label) if figure else None,
        items=items,
        arms=[arm.name for arm in results.arms if arm.name != BASELINE],
        overall=OVERALL,
        dimensions=DIMENSIONS,
        outcomes=OUTCOMES,
        limits={"scored": MIN_SCORED, "first": MAX_FIRST},
        css=Markup(resources.files("sae_moral.report").joinpath("report.css").read_text(encoding="utf8")),
    )


def summary(results: FlamesResults) -> str:
    """The same in a few lines of text: judges first."""
    lines = []
    for judge in results.judges:
        lines += [f"judge {judge.name}", *(f"  {remark}" for remark in worth(judge))]
    for row in results.wins:
        rates = f"win share {span(row.share)}, the paper's rate {span(row.paper_rate)}"
        shown = row.refused or f"{rates}, sign test p {p_value(row.sign_p)}"
        lines.append(f"{row.arm} against {BASELINE}, {row.judge}: {shown}")
    for row in results.grades:
        if row.dimension == OVERALL:
            lines.append(f"{row.arm}, {row.judge}: harmless rate {row.rate:.1f} %, score {row.score:.1f}")
    for row in results.accounting:
        if any(end not in ("answered", "scored") for end in row.ends):
            ends = ", ".join(f"{n} {end}" for end, n in row.ends.items())
            lines.append(f"{row.arm}, {row.stage} {row.judge}: {ends}")
    return "\n".join(lines)


def worth(judge: JudgeRow) -> list[str]:
    """What a judge is worth, in sentences, worst first."""
    remarks = []
    bad = sum(judge.unscored.values())
    if asked := judge.comparisons + judge.gradings:
        readable = 1 - bad / asked
        remarks.append(f"{readable:.0%} of what it was asked {asked} times gave a result that can be read.")
    disagreement, blind = judge.disagreement, judge.disagreement_if_blind
    if disagreement.value is not None:
        remarks.append(
            f"Swapping the two answers changed {span(disagreement)} of its outcomes; "
            f"a judge that does not read them, with the same share of A, B and ties, changes {percent(blind)}."
        )
        if disagreement.high >= blind:
            remarks.append("So it cannot be told from a judge that does not read the answers.")
        remarks.append(f"It chose the answer shown first rather than the second by {span(judge.first, sign=True)} net.")
    verdicts = judge.verdicts
    if len(verdicts) == 1 and sum(verdicts.values()) > 1:
        remarks.append(f"It said {next(iter(verdicts))} every time.")
    if len(judge.grades) == 1 and judge.graded > 1:
        remarks.append(f"It gave the same grade ({next(iter(judge.grades))}) every time.")
    for what in ("verdicts", "grades"):
        if found := getattr(judge, f"consistency_{what}"):
            remarks.append(f"Asked the same again, it gave the same {what[:-1]} in {span(found)} of cases.")
    if not (judge.consistency_verdicts or judge.consistency_grades):
        remarks.append("Its self-consistency was not measured (it is with --repeats 2).")
    return remarks


def layer_figure(results: FlamesResults) -> Figure | None:
    """Win share by layer with its interval, one line per kind of arm and α; None without a win share."""
    from matplotlib.figure import Figure

    arms = {arm.name: arm for arm in results.arms}
    lines: dict[tuple[str, str, float], list[tuple[int, Estimate]]] = {}
    for row in results.wins:
        arm = arms[row.arm]
        if row.share and row.share.value is not None and arm.layer is not None:
            lines.setdefault((row.judge, arm.kind, arm.alpha), []).append((arm.layer, row.share))
    if not lines:
        return None
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot(ylim=(0, 1), xlabel="layer", ylabel="win share")
    axes.axhline(0.5, color="#9aa1ab", linewidth=1)
    for shift, ((judge, kind, alpha), points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        x = [layer + 0.06 * (shift - len(lines) / 2) for layer, _ in points]
        y = [share.value for _, share in points]
        error = [[share.value - share.low for _, share in points], [share.high - share.value for _, share in points]]
        label = f"{kind} α{alpha:g}" + (f", {judge}" if len(results.judges) > 1 else "")
        axes.errorbar(x, y, yerr=error, marker="o", capsize=2, label=label.replace("$", r"\$"), color=COLOURS.get(kind))
    axes.set_xticks(sorted({layer for points in lines.values() for layer, _ in points}))
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return figure


def number(value: float | None, digits: int = 2) -> str:
    """A number, or an en dash for what was not computed."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, *, sign: bool = False) -> str:
    """A share as percent."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.0%}".replace("%", " %")


def span(estimate: Estimate | None, *, sign: bool = False) -> str:
    """An estimate with its interval, in percent."""
    if estimate is None or estimate.value is None:
        return "–"
    low, high = (percent(end, sign=sign) for end in (estimate.low, estimate.high))
    return f"{percent(estimate.value, sign=sign)} [{low}, {high}]"


def p_value(p: float | None) -> str:
    """A p-value."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _resource(name: str) -> str:
    return resources.files("sae_moral_inspect").joinpath(name).read_text(encoding="utf8")
