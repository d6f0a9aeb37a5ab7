"""The on-disk store: one safetensors file per layer, filled batch by batch, resumable after a crash.

A store lives in `folder/<key>`, where the key hashes everything that shapes its numbers. Layer files are laid out at
full size first (the safetensors header needs only shapes) and then written in place with plain file writes, so that
memory holds one batch. `progress.json` names the batches that are safely on disk; it is replaced by `store.json`
when the last one is, and the bytes are then those of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from sae_moral.capture.representations import Representations
from sae_moral.io import write_json

FORMAT = 1
SECONDS_BETWEEN_SYNCS = 2.0


def store_key(parameters: Mapping[str, Any]) -> str:
    """Hash of everything that shapes a store's numbers (JSON values)."""
    text = json.dumps({"format": FORMAT, **parameters}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """Pooled vectors [prompts, d] and sink ratios [prompts] of several layers, in one folder.

    Raises:
        ValueError: the folder holds a store that does not fit its own parameters (a file cut short or swapped).
    """

    def __init__(
        self, folder: Path, parameters: Mapping[str, Any], layers: tuple[int, ...], shape: tuple[int, int]
    ) -> None:
        self.folder = folder / store_key(parameters)
        self.layers, self.shape = layers, shape
        self.parameters = dict(parameters)
        self._header, self._sink_offset = _layout(*shape)
        self._files: dict[int, IO[bytes]] = {}
        self._synced_at = time.monotonic()

    def path(self, layer: int) -> Path:
        """The safetensors file of one layer."""
        return self.folder / f"layer_{layer:03d}.safetensors"

    @property
    def complete(self) -> bool:
        """True when every batch is on disk."""
        return (self.folder / "store.json").exists()

    def open(self) -> int:
        """Lay the files out, or take up an interrupted store; returns how many batches are already done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        progress = self.folder / "progress.json"
        done = json.loads(progress.read_text())["batches"] if progress.exists() else 0
        need = len(self.layers) * self._size
        free = shutil.disk_usage(self.folder).free
        if not progress.exists() and free < need:
            raise OSError(
                f"{self.folder} has {free / 1e9:.1f} GB free and the store needs {need / 1e9:.1f} GB; "
                "choose another disk"
            )
        for layer in self.layers:
            path = self.path(layer)
            if not progress.exists():
                with path.open("wb") as file:
                    file.write(self._header)
                    file.truncate(self._size)
            self._check_size(path)
            self._files[layer] = path.open("r+b", buffering=0)
        if not progress.exists():
            write_json(progress, {"batches": 0})
        return done

    def write(self, start: int, batch: Mapping[int, tuple[Float[Tensor, "batch d"], Float[Tensor, "batch"]]]) -> None:
        """Rows start … of every layer."""
        for layer, (vectors, sink) in batch.items():
            file = self._files[layer]
            for offset, width, tensor in (
                (len(self._header), 4 * self.shape[1], vectors),
                (self._sink_offset, 4, sink),
            ):
                file.seek(offset + start * width)
                file.write(tensor.to("cpu", torch.float32).contiguous().numpy().tobytes())

    def done(self, batches: int, *, last: bool) -> None:
        """Record that so many batches are written; syncs the files first, at most every few seconds."""
        if not last and time.monotonic() - self._synced_at < SECONDS_BETWEEN_SYNCS:
            return
        for file in self._files.values():
            os.fsync(file.fileno())
        self._synced_at = time.monotonic()
        if not last:
            write_json(self.folder / "progress.json", {"batches": batches})
            return
        write_json(
            self.folder / "store.json", {"format": FORMAT, "parameters": self.parameters, "shape": list(self.shape)}
        )
        self.tidy()

    def tidy(self) -> None:
        """Remove what a killed process may have left beside a complete store."""
        for leftover in (self.folder / "progress.json", *self.folder.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the layer files."""
        while self._files:
            self._files.popitem()[1].close()

    def read(self, layer: int, name: str = "vectors") -> Tensor:
        """One layer's `vectors` [prompts, d] or `sink` [prompts]."""
        self._check_size(self.path(layer))
        with safe_open(self.path(layer), framework="pt") as file:
            return file.get_tensor(name)

    @property
    def _size(self) -> int:
        return len(self._header) + 4 * self.shape[0] * (self.shape[1] + 1)

    def _check_size(self, path: Path) -> None:
        size = path.stat().st_size if path.exists() else 0
        with path.open("rb") if size else open(os.devnull, "rb") as file:
            header = file.read(len(self._header))
        if size != self._size or header != self._header:
            raise ValueError(
                f"{path} is not the layer file this store laid out ({size} bytes, expected {self._size}); "
                f"delete the folder {self.folder} and capture again"
            )


def _layout(prompts: int, d: int) -> tuple[bytes, int]:
    """The safetensors header of a layer file, and where its `sink` tensor starts in the file."""
    vectors, sink = 4 * prompts * d, 4 * prompts
    header = json.dumps(
        {
            "vectors": {"dtype": "F32", "shape": [prompts, d], "data_offsets": [0, vectors]},
            "sink": {"dtype": "F32", "shape": [prompts], "data_offsets": [vectors, vectors + sink]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, 8 + len(header) + vectors


def save_index(representations: Representations, path: Path) -> None:
    """Write what `reopen` needs beside the store itself: which stored row is which scenario's, and the token counts.

    Raises:
        ValueError: vectors that were not captured to a store.
    """
    if "store" not in representations.provenance:
        raise ValueError("these vectors are in memory only; capture them with store=FOLDER to reopen them later")
    arrays = {name: getattr(representations, name).tolist() for name in ("row", "length", "total")}
    write_json(path, {"format": FORMAT, "provenance": representations.provenance, **arrays})


def reopen(index: Path, folder: Path) -> Representations:
    """Captured vectors read back without the model: one layer at a time, as they were captured.

    Args:
        index: a file of `save_index`.
        folder: the `store=` folder of the capture.

    Raises:
        FileNotFoundError: no index, or no complete store of its key in the folder.
        ValueError: a store that does not fit its own key, or files that do not fit the store.
    """
    content = json.loads(index.read_text(encoding="utf8"))
    described = folder / content["provenance"]["store"] / "store.json"
    if not described.exists():
        raise FileNotFoundError(f"no complete store {described.parent}; capture again")
    about = json.loads(described.read_text(encoding="utf8"))
    layers, (prompts, d) = tuple(about["parameters"]["layers"]), about["shape"]
    store = Store(folder, about["parameters"], layers, (prompts, d))
    if store.folder != described.parent:
        raise ValueError(f"{described} was changed: its parameters hash to {store.folder.name}; capture again")
    row, length, total = (np.asarray(content[name], dtype=np.int64) for name in ("row", "length", "total"))
    return Representations(layers, row, length, total, content["provenance"], store.read)
