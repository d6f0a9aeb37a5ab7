"""One pass over the latents, a block at a time: what is selected on, and what is reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_moral.foundations import DIMENSIONS
from sae_moral.sae.association import Partial, auroc, correlation, midranks, weighted_correlation
from sae_moral.sae.classes import LatentSettings
from sae_moral.sae.columns import Columns
from sae_moral.sae.texts import Texts, halves_of, permuted_labels

BYTES = 48
"""Per scenario and latent of a block, temporaries included."""
Arrays = dict[str, np.ndarray]


def blocks(columns: Columns, memory: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the latents that fit in `memory` bytes at once."""
    step = int(np.clip(memory // (BYTES * max(columns.rows, 1)), 1, 4096))
    for start in range(0, columns.latents, step):
        yield start, min(start + step, columns.latents)


@dataclass(frozen=True)
class _Selection:
    """The selection part's labels, true and permuted side by side, whole and by halves."""

    texts: Texts
    orders: list[np.ndarray]
    whole: Partial
    halves: tuple[tuple[np.ndarray, Partial], tuple[np.ndarray, Partial]]

    @staticmethod
    def of(
        texts: Texts, measured: Bool[np.ndarray, "10"], settings: LatentSettings, device: torch.device
    ) -> _Selection:
        orders = permuted_labels(texts, settings.permutations, settings.seed)
        labels = np.concatenate([texts.label[order] * measured for order in orders], axis=1)

        def partial(rows: np.ndarray) -> Partial:
            return Partial.of(texts.length[rows], texts.frequency[rows], labels[rows], device)

        first, second = halves_of(texts, settings.seed)
        everything = np.arange(len(texts))
        return _Selection(texts, orders, partial(everything), ((first, partial(first)), (second, partial(second))))

    def block(self, x: Float[Tensor, "n b"]) -> Arrays:
        """Arrays of [b, 1 + permutations, 10], the true labels first; `nuisance_share` and `fired` of [b]."""
        r, p, share = self.whole.r(x)
        found = {"selection_r": r, "selection_p": p, "paper_r": self._paper(x)}
        for name, (rows, partial) in zip(("first", "second"), self.halves, strict=True):
            half_r, half_p, _ = partial.r(x[torch.from_numpy(rows).to(x.device)])
            found |= {f"{name}_half_r": half_r, f"{name}_half_p": half_p}
        shaped = {name: array.reshape(len(r), len(self.orders), len(DIMENSIONS)) for name, array in found.items()}
        return {**shaped, "nuisance_share": share, "fired": (x != 0).sum(dim=0).cpu().numpy()}

    def _paper(self, x: Float[Tensor, "n b"]) -> Float[np.ndarray, "b m"]:
        count, spread = (torch.from_numpy(a).to(x.device) for a in (self.texts.count, self.texts.spread))
        dealt = []
        for order in self.orders:
            labels = (
                self.texts.label_sum if order is self.orders[0] else self.texts.label[order] * self.texts.count[:, None]
            )
            dealt.append(weighted_correlation(x, torch.from_numpy(labels).to(x.device), count, spread))
        return torch.cat(dealt, dim=1).cpu().numpy()


class _Report:
    """The held-out part: every number that is reported."""

    def __init__(self, texts: Texts, measured: Bool[np.ndarray, "10"], top: int, device: torch.device) -> None:
        self.texts, self.top = texts, min(top, len(texts))
        self.labels = torch.from_numpy(texts.label).to(device)
        self.label_ranks = midranks(self.labels.T).T
        self.partial = Partial.of(texts.length, texts.frequency, texts.label * measured, device)
        self.nuisances = torch.from_numpy(np.stack([np.log(texts.length), texts.frequency], axis=1)).to(device)

    def block(self, x: Float[Tensor, "n b"]) -> Arrays:
        """Arrays of [b, 10], but for the [b] and [b, top] ones."""
        wide = x.T.contiguous()
        ranks = midranks(wide)
        pearson, defined = correlation(wide, self.labels)
        beside, _ = correlation(wide, self.nuisances)
        partial_r, partial_p, share = self.partial.r(x)
        typicality, ordered = self._prototypicality(wide)
        values, rows = wide.topk(self.top, dim=1)
        found = {
            "pearson": pearson,
            "spearman": correlation(ranks, self.label_ranks)[0],
            "auroc": auroc(ranks, self.labels > 0),
            "defined": defined,
            "prototypicality": typicality,
            "prototypicality_defined": ordered,
            "length_r": beside[:, 0],
            "frequency_r": beside[:, 1],
            "firing": (wide != 0).double().mean(dim=1),
            "top_value": values,
        }
        arrays = {name: value.cpu().numpy() for name, value in found.items()}
        return {
            **arrays,
            "partial_r": partial_r,
            "partial_p": partial_p,
            "report_nuisance_share": share,
            "top_row": self.texts.row[rows.cpu().numpy()],
        }

    def _prototypicality(self, wide: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b 10"], Bool[Tensor, "b 10"]]:
        """Spearman of latent and strength among the texts of a dimension."""
        values, defined = [], []
        for label in self.labels.T:
            members = label > 0
            if int(members.sum()) < 3:
                values.append(wide.new_zeros(len(wide), 1))
                defined.append(torch.zeros(len(wide), 1, dtype=torch.bool, device=wide.device))
                continue
            strength = midranks(label[members][None]).T
            r, known = correlation(midranks(wide[:, members]), strength)
            values.append(r)
            defined.append(known)
        return torch.cat(values, dim=1), torch.cat(defined, dim=1)


def measure(
    columns: Columns, selection: Texts, report: Texts, measured: Bool[np.ndarray, "10"], settings: LatentSettings,
    memory: int,
) -> Arrays:  # fmt: skip
    """All statistics of all latents; `columns` has the selection part's rows first, then those of the report.

    Memory: `memory` bytes for a block, and about 2 kB per latent for what is kept.
    """
    found: dict[str, list[np.ndarray]] = {}
    select: _Selection | None = None
    held: _Report | None = None
    for start, stop in blocks(columns, memory):
        x = columns.read(start, stop)
        if select is None or held is None:
            select = _Selection.of(selection, measured, settings, x.device)
            held = _Report(report, measured, settings.top, x.device)
        for part in (select.block(x[: len(selection)].double()), held.block(x[len(selection) :].double())):
            for name, array in part.items():
                found.setdefault(name, []).append(array)
    return {name: np.concatenate(pieces) for name, pieces in found.items()}
