"""`atlas`: the models of a plan, one in memory at a time, each result kept until something that shaped it changes."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sae_moral.atlas.compare import missing_pairs, similarities
from sae_moral.atlas.folder import Folder
from sae_moral.atlas.plan import Entry, Plan, read_plan
from sae_moral.atlas.result import Atlas
from sae_moral.io import write_json, write_text
from sae_moral.protocol import get_protocol


def atlas(
    plan: Plan | str | Path,
    out: str | Path,
    *,
    device: str | None = None,
    delete_stores: bool = False,
    progress: bool | None = None,
) -> Atlas:
    """Diagnose many models and compare the variants of each family, layer by layer.

    Every model is loaded once. Its results are kept below `out` (see `Folder`) as soon as they are there, so that a
    second run takes up what a first one left: a result with the same key is not measured again, and a model that failed
    is tried again.

    Args:
        plan: a YAML file (see `read_plan`) or a `Plan`.
        out: folder for the results; `out/atlas.json` is written at the end.
        device: cpu, cuda, …; by default CUDA when there is one.
        delete_stores: delete the captured vectors once they have been compared (4 bytes × texts × layers × width per
            model and protocol); a model that is compared with a new one later is then captured again.
        progress: progress bars; by default only on a terminal.

    Returns:
        The atlas. A model that could not be loaded or measured is in it with its `error`; the others go on.

    Raises:
        DataError: a plan or data that cannot be read.
        ValueError: an unknown source or metric.
    """
    from tqdm import tqdm

    from sae_moral.data import load_data

    plan = plan if isinstance(plan, Plan) else read_plan(plan)
    folder = Folder(Path(out), plan, load_data(plan.data, path=plan.path))
    for protocol in plan.protocols:
        folder.key(plan.entries[0], protocol)  # an unknown metric is found before the first model is loaded
    measure = _Measure(folder, device, delete_stores, progress)
    bar = tqdm(plan.entries, desc="atlas", unit="model", disable=None if progress is None else not progress)
    entries = [measure(entry) for entry in bar]
    found = Atlas(entries, similarities(folder, entries, device), _provenance(folder, entries))
    found.save(folder.root)
    if delete_stores:
        for entry in plan.entries:
            shutil.rmtree(folder.store(entry), ignore_errors=True)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Measure:
    """Makes what is missing of one model's results, and says what there is."""

    folder: Folder
    device: str | None
    delete_stores: bool
    progress: bool | None

    def __call__(self, entry: Entry) -> dict[str, Any]:
        error, note = None, self.folder.root / entry.name / "error.txt"
        try:
            self._measure(entry)
            note.unlink(missing_ok=True)
        # Whatever is wrong with one model, a night's work on the others goes on.
        except Exception as problem:
            error = str(problem) if isinstance(problem, _LoadError) else f"could not be measured: {_words(problem)}"
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text(note, traceback.format_exc())
        _free_memory()
        protocols = self.folder.plan.protocols
        found = {p: self.folder.result(entry, p) for p in protocols if self.folder.done(entry, p)}
        return {**dataclasses.asdict(entry), "error": error, "results": found}

    def _measure(self, entry: Entry) -> None:
        from sae_moral.capture import load_model

        plan = self.folder.plan
        todo = [protocol for protocol in plan.protocols if not self.folder.done(entry, protocol)]
        deleted = plan.compared not in todo and self._lacks_vectors(entry)
        if not todo and not deleted:
            return
        try:
            model = load_model(entry.model, dtype=entry.dtype, device=self.device)
        except Exception as problem:
            raise _LoadError(f"could not be loaded: {_words(problem)}") from problem
        if deleted:
            self._capture(model, entry, plan.compared)
        for protocol in todo:
            self._diagnose(model, entry, protocol)

    def _lacks_vectors(self, entry: Entry) -> bool:
        """Whether vectors that a comparison still needs were deleted."""
        if not any(entry in pair for pair in missing_pairs(self.folder)):
            return False
        try:
            self.folder.vectors(entry)
        except FileNotFoundError:
            return True
        return False

    def _capture(self, model: Any, entry: Entry, protocol: str) -> str:
        """Vectors of one protocol to the store; returns the store's key."""
        from sae_moral.capture import capture
        from sae_moral.capture.store import save_index
        from sae_moral.protocol import parse_layers

        chosen, folder = get_protocol(protocol), self.folder.of(entry, protocol)
        captured = capture(
            model,
            self.folder.scenarios(protocol).text,
            layers=parse_layers(entry.layers, model.cfg.n_layers),
            template=chosen.template,
            pooling=chosen.pooling,
            bos=chosen.bos,
            store=self.folder.store(entry),
            progress=self.progress,
        )
        folder.mkdir(parents=True, exist_ok=True)
        save_index(captured, folder / "vectors.json")
        return captured.provenance["store"]

    def _diagnose(self, model: Any, entry: Entry, protocol: str) -> None:
        from sae_moral.diagnosis import diagnose

        folder, plan = self.folder.of(entry, protocol), self.folder.plan
        # First of all: a result never stands beside a key that is not its own.
        (folder / "key.json").unlink(missing_ok=True)
        store = self._capture(model, entry, protocol)
        controls: dict[str, Any] = {} if plan.controls is None else {"controls": plan.controls}
        diagnosis = diagnose(
            model,
            self.folder.scenarios(protocol),
            protocol=protocol,
            metrics=plan.metrics,
            layers=entry.layers,
            store=self.folder.store(entry),
            progress=self.progress,
            **controls,
        )
        diagnosis.report(folder / "report.html")
        diagnosis.save(folder)
        write_json(folder / "key.json", self.folder.key(entry, protocol))
        if self.delete_stores and protocol != plan.compared:
            shutil.rmtree(self.folder.store(entry) / store, ignore_errors=True)


class _LoadError(RuntimeError):
    """A model that could not be loaded, as opposed to one that could not be measured."""


def _words(problem: Exception) -> str:
    # The message of a KeyError alone is a bare word.
    named = isinstance(problem, (ValueError, OSError, ImportError)) and str(problem)
    return str(problem) if named else f"{type(problem).__name__}: {problem}"


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _provenance(folder: Folder, entries: list[dict[str, Any]]) -> dict[str, Any]:
    plan, data = folder.plan, folder.scenarios(folder.plan.compared)
    results = [result for entry in entries for result in entry["results"].values()]
    return {
        "data": {
            **data.provenance,
            "n": len(data),
            "n_texts": len(set(data.group.tolist())),
            "sha256": data.sha256,
        },
        "protocols": list(plan.protocols),
        "compared": plan.compared,
        "preprocessing": list(get_protocol(plan.compared).preprocessing),
        "metrics": None if plan.metrics is None else list(plan.metrics),
        "limit": plan.limit,
        "controls": plan.controls,
        "versions": results[0]["versions"] if results else {},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
