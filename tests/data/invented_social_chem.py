"""A table in the exact schema of Social-Chemistry-101, of invented texts, deterministic for a seed.

At `rows=355_922` it is about as large as the published one (147 MB). No sentence of the corpus is in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HEADER = (
    "area\tm\tsplit\trot-agree\trot-categorization\trot-moral-foundations\trot-char-targeting\trot-bad\trot-judgment\t"
    "action\taction-agency\taction-moral-judgment\taction-agree\taction-legal\taction-pressure\taction-char-involved\t"
    "action-hypothetical\tsituation\tsituation-short-id\trot\trot-id\trot-worker-id\tbreakdown-worker-id\t"
    "n-characters\tcharacters"
).split("\t")
FULL = 355_922
_FOUNDATIONS = ("care-harm", "fairness-cheating", "loyalty-betrayal", "authority-subversion", "sanctity-degradation")
_VERBS = ("painting", "hiding", "folding", "carrying", "counting", "repairing", "feeding", "polishing", "guarding")
_THINGS = ("lantern", "kite", "violin", "teapot", "ladder", "marble", "beehive", "compass", "saddle", "quilt", "anchor")
_PLACES = ("the lighthouse", "a windmill", "the harbour", "an attic", "the orchard", "a tram", 'the "Blue Moth" inn')
_ENDS = ("", ".", " at dawn", " without asking", " for a stranger")
_FILLER = "the tide came in, the ferry left, and nobody had seen the cartographer since the market closed. "


def quoted(field: str) -> str:
    """As pandas and csv write it: in quotes only where it must be."""
    return '"' + field.replace('"', '""') + '"' if '"' in field or "\t" in field else field


def write_table(path: Path, rows: int = FULL // 50, *, seed: int = 0) -> Path:
    """Write the table; 15 % of the rows are marked bad, 9 % have several annotators, some cells are missing."""
    rng = np.random.default_rng(seed)
    masks = rng.choice(32, rows, p=_mask_shares())
    names = ["|".join(f for bit, f in enumerate(_FOUNDATIONS) if mask >> bit & 1) for mask in range(32)]
    bad, m = rng.random(rows) < 0.15, rng.choice([1, 3, 5, 50], rows, p=[0.91, 0.04, 0.03, 0.02])
    judgment = rng.choice(["-2", "-1", "0", "1", "2", ""], rows, p=[0.08, 0.27, 0.3, 0.22, 0.08, 0.05])
    agree = rng.choice(["0", "1", "2", "3", "4", ""], rows, p=[0.02, 0.08, 0.25, 0.45, 0.18, 0.02])
    parts = [rng.integers(len(words), size=rows) for words in (_VERBS, _THINGS, _PLACES, _ENDS)]
    unusual, length = rng.random(rows), rng.integers(0, 3, rows)
    with path.open("w", encoding="utf8", newline="\n") as file:
        file.write("\t".join(HEADER) + "\n")
        for i in range(rows):
            verb, thing, place, end = (part[i] for part in parts)
            number = "" if unusual[i] < 0.2 else f" {i % 5000}"
            action = f"{_VERBS[verb]} the {_THINGS[thing]}{number} in {_PLACES[place]}{_ENDS[end]}"
            if unusual[i] > 0.999:
                action = "None" if i % 2 else f"{action}\tand\u2028café"
            rule = f"{action} is a thing one may do, or so it is said near {_PLACES[place]}"
            cells = [
                "rocstories", str(m[i]), "train", "3", "morality-ethics", names[masks[i]], "char-0", str(int(bad[i])),
                "it's okay", action, "agency", judgment[i], agree[i], "legal", "0", "char-0", "probable",
                f"{_FILLER * length[i]}{i}", f"invented/{i}", rule, f"rot/{i // 3 if m[i] > 1 else i}", str(i % 97),
                str(i % 89), "2", "narrator|a keeper",
            ]  # fmt: skip
            file.write("\t".join(map(quoted, cells)) + "\n")
    return path


def _mask_shares() -> np.ndarray:
    shares = np.array([0.3 ** max(mask.bit_count() - 1, 0) for mask in range(32)])
    shares[0] = 1.0
    return shares / shares.sum()
