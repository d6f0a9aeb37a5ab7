"""How alike two measured models are: CKA of their vectors and correlation of their profiles, layer against layer.

What a high number does not prove: see `sae_moral.studies.cka`. Profiles are smooth over the depth of any model,
so two of them correlate easily; no p value is given, because neighbouring layers are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sae_moral.atlas.plan import Entry

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Float, Int

    from sae_moral.capture import Representations
    from sae_moral.protocol import Protocol

BASELINE_LINEAGES = 3
"""Baselines are the pairs among one model each of the first so many lineages."""
FURTHEST = 0.1
"""Layers further apart than this share of the depth are not held against each other."""
FEWEST = 4
"""A correlation over fewer layers is not computed."""


def variant_pairs(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Every two entries of one family, in their order."""
    return [(a, b) for a, b in combinations(entries, 2) if a.family == b.family]


def baseline_pairs(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Pairs of models that have nothing to do with one another: of each of the first lineages its first base model, or,
    where none is called base, its first model."""
    first: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.variant or "").casefold() != "base"):
        first.setdefault(entry.lineage, entry)
    lineages = list(dict.fromkeys(entry.lineage for entry in entries))[:BASELINE_LINEAGES]
    return list(combinations([first[lineage] for lineage in lineages], 2))


def matched_layers(a: Sequence[int], depth_a: int, b: Sequence[int], depth_b: int) -> list[tuple[int, int]]:
    """Which measured layer of one model stands against which of another.

    Models of equal depth: equal numbers. Others: for each layer of the one with fewer measured layers the nearest of
    the other at (layer + 1) / depth, left out where that is further than `FURTHEST`.
    """
    if depth_a == depth_b:
        return [(layer, layer) for layer in a if layer in set(b)]
    if len(a) > len(b):
        return [(first, second) for second, first in matched_layers(b, depth_b, a, depth_a)]

    def distance(layer: int, other: int) -> float:
        return abs((layer + 1) / depth_a - (other + 1) / depth_b)

    nearest = [(layer, min(b, key=lambda other: distance(layer, other))) for layer in a] if b else []
    return [(layer, other) for layer, other in nearest if distance(layer, other) <= FURTHEST]


def layer_similarities(
    a: Representations,
    b: Representations,
    layers: Sequence[tuple[int, int]],
    texts: Int[np.ndarray, "k"],
    protocol: Protocol,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Debiased CKA of each pair of layers, of vectors prepared as the protocol says and of raw ones.

    Args:
        layers: of a and of b; one layer of each is in memory at a time.
        texts: the scenarios to use, one per distinct text: equal rows in both would count as likeness.

    Raises:
        ValueError: different scenarios, or fewer than 4 texts.
    """
    from sae_moral.studies.cka import linear_cka_interval

    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} scenarios; expected the same ones in the same order")
    rows = []
    for first, second in layers:
        raw_a, prepared_a = _vectors(a, first, texts, protocol, device)
        raw_b, prepared_b = _vectors(b, second, texts, protocol, device)
        prepared, raw = linear_cka_interval(prepared_a, prepared_b), linear_cka_interval(raw_a, raw_b)
        row = {"layer_a": first, "layer_b": second}
        for name, found in (("cka", prepared), ("raw", raw)):
            row |= {name: found.value, f"{name}_low": found.ci_low, f"{name}_high": found.ci_high}
        rows.append(row)
    return rows


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


def profile_correlations(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Of every headline that two results (of `summarise`) share: the Spearman and Pearson correlation of its profiles
    over matched layers, and the mean of b − a, which no correlation shows.

    A correlation is None over fewer than `FEWEST` layers and where a profile is constant.
    """
    matched = matched_layers(a["layers"], a["n_layers"], b["layers"], b["n_layers"])
    theirs = {(headline["metric"], headline["statistic"]): headline for headline in b["headlines"]}
    found = []
    for headline in a["headlines"]:
        name = headline["metric"], headline["statistic"]
        if name in theirs:
            found.append({"metric": name[0], "statistic": name[1], **_correlate(headline, theirs[name], matched)})
    return found


def _correlate(a: dict[str, Any], b: dict[str, Any], matched: Sequence[tuple[int, int]]) -> dict[str, Any]:
    import numpy as np
    from scipy.stats import pearsonr, spearmanr

    by_layer = [dict(zip(one["layers"], one["profile"], strict=True)) for one in (a, b)]
    pairs = [(by_layer[0][first], by_layer[1][second]) for first, second in matched]
    x, y = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2).T
    row: dict[str, Any] = {"layers": len(x), "spearman": None, "pearson": None, "mean_difference": None}
    if len(x):
        row["mean_difference"] = float((y - x).mean())
    if len(x) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0:
        row |= {"spearman": _plain(spearmanr(x, y)), "pearson": _plain(pearsonr(x, y))}
    return row


def _plain(found: Any) -> float:
    return float(found.statistic)
