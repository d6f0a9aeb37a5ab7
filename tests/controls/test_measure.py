"""Metrics × layers with their controls on planted representations: what the rows and the verdicts say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_moral.capture.vectors import Representations
from sae_moral.controls.draws import permutations, resamples
from sae_moral.controls.inference import holm
from sae_moral.controls.measure import check, measure
from sae_moral.controls.settings import Controls, get_controls
from sae_moral.controls.verdict import BASELINES
from sae_moral.data.moral_data import MoralData
from sae_moral.errors import DataError
from sae_moral.foundations import FOUNDATIONS, NEUTRAL, VICE, VIRTUE
from sae_moral.io import jsonable
from sae_moral.metrics import FunctionMetric, Metric, metric, resolve_metrics
from sae_moral.metrics.base import PreparedFunctionMetric, folds
from sae_moral.metrics.categorical import AuditedCategorical
from sae_moral.metrics.dimensional import AuditedDimensional
from sae_moral.metrics.gradient import AuditedGradient, PaperGradient
from sae_moral.metrics.preprocess import preprocess
from sae_moral.metrics.structural import AuditedStructural
from sae_moral.protocol import AUDITED, PAPER, Protocol
from sae_moral.results import StatisticSpec
from tests.metrics.worlds import balanced, lengths, moral_data

QUICK = Controls(resamples=100, permutations=99)
PROTOCOL = replace(AUDITED, folds=3)
VERBS = "helping thanking feeding teaching hugging robbing mocking hitting cheating ignoring counting painting".split()
NOUNS = "a neighbour|the old baker|my sister|a tired nurse|the team|two strangers|a very small dog".split("|")


def world(seed: int, n: int = 240, *, length: np.ndarray | None = None) -> MoralData:
    """Scenarios whose words and lengths have nothing to do with their labels."""
    rng = np.random.default_rng(seed)
    text = [f"{VERBS[rng.integers(12)]} {NOUNS[rng.integers(7)]} and {NOUNS[rng.integers(7)]} {i}" for i in range(n)]
    length = rng.integers(4, 20, n) if length is None else length
    return moral_data(*balanced(rng, n), text=text, length=length)


def noise(seed: int, n: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def representations(data: MoralData, layers: dict[int, np.ndarray]) -> Representations:
    """As a capture gives them: each distinct text once, in float32."""
    assert data.length is not None
    _, first, row = np.unique(data.group, return_index=True, return_inverse=True)
    read: Callable[[int], Tensor] = lambda layer: torch.from_numpy(layers[layer][first]).float()  # noqa: E731
    return Representations(tuple(layers), row, data.length, data.length + 3, {}, read)


def run(
    data: MoralData,
    layers: dict[int, np.ndarray],
    metrics: Sequence[Metric],
    controls: Controls = QUICK,
    protocol: Protocol = PROTOCOL,
    **options: Any,
) -> Any:
    """What was measured; which of its parts are None depends on the controls."""
    found = measure(representations(data, layers), data, metrics, protocol, controls, progress=False, **options)
    json.dumps(jsonable(dataclasses.asdict(found)), allow_nan=False)
    return found


def moral(data: MoralData, strength: float, seed: int = 0) -> np.ndarray:
    """Noise, and virtue against vice along one direction, the strength within either along another."""
    x = noise(seed, len(data))
    sign = np.choose(data.pole, [1.0, -1.0, 0.0])
    x[:, 0] += strength * sign
    x[:, 1] += 2 * strength * np.where(data.pole == NEUTRAL, 0.0, data.typicality - 0.625)
    x[:, 2] += strength * sign * data.typicality
    return x


def audited() -> list[Metric]:
    return [AuditedCategorical(3), AuditedGradient(3), AuditedStructural(folds=3), AuditedDimensional(3)]


@pytest.fixture(scope="module")
def data() -> MoralData:
    return world(0)


@pytest.fixture(scope="module")
def found(data: MoralData) -> Any:
    """A layer of noise and one with morality in it, under the audited protocol with all controls but a second model."""
    return run(data, {3: noise(1, len(data)), 8: moral(data, 2.0)}, audited())


@pytest.fixture(scope="module")
def empty(data: MoralData) -> Any:
    return run(data, {0: noise(2, len(data)), 1: noise(3, len(data))}, audited())


@pytest.fixture(scope="module")
def words_world() -> MoralData:
    """A word of each text gives its pole away."""
    plain = world(1)
    text = [f"{text} {'kind' if pole == VIRTUE else 'cruel' if pole == VICE else 'plain'}"
            for text, pole in zip(plain.text, plain.pole, strict=True)]  # fmt: skip
    return moral_data(plain.foundation, plain.pole, plain.typicality, text=text, length=plain.length)


class TestRows:
    def test_there_is_one_per_metric_layer_statistic_and_group(self, found: Any) -> None:
        keys = [(r.metric, r.layer, r.statistic, r.group) for r in found.rows]
        assert len(keys) == len(set(keys))
        assert {(r.metric, r.layer) for r in found.rows} == {
            (m, layer) for m in ("categorical", "gradient", "structural", "dimensional") for layer in (3, 8)
        }
        assert {r.ceiling for r in found.rows if r.metric != "categorical"} == {None}

    def test_headlines_have_value_interval_null_p_and_baseline(self, found: Any) -> None:
        rows = [r for r in found.rows if r.headline]
        assert {r.statistic for r in rows} == {"auroc", "spearman", "accuracy_polarity", "r2"}
        for r in rows:
            assert None not in (r.value, r.ci_low, r.null_low, r.p_value, r.baseline)
            assert r.ci_low <= r.ci_high and r.null_low < r.null_high
            assert 1 / 100 <= r.p_value <= 1

    def test_what_does_not_depend_on_labels_has_no_null_and_ami_no_interval(self, found: Any) -> None:
        for r in found.rows:
            if r.statistic in ("noise", "reliability", "prototype_reliability"):
                assert {r.null_low, r.null_high, r.p_value} == {None}
            if "_ami_" in r.statistic:
                assert r.ci_low is None and (r.value is None) == (r.p_value is None)

    def test_the_planted_layer_is_told_from_the_empty_one(self, found: Any) -> None:
        rows = {(r.metric, r.layer): r for r in found.rows if r.headline and r.group == "overall"}
        for name in ("categorical", "gradient", "structural", "dimensional"):
            assert rows[name, 8].p_value == 0.01 and rows[name, 8].ci_low > rows[name, 8].null_high
            assert rows[name, 3].p_value > 0.05

    def test_p_values_are_corrected_over_layers(self, data: MoralData, found: Any) -> None:
        alone = run(data, {3: noise(1, len(data))}, [AuditedCategorical(3)], Controls(("null",), permutations=99))
        both = {(r.statistic, r.group): r for r in found.rows if r.metric == "categorical" and r.layer == 3}
        pairs = [(r.p_value, both[r.statistic, r.group].p_value) for r in alone.rows if r.p_value]
        assert all(one <= corrected for one, corrected in pairs)
        assert np.mean([one < corrected for one, corrected in pairs]) > 0.5
        own = {(r.statistic, r.group): r.null_low for r in alone.rows}
        assert {key: r.null_low for key, r in both.items()} == own  # the band is the layer's own

    def test_the_baseline_is_the_bag_of_words_value_of_the_same_statistic_and_group(self, found: Any) -> None:
        per_layer: list[dict] = [{}, {}]
        for r in found.rows:
            per_layer[r.layer == 8][r.metric, r.statistic, r.group] = r.baseline
        assert per_layer[0] == per_layer[1]
        profile = found.baselines["bag of words"].profiles["categorical"]
        assert (profile.layers, profile.values) == ((), (per_layer[0]["categorical", "auroc", "overall"],))


class TestVerdicts:
    def test_a_null_world_is_empty(self, empty: Any) -> None:
        verdicts = {name: found.word for name, found in empty.verdicts.items()}
        assert list(verdicts) == ["categorical", "gradient", "structural", "dimensional"]
        assert set(verdicts.values()) <= {"empty", "not shown"}
        assert all(peak.outcome in ("not more", "cannot tell") for peak in empty.peaks.values())

    def test_a_planted_world_is_found(self, found: Any) -> None:
        verdicts = {name: one.word for name, one in found.verdicts.items()}
        assert verdicts == dict.fromkeys(("categorical", "gradient", "structural", "dimensional"), "found")
        assert {one.layer for one in found.peaks.values()} == {8}
        for sentence in (one.sentence for one in found.verdicts.values()):
            assert "nuisance" in sentence and "bag of words" in sentence

    def test_p_is_corrected_for_the_number_of_metrics(self, found: Any, empty: Any) -> None:
        for one in (found, empty):
            corrected = [peak.p_family for peak in one.peaks.values()]
            assert corrected == holm([peak.p_value for peak in one.peaks.values()])
        assert {peak.p_family for peak in found.peaks.values()} == {0.04}

    def test_a_peak_says_whether_it_reads_more_than_opening_words(self, found: Any) -> None:
        peak = found.peaks["categorical"]
        assert peak.p_value_within_opening == 0.02
        assert peak.p_value_any_length is None  # the protocol takes length out
        stuck = found.controls["variation_within_openings_that_cannot_move"]
        assert set(stuck) == {"labels", "pole", "typicality"} and 0 < stuck["pole"] < 1

    def test_opening_words_alone_are_not_beyond_labels_permuted_within_them(self) -> None:
        plain, rng = world(6, 480), np.random.default_rng(6)
        kind = np.where(rng.random(480) < 0.8, plain.pole, rng.integers(0, 3, 480))
        text = [f"{('kindly', 'cruelly', 'plainly')[k]} {text}" for k, text in zip(kind, plain.text, strict=True)]
        data = moral_data(plain.foundation, plain.pole, plain.typicality, text=text, length=plain.length)
        x = noise(7, 480) + 2 * np.eye(6)[kind]
        controls = Controls(("null", "selectivity"), permutations=99)
        peak = run(data, {0: x}, [AuditedCategorical(3)], controls).peaks["categorical"]
        assert peak.p_value == 0.01 and peak.p_value_within_opening > 0.05
        x = noise(7, 480) + 2 * np.eye(6)[data.pole]
        peak = run(data, {0: x}, [AuditedCategorical(3)], controls).peaks["categorical"]
        assert (peak.p_value, peak.p_value_within_opening) == (0.01, 0.02)

    def test_fewer_controls_never_find(self, words_world: MoralData) -> None:
        """Without intervals a model beside words at 1.000 was `found`, and with `controls="null"` anything."""
        layers, metrics = {0: moral(words_world, 0.6)}, [AuditedCategorical(3)]
        for names in (("null", "words"), ("null",)):
            one = run(words_world, layers, metrics, Controls(names, permutations=99))
            verdict = one.verdicts["categorical"]
            assert (verdict.word, verdict.p_value) == ("beyond chance", None)
            assert verdict.not_compared == tuple(BASELINES)
            assert verdict.sentence.endswith("valence words and valence reader.")
        one = run(words_world, layers, metrics, Controls(("null", "words"), permutations=99))
        against = {c.against: c for c in one.comparisons}
        assert against["bag of words"].against_value > 0.95 > one.peaks["categorical"].value
        assert {c.outcome for c in against.values()} == {"not computed"}

    def test_labels_that_cannot_move_are_not_testable_and_not_empty(self) -> None:
        data = world(8, 1200)
        alike = data.typicality * 20 + 4  # a length for each strength, so that strata have one label
        data = dataclasses.replace(data, length=np.round(alike).astype(int))
        controls = Controls(("interval", "null"), resamples=60, permutations=99)
        one = run(data, {0: noise(9, len(data))}, [AuditedGradient(3)], controls)
        verdict = one.verdicts["gradient"]
        assert verdict.word == "not testable" and "of the labels' variation cannot move" in verdict.sentence
        assert one.controls["variation_that_cannot_move"]["typicality"] > 0.5

    def test_a_margin_can_be_given(self, data: MoralData) -> None:
        controls = replace(QUICK, margin={"categorical": 0.123})
        one = run(data, {0: noise(1, len(data))}, [AuditedCategorical(3), AuditedGradient(3)], controls)
        assert [peak.margin for peak in one.peaks.values()] == [0.123, 0.05]
        assert {(c.metric, c.margin) for c in one.comparisons} == {("categorical", 0.123), ("gradient", 0.05)}
        with pytest.raises(ValueError, match="unknown metric with a margin 'categoric'; did you mean 'categorical'"):
            run(data, {}, [AuditedCategorical(3)], replace(QUICK, margin={"categoric": 0.1}))

    def test_length_alone_under_the_papers_protocol_is_length(self) -> None:
        data = length_world()
        x = noise(5, len(data), 4) * 0.3
        x[:, :2] += np.outer((lengths(data) - 25) / 10, [1, 2])
        found = run(data, {0: x}, [PaperGradient()], protocol=PAPER)
        peak, verdict = found.peaks["gradient"], found.verdicts["gradient"]
        assert peak.p_value_any_length == 0.01 and peak.p_value > 0.05
        assert verdict.word == "length"
        assert verdict.sentence.startswith("What gradient (spearman ")
        assert " sees is sentence length, not morality: beyond labels permuted freely (p = 0.010)" in verdict.sentence

    def test_morality_beside_length_is_not_taken_for_length(self) -> None:
        data = length_world()
        x = noise(5, len(data), 4) * 0.3
        x[:, 3] += 3 * np.where(data.pole == NEUTRAL, 0, data.typicality)
        found = run(data, {0: x}, [PaperGradient()], QUICK, PAPER)
        assert found.peaks["gradient"].p_value == 0.01
        assert found.verdicts["gradient"].word == "found"

    def test_what_words_give_by_themselves_is_words(self, words_world: MoralData) -> None:
        names = ("interval", "null", "nuisance", "words")
        found = run(words_world, {0: moral(words_world, 0.6)}, [AuditedCategorical(3)], replace(QUICK, names=names))
        assert found.peaks["categorical"].p_value == 0.01
        assert found.verdicts["categorical"].word == "words"
        assert found.verdicts["categorical"].best_baseline == "bag of words"
        words = next(c for c in found.comparisons if c.against == "bag of words")
        assert words.against_value > 0.95 and words.difference < 0 < words.p_value
        assert words.outcome == "not more" and words.at_most < words.margin == 0.02

    def test_what_random_weights_show_is_untrained(self, data: MoralData) -> None:
        layers = {0: moral(data, 1.0), 4: noise(9, len(data))}
        twin = {0: noise(8, len(data)), 4: moral(data, 2.0, seed=1)}
        controls = Controls(("interval", "null", "random-weights"), resamples=100, permutations=99)
        calls = []

        def capture() -> Representations:
            calls.append(1)
            return representations(data, twin)

        found = run(data, layers, [AuditedCategorical(3)], controls, baselines={"random weights": capture})
        assert calls == [1]
        assert found.verdicts["categorical"].word == "untrained"
        assert found.baselines["random weights"].profiles["categorical"].layers == (0, 4)
        (comparison,) = found.comparisons
        assert (comparison.layer, comparison.against_layer, comparison.against) == (0, 4, "random weights")
        assert {r.baseline for r in found.rows} == {None}


def length_world() -> MoralData:
    """Typicality goes with length: in each dimension ten texts have one of four lengths, half of them the length of
    their own typicality and half another's. So strata of ten texts are of exactly equal length."""
    n = 600
    rng = np.random.default_rng(4)
    f, pole, typicality = balanced(rng, n)
    level = typicality.copy()
    for cell in range(15):
        mixed = rng.permutation(np.flatnonzero(f * 3 + pole == cell))[:20]
        level[mixed] = rng.permutation(level[mixed])
    return moral_data(f, pole, typicality, text=world(4, n).text, length=np.round(40 * level).astype(int))


class TestThirdParty:
    @staticmethod
    def contrast(x: Tensor, data: MoralData) -> dict[str, Any]:
        """How far virtues lie from vices for their spread: ten lines that know nothing of controls."""
        virtue, vice = (x[torch.from_numpy(data.pole == pole)] for pole in (VIRTUE, VICE))
        if min(len(virtue), len(vice)) < 2:
            return {"contrast": None}
        distance = (virtue.mean(dim=0) - vice.mean(dim=0)).norm()
        spread = torch.cat([virtue - virtue.mean(dim=0), vice - vice.mean(dim=0)]).std()
        return {"contrast": float(distance / spread)}

    def test_it_gets_every_control_without_a_change(self, clean_registry: None, data: MoralData) -> None:
        metric(headline="contrast", name="mine")(self.contrast)
        (mine,) = resolve_metrics(["mine"], PROTOCOL)
        found = run(data, {2: noise(1, len(data)), 6: moral(data, 1.5)}, [mine])
        rows = {r.layer: r for r in found.rows}
        assert len(found.rows) == 2
        for r in rows.values():
            assert None not in (r.value, r.ci_low, r.null_low, r.p_value, r.baseline)
        assert rows[6].p_value == 0.02 and rows[6].null_high < rows[6].ci_low < rows[6].value
        assert rows[2].p_value > 0.05
        peak = found.peaks["mine"]
        assert (peak.layer, found.cards["mine"].spec.direction, peak.group) == (6, None, "overall")
        assert {c.against for c in found.comparisons} == {
            "nuisance",
            "opening word",
            "bag of words",
            "valence words",
        }
        assert all(0 < c.ci_low < c.ci_high and c.p_value < 0.05 for c in found.comparisons)
        assert found.verdicts["mine"].word == "found"

    def test_its_draws_are_an_explicit_loop(self, data: MoralData) -> None:
        mine, x = FunctionMetric("mine", "contrast", self.contrast), moral(data, 1.0)
        controls = Controls(("interval", "null"), resamples=60, permutations=19, level=0.5)
        (row,) = run(data, {0: x}, [mine], controls).rows
        vectors = preprocess(torch.from_numpy(x).float(), lengths(data), AUDITED.preprocessing)[0]
        index = permutations(data, "all", 19, fold=folds(data, 3, 0)).index.numpy()
        null = [self.contrast(vectors, data.relabelled(i))["contrast"] for i in index]
        copies = [np.repeat(np.arange(len(data)), w.int().numpy()) for w in resamples(data, 60)]
        sampled = [self.contrast(vectors[torch.from_numpy(r)], data.subset(r))["contrast"] for r in copies]
        assert (row.null_low, row.null_high) == pytest.approx(tuple(np.quantile(null, [0.25, 0.75])))
        assert (row.ci_low, row.ci_high) == pytest.approx(tuple(np.quantile(sampled, [0.25, 0.75])))
        greater = (1 + sum(value >= row.value for value in null)) / 20
        less = (1 + sum(value <= row.value for value in null)) / 20
        assert row.p_value == pytest.approx(min(1, 2 * min(greater, less)))

    def test_raw_metrics_get_the_captured_vectors(self, data: MoralData) -> None:
        seen: list[Tensor] = []
        spy = FunctionMetric("spy", "a", lambda x, data: seen.append(x) or {"a": 1.0}, raw=True)
        plain = FunctionMetric("plain", "a", lambda x, data: seen.append(x) or {"a": 1.0})
        x = noise(1, len(data)) + 5
        run(data, {0: x}, [spy, plain], get_controls("none"))
        torch.testing.assert_close(seen[0], torch.from_numpy(x).float().double())
        assert seen[1].mean().abs() < 1e-6


class TestSettings:
    def test_none_gives_only_values(self, data: MoralData, found: Any) -> None:
        bare = run(data, {3: noise(1, len(data)), 8: moral(data, 2.0)}, audited(), get_controls("none"))
        assert bare.controls is None and bare.verdicts == {} == bare.baselines and bare.comparisons == []
        columns = ("ci_low", "ci_high", "null_low", "null_high", "p_value", "baseline", "ceiling_low", "ceiling_high")
        assert {getattr(r, column) for r in bare.rows for column in columns} == {None}
        assert [replace(r, **dict.fromkeys(columns)) for r in found.rows] == bare.rows
        assert bare.preprocessing == found.preprocessing
        for name, peak in bare.peaks.items():  # the best layer needs no control
            assert (peak.layer, peak.value) == (found.peaks[name].layer, found.peaks[name].value)
            assert (peak.ci_low, peak.p_value, peak.p_value_within_opening) == (None, None, None)
            assert bare.profiles[name].values == found.profiles[name].values

    def test_each_control_fills_its_own_columns(self, data: MoralData) -> None:
        layers, metrics = {0: moral(data, 1.0)}, [AuditedCategorical(3)]
        found = {name: run(data, layers, metrics, Controls((name,), resamples=50, permutations=19)) for name in
                 ("interval", "null", "nuisance", "words", "selectivity")}  # fmt: skip
        columns = ("ci_low", "null_low", "p_value", "baseline")
        filled = {
            name: {column for column in columns for r in one.rows if getattr(r, column) is not None}
            for name, one in found.items()
        }
        assert filled == {
            "interval": {"ci_low"},
            "null": {"null_low", "p_value"},
            "nuisance": set(),
            "words": {"baseline"},
            "selectivity": set(),
        }
        assert found["selectivity"].peaks["categorical"].p_value_within_opening is not None
        assert list(found["nuisance"].controls["explained_by_nuisance"]) == ["length", "sink", "word frequency", "all"]
        words = {name: one.verdicts["categorical"].word for name, one in found.items()}
        assert {word for name, word in words.items() if name != "null"} == {"not tested"}
        assert {name: len(one.baselines) for name, one in found.items()} == {
            **dict.fromkeys(found, 0),
            "nuisance": 1,
            "words": 2,
        }

    def test_the_description_holds_every_number_that_shaped_it(self, found: Any) -> None:
        held = found.controls
        assert (held["resamples"], held["permutations"], held["seed"]) == (100, 99, 0)
        assert (held["level"], held["alpha"], held["stratum"]) == (0.95, 0.05, 5)
        assert set(held["labels_that_cannot_move"]) == {"all", "foundation", "labels", "pole", "typicality"}
        assert held["monte_carlo"]["p_value"] == pytest.approx((0.05 * 0.95 / 99) ** 0.5, abs=1e-5)
        assert held["names"] == list(QUICK.names)

    def test_equal_seeds_give_equal_results_and_others_others(self, data: MoralData) -> None:
        layers, metrics = {0: moral(data, 0.3)}, [AuditedCategorical(3), AuditedDimensional(3)]
        settings = Controls(resamples=50, permutations=19)
        first, again, other = (run(data, layers, metrics, replace(settings, seed=seed)) for seed in (0, 0, 1))
        for one in (first, again, other):
            one.controls["seconds"].clear()
        assert first == again
        assert [r.value for r in first.rows] == [r.value for r in other.rows]
        assert [r.ci_low for r in first.rows] != [r.ci_low for r in other.rows]
        assert [r.null_low for r in first.rows] != [r.null_low for r in other.rows]

    def test_a_missing_pole_leaves_holes_and_no_nan(self, data: MoralData) -> None:
        keep = ~data.items(1, VICE)
        part = data.subset(keep)
        found = run(part, {0: moral(part, 1.0)}, audited(), Controls(resamples=50, permutations=19))
        hole = [r for r in found.rows if r.group == FOUNDATIONS[1] and r.statistic == "auroc"]
        assert {getattr(r, c) for r in hole for c in ("value", "ci_low", "null_low", "p_value", "baseline")} == {None}

    def test_a_layer_that_does_not_vary_leaves_holes_and_no_nan(self, data: MoralData) -> None:
        layers = {0: np.zeros((len(data), 4)), 1: moral(data, 1.0)[:, :4]}
        found = run(data, layers, audited(), Controls(resamples=50, permutations=19))
        assert {one.layer for one in found.peaks.values()} == {1}
        found = run(data, {0: layers[0]}, audited(), Controls(resamples=50, permutations=19))
        assert "found" not in {one.word for one in found.verdicts.values()}


class TestWithoutOverall:
    """A metric of groups alone: its headline is their mean, the same for rows, profile, peak and baselines."""

    @staticmethod
    def by_group(x: Tensor, data: MoralData) -> dict[tuple[str, str], float | None]:
        found: dict[tuple[str, str], float | None] = {}
        for f, name in enumerate(FOUNDATIONS[:2]):
            sides = [x[torch.from_numpy(data.items(f, pole))].mean(dim=0) for pole in (VIRTUE, VICE)]
            far = float((sides[0] - sides[1]).norm())
            found["gap", name] = None if name == FOUNDATIONS[1] and far > 100 else far
        return found

    def test_the_peak_has_the_interval_of_its_own_layer(self, data: MoralData) -> None:
        mine = FunctionMetric("mine", "gap", self.by_group, (StatisticSpec("gap", "lower", null="pole"),))
        largest = 1e4 * moral(data, 1.0)  # its second group has no value, and its first would win or lose alone
        layers = {0: moral(data, 1.5), 1: noise(2, len(data)), 2: largest}
        protocol = replace(PROTOCOL, preprocessing=("centre",))
        found = run(data, layers, [mine], QUICK, protocol)
        peak, profile = found.peaks["mine"], found.profiles["mine"]
        assert (peak.group, peak.layer, peak.n_layers) == ("mean of groups", 1, 2)
        assert profile.values[2] is None and profile.ci_low[2] is None
        rows = [r.value for r in found.rows if r.layer == 1]
        assert peak.value == profile.values[1] == pytest.approx(np.mean(rows))
        assert (peak.ci_low, peak.ci_high) == (profile.ci_low[1], profile.ci_high[1])
        assert profile.ci_low[0] is not None and profile.ci_low[0] != peak.ci_low
        for baseline in found.baselines.values():
            assert baseline.profiles["mine"].group == "mean of groups"


class TestCheck:
    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            (StatisticSpec("a", null="poles"), "unknown permutation scheme of mine/a 'poles'; did you mean 'pole'"),
            (
                StatisticSpec("a", null="pole", interval="resample"),
                "unknown interval of mine/a 'resample'; did you mean 'resampled'",
            ),
        ],
    )
    def test_declarations_that_name_nothing_are_refused(self, data: MoralData, spec: Any, problem: str) -> None:
        mine = PreparedFunctionMetric("mine", "a", lambda x, data: {"a": 1.0}, (spec,))
        with pytest.raises(ValueError, match=problem):
            check(data, [mine], PROTOCOL, QUICK)

    def test_too_few_texts_are_refused_where_a_metric_has_folds(self, data: MoralData) -> None:
        few = data.subset(np.array([0, 0, 1, 1, 1, 1, 1, 1]))
        with pytest.raises(DataError, match="2 distinct texts; the audited protocol needs at least 3"):
            check(few, audited(), PROTOCOL, QUICK)
        check(few, [FunctionMetric("mine", "a", lambda x, data: {"a": 1.0})], PROTOCOL, QUICK)

    def test_too_few_scenarios_for_the_nuisance_features_are_refused(self, data: MoralData) -> None:
        few, mine = data.subset(np.arange(6)), FunctionMetric("mine", "a", lambda x, data: {"a": 1.0})
        with pytest.raises(DataError, match="6 scenarios; the control 'nuisance' needs at least 7"):
            check(few, [mine], PROTOCOL, QUICK)
        check(few, [mine], PROTOCOL, get_controls("none"))
