"""Structural indifference: do scenarios fall into groups by foundation and polarity?

`paper`: PCA to 95 % of the variance, HDBSCAN, adjusted Rand index of the points that are not noise against the five
foundations, the three polarities and both (arXiv 2603.15615 §3).

`audited`: the same question asked over all points, of two clusterings, with a second index, and of a supervised reader.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.metrics.base import Metric, Prepared, Statistic, Values, Variants, folds
from sae_moral.metrics.discriminant import Whitened
from sae_moral.metrics.nuisance import Nuisance
from sae_moral.metrics.prototypes import Items, Sums
from sae_moral.metrics.ranks import Weighed, mean_of_folds
from sae_moral.protocol import Protocol
from sae_moral.results import OVERALL, StatisticSpec

SCHEMES = {"foundation": "foundation", "polarity": "labels", "both": "all"}
"""What labels are permuted within: foundations within a polarity, polarity within a foundation, both freely."""
PENALTY = 3.0
"""λ of the accuracies' metric; a choice of its own for each of 3 partitions × 199 permutations would cost too much, and
gains little (docs/design/metrics.md)."""
DENSE = 16_384
"""Scenarios that density clusters are formed of, at most: HDBSCAN takes time with n² (docs/design/metrics.md)."""
AGREEMENTS = ("hdbscan_ari", "hdbscan_ami", "kmeans_ari", "kmeans_ami")


def kept_apart(data: MoralData) -> dict[str, np.ndarray]:
    """Per partition, the blocks that labels may be permuted within (the schemes of `SCHEMES`)."""
    homeless = data.foundation < 0
    return {"foundation": np.where(homeless, -1, data.pole), "polarity": data.foundation, "both": homeless}


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
    from sklearn.cluster import HDBSCAN

    if len(points) < max(min_cluster_size, min_samples):
        return np.full(len(points), -1)
    options: dict[str, Any] = {"min_cluster_size": min_cluster_size, "min_samples": min_samples, "copy": True}
    clusterer = HDBSCAN(**options)  # its `copy` has a string for a default, which type checkers believe
    return np.asarray(clusterer.fit_predict(points), dtype=np.int64)


def principal_components(x: Float[Tensor, "n d"], components: float | int) -> Float[np.ndarray, "n p"]:
    """Scores of the principal components that hold a share of the variance, or of that many."""
    from sklearn.decomposition import PCA

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
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (
        *(StatisticSpec(f"ari_{name}", "higher", scheme, chance=0.0, margin=0.05) for name, scheme in SCHEMES.items()),
        StatisticSpec("noise", null=None),
    )
    rotation_invariant: ClassVar[bool] = True
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
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`; the clusters stay what they are."""
        points = principal_components(representation, self.variance)
        cluster = density_clusters(points, self.min_cluster_size, self.min_samples)
        kept, blocks = np.flatnonzero(cluster >= 0), kept_apart(data)
        clusters, rows = Clusters.of(cluster[kept]), torch.from_numpy(kept).to(representation.device)

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            found: Values = {}
            for name, label in labels(data).items():
                if only is None or f"ari_{name}" in only:
                    moved = variants.moved(label, kept, blocks[name])
                    found[f"ari_{name}", OVERALL] = clusters.ari(moved, variants.weight[:, rows])
            if only is None or "noise" in only:
                found["noise", OVERALL] = share_of(cluster < 0, variants)
            return found

        counts = {(f"ari_{name}", OVERALL): (len(kept), len(data) - len(kept)) for name in SCHEMES}
        return Prepared(len(data), counts, run, representation.device)


def share_of(mask: Bool[np.ndarray, "n"], variants: Variants) -> Float[Tensor, "b"]:
    """Share of the scenarios that a mask holds."""
    share = variants.weight @ torch.from_numpy(mask).to(variants.weight) / variants.weight.sum(dim=1)
    return share.expand(variants.n)


_AUDITED = (
    *(
        StatisticSpec(f"accuracy_{name}", "higher", scheme, "fixed", 0.0, margin=0.05)
        for name, scheme in SCHEMES.items()
    ),
    *(
        StatisticSpec(f"{kind}_{name}", "higher", scheme, chance=0.0)
        for name, scheme in SCHEMES.items()
        for kind in AGREEMENTS
    ),
    StatisticSpec("noise", null=None),
)


@dataclass(frozen=True)
class AuditedStructural:
    """Unsupervised and supervised structure over all points.

    Clusters: HDBSCAN on the first `components` principal components (density means little in hundreds of
    dimensions), noise counted as one more cluster, and k-means at the true number of classes. Against each
    partition: the adjusted Rand index and the adjusted mutual information (Vinh et al. 2010).

    - `accuracy_polarity` (headline), `accuracy_foundation`, `accuracy_both`: balanced accuracy of the nearest
      prototype (class mean) fitted on other texts, averaged within folds, rescaled so that chance is 0 and perfect
      is 1: (accuracy − 1/k) / (1 − 1/k) with the k classes of the fold. Near is meant in the metric
      (S + λ s̄ I)⁻¹ with λ = `PENALTY`: linear discriminant analysis with a covariance that is blind to labels
      (`sae_moral.metrics.discriminant`). It leads because it asks what a reader of the representation can see;
      clusters follow whatever varies most, and morality need not.
    - `hdbscan_ari_*`, `hdbscan_ami_*`, `noise`, `kmeans_ari_*`, `kmeans_ami_*`. Of more than `DENSE` scenarios a random
      part of that size is clustered by density, and each of the others belongs to the cluster of its nearest.
    """

    components: int = 50
    folds: int = 5
    seed: int = 0
    remove_length: bool = True
    name: str = "structural"
    headline: str = "accuracy_polarity"
    statistics: ClassVar[tuple[StatisticSpec, ...]] = _AUDITED
    rotation_invariant: ClassVar[bool] = True
    means: str = (
        "How well held-out scenarios are assigned to virtue, vice or neutral (and to foundations) by the nearest class "
        "mean fitted on other texts, in whitened coordinates; 0 is chance, 1 perfect. Beside it whether clusters that "
        "form by themselves agree with those labels, noise counted."
    )
    does_not_prove: str = (
        "A reader that finds the classes does not show that the model keeps them apart by itself, and clusters that "
        "miss them do not show that they are absent: k-means and density follow the largest variance, whatever it is."
    )

    def __call__(self, representation: Float[Tensor, "n d"], data: MoralData) -> list[Statistic]:
        """Accuracies, ARI and AMI per partition and clustering, and the share of noise."""
        return self.prepare(representation, data).statistics()

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """See `sae_moral.metrics.base`; the clusters stay what they are."""
        clustering = _Clusterings(self, representation, data)
        fold, blocks = folds(data, self.folds, self.seed), kept_apart(data)
        scaled = Whitened.of(representation, data, fold, length=self.remove_length).scaled(PENALTY)
        nuisance = Nuisance.of(scaled, data, fold, length=self.remove_length)
        items = {
            name: Items.of(scaled, data, np.flatnonzero(label >= 0), fold, nuisance)
            for name, label in labels(data).items()
        }

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            found: Values = {}
            for name, label in labels(data).items():
                kinds = [k for k in (*AGREEMENTS, "accuracy") if only is None or f"{k}_{name}" in only]
                if not kinds:
                    continue
                part = items[name]
                moved, weight = variants.moved(label, part.rows, blocks[name]), part.weight(variants)
                for kind in kinds:
                    if kind == "accuracy":
                        read, fitted = (w.to(variants.dtype) for w in (weight, part.fit_weight(variants)))
                        value = nearest_prototype_accuracy(part, moved, read, fitted)
                    else:
                        value = clustering.agreement(kind, name, moved, weight)
                    found[f"{kind}_{name}", OVERALL] = value
            if only is None or "noise" in only:
                found["noise", OVERALL] = share_of(clustering.density < 0, variants)
            return found

        counts = {
            (f"{kind}_{name}", OVERALL): (len(part.rows), len(data) - len(part.rows))
            for name, part in items.items()
            for kind in (*AGREEMENTS, "accuracy")
        }
        return Prepared(len(data), counts, run, representation.device)


@dataclass(frozen=True, eq=False)
class _Clusterings:
    """The label-blind half of `AuditedStructural`, made when it is asked for."""

    metric: AuditedStructural
    representation: Float[Tensor, "n d"]
    data: MoralData

    @cached_property
    def points(self) -> Float[np.ndarray, "n p"]:
        """First principal components."""
        return principal_components(self.representation, self.metric.components)

    @cached_property
    def density(self) -> Int[np.ndarray, "n"]:
        """HDBSCAN's clusters, −1 for noise."""
        n, some = len(self.data), text_order(self.data)
        if n > DENSE:
            some = some[np.sort(np.random.default_rng(self.metric.seed).permutation(n)[:DENSE])]
        size, cluster = len(some), np.full(n, -1)
        cluster[some] = density_clusters(self.points[some], max(5, min(100, size // 25)), max(3, min(20, size // 125)))
        if n > DENSE:
            from sklearn.metrics import pairwise_distances_argmin

            others = np.setdiff1d(np.arange(n), some)
            cluster[others] = cluster[some][pairwise_distances_argmin(self.points[others], self.points[some])]
        return cluster

    @cached_property
    def by_partition(self) -> dict[str, dict[str, Clusters | None]]:
        """Per partition the clusters of its own records; None where there is nothing to cluster by: one class, or fewer
        distinct points than classes."""
        found: dict[str, dict[str, Clusters | None]] = {}
        order = text_order(self.data)
        for name, label in labels(self.data).items():
            known = np.flatnonzero(label >= 0)
            k = len(np.unique(label[known]))
            means = self._kmeans(order[label[order] >= 0], k)
            found[name] = {
                "hdbscan": Clusters.of(self.density[known]) if k > 1 else None,
                "kmeans": None if means is None else Clusters.of(means[known]),
            }
        return found

    def agreement(
        self, kind: str, partition: str, label: Int[Tensor, "p m"], weight: Float[Tensor, "w m"]
    ) -> Float[Tensor, "b"]:
        """ARI or AMI of a clustering, by the names of `AGREEMENTS`; NaN where there is none."""
        clustering, index = kind.split("_")
        clusters = self.by_partition[partition][clustering]
        if clusters is None:
            return torch.full((max(len(label), len(weight)),), torch.nan)
        return clusters.ari(label, weight) if index == "ari" else clusters.ami(label, weight)

    def _kmeans(self, rows: Int[np.ndarray, "m"], k: int) -> Int[np.ndarray, "n"] | None:
        """k-means of some rows, −1 for the others; None for one class or fewer distinct points than classes."""
        from sklearn.cluster import KMeans

        if k < 2 or len(np.unique(self.points[rows], axis=0)) < k:
            return None
        cluster = np.full(len(self.points), -1)
        options: dict[str, Any] = {"n_init": 4, "random_state": self.metric.seed}
        cluster[rows] = KMeans(k, **options).fit_predict(self.points[rows])
        return cluster


def nearest_prototype_accuracy(
    items: Items,
    label: Int[Tensor, "p m"],
    weight: Float[Tensor, "w m"],
    fit: Float[Tensor, "r m"] | None = None,
) -> Float[Tensor, "b"]:
    """Balanced accuracy of the nearest class mean of the other folds, rescaled so that chance is 0 and perfect is 1;
    averaged within folds. NaN with fewer than two classes.

    Only the classes a fold holds compete for its items: a class that is missing there would take some of them, and
    chance would lie below 1/k. Versions are done in parts, so that memory is bounded.

    Args:
        items: with folds.
        label: of each item, in each version.
        weight: how often an item counts when it is read.
        fit: how often it counts in the means.
    """
    fit = torch.ones_like(weight[:1]) if fit is None else fit
    columns = label, weight, fit
    b = max(map(len, columns))
    classes = label.unique() if label.numel() else label.new_zeros(0)
    if len(classes) < 2:
        return torch.full((b,), torch.nan, dtype=torch.float64, device=label.device)
    fitted = len(label) > 1 or len(fit) > 1
    size = max(1, _ELEMENTS // (len(classes) * max(items.x.shape))) if fitted else b
    parts = []
    for start in range(0, b, size):
        own, read, fitted_to = (column[start : start + size] if len(column) > 1 else column for column in columns)
        parts.append(_accuracy(items, own, read, fitted_to, classes))
    return torch.cat(parts)


_SLACK = {torch.float64: 1e-9, torch.float32: 1e-6}
"""Relative difference of two squared distances that rounding makes."""
_ELEMENTS = 20_000_000
"""Numbers held at once for the class means and distances of several versions."""


def _accuracy(
    items: Items,
    label: Int[Tensor, "p m"],
    weight: Float[Tensor, "w m"],
    fit: Float[Tensor, "r m"],
    classes: Int[Tensor, "c"],
) -> Float[Tensor, "b"]:
    member = (label[:, None, :] == classes[:, None]).to(fit)  # p c m
    fitted = member * fit[:, None, :]
    sums = items.fold_sums(fitted.reshape(-1, fitted.shape[2]))
    return mean_of_folds(
        _fold_accuracy(items.held_out(k).to(fit), sums.without(k), member[:, :, test], weight[:, test])
        for k, test in items.folds
    )


def _fold_accuracy(
    x: Float[Tensor, "k d"], train: Sums, member: Float[Tensor, "p c k"], weight: Float[Tensor, "w k"]
) -> Weighed:
    """Adjusted balanced accuracy of one fold's items, and their number."""
    c = member.shape[1]
    # Not sklearn's NearestCentroid: it divides by the spread within classes, which dead latents do not have.
    means = train.mean.nan_to_num()
    distance = (means.square().sum(dim=1, keepdim=True) - 2 * means @ x.T).reshape(-1, c, len(x))
    here = member.sum(dim=2) > 0
    competing = here & (train.count.reshape(-1, c) > 0)
    distance = torch.where(competing[:, :, None], distance, torch.inf)
    # Rounding must not decide between equally near means: the first one wins, as in scikit-learn.
    nearest = distance.amin(dim=1, keepdim=True)
    longest = means.square().sum(dim=1).reshape(-1, c, 1).amax(dim=1, keepdim=True)
    slack = _SLACK[x.dtype] * (x.square().sum(dim=1) + longest)
    predicted = (distance <= nearest + slack).to(torch.uint8).argmax(dim=1, keepdim=True)
    right = member.expand(len(predicted), -1, -1).gather(1, predicted)[:, 0]
    heavy = member * weight[:, None, :]  # b c k
    total = heavy.sum(dim=2)
    recall = torch.where(total > 0, (heavy * right[:, None, :]).sum(dim=2) / total, torch.nan)
    count = (total > 0).sum(dim=1).to(x)
    value = (recall.nanmean(dim=1) - 1 / count) / (1 - 1 / count)
    value = torch.where((competing.sum(dim=1) >= 2) & (count >= 2), value, torch.nan)
    return value, weight.sum(dim=1).expand_as(value)


# Agreement with many versions of a partition at once, from the contingency table of clusters and classes. The
# clustering does not depend on labels, so only tables are made anew; permuted labels keep the sizes of the classes, on
# which the expectations by chance depend.


@dataclass(frozen=True)
class Clusters:
    """A clustering of m items.

    Attributes:
        cluster: of each item, from 0 (noise, if it is kept, is one more).
    """

    cluster: Int[Tensor, "m"]

    @classmethod
    def of(cls, cluster: Int[np.ndarray, "m"]) -> Clusters:
        """From the number of each item's cluster."""
        return cls(torch.from_numpy(np.unique(cluster, return_inverse=True)[1].reshape(-1)))

    def table(self, label: Int[Tensor, "p m"], weight: Float[Tensor, "w m"]) -> Float[Tensor, "b c k"]:
        """How many items each class and cluster share, in each version."""
        classes, of = label.unique(return_inverse=True)
        k = int(self.cluster.max()) + 1
        cell, count = torch.broadcast_tensors(of * k + self.cluster.to(label.device), weight.double())
        return count.new_zeros(len(cell), len(classes) * k).scatter_add_(1, cell, count).unflatten(1, (-1, k))

    def ari(self, label: Int[Tensor, "p m"], weight: Float[Tensor, "w m"]) -> Float[Tensor, "b"]:
        """Adjusted Rand index (Hubert & Arabie 1985); NaN without items, 1 where there are no pairs to disagree on.
        An item makes no pair with its own copies."""
        b = max(len(label), len(weight))
        if not label.shape[1]:
            return torch.full((b,), torch.nan)
        table, copies = self.table(label, weight), self.table(label, weight**2)
        both, rows, columns, n = (
            (table.sum(over).square() - copies.sum(over)) / 2 if over else (table.square() - copies) / 2
            for over in ((), (2,), (1,), (1, 2))
        )
        together, by_class, by_cluster = both.sum((1, 2)), rows.sum(1), columns.sum(1)
        expected = torch.where(n > 0, by_class * by_cluster / n, 0.0)
        room = (by_class + by_cluster) / 2 - expected
        return torch.where(room.abs() > 1e-9, (together - expected) / room, 1.0)

    def ami(self, label: Int[Tensor, "p m"], weight: Float[Tensor, "w m"]) -> Float[Tensor, "b"]:
        """Adjusted mutual information (Vinh et al. 2010); NaN for weights other than 1, under which the expectation by
        chance would have to be found anew for every version."""
        from sklearn.metrics import adjusted_mutual_info_score

        b = max(len(label), len(weight))
        if not label.shape[1] or bool((weight != 1).any()):
            return torch.full((b,), torch.nan)
        table = self.table(label, weight) / label.shape[1]
        by_class, by_cluster = table.sum(2), table.sum(1)
        mutual = _entropy(by_class).sum(1) + _entropy(by_cluster).sum(1) - _entropy(table).sum((1, 2))
        # Sizes of classes and clusters are those of the first version, so AMI is one linear function of MI for all.
        value = adjusted_mutual_info_score(label[0].cpu().numpy(), self.cluster.numpy())
        upper = float((_entropy(by_class[:1]).sum() + _entropy(by_cluster[:1]).sum()) / 2)
        # Of perfect agreement (or one class) the slope cannot be read, and classes may change size in a control task.
        if upper - float(mutual[0]) < 1e-12 or not torch.allclose(by_class, by_class[:1]):
            return self._ami_one_by_one(label).expand(b)
        expected = (float(mutual[0]) - value * upper) / (1 - value)
        return (mutual - expected) / (upper - expected)

    def _ami_one_by_one(self, label: Int[Tensor, "p m"]) -> Float[Tensor, "p"]:
        from sklearn.metrics import adjusted_mutual_info_score

        cluster = self.cluster.numpy()
        values = [float(adjusted_mutual_info_score(row.cpu().numpy(), cluster)) for row in label]
        return torch.tensor(values, dtype=torch.float64)


def _entropy(share: Tensor) -> Tensor:
    return -torch.special.xlogy(share, share)


def structural(protocol: Protocol) -> Metric:
    """The structural metric under a protocol (entry point)."""
    if protocol.estimators == "paper":
        return PaperStructural()
    length = "remove_length" in protocol.preprocessing
    return AuditedStructural(folds=protocol.folds, seed=protocol.seed, remove_length=length)
