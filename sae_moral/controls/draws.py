"""What controls draw: permutations of labels and resamples of texts. One draw serves all metrics and layers, so that
their maximum can be taken draw by draw and two models can be compared on the same texts.

Labels are permuted over groups of text (`MoralData.group`; a group's records move together), within:
- what a statistic conditions on, its scheme: poles within a foundation, typicality within a dimension, …;
- a cross-validation fold, so that folds stay as evenly filled as they were made, and the statistic of permuted labels
  is the statistic of the data, other labels given: the test is exact if labels are exchangeable within blocks;
- texts of the same length, or nearly (`strata_of_length`), so that what a layer knows of length, and labels go with
  length, is in the null, too.

Whether a statistic reads more than the first word of a scenario ("stealing …") is asked in the same way: labels move
only among texts that open with the same word, so that all that opening words give is in that null.

What it does not prove: that a statistic beyond the null is about morality. Words, topics within a foundation and
whatever else goes with the labels beyond length is still in it (`sae_moral.controls.baselines`). Beyond opening words
there are others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from sae_moral.controls.settings import LENGTH_STRATUM, Controls
from sae_moral.data import MoralData
from sae_moral.data.text import normalise
from sae_moral.errors import unknown
from sae_moral.foundations import NEUTRAL
from sae_moral.results import LengthSpread

SCHEMES: dict[str, Callable[[MoralData], Int[np.ndarray, "n"]]] = {
    "all": lambda data: np.where(data.foundation < 0, -1, 0),
    "foundation": lambda data: np.where(data.foundation < 0, -1, data.pole),
    "labels": lambda data: data.foundation,
    "pole": lambda data: np.where(data.pole == NEUTRAL, -2 - data.foundation, data.foundation),
    "typicality": lambda data: np.where(data.pole == NEUTRAL, -2 - data.foundation, 2 * data.foundation + data.pole),
}
"""Blocks that labels stay in. `all`: everything moves. `foundation`: within a polarity. `labels`: poles, typicality and
vectors within a foundation. `pole`: virtue against vice within a foundation, neutrals stay. `typicality`: within a
dimension. Records of no foundation keep to themselves."""


MOVED: dict[str, Callable[[MoralData], list[Float[np.ndarray, "n"]]]] = {
    "all": lambda data: [data.foundation.astype(float), data.pole.astype(float)],
    "foundation": lambda data: [data.foundation.astype(float)],
    "labels": lambda data: [data.pole.astype(float), data.typicality.astype(float)],
    "pole": lambda data: [data.pole.astype(float)],
    "typicality": lambda data: [data.typicality.astype(float)],
}
"""The labels that a scheme moves. Only where they differ does a permutation change anything."""


def blocks(data: MoralData, scheme: str) -> Int[np.ndarray, "n"]:
    """What each record's labels stay in.

    Raises:
        ValueError: unknown scheme.
    """
    if scheme not in SCHEMES:
        raise unknown("permutation scheme", scheme, SCHEMES)
    return SCHEMES[scheme](data)


def opening_words(data: MoralData) -> Int[np.ndarray, "n"]:
    """Which word each record opens with, as numbers."""
    opening = {text: (normalise(text).split() or [""])[0] for text in set(data.text)}
    return np.unique([opening[text] for text in data.text], return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True)
class Permutations:
    """Attributes:
    index: record i gets the labels of record `index[v, i]`.
    fixed: share of the records whose labels could not move: no other group of their kind and length.
    stuck: share of the labels' variation within blocks that cannot move: 1 − how often two texts that may swap differ
        in their label, over how often two of the same block do, texts that cannot move counting as equal. 1 where no
        two of a block differ.
    spread: of lengths within the strata; None without strata.
    """

    index: Int[Tensor, "b n"]
    fixed: float
    stuck: float
    spread: LengthSpread | None = None


def permutations(
    data: MoralData,
    scheme: str,
    n: int,
    *,
    seed: int = 0,
    fold: Int[np.ndarray, "n"] | None = None,
    stratum: int | None = LENGTH_STRATUM,
    opening: bool = False,
) -> Permutations:
    """n permutations of the labels.

    Args:
        data: scenarios, with `length` unless `stratum` is None.
        scheme: a name of `SCHEMES`.
        n: how many.
        seed: of a local generator.
        fold: labels stay in their fold.
        stratum: texts per stratum of length, at least; None: labels move between texts of any length.
        opening: labels move only among texts that open with the same word.

    Raises:
        ValueError: unknown scheme, or strata asked for of data without lengths.
    """
    block = blocks(data, scheme)
    if stratum is not None and data.length is None:
        raise ValueError("permuting within strata of length needs data.length; capture fills it in, or stratum=None")
    finer = block
    if opening:
        finer = np.unique(np.stack([block, opening_words(data)]), axis=1, return_inverse=True)[1].reshape(-1)
    cells = _exchangeable(data, finer, fold, stratum)
    rng = np.random.default_rng(seed)
    index = np.tile(np.arange(len(data)), (n, 1))
    for cell in cells:  # [groups, records per group]
        order = rng.permuted(np.tile(np.arange(len(cell)), (n, 1)), axis=1)
        for column in cell.T:
            index[:, column] = column[order]
    moving = sum(cell.size for cell in cells)
    spread = None if stratum is None or data.length is None else _spread(data.length, cells)
    stuck = _stuck(MOVED[scheme](data), block, cells)
    return Permutations(torch.from_numpy(index), 1 - moving / len(data), stuck, spread)


def _stuck(
    labels: Sequence[Float[np.ndarray, "n"]],
    block: Int[np.ndarray, "n"],
    cells: Sequence[Int[np.ndarray, "_ _"]],
) -> float:
    """See `Permutations`."""
    label = np.unique(np.stack([block, *labels]), axis=1, return_inverse=True)[1].reshape(-1)

    def variation(members: Int[np.ndarray, "_"]) -> float:
        n, same = len(members), np.unique(label[members], return_counts=True)[1]
        return n * (1 - float((same * (same - 1)).sum()) / (n * (n - 1))) if n > 1 else 0.0

    whole = sum(variation(np.flatnonzero(block == one)) for one in np.unique(block))
    if whole == 0:
        return 1.0
    return max(0.0, 1 - sum(variation(column) for cell in cells for column in cell.T) / whole)


def _exchangeable(
    data: MoralData, block: Int[np.ndarray, "n"], fold: Int[np.ndarray, "n"] | None, stratum: int | None
) -> list[Int[np.ndarray, "groups records"]]:
    """Cells of at least two groups that may swap labels: same fold, similar length, and as many texts with the same
    blocks for their records (docs/design/data.md says why no less will do)."""
    order = np.lexsort((block, data.same_text, data.group))
    texts = np.split(order, np.flatnonzero(np.diff(data.same_text[order])) + 1)
    length = np.zeros(len(data)) if data.length is None else data.length
    groups: dict[int, list[tuple[list[int], float, np.ndarray]]] = defaultdict(list)
    for records in texts:
        groups[int(data.group[records[0]])].append((block[records].tolist(), float(length[records[0]]), records))
    kinds: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for members in groups.values():
        members.sort(key=lambda one: one[:2])
        records = np.concatenate([one[2] for one in members])
        kinds[(-1 if fold is None else int(fold[records[0]]), tuple(tuple(one[0]) for one in members))].append(records)
    cells = []
    for kind in sorted(kinds):
        members = np.stack(kinds[kind])
        if stratum is None:
            cells.append(members)
            continue
        mean = length[members].mean(axis=1)
        order = np.argsort(mean, kind="stable")
        cells += np.split(members[order], strata_of_length(mean[order], stratum))
    return [cell for cell in cells if len(cell) > 1]


def strata_of_length(length: Num[np.ndarray, "texts"], least: int) -> list[int]:
    """Where to cut ascending lengths into strata of at least `least` texts, so that the sum over texts of the range of
    lengths in their stratum is smallest. Equal lengths are never cut apart.

    Example:
        strata_of_length(np.array([4, 4, 4, 5, 9, 9]), 2)  # [4]: {4, 4, 4, 5}, {9, 9}
    """
    value, first = np.unique(length, return_index=True)
    edge = np.append(first, len(length))  # a cut may lie before the j-th length, at edge[j]
    cost = np.full(len(edge), np.inf)
    cost[0], before = 0.0, np.zeros(len(edge), dtype=np.int64)
    for j in range(1, len(edge)):
        size = edge[j] - edge[:j]
        total = np.where(size >= least, cost[:j] + size * (value[j - 1] - value[:j]), np.inf)
        before[j] = int(total.argmin())
        cost[j] = total[before[j]]
    cuts, at = [], len(value)
    while np.isfinite(cost[at]) and before[at] > 0:
        at = int(before[at])
        cuts.append(int(edge[at]))
    return cuts[::-1]


def _spread(length: Int[np.ndarray, "n"], cells: Sequence[Int[np.ndarray, "_ _"]]) -> LengthSpread | None:
    """Over the texts of the cells; None without any."""
    if not cells:
        return None
    texts = np.array([len(cell) for cell in cells])
    ranges = np.array([np.ptp(length[cell[:, 0]]) for cell in cells])
    return LengthSpread(
        mean=round(float(np.average(ranges, weights=texts)), 3),
        largest=int(ranges.max()),
        equal=round(float(texts[ranges == 0].sum() / texts.sum()), 4),
    )


STEP = 0.3
"""How far `perturbed` weights are from 1, as a share of a Bayesian bootstrap's."""


def perturbed(data: MoralData, n: int, *, seed: int = 0) -> Float[Tensor, "b n"]:
    """Weights 1 + STEP (e − 1), e exponential with mean 1 per group of texts: the Bayesian bootstrap (Rubin 1981) at a
    distance at which a statistic is nearly linear. Deviations have to be divided by STEP."""
    names, group = np.unique(data.group, return_inverse=True)
    weight = np.random.default_rng(seed).exponential(size=(n, len(names)))
    weight = 1 + STEP * (weight / weight.mean(axis=1, keepdims=True) - 1)
    return torch.from_numpy(weight[:, group])


def in_folds(weight: Float[Tensor, "b n"], data: MoralData, fold: Int[np.ndarray, "n"]) -> Float[Tensor, "b n"]:
    """The weights, scaled so that the items of one foundation and pole in one fold weigh as many as they are: in other
    samples folds have the same sizes, too, and a mean over folds keeps the share of each."""
    kinds, of = np.unique(np.stack([fold, data.foundation, data.pole]), axis=1, return_inverse=True)
    cell = torch.from_numpy(of.reshape(-1))
    total = weight.new_zeros(len(weight), kinds.shape[1]).index_add_(1, cell, weight)
    return weight * (torch.bincount(cell) / total)[:, cell]


def resamples(data: MoralData, n: int, *, seed: int = 0) -> Float[Tensor, "b n"]:
    """How often each record counts in n bootstrap samples: groups of texts are drawn with replacement, with all their
    records."""
    names, group = np.unique(data.group, return_inverse=True)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return torch.from_numpy(times[:, group].astype(np.float64))


@dataclass
class Draws:
    """What all metrics and layers of a diagnosis share; each is drawn when it is first asked for.

    Attributes:
        data: scenarios.
        controls: how many draws, of what, and their seed.
        fold: of each scenario, labels stay in it; None where nothing is cross-fitted.
        free: whether labels are also permuted among texts of any length.
    """

    data: MoralData
    controls: Controls
    fold: Int[np.ndarray, "n"] | None
    free: bool
    _permuted: dict[tuple[str, str], Permutations] = field(default_factory=dict)

    @cached_property
    def weight(self) -> Float[Tensor, "b n"] | None:
        """Resamples of texts; None when no interval is asked for."""
        return resamples(self.data, self.controls.resamples, seed=self.controls.seed) if self._intervals else None

    @cached_property
    def perturbed(self) -> Float[Tensor, "b n"] | None:
        """Small perturbations of the weights of texts, for held-out scores of given fits."""
        return perturbed(self.data, self.controls.resamples, seed=self.controls.seed) if self._intervals else None

    @cached_property
    def fit(self) -> Float[Tensor, "r n"] | None:
        """Resamples of texts that are fitted to, for the spread of what they give."""
        n, seed = self.controls.fewer, self.controls.seed + 1
        return resamples(self.data, n, seed=seed) if self._intervals else None

    @property
    def _intervals(self) -> bool:
        return "interval" in self.controls

    def permuted(self, scheme: str, *, free: bool = False) -> Permutations | None:
        """Permutations within strata of length (or free, if the settings say so), or among texts of any length; None
        when nothing asks for them."""
        wanted = self.free if free else ("null" in self.controls or self._intervals)
        return self._drawn(scheme, "free" if free else "strata") if wanted else None

    def within_opening(self, scheme: str) -> Permutations | None:
        """Permutations among texts that open with the same word, within strata of length where there are enough of
        them; `Controls.fewer`. None when selectivity is not asked for."""
        return self._drawn(scheme, "opening") if "selectivity" in self.controls else None

    def _drawn(self, scheme: str, kind: str) -> Permutations:
        if (scheme, kind) not in self._permuted:
            stratum = None if kind == "free" or self.data.length is None else self.controls.stratum
            seed, opening = self.controls.seed, kind == "opening"
            n = self.controls.fewer if opening else self.controls.permutations
            drawn = permutations(self.data, scheme, n, seed=seed, fold=self.fold, stratum=stratum, opening=opening)
            self._permuted[scheme, kind] = drawn
        return self._permuted[scheme, kind]

    def of_kind(self, kind: str) -> dict[str, Permutations]:
        """Those that were drawn, by scheme: `strata`, `free` or `opening`."""
        return {scheme: self._permuted[scheme, one] for scheme, one in sorted(self._permuted) if one == kind}
