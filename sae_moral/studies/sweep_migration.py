"""Sweeps of older schemas, as those of today.

Schema 1 (version 0.1) and 2 had one wording, the gap of the mean margin over its pairs, strengths given as α, and
random directions of the operated arm's norm as the only null. What they compared stands under `beyond` as gaps, in
nats. Not taken over, since nothing of today is like it: shifts of single poles, p-values of headlines, the front.
"""

from __future__ import annotations

from typing import Any

_OLD_ARMS = {"dense": "constant", "random": "random direction"}
_WORDING = "margin"
_DAMAGE = ("kl", "perplexity_ratio", "top_agreement", "norm_share", "distinct_1", "distinct_2", "repetition")
_KEPT = (*_DAMAGE, "categorical", "gradient", "categorical_change", "gradient_change", "error")


def migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file of schema 1 or 2."""
    old = {name: value for name, value in content["provenance"].items() if name not in ("version", "units")}
    if version == 1:  # positions were called `where`, a model's identity `weights`
        old["positions"] = old.pop("where")
        old["model"] = {"identity" if name == "weights" else name: value for name, value in old["model"].items()}
    pairs = len(old["settings"]["pairs"])
    before = content["unsteered"]
    kept = {name: before[name] for name in ("headlines", "perplexity_ratio", "distinct_1", "distinct_2", "repetition")}
    words = {"wording": _WORDING, "use": "chosen", "pairs": pairs}
    return {
        "provenance": {**old, "migrated_from": version},
        "unsteered": {"words": [{**words, "gap": before["gap"]}], **kept},
        "results": [_row(row, words) for row in content["results"]],
        "beyond": [one for row in content["results"] if row["arm"] == "operated" for one in _beyond(row)],
    }


def _row(row: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    effect = {"gap": row["gap"], **{f"gap_{of}": row[f"gain{end}"] for of, end in _ENDS}}
    return {
        "layer": row["layer"],
        "form": row["form"],
        "arm": _OLD_ARMS.get(row["arm"], row["arm"]),
        "seed": row["seed"],
        "name": row["operation"],
        "alpha": row["alpha"],
        "words": [] if row["gap"] is None else [{**words, **effect}],
        **{name: row[name] for name in _KEPT},
    }


_ENDS = (("change", ""), ("low", "_low"), ("high", "_high"))


def _beyond(row: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, twin, p in (("over_random", "random direction", "p_random"), ("over_shuffled", "shuffled", None)):
        if row[name] is not None:
            place = {"layer": row["layer"], "form": row["form"], "kl": None, "alpha": row["alpha"]}
            ends = {"difference": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            about = {"wording": _WORDING, "use": "chosen", "twin": twin, "statistic": "gap", "operations": 1}
            found.append({**place, **about, "twins": None, **ends, "p": row[p] if p else None})
    return found
