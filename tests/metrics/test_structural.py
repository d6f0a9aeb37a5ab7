"""Structural indifference: clusters against labels, and the nearest prototype."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    balanced_accuracy_score,
    recall_score,
)
from sklearn.neighbors import NearestCentroid

from sae_moral.foundations import NEUTRAL
from sae_moral.metrics import structural
from sae_moral.metrics.base import evaluate, folds
from sae_moral.metrics.prototypes import Items
from sae_moral.metrics.structural import (
    AuditedStructural,
    PaperStructural,
    labels,
    nearest_prototype_accuracy,
    principal_components,
)
from tests.metrics.worlds import balanced, moral_data, overall, planted, standard_errors, values

COPY: dict[str, Any] = {"copy": True}  # scikit-learn's defaults are strings, which type checkers take for the type
FOUR: dict[str, Any] = {"n_init": 4}


class TestPaper:
    @pytest.mark.parametrize(("d", "noise"), [(20, 0.35), (6, 0.45), (6, 0.6)])
    def test_it_is_sklearns_pca_hdbscan_and_ari_without_the_noise_points(self, d: int, noise: float) -> None:
        x, data = planted(0, n=600, d=d, foundation=2, polarity=1.5, noise=noise)
        points = PCA(0.95, svd_solver="full").fit_transform(x.numpy())
        cluster, order = np.zeros(600, dtype=int), np.argsort(data.text, kind="stable")
        cluster[order] = HDBSCAN(min_cluster_size=20, min_samples=5, **COPY).fit_predict(points[order])
        kept = cluster >= 0
        assert 0 < (~kept).sum() < 600 and len(np.unique(cluster[kept])) > 1
        got = values(PaperStructural(min_cluster_size=20, min_samples=5), x, data)
        both = data.foundation * 3 + data.pole
        for name, label in (("foundation", data.foundation), ("polarity", data.pole), ("both", both)):
            expected = adjusted_rand_score(label[kept], cluster[kept])
            assert got[f"ari_{name}", "overall"] == pytest.approx(expected, abs=1e-12)
        assert got["noise", "overall"] == (~kept).mean()

    def test_its_parameters_are_the_papers(self) -> None:
        metric = PaperStructural()
        assert (metric.variance, metric.min_cluster_size, metric.min_samples) == (0.95, 100, 20)

    def test_planted_polarity_clusters_are_found(self) -> None:
        x, data = planted(1, n=600, d=6, polarity=4, noise=0.3)
        got = overall(PaperStructural(), x, data)
        assert got["ari_polarity"] > 0.99
        assert abs(got["ari_foundation"]) < 0.02

    def test_n_and_n_dropped_are_the_clustered_and_the_noise_points(self) -> None:
        x, data = planted(0, n=600, d=6, foundation=2, polarity=1.5, noise=0.6)
        statistics = {s.name: s for s in evaluate(PaperStructural(min_cluster_size=20, min_samples=5), x, data)}
        noise = round((statistics["noise"].value or 0) * 600)
        assert noise > 0
        assert (statistics["ari_both"].n, statistics["ari_both"].n_dropped) == (600 - noise, noise)
        assert (statistics["noise"].n, statistics["noise"].n_dropped) == (600, 0)

    def test_where_everything_is_noise_the_aris_are_none(self) -> None:
        x, data = planted(0, n=90, polarity=4)
        assert overall(PaperStructural(), x, data) == {
            "ari_foundation": None,
            "ari_polarity": None,
            "ari_both": None,
            "noise": 1.0,
        }


class TestPrincipalComponents:
    def test_a_share_of_variance_gives_the_fewest_components_that_hold_it(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((200, 4)) * [10, 5, 1, 0.1]
        share = np.cumsum(PCA().fit(x).explained_variance_ratio_)
        assert principal_components(torch.from_numpy(x), 0.95).shape[1] == int((share < 0.95).sum()) + 1

    @pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50)])
    def test_a_number_of_components_is_met_as_far_as_the_sample_goes(self, n: int, d: int) -> None:
        x = np.random.default_rng(0).standard_normal((n, d))
        for wanted in (3, 500):
            got = principal_components(torch.from_numpy(x), wanted)
            expected = PCA(min(wanted, n, d), svd_solver="full").fit_transform(x)
            np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-6)


class TestLabels:
    def test_both_numbers_the_15_cells_and_homeless_neutrals_have_none(self) -> None:
        data = moral_data([0, 4, 2, -1], [1, 2, 0, 2], [1.0, 0.0, 0.5, 0.0])
        partitions = {name: label.tolist() for name, label in labels(data).items()}
        assert partitions == {"foundation": [0, 4, 2, -1], "polarity": [1, 2, 0, 2], "both": [1, 14, 6, -1]}


class TestAudited:
    def test_clusterings_are_sklearns_over_all_points_with_noise_as_one_more_cluster(self) -> None:
        x, data = planted(2, n=300, d=10, foundation=4, polarity=2)
        metric, got = AuditedStructural(components=4, seed=3), overall(AuditedStructural(components=4, seed=3), x, data)
        points = PCA(4).fit_transform(x.numpy())
        cluster, order = np.zeros(300, dtype=int), np.argsort(data.text, kind="stable")
        cluster[order] = HDBSCAN(min_cluster_size=12, min_samples=3, **COPY).fit_predict(points[order])
        assert got["noise"] == (cluster < 0).mean()
        for name, label in labels(data).items():
            kmeans = np.zeros(300, dtype=int)
            k = len(np.unique(label))
            kmeans[order] = KMeans(k, **FOUR, random_state=metric.seed).fit_predict(points[order])
            for clustering, found in (("hdbscan", cluster), ("kmeans", kmeans)):
                ari, ami = adjusted_rand_score(label, found), adjusted_mutual_info_score(label, found)
                assert got[f"{clustering}_ari_{name}"] == pytest.approx(ari, abs=1e-9)
                assert got[f"{clustering}_ami_{name}"] == pytest.approx(ami, abs=1e-9)

    def test_planted_foundations_are_found_by_clusters_and_by_prototypes(self) -> None:
        x, data = planted(3, n=300, foundation=8, noise=0.7)
        got = overall(AuditedStructural(), x, data)
        for name in ("kmeans_ari_foundation", "kmeans_ami_foundation", "hdbscan_ari_foundation", "accuracy_foundation"):
            assert got[name] > 0.95, name
        assert abs(got["accuracy_polarity"]) < 0.15
        assert abs(got["kmeans_ari_polarity"]) < 0.02

    @pytest.mark.parametrize("most", [600, 300])
    def test_density_clusters_of_a_part_are_those_of_all(self, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where clusters lie apart: a part has them, and every other scenario is nearest to one of its own."""
        monkeypatch.setattr(structural, "DENSE", most)
        x, data = planted(3, n=600, foundation=8, noise=0.3)
        got = overall(AuditedStructural(), x, data)
        assert got["hdbscan_ari_foundation"] > 0.99 and got["noise"] < 0.01

    def test_planted_polarity_is_found_by_prototypes_where_clusters_follow_something_larger(self) -> None:
        x, data = planted(4, n=600)
        x[:, :3] *= 4
        x[:, 11] += torch.from_numpy(np.choose(data.pole, [3.0, -3.0, 0.0]))
        got = overall(AuditedStructural(), x, data)
        assert got["accuracy_polarity"] > 0.3
        assert abs(got["kmeans_ari_polarity"]) < 0.02

    def test_neutrals_of_no_foundation_are_dropped_from_the_partitions_by_foundation_and_counted(self) -> None:
        x, data = planted(5, n=150, foundation=8, noise=0.5)
        homeless = moral_data(np.where(data.pole == NEUTRAL, -1, data.foundation), data.pole, data.typicality)
        statistics = {s.name: s for s in cast(list[Any], evaluate(AuditedStructural(), x, homeless))}
        for name in ("accuracy", "kmeans_ari", "hdbscan_ami"):
            assert (statistics[f"{name}_foundation"].n, statistics[f"{name}_foundation"].n_dropped) == (100, 50)
            assert (statistics[f"{name}_both"].n, statistics[f"{name}_both"].n_dropped) == (100, 50)
            assert (statistics[f"{name}_polarity"].n, statistics[f"{name}_polarity"].n_dropped) == (150, 0)
        assert statistics["accuracy_foundation"].value > 0.95
        assert statistics["kmeans_ari_foundation"].value > 0.95

    def test_one_class_gives_none_for_its_partition_alone(self) -> None:
        rng = np.random.default_rng(0)
        data = moral_data(np.zeros(60), rng.integers(0, 3, 60), np.ones(60))
        got = overall(AuditedStructural(), torch.from_numpy(rng.standard_normal((60, 4))), data)
        assert {name for name, value in got.items() if value is None} == {
            f"{kind}_foundation" for kind in ("accuracy", "hdbscan_ari", "hdbscan_ami", "kmeans_ari", "kmeans_ami")
        }

    @pytest.mark.parametrize("constant", [0.0, 0.1])
    def test_a_layer_that_does_not_vary_is_at_chance_and_has_no_kmeans(self, constant: float) -> None:
        _, data = planted(0, n=150)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = overall(AuditedStructural(), torch.full((150, 4), constant).double(), data)
        assert {got[f"accuracy_{name}"] for name in ("foundation", "polarity", "both")} == {0.0}
        assert {value for name, value in got.items() if name.startswith("kmeans")} == {None}

    def test_dead_latents_change_no_accuracy_and_cause_no_warning(self) -> None:
        x, data = planted(6, n=150, polarity=1)
        alive = overall(AuditedStructural(), x, data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            padded = overall(AuditedStructural(), torch.cat([x, torch.zeros(150, 40).double()], dim=1), data)
        for name in ("accuracy_polarity", "accuracy_foundation", "accuracy_both"):
            assert padded[name] == alive[name]


def accuracy(x: np.ndarray, label: np.ndarray, fold: np.ndarray) -> float | None:
    """`nearest_prototype_accuracy` of one version, every item counted once; None for NaN."""
    zeros = np.zeros(len(x), dtype=np.int64)
    items = Items.of(torch.from_numpy(x), moral_data(zeros, zeros, zeros + 1.0), np.arange(len(x)), fold)
    (value,) = nearest_prototype_accuracy(items, torch.from_numpy(label)[None], torch.ones(1, len(x)).double())
    return None if value.isnan() else value.item()


class TestNearestPrototypeAccuracy:
    def test_it_is_sklearns_nearest_centroid_and_balanced_accuracy_where_every_fold_holds_every_class(self) -> None:
        x, data = planted(0, n=300, polarity=0.7)
        fold = np.repeat(np.arange(5), [20, 40, 60, 80, 100])
        expected, weight = 0.0, 0
        for k in range(5):
            train, test = fold != k, fold == k
            predicted = NearestCentroid().fit(x[train], data.pole[train]).predict(x[test])
            right = balanced_accuracy_score(data.pole[test], predicted)
            assert len(np.unique(data.pole[test])) == 3
            expected += test.sum() * (right - 1 / 3) / (1 - 1 / 3)
            weight += test.sum()
        got = accuracy(x.numpy(), data.pole, fold)
        assert got == pytest.approx(expected / weight, abs=1e-12)
        assert got is not None and 0.1 < got < 0.9

    def test_balanced_accuracy_weighs_classes_equally(self) -> None:
        label = np.array([0] * 18 + [1] * 2)
        x = np.zeros((20, 1))
        x[label == 1] = [[1.0], [0.0]]  # one of the rare class looks like the frequent one
        fold = np.array([0, 1] * 10)
        by_fold = accuracy(x, label, fold)
        # Fold 0 holds the visible rare item, whose class is learnt from the hidden one: every item is equally near.
        assert by_fold == 0.0
        assert recall_score(label, np.zeros(20), average="macro") == 0.5

    def test_perfect_is_one_and_reversed_is_below_zero(self) -> None:
        label, fold = np.arange(40) % 2, np.arange(40) // 10
        assert accuracy(label[:, None].astype(float), label, fold) == 1.0
        # Two folds whose classes swap sides: always wrong, 2 · 0 − 1.
        swapped = np.where(fold < 2, label, 1 - label)[:, None].astype(float)
        assert accuracy(swapped, label, np.minimum(fold // 2, 1)) == -1.0

    def test_fewer_than_two_classes_give_none(self) -> None:
        assert accuracy(np.ones((6, 2)), np.zeros(6, dtype=int), np.arange(6) % 3) is None

    def test_no_fold_with_two_classes_gives_none(self) -> None:
        label = np.array([0, 0, 1, 1])
        assert accuracy(np.arange(4.0)[:, None], label, label) is None

    def test_rare_classes_that_some_folds_lack_do_not_push_noise_below_chance(self) -> None:
        fixed, leaning = [], []
        for seed in range(150):
            rng = np.random.default_rng(seed)
            foundation, pole, typicality = balanced(rng, 75)
            foundation = np.where(rng.random(75) < 0.5, foundation, 0)  # four foundations become rare
            data = moral_data(foundation, pole, typicality)
            x, label, fold = rng.standard_normal((75, 4)), labels(data)["both"], folds(data, 5, 0)
            fixed.append(accuracy(x, label, fold))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores = []
                for k in range(5):
                    model = NearestCentroid().fit(x[fold != k], label[fold != k])
                    truth, test = label[fold == k], x[fold == k]
                    scores.append(balanced_accuracy_score(truth, model.predict(test), adjusted=True))
            leaning.append(np.mean(scores))
        assert abs(standard_errors(fixed, 0.0)) < 3
        assert standard_errors(leaning, 0.0) < -5  # what letting absent classes compete would do
