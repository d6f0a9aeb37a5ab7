"""Structural indifference: do scenarios fall into groups by foundation and polarity?

`paper`: PCA to 95 % of the variance, HDBSCAN, adjusted Rand index of the points that are not noise against the five
foundations, the three polarities and both (arXiv 2603.15615 §3).

`audited`: the same question asked over all points, of two clusterings, with a second index, and of a supervised reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    balanced_accuracy_score,
    pairwise_distances_argmin,
)
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.metrics.base import Metric, Statistic
from sae_moral.metrics.folds import folds, within_folds
from sae_moral.protocol import Protocol


def labels(data: MoralData) -> dict[str, Int[np.ndarray, "n"]]:
    """The three partitions: foundation (−1 for none), polarity, both."""
    return {
        "foundation": data.foundation,
        "polarity": data.pole,
        "both": np.where(data.foundation < 0, -1, data.foundation * 3 + data.pole),
    }


def text_order(data: MoralData) -> Int[np.ndarray, "n"]:
    """Rows by text. Clusterings depend on the order of rows (k-means by what it draws, HDBSCAN by how it breaks
    ties), so the audited ones get this order, whatever the data's own."""
    return np.array(sorted(range(len(data)), key=data.text.__getitem__))


def density_clusters(points: Float[np.ndarray, "n p"], min_cluster_size: int, min_samples: int) -> Int[np.ndarray, "n"]:
    """HDBSCAN's clusters, −1 for noise (all noise when there are too few points for one cluster)."""
    if len(points) < max(min_cluster_size, min_samples):
        return np.full(len(points), -1)
    options: dict[str, Any] = {"min_cluster_size": min_cluster_size, "min_samples": min_samples, "copy": True}
    clusterer = HDBSCAN(**options)  # its `copy` has a string for a default, which type checkers believe
    return np.asarray(clusterer.fit_predict(points), dtype=np.int64)


def principal_components(x: Float[Tensor, "n d"], components: float | int) -> Float[np.ndarray, "n p"]:
    """Scores of the principal components that hold a share of the variance, or of that many."""
    points = x.cpu().double().numpy()
    if isinstance(components, int):
        components = min(components, *points.shape)
    if np.ptp(points, axis=0).max(initial=0.0) == 0:
        return np.zeros((len(points), 1))
    # A share of the variance must be met to the last component; for a fixed number the covariance is quicker.
    solver = "covariance_eigh" if isinstance(components, int) and len(points) > points.shape[1] else "full"
    return PCA(components, svd_solver=solver).fit_transform(points)


@dataclass(frozen=True)
class PaperStructural:
    """ARI of HDBSCAN's clusters with the labels over the points that are not noise, and the share of noise. The ARIs
    are None where everything is noise.

    Rows keep the order of the data, as in the paper: HDBSCAN breaks ties by it, which moves 1 to 3 of 2,786 points."""

    variance: float = 0.95
    min_cluster_size: int = 100
    min_samples: int = 20
    name: str = "structural"
    headline: str = "ari_polarity"
    chance: float | None = 0.0
    higher_is: str = "less indifferent"
    means: str = (
        "Agreement (adjusted Rand index) of density clusters with human labels. The paper finds about 0.5 at best for "
        "polarity and under 0.15 for foundations."
    )
    does_not_prove: str = (
        "Noise points are left out, so a layer that is nearly all noise can look good; and clusters can be of "
        "anything: with this protocol they are mostly of sentence length."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """`ari_foundation`, `ari_polarity`, `ari_both`, `noise`."""
        points = principal_components(representation, self.variance)
        cluster = density_clusters(points, self.min_cluster_size, self.min_samples)
        kept = cluster >= 0
        n, dropped = int(kept.sum()), int((~kept).sum())
        statistics = [
            Statistic(
                f"ari_{name}",
                float(adjusted_rand_score(label[kept], cluster[kept])) if n else None,
                n=n,
                n_dropped=dropped,
            )
            for name, label in labels(data).items()
        ]
        return [*statistics, Statistic("noise", dropped / len(data), n=len(data), n_dropped=0)]


@dataclass(frozen=True)
class AuditedStructural:
    """Unsupervised and supervised structure over all points.

    Clusters: HDBSCAN on the first `components` principal components (density means little in hundreds of
    dimensions), noise counted as one more cluster, and k-means at the true number of classes. Against each
    partition: the adjusted Rand index and the adjusted mutual information (Vinh et al. 2010).

    - `accuracy_polarity` (headline), `accuracy_foundation`, `accuracy_both`: balanced accuracy of the nearest
      prototype (class mean) fitted on other texts, averaged within folds, rescaled so that chance is 0 and perfect
      is 1: (accuracy − 1/k) / (1 − 1/k) with the k classes of the fold. It leads because it asks what a reader of
      the representation can see; clusters follow whatever varies most, and morality need not.
    - `hdbscan_ari_*`, `hdbscan_ami_*`, `noise`, `kmeans_ari_*`, `kmeans_ami_*`.
    """

    components: int = 50
    folds: int = 5
    seed: int = 0
    name: str = "structural"
    headline: str = "accuracy_polarity"
    chance: float | None = 0.0
    higher_is: str = "less indifferent"
    means: str = (
        "How well held-out scenarios are assigned to virtue, vice or neutral (and to foundations) by the nearest class "
        "mean fitted on other texts; 0 is chance, 1 perfect. Beside it whether clusters that form by themselves agree "
        "with those labels, noise counted."
    )
    does_not_prove: str = (
        "A reader that finds the classes does not show that the model keeps them apart by itself, and clusters that "
        "miss them do not show that they are absent: k-means and density follow the largest variance, whatever it is."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Accuracies, ARI and AMI per partition and clustering, and the share of noise."""
        points, order = principal_components(representation, self.components), text_order(data)
        sizes = max(5, min(100, len(data) // 25)), max(3, min(20, len(data) // 125))
        cluster = np.empty(len(data), dtype=np.int64)
        cluster[order] = density_clusters(points[order], *sizes)
        vectors, fold = representation.cpu().double().numpy(), folds(data, self.folds, self.seed)
        statistics = [Statistic("noise", float((cluster < 0).mean()), n=len(data), n_dropped=0)]
        for name, label in labels(data).items():
            known = label >= 0
            classes = len(np.unique(label[known]))
            means = self._kmeans(points, order[known[order]], classes)
            values = {
                f"accuracy_{name}": nearest_prototype_accuracy(vectors[known], label[known], fold[known]),
                **_agreement("hdbscan", name, label[known], cluster[known] if classes > 1 else None),
                **_agreement("kmeans", name, label[known], None if means is None else means[known]),
            }
            counts = int(known.sum()), int((~known).sum())
            statistics += [Statistic(key, value, n=counts[0], n_dropped=counts[1]) for key, value in values.items()]
        return statistics

    def _kmeans(
        self, points: Float[np.ndarray, "n p"], rows: Int[np.ndarray, "m"], k: int
    ) -> Int[np.ndarray, "n"] | None:
        """k-means of some rows, −1 for the others; None for one class or fewer distinct points than classes."""
        if k < 2 or len(np.unique(points[rows], axis=0)) < k:
            return None
        cluster = np.full(len(points), -1)
        options: dict[str, Any] = {"n_init": 4, "random_state": self.seed}
        cluster[rows] = KMeans(k, **options).fit_predict(points[rows])
        return cluster


def _agreement(
    clustering: str, partition: str, label: np.ndarray, cluster: np.ndarray | None
) -> dict[str, float | None]:
    scores = {"ari": adjusted_rand_score, "ami": adjusted_mutual_info_score}
    return {
        f"{clustering}_{index}_{partition}": None if cluster is None else float(score(label, cluster))
        for index, score in scores.items()
    }


def nearest_prototype_accuracy(
    x: Float[np.ndarray, "n d"], label: Int[np.ndarray, "n"], fold: Int[np.ndarray, "n"]
) -> float | None:
    """Balanced accuracy of the nearest class mean of the other folds, rescaled so that chance is 0 and perfect is 1;
    averaged within folds. None with fewer than two classes.

    Only the classes a fold holds compete for its items: a class that is missing there would take some of them, and
    chance would lie below 1/k.
    """
    if len(np.unique(label)) < 2:
        return None

    def accuracy(test: Int[np.ndarray, "m"]) -> tuple[float, float] | None:
        train = np.setdiff1d(np.flatnonzero(np.isin(label, label[test])), test)
        classes = np.unique(label[train])
        if len(classes) < 2:
            return None
        # Not sklearn's NearestCentroid: it divides by the spread within classes, which dead latents do not have.
        means = np.stack([x[train[label[train] == c]].mean(axis=0) for c in classes])
        predicted = classes[pairwise_distances_argmin(x[test], means)]
        return float(balanced_accuracy_score(label[test], predicted, adjusted=True)), float(len(test))

    return within_folds(accuracy, fold)


def structural(protocol: Protocol) -> Metric:
    """The structural metric under a protocol (entry point)."""
    return (
        PaperStructural()
        if protocol.estimators == "paper"
        else AuditedStructural(folds=protocol.folds, seed=protocol.seed)
    )
