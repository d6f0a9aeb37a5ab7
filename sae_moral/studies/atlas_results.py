"""What an atlas keeps: what came out for every model, how similar the models are, and from what. No vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from typing_extensions import NotRequired, TypedDict

from sae_moral.io import read_typed, record, write_text
from sae_moral.results import MEAN_OF_GROUPS, Peak, Profile, StatisticSpec
from sae_moral.shown import shown
from sae_moral.studies.plan import Entry

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
Loaded = TypeVar("Loaded", bound="AtlasRecord")
PUBLISHED: dict[tuple[str, str], str] = {
    ("categorical", "cosine"): "often above 0.5 in middle layers",
    ("gradient", "spearman"): "below 0.55",
    ("structural", "ari_polarity"): "about 0.5 at best",
    ("dimensional", "r2"): "at most 0.26, adjusted",
}
"""What arXiv 2603.15615 prints for its 23 models together, by metric and headline of the protocol `paper`."""
FURTHEST = 0.1
"""Layers further apart than this share of the depth are not compared."""
FEWEST = 4
"""A correlation over fewer layers is not computed."""


@shown()
@dataclass(frozen=True)
class AtlasResult:
    """What one protocol says of one model.

    Attributes:
        n: scenarios.
        n_layers, d_model: of the model.
        layers: the measured ones, ascending.
        report: the page of the diagnosis, relative to the atlas.
        headlines: what each metric declares of its headline.
        profiles, peaks: as in the diagnosis; a metric without any value has none.
        warnings: of the diagnosis.
        versions: of the libraries that made it.
    """

    n: int
    n_layers: int
    d_model: int
    layers: tuple[int, ...]
    report: str
    headlines: dict[str, StatisticSpec]
    profiles: dict[str, Profile]
    peaks: dict[str, Peak]
    warnings: list[str]
    versions: dict[str, str]


@shown()
@dataclass(frozen=True)
class AtlasEntry(Entry):
    """One model of the plan and what came out.

    Attributes:
        error: why there are no or not all results; None where there are.
        results: by protocol.
    """

    error: str | None
    results: dict[str, AtlasResult]


@shown()
@dataclass(frozen=True)
class LayerSimilarity:
    """Debiased linear CKA of two layers with 95 % intervals; None where a representation does not vary.

    Attributes:
        layer_a, layer_b: which layers.
        cka, cka_low, cka_high: of vectors prepared as the protocol says.
        raw, raw_low, raw_high: of vectors as captured.
    """

    layer_a: int
    layer_b: int
    cka: float | None
    cka_low: float | None
    cka_high: float | None
    raw: float | None
    raw_low: float | None
    raw_high: float | None


@shown()
@dataclass(frozen=True)
class ProfileCorrelation:
    """How a headline's profiles of two models run together over their matched layers.

    Attributes:
        protocol, metric, statistic: of which headline.
        layers: how many layers have a value in both.
        spearman, pearson: None over fewer than `FEWEST` layers and where a profile is constant.
        mean_difference: of b − a, which no correlation shows; None without layers.
    """

    protocol: str
    metric: str
    statistic: str
    layers: int
    spearman: float | None
    pearson: float | None
    mean_difference: float | None


@shown()
@dataclass(frozen=True)
class PairSimilarity:
    """How similar two models are.

    Attributes:
        a, b: names of the entries.
        kind: variants of one family, or two unrelated models.
        family: of variants.
        protocol: whose representations are compared.
        n_texts: distinct texts they are compared on.
        depths: blocks of a and of b.
        layers: CKA by layer; empty with an `error`.
        profiles: of every headline that both have.
        error: why the representations could not be compared.
    """

    a: str
    b: str
    kind: Literal["variants", "baseline"]
    family: str | None
    protocol: str
    n_texts: int
    depths: tuple[int, int]
    layers: list[LayerSimilarity]
    profiles: list[ProfileCorrelation]
    error: str | None

    def median(self, name: Literal["cka", "raw"]) -> float | None:
        """The median over the layers; None where no layer has a value."""
        values = [value for row in self.layers if (value := getattr(row, name)) is not None]
        return median(values) if values else None


class AtlasProvenance(TypedDict):
    """From what an atlas was made; `data` differs from source to source."""

    data: dict[str, Any]
    protocols: list[str]
    compared: str
    preprocessing: list[str]
    metrics: list[str] | None
    limit: int | None
    controls: str | None
    versions: dict[str, str]
    created: str
    migrated_from: NotRequired[int]


@shown()
@dataclass(frozen=True, eq=False)
class AtlasRecord:
    """Many models, measured alike: what its file holds, and what its page shows.

    Attributes:
        entries: one per model of the plan.
        similarities: one per compared pair.
        provenance: data, protocols, library versions.
    """

    entries: list[AtlasEntry]
    similarities: list[PairSimilarity]
    provenance: AtlasProvenance

    @property
    def failures(self) -> dict[str, str]:
        """Why a model has no or not all results, by name."""
        return {entry.name: entry.error for entry in self.entries if entry.error}

    def headlines(self, protocol: str) -> list[tuple[str, StatisticSpec]]:
        """Metric and headline of everything that was measured under a protocol."""
        results = [entry.results[protocol] for entry in self.entries if protocol in entry.results]
        return list({(m, spec.name): (m, spec) for one in results for m, spec in one.headlines.items()}.values())

    def table(self) -> pd.DataFrame:
        """One row per model and protocol: per metric the headline at its best layer, that layer, the headline's name,
        and what the paper published for its models together (protocol `paper` only). None becomes NaN.

        The best layer is chosen after the fact, among more layers in deeper models.
        """
        import pandas as pd

        rows = []
        for entry in self.entries:
            for protocol in self.provenance["protocols"]:
                result = entry.results.get(protocol)
                row: dict[str, Any] = {"name": entry.name, "family": entry.family, "variant": entry.variant}
                row |= {"protocol": protocol, "n": result and result.n, "n_layers": result and result.n_layers}
                for metric, spec in result.headlines.items() if result else ():
                    peak = result.peaks.get(metric) if result else None
                    row |= {
                        metric: peak and peak.value,
                        f"{metric}_layer": peak and peak.layer,
                        f"{metric}_statistic": spec.name,
                        f"{metric}_published": PUBLISHED.get((metric, spec.name)) if protocol == "paper" else None,
                    }
                rows.append(row | {"error": entry.error})
        columns = dict.fromkeys(column for row in rows for column in row if column != "error")
        return pd.DataFrame(rows, columns=[*columns, "error"])

    def to_text(self) -> str:
        """The text of its file: a record of kind `atlas`."""
        parts = ("provenance", "entries", "similarities")
        return record("atlas", SCHEMA_VERSION, {part: getattr(self, part) for part in parts})

    def save(self, folder: str | Path) -> Path:
        """Write `folder/atlas.json` (never a part of it); returns its path."""
        path = Path(folder) / "atlas.json"
        write_text(path, self.to_text())
        return path

    @classmethod
    def load(cls: type[Loaded], path: str | Path) -> Loaded:
        """Read an `atlas.json`, or the folder that holds one; files of every older version load.

        Raises:
            DataError: not an atlas, damaged, or of a newer schema; names file and place.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        path = path / "atlas.json" if path.is_dir() else path
        content = read_typed(path, _Content, "atlas", SCHEMA_VERSION, checked_from=2, migrate=_migrated)
        return cls(content.entries, content.similarities, content.provenance)


def matched_layers(a: Sequence[int], depth_a: int, b: Sequence[int], depth_b: int) -> list[tuple[int, int]]:
    """Which measured layer of one model is compared with which of another.

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


def profile_correlations(a: AtlasResult, b: AtlasResult, protocol: str) -> list[ProfileCorrelation]:
    """Of every headline that two results of a protocol share: how its profiles run together over matched layers.

    Neighbouring layers are not independent, and profiles are smooth over the depth of any model, so that two of them
    correlate easily: there is no p value.
    """
    import numpy as np
    from scipy.stats import pearsonr, spearmanr

    matched = matched_layers(a.layers, a.n_layers, b.layers, b.n_layers)
    found = []
    for metric, spec in a.headlines.items():
        if metric not in b.headlines or b.headlines[metric].name != spec.name:
            continue
        first, second = (_by_layer(one.profiles.get(metric)) for one in (a, b))
        pairs = [(first.get(layer), second.get(other)) for layer, other in matched]
        x, y = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2).T
        enough = len(x) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0
        spearman, pearson = (
            (float(_statistic(spearmanr(x, y))), float(_statistic(pearsonr(x, y)))) if enough else (None, None)
        )
        difference = float((y - x).mean()) if len(x) else None
        found.append(ProfileCorrelation(protocol, metric, spec.name, len(x), spearman, pearson, difference))
    return found


def _statistic(found: Any) -> float:
    return found.statistic


def _by_layer(profile: Profile | None) -> dict[int, float | None]:
    return {} if profile is None else dict(zip(profile.layers, profile.values, strict=True))


@dataclass(frozen=True)
class _Content:
    provenance: AtlasProvenance
    entries: list[AtlasEntry]
    similarities: list[PairSimilarity]


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 (sae_moral 0.1) as schema 2."""
    entries = [
        {**entry, "results": {protocol: _old_result(result) for protocol, result in entry["results"].items()}}
        for entry in content["entries"]
    ]
    return {**content, "entries": entries, "provenance": {**content["provenance"], "migrated_from": version}}


def _old_result(result: dict[str, Any]) -> dict[str, Any]:
    """A result whose headlines had their best layer and their profile in one place.

    Its null bands were those of one layer, not of the most extreme one: they are left out.
    """
    kept = {name: value for name, value in result.items() if name != "headlines"}
    headlines: dict[str, StatisticSpec] = {}
    profiles: dict[str, Profile] = {}
    peaks: dict[str, Peak] = {}
    for old in result["headlines"]:
        metric, statistic, values = old["metric"], old["statistic"], tuple(old["profile"])
        if statistic is None:
            continue
        direction = "lower" if old["lower_is_better"] else "higher"
        headlines[metric] = StatisticSpec(statistic, direction, chance=old["chance"])
        if old["layer"] is None:
            continue
        group = MEAN_OF_GROUPS if old["group"].startswith("mean of") else old["group"]
        nothing = (None,) * len(values)
        profiles[metric] = Profile(metric, statistic, group, tuple(old["layers"]), values, nothing, nothing)
        peaks[metric] = Peak(
            metric,
            statistic,
            group,
            old["layer"],
            old["value"],
            sum(value is not None for value in values),
            **{name: old[name] for name in ("ci_low", "ci_high", "ceiling")},
        )
    return {**kept, "headlines": headlines, "profiles": profiles, "peaks": peaks}
