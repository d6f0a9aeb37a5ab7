"""Gradient indifference: closeness to the prototype as in the paper, and the audited, held-out gradation."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, VICE, VIRTUE
from sae_moral.metrics.base import Variants, evaluate, folds
from sae_moral.metrics.discriminant import Domain, Whitened, discriminant_scores
from sae_moral.metrics.gradient import PER_DIMENSION, AuditedGradient, Graded, PaperGradient
from sae_moral.metrics.ranks import Ranked
from tests.metrics.worlds import LEVELS, lengths, moral_data, overall, planted, values, without_pole


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x @ y / np.linalg.norm(x, axis=1) / np.linalg.norm(y)


def given_ranks(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> float:
    """Correlation of what a line in the ranks of `given` leaves of the ranks of a and b."""
    design = np.stack([np.ones(len(given)), rankdata(given)], axis=1)
    rest = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in (rankdata(a), rankdata(b))]
    return float(np.corrcoef(*rest)[0, 1])


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
        v, fold = x.numpy(), folds(data, 5, 0)
        got = values(AuditedGradient(remove_length=False), x, data)
        space, domains = Whitened.of(x, data, fold, length=False), []
        for d in range(len(DIMENSIONS)):
            rows = np.flatnonzero(data.items(*divmod(d, 2)))
            label = torch.from_numpy(data.typicality[rows])[None]
            domains.append(Domain(space.items(data, rows), label, torch.ones_like(label)))
        read = discriminant_scores(space, domains)
        for d, dimension in enumerate(DIMENSIONS):
            own = (data.foundation == d // 2) & (data.pole == d % 2)
            neutral = np.isin(data.foundation, (d // 2, -1)) & (data.pole == 2)
            results: dict[str, list[tuple[float, int]]] = {name: [] for name in PER_DIMENSION}
            for k in range(5):
                for name, items in (("spearman_graded", own), ("spearman_with_neutral", own | neutral)):
                    train, test = items & (fold != k), items & (fold == k)
                    t = data.typicality[train]
                    score = cosines(v[test], (t - t.mean()) @ v[train])
                    results[name].append((cast(float, spearmanr(data.typicality[test], score)[0]), test.sum() - 1))
                train, test = own & (fold != k), own & (fold == k)
                score = cosines(v[test], data.typicality[train] @ v[train])
                value = cast(float, spearmanr(data.typicality[test], score)[0])
                results["spearman_prototype"].append((value, test.sum() - 1))
                score = read[d][k][0].numpy()
                value = cast(float, spearmanr(data.typicality[test], score)[0])
                results["spearman"].append((value, test.sum() - 1))
                results["spearman_partial"].append(
                    (given_ranks(data.typicality[test], score, lengths(data)[test]), test.sum() - 2)
                )
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
        got = values(AuditedGradient(remove_length=False), x, data)
        assert got["spearman", "care"] > 0.7
        assert abs(got["spearman_partial", "care"]) < 0.1
        assert abs(values(AuditedGradient(), x, data)["spearman", "care"]) < 0.15

    def test_without_token_counts_only_the_partial_correlation_is_none(self) -> None:
        x, data = planted(1, gradation=3)
        got = values(AuditedGradient(), x, dataclasses.replace(data, length=None))
        with_length = values(AuditedGradient(remove_length=False), x, data)
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


def scores_of_fold(
    monkeypatch: pytest.MonkeyPatch, x: torch.Tensor, data: MoralData, fold: np.ndarray, k: int, name: str
) -> np.ndarray:
    """What the held-out items of a fold are ordered by."""
    seen: list[np.ndarray] = []

    def spy(score: torch.Tensor, weight: torch.Tensor, of=Ranked.of) -> Ranked:
        seen.append(score[0].numpy())
        return of(score, weight)

    with monkeypatch.context() as patched:
        patched.setattr(Ranked, "of", spy)
        Graded.of(x, data, 0, fold).held_out(Variants.one(len(data)), {name})
    return seen[1::2][k]  # labels and scores by turns


class TestHeldOut:
    @pytest.mark.parametrize("name", ["spearman_graded", "spearman_prototype"])
    def test_the_labels_of_a_fold_have_no_part_in_its_scores(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        rng, data = one_dimension(0, 60)
        data = dataclasses.replace(data, length=rng.integers(3, 9, 60))
        x, fold = torch.from_numpy(rng.standard_normal((60, 4))), np.arange(60) % 4
        other = moral_data(
            np.zeros(60), np.zeros(60), np.where(fold == 1, rng.choice(LEVELS, 60), data.typicality), length=data.length
        )
        for k in range(4):
            before, after = (scores_of_fold(monkeypatch, x, labels, fold, k, name) for labels in (data, other))
            if k == 1:
                np.testing.assert_array_equal(after, before)
            else:
                assert np.abs(after - before).max() > 0.01

    def test_the_scores_have_the_order_of_the_cosines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng, data = one_dimension(0, 40)
        x, fold = torch.from_numpy(rng.standard_normal((40, 4))), np.arange(40) % 4
        x[0] = 0  # in fold 0
        v, t = x.numpy(), data.typicality
        for k in range(4):
            train, test = fold != k, fold == k
            for name, weight in (("spearman_graded", t[train] - t[train].mean()), ("spearman_prototype", t[train])):
                got = scores_of_fold(monkeypatch, x, data, fold, k, name)
                if k == 0:
                    assert got[0] == 0
                zero = int(k == 0)
                expected = cosines(v[test][zero:], weight @ v[train])
                np.testing.assert_allclose(got[zero:] / np.linalg.norm(weight @ v[train]), expected, atol=1e-12)

    @pytest.mark.parametrize(
        ("typicality", "fold", "known"),
        [
            ([0.25, 0.5, 1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1, 1, 1], False),
            ([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], [0, 0, 1, 1, 1, 1], True),
            ([0.1, 0.2, 0.4, 0.6, 0.8, 1.0], [0] * 6, False),
        ],
    )
    def test_it_is_nan_where_the_training_part_has_one_typicality_or_nothing(
        self, typicality: list[float], fold: list[int], known: bool
    ) -> None:
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 2)))
        own = Graded.of(x, moral_data([0] * 6, [0] * 6, typicality), 0, np.array(fold))
        got = own.held_out(Variants.one(6), {"spearman_graded", "spearman_prototype"})
        assert {bool(value.isnan().all()) for value in got.values()} == {not known}

    def test_it_is_nan_without_items(self) -> None:
        none = Graded.of(torch.ones(6, 2), moral_data([0] * 6, [0] * 6, [1.0] * 6), 5, np.arange(6) % 2)
        got = none.held_out(Variants.one(6), {"spearman", "spearman_partial", "spearman_prototype"}, {})
        assert len(got) == 3 and all(value.isnan().all() for value in got.values())
        assert not none.has_pole


class TestCloseness:
    def test_it_is_the_cosine_with_the_poles_prototype_and_zero_for_a_zero_vector(self) -> None:
        rng, data = one_dimension(1, 12)
        x = torch.from_numpy(rng.standard_normal((12, 3)))
        x[4] = 0
        prototype = x.numpy()[data.typicality == data.typicality.max()].mean(axis=0)
        with np.errstate(invalid="ignore"):
            expected = np.nan_to_num(cosines(x.numpy(), prototype))
        got = Graded.of(x, data, 0, neutral=True).closeness(Variants.one(12))
        np.testing.assert_allclose(got[0], expected, atol=1e-15)
        assert Graded.of(torch.zeros(12, 3), data, 0).closeness(Variants.one(12)).tolist() == [[0.0] * 12]

    def test_a_prototype_of_weight_zero_is_close_to_nothing(self) -> None:
        data = moral_data([0, 0, 0], [0, 0, 0], [1.0, 0.5, 0.25])
        weight = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).double()
        got = Graded.of(torch.eye(3), data, 0).closeness(Variants.weighed(weight))
        assert got.tolist() == [[0.0] * 3, [1.0, 0.0, 0.0]]


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
