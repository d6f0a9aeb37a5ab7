"""What measurements leave behind, as types: computed once, kept typed, saved and loaded here.

Nothing is computed here but what follows from one definition for everybody: which group stands for a statistic
(`leading_groups`), and which layer is its best (`best_layer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Float
from typing_extensions import NotRequired, TypedDict

from sae_moral.io import read_typed, record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
OVERALL = "overall"
MEAN_OF_GROUPS = "mean of groups"
Loaded = TypeVar("Loaded", bound="DiagnosisRecord")
Direction = Literal["higher", "lower"]
"""The side of its null on which a statistic lies where a model is not indifferent."""


@dataclass(frozen=True)
class StatisticSpec:
    """What a metric declares of one of its statistics.

    Attributes:
        name: of the statistic.
        direction: `higher` or `lower` is less indifferent; None: neither, so that tests are two-sided.
        null: what labels are permuted within, a scheme of `sae_moral.controls.draws.SCHEMES`; None for a statistic that
            does not depend on labels.
        interval: how its interval is made, a kind of `sae_moral.controls.inference.INTERVALS`.
        chance: its value without information; None where that is not one number.
    """

    name: str
    direction: Direction | None = None
    null: str | None = "all"
    interval: str = "resampled"
    chance: float | None = None


@dataclass(frozen=True)
class MetricCard:
    """What a metric says of itself.

    Attributes:
        name: of the metric.
        headline: the statistic that stands for it.
        statistics: one declaration each, by name; a headline is always among them.
        means, does_not_prove: sentences.
        parameters: everything else that shaped its numbers. JSON values.
    """

    name: str
    headline: str
    statistics: dict[str, StatisticSpec]
    means: str = ""
    does_not_prove: str = ""
    parameters: dict[str, Any] | None = None

    @property
    def spec(self) -> StatisticSpec:
        """The headline's declaration."""
        return self.statistics[self.headline]


@dataclass(frozen=True)
class Row:
    """One number of one layer with its controls; what was not computed is None.

    Attributes:
        metric, statistic, layer, group: which number; the group is a foundation, a dimension, or `overall`.
        value: the number.
        ci_low, ci_high: its interval.
        null_low, null_high: band of permuted labels at this layer.
        p_value: against permuted labels, corrected for the choice of the best layer.
        ceiling: what the noise of the labels leaves to be reached.
        baseline: the bag of words' value.
        n, n_dropped: scenarios it rests on, and could not use.
        headline: whether the statistic is its metric's headline.
    """

    metric: str
    statistic: str
    layer: int
    group: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    ceiling: float | None = None
    baseline: float | None = None
    n: int | None = None
    n_dropped: int | None = None
    headline: bool = False


@dataclass(frozen=True)
class Profile:
    """A headline over the layers.

    Attributes:
        metric, statistic: what it is of.
        group: `overall`, the only group, or `mean of groups` (unweighted; None at a layer that lacks one of them).
        layers: numbers, ascending; empty for a baseline without layers, whose one value then stands alone.
        values, ci_low, ci_high: one each per layer.
    """

    metric: str
    statistic: str
    group: str
    layers: tuple[int, ...]
    values: tuple[float | None, ...]
    ci_low: tuple[float | None, ...]
    ci_high: tuple[float | None, ...]


@dataclass(frozen=True)
class Peak:
    """The layer at which a headline is least indifferent, chosen after the fact among `n_layers`.

    Attributes:
        metric, statistic, group: as in its `Profile`.
        layer, value: where, and how much.
        n_layers: how many layers competed.
        ci_low, ci_high: interval at that layer; the choice of the layer is not in it.
        null_low, null_high: band of the most extreme layer of every permutation.
        p_value: against the most extreme layer of every permutation.
        p_value_any_length: the same, where labels moved between texts of any length.
        ceiling: of the `overall` row.
        control_task: what the same reader scores on labels drawn at random for each opening word.
        selectivity: value − control_task.
    """

    metric: str
    statistic: str
    group: str
    layer: int
    value: float
    n_layers: int
    ci_low: float | None = None
    ci_high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    p_value_any_length: float | None = None
    ceiling: float | None = None
    control_task: float | None = None
    selectivity: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A model's peak against a baseline's.

    Attributes:
        metric, statistic, against: what is compared, and with which baseline.
        layer, value: the model's peak.
        against_layer, against_value: the baseline's; its layer is None where it has none.
        difference: value − against_value.
        ci_low, ci_high, p_value: of the difference, p for the model lying further from indifference; None where
            resamples are missing.
    """

    metric: str
    statistic: str
    against: str
    layer: int
    value: float
    against_layer: int | None
    against_value: float
    difference: float
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a metric's controls say together.

    Attributes:
        metric: of which metric.
        word: one of `sae_moral.controls.verdict.WORDS`.
        sentence: why.
    """

    metric: str
    word: str
    sentence: str


@dataclass(frozen=True)
class Baseline:
    """Another representation in the model's place: its name, and a profile per metric, by the metric's name."""

    name: str
    profiles: dict[str, Profile]


class ModelFacts(TypedDict):
    """Which model it is (`sae_moral.provenance.describe_model`)."""

    name: str
    revision: str | None
    identity: str
    dtype: str
    wrapper: str
    weight_processing: str
    attached_saes: list[str]
    n_layers: int
    d_model: int


class ControlFacts(TypedDict):
    """Which controls were run, and how."""

    names: list[str]
    level: float
    alpha: float
    seed: int
    resamples: int | None
    permutations: int | None
    control_tasks: int | None
    monte_carlo: dict[str, float]
    stratum: int | None
    labels_that_cannot_move: dict[str, float]
    explained_by_nuisance: dict[str, list[float]]
    seconds: dict[str, float]


class Provenance(TypedDict):
    """All that shaped a diagnosis. JSON values; `extra` of `data` and `capture` differ from source to source."""

    model: ModelFacts
    data: dict[str, Any]
    protocol: dict[str, Any]
    layers: list[int]
    saes: dict[str, Any] | None
    capture: dict[str, Any]
    preprocessing: dict[str, list[float]]
    controls: ControlFacts | None
    prototypes: dict[str, dict[str, float]] | None
    ceilings: dict[str, dict[str, Any] | None]
    seed: int
    versions: dict[str, str]
    created: str
    seconds: dict[str, float]
    warnings: list[str]
    migrated_from: NotRequired[int]


@dataclass(frozen=True, eq=False)
class DiagnosisRecord:
    """Metrics × layers with their controls: what a diagnosis file holds, and what reports draw.

    Attributes:
        rows: one per metric, statistic, layer and group.
        metrics: what each metric says of itself, by name, in the order asked for.
        profiles, peaks, verdicts: per metric, by name; a metric without any value has no profile and no peak, and one
            without permuted labels the verdict `not tested` (none at all without controls).
        comparisons: of peaks with baselines.
        baselines: by name.
        provenance: model, data, protocol, capture, preprocessing, controls, warnings, seeds, versions, time taken.
    """

    rows: list[Row]
    metrics: dict[str, MetricCard]
    profiles: dict[str, Profile]
    peaks: dict[str, Peak]
    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    baselines: dict[str, Baseline]
    provenance: Provenance

    FILE: ClassVar[str] = "diagnosis.json"

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a tidy table, one column per attribute of `Row`; None becomes NaN."""
        import dataclasses

        import pandas as pd

        columns = [field.name for field in dataclasses.fields(Row)]
        frame = pd.DataFrame([dataclasses.asdict(row) for row in self.rows], columns=columns)
        words = ("metric", "statistic", "layer", "group", "headline")
        return frame.astype(dict.fromkeys([name for name in columns if name not in words], float))

    def to_text(self) -> str:
        """The text of its file: a record of kind `diagnosis`."""
        content = {
            "provenance": self.provenance,
            "metrics": self.metrics,
            "results": self.rows,
            "profiles": self.profiles,
            "peaks": self.peaks,
            "verdicts": self.verdicts,
            "comparisons": self.comparisons,
            "baselines": self.baselines,
        }
        return record("diagnosis", SCHEMA_VERSION, content)

    def save(self, folder: str | Path) -> Path:
        """Write `folder/diagnosis.json` (never a part of it); returns its path."""
        from sae_moral.io import write_text

        path = Path(folder) / self.FILE
        write_text(path, self.to_text())
        return path

    @classmethod
    def load(cls: type[Loaded], path: str | Path) -> Loaded:
        """Read a `diagnosis.json`, or the folder that holds one; files of every older version load.

        Raises:
            DataError: not a diagnosis, damaged, or of a newer schema; names file and place.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        path = path / cls.FILE if path.is_dir() else path
        content = read_typed(path, _Content, "diagnosis", SCHEMA_VERSION, checked_from=2, migrate=_migrated)
        return cls(rows=content.results, **{name: getattr(content, name) for name in _NAMES})


@dataclass(frozen=True)
class _Content:
    """The content of a file, under its names there."""

    provenance: Provenance
    metrics: dict[str, MetricCard]
    results: list[Row]
    profiles: dict[str, Profile]
    peaks: dict[str, Peak]
    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    baselines: dict[str, Baseline]


_NAMES = ("provenance", "metrics", "profiles", "peaks", "verdicts", "comparisons", "baselines")


def leading_groups(groups: Sequence[str]) -> tuple[str, list[str]]:
    """What stands for a statistic that has values in these groups: its name, and the groups it is the mean of."""
    if OVERALL in groups:
        return OVERALL, [OVERALL]
    return (groups[0], list(groups)) if len(groups) == 1 else (MEAN_OF_GROUPS, list(groups))


def best_layer(values: Float[np.ndarray, "layers"], direction: Direction | None) -> int | None:
    """Position of the value furthest from indifference (the first of equals, the highest without a direction); NaN
    takes no part. None where there is no value."""
    if not np.isfinite(values).any():
        return None
    return int(np.nanargmax(-values if direction == "lower" else values))


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    raise DataError(f"schema version {version}")
