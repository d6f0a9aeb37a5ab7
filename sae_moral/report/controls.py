"""A page's section on controls: tables of peaks, comparisons and ceilings, settings, and what no control proves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from sae_moral.report.card import names_not_run, names_run, not_run_sentence
from sae_moral.report.figures import explained_figure
from sae_moral.report.page import Section, data_table, figure, heading, joined, pairs, paragraph
from sae_moral.report.words import (
    CONTROLS,
    WORDS_BASELINE,
    count,
    detail,
    interval,
    number,
    p_value,
    percent,
    signed,
    with_interval,
)
from sae_moral.results import OVERALL, ControlFacts, DiagnosisRecord
from sae_moral.tables import Table, table

LIMITS = {
    CONTROLS["interval"]: "They are about other texts of the same source, not about other sources, prompts or "
    "annotators. An interval at the best layer does not undo that the layer was chosen; p does.",
    CONTROLS["null"]: "Beyond them, labels go with something in the vectors; that it is morality is not shown. Words, "
    "topics within a foundation and whatever else goes with the labels is not in this null.",
    CONTROLS["nuisance"]: "Only length, the share of the first position and word frequency are in it. Topic, register "
    "and syntax are not.",
    WORDS_BASELINE: "What exceeds it need not be understanding: knowing synonyms is enough. What does not exceed it "
    "may still hold morality: a mean over tokens blurs the exact words that the bag sees.",
    CONTROLS[
        "valence"
    ]: "What is left beyond it need not be morality: valence that its reader does not see is still in "
    "it. What goes with it need not be valence alone: pleasant is part of what good means.",
    CONTROLS["embeddings"]: "What exceeds them needs the other words of a scenario or their order, not morality.",
    CONTROLS["random-weights"]: "What exceeds them was learnt in training, which teaches words and topics, too. They "
    "are no zero: random features keep which words a text has.",
    CONTROLS[
        "selectivity"
    ]: "Beyond them, labels go with more than the word that a text opens with. Its other words may be what is read.",
    "ceiling": "It is what noise in the labels leaves reachable. A number below it may fall short of it for any "
    "reason.",
}
"""Control → what it does not prove."""
GROUPS = {"equal": "equal text", "near": "near text", "own": "the user’s own"}
BASELINES_NOTE = (
    "Both peaks are chosen anew in every resample of texts, the same resamples for both. p is one-sided: the chance of "
    "a difference as large where there is none. A baseline that does not depend on a layer has none. More: p is below "
    "alpha. Not more: no layer leads by more than the margin (at most: the upper bound of the lead at 1 − alpha). "
    "Cannot tell: neither; a lead as in the column “shows” would have been shown four times in five."
)
LEFT_NOTE = (
    "The model’s own vectors at the peak’s layer, from which readers took out, each on its training folds, the scores "
    "of readers of pleasant and unpleasant sentences that are not moral. left: the share of what the headline has "
    "beyond chance. The layer was chosen with valence in it. What is left need not be morality: valence that those "
    "readers do not see is still in it."
)
EXPLAINED_NOTE = (
    "Share of the variance of the vectors as captured, before the protocol’s preprocessing, that a linear fit "
    "explains, adjusted for chance (it may fall a little below 0); sink: what 1 / tokens explains, the share that the "
    "first position has in a mean. Families overlap: their shares do not add up. A large share does not show that a "
    "metric’s number comes from it; the nuisance baseline does."
)


def controls_section(record: DiagnosisRecord) -> Section:
    """All that the controls of a diagnosis say."""
    controls = record.provenance["controls"]
    if controls is None:
        return Section("Controls", paragraph(not_run_sentence(record)))
    parts: list[Markup] = []
    if missing := names_not_run(record):
        parts.append(paragraph(f"Not run: {', '.join(missing)}."))
    if record.comparisons:
        made = comparison_table(record)
        kinds = ["missed" if row[-1] in ("not more", "cannot tell") else "" for row in made.rows]
        caption = "The model’s peak against each baseline’s"
        parts += [heading("Against baselines"), data_table(made, caption, compact=True, kinds=kinds)]
        parts.append(paragraph(f"{BASELINES_NOTE}{_left_out(made)}", "under"))
    if (made := left_table(record)).rows:
        parts += [heading("Left beyond valence"), data_table(made, "Headlines at their best layer", compact=True)]
        parts.append(paragraph(LEFT_NOTE, "under"))
    if record.peaks:
        made = peak_table(record)
        parts += [heading("Peaks"), data_table(made, "The best layer of each headline", compact=True)]
        parts.append(paragraph(_peaks_note(record, made), "under"))
    parts += [*_regrouped(record), *_ceilings(record), *_explained(record, controls)]
    parts += [heading("Settings"), paragraph(" ".join(settings(controls)))]
    told = [*names_run(record), *(["ceiling"] if ceiling_table(record).rows else [])]
    limits = [(name, words) for name, words in LIMITS.items() if name in told]
    parts += [heading("What each control does not prove"), pairs(limits, "limits")]
    return Section("Controls", joined(parts), folded=True)


def comparison_table(record: DiagnosisRecord) -> Table:
    """One row per metric and baseline: both peaks, their difference with interval and p, and the outcome."""
    return table(
        record.comparisons,
        {"metric": lambda one: one.metric, "against": lambda one: one.against},
        {
            "model": lambda one: number(one.value),
            "layer": lambda one: count(one.layer),
            "baseline": lambda one: number(one.against_value),
            "its layer": lambda one: "none" if one.against_layer is None else count(one.against_layer),
            "difference": lambda one: signed(one.difference),
            "interval": lambda one: interval(one.ci_low, one.ci_high),
            "p": lambda one: p_value(one.p_value),
            "at most": lambda one: signed(one.at_most),
            "margin": lambda one: number(one.margin),
            "shows": lambda one: signed(one.detectable),
            "outcome": lambda one: one.outcome,
        },
    )


def left_table(record: DiagnosisRecord) -> Table:
    """One row per metric whose readers can do without valence: its peak, and the value there without valence."""
    baseline = record.baselines.get("without valence")
    known = {} if baseline is None else baseline.profiles
    at = {name: known[name].layers.index(peak.layer) for name, peak in record.peaks.items() if name in known}
    return table(
        list(at),
        {"metric": lambda name: name, "statistic": lambda name: known[name].statistic},
        {
            "layer": lambda name: count(record.peaks[name].layer),
            "peak": lambda name: number(record.peaks[name].value),
            "without valence": lambda name: number(known[name].values[at[name]]),
            "interval": lambda name: interval(known[name].ci_low[at[name]], known[name].ci_high[at[name]]),
            "left": lambda name: percent(_left(record, name, known[name].values[at[name]])),
        },
    )


def _left(record: DiagnosisRecord, metric: str, value: float | None) -> float | None:
    """Share of what a headline has beyond chance; None where chance is not one number, or nothing is beyond it."""
    chance, spec = record.metrics[metric].spec.chance, record.metrics[metric].spec
    if chance is None or value is None:
        return None
    sign = -1 if spec.direction == "lower" else 1
    beyond = sign * (record.peaks[metric].value - chance)
    return sign * (value - chance) / beyond if beyond > 0 else None


def peak_table(record: DiagnosisRecord) -> Table:
    """One row per metric with a value: its peak, interval, null, p-values, outcome against chance and ceiling."""
    keys = {"metric": lambda one: one.metric, "statistic": lambda one: one.statistic}
    if any(peak.group != OVERALL for peak in record.peaks.values()):
        keys["group"] = lambda one: one.group
    return table(
        list(record.peaks.values()),
        keys,
        {
            "layer": lambda one: count(one.layer),
            "peak": lambda one: number(one.value),
            "interval": lambda one: interval(one.ci_low, one.ci_high),
            "null peaks": lambda one: interval(one.null_low, one.null_high),
            "p": lambda one: p_value(one.p_value),
            "p, any length": lambda one: p_value(one.p_value_any_length),
            "p, over metrics": lambda one: p_value(one.p_family),
            "p, opening words": lambda one: p_value(one.p_value_within_opening),
            "at most": lambda one: signed(one.at_most),
            "margin": lambda one: number(one.margin),
            "shows": lambda one: number(one.detectable),
            "ceiling": lambda one: with_interval(one.ceiling, one.ceiling_low, one.ceiling_high),
        },
    )


def regrouped_table(record: DiagnosisRecord) -> Table:
    """One row per headline, of the model and of the bag of words: with the groups measured with, and with others."""
    return table(
        record.regrouped,
        {"metric": lambda one: one.metric, "of": lambda one: one.what},
        {
            "layer": lambda one: "none" if one.layer is None else count(one.layer),
            "as measured": lambda one: number(one.value),
            "grouped otherwise": lambda one: number(one.other_value),
        },
    )


def ceiling_table(record: DiagnosisRecord) -> Table:
    """Every statistic and group with a ceiling, at the best layer of its metric's headline."""
    peaks = record.peaks
    rows = [row for row in record.rows if row.metric in peaks and row.layer == peaks[row.metric].layer]
    return table(
        [row for row in rows if row.ceiling is not None],
        {"metric": lambda row: row.metric, "statistic": lambda row: row.statistic, "group": lambda row: row.group},
        {
            "layer": lambda row: count(row.layer),
            "value": lambda row: number(row.value),
            "ceiling": lambda row: with_interval(row.ceiling, row.ceiling_low, row.ceiling_high),
        },
    )


def settings(controls: ControlFacts) -> list[str]:
    """How many draws were taken and how well they pin numbers down, a sentence per control."""
    names, errors, found = controls["names"], controls["monte_carlo"], []
    if "interval" in names and controls["resamples"] is not None:
        error = f"{100 * errors['interval_tail']:.1f} % (standard error of Monte Carlo)"
        found.append(
            f"Intervals hold {percent(controls['level'])} and come from {count(controls['resamples'])} resamples of "
            f"texts, and the share cut off at either end is known to ± {error}."
        )
    if "null" in names and controls["permutations"] is not None:
        n, stratum = controls["permutations"], controls["stratum"]
        among = "texts of any length"
        if stratum is not None:
            among = f"texts of about equal length (strata of {count(stratum)} or more)"
        found.append(
            f"Labels were permuted {count(n)} times among {among}: no p can be below {number(1 / (n + 1))}, and a p "
            f"near {detail(controls['alpha'])} is known to ± {number(errors['p_value'])} (standard error of Monte "
            "Carlo)."
        )
        found += _movement(controls)
    if "selectivity" in names and (shares := controls.get("variation_within_openings_that_cannot_move")):
        found.append(
            f"Among texts that open with the same word, {_span(shares.values())} of the variation of labels cannot "
            "move."
        )
    found.append(
        f"Tests are at p < {detail(controls['alpha'])}. A metric is found when all of its tests hold; both that and "
        "being beyond permuted labels are corrected for the number of metrics (Holm). "
        f"Everything was drawn from seed {detail(controls['seed'])}."
    )
    if seconds := controls["seconds"]:
        found.append(f"Measuring with all of this took {count(sum(seconds.values()))} s.")
    return found


def _movement(controls: ControlFacts) -> list[str]:
    """How far labels could move, a sentence each."""
    found = []
    if shares := controls["labels_that_cannot_move"]:
        found.append(
            f"{_span(shares.values())} of the scenarios had no other text of their kind to swap labels with, and kept "
            "theirs."
        )
    if shares := controls.get("variation_that_cannot_move"):
        found.append(f"{_span(shares.values())} of the variation of labels cannot move.")
    if spreads := list(controls.get("spread_of_length", {}).values()):
        equal = _span(spread["equal"] for spread in spreads)
        mean, largest = max(spread["mean"] for spread in spreads), max(spread["largest"] for spread in spreads)
        found.append(
            f"{equal} of the texts swap labels with texts of exactly their length; lengths within a stratum differ by "
            f"up to {number(mean)} tokens on average, and by {count(largest)} at most."
        )
    return found


def _span(shares: Iterable[float]) -> str:
    every = list(shares)
    low, high = percent(min(every)), percent(max(every))
    return high if low == high else f"{low} to {high}"


def reliabilities(record: DiagnosisRecord) -> list[str]:
    """One sentence per label whose reliability is known."""
    found = []
    for label, known in record.provenance["ceilings"].items():
        if known is not None:
            new = "no_ceiling" in known  # before, typicality was taken over both poles and the neutral texts
            about = f"{label} within a foundation and pole" if label == "typicality" and new else label
            words = f"Repeated annotations of a text agree on {about} with {number(known['value'])}"
            ends = interval(known["ci_low"], known["ci_high"])
            reason = known["no_ceiling"] if new else "the interval reaches 0" if known["ci_low"] <= 0 else None
            short = f"; {reason}, so no ceiling follows" if reason else ""
            n = count(known["n_texts"])
            found.append(f"{words} (interval {ends}; {n} texts were annotated more than once){short}.")
    return found


def _regrouped(record: DiagnosisRecord) -> list[Markup]:
    """How much it changes which records are held together."""
    facts = record.provenance["data"].get("groups")
    if not record.regrouped or facts is None:
        return []
    one = record.regrouped[0]
    words = (
        f"Measured with {count(facts['n_groups'])} groups of {GROUPS[one.groups]} (the largest holds "
        f"{count(facts['largest'])} records; {count(facts['n_with_other_texts'])} share theirs with another text); "
        f"otherwise grouped: {count(one.other_n_groups)} groups of {GROUPS[one.other_groups]}, at the same layers."
    )
    if facts.get("groups_cut"):
        words += f" {count(facts['groups_cut'])} groups were too large and were cut."
    made = data_table(regrouped_table(record), "Headlines with other records held together", compact=True)
    return [heading("Groups"), made, paragraph(words, "under")]


def _ceilings(record: DiagnosisRecord) -> list[Markup]:
    made, told = ceiling_table(record), reliabilities(record)
    if not made.rows and not told:
        return []
    parts = [heading("Ceilings")]
    if made.rows:
        caption = "Statistics with a known ceiling, at the best layer of their metric’s headline"
        parts.append(data_table(made, caption, compact=True))
    return [*parts, paragraph(" ".join(told), "under")]


def _explained(record: DiagnosisRecord, controls: ControlFacts) -> list[Markup]:
    shares, layers = controls["explained_by_nuisance"], record.provenance["layers"]
    if not shares or not layers:
        return []
    label = f"Line figure: share of the vectors’ variance explained by {', '.join(shares)}, by layer."
    if "all" in shares:
        low, high = min(shares["all"]), max(shares["all"])
        label += f" All together: {100 * low:.0f} % to {100 * high:.0f} %."
    drawn = figure(explained_figure(layers, shares), prefix="explained", label=label, caption=EXPLAINED_NOTE)
    return [heading("What length and word frequency explain of the vectors"), drawn]


def _peaks_note(record: DiagnosisRecord, made: Table) -> str:
    words = []
    if "p" in made.header:
        words.append(
            "p: against the most extreme layer of every permutation of labels (null peaks), which accounts for the "
            "choice of the layer."
        )
        if "p, any length" in made.header:
            words.append(
                "p, any length: the same where labels may move between texts of any length, so what the vectors know "
                "of length counts as a finding there."
            )
        elif "remove_length" in record.provenance["protocol"]["preprocessing"]:
            words.append(
                "The protocol takes length out of the vectors, so labels were not also permuted regardless of it."
            )
        if "p, over metrics" in made.header:
            words.append("p, over metrics: the same, corrected for the number of metrics (Holm).")
        if "at most" in made.header:
            words.append(
                "At most: the upper bound at 1 − alpha of any layer’s distance from the mean of its permuted labels; "
                "within the margin, that is no more than chance. Shows: the value that would have been told from "
                "permuted labels four times in five."
            )
    if "p, opening words" in made.header:
        words.append("p, opening words: labels moved only among texts that open with the same word.")
    return " ".join(words) + _left_out(made, but="p, any length")


def _left_out(made: Table, but: str = "") -> str:
    names: Sequence[str] = [name for name in made.left_out if name != but]
    return f" Not computed: {', '.join(names)}." if names else ""
