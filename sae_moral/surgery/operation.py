"""`Operation`: an SAE after surgery, with what it was before, as an ordinary SAELens folder and back."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_moral.data.text import normalise
from sae_moral.errors import DataError, FolderError, unknown
from sae_moral.foundations import DIMENSIONS
from sae_moral.io import (
    check_files,
    differences,
    file_checksums,
    locked,
    read_json,
    read_typed,
    staged_files,
    write_bytes,
    write_record,
    write_text,
)
from sae_moral.sae.files import RECORD_SCHEMA, RECORDS
from sae_moral.sae.load import LoadedSae, load_sae
from sae_moral.sae.objects import assembled
from sae_moral.shown import in_short, shown
from sae_moral.surgery.page import operation_page
from sae_moral.surgery.record import SurgeryRecord
from sae_moral.tables import Table

RECORD, BEFORE, PAGE = "surgery.json", "before.safetensors", "operation.html"
Rows = dict[str, Tensor]
"""What moves of an SAE, by parameter: `W_enc` [d, k], `W_dec` [k, d], the biases [k] of k latents, and their thresholds
[k], if any."""


def _facts(operation: Operation) -> dict[str, object]:
    about = operation.record
    named = {"name": operation.name, "layer": operation.layer, "control": about.control, "seed": about.seed}
    return {**named, "dimensions": list(operation.by_dimension)}


def _changes(operation: Operation) -> list[Table]:
    header = ["statistic", "group", "before", "after", "change", "ci_low", "ci_high", "n"]
    return [Table(header, [[in_short(row[name]) for name in header] for row in operation.record.table], keys=2)]


@shown(facts=_facts, tables=_changes)
@dataclass(frozen=True, eq=False)
class Operation:
    """One SAE, k of whose latents were trained; everything else of it is bit-identical to the original.

    Attributes:
        sae: the operated SAE.
        latents: the operated latents, ascending and distinct.
        before: the parameters that moved as they were: `W_enc` [d, k], `W_dec` [k, d], `b_enc` [k] (gated: `b_gate` and
            `b_mag` in its place) and, of a JumpReLU, `threshold` [k]; without it, thresholds are as they were.
        by_dimension: the latents of each dimension; dimensions without any are left out.
        record: settings, control, hashes, histories, the table before and after, provenance.

    Raises:
        ValueError: parts that do not belong together.
    """

    sae: LoadedSae
    latents: Int[Tensor, "k"]
    before: Rows
    by_dimension: dict[str, list[int]]
    record: SurgeryRecord

    def __post_init__(self) -> None:
        given = self.latents.tolist()
        if not given or given != sorted(set(given)) or given[0] < 0 or given[-1] >= self.sae.d_sae:
            raise ValueError(
                f"latents {given[:10]}…; expected at least one, ascending, distinct, from 0 to {self.sae.d_sae - 1}"
            )
        now = rows_of(self.sae, self.latents)
        kept = {name: now[name] for name in now.keys() & {"threshold"} - self.before.keys()}
        object.__setattr__(self, "before", {**self.before, **kept})
        for name, wanted in now.items():
            found = self.before.get(name)
            if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
                raise ValueError(
                    f"before: {name} is {None if found is None else (tuple(found.shape), found.dtype)}; expected "
                    f"{(tuple(wanted.shape), wanted.dtype)} for {len(given)} latents of {self.sae.source}"
                )
        for name, members in self.by_dimension.items():
            if name not in DIMENSIONS:
                raise unknown("dimension", name, DIMENSIONS)
            if not set(members) <= set(given):
                raise ValueError(f"latents of {name} that were not operated: {sorted(set(members) - set(given))[:10]}")

    @property
    def layer(self) -> int:
        """The block after which the SAE reads the residual stream."""
        return self.sae.layer

    @property
    def hook_name(self) -> str:
        """Where the SAE reads."""
        return self.sae.hook_name

    @property
    def name(self) -> str:
        """What to call it in tables: the SAE's name, `operated`, and the control if it is one."""
        return self.sae.source

    def original(self) -> LoadedSae:
        """The SAE before surgery, bit for bit.

        Raises:
            ValueError: `before` is not what the SAE was made from.
        """
        source = self.record.source
        found = with_rows(self.sae, self.latents, self.before, source, surgery=None)
        if found.sha256 != self.record.sha256["before"]:
            raise ValueError(f"{BEFORE} does not restore {source}: its hash is not the one recorded before surgery")
        return found

    def shaped_by(self) -> dict[str, Any]:
        """What tells one operation from another, by name."""
        about = self.record
        return {**about.sha256, "control": about.control, "settings": about.settings, "seed": about.seed}

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write an ordinary SAELens folder plus `surgery.json`, `before.safetensors` and the page `operation.html`. All
        files are on the disk before the first takes its place, and the record goes first: with it, files that are
        missing or not its own are noticed, and saving again completes them.

        Args:
            overwrite: replace another operation in the folder.

        Raises:
            FolderError: the folder holds something else; says in what it differs.
            BusyError: another process is writing there.
        """
        from safetensors.torch import save

        folder = Path(folder)
        self._check_folder(folder, overwrite)
        with locked(folder), staged_files(folder, first=RECORD) as temporary:
            self._check_folder(folder, overwrite)
            self.sae.sae.save_model(temporary)
            write_bytes(
                temporary / BEFORE, save({name: value.cpu().contiguous() for name, value in self.before.items()})
            )
            about = {
                "name": self.name,
                "layer": self.layer,
                "latents": self.latents.tolist(),
                "by_dimension": self.by_dimension,
                "files": file_checksums(temporary),
                **dataclasses.asdict(self.record),
            }
            write_record(temporary / RECORD, RECORDS[RECORD], RECORD_SCHEMA, about)
            write_text(temporary / PAGE, self.page())
        return folder

    def page(self) -> str:
        """All of it as one HTML page, which `save` writes as `operation.html`."""
        return operation_page(self.name, self.by_dimension, len(self.latents), self.record)

    def _check_folder(self, folder: Path, overwrite: bool) -> None:
        if folder.is_file():
            raise FolderError(f"{folder} is a file; expected a folder for the operation")
        if not folder.exists():
            return
        if not (folder / RECORD).exists():
            if held := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
                raise FolderError(f"{folder} holds files that are no operation ({held[0]}, …); choose another folder")
        elif not overwrite:
            before = _read(folder)
            told = {**before.sha256, "control": before.control, "settings": before.settings, "seed": before.seed}
            if differing := differences(told, self.shaped_by()):
                raise FolderError(
                    f"{folder} holds another operation: {differing}; choose another folder, or overwrite it"
                )

    @staticmethod
    def load(folder: Path | str, *, device: str | torch.device | None = None) -> Operation:
        """What `save` wrote, every hash checked.

        Raises:
            FileNotFoundError: no operation in the folder.
            DataError: another kind of file, a newer schema, or files that are not those the record was written with.
        """
        from safetensors.torch import load

        folder = Path(folder)
        if not (folder / RECORD).exists():
            raise FileNotFoundError(f"no {RECORD} in {folder}; expected a folder written by Operation.save")
        about = _read(folder)
        check_files(folder, {BEFORE: about.files[BEFORE]})
        try:
            dtype = read_json(folder / "cfg.json")["dtype"]
            sae = load_sae(folder, layer=about.layer, dtype=dtype, device=device)
            sae = dataclasses.replace(sae, source=about.name)
            if sae.sha256 != about.sha256["after"]:
                raise DataError("the weights beside it are not those it was written with", file=folder / RECORD)
            before = {name: value.to(sae.sae.device) for name, value in load((folder / BEFORE).read_bytes()).items()}
            names = [one.name for one in dataclasses.fields(SurgeryRecord)]
            record = SurgeryRecord(**{name: getattr(about, name) for name in names})
            found = Operation(sae, torch.tensor(about.latents), before, about.by_dimension, record)
            found.original()
        except DataError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"not an operation: {error!s:.300}", file=folder / RECORD) from error
        return found


@dataclass(frozen=True, kw_only=True)
class _Content(SurgeryRecord):
    """The content of `surgery.json`."""

    name: str
    layer: int
    latents: list[int]
    by_dimension: dict[str, list[int]]
    files: dict[str, str]


def _read(folder: Path) -> _Content:
    return read_typed(folder / RECORD, _Content, RECORDS[RECORD], RECORD_SCHEMA, checked_from=2, migrate=_migrated)


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the checksum of `before.safetensors` alone, and an empty `stopped` where there was no training."""
    stopped = content.pop("stopped", None) or None
    return {"files": {BEFORE: content.pop("before_sha256")}, "stopped": stopped, **content}


def digests(text: Iterable[str]) -> list[str]:
    """Short hashes of distinct normalised texts, sorted: enough to see later whether a text was among them."""
    return sorted({hashlib.sha256(normalise(one).encode()).hexdigest()[:12] for one in text})


def moved_names(sae: LoadedSae) -> tuple[str, ...]:
    """The parameters surgery moves: encoder and decoder rows, and the encoder's biases and thresholds."""
    biases = ("b_gate", "b_mag") if sae.architecture == "gated" else ("b_enc",)
    thresholds = ("threshold",) if sae.architecture == "jumprelu" else ()
    return ("W_enc", *biases, *thresholds, "W_dec")


def rows_of(sae: LoadedSae, latents: Int[Tensor, "k"]) -> Rows:
    """A copy of the parameters of k latents, as surgery trains them."""
    index, state = latents.to(sae.sae.device), sae.sae.state_dict()
    return {name: state[name].index_select(_axis(name), index).clone() for name in moved_names(sae)}


def with_rows(
    sae: LoadedSae, latents: Int[Tensor, "k"], rows: Rows, source: str, *, surgery: Mapping[str, Any] | None
) -> LoadedSae:
    """A copy of the SAE with other parameters for k latents; every other number is copied bit for bit.

    Args:
        surgery: what its metadata say of it (`metadata.sae_moral["surgery"]`); None for an SAE without surgery.
    """
    index = latents.to(sae.sae.device)
    state = {name: value.detach().clone(memory_format=torch.contiguous_format)
             for name, value in sae.sae.state_dict().items()}  # fmt: skip
    for name, value in rows.items():
        state[name].index_copy_(_axis(name), index, value.to(state[name]))
    made = assembled(deepcopy(sae.sae.cfg.to_dict()), state, sae.sae.device)
    about = {key: value for key, value in (sae.trained_on or {}).items() if key != "surgery"}
    if surgery is not None:
        about["surgery"] = dict(surgery)
    made.cfg.metadata.sae_moral = about or None
    return LoadedSae(made, source, sae.layer)


def _axis(name: str) -> int:
    return 1 if name == "W_enc" else 0
