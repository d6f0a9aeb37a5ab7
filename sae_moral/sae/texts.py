"""The rows latents are measured on: one per distinct text, in a part to select on and a part to report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_moral.data import MoralData, word_frequency
from sae_moral.data.splits import Split, group_split
from sae_moral.errors import unknown


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
    _, first, text, count = np.unique(data.group[rows], return_index=True, return_inverse=True, return_counts=True)
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
            f"({', '.join(report)}); split with group_split, which keeps equal texts together"
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
