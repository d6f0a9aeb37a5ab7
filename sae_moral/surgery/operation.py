"""`Operation`: an SAE after surgery, with what it was before, as an ordinary SAELens folder and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_moral.data.moral_data import normalise
from sae_moral.errors import unknown
from sae_moral.foundations import DIMENSIONS
from sae_moral.io import write_json
from sae_moral.sae.load import LoadedSae, assembled, load_sae

SCHEMA = 1
RECORD, BEFORE = "surgery.json", "before.safetensors"
Rows = dict[str, Tensor]
"""What moves of an SAE, by parameter: `W_enc` [d, k], `W_dec` [k, d] and the biases [k] of k latents."""


@dataclass(frozen=True, eq=False)
class Operation:
    """One SAE, k of whose latents were trained; everything else of it is bit-identical to the original.

    Attributes:
        sae: the operated SAE.
        latents: the operated latents, ascending and distinct.
        before: the trained parameters as they were: `W_enc` [d, k], `W_dec` [k, d], `b_enc` [k] (gated: `b_gate` and
            `b_mag` in its place).
        by_dimension: the latents of each dimension; dimensions without any are left out.
        record: settings, control, sha256 before and after, share of weights changed, histories, the table before and
            after, provenance, `digests` of the texts it learnt from (trained on or stopped by). JSON values only.

    Raises:
        ValueError: parts that do not belong together.
    """

    sae: LoadedSae
    latents: Int[Tensor, "k"]
    before: Rows
    by_dimension: dict[str, list[int]]
    record: dict[str, Any]

    def __post_init__(self) -> None:
        given = self.latents.tolist()
        if not given or given != sorted(set(given)) or given[0] < 0 or given[-1] >= self.sae.d_sae:
            raise ValueError(
                f"latents {given[:10]}…; expected at least one, ascending, distinct, from 0 to {self.sae.d_sae - 1}"
            )
        for name, wanted in rows_of(self.sae, self.latents).items():
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
        source = self.record["source"]
        found = with_rows(self.sae, self.latents, self.before, source, surgery=None)
        if found.sha256 != self.record["sha256"]["before"]:
            raise ValueError(f"{BEFORE} does not restore {source}: its hash is not the one recorded before surgery")
        return found

    def save(self, folder: Path | str) -> Path:
        """Write an ordinary SAELens folder plus `surgery.json` and `before.safetensors`, whole or not at all.

        Raises:
            FileExistsError: the folder holds something other than an operation.
        """
        from safetensors.torch import save

        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).exists():
            raise FileExistsError(f"{folder} holds files that are no operation; choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
        try:
            self.sae.sae.save_model(new)
            before = save({name: value.cpu().contiguous() for name, value in self.before.items()})
            (new / BEFORE).write_bytes(before)
            about = {
                "schema_version": SCHEMA,
                "kind": "surgery",
                "name": self.name,
                "layer": self.layer,
                "latents": self.latents.tolist(),
                "by_dimension": self.by_dimension,
                "before_sha256": hashlib.sha256(before).hexdigest(),
                **self.record,
            }
            write_json(new / RECORD, about)
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        return folder

    @staticmethod
    def load(folder: Path | str, *, device: str | torch.device | None = None) -> Operation:
        """What `save` wrote, every hash checked.

        Raises:
            FileNotFoundError: no operation in the folder.
            ValueError: another kind of file, a newer schema, or files that are not those the record was written with.
        """
        from safetensors.torch import load

        folder = Path(folder)
        if not (folder / RECORD).exists():
            raise FileNotFoundError(f"no {RECORD} in {folder}; expected a folder written by Operation.save")
        about = json.loads((folder / RECORD).read_text(encoding="utf8"))
        if about.get("kind") != "surgery" or about.get("schema_version", 0) > SCHEMA:
            raise ValueError(
                f"{folder} holds {about.get('kind')!r} of schema {about.get('schema_version')}; expected 'surgery' of "
                f"schema {SCHEMA} or earlier"
            )
        dtype = json.loads((folder / "cfg.json").read_text(encoding="utf8"))["dtype"]
        sae = load_sae(folder, layer=about["layer"], dtype=dtype, device=device)
        sae = dataclasses.replace(sae, source=about["name"])
        content = (folder / BEFORE).read_bytes()
        if sae.sha256 != about["sha256"]["after"] or hashlib.sha256(content).hexdigest() != about["before_sha256"]:
            raise ValueError(f"the weights in {folder} are not those its {RECORD} was written with")
        before = {name: value.to(sae.sae.device) for name, value in load(content).items()}
        own = ("schema_version", "kind", "name", "layer", "latents", "by_dimension", "before_sha256")
        record = {key: value for key, value in about.items() if key not in own}
        found = Operation(sae, torch.tensor(about["latents"]), before, about["by_dimension"], record)
        found.original()
        return found


def digests(text: Iterable[str]) -> list[str]:
    """Short hashes of distinct normalised texts, sorted: enough to see later whether a text was among them."""
    return sorted({hashlib.sha256(normalise(one).encode()).hexdigest()[:12] for one in text})


def trained_names(sae: LoadedSae) -> tuple[str, ...]:
    """The parameters surgery trains: encoder and decoder rows, and the encoder's biases."""
    biases = ("b_gate", "b_mag") if sae.architecture == "gated" else ("b_enc",)
    return ("W_enc", *biases, "W_dec")


def rows_of(sae: LoadedSae, latents: Int[Tensor, "k"]) -> Rows:
    """A copy of the parameters of k latents, as surgery trains them."""
    index, state = latents.to(sae.sae.device), sae.sae.state_dict()
    return {name: state[name].index_select(_axis(name), index).clone() for name in trained_names(sae)}


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


def push(operation: Operation, repo_id: str, *, sae_id: str | None = None, revision: str = "main") -> None:
    """Upload to the hub with SAELens' uploader, and beside it `surgery.json` and `before.safetensors`, which that
    leaves out.

    Args:
        sae_id: folder in the repository; the hook name by default.
    """
    import tempfile

    from huggingface_hub import HfApi
    from sae_lens.training.upload_saes_to_huggingface import upload_saes_to_huggingface

    sae_id = sae_id or operation.hook_name
    with tempfile.TemporaryDirectory() as temporary:
        folder = operation.save(Path(temporary) / "operation")
        upload_saes_to_huggingface({sae_id: folder}, repo_id, hf_revision=revision)
        HfApi().upload_folder(
            folder_path=folder,
            path_in_repo=sae_id,
            repo_id=repo_id,
            revision=revision,
            allow_patterns=[RECORD, BEFORE],
        )


def _axis(name: str) -> int:
    return 1 if name == "W_enc" else 0
