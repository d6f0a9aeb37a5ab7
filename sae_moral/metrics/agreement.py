"""Agreement of a clustering with many versions of a partition at once: adjusted Rand index, adjusted mutual
information.

Both come from the contingency table of clusters and classes. The clustering does not depend on labels, so only tables
are made anew; and permuted labels keep the sizes of the classes, on which the expectations by chance depend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor


@dataclass(frozen=True)
class Clusters:
    """A clustering of m items.

    Attributes:
        member: whether an item belongs to a cluster (noise, if it is kept, is one more).
    """

    member: Float[Tensor, "m k"]

    @classmethod
    def of(cls, cluster: Int[np.ndarray, "m"]) -> Clusters:
        """From the number of each item's cluster."""
        index = torch.from_numpy(np.unique(cluster, return_inverse=True)[1].reshape(-1))
        if not len(index):
            return cls(torch.zeros(0, 0, dtype=torch.float64))
        return cls(torch.nn.functional.one_hot(index).double())

    def table(self, label: Int[Tensor, "p m"], weight: Float[Tensor, "w m"]) -> Float[Tensor, "b c k"]:
        """How many items each class and cluster share, in each version."""
        classes = label.unique()
        member = self.member.to(label.device)
        return torch.stack([((label == c) * weight) @ member for c in classes], dim=1)

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
        b = max(len(label), len(weight))
        if not label.shape[1] or bool((weight != 1).any()):
            return torch.full((b,), torch.nan)
        table = self.table(label, weight) / label.shape[1]
        by_class, by_cluster = table.sum(2), table.sum(1)
        mutual = _entropy(by_class).sum(1) + _entropy(by_cluster).sum(1) - _entropy(table).sum((1, 2))
        # Sizes of classes and clusters are those of the first version, so AMI is one linear function of MI for all.
        value = adjusted_mutual_info_score(label[0].cpu().numpy(), self.member.argmax(dim=1).numpy())
        upper = float((_entropy(by_class[:1]).sum() + _entropy(by_cluster[:1]).sum()) / 2)
        # Of perfect agreement (or one class) the slope cannot be read, and classes may change size in a control task.
        if upper - float(mutual[0]) < 1e-12 or not torch.allclose(by_class, by_class[:1]):
            return self._ami_one_by_one(label).expand(b)
        expected = (float(mutual[0]) - value * upper) / (1 - value)
        return (mutual - expected) / (upper - expected)

    def _ami_one_by_one(self, label: Int[Tensor, "p m"]) -> Float[Tensor, "p"]:
        cluster = self.member.argmax(dim=1).numpy()
        values = [float(adjusted_mutual_info_score(row.cpu().numpy(), cluster)) for row in label]
        return torch.tensor(values, dtype=torch.float64)


def _entropy(share: Tensor) -> Tensor:
    return -torch.special.xlogy(share, share)
