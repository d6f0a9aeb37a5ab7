"""`Atlas`: what came out for every model, how alike the models are, and from what. No vectors, JSON values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from sae_moral.io import read_record, write_json

if TYPE_CHECKING:
    import pandas as pd

    from sae_moral.diagnosis import Diagnosis
    from sae_moral.report.version1 import Version1

SCHEMA_VERSION = 1
PUBLISHED: dict[tuple[str, str], str] = {
    ("categorical", "cosine"): "often above 0.5 in middle layers",
    ("gradient", "spearman"): "below 0.55",
    ("structural", "ari_polarity"): "about 0.5 at best",
    ("dimensional", "r2"): "at most 0.26, adjusted",
}
"""What arXiv 2603.15615 prints for its 23 models together, by metric and headline of the protocol `paper`."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Many models, measured alike.

    Attributes:
        entries: one per model of the plan: its `Entry`, `error` (None, or why there are no or not all results) and, by
            protocol, `results`: n, layers, warnings, and every headline with its best layer and its profile.
        similarities: one per compared pair: which layers stand against which, their CKA with intervals (of prepared
            and of raw vectors), and the correlations of the headlines' profiles; `kind` is `variants` or `baseline`.
        provenance: data, protocols, library versions.
    """

    entries: list[dict[str, Any]]
    similarities: list[dict[str, Any]]
    provenance: dict[str, Any]

    @property
    def failures(self) -> dict[str, str]:
        """Why a model has no or not all results, by name."""
        return {entry["name"]: entry["error"] for entry in self.entries if entry["error"]}

    def table(self) -> pd.DataFrame:
        """One row per model and protocol: per metric the headline at its best layer, that layer, the headline's name,
        and what the paper published for its models together (protocol `paper` only). None becomes NaN.

        The best layer is chosen after the fact, among more layers in deeper models.
        """
        import pandas as pd

        rows = []
        for entry in self.entries:
            for protocol in self.provenance["protocols"]:
                known = {key: entry[key] for key in ("name", "family", "variant")} | {"protocol": protocol}
                result = entry["results"].get(protocol)
                row = known | {"n": result and result["n"], "n_layers": result and result["n_layers"]}
                for headline in result["headlines"] if result else ():
                    name, statistic = headline["metric"], headline["statistic"]
                    row |= {
                        name: headline["value"],
                        f"{name}_layer": headline["layer"],
                        f"{name}_statistic": statistic,
                        f"{name}_published": PUBLISHED.get((name, statistic)) if protocol == "paper" else None,
                    }
                rows.append(row | {"error": entry["error"]})
        columns = dict.fromkeys(column for row in rows for column in row if column != "error")
        return pd.DataFrame(rows, columns=[*columns, "error"])

    def save(self, folder: str | Path) -> Path:
        """Write `folder/atlas.json` (never half of it); returns its path."""
        path = Path(folder) / "atlas.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = ("provenance", "entries", "similarities")
        content = {"schema_version": SCHEMA_VERSION, "kind": "atlas", **{part: getattr(self, part) for part in parts}}
        write_json(path, content)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Atlas:
        """Read an `atlas.json`, or the folder that holds one.

        Raises:
            DataError: not an atlas, or of another schema.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        path = path / "atlas.json" if path.is_dir() else path
        _, content = read_record(path, "atlas", SCHEMA_VERSION, checked_from=2)
        return cls(content["entries"], content["similarities"], content["provenance"])

    def summary(self) -> str:
        """Tables for the terminal: headlines per protocol, then the CKA of every pair."""
        lines = []
        for protocol in self.provenance["protocols"]:
            results = {entry["name"]: entry["results"].get(protocol) for entry in self.entries}
            names = dict.fromkeys(
                f"{h['metric']} {h['statistic']}" for result in results.values() if result for h in result["headlines"]
            )
            rows = [["model", *names]]
            for name, result in results.items():
                found = {f"{h['metric']} {h['statistic']}": _cell(h) for h in (result["headlines"] if result else ())}
                rows.append([name, *(found.get(column, "–") for column in names)])
            lines += [
                f"protocol {protocol}: each headline at its best layer, chosen after the fact",
                *_aligned(rows),
                "",
            ]
        rows = [["pair", "kind", "layers", "CKA median", "lowest", "highest", "raw median"]]
        for pair in self.similarities:
            prepared, raw = ([row[key] for row in pair["layers"] if row[key] is not None] for key in ("cka", "raw"))
            numbers = [median(prepared), min(prepared), max(prepared)] if prepared else [None] * 3
            numbers.append(median(raw) if raw else None)
            words = ["–" if number is None else f"{number:.3f}" for number in numbers]
            rows.append([f"{pair['a']} · {pair['b']}", pair["kind"], str(len(pair["layers"])), *words])
        compared = f"debiased linear CKA of the representations, protocol {self.provenance['compared']}"
        return "\n".join([*lines, *([compared, *_aligned(rows)] if self.similarities else [])])

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page (`atlas.html` in an existing folder); returns its path."""
        from sae_moral.report.atlas_page import write_atlas_report

        return write_atlas_report(self, Path(path))


def _cell(headline: dict[str, Any]) -> str:
    return "–" if headline["value"] is None else f"{headline['value']:.3f} ({headline['layer']})"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def summarise(record: Diagnosis) -> dict[str, Any]:
    """What an atlas keeps of a diagnosis: n, layers, warnings, headlines."""
    from sae_moral.report.version1 import Version1

    diagnosis = Version1(record)
    provenance = diagnosis.provenance
    return {
        "n": provenance["data"]["n"],
        "n_layers": provenance["model"]["n_layers"],
        "d_model": provenance["model"]["d_model"],
        "layers": provenance["layers"],
        "warnings": provenance["warnings"],
        "headlines": [_headline(diagnosis, metric, about) for metric, about in provenance["metrics"].items()],
    }


def _headline(diagnosis: Version1, metric: str, about: dict[str, Any]) -> dict[str, Any]:
    """A metric's headline: its best layer with the controls there, and its profile over the measured layers.

    The profile is the `overall` row, or the mean of all groups (None in a layer that lacks one of them).
    """
    import numpy as np

    from sae_moral.report.series import best_layer, headline_of, leading_group, lower_is_better, tracks_by_group

    controls = ("ci_low", "ci_high", "null_low", "null_high", "ceiling", "baseline")
    found = {
        "metric": metric,
        "statistic": headline_of(diagnosis.frame, metric, about) or about.get("headline"),
        "group": None,
        "chance": about.get("chance"),
        "lower_is_better": lower_is_better(about),
        **dict.fromkeys(("layer", "value", *controls)),
        "layers": diagnosis.provenance["layers"],
        "profile": [None] * len(diagnosis.provenance["layers"]),
    }
    if found["statistic"] is None or not (diagnosis.frame["metric"] == metric).any():
        return found
    tracks = {g: t for g, t in tracks_by_group(diagnosis.frame, metric, found["statistic"]).items() if t.filled}
    best = best_layer(tracks, about)
    if best is None:
        return found
    lead = leading_group(tracks)
    values = np.mean([track["value"] for group, track in tracks.items() if lead in (None, group)], axis=0)
    by_layer = dict(zip(next(iter(tracks.values())).layers.tolist(), values.tolist(), strict=True))
    profile = [by_layer.get(layer, np.nan) for layer in found["layers"]]
    return found | {
        "group": lead or f"mean of {len(tracks)} groups",
        "layer": best.layer,
        "value": best.value,
        **{name: best.row[name] for name in controls},
        "profile": [None if np.isnan(value) else value for value in profile],
    }
