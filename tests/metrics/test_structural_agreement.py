"""Agreement of one clustering with many partitions: scikit-learn's indices, and pairs counted one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score
from torch import Tensor

from sae_moral.metrics.structural import Clusters

SEEDS = st.integers(0, 2**32 - 1)


def one(m: int) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


def partitions(seed: int, n: int, k: int, versions: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A clustering (noise is −1) that goes with the first of several permuted partitions."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n) * 3 - 1
    cluster = np.where(rng.random(n) < 0.5, label, rng.integers(-1, 4, n))
    return cluster, np.stack([label, *(rng.permutation(label) for _ in range(versions - 1))])


def pairs_ari(label: np.ndarray, cluster: np.ndarray, weight: np.ndarray) -> float:
    """Hubert & Arabie (1985), from pairs of different items; a pair counts as often as its items together."""
    both = by_label = by_cluster = total = 0.0
    for i, j in combinations(range(len(label)), 2):
        count, same = weight[i] * weight[j], (label[i] == label[j], cluster[i] == cluster[j])
        total += count
        both += count * all(same)
        by_label, by_cluster = by_label + count * same[0], by_cluster + count * same[1]
    expected = by_label * by_cluster / total if total else 0.0
    room = (by_label + by_cluster) / 2 - expected
    return (both - expected) / room if abs(room) > 1e-9 else 1.0


class TestAri:
    @given(SEEDS, st.integers(2, 40), st.integers(1, 5))
    @settings(max_examples=60, deadline=None)
    def test_it_is_sklearns_for_every_version(self, seed: int, n: int, k: int) -> None:
        cluster, label = partitions(seed, n, k)
        got = Clusters.of(cluster).ari(torch.from_numpy(label), one(n))
        assert got.tolist() == pytest.approx([adjusted_rand_score(row, cluster) for row in label], abs=1e-12)

    @given(SEEDS, st.integers(1, 14), st.integers(1, 4))
    @settings(max_examples=60, deadline=None)
    def test_a_weight_is_so_many_copies_that_make_no_pair_with_each_other(self, seed: int, n: int, k: int) -> None:
        cluster, label = partitions(seed, n, k)
        weight = np.random.default_rng(seed + 1).integers(0, 4, (4, n)).astype(float)
        clusters = Clusters.of(cluster)
        got = clusters.ari(torch.from_numpy(label), torch.from_numpy(weight))
        expected = [pairs_ari(*pair) for pair in zip(label, [cluster] * 4, weight, strict=True)]
        assert got.tolist() == pytest.approx(expected, abs=1e-9)
        shared = clusters.ari(torch.from_numpy(label[:1]), torch.from_numpy(weight))
        assert shared.tolist() == pytest.approx([pairs_ari(label[0], cluster, w) for w in weight], abs=1e-9)

    def test_copies_alone_do_not_raise_it(self) -> None:
        cluster, label = partitions(0, 60, 3)
        clusters, versions = Clusters.of(cluster), torch.from_numpy(label)
        twice = np.repeat(cluster, 2)
        np.testing.assert_allclose(clusters.ari(versions, 2 * one(60)), clusters.ari(versions, one(60)), atol=1e-12)
        assert adjusted_rand_score(np.repeat(label[1], 2), twice) > adjusted_rand_score(label[1], cluster) + 0.005

    def test_its_mean_over_permutations_is_zero(self) -> None:
        cluster, label = partitions(1, 200, 3, versions=2000)
        got = Clusters.of(cluster).ari(torch.from_numpy(label[1:]), one(200)).numpy()
        assert abs(got.mean()) < 3 * got.std() / np.sqrt(len(got))
        assert got.std() < 0.02


class TestAmi:
    @given(SEEDS, st.integers(2, 40), st.integers(1, 5))
    @settings(max_examples=40, deadline=None)
    def test_it_is_sklearns_for_every_permutation(self, seed: int, n: int, k: int) -> None:
        cluster, label = partitions(seed, n, k)
        got = Clusters.of(cluster).ami(torch.from_numpy(label), one(n))
        assert got.tolist() == pytest.approx([adjusted_mutual_info_score(row, cluster) for row in label], abs=1e-9)

    @given(SEEDS, st.integers(2, 40), st.integers(1, 5))
    @settings(max_examples=40, deadline=None)
    def test_it_is_sklearns_where_classes_change_their_sizes_too(self, seed: int, n: int, k: int) -> None:
        cluster, label = partitions(seed, n, k)
        label[1:] = np.random.default_rng(seed + 1).choice(label[0], (3, n))  # as a control task draws them
        got = Clusters.of(cluster).ami(torch.from_numpy(label), one(n))
        assert got.tolist() == pytest.approx([adjusted_mutual_info_score(row, cluster) for row in label], abs=1e-9)

    def test_weights_other_than_1_have_none(self) -> None:
        cluster, label = partitions(0, 20, 3)
        weight = one(20).repeat(4, 1)
        weight[2, 3] = 2
        assert Clusters.of(cluster).ami(torch.from_numpy(label), weight).isnan().all()

    def test_weights_of_1_in_many_rows_change_nothing(self) -> None:
        for cluster, label in (partitions(0, 20, 3), (np.arange(20) % 3, np.arange(20)[None] % 3)):
            clusters, first = Clusters.of(cluster), torch.from_numpy(label[:1])
            got = clusters.ami(first, one(20).repeat(3, 1))
            assert got.tolist() == pytest.approx([clusters.ami(first, one(20)).item()] * 3)


@pytest.mark.parametrize("index", ["ari", "ami"])
class TestBoth:
    def test_perfect_agreement_is_1_and_its_permutations_are_sklearns(self, index: str) -> None:
        rng = np.random.default_rng(0)
        cluster = rng.integers(0, 3, 30)
        label = np.stack([5 - 2 * cluster, *(5 - 2 * rng.permutation(cluster) for _ in range(5))])
        got = getattr(Clusters.of(cluster), index)(torch.from_numpy(label), one(30))
        expected = {"ari": adjusted_rand_score, "ami": adjusted_mutual_info_score}[index]
        assert got[0].item() == 1
        assert got.tolist() == pytest.approx([expected(row, cluster) for row in label], abs=1e-9)

    @pytest.mark.parametrize("n", [1, 6])
    def test_one_class_and_one_cluster_agree(self, index: str, n: int) -> None:
        zeros = np.zeros(n, dtype=np.int64)
        assert getattr(Clusters.of(zeros), index)(torch.from_numpy(zeros)[None], one(n)).tolist() == [1.0]

    def test_without_items_there_is_none(self, index: str) -> None:
        nothing = torch.zeros(3, 0, dtype=torch.int64)
        got = getattr(Clusters.of(np.zeros(0, dtype=np.int64)), index)(nothing, one(0))
        assert got.shape == (3,) and got.isnan().all()
