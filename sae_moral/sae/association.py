"""How strongly latents go with moral dimensions, and when that counts: the paper's rule, and the audited one.

Statistics are of a block of latents at a time; rows are distinct texts. Partial correlation: with Q an orthonormal
basis of the nuisances (1, n, log n and 1/n of the token count n, and the mean log word frequency), x' = x − Q Qᵀx, y'
likewise,

    r = x'·y' / (‖x'‖ ‖y'‖)        t = r √(v / (1 − r²)),  v = N − k − 1

with k columns in Q. The p-value is one-sided (a latent *fires* for what it means), and the larger of two:

- Student's t, exact where x' or y' is normal;
- the permutation null of r, matched in mean, variance and skewness by a Pearson type III (shifted gamma) distribution,
  without permuting: γ = γx γy √(N − 1) / (N − 2), γx and γy the skewness of x' and y' (Mielke & Berry 2007; moment
  matching as in Zhou & Wright 2015). Latents are zero on most texts and labels on nearly as many; a latent that fires
  on three texts which happen to be labelled has t = 7, and by t alone would pass any correction over 10⁵ tests.

Spearman and AUROC are of midranks (as scipy's and scikit-learn's). Everything is float64, so that it equals theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammainc, gammaincc, stdtr
from torch import Tensor

from sae_moral.foundations import FOUNDATIONS
from sae_moral.metrics.nuisance import length_design

PAPER_CLASSES = ("weak", "monosemantic", "polysemantic")
AUDITED_CLASSES = ("untested", "weak", "polysemantic", "unstable", "monosemantic")


def nuisance_basis(length: np.ndarray, frequency: Float[np.ndarray, "n"]) -> Float[Tensor, "n k"]:
    """Orthonormal columns spanning 1, n, log n, 1/n and the mean log word frequency; fewer if they are collinear."""
    spread = frequency.std()
    column = (frequency - frequency.mean()) / spread if spread > 1e-12 else np.zeros_like(frequency)
    basis, singular, _ = np.linalg.svd(np.column_stack([length_design(length), column]), full_matrices=False)
    return torch.from_numpy(basis[:, singular > 1e-8 * singular[0]])


def _skewness(x: Float[Tensor, "n b"]) -> Float[np.ndarray, "b"]:
    """Of columns with mean 0; 0 for one that does not vary."""
    variance = x.square().mean(dim=0)
    cubes = (x**3).mean(dim=0)
    return torch.where(variance > 0, cubes / variance.clamp(min=1e-300) ** 1.5, 0.0).cpu().numpy()


@dataclass(frozen=True)
class Partial:
    """Labels with the nuisances taken out, against which latents are tested.

    Attributes:
        basis: orthonormal nuisances.
        labels: residual labels of norm 1; a label that does not vary beyond the nuisances is 0.
        skewness: of each residual label.
    """

    basis: Float[Tensor, "n k"]
    labels: Float[Tensor, "n m"]
    skewness: Float[np.ndarray, "m"]

    @staticmethod
    def of(
        length: np.ndarray, frequency: np.ndarray, labels: Float[np.ndarray, "n m"], device: torch.device
    ) -> Partial:
        """Prepare once for all blocks of latents.

        Raises:
            ValueError: too few texts for the nuisances.
        """
        if len(labels) < 12:
            raise ValueError(f"{len(labels)} texts in a part; expected at least 12, better hundreds")
        basis = nuisance_basis(length, frequency).to(device)
        raw = torch.from_numpy(labels).to(device)
        rest = raw - basis @ (basis.T @ raw)
        norm = torch.linalg.vector_norm(rest, dim=0)
        varies = norm > 1e-10 * torch.linalg.vector_norm(raw, dim=0).clamp(min=1e-300)
        unit = torch.where(varies, rest / torch.where(varies, norm, 1.0), 0.0)
        return Partial(basis, unit, _skewness(unit))

    def r(
        self, x: Float[Tensor, "n b"]
    ) -> tuple[Float[np.ndarray, "b m"], Float[np.ndarray, "b m"], Float[np.ndarray, "b"]]:
        """Partial correlations, their one-sided p-values, and the share of each latent's variance in the nuisances.

        A latent that does not vary beyond the nuisances has r = 0 and p = 1.
        """
        n, k = self.basis.shape
        fitted = self.basis.T @ x
        rest = x - self.basis @ fitted
        squares = rest.square()
        left = squares.sum(dim=0)
        # What varies, without another pass over x: the residual, and the fit less its mean.
        size, mean = left + fitted.square().sum(dim=0), x.mean(dim=0)
        total = (size - n * mean.square()).clamp(min=0)
        varies = (left > 1e-10 * total) & (total > 1e-12 * size)
        scale = torch.where(varies, left, 1.0).sqrt()
        r = torch.where(varies[:, None], (rest.T @ self.labels) / scale[:, None], 0.0)
        skew = torch.where(varies, (squares * rest).mean(dim=0) / (scale.square() / n) ** 1.5, 0.0).cpu().numpy()
        share = torch.where(total > 1e-12 * size, 1 - left / total.clamp(min=1e-300), 0.0).clamp(0, 1)
        found = r.clamp(-1, 1).cpu().numpy()
        p = np.maximum(_student(found, n - k - 1), _type_three(found * np.sqrt(n - k), n, skew, self.skewness))
        defined = varies.cpu().numpy()[:, None] & (self.labels.abs().amax(dim=0) > 0).cpu().numpy()
        return found, np.where(defined, p, 1.0), share.cpu().numpy()


def _student(r: Float[np.ndarray, "b m"], freedom: int) -> Float[np.ndarray, "b m"]:
    t = r * np.sqrt(freedom / np.maximum(1 - r**2, 1e-300))
    return stdtr(freedom, -t)


def _type_three(
    z: Float[np.ndarray, "b m"], n: int, skew_x: Float[np.ndarray, "b"], skew_y: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "b m"]:
    """Upper tail of the permutation null of r, z = r in units of its standard deviation."""
    skew = skew_x[:, None] * skew_y[None, :] * np.sqrt(n - 1) / (n - 2)
    # Below this the shape exceeds 4·10⁶ and the distribution is normal to the digits that Student's t has, too.
    skewed = np.abs(skew) > 1e-3
    shape = 4 / np.where(skewed, skew, 1.0) ** 2
    at = np.maximum(shape + np.where(skew > 0, z, -z) * np.sqrt(shape), 0.0)
    tail = np.where(skew > 0, gammaincc(shape, at), gammainc(shape, at))
    return np.where(skewed, tail, 0.0)


def midranks(x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Ranks from 1, ties averaged."""
    x = x.contiguous()
    ordered = x.sort(dim=1).values
    first, last = (torch.searchsorted(ordered, x, right=right) for right in (False, True))
    return (first + last + 1).double() / 2


def correlation(x: Float[Tensor, "b n"], y: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Pearson's r of every row of x with every column of y, and where it is defined (both vary); 0 elsewhere."""
    size_x, size_y = x.abs().amax(dim=1), y.abs().amax(dim=0)
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=0)
    norm_x, norm_y = torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(y, dim=0)
    root = x.shape[1] ** 0.5
    defined = (norm_x > 1e-13 * root * size_x)[:, None] & (norm_y > 1e-13 * root * size_y)
    scale = norm_x[:, None] * norm_y
    return torch.where(defined, (x @ y) / torch.where(defined, scale, 1.0), 0.0).clamp(-1, 1), defined


def auroc(ranks: Float[Tensor, "b n"], positive: Bool[Tensor, "n m"]) -> Float[Tensor, "b m"]:
    """Probability that a latent is higher on a positive text than on another (ties half); ½ where there is none."""
    members = positive.to(ranks.dtype)
    count = members.sum(dim=0)
    pairs = count * (len(members) - count)
    u = ranks @ members - count * (count + 1) / 2
    return torch.where(pairs > 0, u / pairs.clamp(min=1), 0.5)


def weighted_correlation(
    x: Float[Tensor, "n b"], label_sum: Float[Tensor, "n m"], count: Float[Tensor, "n"], spread: Float[Tensor, "m"]
) -> Float[Tensor, "b m"]:
    """Pearson's r over *records*, as the paper counts: a text's latent once for each of its records.

    Args:
        x: latents of the texts.
        label_sum: the summed labels of each text's records.
        count: how many records each text is.
        spread: root of the summed squared deviations of the labels, over records.
    """
    total = count.sum()
    x = x - (count @ x) / total
    centred = label_sum - count[:, None] * (label_sum.sum(dim=0) / total)
    norm = (count @ x.square()).sqrt()
    scale = norm[:, None] * spread
    # As in `correlation`: what rounding leaves of a constant is not a spread.
    defined = scale > 1e-13 * total.sqrt() * spread.clamp(min=1e-300) * x.abs().amax(dim=0).clamp(min=1e-300)[:, None]
    return torch.where(defined & (scale > 0), (x.T @ centred) / torch.where(scale > 0, scale, 1.0), 0.0).clamp(-1, 1)


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


def released_pairs(r: Float[np.ndarray, "s 10"], most: int = 50) -> Bool[np.ndarray, "s 10"]:
    """Moral latents of the code released with arXiv 2603.15615, which its text does not have: a latent belongs to the
    dimension of its largest |r| where that is above 0.1 and above 1.5 times the second; and beside these the latents
    with the 50 largest |r| of each dimension."""
    size = np.abs(r)
    second, first = np.sort(size, axis=1)[:, -2:].T
    chosen = (size == first[:, None]) & ((first > 0.1) & (first > 1.5 * second))[:, None]
    top = np.argsort(-size, axis=0, kind="stable")[:most]
    among = np.zeros_like(chosen)
    np.put_along_axis(among, top, True, axis=0)
    return chosen | (among & (size > 0))


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
