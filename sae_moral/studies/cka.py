"""How alike two representations of the same scenarios are: linear centred kernel alignment, without its bias.

    CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X) · HSIC(Y, Y))         kernels K = XXᵀ, L = YYᵀ

(Kornblith et al. 2019, arXiv 1905.00414). The plain HSIC is ‖XᵀY‖² of the centred vectors. It rewards dimensions: two
independent noises of more dimensions than scenarios come out close to 1. The debiased one is the unbiased estimator of
Song et al. (2012), as used by Nguyen et al. (2021, arXiv 2010.15327),

    HSIC₁ = [tr(K̃L̃) + 1ᵀK̃1 · 1ᵀL̃1 / ((n−1)(n−2)) − 2/(n−2) · 1ᵀK̃L̃1] / (n(n−3))     K̃, L̃: zero diagonal

whose expectation for independent X and Y is 0, so that it can come out slightly negative.

What it does not prove: that two models compute the same thing, or agree on anything moral. The directions of highest
variance decide it, which are mostly about words and topics; any two language models share much of that, so a number is
read against one of two unrelated models. Invariant to rotation, translation and one common scale; not to the scale of
single dimensions, hence the difference between raw and standardised vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.errors import unknown
from sae_moral.shown import shown
from sae_moral.studies.atlas_results import LayerSimilarity

if TYPE_CHECKING:
    from sae_moral.capture import Representations
    from sae_moral.protocol import Protocol

BLOCKS = 20
"""Into how many random blocks of scenarios the jackknife divides a sample."""


@shown()
@dataclass(frozen=True)
class Similarity:
    """Debiased linear CKA and its 95 % interval; None where a representation does not vary."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


def linear_cka(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], *, bias: str = "debiased") -> float | None:
    """Linear CKA of two representations whose rows are the same n scenarios (m = n).

    Computed in float64 on the device of x, through d1 × d2 products when n exceeds both widths, else through
    n × n ones.

    Args:
        bias: `debiased` (at most 1, about 0 for independent representations) or `plain` (0 to 1).

    Returns:
        None where x or y does not vary over the scenarios.

    Raises:
        ValueError: different n, fewer than 4 rows (the unbiased estimator divides by n − 3), values that are not
            finite, an unknown bias.
    """
    if bias not in ("debiased", "plain"):
        raise unknown("bias", bias, ["debiased", "plain"])
    _check(x, y)
    x, y = _centred(x), _centred(y).to(x.device)
    products = _products(x, y)
    if bias == "plain":
        crossed, own_x, own_y = (float(product.total) for product in products)
        return crossed / (own_x * own_y) ** 0.5 if own_x > 0 and own_y > 0 else None
    return _ratio(*(product.hsic(None) for product in products))


def linear_cka_interval(
    x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], *, blocks: int = BLOCKS, seed: int = 0
) -> Similarity:
    """Debiased linear CKA with a 95 % interval: ±1.96 standard errors of the delete-a-block jackknife, ends cut at 1.

    Sums of products are additive over scenarios, so all leave-outs together cost about as much as the value. It says
    how far the number may move with other scenarios of the same kind, one text each; rows with equal texts make it too
    narrow. No interval where fewer than 4 scenarios would remain or a leave-out does not vary.

    Raises:
        ValueError: as `linear_cka`; fewer than 2 blocks.
    """
    if blocks < 2:
        raise ValueError(f"{blocks} blocks; expected at least 2")
    _check(x, y)
    x, y = _centred(x), _centred(y).to(x.device)
    products = _products(x, y)
    value = _ratio(*(product.hsic(None) for product in products))
    n = len(x)
    blocks = min(blocks, n)
    if value is None or n - -(-n // blocks) < 4:
        return Similarity(value, None, None)
    left_out = np.array_split(np.random.default_rng(seed).permutation(n), blocks)
    found = [_ratio(*(product.hsic(block) for product in products)) for block in left_out]
    values = np.array([np.nan if one is None else one for one in found])
    half = 1.96 * float(np.sqrt((blocks - 1) * np.var(values)))
    if not np.isfinite(half):
        return Similarity(value, None, None)
    return Similarity(value, value - half, min(1.0, value + half))


def layer_similarities(
    a: Representations,
    b: Representations,
    layers: Sequence[tuple[int, int]],
    texts: Int[np.ndarray, "k"],
    protocol: Protocol,
    device: torch.device | str | None = None,
) -> list[LayerSimilarity]:
    """Debiased CKA of each pair of layers, of vectors prepared as the protocol says and of raw ones.

    Args:
        layers: of a and of b; one layer of each is in memory at a time.
        texts: the scenarios to use, one per distinct text: equal rows in both would count as similarity.
        device: where the products are formed; by default CUDA when there is one.

    Raises:
        ValueError: different scenarios, or fewer than 4 texts.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} scenarios; expected the same ones in the same order")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for first, second in layers:
        raw_a, prepared_a = _vectors(a, first, texts, protocol, device)
        raw_b, prepared_b = _vectors(b, second, texts, protocol, device)
        cka, raw = linear_cka_interval(prepared_a, prepared_b), linear_cka_interval(raw_a, raw_b)
        ends = (cka.value, cka.ci_low, cka.ci_high, raw.value, raw.ci_low, raw.ci_high)
        found.append(LayerSimilarity(first, second, *ends))
    return found


def _check(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} rows; expected one per scenario in both, in the same order")
    if len(x) < 4:
        raise ValueError(f"{len(x)} scenarios; the unbiased estimator needs at least 4")
    for name, values in (("first", x), ("second", y)):
        if not torch.isfinite(values).all():
            raise ValueError(f"the {name} representation holds NaN or infinite values; expected finite ones")


def _centred(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Centred and scaled to a sum of squares of 1; all 0 where nothing but rounding varies."""
    x = x.double()
    centred = x - x.mean(dim=0)
    total, rounding = centred.square().sum(), 1e-24 * x.square().sum()
    return centred / total.sqrt() if total > rounding else torch.zeros_like(centred)


def _products(x: Tensor, y: Tensor) -> tuple[_Product, _Product, _Product]:
    return _Product(x, y), _Product(x, x), _Product(y, y)


def _ratio(crossed: float, own_x: float, own_y: float) -> float | None:
    # The sums behind each are at most 1: what is below a few units of rounding is no variation.
    return crossed / (own_x * own_y) ** 0.5 if min(own_x, own_y) > 1e-14 else None


class _Product:
    """Σ over pairs of scenarios of K·L, of all scenarios or without some of them."""

    def __init__(self, x: Float[Tensor, "n d1"], y: Float[Tensor, "n d2"]) -> None:
        self.x, self.y = x, y
        self.wide = len(x) <= max(x.shape[1], y.shape[1])
        self.whole = (x @ x.T) * (y @ y.T) if self.wide else x.T @ y
        self.total = self.whole.sum() if self.wide else self.whole.square().sum()
        self.norms = x.square().sum(dim=1), y.square().sum(dim=1)

    def hsic(self, without: Int[np.ndarray, "k"] | None) -> float:
        """n(n−3) · HSIC₁; translation leaves it as it is, so x and y need not be centred anew for a part."""
        kept = torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        total = self.total
        if without is not None:
            index = torch.from_numpy(without).to(self.x.device)
            kept[index] = False
            total = self._total_without(index)
        n = int(kept.sum())
        (diagonal_k, row_k), (diagonal_l, row_l) = (
            (norms[kept], z[kept] @ z[kept].sum(dim=0) - norms[kept])
            for z, norms in zip((self.x, self.y), self.norms, strict=True)
        )
        trace = total - diagonal_k @ diagonal_l
        return float(trace + row_k.sum() * row_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (row_k @ row_l))

    def _total_without(self, index: Int[Tensor, "k"]) -> Tensor:
        if self.wide:
            rows = self.whole[index]
            return self.total - 2 * rows.sum() + rows[:, index].sum()
        return (self.whole - self.x[index].T @ self.y[index]).square().sum()


def _vectors(
    x: Representations, layer: int, texts: Int[np.ndarray, "k"], protocol: Protocol, device: torch.device | str
) -> tuple[Float[torch.Tensor, "k d"], Float[torch.Tensor, "k d"]]:
    from sae_moral.metrics.preprocess import STEPS

    length = x.total if protocol.pooling == "all" else x.length
    raw = x.subset(texts)[layer].to(device).double()
    prepared = raw
    # The steps themselves: `preprocess` would also form its facts, an eigendecomposition per layer.
    for step in protocol.preprocessing:
        prepared = STEPS[step](prepared, length[texts])
    return raw, prepared
