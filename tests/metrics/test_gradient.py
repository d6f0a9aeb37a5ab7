"""Gradient indifference: closeness to the prototype as in the paper, and the audited, held-out gradation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, VICE, VIRTUE
from sae_moral.metrics.base import evaluate
from sae_moral.metrics.folds import folds, partial_spearman
from sae_moral.metrics.gradient import PER_DIMENSION, AuditedGradient, PaperGradient, held_out_closeness
from tests.metrics.worlds import LEVELS, moral_data, overall, planted, values, without_pole


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x @ y / np.linalg.norm(x, axis=1) / np.linalg.norm(y)


def one_dimension(seed: int, n: int) -> tuple[np.random.Generator, MoralData]:
    """Items of care alone."""
    rng = np.random.default_rng(seed)
    return rng, moral_data(np.zeros(n), np.zeros(n), rng.choice(LEVELS, n))


def homeless_neutrals(data: MoralData) -> MoralData:
    """The same, but the neutral items belong to no foundation."""
    return dataclasses.replace(data, foundation=np.where(data.pole == NEUTRAL, -1, data.foundation))


class TestPaper:
    @pytest.mark.parametrize("homeless", [False, True])
    def test_it_is_scipys_spearman_of_typicality_with_the_cosine_to_the_poles_prototype(self, homeless: bool) -> None:
        x, data = planted(0, gradation=2, polarity=0.5)
        data = homeless_neutrals(data) if homeless else data
        v, pooled, got = x.numpy(), [], values(PaperGradient(), x, data)
        for d, dimension in enumerate(DIMENSIONS):
            own = (data.foundation == d // 2) & (data.pole == d % 2)
            items = own | (np.isin(data.foundation, (d // 2, -1)) & (data.pole == 2))
            score = cosines(v[items], v[own & (data.typicality == 1)].mean(axis=0))
            pooled.append(np.stack([data.typicality[items], score]))
            assert got["spearman", dimension] == pytest.approx(spearmanr(*pooled[-1])[0], abs=1e-12)
        assert got["spearman", "overall"] == pytest.approx(spearmanr(*np.concatenate(pooled, axis=1))[0], abs=1e-12)

    def test_a_dimension_with_typicality_one_alone_and_no_neutrals_is_none(self) -> None:
        data = moral_data([0] * 9 + [1] * 9, [0] * 18, [1.0] * 9 + [0.5, 0.75, 1.0] * 3)
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((18, 3)))
        got = values(PaperGradient(), x, data)
        assert got["spearman", "care"] is None
        assert got["spearman", "fairness"] is not None

    def test_a_layer_that_does_not_vary_gives_none(self) -> None:
        _, data = planted(0)
        assert set(values(PaperGradient(), torch.zeros(300, 3), data).values()) == {None}


class TestAudited:
    @pytest.mark.parametrize("homeless", [False, True])
    def test_it_is_an_explicit_loop_over_folds(self, homeless: bool) -> None:
        x, data = planted(1, gradation=3, n=450)
        data = homeless_neutrals(data) if homeless else data
        v, fold, got = x.numpy(), folds(data, 5, 0), values(AuditedGradient(), x, data)
        for d, dimension in enumerate(DIMENSIONS):
            own = (data.foundation == d // 2) & (data.pole == d % 2)
            neutral = np.isin(data.foundation, (d // 2, -1)) & (data.pole == 2)
            results: dict[str, list[tuple[float, int]]] = {name: [] for name in PER_DIMENSION}
            for k in range(5):
                for name, items in (("spearman", own), ("spearman_with_neutral", own | neutral)):
                    train, test = items & (fold != k), items & (fold == k)
                    t = data.typicality[train]
                    score = cosines(v[test], (t - t.mean()) @ v[train])
                    results[name].append((spearmanr(data.typicality[test], score)[0], test.sum() - 1))
                train, test = own & (fold != k), own & (fold == k)
                score = cosines(v[test], data.typicality[train] @ v[train])
                results["spearman_prototype"].append((spearmanr(data.typicality[test], score)[0], test.sum() - 1))
                t = data.typicality[train]
                score = cosines(v[test], (t - t.mean()) @ v[train])
                partial = partial_spearman(data.typicality[test], score, data.length[test])
                results["spearman_partial"].append((partial[0], test.sum() - 2))
            for name, parts in results.items():
                expected = np.average([p[0] for p in parts], weights=[p[1] for p in parts])
                assert got[name, dimension] == pytest.approx(expected, abs=1e-10), (name, dimension)

    def test_asymmetry_is_vice_minus_virtue_and_overall_are_means(self) -> None:
        x, data = planted(1, gradation=3)
        got = values(AuditedGradient(), x, data)
        for f, foundation in enumerate(FOUNDATIONS):
            virtue, vice = (got["spearman", DIMENSIONS[2 * f + pole]] for pole in (VIRTUE, VICE))
            assert got["asymmetry", foundation] == pytest.approx(vice - virtue)
        assert got["asymmetry", "overall"] == pytest.approx(np.mean([got["asymmetry", f] for f in FOUNDATIONS]))
        for name in PER_DIMENSION:
            assert got[name, "overall"] == pytest.approx(np.mean([got[name, d] for d in DIMENSIONS]))

    def test_planted_gradation_is_found(self) -> None:
        x, data = planted(2, gradation=12, n=600)
        got = overall(AuditedGradient(), x, data)
        assert got["spearman"] > 0.85
        assert got["spearman_partial"] > 0.8

    def test_gradation_planted_in_vices_alone_gives_a_positive_asymmetry(self) -> None:
        x, data = planted(3, n=600)
        x[:, 0] += torch.from_numpy(12 * (data.pole == VICE) * data.typicality)
        got = overall(AuditedGradient(), x, data)
        assert got["asymmetry"] > 0.6

    def test_moral_against_neutral_is_not_taken_for_gradation(self) -> None:
        x, data = planted(4, n=600)
        x[:, 0] += torch.from_numpy(6.0 * (data.pole != NEUTRAL))
        got = overall(AuditedGradient(), x, data)
        assert got["spearman_with_neutral"] > 0.5
        assert abs(got["spearman"]) < 0.12
        assert overall(PaperGradient(), x, data)["spearman"] > 0.5

    def test_gradation_by_length_alone_vanishes_given_length(self) -> None:
        rng = np.random.default_rng(5)
        n, typicality = 400, np.random.default_rng(6).choice(LEVELS, 400)
        length = np.round(5 + 40 * typicality + 8 * rng.standard_normal(n)).clip(1).astype(int)
        data = moral_data(np.zeros(n), np.zeros(n), typicality, length=length)
        x = torch.from_numpy(0.05 * rng.standard_normal((n, 5)))
        x[:, 0] += torch.from_numpy((length - length.mean()) / length.std())
        x[:, 1] += 1.0
        got = values(AuditedGradient(), x, data)
        assert got["spearman", "care"] > 0.7
        assert abs(got["spearman_partial", "care"]) < 0.1

    def test_without_token_counts_only_the_partial_correlation_is_none(self) -> None:
        x, data = planted(1, gradation=3)
        got = values(AuditedGradient(), x, dataclasses.replace(data, length=None))
        with_length = values(AuditedGradient(), x, data)
        for (name, group), value in got.items():
            assert value == (None if name == "spearman_partial" else with_length[name, group])

    def test_constant_typicality_gives_none_within_the_pole_but_not_with_neutrals(self) -> None:
        x, data = planted(1, n=450)
        harm = data.items(0, VICE)
        vector = data.vector.copy()
        vector[harm, 1] = 0.5
        data = dataclasses.replace(data, vector=vector, typicality=np.where(harm, 0.5, data.typicality))
        got = values(AuditedGradient(), x, data)
        for name in ("spearman", "spearman_partial", "spearman_prototype"):
            assert got[name, "harm"] is None
        assert got["asymmetry", "care-harm"] is None
        assert got["spearman_with_neutral", "harm"] is not None
        assert got["spearman", "care"] is not None

    def test_n_counts_the_items_each_statistic_rests_on(self) -> None:
        x, data = planted(1)
        n = {(s.name, s.group): s.n for s in evaluate(AuditedGradient(), x, data)}
        assert n["spearman", "harm"] == data.items(0, VICE).sum() == 20
        assert n["spearman_with_neutral", "harm"] == 40
        assert n["asymmetry", "care-harm"] == 40


class TestHeldOutCloseness:
    @pytest.mark.parametrize("prototype", [False, True])
    def test_the_labels_of_a_fold_have_no_part_in_its_scores(self, prototype: bool) -> None:
        rng, data = one_dimension(0, 60)
        x, fold = torch.from_numpy(rng.standard_normal((60, 4))), np.arange(60) % 4
        other = np.where(fold == 1, rng.choice(LEVELS, 60), data.typicality)
        before, after = (held_out_closeness(x, t, fold, prototype=prototype) for t in (data.typicality, other))
        np.testing.assert_array_equal(after[fold == 1], before[fold == 1])
        assert np.abs(after - before)[fold != 1].max() > 0.01

    def test_it_is_none_where_the_training_part_has_one_typicality_or_nothing(self) -> None:
        x, fold = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 2))), np.array([0, 0, 1, 1, 1, 1])
        assert held_out_closeness(x, np.array([0.25, 0.5, 1.0, 1.0, 1.0, 1.0]), fold) is None
        assert held_out_closeness(x, np.array([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]), fold) is not None
        assert held_out_closeness(x, np.linspace(0.1, 1, 6), np.zeros(6, dtype=int)) is None
        assert held_out_closeness(x[:0], np.zeros(0), np.zeros(0, dtype=int)) is None


@pytest.mark.parametrize("metric", [PaperGradient(), AuditedGradient()])
def test_neutrals_of_no_foundation_are_counted_for_every_one(metric) -> None:
    x, data = planted(7)
    name = "spearman" if isinstance(metric, PaperGradient) else "spearman_with_neutral"
    n = {s.group: s.n for s in evaluate(metric, x, homeless_neutrals(data)) if s.name == name}
    assert {n[dimension] for dimension in DIMENSIONS} == {20 + 100}


@pytest.mark.parametrize("metric", [PaperGradient(), AuditedGradient()])
@pytest.mark.parametrize("pole", [VIRTUE, VICE])
def test_a_pole_without_items_gives_none_for_its_dimension_alone(metric, pole: int) -> None:
    x, data = planted(6, gradation=1)
    x, data = without_pole(data, x, 3, pole)
    got = values(metric, x, data)
    nothing = {key for key, value in got.items() if value is None}
    names = ("spearman",) if isinstance(metric, PaperGradient) else PER_DIMENSION
    expected = {(name, DIMENSIONS[6 + pole]) for name in names}
    assert nothing == (expected if isinstance(metric, PaperGradient) else expected | {("asymmetry", FOUNDATIONS[3])})
