"""`atlas`: diagnose many models and compare the variants of each family, as one study."""

from __future__ import annotations

import dataclasses
import shutil
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from sae_moral import __version__
from sae_moral.data.groups import is_kind
from sae_moral.io import check_claim, claim, locked, typed, write_text, write_together
from sae_moral.protocol import get_protocol, parse_layers
from sae_moral.studies.atlas_page import Atlas, render_atlas
from sae_moral.studies.atlas_results import (
    AtlasEntry,
    AtlasProvenance,
    AtlasResult,
    LayerSimilarity,
    PairSimilarity,
    matched_layers,
    profile_correlations,
)
from sae_moral.studies.cka import layer_similarities
from sae_moral.studies.plan import Entry, Plan, baseline_pairs, read_plan, variant_pairs
from sae_moral.studies.shape import shape_of_diagnosis
from sae_moral.studies.study import Assembly, Cell, Done, Study
from sae_moral.studies.weights import Checksums, LoadError, OneModel, explained, source_of
from sae_moral.workers import workers as beside

if TYPE_CHECKING:
    from jaxtyping import Int

    from sae_moral.capture import Representations
    from sae_moral.data import MoralData
    from sae_moral.provenance import HookedModel

FILES = ("atlas.json", "atlas.html")


def atlas(
    plan: Plan | str | Path,
    out: str | Path,
    *,
    device: str | None = None,
    delete_stores: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Atlas:
    """Diagnose many models and compare the variants of each family, layer by layer.

    One model is in memory at a time. Results are cells of a `Study` below `out`: a second run goes on where a first one
    ended, several can share the folder, and a model that failed is tried again. A result is found again by the identity
    of its model and everything else that shaped it, so a changed model never keeps old numbers.

    Args:
        plan: a YAML file (see `read_plan`) or a `Plan`.
        out: folder for the results; `atlas.json` and `atlas.html` are written at the end.
        device: cpu, cuda, …; by default CUDA when there is one.
        delete_stores: delete the captured vectors once they have been compared (4 bytes × texts × layers × width per
            model and protocol); a model that is compared with a new one later is then captured again.
        workers: processes on this machine that share the work; each loads the model, and has a GPU or its share of the
            threads.
        overwrite: write to `out` even if it holds something else.
        progress: progress bars; by default only on a terminal.

    Returns:
        The atlas. A model that could not be loaded or measured is in it with its `error`; the others go on.

    Raises:
        DataError: a plan or data that cannot be read.
        FolderError: `out` holds something else.
        ValueError: an unknown source, metric or control.
    """
    from sae_moral.data import load_data

    plan = plan if isinstance(plan, Plan) else read_plan(plan)
    column = None if is_kind(plan.groups) else plan.groups
    data = load_data(plan.data, path=plan.path, groups=column)
    run = _Run(Path(out), plan, data, device, delete_stores, progress)
    if not overwrite:
        check_claim(out, "atlas", {}, files=FILES)
    with locked(out, wait=True):
        claim(out, "atlas", {}, files=FILES, overwrite=overwrite)
    assembly = Assembly(out)
    same = partial(atlas, plan, out, device=device, delete_stores=delete_stores, progress=False)
    with beside(workers, same, logs=Path(out) / "workers", device=device):
        entries = run.entries()
        found = Atlas(entries, run.similarities(entries), run.provenance(entries))

        def write() -> None:
            with locked(out, wait=True):
                write_together(out, dict(zip(FILES, (found.to_text(), render_atlas(found, Path(out))), strict=True)))
                if delete_stores:
                    shutil.rmtree(run.store, ignore_errors=True)

        assembly.make([found.entries, found.similarities], write)
    return found


class _Run:
    """A plan on its data below a folder: which cells it has, and their work."""

    def __init__(
        self, out: Path, plan: Plan, data: MoralData, device: str | None, delete_stores: bool, progress: bool | None
    ) -> None:
        self.out, self.plan, self.device, self.delete_stores, self.progress = out, plan, device, delete_stores, progress
        self.store = out / "store"
        self.models, self.checksums = OneModel(device), Checksums(out / "checksums.json")
        seeds = {name: get_protocol(name).seed for name in plan.protocols}
        drawn = {n: data if plan.limit is None else data.sample(plan.limit, seed=s) for n, s in seeds.items()}
        self.data = {
            name: own.regrouped(plan.groups) if is_kind(plan.groups) else own.held_by(get_protocol(name).groups)
            for name, own in drawn.items()
        }
        self.options: dict[str, Any] = {"metrics": plan.metrics}
        if plan.controls is not None:
            self.options["controls"] = plan.controls
        # An unknown metric or control is found here, before the first model is loaded.
        self.shape = {name: shape_of_diagnosis(self.data[name], protocol=name, **self.options) for name in seeds}
        self._facts: dict[str, dict[str, Any]] = {}
        self._sources: dict[str, dict[str, Any] | None] = {}

    def entries(self) -> list[AtlasEntry]:
        """What there is of every model, made if it is missing. What another worker is making is waited for last."""
        found: dict[str, AtlasEntry] = {}
        for wait in (False, True):
            left = [entry for entry in self.plan.entries if entry.name not in found]
            hidden = None if self.progress is None else not self.progress
            for entry in tqdm(left, desc="atlas", unit="model", disable=hidden if left else True):
                if (measured := self._entry(entry, wait)) is not None:
                    found[entry.name] = measured
        self.models.free()
        return [found[entry.name] for entry in self.plan.entries]

    def _entry(self, entry: Entry, wait: bool) -> AtlasEntry | None:
        """One model's results, and why there are not all of them; None where another worker is at one."""
        note, done, problem = self.out / "errors" / f"{entry.name}.txt", [], None
        try:
            cells = self._cells(entry, wait)
            if cells is None:
                return None
            done = Study(self.out, "atlas-diagnosis").run(cells, keep_going=(Exception,), wait=wait)
            problem = next((one.error for one in done if one.error is not None), None)
            if problem is None and len(done) < len(cells):
                return None
        # Whatever is wrong with one model, a night's work on the others goes on.
        except Exception as error:
            problem = error
        if problem is None:
            note.unlink(missing_ok=True)
        else:
            write_text(note, "".join(traceback.format_exception(problem)))
            _forget_frames(problem)
        results = {
            one.cell.shaped_by["protocol"]["name"]: _result(one.value, one.folder, self.out)
            for one in done
            if one.folder is not None
        }
        return AtlasEntry(**dataclasses.asdict(entry), error=_words(problem), results=results)

    def _cells(self, entry: Entry, wait: bool) -> list[Cell] | None:
        """A cell per protocol; None where another worker is loading the model."""
        source = source_of(entry.model, self.checksums, entry.revision)
        facts = self._described(entry, source, wait)
        if facts is None:
            return None
        self._sources[entry.name], self._facts[entry.name] = source, facts
        layers = parse_layers(entry.layers, facts["n_layers"])
        return [
            Cell(
                f"{entry.name}-{protocol}",
                {"model": facts["identity"], "layers": layers, **self.shape[protocol]},
                lambda folder, protocol=protocol: self._diagnose(entry, protocol, folder),
            )
            for protocol in self.plan.protocols
        ]

    def _described(self, entry: Entry, source: dict[str, Any] | None, wait: bool) -> dict[str, Any] | None:
        """What `describe_model` says of an entry's model, loaded only where its weights were never seen."""
        from sae_moral.provenance import describe_model, versions

        if source is None:
            return dict(describe_model(self.models(entry.model, entry.dtype, None, entry.revision)))

        def work(folder: Path) -> dict[str, Any]:
            facts = dict(describe_model(self.models(entry.model, entry.dtype, source, entry.revision)))
            if source_of(entry.model, self.checksums, entry.revision) != source:
                raise LoadError(f"could not be loaded: {entry.model} was changed meanwhile; run again")
            return facts

        cell = Cell(entry.name, {"source": source, "dtype": entry.dtype, "versions": versions()}, work)
        done = Study(self.out, "atlas-model").run([cell], wait=wait)
        return done[0].value if done else None

    def _model(self, entry: Entry) -> HookedModel:
        return self.models(entry.model, entry.dtype, self._sources[entry.name], entry.revision)

    def _diagnose(self, entry: Entry, protocol: str, folder: Path) -> dict[str, Any]:
        """The work of a cell: an `AtlasResult` without its report's place."""
        from sae_moral.capture.store import save_index
        from sae_moral.diagnosis import diagnose

        captured = self._capture(entry, protocol)
        save_index(captured, folder / "vectors.json")
        diagnosis = diagnose(
            self._model(entry),
            self.data[protocol],
            protocol=protocol,
            layers=entry.layers,
            store=self.store,
            progress=self.progress,
            **self.options,
        )
        model = diagnosis.provenance["model"]
        if model["identity"] != self._facts[entry.name]["identity"]:
            raise LoadError("could not be loaded: its weights are not those that were there before; run again")
        diagnosis.report(folder / "report.html")
        diagnosis.save(folder)
        if self.delete_stores and protocol != self.plan.compared:
            shutil.rmtree(self.store / captured.provenance["store"], ignore_errors=True)
        return {
            "n": diagnosis.provenance["data"]["n"],
            "n_layers": model["n_layers"],
            "d_model": model["d_model"],
            "layers": diagnosis.provenance["layers"],
            "headlines": {name: card.spec for name, card in diagnosis.metrics.items()},
            "profiles": diagnosis.profiles,
            "peaks": diagnosis.peaks,
            "warnings": diagnosis.provenance["warnings"],
            "versions": diagnosis.provenance["versions"],
        }

    def _capture(self, entry: Entry, protocol: str) -> Representations:
        from sae_moral.capture import capture

        chosen = get_protocol(protocol)
        return capture(
            self._model(entry),
            self.data[protocol].text,
            layers=parse_layers(entry.layers, self._facts[entry.name]["n_layers"]),
            template=chosen.template,
            pooling=chosen.pooling,
            bos=chosen.bos,
            store=self.store,
            progress=self.progress,
        )

    def similarities(self, entries: Sequence[AtlasEntry]) -> list[PairSimilarity]:
        """Every pair of models that have results under the compared protocol."""
        results = {entry.name: entry.results for entry in entries}
        there = [entry for entry in self.plan.entries if self.plan.compared in results[entry.name]]
        pairs: list[tuple[Entry, Entry, Literal["variants", "baseline"]]]
        pairs = [(a, b, "variants") for a, b in variant_pairs(there)]
        pairs.extend((a, b, "baseline") for a, b in baseline_pairs(there))
        cells = {(a.name, b.name): self._pair(a, b, results) for a, b, _ in pairs}
        study = Study(self.out, "atlas-pair")
        done = study.run(cells.values(), keep_going=(Exception,), what="pairs", progress=self.progress)
        self.models.free()
        by_names = dict(zip(cells, done, strict=True))
        return [self._similarity(a, b, kind, results, by_names[a.name, b.name]) for a, b, kind in pairs]

    def _pair(self, a: Entry, b: Entry, results: Mapping[str, Mapping[str, AtlasResult]]) -> Cell:
        """The cell of two models' CKA."""
        compared = self.plan.compared
        of_a, of_b = results[a.name][compared], results[b.name][compared]
        layers = matched_layers(of_a.layers, of_a.n_layers, of_b.layers, of_b.n_layers)

        def work(folder: Path) -> list[LayerSimilarity]:
            first, second = self._vectors(a, of_a), self._vectors(b, of_b)
            return layer_similarities(first, second, layers, self._texts(), get_protocol(compared), self.device)

        shaped_by = {
            "models": [self._facts[entry.name]["identity"] for entry in (a, b)],
            "captured": [of_a.layers, of_b.layers],
            "layers": layers,
            "data": self.data[compared].sha256,
            "protocol": dataclasses.asdict(get_protocol(compared)),
            "version": __version__,
        }
        return Cell(f"{a.name}+{b.name}", shaped_by, work)

    def _vectors(self, entry: Entry, result: AtlasResult) -> Representations:
        """The vectors of the compared protocol: read back, or, where they were deleted, captured again."""
        from sae_moral.capture.store import reopen

        try:
            return reopen((self.out / result.report).with_name("vectors.json"), self.store)
        except FileNotFoundError:
            return self._capture(entry, self.plan.compared)

    def _texts(self) -> Int[np.ndarray, "k"]:
        """The first scenario of every distinct text."""
        return np.sort(np.unique(self.data[self.plan.compared].same_text, return_index=True)[1])

    def _similarity(
        self,
        a: Entry,
        b: Entry,
        kind: Literal["variants", "baseline"],
        results: Mapping[str, Mapping[str, AtlasResult]],
        done: Done,
    ) -> PairSimilarity:
        of_a, of_b, compared = results[a.name], results[b.name], self.plan.compared
        profiles = [
            row
            for protocol in self.plan.protocols
            if protocol in of_a and protocol in of_b
            for row in profile_correlations(of_a[protocol], of_b[protocol], protocol)
        ]
        return PairSimilarity(
            a.name,
            b.name,
            kind,
            a.family if kind == "variants" else None,
            compared,
            len(self._texts()),
            (of_a[compared].n_layers, of_b[compared].n_layers),
            [typed(row, LayerSimilarity, file=done.folder) for row in done.value or ()],
            profiles,
            None if done.error is None else explained(done.error),
        )

    def provenance(self, entries: Sequence[AtlasEntry]) -> AtlasProvenance:
        """From what the atlas was made."""
        plan, data = self.plan, self.data[self.plan.compared]
        versions = next((result.versions for entry in entries for result in entry.results.values()), {})
        return AtlasProvenance(
            data={**data.provenance, "n": len(data), "n_texts": len(self._texts()), "sha256": data.sha256},
            protocols=list(plan.protocols),
            compared=plan.compared,
            preprocessing=list(get_protocol(plan.compared).preprocessing),
            metrics=None if plan.metrics is None else list(plan.metrics),
            limit=plan.limit,
            controls=plan.controls,
            versions=versions,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


def _result(value: Mapping[str, Any], folder: Path, out: Path) -> AtlasResult:
    report = (folder / "report.html").relative_to(out).as_posix()
    return typed({**value, "report": report}, AtlasResult, file=folder)


def _words(problem: Exception | None) -> str | None:
    if problem is None or isinstance(problem, LoadError):
        return None if problem is None else str(problem)
    return f"could not be measured: {explained(problem)}"


def _forget_frames(problem: BaseException | None) -> None:
    """Let go of a model that an error's frames refer to."""
    while problem is not None:
        problem.__traceback__ = None
        problem = problem.__cause__ or problem.__context__
