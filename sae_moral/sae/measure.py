"""One pass over the latents, a block at a time: what is selected on, and what is reported.

Rows are distinct texts, in a part to select on and a part to report on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.data import MoralData, word_frequency
from sae_moral.data.splits import Split, group_split
from sae_moral.errors import unknown
from sae_moral.foundations import DIMENSIONS
from sae_moral.sae.association import LatentSettings, Partial, auroc, correlation, midranks, weighted_correlation
from sae_moral.sae.columns import Columns

BYTES = 48
"""Per scenario and latent of a block, temporaries included."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Texts:
    """Distinct texts of one part. Several records of a text are one observation: counted apart, they would pass for
    independent evidence.

    Attributes:
        row: the first record of each text.
        label: mean moral vector of its records in this part.
        label_sum: their sum.
        count: how many records each text is.
        spread: root of the summed squared deviations of the labels, over records.
        length: tokens.
        frequency: mean log frequency of its words.
    """

    row: Int[np.ndarray, "n"]
    label: Float[np.ndarray, "n 10"]
    label_sum: Float[np.ndarray, "n 10"]
    count: Float[np.ndarray, "n"]
    spread: Float[np.ndarray, "10"]
    length: Int[np.ndarray, "n"]
    frequency: Float[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.row)


def texts_of(
    data: MoralData, length: Int[np.ndarray, "n"], rows: Int[np.ndarray, "k"], frequency: Float[np.ndarray, "n"]
) -> Texts:
    """The distinct texts among the given records."""
    _, first, text, count = np.unique(data.same_text[rows], return_index=True, return_inverse=True, return_counts=True)
    vector = data.vector[rows]
    total = np.zeros((len(first), vector.shape[1]))
    np.add.at(total, text, vector)
    row = rows[first]
    spread = np.sqrt(np.square(vector - vector.mean(axis=0)).sum(axis=0))
    return Texts(
        row, total / count[:, None], total, count.astype(np.float64), spread, length[row].astype(np.int64),
        frequency[row],
    )  # fmt: skip


def two_parts(
    data: MoralData,
    length: Int[np.ndarray, "n"],
    split: Split | None,
    select: Sequence[str],
    report: Sequence[str],
    seed: int,
) -> tuple[Texts, Texts]:
    """Texts to select on and texts to report on; by default of `group_split`.

    Raises:
        ValueError: an unknown part, an empty one, or a text that is in both.
    """
    split = group_split(data, seed) if split is None else split
    for name in (*select, *report):
        if name not in split:
            raise unknown("part", name, split)
    chosen, held = (np.concatenate([split[name] for name in names]) for names in (select, report))
    shared = np.intersect1d(data.group[chosen], data.group[held])
    if len(shared):
        raise ValueError(
            f"{len(shared)} texts are in the part to select on ({', '.join(select)}) and in the part to report on "
            f"({', '.join(report)}); split with group_split, which keeps what belongs together in one part"
        )
    frequency = word_frequency(data)
    return texts_of(data, length, np.sort(chosen), frequency), texts_of(data, length, np.sort(held), frequency)


def halves_of(texts: Texts, seed: int) -> tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]:
    """Two random halves of the texts, ascending."""
    order = np.random.default_rng([seed, 1]).permutation(len(texts))
    return np.sort(order[: len(texts) // 2]), np.sort(order[len(texts) // 2 :])


def permuted_labels(texts: Texts, times: int, seed: int) -> list[Int[np.ndarray, "n"]]:
    """The identity, then orders in which labels are dealt to other texts."""
    rng = np.random.default_rng([seed, 2])
    return [np.arange(len(texts)), *(rng.permutation(len(texts)) for _ in range(times))]


def measurable(selection: Texts, report: Texts, items: int) -> Bool[np.ndarray, "10"]:
    """Dimensions with enough labelled texts to select on, and at least three to report on."""
    return ((selection.label > 0).sum(axis=0) >= items) & ((report.label > 0).sum(axis=0) >= 3)


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

    Memory: `memory` bytes for a block, and about 18 kB per latent for what is kept.
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
    # One by one, so that what was concatenated is gone.
    return {name: np.concatenate(found.pop(name)) for name in list(found)}
