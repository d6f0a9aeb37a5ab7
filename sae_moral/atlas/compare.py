"""The pairs of an atlas, compared from what is on disk: no model is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_moral.atlas.folder import Folder, key_of, read_json
from sae_moral.atlas.likeness import (
    baseline_pairs,
    layer_similarities,
    matched_layers,
    profile_correlations,
    variant_pairs,
)
from sae_moral.atlas.plan import Entry
from sae_moral.io import write_json
from sae_moral.protocol import get_protocol


def missing_pairs(folder: Folder) -> list[tuple[Entry, Entry]]:
    """Pairs of the plan whose CKA is not on disk yet."""
    pairs = [*variant_pairs(folder.plan.entries), *baseline_pairs(folder.plan.entries)]
    return [(a, b) for a, b in pairs if _kept(folder, a, b) is None]


def similarities(folder: Folder, measured: Sequence[dict[str, Any]], device: str | None) -> list[dict[str, Any]]:
    """Every pair of models that have the compared protocol's results: CKA by layer, correlations of the profiles.

    Args:
        measured: the entries with their results, as in `Atlas.entries`.
        device: where the products are formed.
    """
    results = {entry["name"]: entry["results"] for entry in measured}
    there = [entry for entry in folder.plan.entries if folder.plan.compared in results[entry.name]]
    pairs = {"variants": variant_pairs(there), "baseline": baseline_pairs(there)}
    return [_pair(folder, kind, a, b, results, device) for kind in pairs for a, b in pairs[kind]]


def _pair(
    folder: Folder, kind: str, a: Entry, b: Entry, results: dict[str, dict[str, Any]], device: str | None
) -> dict[str, Any]:
    of_a, of_b = results[a.name], results[b.name]
    compared = folder.plan.compared
    depths = of_a[compared]["n_layers"], of_b[compared]["n_layers"]
    matched = matched_layers(of_a[compared]["layers"], depths[0], of_b[compared]["layers"], depths[1])
    error, layers = None, None
    try:
        layers = _kept(folder, a, b) or _compare(folder, a, b, matched, device)
    except (OSError, ValueError) as problem:
        error = str(problem)
    return {
        "a": a.name,
        "b": b.name,
        "kind": kind,
        "family": a.family if kind == "variants" else None,
        "protocol": compared,
        "n_texts": len(_texts(folder)),
        "depths": list(depths),
        "layers": layers or [],
        "profiles": [
            {"protocol": protocol, **row}
            for protocol in folder.plan.protocols
            if protocol in of_a and protocol in of_b
            for row in profile_correlations(of_a[protocol], of_b[protocol])
        ],
        "error": error,
    }


def _key(folder: Folder, a: Entry, b: Entry) -> str:
    return key_of([folder.key(entry, folder.plan.compared)["key"] for entry in (a, b)])


def _kept(folder: Folder, a: Entry, b: Entry) -> list[dict[str, Any]] | None:
    kept = read_json(folder.root / "pairs" / f"{a.name}+{b.name}.json")
    return kept["layers"] if isinstance(kept, dict) and kept.get("key") == _key(folder, a, b) else None


def _compare(
    folder: Folder, a: Entry, b: Entry, matched: Sequence[tuple[int, int]], device: str | None
) -> list[dict[str, Any]]:
    import torch

    path = folder.root / "pairs" / f"{a.name}+{b.name}.json"
    rows = layer_similarities(
        folder.vectors(a),
        folder.vectors(b),
        matched,
        _texts(folder),
        get_protocol(folder.plan.compared),
        device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": _key(folder, a, b), "layers": rows})
    return rows


def _texts(folder: Folder) -> Any:
    """The first scenario of every distinct text."""
    import numpy as np

    return np.sort(np.unique(folder.scenarios(folder.plan.compared).group, return_index=True)[1])
