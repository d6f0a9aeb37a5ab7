"""The four terms that read labels, on the activations of k latents: which items each is a mean over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, VICE, VIRTUE
from sae_moral.surgery import losses
from sae_moral.surgery.settings import TERMS, SurgerySettings


@dataclass(frozen=True, eq=False)
class Labels:
    """Of n records.

    Attributes:
        foundation, pole, vector: as in `MoralData`.
    """

    foundation: Int[Tensor, "n"]
    pole: Int[Tensor, "n"]
    vector: Float[Tensor, "n 10"]

    @staticmethod
    def of(data: MoralData, device: torch.device) -> Labels:
        """Of all records of the data."""
        return Labels(
            torch.from_numpy(data.foundation).to(device),
            torch.from_numpy(data.pole).to(device),
            torch.from_numpy(data.vector).float().to(device),
        )

    def at(self, records: Int[Tensor, "r"]) -> Labels:
        """Some of the records."""
        records = records.to(self.pole.device)
        return Labels(self.foundation[records], self.pole[records], self.vector[records])


def by_columns(latents: Int[Tensor, "k"], by_dimension: Mapping[str, list[int]]) -> dict[int, Int[Tensor, "_"]]:
    """For each dimension's index the columns of its latents among the k."""
    return {
        DIMENSIONS.index(name): torch.searchsorted(latents, torch.tensor(sorted(members)))
        for name, members in by_dimension.items()
    }


def means(activation: Float[Tensor, "n k"], columns: Mapping[int, Int[Tensor, "_"]]) -> dict[int, Float[Tensor, "n"]]:
    """Each dimension's activation: the mean of its latents'."""
    share = torch.zeros(activation.shape[1], len(columns), dtype=activation.dtype)
    for column, which in enumerate(columns.values()):
        share[which, column] = 1 / len(which)
    return dict(zip(columns, (activation @ share.to(activation.device)).unbind(dim=1), strict=True))


def contrasts(columns: Mapping[int, Int[Tensor, "_"]]) -> list[int]:
    """Foundations with latents of both poles: the only ones whose poles can be contrasted."""
    return [f for f in range(len(FOUNDATIONS)) if 2 * f in columns and 2 * f + 1 in columns]


def supervised(
    activation: Float[Tensor, "n k"],
    labels: Labels,
    columns: Mapping[int, Int[Tensor, "_"]],
    settings: SurgerySettings,
) -> dict[str, Float[Tensor, ""]]:
    """The four terms that read labels, each a mean over the dimensions (or foundations) that have latents.

    Args:
        activation: of the k latents on each record's text; under `relative` in units of each latent's size.
    """
    of, moral = means(activation, columns), labels.pole != NEUTRAL
    align, rank = (losses.alignment, losses.prototype) if settings.relative else (
        losses.alignment_sigmoid, losses.prototype_product)  # fmt: skip
    found: dict[str, list[Tensor]] = {name: [] for name in TERMS[2:]}
    for f in contrasts(columns):
        items = labels.foundation == f if settings.relative else torch.ones_like(moral)
        pair = of[2 * f + VIRTUE][items], of[2 * f + VICE][items]
        found["polarity"].append(losses.polarity(*pair, labels.pole[items], settings.polarity_margin))
    for d in columns:
        items = (labels.foundation == d // 2) & (labels.pole == d % 2)
        m = labels.vector[:, d]
        found["alignment"].append(align(of[d], m))
        found["prototype"].append(rank(of[d][items], m[items], settings.prototype_margin))
        found["monosemantic"].append(losses.monosemantic(of[d][:, None], moral & (m == 0)))
    return {name: torch.stack(values).mean() if values else activation.sum() * 0 for name, values in found.items()}
