"""What measurements leave behind, as types: computed once, kept typed, saved and loaded here.

Nothing is computed here but what follows from one definition for everybody: which group stands for a statistic
(`leading_groups`), and which layer is its best (`best_layer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Float
from typing_extensions import NotRequired, TypedDict

from sae_moral.io import jsonable, read_typed, record
from sae_moral.shown import shown

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 3
OVERALL = "overall"
MEAN_OF_GROUPS = "mean of groups"
Loaded = TypeVar("Loaded", bound="DiagnosisRecord")
Direction = Literal["higher", "lower"]
"""The side of its null on which a statistic lies where a model is not indifferent."""
Outcome = Literal["more", "not more", "cannot tell", "not computed"]
"""Of a comparison. `more`: shown to lie further from indifference. `not more`: shown to lead by no more than a stated
margin. `cannot tell`: neither. `not computed`: what it needs was not drawn, which never counts as passed."""


@shown()
@dataclass(frozen=True)
class StatisticSpec:
    """What a metric declares of one of its statistics.

    Attributes:
        name: of the statistic.
        direction: `higher` or `lower` is less indifferent; None: neither, so that tests are two-sided.
        null: what labels are permuted within, a scheme of `sae_moral.controls.draws.SCHEMES`; None for a statistic that
            does not depend on labels.
        interval: how its interval is made, a kind of `sae_moral.controls.inference.INTERVALS`.
        chance: its value without information; None where that is not one number.
        ceiling: what bounds it: a label (`typicality`, `valence`) whose reliability bounds its `overall` value, or
            another statistic of the metric, group by group.
        margin: the largest lead over a baseline, or over chance, that counts as none; None: no lead is too small, and
            `not more` is never said.
    """

    name: str
    direction: Direction | None = None
    null: str | None = "all"
    interval: str = "resampled"
    chance: float | None = None
    ceiling: str | None = None
    margin: float | None = None


@shown()
@dataclass(frozen=True)
class MetricCard:
    """What a metric says of itself.

    Attributes:
        name: of the metric.
        headline: the statistic that stands for it.
        statistics: one declaration each, by name; a headline is always among them.
        means, does_not_prove: sentences.
        parameters: everything else that shaped its numbers. JSON values.
    """

    name: str
    headline: str
    statistics: dict[str, StatisticSpec]
    means: str = ""
    does_not_prove: str = ""
    parameters: dict[str, Any] | None = None

    @property
    def spec(self) -> StatisticSpec:
        """The headline's declaration."""
        return self.statistics[self.headline]


@shown()
@dataclass(frozen=True)
class Row:
    """One number of one layer with its controls; what was not computed is None.

    Attributes:
        metric, statistic, layer, group: which number; the group is a foundation, a dimension, or `overall`.
        value: the number.
        ci_low, ci_high: its interval.
        null_low, null_high: band of permuted labels at this layer.
        p_value: against permuted labels, corrected for the choice of the best layer.
        ceiling: what the noise of the labels leaves to be reached.
        ceiling_low, ceiling_high: its interval.
        baseline: the bag of words' value.
        n, n_dropped: scenarios it rests on, and could not use.
        headline: whether the statistic is its metric's headline.
    """

    metric: str
    statistic: str
    layer: int
    group: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    ceiling: float | None = None
    baseline: float | None = None
    n: int | None = None
    n_dropped: int | None = None
    headline: bool = False
    ceiling_low: float | None = None
    ceiling_high: float | None = None


@shown()
@dataclass(frozen=True)
class Profile:
    """A headline over the layers.

    Attributes:
        metric, statistic: what it is of.
        group: `overall`, the only group, or `mean of groups` (unweighted; None at a layer that lacks one of them).
        layers: numbers, ascending; empty for a baseline without layers, whose one value then stands alone.
        values, ci_low, ci_high: one each per layer.
    """

    metric: str
    statistic: str
    group: str
    layers: tuple[int, ...]
    values: tuple[float | None, ...]
    ci_low: tuple[float | None, ...]
    ci_high: tuple[float | None, ...]


@shown()
@dataclass(frozen=True)
class Peak:
    """The layer at which a headline is least indifferent, chosen after the fact among `n_layers`.

    Attributes:
        metric, statistic, group: as in its `Profile`.
        layer, value: where, and how much.
        n_layers: how many layers competed.
        ci_low, ci_high: interval at that layer; the choice of the layer is not in it.
        null_low, null_high: band of the most extreme layer of every permutation.
        p_value: against the most extreme layer of every permutation.
        p_value_any_length: the same, where labels moved between texts of any length.
        ceiling: of the row of that layer and group.
        ceiling_low, ceiling_high: its interval.
        p_family: the p-value against permuted labels, corrected for the number of metrics (Holm 1979).
        p_value_within_opening: as `p_value`, where labels moved only among texts that open with the same word.
        smallest_p: what these labels and draws can give at least.
        outcome: against permuted labels.
        margin: the largest distance from chance that counts as none.
        at_most: no layer is further from chance than this; an upper bound at 1 − alpha.
        detectable: values up to this one are told from permuted labels less than four times in five.
        control_task: of files of version 0.1.
        selectivity: of files of version 0.1.
    """

    metric: str
    statistic: str
    group: str
    layer: int
    value: float
    n_layers: int
    ci_low: float | None = None
    ci_high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    p_value_any_length: float | None = None
    ceiling: float | None = None
    p_family: float | None = None
    p_value_within_opening: float | None = None
    smallest_p: float | None = None
    outcome: Outcome = "not computed"
    margin: float | None = None
    at_most: float | None = None
    detectable: float | None = None
    control_task: float | None = None
    selectivity: float | None = None
    ceiling_low: float | None = None
    ceiling_high: float | None = None

    @property
    def p_corrected(self) -> float | None:
        """Against permuted labels, corrected for all that it was corrected for."""
        return self.p_value if self.p_family is None else self.p_family


@shown()
@dataclass(frozen=True)
class Comparison:
    """A model's peak against a baseline's.

    Attributes:
        metric, statistic, against: what is compared, and with which baseline.
        layer, value: the model's peak.
        against_layer, against_value: the baseline's; its layer is None where it has none.
        difference: value − against_value.
        ci_low, ci_high, p_value: of the difference, p for the model lying further from indifference; None where
            resamples are missing.
        outcome: at alpha.
        margin: the largest lead that counts as none. A lead is a difference towards less indifference.
        at_most: no layer leads by more than this; an upper bound at 1 − alpha.
        detectable: leads up to this one are shown less than four times in five.
    """

    metric: str
    statistic: str
    against: str
    layer: int
    value: float
    against_layer: int | None
    against_value: float
    difference: float
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    outcome: Outcome = "not computed"
    margin: float | None = None
    at_most: float | None = None
    detectable: float | None = None


@shown()
@dataclass(frozen=True)
class Verdict:
    """What a metric's controls say together.

    Attributes:
        metric: of which metric.
        word: one of `sae_moral.controls.verdict.WORDS`.
        sentence: why; it may be quoted by itself.
        p_value: that the metric is `found`, corrected for the number of metrics; None where a comparison is missing.
        best_baseline: the baseline that the peak exceeds least.
        not_compared: baselines that it was not compared with.
    """

    metric: str
    word: str
    sentence: str
    p_value: float | None = None
    best_baseline: str | None = None
    not_compared: tuple[str, ...] = ()


@shown()
@dataclass(frozen=True)
class Baseline:
    """Another representation in the model's place: its name, and a profile per metric, by the metric's name."""

    name: str
    profiles: dict[str, Profile]


@shown()
@dataclass(frozen=True)
class Regrouped:
    """A headline at the model's best layer, and what it is with other records held together.

    Attributes:
        metric: which metric.
        statistic: its headline.
        layer: the model's best; None for a baseline.
        what: `model`, or the name of a baseline.
        groups: the kind of groups that were measured with.
        n_groups: how many there are.
        value: the headline with them.
        other_groups: the other kind.
        other_n_groups: how many there are.
        other_value: the headline with these; no draws are made.
    """

    metric: str
    statistic: str
    layer: int | None
    what: str
    groups: str
    n_groups: int
    value: float
    other_groups: str
    other_n_groups: int
    other_value: float


@shown()
@dataclass(frozen=True)
class LearningCurve:
    """A headline by how many scenarios it is measured on, and what it tends to (`sae_moral.controls.learning_curve`).

    Attributes:
        metric, statistic, group, layer: as in its `Peak`.
        sizes: numbers of scenarios, ascending; the last are all of them.
        values: mean over the draws of each size; None where a draw has no value.
        spread: standard deviation of the draws.
        draws: of each size.
        limit: of the power law that fits best; None where too few sizes have values.
        ci_low, ci_high: over all power laws that were tried, with the error of the sample.
        exponent: of the one that fits best.
        level: of the interval.
        seed: of the draws.
    """

    metric: str
    statistic: str
    group: str
    layer: int
    sizes: tuple[float, ...]
    values: tuple[float | None, ...]
    spread: tuple[float | None, ...]
    draws: int
    limit: float | None
    ci_low: float | None
    ci_high: float | None
    exponent: float | None
    level: float
    seed: int


class ModelFacts(TypedDict):
    """Which model it is (`sae_moral.provenance.describe_model`)."""

    name: str
    revision: str | None
    identity: str
    dtype: str
    wrapper: str
    weight_processing: str
    attached_saes: list[str]
    n_layers: int
    d_model: int
    quantisation: NotRequired[dict[str, Any]]


class LengthSpread(TypedDict):
    """How far texts that may swap labels differ in length, in tokens.

    mean: of longest − shortest in a text's stratum, over texts. largest: of any stratum. equal: share of the texts
    whose stratum has one length.
    """

    mean: float
    largest: int
    equal: float


class ValenceFacts(TypedDict):
    """What readers of pleasant and unpleasant sentences that are not moral make of the scenarios, one value per layer.

    sets: topics of the sentences. n_sentences, sha256: how many, and of which file. auroc: how well the reader of all
    sets tells virtue from vice; None without both. auroc_by_set: the same of each set's reader. auroc_of_sentences: how
    well sentences of one topic are read by readers of the others.
    """

    sets: list[str]
    n_sentences: int
    sha256: str
    auroc: list[float | None]
    auroc_by_set: list[list[float | None]]
    auroc_of_sentences: list[float]


class ControlFacts(TypedDict):
    """Which controls were run, and how."""

    names: list[str]
    level: float
    alpha: float
    seed: int
    resamples: int | None
    permutations: int | None
    monte_carlo: dict[str, float]
    stratum: int | None
    labels_that_cannot_move: dict[str, float]
    variation_that_cannot_move: NotRequired[dict[str, float]]
    variation_within_openings_that_cannot_move: NotRequired[dict[str, float]]
    spread_of_length: NotRequired[dict[str, LengthSpread]]
    explained_by_nuisance: dict[str, list[float]]
    valence: NotRequired[ValenceFacts | None]
    columns: NotRequired[dict[str, int]]
    seconds: dict[str, float]


class Provenance(TypedDict):
    """All that shaped a diagnosis. JSON values; `extra` of `data` and `capture` differ from source to source."""

    model: ModelFacts
    data: dict[str, Any]
    protocol: dict[str, Any]
    layers: list[int]
    saes: dict[str, Any] | None
    capture: dict[str, Any]
    preprocessing: dict[str, list[float]]
    controls: ControlFacts | None
    prototypes: dict[str, dict[str, float]] | None
    ceilings: dict[str, dict[str, Any] | None]
    seed: int
    versions: dict[str, str]
    created: str
    seconds: dict[str, float]
    warnings: list[str]
    migrated_from: NotRequired[int]


@shown()
@dataclass(frozen=True, eq=False)
class DiagnosisRecord:
    """Metrics × layers with their controls: what a diagnosis file holds, and what reports draw.

    Attributes:
        rows: one per metric, statistic, layer and group.
        metrics: what each metric says of itself, by name, in the order asked for.
        profiles, peaks, verdicts: per metric, by name; a metric without any value has no profile and no peak, and one
            without permuted labels the verdict `not tested` (none at all without controls).
        comparisons: of peaks with baselines.
        baselines: by name.
        provenance: model, data, protocol, capture, preprocessing, controls, warnings, seeds, versions, time taken.
        regrouped: headlines with other records held together; none without controls, or where it changes nothing.
        learning_curves: of each peak, by metric; empty unless asked for.
    """

    rows: list[Row]
    metrics: dict[str, MetricCard]
    profiles: dict[str, Profile]
    peaks: dict[str, Peak]
    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    baselines: dict[str, Baseline]
    provenance: Provenance
    regrouped: list[Regrouped] = field(default_factory=list)
    learning_curves: dict[str, LearningCurve] = field(default_factory=dict)

    FILE: ClassVar[str] = "diagnosis.json"

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a tidy table, one column per attribute of `Row`; None becomes NaN."""
        import dataclasses

        import pandas as pd

        columns = [field.name for field in dataclasses.fields(Row)]
        frame = pd.DataFrame([dataclasses.asdict(row) for row in self.rows], columns=columns)
        words = ("metric", "statistic", "layer", "group", "headline")
        return frame.astype(dict.fromkeys([name for name in columns if name not in words], float))

    def to_text(self) -> str:
        """The text of its file: a record of kind `diagnosis`."""
        content = {
            "provenance": self.provenance,
            "metrics": self.metrics,
            "results": self.rows,
            "profiles": self.profiles,
            "peaks": self.peaks,
            "verdicts": self.verdicts,
            "comparisons": self.comparisons,
            "baselines": self.baselines,
            "regrouped": self.regrouped,
            "learning_curves": self.learning_curves,
        }
        return record("diagnosis", SCHEMA_VERSION, content)

    def save(self, folder: str | Path) -> Path:
        """Write `folder/diagnosis.json` (never a part of it); returns its path."""
        from sae_moral.io import write_text

        path = Path(folder) / self.FILE
        write_text(path, self.to_text())
        return path

    @classmethod
    def load(cls: type[Loaded], path: str | Path) -> Loaded:
        """Read a `diagnosis.json`, or the folder that holds one; files of every older version load.

        Raises:
            DataError: not a diagnosis, damaged, or of a newer schema; names file and place.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        path = path / cls.FILE if path.is_dir() else path
        content = read_typed(path, _Content, "diagnosis", SCHEMA_VERSION, checked_from=2, migrate=_migrated)
        return cls(rows=content.results, **{name: getattr(content, name) for name in _NAMES})


@dataclass(frozen=True)
class _Content:
    """The content of a file, under its names there."""

    provenance: Provenance
    metrics: dict[str, MetricCard]
    results: list[Row]
    profiles: dict[str, Profile]
    peaks: dict[str, Peak]
    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    baselines: dict[str, Baseline]
    regrouped: list[Regrouped] = field(default_factory=list)
    learning_curves: dict[str, LearningCurve] = field(default_factory=dict)


_NAMES = (
    "provenance",
    "metrics",
    "profiles",
    "peaks",
    "verdicts",
    "comparisons",
    "baselines",
    "regrouped",
    "learning_curves",
)


def leading_groups(groups: Sequence[str]) -> tuple[str, list[str]]:
    """What stands for a statistic that has values in these groups: its name, and the groups it is the mean of."""
    if OVERALL in groups:
        return OVERALL, [OVERALL]
    return (groups[0], list(groups)) if len(groups) == 1 else (MEAN_OF_GROUPS, list(groups))


def best_layer(values: Float[np.ndarray, "layers"], direction: Direction | None) -> int | None:
    """Position of the value furthest from indifference (the first of equals, the highest without a direction); NaN
    takes no part. None where there is no value."""
    if not np.isfinite(values).any():
        return None
    return int(np.nanargmax(-values if direction == "lower" else values))


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Today's content from an older version's."""
    return _as_schema_3(jsonable(_as_schema_2(content)) if version == 1 else content)


def _as_schema_3(content: dict[str, Any]) -> dict[str, Any]:
    """Comparisons have an outcome. A verdict that took "not shown to be more" for "no more", or a comparison that was
    not computed for one that was passed, is one of less certain words."""
    controls = content["provenance"]["controls"]
    if controls is None:
        return content
    alpha, rest = controls["alpha"], {name: value for name, value in controls.items() if name != "control_tasks"}
    cards = content["metrics"].values()
    lower = [card["name"] for card in cards if card["statistics"][card["headline"]]["direction"] == "lower"]
    comparisons = [_with_outcome(one, alpha, one["metric"] in lower) for one in content["comparisons"]]
    peaks = {
        name: peak | {"outcome": "not computed" if (p := peak["p_value"]) is None else _outcome(p, alpha)}
        for name, peak in content["peaks"].items()
    }
    verdicts = {
        metric: _less_certain(one, {c["against"]: c["outcome"] for c in comparisons if c["metric"] == metric})
        for metric, one in content["verdicts"].items()
    }
    provenance = content["provenance"] | {"controls": rest}
    more = {"peaks": peaks, "comparisons": comparisons, "verdicts": verdicts, "provenance": provenance}
    return content | more


def _outcome(p_value: float, alpha: float) -> Outcome:
    return "more" if p_value < alpha else "cannot tell"


def _with_outcome(one: dict[str, Any], alpha: float, lower: bool) -> dict[str, Any]:
    """`not more` where the whole interval lies on the baseline's side."""
    if one["p_value"] is None:
        return one | {"outcome": "not computed"}
    at_most = -one["ci_low"] if lower else one["ci_high"]
    if one["p_value"] >= alpha and at_most <= 0:
        return one | {"outcome": "not more", "margin": 0.0, "at_most": at_most}
    return one | {"outcome": _outcome(one["p_value"], alpha)}


_OLD_WORDS = {"nuisance": "nuisance", "random weights": "untrained", "bag of words": "words"}


def _less_certain(verdict: dict[str, Any], outcomes: dict[str, Outcome]) -> dict[str, Any]:
    word, sentence = verdict["word"], verdict["sentence"]
    if word == "empty":
        told = sentence.replace(": morally empty as far as this metric sees", "")
        return verdict | {"word": "not shown", "sentence": told}
    if word not in ("found", *_OLD_WORDS.values()):
        return verdict
    done = {name for name, outcome in outcomes.items() if outcome != "not computed"}
    missing = [name for name in _OLD_WORDS if name not in done]
    least = [name for name in _OLD_WORDS if outcomes.get(name) == "not more"]
    needed = [name for name in ("nuisance", "bag of words") if name in missing]
    if word != "found":
        sentence = f"{sentence.rpartition(': ')[0]}."
    if needed:
        sentence += f" Not compared with {' and '.join(needed)}."
    found = "found" if word == "found" and not needed else "beyond chance"
    return verdict | {
        "word": _OLD_WORDS[least[0]] if least else found,
        "sentence": sentence,
        "not_compared": missing,
    }


def _as_schema_2(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 (sae_moral 0.1) as schema 2: what it kept in `provenance["metrics"]` and `provenance["controls"]`, and
    what its readers worked out from the rows anew each time."""
    if set(content) != {"provenance", "results"}:
        raise ValueError(f"it has {', '.join(content)}; expected provenance and results")
    rows: list[dict[str, Any]] = content["results"]
    old: dict[str, Any] = dict(content["provenance"])
    described, found = old.pop("metrics"), old.pop("controls")
    cards = {name: _old_card(name, about, rows) for name, about in described.items()}
    peaks = {name: _old_peak(name, peak) for name, peak in found.pop("peaks", {}).items() if peak is not None}
    profiles = {name: profile for name, card in cards.items() if (profile := _old_profile(card, rows, peaks))}
    for name, profile in profiles.items():
        own = [row for row in rows if row["metric"] == name and row["headline"]]
        peaks[name] = _completed(profile, cards[name].spec.direction, own, peaks.get(name, {}))
    verdicts = {
        name: {"metric": name, "word": verdict["verdict"], "sentence": verdict["sentence"]}
        for name, verdict in found.pop("verdicts", {}).items()
    }
    comparisons, baselines = found.pop("comparisons", []), found.pop("baselines", {})
    model = {"identity" if name == "weights" else name: value for name, value in old["model"].items()}
    controls = {"resamples": None, "permutations": None, "explained_by_nuisance": {}} | found
    return {
        "provenance": old | {"model": model, "controls": controls if found else None, "migrated_from": 1},
        "metrics": cards,
        "results": rows,
        "profiles": profiles,
        "peaks": {name: peaks[name] for name in cards if name in peaks},
        "verdicts": verdicts,
        "comparisons": comparisons,
        "baselines": {name: _old_baseline(name, baseline, profiles) for name, baseline in baselines.items()},
    }


def _old_card(name: str, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> MetricCard:
    """A metric's declarations: its direction stood in English words, its null and its interval under other names."""
    told = str(about["higher_is"] or "").casefold()
    default = "higher" if "less indifferent" in told else "lower" if "more indifferent" in told else None
    directions: dict[str, Direction | None] = {"greater": "higher", "less": "lower", "two-sided": None}
    kinds = {"": "resampled", "given": "fixed", "averaged": "fixed_by_fold", "linear": "linearised"}
    stated, intervals, nulls = about.get("alternatives", {}), about.get("readers", {}), about.get("nulls", "all")
    given = [row["statistic"] for row in rows if row["metric"] == name]
    statistics = {
        statistic: StatisticSpec(
            name=statistic,
            direction=directions[stated[statistic]] if statistic in stated else default,
            null=nulls if isinstance(nulls, str) else nulls.get(statistic),
            interval=kinds[intervals.get(statistic, "")],
            chance=about["chance"] if statistic == about["headline"] else None,
        )
        for statistic in dict.fromkeys([about["headline"], *given])
    }
    texts = {text: about[text] or "" for text in ("means", "does_not_prove")}
    return MetricCard(name, about["headline"], statistics, **texts, parameters=about.get("parameters"))


def _old_profile(card: MetricCard, rows: Sequence[dict[str, Any]], peaks: dict[str, dict[str, Any]]) -> Profile | None:
    """A headline over the layers; None where it has no value. A mean's interval is known at its peak alone."""
    own = {(row["layer"], row["group"]): row for row in rows if row["metric"] == card.name and row["headline"]}
    known = dict.fromkeys(group for (_, group), row in own.items() if row["value"] is not None)
    every = {group for _, group in own}
    if not known or (OVERALL in every and OVERALL not in known):
        return None
    name, groups = leading_groups(list(known))
    layers = sorted({layer for layer, _ in own})
    at = [[own[layer, group] for group in groups if (layer, group) in own] for layer in layers]
    whole = [len(found) == len(groups) and all(row["value"] is not None for row in found) for found in at]
    pairs = list(zip(at, whole, strict=True))
    values = [sum(row["value"] for row in found) / len(found) if ok else None for found, ok in pairs]
    peak = peaks.get(card.name, {})
    ends = {
        end: tuple(
            found[0][end] if len(groups) == 1 and ok else peak[end] if peak and peak["layer"] == layer else None
            for layer, found, ok in zip(layers, at, whole, strict=True)
        )
        for end in ("ci_low", "ci_high")
    }
    return Profile(card.name, card.headline, name, tuple(layers), tuple(values), **ends)


def _old_peak(name: str, peak: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in peak.items() if key not in ("alternative", "null_peak_low", "null_peak_high")}
    return kept | {"metric": name, "null_low": peak.get("null_peak_low"), "null_high": peak.get("null_peak_high")}


def _completed(
    profile: Profile, direction: Direction | None, rows: Sequence[dict[str, Any]], peak: dict[str, Any]
) -> dict[str, Any]:
    """A peak with its group, its ceiling and the number of layers; chosen here where no controls were run."""
    values = np.array([np.nan if value is None else value for value in profile.values])
    if not peak:
        if (best := best_layer(values, direction)) is None:
            return {}
        peak = {"metric": profile.metric, "statistic": profile.statistic}
        peak |= {"layer": profile.layers[best], "value": profile.values[best]}
    at = [row for row in rows if row["layer"] == peak["layer"] and row["group"] == profile.group]
    return peak | {
        "group": profile.group,
        "n_layers": int(np.isfinite(values).sum()),
        "ceiling": at[0]["ceiling"] if at else None,
    }


def _old_baseline(name: str, baseline: dict[str, Any], models: dict[str, Profile]) -> Baseline:
    """The profiles of a baseline, without those that have no value; its group is called as the model's."""
    found: dict[str, Profile] = {}
    for metric, line in baseline["headlines"].items():
        values = tuple(line["value"])
        if any(value is not None for value in values):
            group = models[metric].group if metric in models else line["group"]
            nothing = (None,) * len(values)
            layers = tuple(baseline["layers"] or ())
            found[metric] = Profile(metric, line["statistic"], group, layers, values, nothing, nothing)
    return Baseline(name, found)
