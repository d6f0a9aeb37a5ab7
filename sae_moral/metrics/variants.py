"""Many versions of one sample at once: labels that moved between scenarios, scenarios that count several times.

A metric that can do them together has a method `prepare(representation, data)` beside its call. It does once what does
not depend on labels and weights (Gram matrices, decompositions, clusterings), and returns a function from `Variants` to
values. Metrics without it are called once per version (`sae_moral.controls.loop`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.metrics.base import OVERALL, Statistic

Values = dict[tuple[str, str], Float[Tensor, "b"]]
"""(statistic, group) → one value per version; NaN where it cannot be computed."""


@dataclass(frozen=True)
class Variants:
    """b versions of a sample of n scenarios; an array may have one row, which all versions share.

    Attributes:
        index: scenario i has the labels of scenario `index[v, i]`.
        weight: how often scenario i counts. What is fitted to labels on other folds stays as it is: only held-out
            scores are weighed, so a spread over weights is that of the scores of given readers over texts.
        reader: how often it counts in what is fitted for other folds (ridge: to first order); None for once.
    """

    index: Int[Tensor, "p n"]
    weight: Float[Tensor, "w n"]
    reader: Float[Tensor, "r n"] | None = None

    @classmethod
    def one(cls, n: int) -> Variants:
        """The sample as it is."""
        return cls(torch.arange(n)[None], torch.ones(1, n, dtype=torch.float64))

    @classmethod
    def relabelled(cls, index: Int[Tensor, "b n"]) -> Variants:
        """Labels moved, every scenario counted once."""
        return cls(index, torch.ones(1, index.shape[1], dtype=torch.float64))

    @classmethod
    def weighed(cls, weight: Float[Tensor, "b n"]) -> Variants:
        """Labels in place, scenarios counted `weight` times."""
        return cls(torch.arange(weight.shape[1])[None], weight.double())

    @classmethod
    def refitted(cls, reader: Float[Tensor, "b n"]) -> Variants:
        """Labels in place, readers fitted to resampled scenarios, each read once."""
        return cls(torch.arange(reader.shape[1])[None], torch.ones(1, reader.shape[1]).double(), reader.double())

    @property
    def n(self) -> int:
        """How many versions."""
        return max(len(self.index), len(self.weight), 0 if self.reader is None else len(self.reader))

    @property
    def nothing(self) -> Float[Tensor, "b"]:
        """The values of a statistic that no version has."""
        return torch.full((self.n,), torch.nan, dtype=torch.float64, device=self.weight.device)

    def to(self, device: torch.device | str) -> Variants:
        """On a device."""
        reader = None if self.reader is None else self.reader.to(device)
        return Variants(self.index.to(device), self.weight.to(device), reader)

    def moved(self, label: np.ndarray, rows: Int[np.ndarray, "m"], within: np.ndarray) -> Tensor:
        """The labels [p, m] that the scenarios at `rows` have.

        Raises:
            ValueError: labels came from a scenario of another value of `within`; the set of items would change.
        """
        index = self.index[:, torch.from_numpy(rows).to(self.index.device)]
        blocks = torch.from_numpy(np.ascontiguousarray(within)).to(index.device)
        if not bool((blocks[index] == blocks[torch.from_numpy(rows).to(index.device)]).all()):
            raise ValueError(
                "labels were moved between scenarios that this statistic keeps apart; permute them within its blocks "
                "(`sae_moral.controls.draws.SCHEMES`)"
            )
        return torch.from_numpy(np.ascontiguousarray(label)).to(index.device)[index]


Counts = Mapping[tuple[str, str], tuple[int, int]]
"""(statistic, group) → how many scenarios it rests on, and how many it dropped."""


@runtime_checkable
class Compute(Protocol):
    """From versions to values."""

    def __call__(self, variants: Variants, only: Collection[str] | None = None) -> Values:
        """The statistics of every version; of those named in `only`, if given."""
        ...


@dataclass(frozen=True)
class Prepared:
    """What `prepare` returns: one metric on one layer, ready for any number of versions of the sample.

    Attributes:
        n: scenarios.
        counts: per (statistic, group); one that is missing here rests on all scenarios.
        compute: from versions to values, on the device given here.
        device: where versions are computed; values are returned on the CPU.
    """

    n: int
    counts: Counts
    compute: Compute
    device: torch.device | str = "cpu"

    def __call__(self, variants: Variants, only: Collection[str] | None = None) -> Values:
        """The statistics of every version; of those named in `only`, if given."""
        return {key: value.cpu() for key, value in self.compute(variants.to(self.device), only).items()}

    def statistics(self) -> list[Statistic]:
        """Of the sample as it is; `overall` first."""
        found = {key: float(value[0]) for key, value in self(Variants.one(self.n)).items()}
        ordered = sorted(found, key=lambda key: key[1] != OVERALL)
        counts = [self.counts.get(key, (self.n, 0)) for key in ordered]
        return [
            Statistic(key[0], None if np.isnan(found[key]) else found[key], key[1], *count)
            for key, count in zip(ordered, counts, strict=True)
        ]


@runtime_checkable
class Preparing(Protocol):
    """A metric that does many versions of one sample together."""

    @property
    def nulls(self) -> Mapping[str, str]:
        """Statistic → the scheme its labels are permuted by (`sae_moral.controls.draws.SCHEMES`)."""
        ...

    def prepare(self, representation: Float[Tensor, "n d"], data: MoralData) -> Prepared:
        """Everything that labels and weights leave as it is, done once."""
        ...


def mean_of_groups(parts: Sequence[Float[Tensor, "b"]]) -> Float[Tensor, "b"]:
    """Unweighted mean of the groups that could be computed."""
    return torch.stack(torch.broadcast_tensors(*parts)).nanmean(dim=0)
