"""Representational similarity analysis (Kriegeskorte, Mur & Bandettini 2008) as a metric of sae-moral.

    rsa = Spearman over pairs (i, j) of scenarios with different texts of
          model dissimilarity 1 − cos(x_i, x_j)  and  human dissimilarity ‖v_i − v_j‖

v are the ten-dimensional moral vectors. All pairs of n scenarios are n²/2; a random part of them, the same at every
layer, estimates the same correlation. It is 0 where the model's distances know nothing of morality, and 1 where they
are a monotone function of the human ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.protocol import Protocol
from sae_moral.results import StatisticSpec

__all__ = ["Rsa", "rsa"]


@dataclass(frozen=True)
class Rsa:
    """Attributes:
    pairs: how many pairs are drawn; pairs of one text are dropped.
    seed: of the draw.
    """

    pairs: int = 20_000
    seed: int = 0
    name: str = "rsa"
    headline: str = "spearman"
    statistics: ClassVar[tuple[StatisticSpec, ...]] = (StatisticSpec("spearman", "higher", chance=0.0),)
    rotation_invariant: ClassVar[bool] = True
    means: str = "Rank correlation of how different two scenarios are to the model and how different to people."
    does_not_prove: str = (
        "That the model's distances are about morality: topics go with foundations, so the words alone give some of it "
        "(compare with the bag-of-words baseline). Every dimension of the vectors counts alike; a few that carry "
        "morality are drowned by the many that do not, where a probe would find them."
    )

    def __call__(self, representation: Tensor, data: MoralData) -> dict[str, float | None]:
        """The statistic `spearman`; None where all pairs are equally different to people.

        Args:
            representation: [n, d].
            data: n scenarios.
        """
        drawn = np.random.default_rng(self.seed).integers(len(data), size=(2, self.pairs))
        first, second = drawn[:, data.group[drawn[0]] != data.group[drawn[1]]]
        unit = torch.nn.functional.normalize(representation.double(), dim=1)
        model = 1 - (unit[torch.from_numpy(first)] * unit[torch.from_numpy(second)]).sum(dim=1)
        human = np.linalg.norm(data.vector[first] - data.vector[second], axis=1)
        if len(human) < 3 or np.ptp(human) == 0 or float(model.max() - model.min()) == 0:
            return {"spearman": None}
        return {"spearman": float(cast(Any, spearmanr(model.cpu().numpy(), human)).statistic)}


def rsa(protocol: Protocol) -> Rsa:
    """The metric under a protocol (entry point); it asks the same of every one."""
    return Rsa(seed=protocol.seed)
