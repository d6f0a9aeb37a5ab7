"""Measure metrics × layers with their controls: rows, profiles, peaks, comparisons, verdicts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.controls.baselines import BASELINES, BaselineKind, Captured, one_layer
from sae_moral.controls.checkpoint import Checkpoint
from sae_moral.controls.compare import DRAWN, Headline, compare, peak
from sae_moral.controls.draws import SCHEMES
from sae_moral.controls.inference import INTERVALS, interval, p_values
from sae_moral.controls.learning_curve import learning_curves
from sae_moral.controls.nuisance import FEATURES, explained_by_family
from sae_moral.controls.sample import Key, Sampled, Seen, with_length
from sae_moral.controls.sampler import Layer, Sampler
from sae_moral.controls.settings import Controls
from sae_moral.controls.verdict import judge
from sae_moral.data import MoralData
from sae_moral.data.reliability import known_reliability
from sae_moral.errors import DataError, unknown
from sae_moral.metrics import Metric
from sae_moral.metrics.base import card_of, declared
from sae_moral.metrics.preprocess import STEPS
from sae_moral.protocol import Protocol
from sae_moral.results import (
    OVERALL,
    Baseline,
    Comparison,
    ControlFacts,
    LearningCurve,
    MetricCard,
    Peak,
    Profile,
    Row,
    ValenceFacts,
    Verdict,
)
from sae_moral.shown import shown

if TYPE_CHECKING:
    from sae_moral.capture import Representations

LEFT = {kind.name for kind in BASELINES if kind.without is not None}
"""Baselines that are the model itself, less something: what is left is no other thing to compare it with."""
IN_ROWS = "bag of words"
"""The baseline whose values stand in the rows, of every statistic."""
LABELS: tuple[Literal["typicality", "valence"], ...] = ("typicality", "valence")
"""Labels whose reliability is estimated, and may be the ceiling of a statistic."""
CEILING = ("ceiling", "ceiling_low", "ceiling_high")


@shown()
@dataclass(frozen=True)
class Measured:
    """What a diagnosis holds, but for where it comes from.

    Attributes:
        rows, cards, profiles, peaks, verdicts, comparisons, baselines: as in `DiagnosisRecord` (there `metrics` for
            `cards`).
        preprocessing: facts of it, per layer.
        controls: which were run, and how; None where none were.
        ceilings: reliability of each of `LABELS`; None where it cannot be estimated.
        learning_curves: as in `DiagnosisRecord`.
    """

    rows: list[Row]
    cards: dict[str, MetricCard]
    profiles: dict[str, Profile]
    peaks: dict[str, Peak]
    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    baselines: dict[str, Baseline]
    preprocessing: dict[str, list[float]]
    controls: ControlFacts | None
    ceilings: dict[str, dict[str, Any] | None]
    learning_curves: dict[str, LearningCurve]


def check(data: MoralData, metrics: Sequence[Metric], protocol: Protocol, controls: Controls) -> None:
    """What would fail after hours otherwise: `measure` can be done with these, as far as can be known before.

    Raises:
        DataError: too few scenarios.
        ValueError: an unknown preprocessing step, permutation scheme or kind of interval.
    """
    for step in protocol.preprocessing:
        if step not in STEPS:
            raise unknown("preprocessing step", step, STEPS)
    for metric in metrics:
        for spec in declared(metric).values():
            if spec.null is not None and spec.null not in SCHEMES:
                raise unknown(f"permutation scheme of {metric.name}/{spec.name}", spec.null, SCHEMES)
            if spec.interval not in INTERVALS:
                raise unknown(f"interval of {metric.name}/{spec.name}", spec.interval, INTERVALS)
            if spec.direction not in ("higher", "lower", None):
                raise unknown(f"direction of {metric.name}/{spec.name}", str(spec.direction), ["higher", "lower"])
    for name in controls.margin:
        if name not in [metric.name for metric in metrics]:
            raise unknown("metric with a margin", name, [metric.name for metric in metrics])
    texts, what = len(np.unique(data.group)), "distinct text" if data.groups is None else "group of text"
    needed = max((k for metric in metrics if isinstance(k := getattr(metric, "folds", None), int)), default=1)
    if texts < needed:
        raise DataError(
            f"{texts} {what}{'s' * (texts != 1)}; the {protocol.name} protocol needs at least {needed}, "
            "one for each of its folds: give more scenarios, or a protocol with fewer folds"
        )
    least = sum(len(columns) for columns in FEATURES.values()) + 2
    if "nuisance" in controls and len(data) < least:
        raise DataError(
            f"{len(data)} scenario{'s' * (len(data) != 1)}; the control 'nuisance' needs at least {least}: give more "
            "scenarios, or leave it out (controls='none', or the names of others)"
        )


def measure(
    representations: Representations,
    data: MoralData,
    metrics: Sequence[Metric],
    protocol: Protocol,
    controls: Controls,
    *,
    baselines: Mapping[str, Captured] | None = None,
    device: torch.device | str = "cpu",
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
) -> Measured:
    """All metrics at all layers, one layer in memory at a time.

    Args:
        representations: captured vectors.
        data: their scenarios, with lengths.
        baselines: name → captures the same scenarios otherwise (`sae_moral.controls.baselines.captured`).
        device: where metrics are computed.
        checkpoint: where what was drawn at a layer is kept until all is done; None for nowhere.

    Raises:
        DataError, ValueError: as `check`.
    """
    check(data, metrics, protocol, controls)
    run = _Run(Sampler(data, metrics, protocol, controls, torch.device(device), progress, checkpoint))
    sampled, preprocessing, nuisance = run.layers(representations)
    cards = {m.name: card_of(m, (s.name for one in sampled[m.name] for s in one.statistics)) for m in metrics}
    rows = run.rows(cards, representations.layers, sampled)
    model = {name: run.headline(card, representations.layers, sampled[name]) for name, card in cards.items()}
    others = run.baselines(cards, model, representations, baselines or {}) if controls.names else {}
    if words := others.get(IN_ROWS):
        rows = [_with_baseline(row, words) for row in rows]
    rows, ceilings = _with_ceilings(rows, cards, data)
    at = {(row.metric, row.layer, row.group): row for row in rows if row.headline}
    peaks: dict[str, Peak] = {}
    comparisons: list[Comparison] = []
    for name, line in model.items():
        margin = controls.margin.get(name, cards[name].spec.margin)
        tests = {"alpha": controls.alpha, "margin": margin}
        if (found := peak(line, controls.level, **tests)) is not None:
            row = at.get((name, found.layer, found.group))
            ceiling = {} if row is None else {end: getattr(row, end) for end in CEILING}
            peaks[name] = dataclasses.replace(found, **ceiling)
        for against, other in others.items():
            if against in LEFT:
                continue
            one = compare(line, other.headlines[name], against, controls.level, **tests)
            comparisons += [] if one is None else [one]
    verdicts: dict[str, Verdict] = {}
    if controls.names:
        peaks, verdicts = judge(cards, peaks, comparisons, run.stuck(cards), controls.alpha)
    curves: dict[str, LearningCurve] = {}
    if "learning-curve" in controls:
        started = time.perf_counter()
        where = {metric.name: (metric, peaks[metric.name].layer) for metric in metrics if metric.name in peaks}
        more = {"protocol": protocol, "seed": controls.seed, "level": controls.level, "device": device}
        curves = learning_curves(representations, data, where, **more)
        run.seconds["learning curve"] = time.perf_counter() - started
    return Measured(
        rows,
        cards,
        {name: line.profile(controls.level) for name, line in model.items() if name in peaks},
        peaks,
        verdicts,
        comparisons,
        {name: other.record(controls.level) for name, other in others.items()},
        preprocessing,
        run.facts(nuisance) if controls.names else None,
        ceilings,
        curves,
    )


@dataclass(frozen=True)
class _Other:
    """A baseline as it was measured: the headlines with their resamples, and all values."""

    name: str
    headlines: dict[str, Headline]
    values: dict[str, list[Mapping[Key, float | None]]]

    def record(self, level: float) -> Baseline:
        """What is kept of it."""
        known = {name: line for name, line in self.headlines.items() if line.best is not None}
        return Baseline(self.name, {name: line.profile(level) for name, line in known.items()})


@dataclass
class _Run:
    sampler: Sampler
    seconds: dict[str, float] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    valence: ValenceFacts | None = None

    def layers(
        self, representations: Representations
    ) -> tuple[dict[str, list[Sampled]], dict[str, list[float]], dict[str, list[float]]]:
        """Every metric at every layer; the preprocessing's facts; what nuisance explains of the vectors."""
        started = time.perf_counter()
        facts: dict[str, list[float]] = {}
        nuisance: dict[str, list[float]] = {}
        known: set[int] = set()
        places = range(len(representations.layers))

        def seen(left: Collection[int]) -> Iterator[Layer]:
            for layer in self.sampler.layers(representations, "measure", positions=left):
                if layer.position not in known:
                    known.add(layer.position)
                    _append(facts, {**layer.facts, **layer.seen.facts})
                    if "nuisance" in self.sampler.controls:
                        _append(nuisance, explained_by_family(layer.seen.raw, self.sampler.data))
                yield layer

        found = self.sampler.shared({metric.name: places for metric in self.sampler.metrics}, seen, self.sampler.sample)
        self.seconds["measure"] = time.perf_counter() - started
        return {name: [own[i] for i in places] for name, own in found.items()}, facts, nuisance

    def baseline_layers(
        self,
        cards: Mapping[str, MetricCard],
        model: Mapping[str, Headline],
        representations: Representations,
        what: str,
        without: Representations | None = None,
    ) -> dict[str, list[Sampled]]:
        """Headlines of a baseline at every layer. They are drawn at one layer only, the one they are compared at, since
        draws cost ten times what values do: the baseline's best, or, of what is left of the model, the model's best.

        Args:
            representations: of the baseline's layers; of the model's, with `without`.
            what: it is, for the progress bar and the time taken.
            without: only metrics whose readers can, take these vectors of each layer out.
        """
        started = time.perf_counter()
        names = [metric.name for metric in (self.sampler.metrics if without is None else self.sampler.taking_out)]
        undrawn = np.full(self.sampler.controls.resamples if "interval" in self.sampler.controls else 0, np.nan)
        places = range(len(representations.layers))

        def seen(left: Collection[int]) -> Iterator[Layer]:
            return self.sampler.layers(representations, what, left, without)

        values = self.sampler.shared(dict.fromkeys(names, places), seen, self.sampler.value)
        found: dict[str, list[Sampled]] = {name: [] for name in names}
        for name, own in values.items():
            for value in (own[i] for i in places):
                nothing = {key: undrawn for key in value.values if len(undrawn)}
                found[name].append(dataclasses.replace(value, resampled=nothing))
        best = {
            name: (model[name] if without is not None else self.headline(cards[name], representations.layers, own)).best
            for name, own in found.items()
        }
        at = {name: [] if place is None else [place] for name, place in best.items()}
        draw = partial(self.sampler.sample, baseline=True, every=False)
        for name, own in self.sampler.shared(at, seen, draw).items():
            for place, drawn in own.items():
                found[name][place] = drawn
        self.seconds[what] = time.perf_counter() - started
        return found

    def rows(
        self, cards: Mapping[str, MetricCard], layers: Sequence[int], sampled: Mapping[str, Sequence[Sampled]]
    ) -> list[Row]:
        """One row per metric, statistic, layer and group; p-values corrected over the layers."""
        rows: list[Row] = []
        for name, own in sampled.items():
            keys = dict.fromkeys((s.name, s.group) for one in own for s in one.statistics)
            p = {
                key: p_values(
                    [one.values.get(key) for one in own],
                    [one.null.get(key) for one in own],
                    cards[name].statistics[key[0]].direction,
                )
                for key in keys
            }
            for i, (layer, one) in enumerate(zip(layers, own, strict=True)):
                for statistic in one.statistics:
                    key = statistic.name, statistic.group
                    ends = self._ends(one.resampled.get(key), statistic.value)
                    band = self._ends(one.null.get(key), statistic.value)
                    rows.append(
                        Row(
                            metric=name,
                            statistic=statistic.name,
                            layer=layer,
                            group=statistic.group,
                            value=statistic.value,
                            ci_low=ends[0],
                            ci_high=ends[1],
                            null_low=band[0],
                            null_high=band[1],
                            p_value=p[key][i],
                            n=statistic.n,
                            n_dropped=statistic.n_dropped,
                            headline=statistic.name == cards[name].headline,
                        )
                    )
        return rows

    def headline(
        self, card: MetricCard, layers: Sequence[int], own: Sequence[Sampled], like: Headline | None = None
    ) -> Headline:
        """A metric's headline over the layers, of the groups of another one if it is given."""
        draws = {name: [getattr(one, name) for one in own] for name in DRAWN}
        return Headline.of(card, layers, [one.values for one in own], draws, like.groups if like else None)

    def baselines(
        self,
        cards: Mapping[str, MetricCard],
        model: Mapping[str, Headline],
        representations: Representations,
        captured: Mapping[str, Captured],
    ) -> dict[str, _Other]:
        """Whatever was asked for, in the model's place: same metrics, same resamples of texts."""
        found: dict[str, _Other] = {}
        read: dict[str, Representations] = {}
        asked = {kind.name: kind for kind in BASELINES if kind.control is None or kind.control in self.sampler.controls}
        of_texts = self._of_texts([kind for kind in asked.values() if kind.vectors is not None])
        for name in [*asked, *(other for other in captured if other not in asked)]:
            kind = asked.get(name)
            layers: Sequence[int] = ()
            started = time.perf_counter()
            if name in of_texts:
                sampled = of_texts[name]
            elif kind is not None and kind.without is not None:
                if kind.without not in read or not self.sampler.taking_out:
                    continue
                layers = representations.layers
                sampled = self.baseline_layers(cards, model, representations, name, read[kind.without])
            elif name in captured:
                given = captured[name]()
                self.seconds[f"capture, {name}"] = time.perf_counter() - started
                layers = () if isinstance(given, Tensor) else given.layers
                read[name] = one_layer(given, self.sampler.data) if isinstance(given, Tensor) else given
                sampled = self.baseline_layers(cards, model, read[name], name)
                self.valence = self.valence or read[name].provenance.get("valence")
            else:
                continue
            lines = {one: self.headline(cards[one], layers, own, model[one]) for one, own in sampled.items()}
            found[name] = _Other(name, lines, {one: [s.values for s in own] for one, own in sampled.items()})
        return found

    def _of_texts(self, kinds: Sequence[BaselineKind]) -> dict[str, dict[str, list[Sampled]]]:
        """By baseline that is made of the scenarios' texts, its samples of every metric."""
        self.seconds |= dict.fromkeys((kind.name for kind in kinds), 0.0)

        def seen(left: Collection[int]) -> Iterator[Layer]:
            for i, kind in enumerate(kinds):
                if i in left and kind.vectors is not None:
                    started = time.perf_counter()
                    x = kind.vectors(self.sampler.data).to(self.sampler.device)
                    self.columns[kind.name] = x.shape[1]
                    yield Layer(i, Seen(x, x), {}, self.sampler.data)
                    self.seconds[kind.name] += time.perf_counter() - started

        def draw(metric: Metric, layer: Layer, wait: bool) -> Sampled | None:
            own = dataclasses.replace(layer, seen=Seen(layer.seen.raw, layer.seen.raw))
            return self.sampler.sample(
                with_length(metric), own, wait, baseline=True, every=kinds[layer.position].name == IN_ROWS
            )

        found = self.sampler.shared({metric.name: range(len(kinds)) for metric in self.sampler.metrics}, seen, draw)
        return {kind.name: {name: [own[i]] for name, own in found.items()} for i, kind in enumerate(kinds)}

    def stuck(self, cards: Mapping[str, MetricCard]) -> dict[str, float]:
        """By metric, the share of its labels' variation that cannot move; of those with permuted labels."""
        drawn = self.sampler.draws.of_kind("strata") if "null" in self.sampler.controls else {}
        schemes = {name: card.spec.null for name, card in cards.items()}
        return {name: drawn[scheme].stuck for name, scheme in schemes.items() if scheme in drawn}

    def facts(self, nuisance: Mapping[str, list[float]]) -> ControlFacts:
        """The settings, and what cannot be told from the rows."""
        controls, drawn = self.sampler.controls, self.sampler.draws.of_kind("strata")
        opening = self.sampler.draws.of_kind("opening")
        return ControlFacts(
            names=list(controls.names),
            level=controls.level,
            alpha=controls.alpha,
            seed=controls.seed,
            resamples=controls.resamples if "interval" in controls else None,
            permutations=controls.permutations if drawn or opening else None,
            monte_carlo=controls.monte_carlo,
            stratum=controls.stratum,
            labels_that_cannot_move={name: round(one.fixed, 4) for name, one in drawn.items()},
            variation_that_cannot_move={name: round(one.stuck, 4) for name, one in drawn.items()},
            variation_within_openings_that_cannot_move={name: round(one.stuck, 4) for name, one in opening.items()},
            spread_of_length={name: one.spread for name, one in drawn.items() if one.spread is not None},
            explained_by_nuisance=dict(nuisance),
            valence=self.valence,
            columns=dict(self.columns),
            seconds={name: round(value, 2) for name, value in self.seconds.items()},
        )

    def _ends(self, draws: Float[np.ndarray, "b"] | None, value: float | None) -> tuple[float | None, float | None]:
        if draws is None or value is None:
            return None, None
        return interval(draws, self.sampler.controls.level) or (None, None)


def _append(lists: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        lists.setdefault(name, []).append(round(value, 6))


def _with_baseline(row: Row, words: _Other) -> Row:
    """With the bag of words' value of the same statistic and group."""
    return dataclasses.replace(row, baseline=words.values[row.metric][0].get((row.statistic, row.group)))


def _with_ceilings(
    rows: Sequence[Row], cards: Mapping[str, MetricCard], data: MoralData
) -> tuple[list[Row], dict[str, dict[str, Any] | None]]:
    """The rows with the ceilings that their statistics declare, and the reliabilities of labels, by label.

    A reliability that is too uncertain gives no ceiling (`Reliability.why_no_ceiling`).
    """
    found = {label: known_reliability(data, label) for label in LABELS}
    by_label = {
        label: known.correlation_ceiling for label, known in found.items() if known and not known.why_no_ceiling
    }
    own = {(r.metric, r.statistic, r.layer, r.group): (r.value, r.ci_low, r.ci_high) for r in rows}

    def ceiling(row: Row) -> dict[str, float | None]:
        declared_as = cards[row.metric].statistics[row.statistic].ceiling
        if declared_as is None or declared_as in found:
            known = by_label.get(declared_as) if declared_as and row.group == OVERALL else None
        else:
            known = own.get((row.metric, declared_as, row.layer, row.group))
        return {} if known is None else dict(zip(CEILING, known, strict=True))

    kept = {
        label: known and {**dataclasses.asdict(known), "no_ceiling": known.why_no_ceiling}
        for label, known in found.items()
    }
    return [dataclasses.replace(row, **ceiling(row)) for row in rows], kept
