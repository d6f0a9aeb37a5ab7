"""When a latent counts as moral: the paper's rule, and the audited one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_moral.foundations import FOUNDATIONS

PAPER_CLASSES = ("weak", "monosemantic", "polysemantic")
AUDITED_CLASSES = ("untested", "weak", "polysemantic", "unstable", "monosemantic")


@dataclass(frozen=True)
class LatentSettings:
    """What the audited rule asks of a latent, all of it on the selection part.

    Attributes:
        false_discovery: expected share of chance pairs among the significant ones (Benjamini & Hochberg 1995), over
            all tested latents × dimensions.
        effect: smallest partial correlation that counts; the default is the threshold of the paper's rule.
        selectivity: the next foundation's partial correlation may be at most this share of its own.
        half: one-sided level that each random half of the texts has to reach for the same pair.
        firing: texts a latent has to fire on to be tested; the filter does not see the labels.
        items: texts with a label above 0 that a dimension needs to be tested.
        permutations: how often labels are permuted over the texts, for the shares found where there is nothing.
        top: scenarios listed per latent.
        seed: of the halves and permutations.
    """

    false_discovery: float = 0.05
    effect: float = 0.1
    selectivity: float = 0.5
    half: float = 0.05
    firing: int = 20
    items: int = 20
    permutations: int = 3
    top: int = 10
    seed: int = 0


def q_values(p: Float[np.ndarray, "s m"], tested: Bool[np.ndarray, "s m"]) -> Float[np.ndarray, "s m"]:
    """Benjamini–Hochberg adjusted p-values over the tested pairs; 1 for the others.

    They hold the false discovery rate under positive dependence; the labels of one text depend on one another and so
    do latents, which is what the permuted labels check.
    """
    adjusted = np.ones_like(p)
    values = p[tested]
    if values.size:
        order = np.argsort(values)
        scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
        sorted_q = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
        found = np.empty_like(values)
        found[order] = sorted_q
        adjusted[tested] = found
    return adjusted


def paper_classes(r: Float[np.ndarray, "s 10"]) -> Int[np.ndarray, "s"]:
    """Index into `PAPER_CLASSES` by plain Pearson correlations (arXiv 2603.15615).

    Weak: max |r| < 0.05. Monosemantic: exactly one |r| > 0.1, or two that are one foundation's pair. Polysemantic: all
    others, those with max |r| from 0.05 to 0.1 included. The thresholds know nothing of the number of rows.
    """
    strong = np.abs(r) > 0.1
    pair = (strong[:, 0::2] & strong[:, 1::2]).any(axis=1)
    single = (strong.sum(axis=1) == 1) | ((strong.sum(axis=1) == 2) & pair)
    return np.select([np.abs(r).max(axis=1) < 0.05, single], [0, 1], 2).astype(np.int64)


def audit(
    r: Float[np.ndarray, "s 10"],
    q: Float[np.ndarray, "s 10"],
    halves: tuple[Float[np.ndarray, "s 10"], Float[np.ndarray, "s 10"]],
    tested: Bool[np.ndarray, "s"],
    settings: LatentSettings,
) -> tuple[Bool[np.ndarray, "s 10"], Int[np.ndarray, "s"], Float[np.ndarray, "s"]]:
    """Which latent–dimension pairs pass, each latent's class, and how selective it is.

    Args:
        r: partial correlations on the selection part.
        q: their adjusted p-values.
        halves: p-values in each half of it.
        tested: latents that fire on enough texts.

    Returns:
        The pairs (significant, of at least the smallest effect, positive, of the selective foundation, in both
        halves); the index into `AUDITED_CLASSES` (monosemantic: a pair passes; unstable: one would, but for the halves;
        polysemantic: significant, not selective; weak: nothing significant; untested); 1 − the next foundation's
        partial correlation as a share of its own (1: the others have none above 0; 0: no preference).
    """
    strong = (q <= settings.false_discovery) & (r >= settings.effect) & tested[:, None]
    by_foundation = r.reshape(len(r), len(FOUNDATIONS), 2).max(axis=2)
    ordered = np.sort(np.maximum(by_foundation, 0.0), axis=1)
    own, following = ordered[:, -1], ordered[:, -2]
    share = np.divide(following, own, out=np.ones_like(own), where=own > 0)
    best = np.repeat(by_foundation == by_foundation.max(axis=1, keepdims=True), 2, axis=1)
    selective = strong & best & (share <= settings.selectivity)[:, None]
    passes = selective & (halves[0] <= settings.half) & (halves[1] <= settings.half)
    conditions = [~tested, ~strong.any(axis=1), ~selective.any(axis=1), ~passes.any(axis=1)]
    return passes, np.select(conditions, [0, 1, 2, 3], 4).astype(np.int64), 1 - share
