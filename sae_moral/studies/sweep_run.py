"""`sweep`: what operations do to a model, beside their twins at the same damage.

Arms, for every layer with operations, at every KL on neutral text that is asked for:

    operated        the operations themselves, of one or several seeds of surgery
    shuffled        operations trained on shuffled labels
    random latents  operations on latents that are not moral
    rotated         the write of the first operation, its rows turned by random rotations
    permuted        the same, its rows exchanged among its latents
    dense           the same write, its gate read from the stream itself
    valence         gate and write learnt from pleasant and unpleasant sentences that are not moral
    constant        the difference in means of virtue and vice, without a gate

`rotated`, `permuted` and `dense` are twins of what is written (form `write`). With `alphas` the operations alone are
measured at strengths that are given, and the SAE before surgery in the paper's form (`pretrained`): what its
reconstruction error alone does.

Words are chosen, and others held out, on training texts (`sae_moral.steering.words`). Effects are of held-out
scenarios, damage of neutral text (`sae_moral.steering.effects`).
"""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from sae_moral.capture import capture, hooked_model
from sae_moral.capture.prompts import prompt_ids
from sae_moral.capture.resume import Resume
from sae_moral.data import MoralData
from sae_moral.data.splits import group_split
from sae_moral.errors import SaeMoralWarning, unknown
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.io import claim, jsonable, locked, read_typed, record, typed, write_together
from sae_moral.protocol import AUDITED
from sae_moral.provenance import HookedModel, describe_model
from sae_moral.results import ModelFacts
from sae_moral.shown import at, shown
from sae_moral.steering.edits import permuted, rotated, written
from sae_moral.steering.effects import MeasureSettings, Neutral, measure_steering
from sae_moral.steering.hooks import NotFiniteError, check_steering
from sae_moral.steering.steering import WITHOUT_MASK, Steering
from sae_moral.steering.strength import NoStrengthError, with_kl
from sae_moral.steering.twins import Learnt, dense, learn
from sae_moral.steering.words import Words, choose_words, usable
from sae_moral.studies.beyond import Beyond
from sae_moral.studies.study import Cell, Study
from sae_moral.studies.sweep_migration import migrated
from sae_moral.studies.sweep_page import beyond_table, sweep_page, sweep_summary
from sae_moral.studies.sweep_results import Measured, Operated, SweepProvenance, SweepRow, Trial, Unsteered, summarise
from sae_moral.surgery import Operation
from sae_moral.surgery.operation import digests

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 3
_OLD_FILES = ("sweep.md", "sweep.png", "cells.jsonl")
"""Of version 0.1."""
TWINS_FOLDER = "twins"
"""Folder of what the twins of each layer are made of, for Flames and for scripts (`Learnt.load`)."""
METHOD = "sweep/4"
"""Part of every cell's key: raise its number when what is measured changes."""
KLS = (0.02,)
"""Nats per token."""
ROTATIONS, PERMUTATIONS = tuple(range(19)), tuple(range(3))
"""Seeds: with 19 rotations, being beyond all of them, at their highest layers, is p = 0.05."""
WORD_TEXTS = 300
"""Training scenarios that words are chosen on."""


@shown(facts=lambda sweep: {"model": at(sweep.provenance, "model", "name")}, tables=lambda s: [beyond_table(s.beyond)])
@dataclass(frozen=True, eq=False)
class Sweep:
    """Rows of all arms at all strengths, operations against twins, the unsteered model, and what shaped them."""

    rows: list[SweepRow]
    beyond: list[Beyond]
    unsteered: Unsteered
    provenance: SweepProvenance

    FILES: ClassVar[tuple[str, ...]] = ("sweep.json", "sweep.html")

    @property
    def frame(self) -> pd.DataFrame:
        """One row per arm, strength, wording and use, one column per attribute of `SweepRow` and `WordEffect`."""
        import pandas as pd

        rows = [dataclasses.asdict(row) for row in self.rows]
        return pd.DataFrame([{**row, **words} for row in rows for words in row.pop("words") or [{}]])

    def summary(self) -> str:
        """Which twins the operations are beyond, and a table, for the terminal."""
        return sweep_summary(self.rows, self.beyond)

    def save(self, folder: str | Path) -> Path:
        """Write sweep.json and sweep.html together; returns the page's path."""
        content = {
            "provenance": self.provenance,
            "unsteered": self.unsteered,
            "results": self.rows,
            "beyond": self.beyond,
        }
        page = sweep_page(self.rows, self.beyond, self.unsteered, self.provenance)
        written = (record("sweep", SCHEMA_VERSION, content), page)
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
        content = read_typed(path, _Content, "sweep", SCHEMA_VERSION, checked_from=2, migrate=migrated)
        return cls(content.results, content.beyond, content.unsteered, content.provenance)


@dataclass(frozen=True)
class _Content:
    """The content of a file, under its names there."""

    provenance: SweepProvenance
    unsteered: Unsteered
    results: list[SweepRow]
    beyond: list[Beyond]


def sweep(
    model: HookedModel | nn.Module,
    operations: Sequence[Operation],
    data: MoralData,
    *,
    out: str | Path,
    kls: Sequence[float] = KLS,
    alphas: Sequence[float] = (),
    shuffled: Sequence[Operation] = (),
    random_latents: Sequence[Operation] = (),
    forms: Sequence[str] = ("write",),
    positions: str = Steering.positions,
    rotations: Sequence[int] = ROTATIONS,
    permutations: Sequence[int] = PERMUTATIONS,
    downstream: int | None = None,
    settings: MeasureSettings | None = None,
    words: Words | None = None,
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
        operations: of one or several layers; of a layer of one or several seeds of surgery.
        data: words are chosen, readers trained and means taken on its `train` part; its `test` part is measured on.
        out: folder for the finished cells.
        kls: strengths, as KL(unsteered ‖ steered) on neutral text in nats per token.
        alphas: strengths of the operations alone.
        shuffled: operations made with this control, for the same layers.
        random_latents: as well.
        forms: of `write`, `edit` and `paper`.
        positions: `all-but-first`, or `all` as in the paper, where BOS gets an edit a hundred times larger.
        rotations: seeds of these twins.
        permutations: as well.
        downstream: the layer the audited headlines are taken at; halfway from the edit to the end by default.
        words: of `choose_words`, where they are known; else they are chosen on the training part.
        split: by default `group_split(data)`: equal texts are on one side.
        limit: measure on at most so many held-out scenarios.
        draws: of the bootstrap.
        any_model: accept SAEs of a model with another name.
        overwrite: take over a folder that holds another sweep; finished cells that fit are used again.
        progress: progress bar; by default only on a terminal.

    Raises:
        ValueError: no operation, no strength, an operation that writes nothing (form `write`), parts without one of
            the poles, held-out texts that an operation learnt from, or what a steering refuses. Nothing was written.
        FolderError: `out` holds other results.
        DataError: a damaged cell, or texts that do not fit into the context.
    """
    out, settings, model = Path(out), settings or MeasureSettings(), hooked_model(model)
    parts = dict(split or group_split(data))
    train, held_out = data.subset(parts["train"]), data.subset(parts["test"])
    held_out = held_out if limit is None else held_out.sample(limit)
    _check_arguments(operations, (*kls, *alphas), positions, settings, model)
    for name, part in (("training", train), ("held-out", held_out)):
        _check_poles(name, part)
    for one in (*operations, *shuffled, *random_latents):
        _check_held_out(one, held_out)
        if one.sae.bos == "none" != AUDITED.bos:
            problem = "prompts without BOS, and those of a sweep begin with it"
            warnings.warn(f"{one.sae.source} was trained on {problem}", SaeMoralWarning, stacklevel=2)
        for form in forms:  # what does not fit is refused before hours of work
            what = written(one) if form == "write" else one
            check_steering(Steering(what, 1.0, form="edit" if form == "write" else form), model, any_model)
    at = {one.layer: _downstream(one.layer, downstream, model.cfg.n_layers) for one in operations}
    provenance = SweepProvenance(
        model=describe_model(model),
        data=held_out.sha256,
        n=len(held_out),
        source=held_out.provenance.get("source"),
        operations=[_facts(one) for one in operations],
        positions=positions,
        downstream={str(layer): layers for layer, layers in at.items()},
        settings=jsonable(settings),
        protocol=jsonable(AUDITED),
        draws=draws,
    )
    others = {
        "train": train.sha256,
        "shuffled": [_facts(one) for one in shuffled],
        "random_latents": [_facts(one) for one in random_latents],
        "strengths": {"kl": list(kls), "alpha": list(alphas)},
        "forms": list(forms),
        "words": jsonable(words),
        "rotations": list(rotations),
        "permutations": list(permutations),
    }
    with locked(out, wait=True):
        claim(out, "sweep", {**provenance, **others}, files=(*Sweep.FILES, *_OLD_FILES), overwrite=overwrite)
    study = Study(out, METHOD)
    words = words or _words(model, provenance["model"], train, settings, study)
    learnt = _learnt(model, provenance["model"], train, sorted(at), study)
    for layer, parts in learnt.items():
        parts.save(out / TWINS_FOLDER / f"L{layer}.safetensors")
    measure = Measurement(model, provenance["model"], held_out, settings, words, any_model)
    arms = {"operated": operations, "shuffled": shuffled, "random latents": random_latents}
    trials = list(_trials(arms, learnt, forms, kls, alphas, rotations, permutations, positions))
    plain = measure.cell(None, sorted({layer for layers in at.values() for layer in layers}))
    wanted = [measure.cell(one, at[one.layer] if one.full else []) for one in trials]
    # Several trials may share a cell: an SAE before surgery that several operations began with.
    distinct = {study.path(one): one for one in (plain, *wanted)}
    done = study.run(distinct.values(), what="sweep", progress=progress)
    found = {study.path(one.cell): typed(one.value, Measured, file=one.folder) for one in done}
    unsteered = found[study.path(plain)]
    if unsteered.effects is None:
        raise NotFiniteError(f"the model without steering: {unsteered.error}")
    measured = [(trial, found[study.path(one)]) for trial, one in zip(trials, wanted, strict=True)]
    rows, beyond, base = summarise(measured, unsteered.effects, words, held_out, draws=draws)
    operated = [_operated(one) for one in operations]
    return Sweep(rows, beyond, base, {**provenance, "words": jsonable(words), "operated": operated})


@dataclass(frozen=True, eq=False)
class Measurement:
    """What all cells of a sweep have in common."""

    model: HookedModel
    facts: ModelFacts
    data: MoralData
    settings: MeasureSettings
    words: Words
    any_model: bool
    _resumes: list[Resume] = field(default_factory=list)

    def _resumed(self, layer: int) -> AbstractContextManager[None]:
        """Runs start at the block that is edited after; what one layer needs is kept until another's turn comes."""
        if not self._resumes or self._resumes[0].layer != layer:
            self._resumes[:] = [Resume(self.model, layer)]
        return self._resumes[0]()

    @cached_property
    def _neutral(self) -> Neutral:
        """What the model makes of neutral text unsteered is the same in all cells."""
        return Neutral(self.model, self.settings.neutral)

    def cell(self, trial: Trial | None, layers: Sequence[int]) -> Cell:
        """The measurement of a trial, or of the unsteered model, as a piece of work with its key."""
        steering, kl, full = (trial.steering, trial.kl, trial.full) if trial else (None, None, True)
        shaped_by = {
            "model": self.facts,
            "data": self.data.sha256,
            "settings": self.settings,
            "wordings": self.words.wordings,
            "protocol": AUDITED,
            "steering": steering and steering.describe(),
            "kl": kl,
            "layers": list(layers),
            "full": full,
        }

        def work(folder: Path) -> Measured:
            how: dict[str, Any] = {"any_model": self.any_model}
            try:
                given, damage = steering, None
                with self._resumed(steering.what.layer if steering else 0):
                    if steering is not None and kl is not None:
                        (given,), damage = with_kl(self.model, [steering], kl, self._neutral, **how)
                    steerings = [] if given is None else [given]
                    damage = damage or self._neutral.side_effects(steerings, **how)
                    measured = (self.model, steerings, self.data, layers, self.settings, self.words.wordings)
                    effects = measure_steering(*measured, full=full, damage=damage, **how)
                return Measured(effects, given and given.alpha)
            except (NotFiniteError, NoStrengthError) as error:
                return Measured(None, error=str(error))

        strength = f"KL {kl:g}" if kl else f"{steering.alpha:g}" if steering else ""
        return Cell(f"{steering.name} {steering.form} {strength}" if steering else "unsteered", shaped_by, work)


def _facts(operation: Operation) -> dict[str, Any]:
    return {"name": operation.name, "layer": operation.layer, **Steering(operation, 1.0).describe()["sae"]}


def _operated(operation: Operation) -> Operated:
    record = operation.record
    read = [row for row in record.table if (row["statistic"], row["group"]) == ("reading_auroc", "overall")]
    return Operated(
        layer=operation.layer,
        seed=record.seed,
        latents={name: list(own) for name, own in operation.by_dimension.items()},
        writes=dict(record.written["writes"]) if record.written else {},
        reading=[read[0]["before"], read[0]["after"]] if read else [],
    )


def _trials(
    arms: Mapping[str, Sequence[Operation]],
    learnt: Mapping[int, Learnt],
    forms: Sequence[str],
    kls: Sequence[float],
    alphas: Sequence[float],
    rotations: Sequence[int],
    permutations: Sequence[int],
    positions: str,
) -> Iterator[Trial]:
    for layer, own in learnt.items():
        at = {name: [one for one in given if one.layer == layer] for name, given in arms.items()}
        first = at["operated"][0]
        for form in forms:
            what: list[tuple[str, int | None, Any]] = [
                (name, i, written(one) if form == "write" else one)
                for name, ones in at.items()
                for i, one in enumerate(ones)
            ]
            if form == "write":
                what += [("rotated", seed, rotated(written(first), seed)) for seed in rotations]
                what += [("permuted", seed, permuted(written(first), seed)) for seed in permutations]
                what.append(("dense", None, dense(first, own.reader)))
            if form != "paper":
                what += [("valence", None, own.valence), ("constant", None, own.constant)]
            of = "edit" if form == "write" else form
            for arm, seed, one in what:
                full = seed in (None, 0) and arm not in ("rotated", "permuted")
                for kl in kls:
                    yield Trial(layer, form, arm, seed, kl, Steering(one, 1.0, form=of, positions=positions), full)
                for alpha in alphas if arm == "operated" else ():
                    yield Trial(layer, form, arm, seed, None, Steering(one, alpha, form=of, positions=positions), full)
        for alpha in alphas:
            paper = Steering(first.original(), alpha, form="paper", positions=positions)
            yield Trial(layer, "paper", "pretrained", None, None, paper)


def _words(model: HookedModel, facts: ModelFacts, train: MoralData, settings: MeasureSettings, study: Study) -> Words:
    """Which words are used, in a cell of its own, so that several processes choose once."""
    some = train.sample(min(WORD_TEXTS, len(train)))
    about = {"model": facts, "train": some.sha256, "wordings": settings.wordings, "each": settings.each}

    def work(folder: Path) -> Words:
        return choose_words(model, some, settings.wordings, each=settings.each)

    (done,) = study.run([Cell("words", about, work)])
    return typed(done.value, Words, file=done.folder)


def _learnt(
    model: HookedModel, facts: ModelFacts, train: MoralData, layers: list[int], study: Study
) -> dict[int, Learnt]:
    """What is learnt on training texts, in one cell: several processes capture once."""
    how: dict[str, Any] = {"template": AUDITED.template, "pooling": AUDITED.pooling, "bos": AUDITED.bos}

    def work(folder: Path) -> dict[str, Any]:
        representations = capture(
            model, train.text, layers=layers, granularity="token", store=folder / "activations", **how
        )
        learnt = {str(layer): learn(model, representations, train, layer).tensors() for layer in layers}
        shutil.rmtree(folder / "activations")
        return {layer: {name: part.tolist() for name, part in parts.items()} for layer, parts in learnt.items()}

    about = {"what": "learnt/3", "model": facts, "train": train.sha256, "layers": layers, **how}
    (done,) = study.run([Cell("learnt for twins", about, work, resume=True)])
    kept = {layer: done.value[str(layer)].items() for layer in layers}
    return {layer: Learnt.of(layer, {name: torch.tensor(part) for name, part in kept[layer]}) for layer in layers}


def _check_arguments(
    operations: Sequence[Operation],
    strengths: Sequence[float],
    positions: str,
    settings: MeasureSettings,
    model: HookedModel,
) -> None:
    if positions not in WITHOUT_MASK:
        raise unknown("positions of a sweep", positions, WITHOUT_MASK)
    if not operations or not strengths or not all(strengths):
        raise ValueError(
            f"{len(operations)} operations and strengths {list(strengths)}; expected at least one of each, none of 0"
        )
    if not settings.neutral or not settings.openings:
        raise ValueError(
            f"{len(settings.neutral)} neutral texts and {len(settings.openings)} openings; expected some of both"
        )
    usable(model, settings.wordings)
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
