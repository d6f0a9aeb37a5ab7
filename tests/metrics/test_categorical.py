"""Categorical indifference: the paper's prototype cosines and the audited, held-out statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, VICE, VIRTUE
from sae_moral.metrics.base import Variants, evaluate, folds
from sae_moral.metrics.categorical import MIN_RELIABILITY, AuditedCategorical, PaperCategorical, Poles
from sae_moral.metrics.discriminant import Domain, Whitened, discriminant_scores
from tests.metrics.worlds import moral_data, overall, planted, values, without_pole

NAMES = ("auroc", "cosine", "reliability", "cosine_corrected")


class TestPaper:
    def test_it_is_the_cosine_of_the_means_of_the_items_of_typicality_one(self) -> None:
        x, data = planted(0, polarity=0.5, foundation=1.0)
        v = x.numpy()
        for f, foundation in enumerate(FOUNDATIONS):
            top = (data.foundation == f) & (data.typicality == 1.0)
            a, b = v[top & (data.pole == 0)].mean(axis=0), v[top & (data.pole == 1)].mean(axis=0)
            expected = a @ b / np.sqrt((a @ a) * (b @ b))
            assert values(PaperCategorical(), x, data)["cosine", foundation] == pytest.approx(expected, abs=1e-12)

    def test_there_is_one_cosine_per_foundation_and_n_counts_prototype_items(self) -> None:
        x, data = planted(0)
        statistics = PaperCategorical()(x, data)
        assert [s.group for s in statistics] == list(FOUNDATIONS)
        assert [s.n for s in statistics] == [
            int(((data.foundation == f) & (data.typicality == 1)).sum()) for f in range(5)
        ]

    def test_a_source_without_typicality_one_uses_the_top_of_each_poles_scale(self) -> None:
        data = moral_data([0, 0, 0, 0], [0, 0, 1, 1], [0.75, 0.5, 0.5, 0.25])
        x = torch.tensor([[1.0, 0.0], [9.0, 9.0], [1.0, 1.0], [-9.0, 9.0]])
        assert values(PaperCategorical(), x, data)["cosine", "care-harm"] == pytest.approx(np.sqrt(0.5))

    def test_opposite_poles_have_cosine_minus_one_and_a_shared_topic_plus_one(self) -> None:
        x, data = planted(0, polarity=5, noise=0)
        assert values(PaperCategorical(), x, data)["cosine", "care-harm"] == pytest.approx(-1)
        x, data = planted(0, foundation=5, noise=0)
        assert values(PaperCategorical(), x, data)["cosine", "care-harm"] == pytest.approx(1)

    def test_a_layer_that_does_not_vary_has_no_cosine(self) -> None:
        _, data = planted(0)
        assert set(values(PaperCategorical(), torch.zeros(300, 4), data).values()) == {None}


class TestAudited:
    def test_auroc_is_sklearns_of_held_out_scores_averaged_within_folds(self) -> None:
        x, data = planted(1, polarity=0.3, foundation=1.0)
        fold, space = folds(data, 5, 0), Whitened.of(x, data, folds(data, 5, 0), length=True)
        domains = []
        for f in range(5):
            rows = np.flatnonzero(data.items(f, VIRTUE) | data.items(f, VICE))
            label = torch.from_numpy(np.where(data.pole[rows] == VIRTUE, 1.0, -1.0))[None]
            domains.append(Domain(space.items(data, rows), label, torch.ones_like(label)))
        got = values(AuditedCategorical(), x, data)
        read = zip(FOUNDATIONS, domains, discriminant_scores(space, domains), strict=True)
        for foundation, domain, score in read:
            total, pairs = 0.0, 0
            for k in range(5):
                virtue = domain.label[0].numpy()[fold[domain.items.rows] == k] > 0
                weight = int(virtue.sum() * (~virtue).sum())
                total, pairs = total + weight * roc_auc_score(virtue, score[k][0].numpy()), pairs + weight
            assert got["auroc", foundation] == pytest.approx(total / pairs, abs=1e-12)

    def test_auroc_prototype_is_sklearns_along_the_training_prototypes(self) -> None:
        x, data = planted(1, polarity=0.3, foundation=1.0)
        v, fold = x.numpy(), folds(data, 5, 0)
        got = values(AuditedCategorical(remove_length=False), x, data)
        for f, foundation in enumerate(FOUNDATIONS):
            total, pairs = 0.0, 0
            virtue, vice = data.items(f, VIRTUE), data.items(f, VICE)
            for k in range(5):
                direction = v[virtue & (fold != k)].mean(axis=0) - v[vice & (fold != k)].mean(axis=0)
                test = (virtue | vice) & (fold == k)
                weight = int((virtue & test).sum() * (vice & test).sum())
                total, pairs = total + weight * roc_auc_score(virtue[test], v[test] @ direction), pairs + weight
            assert got["auroc_prototype", foundation] == pytest.approx(total / pairs, abs=1e-12)

    def test_cosines_and_reliability_are_means_over_pairs_of_different_texts(self) -> None:
        rng = np.random.default_rng(3)
        n, text = 40, [f"text {i // 2}" for i in range(40)]
        data = moral_data(np.zeros(n), np.arange(n) % 4 // 2, np.ones(n), text=text)
        x = torch.from_numpy(rng.standard_normal((n, 5)) + 0.7)
        v, g, got = x.numpy(), data.group, values(AuditedCategorical(), x, data)

        def pairs(a: int, b: int) -> float:
            rows, columns = (np.flatnonzero(data.pole == pole) for pole in (a, b))
            return float(np.mean([v[i] @ v[j] for i in rows for j in columns if g[i] != g[j]]))

        norms = [np.linalg.norm(v[data.pole == pole].mean(axis=0)) for pole in (0, 1)]
        reliability = np.sqrt(pairs(0, 0) * pairs(1, 1)) / (norms[0] * norms[1])
        cosine = pairs(0, 1) / (norms[0] * norms[1])
        assert got["cosine", "care-harm"] == pytest.approx(cosine, abs=1e-12)
        assert got["reliability", "care-harm"] == pytest.approx(reliability, abs=1e-12)
        assert got["cosine_corrected", "care-harm"] == pytest.approx(cosine / reliability, abs=1e-12)
        for pole, name in ((VIRTUE, "care"), (VICE, "harm")):
            own = pairs(pole, pole) / norms[pole] ** 2
            assert 0 < own < 1
            assert got["prototype_reliability", name] == pytest.approx(own, abs=1e-12)

    def test_reliability_is_the_geometric_mean_of_the_two_prototypes_own(self) -> None:
        x, data = planted(1, polarity=1, foundation=1)
        got = values(AuditedCategorical(), x, data)
        for f, foundation in enumerate(FOUNDATIONS):
            own = [got["prototype_reliability", DIMENSIONS[2 * f + pole]] for pole in (VIRTUE, VICE)]
            assert got["reliability", foundation] == pytest.approx(np.sqrt(own[0] * own[1]), abs=1e-12)
        known = [got["prototype_reliability", d] for d in DIMENSIONS]
        assert got["prototype_reliability", "overall"] == pytest.approx(np.mean(known))

    def test_a_prototypes_reliability_is_0_for_noise_that_mirrors_itself_and_1_without_noise(self) -> None:
        _, data = planted(1, n=150)
        mirrored = torch.from_numpy(np.random.default_rng(0).standard_normal((150, 3)))
        for d in range(10):
            own = torch.from_numpy(np.flatnonzero(data.items(*divmod(d, 2))))
            mirrored[own] -= mirrored[own].mean(dim=0) * 0.99  # a mean far shorter than noise gives
        got = values(AuditedCategorical(), mirrored, data)
        assert {got["prototype_reliability", d] for d in DIMENSIONS} == {0.0}
        x, data = planted(1, n=150, foundation=1, noise=0)
        got = values(AuditedCategorical(), x, data)
        assert [got["prototype_reliability", d] for d in DIMENSIONS] == pytest.approx([1.0] * 10)

    def test_n_counts_the_items_each_statistic_rests_on(self) -> None:
        x, data = planted(1)
        x, data = without_pole(data, x, 3, VICE)
        n = {(s.name, s.group): (s.n, s.n_dropped) for s in evaluate(AuditedCategorical(), x, data)}
        assert n["auroc", "care-harm"] == (data.items(0, VIRTUE).sum() + data.items(0, VICE).sum(), 0) == (40, 0)
        assert n["prototype_reliability", "harm"] == (20, 0)
        assert n["prototype_reliability", "subversion"] == (0, 0)
        assert n["auroc", "overall"] == n["cosine", "overall"] == (160, 0)

    def test_overall_is_the_mean_of_the_foundations(self) -> None:
        x, data = planted(1, polarity=0.5)
        got = values(AuditedCategorical(), x, data)
        for name in ("auroc", "cosine", "reliability"):
            assert got[name, "overall"] == pytest.approx(np.mean([got[name, f] for f in FOUNDATIONS]))

    def test_planted_polarity_is_found_and_the_topic_of_a_foundation_is_not_taken_for_it(self) -> None:
        x, data = planted(2, polarity=2)
        assert overall(AuditedCategorical(), x, data)["auroc"] > 0.97
        x, data = planted(2, foundation=5)
        got = overall(AuditedCategorical(), x, data)
        assert abs(got["auroc"] - 0.5) < 0.1
        assert got["cosine"] > 0.9 and got["reliability"] > 0.9

    def test_polarity_planted_in_one_foundation_is_found_there_alone(self) -> None:
        x, data = planted(4, n=600)
        sign = np.choose(data.pole, [1.0, -1.0, 0.0]) * (data.foundation == 2)
        x[:, 0] += torch.from_numpy(3 * sign)
        got = values(AuditedCategorical(), x, data)
        assert got["auroc", "loyalty-betrayal"] > 0.97
        others = [got["auroc", f] for f in FOUNDATIONS if f != "loyalty-betrayal"]
        assert max(others) < 0.65

    def test_a_corrected_cosine_of_unreliable_prototypes_is_none(self) -> None:
        x, data = planted(5, d=200)
        got = values(AuditedCategorical(), x, data)
        low = [f for f in FOUNDATIONS if got["reliability", f] < MIN_RELIABILITY]
        assert low
        assert all(got["cosine_corrected", f] is None and got["cosine", f] is not None for f in low)


@pytest.mark.parametrize("metric", [PaperCategorical(), AuditedCategorical()])
@pytest.mark.parametrize("pole", [VIRTUE, VICE])
def test_a_pole_without_items_gives_none_for_its_foundation_alone(metric, pole: int) -> None:
    x, data = planted(6, polarity=1)
    x, data = without_pole(data, x, 3, pole)
    got = values(metric, x, data)
    assert {key for key, value in got.items() if value is None and key[1] != "overall"} >= {
        (name, "authority-subversion") for name in (NAMES if isinstance(metric, AuditedCategorical) else ("cosine",))
    }
    assert got[metric.headline, "care-harm"] is not None
    if isinstance(metric, AuditedCategorical):
        nothing = {key[1] for key, value in got.items() if key[0] == "prototype_reliability" and value is None}
        assert nothing == {DIMENSIONS[6 + pole]}


def test_a_foundation_without_items_has_no_part_in_the_overall_mean() -> None:
    x, data = planted(6, polarity=1)
    x, data = without_pole(data, x, 3, VICE)
    got = values(AuditedCategorical(), x, data)
    known = [got["auroc", f] for f in FOUNDATIONS if f != "authority-subversion"]
    assert got["auroc", "overall"] == pytest.approx(np.mean(known))


def test_a_pole_whose_items_share_one_text_has_no_auroc_and_no_cosine() -> None:
    data = moral_data([0] * 30, [0] * 10 + [1] * 20, [1.0] * 30, text=["same"] * 10 + [f"text {i}" for i in range(20)])
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 4)))
    got = values(AuditedCategorical(), x, data)
    assert {got[name, "care-harm"] for name in NAMES} == {None}
    assert got["prototype_reliability", "care"] is None
    assert got["prototype_reliability", "harm"] is not None


class TestCrossFittedCosineIsUnbiased:
    """Planted prototypes at a known angle, few items, each with noise of its own."""

    TRUE, ITEMS, D, SIGMA, DRAWS = 0.5, 8, 200, 0.13, 300

    def draws(self, *, copies: int = 1, shared: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(corrected, naive) cosines; each text `copies` times, `shared` texts in both poles with the same noise."""
        rng = np.random.default_rng(0)
        prototypes = np.zeros((2, self.D))
        prototypes[0, 0], prototypes[1, :2] = 1, (self.TRUE, np.sqrt(1 - self.TRUE**2))
        group = np.concatenate([np.arange(self.ITEMS), np.arange(self.ITEMS) + self.ITEMS - shared])
        corrected, naive = [], []
        pole, groups = np.repeat([0, 1], self.ITEMS * copies), np.repeat(group, copies)
        data = moral_data(0 * pole, pole, np.ones(len(pole)), text=[f"text {i}" for i in groups])
        for _ in range(self.DRAWS):
            noise = self.SIGMA * rng.standard_normal((2 * self.ITEMS, self.D))
            x = np.repeat(prototypes, self.ITEMS, axis=0) + noise[group]
            x = np.repeat(x, copies, axis=0)
            poles = Poles.of(torch.from_numpy(x), data, 0)
            corrected.append(poles.cross_fitted(Variants.one(len(data)))["cosine_corrected", "care-harm"].item())
            a, b = (poles.items.mean(torch.from_numpy(pole == p)[None].double())[0].numpy() for p in (0, 1))
            naive.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        return np.array(corrected, dtype=float), np.array(naive)

    @pytest.mark.parametrize(("copies", "shared"), [(1, 0), (3, 0), (1, 4), (2, 8)])
    def test_the_mean_corrected_cosine_is_the_true_one(self, copies: int, shared: int) -> None:
        corrected, _ = self.draws(copies=copies, shared=shared)
        assert abs(corrected.mean() - self.TRUE) < 3 * corrected.std(ddof=1) / np.sqrt(self.DRAWS)
        assert corrected.std(ddof=1) / np.sqrt(self.DRAWS) < 0.01

    def test_the_cosine_of_the_means_is_shrunk_by_noise(self) -> None:
        _, naive = self.draws()
        noise = self.SIGMA**2 * self.D / self.ITEMS
        assert naive.mean() == pytest.approx(self.TRUE / (1 + noise), abs=0.01)
        assert naive.mean() < self.TRUE - 0.1

    def test_the_cosine_of_the_means_is_raised_by_texts_in_both_poles(self) -> None:
        _, naive = self.draws(shared=8)
        noise = self.SIGMA**2 * self.D / self.ITEMS
        assert naive.mean() == pytest.approx((self.TRUE + noise) / (1 + noise), abs=0.01)
        assert naive.mean() > self.TRUE + 0.1
