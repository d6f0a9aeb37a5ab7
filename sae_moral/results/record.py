"""What a diagnosis file holds: computed once, kept typed, saved and loaded here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from sae_moral.io import read_typed, record, write_text
from sae_moral.results.migration import migrated
from sae_moral.results.types import (
    Baseline,
    Comparison,
    LearningCurve,
    MetricCard,
    Peak,
    Profile,
    Provenance,
    Regrouped,
    Row,
    Verdict,
)
from sae_moral.shown import shown

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 3
Loaded = TypeVar("Loaded", bound="DiagnosisRecord")


@shown()
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
        regrouped: headlines with other records held together; none without controls, or where it changes nothing.
        learning_curves: of each peak, by metric; empty unless asked for.
    """

    rows: list[Row]
    metrics: dict[str, MetricCard]
    profiles: dict[str, Profile]
    peaks: dict[str, Peak]
    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    baselines: dict[str, Baseline]
    provenance: Provenance
    regrouped: list[Regrouped] = field(default_factory=list)
    learning_curves: dict[str, LearningCurve] = field(default_factory=dict)

    FILE: ClassVar[str] = "diagnosis.json"

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a tidy table, one column per attribute of `Row`; None becomes NaN."""
        import pandas as pd

        columns = [field.name for field in dataclasses.fields(Row)]
        frame = pd.DataFrame([dataclasses.asdict(row) for row in self.rows], columns=columns)
        words = ("metric", "statistic", "layer", "group", "headline")
        return frame.astype(dict.fromkeys([name for name in columns if name not in words], float))

    def to_text(self) -> str:
        """The text of its file: a record of kind `diagnosis`."""
        names = [one.name for one in dataclasses.fields(_Content)]
        content = {name: self.rows if name == "results" else getattr(self, name) for name in names}
        return record("diagnosis", SCHEMA_VERSION, content)

    def save(self, folder: str | Path) -> Path:
        """Write `folder/diagnosis.json` (never a part of it); returns its path."""
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
        content = vars(read_typed(path, _Content, "diagnosis", SCHEMA_VERSION, checked_from=2, migrate=migrated))
        return cls(rows=content.pop("results"), **content)


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
    regrouped: list[Regrouped] = field(default_factory=list)
    learning_curves: dict[str, LearningCurve] = field(default_factory=dict)
