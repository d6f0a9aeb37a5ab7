"""`sweep`: layers × strengths of operations, beside dense directions and random ones of the same norm.

Arms, for every operation, form and α:

    operated        the operation itself
    shuffled        an operation of the same layer trained on shuffled labels, at the same α
    dense           difference in means of virtue and vice (training part), at every token with the operated arm's norm
    random          random directions, at every token with the operated arm's norm
    pretrained      the SAE before surgery, paper's form: what its reconstruction error alone does

Effect and damage are measured on the held-out part and on neutral text (`sae_moral.steering.effects`).
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from sae_moral.capture import capture, hooked_model
from sae_moral.capture.prompts import prompt_ids
from sae_moral.data import MoralData
from sae_moral.data.splits import group_split
from sae_moral.errors import SaeMoralWarning, unknown
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.io import claim, jsonable, locked, read_typed, record, typed, write_together
from sae_moral.protocol import AUDITED
from sae_moral.provenance import HookedModel, describe_model
from sae_moral.results import ModelFacts
from sae_moral.shown import at, shown
from sae_moral.steering.effects import MeasureSettings, measure_steering
from sae_moral.steering.hooks import NotFiniteError, check_steering
from sae_moral.steering.steering import (
    WITHOUT_MASK,
    Direction,
    Matched,
    Steering,
    difference_in_means,
    random_direction,
)
from sae_moral.steering.words import pair_tokens
from sae_moral.studies.study import Cell, Study
from sae_moral.studies.sweep_page import operated_table, sweep_page, sweep_summary
from sae_moral.studies.sweep_results import Measured, SweepProvenance, SweepRow, Trial, Unsteered, summarise
from sae_moral.surgery import Operation
from sae_moral.surgery.operation import digests

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
_OLD_FILES = ("sweep.md", "sweep.png", "cells.jsonl")
"""Of version 0.1."""
METHOD = "sweep/3"
"""Part of every cell's key: raise its number when what is measured changes."""
RANDOM = tuple(range(19))
"""Seeds of the random directions: with 19, beating all of them is p = 0.05."""
FULL_MEASURES = 3
"""Random directions that every measure is taken of, unless told otherwise."""


@shown(facts=lambda sweep: {"model": at(sweep.provenance, "model", "name")}, tables=lambda s: [operated_table(s.rows)])
@dataclass(frozen=True, eq=False)
class Sweep:
    """Rows of all arms at all strengths, the unsteered model, and what shaped them."""

    rows: list[SweepRow]
    unsteered: Unsteered
    provenance: SweepProvenance

    FILES: ClassVar[tuple[str, ...]] = ("sweep.json", "sweep.html")

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a table, one column per attribute of `SweepRow`."""
        import pandas as pd

        columns = [field.name for field in dataclasses.fields(SweepRow)]
        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows], columns=columns)

    def summary(self) -> str:
        """Where operations beat random directions, and a table of the operated arms, for the terminal."""
        return sweep_summary(self.rows)

    def save(self, folder: str | Path) -> Path:
        """Write sweep.json and sweep.html together; returns the page's path."""
        content = {"provenance": self.provenance, "unsteered": self.unsteered, "results": self.rows}
        written = (record("sweep", SCHEMA_VERSION, content), sweep_page(self.rows, self.unsteered, self.provenance))
        with locked(folder, wait=True):
            write_together(folder, dict(zip(self.FILES, written, strict=True)))
        return Path(folder) / "sweep.html"

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """Read a `sweep.json`, or the folder that holds one; those of version 0.1 load.

        Raises:
            DataError: not a sweep, damaged, or of a newer schema; names file and place.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        path = path / cls.FILES[0] if path.is_dir() else path
        content = read_typed(path, _Content, "sweep", SCHEMA_VERSION, checked_from=2, migrate=_migrated)
        return cls(content.results, content.unsteered, content.provenance)


@dataclass(frozen=True)
class _Content:
    """The content of a file, under its names there."""

    provenance: SweepProvenance
    unsteered: Unsteered
    results: list[SweepRow]


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 (sae_moral 0.1): positions were called `where`, a model's identity `weights`."""
    old = {name: value for name, value in content["provenance"].items() if name != "version"}
    old["positions"] = old.pop("where")
    old["model"] = {"identity" if name == "weights" else name: value for name, value in old["model"].items()}
    return {**content, "provenance": {**old, "migrated_from": version}}


def sweep(
    model: HookedModel | nn.Module,
    operations: Sequence[Operation],
    data: MoralData,
    *,
    alphas: Sequence[float],
    out: str | Path,
    shuffled: Sequence[Operation] = (),
    forms: Sequence[str] = ("edit",),
    units: str = "alpha",
    positions: str = Steering.positions,
    random_seeds: Sequence[int] = RANDOM,
    full_measures: int = FULL_MEASURES,
    downstream: int | None = None,
    settings: MeasureSettings | None = None,
    split: Mapping[str, Int[np.ndarray, "_"]] | None = None,
    limit: int | None = None,
    draws: int = 1000,
    any_model: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Sweep:
    """Measure every arm at every strength. A run with the same arguments goes on where another ended; any number of
    processes with the same arguments and `out` share the work.

    Args:
        operations: of one or several layers.
        data: its `train` part gives the dense direction, its `test` part is measured on.
        alphas: 0 is the unsteered model, which is measured anyway.
        out: folder for the finished cells.
        shuffled: operations trained on shuffled labels, matched to the others by layer.
        forms: of `edit` and `paper`.
        positions: `all-but-first`, or `all` as in the paper, where BOS gets an edit a hundred times larger.
        full_measures: how many random directions audited headlines and diversity are measured of, too; with all of
            them these get p-values.
        downstream: the layer the audited headlines are taken at; halfway from the edit to the end by default.
        split: by default `group_split(data)`: equal texts are on one side.
        limit: measure on at most so many held-out scenarios.
        draws: of the bootstrap.
        any_model: accept SAEs of a model with another name.
        overwrite: take over a folder that holds another sweep; finished cells that fit are used again.
        progress: progress bar; by default only on a terminal.

    Raises:
        ValueError: no operation, no α, parts without one of the poles, held-out texts that an operation learnt from,
            or what a steering refuses. Nothing was written.
        FolderError: `out` holds other results.
        DataError: a damaged cell, or texts that do not fit into the context.
    """
    out, settings, model = Path(out), settings or MeasureSettings(), hooked_model(model)
    parts = dict(split or group_split(data))
    train, held_out = data.subset(parts["train"]), data.subset(parts["test"])
    held_out = held_out if limit is None else held_out.sample(limit)
    strengths = [float(alpha) for alpha in dict.fromkeys(alphas) if alpha]
    how = {"units": units, "positions": positions}
    _check_arguments(operations, alphas, positions, settings, model)
    for name, part in (("training", train), ("held-out", held_out)):
        _check_poles(name, part)
    for one in (*operations, *shuffled):
        _check_held_out(one, held_out)
        if one.sae.bos == "none" != AUDITED.bos:
            problem = "prompts without BOS, and those of a sweep begin with it"
            warnings.warn(f"{one.sae.source} was trained on {problem}", SaeMoralWarning, stacklevel=2)
        for form in forms:  # what does not fit is refused before hours of work
            check_steering(Steering(one, 1.0, form=form, **how), model, any_model)
    at = {one.layer: _downstream(one.layer, downstream, model.cfg.n_layers) for one in operations}
    provenance = SweepProvenance(
        model=describe_model(model),
        data=held_out.sha256,
        n=len(held_out),
        source=held_out.provenance.get("source"),
        operations=[_facts(one) for one in operations],
        units=units,
        positions=positions,
        downstream={str(layer): layers for layer, layers in at.items()},
        settings=jsonable(settings),
        protocol=jsonable(AUDITED),
        draws=draws,
    )
    others = {
        "train": train.sha256,
        "shuffled": [_facts(one) for one in shuffled],
        "alphas": strengths,
        "forms": list(forms),
        "random_seeds": list(random_seeds),
        "full_measures": full_measures,
    }
    with locked(out, wait=True):
        claim(out, "sweep", {**provenance, **others}, files=(*Sweep.FILES, *_OLD_FILES), overwrite=overwrite)
    study = Study(out, METHOD)
    measure = Measurement(model, provenance["model"], held_out, settings, any_model)
    dense = _dense(model, provenance["model"], train, sorted(at), study)
    trials = list(_trials(operations, shuffled, dense, strengths, forms, how, random_seeds, full_measures))
    plain = measure.cell([], sorted({layer for layers in at.values() for layer in layers}))
    wanted = [measure.cell([one.steering], at[one.layer] if one.full else [], full=one.full) for one in trials]
    # Several operations may share a cell: their SAE before surgery, an operation on shuffled labels.
    distinct = {study.path(one): one for one in (plain, *wanted)}
    done = study.run(distinct.values(), what="sweep", progress=progress)
    found = {study.path(one.cell): typed(one.value, Measured, file=one.folder) for one in done}
    unsteered = found[study.path(plain)]
    if unsteered.effects is None:
        raise NotFiniteError(f"the model without steering: {unsteered.error}")
    measured = [(trial, found[study.path(one)]) for trial, one in zip(trials, wanted, strict=True)]
    return Sweep(*summarise(measured, unsteered.effects, held_out, draws=draws), provenance)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What all cells of a sweep have in common."""

    model: HookedModel
    facts: ModelFacts
    data: MoralData
    settings: MeasureSettings
    any_model: bool

    def cell(self, steerings: Sequence[Steering], layers: Sequence[int], *, full: bool = True) -> Cell:
        """The measurement of some steerings together, as a piece of work with its key."""
        shaped_by = {
            "model": self.facts,
            "data": self.data.sha256,
            "settings": self.settings,
            "protocol": AUDITED,
            "steerings": [one.describe() for one in steerings],
            "layers": list(layers),
            "full": full,
        }

        def work(folder: Path) -> Measured:
            options = {"full": full, "any_model": self.any_model}
            try:
                return Measured(measure_steering(self.model, steerings, self.data, layers, self.settings, **options))
            except NotFiniteError as error:
                return Measured(None, str(error))

        name = " ".join(f"{one.name} {one.form} {one.alpha:g}" for one in steerings) or "unsteered"
        return Cell(name, shaped_by, work)


def _facts(operation: Operation) -> dict[str, Any]:
    return {"name": operation.name, "layer": operation.layer, **Steering(operation, 1.0).describe()["sae"]}


def _trials(
    operations: Sequence[Operation],
    shuffled: Sequence[Operation],
    dense: Mapping[int, Direction],
    alphas: Sequence[float],
    forms: Sequence[str],
    how: Mapping[str, str],
    seeds: Sequence[int],
    full_measures: int,
) -> Iterator[Trial]:
    for operation, form in itertools.product(operations, forms):
        layer, d = operation.layer, operation.sae.d_in
        arms: list[tuple[str, int | None, Any, str]] = [("operated", None, operation, form)]
        arms += [("shuffled", i, other, form) for i, other in enumerate(shuffled) if other.layer == layer]
        arms.append(("dense", None, Matched(dense[layer], operation), form))
        arms += [("random", seed, Matched(random_direction(d, layer, seed), operation), form) for seed in seeds]
        if form == forms[0]:  # it has only one form
            arms.append(("pretrained", None, operation.original(), "paper"))
        for alpha, (arm, seed, what, own) in itertools.product(alphas, arms):
            full = arm != "random" or seed in seeds[:full_measures]
            yield Trial(operation.name, layer, own, alpha, arm, seed, Steering(what, alpha, form=own, **how), full)


def _dense(
    model: HookedModel, facts: ModelFacts, train: MoralData, layers: list[int], study: Study
) -> dict[int, Direction]:
    """The difference in means at each layer: a cell of its own, so that several processes capture once."""
    how: dict[str, Any] = {"template": AUDITED.template, "pooling": AUDITED.pooling, "bos": AUDITED.bos}

    def work(folder: Path) -> dict[str, Any]:
        representations = capture(model, train.text, layers=layers, store=folder / "activations", **how)
        found = [difference_in_means(representations, train, layer) for layer in layers]
        shutil.rmtree(folder / "activations")
        return {str(one.layer): {"name": one.name, "vector": one.vector.tolist()} for one in found}

    about = {"model": facts, "train": train.sha256, "layers": layers, **how}
    (done,) = study.run([Cell("difference in means", about, work, resume=True)])
    return {
        layer: Direction(layer, torch.tensor(one["vector"]), one["name"])
        for layer, one in ((int(layer), one) for layer, one in done.value.items())
    }


def _check_arguments(
    operations: Sequence[Operation],
    alphas: Sequence[float],
    positions: str,
    settings: MeasureSettings,
    model: HookedModel,
) -> None:
    if positions not in WITHOUT_MASK:
        raise unknown("positions of a sweep", positions, WITHOUT_MASK)
    if not operations or not any(alphas):
        raise ValueError(f"{len(operations)} operations and alphas {list(alphas)}; expected one and an α besides 0")
    if not settings.neutral or not settings.openings:
        raise ValueError(
            f"{len(settings.neutral)} neutral texts and {len(settings.openings)} openings; expected some of both"
        )
    pair_tokens(model, settings.pairs)
    prompt_ids(model, settings.neutral)
    prompt_ids(model, settings.openings, new_tokens=settings.new_tokens)


def _check_poles(name: str, part: MoralData) -> None:
    virtue, vice = int((part.pole == VIRTUE).sum()), int((part.pole == VICE).sum())
    if not virtue or not vice:
        raise ValueError(f"{virtue} virtuous and {vice} vicious scenarios in the {name} part; expected some of both")


def _check_held_out(operation: Operation, held_out: MoralData) -> None:
    texts = digests(held_out.text)
    if shared := len({*texts} & {*operation.record.learnt_from}):
        raise ValueError(
            f"{shared} of {len(texts)} held-out texts are among those {operation.name} learnt from; expected other "
            "texts: the data and the split (or shares) that it was made with"
        )


def _downstream(layer: int, wanted: int | None, n_layers: int) -> list[int]:
    """The layer to measure at, as a list; empty after the last block."""
    if wanted is not None and not layer < wanted < n_layers:
        raise ValueError(f"downstream={wanted} for an edit after block {layer}; expected {layer + 1} to {n_layers - 1}")
    if layer >= n_layers - 1:
        return []
    return [wanted if wanted is not None else (layer + n_layers) // 2]
