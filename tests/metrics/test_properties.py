"""What holds for every metric: invariances, chance where there is nothing, nothing leaked, nothing invented."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_moral.data.moral_data import MoralData
from sae_moral.metrics.categorical import AuditedCategorical, PaperCategorical
from sae_moral.metrics.dimensional import AuditedDimensional, PaperDimensional
from sae_moral.metrics.gradient import AuditedGradient, PaperGradient
from sae_moral.metrics.preprocess import preprocess
from sae_moral.metrics.structural import AuditedStructural, PaperStructural
from tests.metrics.worlds import (
    AUDITED_STEPS,
    LEVELS,
    balanced,
    lengths,
    moral_data,
    overall,
    planted,
    rotation,
    same,
    standard_errors,
    values,
)

AUDITED = [AuditedCategorical(), AuditedGradient(), AuditedStructural(), AuditedDimensional()]
PAPER = [PaperCategorical(), PaperGradient(), PaperStructural(min_cluster_size=15, min_samples=4), PaperDimensional()]
INVARIANT = AUDITED + PAPER[:3]  # the paper's probe is trained on a random split of rows, without scaling

ABOVE_CHANCE = {
    "auroc": 0.5,
    "auroc_prototype": 0.5,
    "spearman": 0.0,
    "spearman_graded": 0.0,
    "spearman_partial": 0.0,
    "spearman_with_neutral": 0.0,
    "spearman_prototype": 0.0,
    "accuracy_polarity": 0.0,
    "accuracy_both": 0.0,
    "accuracy_foundation": 0.0,
    "spearman_valence": 0.0,
}
"""Cross-fitted statistics and their value where there is nothing to find."""


def named(metric: Any) -> str:
    return type(metric).__name__


def world(seed: int, n: int = 120, d: int = 6) -> tuple[Tensor, MoralData]:
    """A bit of everything; some scenarios are spellings of one text, with nearly one vector (equal ones would tie in
    ranks, and rounding would order them)."""
    rng = np.random.default_rng(seed)
    x, data = planted(seed, n=n, d=d, polarity=0.7, foundation=2, gradation=2)
    twin = np.where(rng.random(n) < 0.2, rng.integers(0, n, n), np.arange(n))
    text = [f"text {i}" + "." * row for row, i in enumerate(twin)]
    data = moral_data(data.foundation, data.pole, data.typicality, text=text, length=lengths(data)[twin])
    return x[torch.from_numpy(twin)] + torch.from_numpy(1e-3 * rng.standard_normal((n, d))), data


def audited_statistics(x: Tensor, data: MoralData, metrics: Any = AUDITED) -> dict[str, float]:
    return {k: v for metric in metrics for k, v in overall(metric, x, data).items() if v is not None}


class TestInvariance:
    @pytest.mark.parametrize("metric", [*AUDITED, *PAPER[:2]], ids=named)
    @given(seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=6, deadline=None)
    def test_the_order_of_scenarios_does_not_matter(self, metric: Any, seed: int) -> None:
        x, data = world(seed)
        order = np.random.default_rng(seed + 1).permutation(len(data))
        same(values(metric, x[torch.from_numpy(order)], data.subset(order)), values(metric, x, data))

    @pytest.mark.parametrize("seed", [0, 1, 2, 8644, 2610914])
    def test_the_order_of_scenarios_moves_few_points_of_the_papers_clusters(self, seed: int) -> None:
        """Its rows keep the order of the data, and HDBSCAN breaks ties between equal distances by it."""
        x, data = world(seed)
        order = np.random.default_rng(seed + 1).permutation(len(data))
        metric = PAPER[2]
        moved = overall(metric, x[torch.from_numpy(order)], data.subset(order))["noise"]
        assert moved == pytest.approx(overall(metric, x, data)["noise"], abs=3 / len(data))

    @pytest.mark.parametrize("metric", INVARIANT, ids=named)
    @given(seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=6, deadline=None)
    def test_rotating_the_representation_does_not_matter(self, metric: Any, seed: int) -> None:
        x, data = world(seed)
        same(values(metric, x @ rotation(6, seed), data), values(metric, x, data), tolerance=1e-7)

    @pytest.mark.parametrize("metric", INVARIANT, ids=named)
    @given(seed=st.integers(0, 2**32 - 1), power=st.integers(-20, 20))
    @settings(max_examples=6, deadline=None)
    def test_scaling_the_representation_does_not_matter(self, metric: Any, seed: int, power: int) -> None:
        x, data = world(seed)
        same(values(metric, x * 1.7**power, data), values(metric, x, data), tolerance=1e-7)

    @pytest.mark.parametrize("metric", AUDITED, ids=named)
    @given(
        seed=st.integers(0, 2**32 - 1),
        log_scale=st.lists(st.floats(-5, 5), min_size=6, max_size=6),
        shift=st.lists(st.floats(-100, 100), min_size=6, max_size=6),
    )
    @settings(max_examples=5, deadline=None)
    def test_after_the_audited_steps_scale_and_origin_of_each_dimension_do_not_matter(
        self, metric: Any, seed: int, log_scale: list[float], shift: list[float]
    ) -> None:
        x, data = world(seed)
        moved = x * torch.tensor(log_scale).double().exp() + torch.tensor(shift).double()
        prepared = [preprocess(v, lengths(data), AUDITED_STEPS)[0] for v in (x, moved)]
        same(values(metric, prepared[1], data), values(metric, prepared[0], data), tolerance=1e-7)

    @pytest.mark.parametrize("metric", AUDITED, ids=named)
    def test_float32_gives_the_same_within_a_thousandth(self, metric: Any) -> None:
        x, data = world(0)
        same(values(metric, x.float(), data), values(metric, x, data), tolerance=1e-3)


WORLDS = 40


@pytest.fixture(scope="module")
def noise() -> dict[str, list[float]]:
    """Audited statistics of worlds in which labels have nothing to do with the representation."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(WORLDS):
        x, data = planted(seed, n=240, d=10)
        x = preprocess(x + 2, lengths(data), AUDITED_STEPS)[0]
        for name, value in audited_statistics(x, data).items():
            found[name].append(value)
    return found


class TestNothingToFind:
    @pytest.mark.parametrize("name", ABOVE_CHANCE)
    def test_the_mean_is_within_three_standard_errors_of_chance(self, noise: dict[str, list[float]], name: str) -> None:
        assert len(noise[name]) == WORLDS
        assert abs(standard_errors(noise[name], ABOVE_CHANCE[name])) < 3
        assert np.std(noise[name]) < 0.25  # the test could see a bias

    @pytest.mark.parametrize("clustering", ["kmeans", "hdbscan"])
    @pytest.mark.parametrize("partition", ["foundation", "polarity", "both"])
    def test_clusters_agree_with_labels_as_by_chance(
        self, noise: dict[str, list[float]], clustering: str, partition: str
    ) -> None:
        for index in ("ari", "ami"):
            assert abs(standard_errors(noise[f"{clustering}_{index}_{partition}"], 0.0)) < 3

    def test_r2_is_slightly_negative_and_never_above_a_twentieth(self, noise: dict[str, list[float]]) -> None:
        assert -0.03 < np.mean(noise["r2"]) < 0
        assert max(noise["r2"]) <= 0.05

    def test_asymmetry_is_zero_on_average(self, noise: dict[str, list[float]]) -> None:
        assert abs(standard_errors(noise["asymmetry"], 0.0)) < 3


def length_world(seed: int, *, n: int, d: int, rho: float) -> tuple[Tensor, MoralData]:
    """Vectors made of length and noise; pole and typicality correlate with length by about rho."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    length = np.clip(np.round(np.exp(2.3 + 0.5 * z)), 2, 80).astype(int)
    like_length = [rho * z + math.sqrt(1 - rho**2) * rng.standard_normal(n) for _ in range(2)]
    pole = np.array([1, 2, 0])[np.digitize(like_length[0], [-0.43, 0.43])]
    typicality = np.array(LEVELS)[np.digitize(like_length[1], [-0.67, 0, 0.67])]
    x = np.stack([length, 10 * np.log(length), 100 / length], axis=1) @ rng.standard_normal((3, d))
    x += rng.standard_normal((n, d))
    return torch.from_numpy(x), moral_data(rng.integers(0, 5, n), pole, typicality, length=length)


def length_draws(steps: tuple[str, ...], worlds: int, **shape: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    metrics = [replace(metric, remove_length="remove_length" in steps) for metric in AUDITED]
    for seed in range(worlds):
        x, data = length_world(seed, **shape)
        for name, value in audited_statistics(preprocess(x, lengths(data), steps)[0], data, metrics).items():
            found[name].append(value)
    return found


@pytest.fixture(scope="module")
def narrow() -> dict[str, list[float]]:
    """Audited statistics where labels go with length, in many scenarios of few dimensions."""
    return length_draws(AUDITED_STEPS, worlds=20, n=400, d=4, rho=0.4)


@pytest.fixture(scope="module")
def wide() -> dict[str, list[float]]:
    """Audited statistics where labels go with length very closely, in vectors wide for the number of scenarios."""
    return length_draws(AUDITED_STEPS, worlds=15, n=240, d=100, rho=0.8)


class TestLengthAlone:
    def test_without_remove_length_it_passes_for_morality(self) -> None:
        draws = length_draws(("standardise",), worlds=5, n=400, d=4, rho=0.6)
        assert np.mean(draws["auroc"]) > 0.65
        assert np.mean(draws["spearman"]) > 0.3
        assert np.mean(draws["spearman_valence"]) > 0.3
        assert np.mean(draws["accuracy_polarity"]) > 0.15

    @pytest.mark.parametrize("name", ABOVE_CHANCE)
    def test_after_the_audited_steps_nothing_is_found(self, narrow: dict[str, list[float]], name: str) -> None:
        assert abs(standard_errors(narrow[name], ABOVE_CHANCE[name])) < 3
        assert max(narrow["r2"]) < 0.01

    @pytest.mark.parametrize("name", ABOVE_CHANCE)
    def test_after_them_nothing_is_above_chance_however_wide_the_vectors(
        self, wide: dict[str, list[float]], name: str
    ) -> None:
        assert standard_errors(wide[name], ABOVE_CHANCE[name]) < 3
        assert max(wide["r2"]) < 0.01

    @pytest.mark.parametrize("name", ABOVE_CHANCE)
    def test_after_them_nothing_is_below_chance_however_wide_the_vectors(
        self, wide: dict[str, list[float]], name: str
    ) -> None:
        assert standard_errors(wide[name], ABOVE_CHANCE[name]) > -3


def step_world(seed: int, n: int = 400, d: int = 20) -> tuple[Tensor, MoralData]:
    """Vectors with a code of every single length and noise; labels follow length up and down."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(7)
    length = rng.integers(4, 20, n)
    wave = np.sin(1.7 * length)
    pole = np.where(rng.random(n) < 0.15, 2, np.where(wave + 0.7 * rng.standard_normal(n) > 0, 0, 1))
    level = np.digitize(np.cos(2.3 * length) + 0.7 * rng.standard_normal(n), [-0.8, 0.0, 0.8])
    x = 3 * fixed.standard_normal((20, d))[length] + rng.standard_normal((n, d))
    return torch.from_numpy(x), moral_data(rng.integers(0, 5, n), pole, np.array(LEVELS)[level], length=length)


class TestLengthUpAndDown:
    @pytest.fixture(scope="class")
    def draws(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for seed in range(20):
            x, data = step_world(seed)
            for name, value in audited_statistics(preprocess(x, lengths(data), AUDITED_STEPS)[0], data).items():
                found[name].append(value)
        return found

    def test_left_in_it_passes_for_morality(self) -> None:
        x, data = step_world(0)
        metrics = [replace(metric, remove_length=False) for metric in AUDITED]
        found = audited_statistics(preprocess(x, lengths(data), ("standardise",))[0], data, metrics)
        assert found["auroc"] > 0.7 and found["spearman"] > 0.3 and found["r2"] > 0.01

    @pytest.mark.parametrize("name", ABOVE_CHANCE)
    def test_removed_on_training_folds_nothing_is_found(self, draws: dict[str, list[float]], name: str) -> None:
        assert abs(standard_errors(draws[name], ABOVE_CHANCE[name])) < 3


class TestDuplicates:
    """Every text occurs twice, with one vector of its own and random labels: only a leak can find anything."""

    LEAKING = ("auroc", "spearman", "accuracy_polarity", "r2", "spearman_valence", "reliability")

    def draws(self, *, grouped: bool) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for seed in range(15):
            rng = np.random.default_rng(seed)
            twin = rng.permutation(np.arange(240) % 120)
            foundation, pole, typicality = (label[twin] for label in balanced(rng, 120))
            text = [f"text {i}" if grouped else f"text {i} row {row}" for row, i in enumerate(twin)]
            data = moral_data(foundation, pole, typicality, text=text, length=np.full(240, 9))
            x = torch.from_numpy(rng.standard_normal((120, 60))[twin])
            for name, value in audited_statistics(x - x.mean(dim=0), data).items():
                found[name].append(value)
        return found

    def test_grouped_by_text_everything_stays_at_chance(self) -> None:
        draws = self.draws(grouped=True)
        for name, chance in ABOVE_CHANCE.items():
            if name != "spearman_partial":
                assert abs(standard_errors(draws[name], chance)) < 3, name
        assert np.mean(draws["r2"]) < 0
        assert np.mean(draws["reliability"]) < 0.1

    def test_not_grouped_the_same_vectors_and_labels_look_moral(self) -> None:
        draws = self.draws(grouped=False)
        for name in self.LEAKING:
            chance = ABOVE_CHANCE.get(name, 0.0)
            assert np.mean(draws[name]) > chance + 0.1, name
            assert standard_errors(draws[name], chance) > 10, name


class TestEdges:
    @pytest.mark.parametrize("metric", AUDITED, ids=named)
    def test_fewer_texts_than_folds_is_an_error_that_says_both_numbers(self, metric: Any) -> None:
        x, data = planted(0, n=4)
        with pytest.raises(ValueError, match=r"4 distinct texts; 5 folds need at least 5"):
            metric(x, data)

    @pytest.mark.parametrize("metric", AUDITED + PAPER, ids=named)
    @pytest.mark.parametrize("constant", [0.0, 0.1])
    def test_a_layer_that_does_not_vary_gives_finite_numbers_or_none(self, metric: Any, constant: float) -> None:
        _, data = planted(0, n=150)
        same(*[values(metric, torch.full((150, 4), constant).double(), data)] * 2)  # `evaluate` refuses NaN

    @pytest.mark.parametrize("metric", [m for m in INVARIANT if m.name != "dimensional"], ids=named)
    def test_dimensions_that_do_not_vary_change_nothing(self, metric: Any) -> None:
        # (Ridge's grid of penalties is relative to the mean over all dimensions: another grid, other predictions.)
        x, data = world(3)
        padded = torch.cat([x, torch.zeros(len(data), 5).double()], dim=1)
        same(values(metric, padded, data), values(metric, x, data), tolerance=1e-7)

    @pytest.mark.parametrize("metric", AUDITED + PAPER, ids=named)
    def test_neutral_items_alone_give_none_for_what_is_about_poles(self, metric: Any) -> None:
        rng = np.random.default_rng(0)
        data = moral_data(np.full(120, -1), np.full(120, 2), np.zeros(120), length=rng.integers(3, 9, 120))
        got = values(metric, torch.from_numpy(rng.standard_normal((120, 4))), data)
        kept = {name for (name, _), value in got.items() if value is not None}
        assert kept <= {"noise", "ari_foundation", "ari_polarity", "ari_both"}
        assert metric.headline not in kept or metric.name == "structural"

    @pytest.mark.parametrize("metric", AUDITED + PAPER, ids=named)
    def test_the_representation_is_not_changed(self, metric: Any) -> None:
        x, data = world(0)
        before = x.clone()
        metric(x, data)
        assert torch.equal(x, before)

    @pytest.mark.parametrize("metric", AUDITED + PAPER, ids=named)
    def test_equal_inputs_give_equal_results(self, metric: Any) -> None:
        x, data = world(0)
        assert values(metric, x, data) == values(metric, x.clone(), data.subset(np.arange(len(data))))
