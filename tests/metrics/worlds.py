"""Planted worlds: moral data and representations in which it is known what there is to find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import NEUTRAL
from sae_moral.metrics import Metric, evaluate

LEVELS = (0.25, 0.5, 0.75, 1.0)
AUDITED_STEPS = ("standardise", "remove_length")


def moral_data(
    foundation: Sequence[int] | np.ndarray,
    pole: Sequence[int] | np.ndarray,
    typicality: Sequence[float] | np.ndarray,
    *,
    text: Sequence[str] | None = None,
    length: np.ndarray | None = None,
) -> MoralData:
    """Records with these labels; each vector holds only the record's own dimension. Distinct texts by default."""
    foundation, pole = np.asarray(foundation, dtype=np.int64), np.asarray(pole, dtype=np.int64)
    n, moral = len(foundation), np.flatnonzero(pole != NEUTRAL)
    typicality = np.where(pole == NEUTRAL, 0.0, typicality)
    vector = np.zeros((n, 10))
    vector[moral, 2 * foundation[moral] + pole[moral]] = typicality[moral]
    names = tuple(f"row {i}" for i in range(n))
    return MoralData(tuple(text) if text else names, vector, foundation, pole, typicality, names, length=length)


def lengths(data: MoralData) -> np.ndarray:
    """Tokens per scenario, of data that have them."""
    assert data.length is not None
    return data.length


def balanced(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Foundation, pole and typicality of n records in random order; all combinations equally frequent."""
    index = rng.permutation(n)
    cell, level = index % 15, index // 15 % len(LEVELS)
    return cell // 3, cell % 3, np.array(LEVELS)[level]


def planted(
    seed: int,
    *,
    n: int = 300,
    d: int = 12,
    polarity: float = 0.0,
    foundation: float = 0.0,
    gradation: float = 0.0,
    noise: float = 1.0,
) -> tuple[Tensor, MoralData]:
    """Noise, plus directions of these strengths for virtue against vice, for each foundation, and for typicality within
    each dimension (centred, so that it does not tell moral from neutral)."""
    rng = np.random.default_rng(seed)
    f, pole, typicality = balanced(rng, n)
    basis = np.linalg.qr(rng.standard_normal((max(d, 7), max(d, 7))))[0][:, :d]
    x = noise * rng.standard_normal((n, d))
    x += polarity * np.choose(pole, [1, -1, 0])[:, None] * basis[0]
    x += foundation * basis[1 + f]
    x += gradation * np.where(pole == NEUTRAL, 0.0, typicality - 0.625)[:, None] * basis[6]
    return torch.from_numpy(x), moral_data(f, pole, typicality, length=rng.integers(3, 40, n))


def values(metric: Metric, x: Tensor, data: MoralData) -> dict[tuple[str, str], Any]:
    """(statistic, group) → value: a number, or None."""
    return {(s.name, s.group): s.value for s in evaluate(metric, x, data)}


def overall(metric: Metric, x: Tensor, data: MoralData) -> dict[str, Any]:
    """Statistic → its value (a number, or None) for the group `overall`."""
    return {name: value for (name, group), value in values(metric, x, data).items() if group == "overall"}


def same(a: dict, b: dict, *, tolerance: float = 1e-9) -> None:
    """Assert that two dicts have the same keys, None in the same places, and equal numbers."""
    assert a.keys() == b.keys()
    assert {k for k, v in a.items() if v is None} == {k for k, v in b.items() if v is None}
    different = {k: (v, b[k]) for k, v in a.items() if v is not None and abs(v - b[k]) > tolerance}
    assert not different


def rotation(d: int, seed: int) -> Tensor:
    """A random orthogonal matrix."""
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0])


def standard_errors(draws: Sequence[float], chance: float) -> float:
    """How many standard errors the mean of the draws lies from chance."""
    array = np.asarray(draws)
    return float((array.mean() - chance) / (array.std(ddof=1) / np.sqrt(len(array))))


def without_pole(data: MoralData, x: Tensor, foundation: int, pole: int) -> tuple[Tensor, MoralData]:
    """The world without the items of one foundation and pole."""
    keep = ~data.items(foundation, pole)
    return x[torch.from_numpy(keep)], data.subset(keep)
