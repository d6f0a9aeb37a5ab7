"""`Folder`: where an atlas keeps its results, and which of them still hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.atlas.plan import Entry, Plan
from sae_moral.atlas.result import summarise
from sae_moral.protocol import get_protocol

if TYPE_CHECKING:
    from sae_moral.capture import Representations
    from sae_moral.data import MoralData


@dataclass(frozen=True, eq=False)
class Folder:
    """The results of a plan on its data, below one folder.

    `NAME/PROTOCOL/` holds diagnosis.json, report.html, vectors.json (which stored row is which scenario's) and key.json
    (all that shaped them); `NAME/store` the vectors; `pairs/` the CKA of two models.
    """

    root: Path
    plan: Plan
    data: MoralData

    def of(self, entry: Entry, protocol: str) -> Path:
        """Folder of one result."""
        return self.root / entry.name / protocol

    def store(self, entry: Entry) -> Path:
        """Folder of one model's captured vectors."""
        return self.root / entry.name / "store"

    def scenarios(self, protocol: str) -> MoralData:
        """What a protocol measures: the data, or the plan's `limit` of them."""
        limit = self.plan.limit
        return self.data if limit is None else self.data.sample(limit, seed=get_protocol(protocol).seed)

    def key(self, entry: Entry, protocol: str) -> dict[str, Any]:
        """All that shapes a result, and its hash. A hub name stands for the weights behind it; of a folder the sizes
        and times of its files are part of the key."""
        from sae_moral import __version__
        from sae_moral.metrics import resolve_metrics

        chosen = get_protocol(protocol)
        shaped = {
            "model": entry.model,
            "files": _files(Path(entry.model)),
            "dtype": entry.dtype,
            "layers": entry.layers,
            "data": self.scenarios(protocol).sha256,
            "limit": self.plan.limit,
            "protocol": {**dataclasses.asdict(chosen), "preprocessing": list(chosen.preprocessing)},
            "metrics": [metric.name for metric in resolve_metrics(self.plan.metrics, chosen)],
            "controls": self.plan.controls,
            "sae_moral": __version__,
        }
        return {**shaped, "key": key_of(shaped)}

    def done(self, entry: Entry, protocol: str) -> bool:
        """Whether there is a result with today's key."""
        folder = self.of(entry, protocol)
        return read_json(folder / "key.json") == self.key(entry, protocol) and (folder / "diagnosis.json").exists()

    def result(self, entry: Entry, protocol: str) -> dict[str, Any]:
        """One result, as an atlas keeps it."""
        from sae_moral.diagnosis import Diagnosis

        folder = self.of(entry, protocol)
        diagnosis = Diagnosis.load(folder)
        report = (folder / "report.html").relative_to(self.root).as_posix()
        return {"report": report, "versions": diagnosis.provenance["versions"], **summarise(diagnosis)}

    def vectors(self, entry: Entry) -> Representations:
        """The captured vectors of the compared protocol, read from disk.

        Raises:
            FileNotFoundError: they were deleted, or never captured.
        """
        from sae_moral.capture.store import reopen

        return reopen(self.of(entry, self.plan.compared) / "vectors.json", self.store(entry))


def key_of(value: object) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def read_json(path: Path) -> Any:
    """The file's value; None where there is no such file, or not JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None


def _files(folder: Path) -> list[list[Any]] | None:
    if not folder.is_dir():
        return None
    files = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in files]
