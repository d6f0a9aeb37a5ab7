"""`sweep`: layers × strengths of operations, beside dense directions and random ones of the same norm.

Arms, for every operation, form and α; every token but the first is steered (`positions`):

    operated        the operation itself
    shuffled        an operation of the same layer trained on shuffled labels, at the same α
    dense           difference in means of virtue and vice (training part), at every token with the operated arm's norm
    random          random directions, with the operated arm's norm at every token (of all but the first `full_measures`
                    only margins and side effects are measured: they say how much a random direction may gain by chance)
    pretrained      the SAE before surgery, paper's form: what its reconstruction error alone does

Effect and damage are measured on the held-out part and on neutral text (`sae_moral.steering.measures`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from sae_moral.capture import capture
from sae_moral.data import MoralData
from sae_moral.data.splits import group_split
from sae_moral.errors import unknown
from sae_moral.protocol import AUDITED
from sae_moral.provenance import describe_model
from sae_moral.steering.directions import Direction, Matched, difference_in_means, random_direction
from sae_moral.steering.hooks import NotFiniteError, check_steering
from sae_moral.steering.journal import Journal, key_of
from sae_moral.steering.measures import MeasureSettings, measure_steering
from sae_moral.steering.positions import WITHOUT_MASK
from sae_moral.steering.steering import Steering
from sae_moral.steering.summary import Sweep, summarise
from sae_moral.surgery import Operation
from sae_moral.surgery.operation import digests

VERSION = 1
"""Part of every cell's key: raise it when what is measured changes."""
ARMS = ("operated", "shuffled", "dense", "random", "pretrained")
RANDOM = tuple(range(19))
"""Seeds of the random directions: with 19, beating all of them is p = 0.05."""
FULL_MEASURES = 3
"""Random directions that every measure is taken of, unless told otherwise."""


@dataclass(frozen=True)
class Cell:
    """One row of a sweep to be: `operation` names the operated SAE it belongs to."""

    operation: str
    layer: int
    form: str
    alpha: float
    arm: str
    seed: int | None
    steering: Steering
    full: bool = True


def sweep(
    model: Any,
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
    progress: bool | None = None,
) -> Sweep:
    """Measure every arm at every strength; a run with the same arguments takes up where another ended.

    Args:
        operations: of one or several layers.
        data: its `train` part gives the dense direction, its `test` part is measured on.
        alphas: 0 is the unsteered model, which is measured anyway.
        out: folder for `cells.jsonl` (the finished ones) and the captured vectors.
        shuffled: operations trained on shuffled labels, matched to the others by layer.
        forms: of `edit` and `paper`.
        positions: `all-but-first`, or `all` as in the paper, where BOS gets an edit a hundred times larger.
        full_measures: how many random directions audited measures and diversity are computed of, too; with all of them
            these get p-values.
        downstream: the layer the audited measures are taken at; halfway from the edit to the end by default.
        split: by default `group_split(data)`: equal texts are on one side.
        limit: measure on at most so many held-out scenarios.
        draws: of the bootstrap.
        any_model: accept SAEs of a model with another name.

    Raises:
        ValueError: no operation, no α, parts without one of the poles, held-out texts that an operation learnt from,
            or what a steering refuses.
    """
    if positions not in WITHOUT_MASK:
        raise unknown("positions of a sweep", positions, WITHOUT_MASK)
    if not operations or not any(alphas):
        raise ValueError(f"{len(operations)} operations and alphas {list(alphas)}; expected one and an α besides 0")
    out, settings = Path(out), settings or MeasureSettings()
    parts = dict(split or group_split(data))
    held_out = data.subset(parts["test"])
    held_out = held_out if limit is None else held_out.sample(limit)
    for one in (*operations, *shuffled):
        _check_held_out(one, held_out)
    out.mkdir(parents=True, exist_ok=True)
    at = {one.layer: _downstream(one.layer, downstream, model.cfg.n_layers) for one in operations}
    dense = _dense(model, data.subset(parts["train"]), sorted({one.layer for one in operations}), out)
    strengths, how = [alpha for alpha in alphas if alpha], {"units": units, "positions": positions}
    cells = list(_cells(operations, shuffled, dense, strengths, forms, how, random_seeds, full_measures))
    for cell in cells:  # what does not fit is refused before hours of work
        check_steering(cell.steering, model, any_model)
    shared = {
        "version": VERSION,
        "model": describe_model(model),
        "data": held_out.sha256,
        "settings": dataclasses.asdict(settings),
        "protocol": dataclasses.asdict(AUDITED),
    }
    journal = Journal(out / "cells.jsonl")

    def measured(steerings: list[Steering], layers: list[int], every: bool = True) -> dict[str, Any]:
        shaped_by = {**shared, "layers": layers, "steerings": [_identity(one) for one in steerings]}
        key = key_of(shaped_by if every else {**shaped_by, "full": False})
        if key not in journal.cells:
            try:
                how: dict[str, Any] = {"full": every, "any_model": any_model}
                values = _finite(measure_steering(model, steerings, held_out, layers, settings, **how))
            except NotFiniteError as error:
                values = {"error": str(error)}
            journal.add(key, values)
        return journal.cells[key]

    every = sorted({layer for layers in at.values() for layer in layers})
    unsteered = measured([], every)
    bar = tqdm(cells, desc="sweep", unit="cell", disable=None if progress is None else not progress)
    found = [(cell, measured([cell.steering], at[cell.layer] if cell.full else [], cell.full)) for cell in bar]
    provenance = {
        **shared,
        "units": units,
        "positions": positions,
        "n": len(held_out),
        "source": held_out.provenance.get("source"),
        "downstream": {str(layer): layers for layer, layers in at.items()},
        "operations": [
            {"name": one.name, "layer": one.layer, "sha256": one.record.get("sha256")} for one in operations
        ],
        "draws": draws,
    }
    return summarise(found, unsteered, held_out, provenance, draws=draws)


def _cells(
    operations: Sequence[Operation],
    shuffled: Sequence[Operation],
    dense: Mapping[int, Direction],
    alphas: Sequence[float],
    forms: Sequence[str],
    how: Mapping[str, str],
    seeds: Sequence[int],
    full_measures: int,
) -> Iterator[Cell]:
    for operation, form in itertools.product(operations, forms):
        layer, d = operation.layer, operation.sae.d_in
        arms: list[tuple[str, int | None, Any, str]] = [("operated", None, operation, form)]
        arms += [("shuffled", i, other, form) for i, other in enumerate(shuffled) if other.layer == layer]
        arms.append(("dense", None, Matched(dense[layer], operation), form))
        arms += [("random", seed, Matched(random_direction(d, layer, seed), operation), form) for seed in seeds]
        if form == forms[0]:  # it has only one form
            arms.append(("pretrained", None, operation.original(), "paper"))
        for alpha, (arm, seed, what, own) in itertools.product(alphas, arms):
            every = arm != "random" or seed in seeds[:full_measures]
            yield Cell(operation.name, layer, own, alpha, arm, seed, Steering(what, alpha, form=own, **how), every)


def _check_held_out(operation: Operation, held_out: MoralData) -> None:
    texts = digests(held_out.text)
    if shared := len({*texts} & {*operation.record.get("learnt_from", ())}):
        raise ValueError(
            f"{shared} of {len(texts)} held-out texts are among those {operation.name} learnt from; expected other "
            "texts: the data and the split (or shares) that it was made with"
        )


def _dense(model: Any, train: MoralData, layers: list[int], out: Path) -> dict[int, Direction]:
    how: dict[str, Any] = {"template": AUDITED.template, "pooling": AUDITED.pooling, "bos": AUDITED.bos}
    representations = capture(model, train.text, layers=layers, store=out / "activations", **how)
    return {layer: difference_in_means(representations, train, layer) for layer in layers}


def _downstream(layer: int, wanted: int | None, n_layers: int) -> list[int]:
    """The layer to measure at, as a list; empty after the last block."""
    if wanted is not None and not layer < wanted < n_layers:
        raise ValueError(f"downstream={wanted} for an edit after block {layer}; expected {layer + 1} to {n_layers - 1}")
    if layer >= n_layers - 1:
        return []
    return [wanted if wanted is not None else (layer + n_layers) // 2]


def _identity(steering: Steering) -> dict[str, Any]:
    """What a cell's key needs to know of a steering."""
    what = steering.what
    found: dict[str, Any] = {name: getattr(steering, name) for name in ("alpha", "units", "form", "positions")}
    if isinstance(what, Matched):
        found["vector"] = hashlib.sha256(what.direction.vector.numpy().tobytes()).hexdigest()
        what = what.operation
    if isinstance(what, Operation):
        return {**found, "sha256": what.record["sha256"]}
    assert not isinstance(what, (Direction, Matched))
    return {**found, "sae": what.sha256}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """What the model gave that JSON cannot hold (a strength that breaks it) becomes None."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in values.items()
    }
