"""`Needs`: what `plan` found, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sae_moral.io import jsonable
from sae_moral.shown import shown
from sae_moral.tables import MISSING, Table, text_table


@shown()
@dataclass(frozen=True)
class Rate:
    """A speed.

    Attributes:
        name: of what.
        value: in `unit`.
        unit: FLOP/s, bytes/s, seconds per step.
        source: measured how, or given.
    """

    name: str
    value: float
    unit: str
    source: str


@shown()
@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes:
        name: what is done.
        memory: bytes that are held on the model's device while it runs, those of steps before included.
        disk: bytes that it leaves.
        scratch: bytes on disk beside these while it runs.
        files: it leaves.
        forwards: prompts that are run through the model.
        flops: floating-point operations.
        seconds: None where no rate is known.
        formulas: how each of these numbers comes about, by its name.
    """

    name: str
    memory: int = 0
    disk: int = 0
    scratch: int = 0
    files: int = 0
    forwards: int = 0
    flops: float = 0.0
    seconds: float | None = 0.0
    formulas: Mapping[str, str] = field(default_factory=dict)


@shown(facts=lambda needs: {"fits": needs.fits, "hours": needs.hours}, tables=lambda needs: [needs.table()])
@dataclass(frozen=True)
class Needs:
    """What a study needs.

    Attributes:
        study: `diagnose` or `train-sae`.
        model, data: their names.
        dtype, device: of the model.
        layers: blocks that are read.
        facts: sizes of the model and of the scenarios that the steps are computed from.
        rates: what the hours are computed with.
        steps: in their order.
        memory: bytes that the device has for all of it.
        memory_source: where that number is from.
        disk: bytes free where results go.
        notes: what the numbers leave out, and what is estimated.
    """

    study: str
    model: str
    data: str
    dtype: str
    device: str
    layers: tuple[int, ...]
    facts: Mapping[str, Any]
    rates: tuple[Rate, ...]
    steps: tuple[Step, ...]
    memory: int
    memory_source: str
    disk: int
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes of memory of the step that holds most."""
        return max(step.memory for step in self.steps)

    @property
    def hours(self) -> float | None:
        """Of all steps; None where the time of one is not known."""
        found = [step.seconds for step in self.steps]
        return None if None in found else sum(one for one in found if one is not None) / 3600

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each step that does not fit: which, what it needs, what is there, what to do."""
        found, written = [], 0
        for step in self.steps:
            if step.memory > self.memory:
                found.append(
                    f"{step.name}: needs {size(step.memory)} of memory, and {self.device} has {size(self.memory)} "
                    f"({self.memory_source}); {_less_memory(self, step)}"
                )
            if step.disk + step.scratch and written + step.disk + step.scratch > self.disk:
                found.append(
                    f"{step.name}: by then {size(written + step.disk + step.scratch)} are written, and "
                    f"{size(self.disk)} are free on the disk; choose another folder for them, or fewer layers"
                )
            written += step.disk
        return tuple(found)

    @property
    def fits(self) -> bool:
        """Whether every step has the memory and the disk that it needs."""
        return not self.problems

    def table(self) -> Table:
        """One row per step, and one for all of them."""
        header = ["step", "memory", "disk", "files", "forward passes", "TFLOP", "time"]
        total = Step(
            "in all",
            self.peak,
            sum(step.disk for step in self.steps),
            files=sum(step.files for step in self.steps),
            forwards=sum(step.forwards for step in self.steps),
            flops=sum(step.flops for step in self.steps),
            seconds=None if self.hours is None else self.hours * 3600,
        )
        return Table(header, [_cells(step) for step in (*self.steps, total)])

    def summary(self) -> str:
        """The table for the terminal, the rates, the formula of each number, and what does not fit."""
        made = self.table()
        facts = [["given", ""], *([name.replace("_", " "), _words(value)] for name, value in self.facts.items())]
        facts.append(["memory of " + self.device, f"{size(self.memory)} ({self.memory_source})"])
        facts.append(["free on the disk", size(self.disk)])
        rates = [["rate", "", ""], *([one.name, f"{one.value:.3g} {one.unit}", one.source] for one in self.rates)]
        how = [f"{step.name}, {name}: {formula}" for step in self.steps for name, formula in step.formulas.items()]
        title = f"{self.study} {self.model}, {self.data}, {self.dtype}, {len(self.layers)} layers"
        last = [f"does not fit: {one}" for one in self.problems] or ["all steps fit"]
        parts = [
            title,
            text_table([made.header, *made.rows]),
            text_table(facts),
            text_table(rates),
            "\n".join(how),
            "\n".join(f"note: {one}" for one in self.notes),
            "\n".join(last),
        ]
        return "\n\n".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with `peak`, `hours`, `problems` and `fits`."""
        more = {"peak": self.peak, "hours": self.hours, "problems": list(self.problems), "fits": self.fits}
        return {**jsonable(dataclasses.asdict(self)), **more}


def size(n: float) -> str:
    """Bytes in the binary unit that leaves fewest digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"


def time(seconds: float | None) -> str:
    """In seconds, minutes or hours."""
    if seconds is None:
        return MISSING
    for unit, n in (("h", 3600), ("min", 60)):
        if seconds >= n:
            return f"{seconds / n:.3g} {unit}"
    return f"{seconds:.2g} s"


def _less_memory(needs: Needs, step: Step) -> str:
    if step.name.startswith("train"):
        return "take a smaller expansion or batch, or another device"
    if step.name == "random weights":
        return "leave that control out, or take another device"
    smaller = "" if needs.dtype != "float32" else "bfloat16, "
    store = "a store on the disk, " if "vectors" in step.formulas.get("memory", "") else ""
    return f"take {smaller}{store}a smaller model, or a larger device"


def _cells(step: Step) -> list[str]:
    return [
        step.name,
        size(step.memory) if step.memory else MISSING,
        size(step.disk) if step.disk else MISSING,
        f"{step.files:,}" if step.files else MISSING,
        f"{step.forwards:,}" if step.forwards else MISSING,
        f"{step.flops / 1e12:.3g}" if step.flops else MISSING,
        time(step.seconds),
    ]


def _words(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
