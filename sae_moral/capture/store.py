"""The on-disk store: one safetensors file per layer, filled batch by batch, resumable after a crash.

A store lives in `folder/<key>`, where the key hashes everything that shapes its numbers. Layer files are laid out at
full size first, their space reserved (the safetensors header needs only shapes), and then written in place, so that
memory holds one batch. `progress.json` says how many rows are safely on disk; `store.json` takes its place when all
are. Both hold a checksum of what was to be written, per layer and tensor: what the disk holds is compared with it when
a capture is taken up, and when a layer is first read.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from sae_moral.capture.vectors import Representations
from sae_moral.errors import DataError
from sae_moral.io import (
    Lease,
    discard,
    key,
    locked,
    open_in_place,
    read_record,
    read_typed,
    shared,
    write_all,
    write_record,
)

logger = logging.getLogger(__name__)
KIND, PROGRESS, INDEX = "capture-store", "capture-progress", "capture-index"
SCHEMA = 2
SECONDS_BETWEEN_SYNCS = 2.0
STORED = ("float32", "bfloat16")
"""What vectors may be on the disk; what is read is float32."""
DTYPES: dict[str, torch.dtype] = dict(zip(STORED, (torch.float32, torch.bfloat16), strict=True))
ROUNDING = {"float32": 0.0, "bfloat16": 2.0**-8}
"""Largest relative error of a number that is written."""
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_CHUNK = 1 << 24
_ROWS = 4096

Batch = Mapping[int, Mapping[str, Tensor]]
"""Per layer what a reader took of a batch, by name: `vectors` [rows, d], `sink` [rows]."""
WriteRows = Callable[[int, int, Callable[[int, Batch], None]], None]
"""Called with rows from and to, and with what takes them."""
_verified: set[tuple[str, int, int, int]] = set()
"""Layer files whose checksums were compared in this process: path, size, time of the last change, inode."""


@dataclass(frozen=True)
class StoreRecord:
    """What a complete store says of itself.

    Attributes:
        shaped_by: all that shapes its numbers.
        shape: rows, and width of a vector.
        parts: what is kept per layer.
        checksums: of each part of each layer, by the layer's number.
    """

    shaped_by: dict[str, Any]
    shape: tuple[int, int]
    parts: tuple[str, ...]
    checksums: dict[str, dict[str, str]]


@dataclass(frozen=True)
class _Progress:
    rows: int
    checksums: dict[str, dict[str, str]]


class Store:
    """Vectors [rows, d] of several layers, and of pooled ones the sink ratios [rows], in one folder.

    Args:
        folder: the folder of stores; this one is a folder in it, named by its key.
        shaped_by: all that shapes the numbers, by name; JSON values.
        layers: block numbers.
        shape: rows, and width of a vector.
        parts: what is kept per layer: `vectors`, and perhaps `sink`.
        dtype: of the vectors, a name of `DTYPES`; what rounds them has to be among what shapes the numbers.
    """

    def __init__(
        self,
        folder: Path,
        shaped_by: Mapping[str, Any],
        layers: tuple[int, ...],
        shape: tuple[int, int],
        parts: tuple[str, ...] = ("vectors", "sink"),
        dtype: str = "float32",
    ) -> None:
        self.folder = folder / key(f"{KIND}/{SCHEMA}", **shaped_by)
        self.layers, self.shape, self.shaped_by, self.parts, self.dtype = layers, shape, dict(shaped_by), parts, dtype
        self._header, self._offsets, self._size = _layout(*shape, parts, dtype)
        self._files: dict[int, IO[bytes]] = {}
        self._sums: dict[int, dict[str, xxhash.xxh3_128]] = {}
        self._rows, self._synced_at = 0, 0.0

    def path(self, layer: int) -> Path:
        """The safetensors file of one layer."""
        return self.folder / f"layer_{layer:03d}.safetensors"

    @property
    def complete(self) -> bool:
        """True when every row is on disk."""
        return (self.folder / "store.json").exists()

    def fill(self, write: Callable[[int, Callable[[int, Batch], None]], None]) -> None:
        """Complete the store, unless it is; what another process is writing is waited for.

        Args:
            write: called with how many rows are there already, and with a function that takes the next ones: the
                number of the first of them, and per layer its tensors.

        Raises:
            OSError: the disk has too little space (nothing is left then), or refused a write.
            DataError: what is on the disk is not what was written.
        """
        if self.complete and not self._progress.exists():
            self.record  # noqa: B018  (damage to it is noticed)
            logger.info("%s rows are found in %s", f"{self.shape[0]:,}", self.folder)
            return
        with locked(self.folder, wait=True):
            if not self.complete:
                try:
                    self._open()
                    write(self._rows, self._add)
                    self._finish()
                finally:
                    while self._files:
                        self._files.popitem()[1].close()
            self._progress.unlink(missing_ok=True)

    def fill_in_shards(self, write: WriteRows, bounds: Sequence[int]) -> None:
        """`fill` by all processes that call this: each captures shards into stores of their own, and the first that
        finds all there puts them together. For a while the vectors take twice their space.

        Args:
            write: called with rows `from` and `to`, and with a function that takes those, as for `fill`.
            bounds: ascending row numbers from 0 to the number of rows; where the shards begin and end.

        Raises:
            OSError, DataError: as `fill`.
        """
        place, rows = self.folder / "shards", list(itertools.pairwise(bounds))
        of = {
            (a, b): Store(
                place, {**self.shaped_by, "rows": [a, b]}, self.layers, (b - a, self.shape[1]), self.parts, self.dtype
            )
            for a, b in rows
        }

        def find(shard: tuple[int, int]) -> bool | None:
            return self.complete or of[shard].complete or None

        def make(shard: tuple[int, int], lease: Lease) -> bool:
            a, b = shard
            of[shard].fill(lambda done, take: write(a + done, b, lambda start, batch: take(start - a, batch)))
            return True

        def join(done: int, take: Callable[[int, Batch], None]) -> None:
            for start in range(done, self.shape[0], _ROWS):
                take(start, self._joined(of, start, min(start + _ROWS, self.shape[0])))

        if not self.complete:
            for _ in shared({shard: place / f".{shard[0]}-{shard[1]}.lease" for shard in rows}, find, make):
                pass
        self.fill(join)
        discard(place)

    def _joined(self, of: Mapping[tuple[int, int], Store], start: int, stop: int) -> Batch:
        """Rows start … stop, from the shards that have them."""
        found: dict[int, dict[str, Tensor]] = {}
        for layer in self.layers:
            found[layer] = {
                name: torch.cat(
                    [
                        one.read(layer, name)[max(start - a, 0) : max(stop - a, 0)]
                        for (a, b), one in of.items()
                        if a < stop and start < b
                    ]
                )
                for name in self.parts
            }
        return found

    def read(self, layer: int, name: str = "vectors") -> Tensor:
        """One layer's `vectors` [rows, d] or `sink` [rows] in float32, mapped from disk: only what is used comes into
        memory, unless they are kept in another dtype.

        Raises:
            DataError: a file that is not as it was written; every file is compared once per process.
        """
        path = self.path(layer)
        self._check_layout(path)
        about = path.stat()
        seen = (str(path.absolute()), about.st_size, about.st_mtime_ns, about.st_ino)
        if seen not in _verified:
            self._compare(layer, self.record.checksums, self.shape[0])
            _verified.add(seen)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name).float()

    @property
    def record(self) -> StoreRecord:
        """What `store.json` says.

        Raises:
            DataError: damaged.
        """
        return read_typed(self.folder / "store.json", StoreRecord, KIND, SCHEMA, oldest=SCHEMA)

    @property
    def _progress(self) -> Path:
        return self.folder / "progress.json"

    def _open(self) -> None:
        fresh = not self._progress.exists()
        try:
            for layer in self.layers:
                path = self.path(layer)
                if not fresh:
                    self._check_layout(path)
                self._files[layer] = open_in_place(path, self._size, fresh=fresh)
                if fresh:
                    write_all(self._files[layer], self._header)
        except OSError:
            if fresh:  # the layers before took space that somebody needs
                for path in map(self.path, self.layers):
                    path.unlink(missing_ok=True)
            raise
        self._sums = {layer: {name: xxhash.xxh3_128() for name in self.parts} for layer in self.layers}
        self._rows, self._synced_at = 0, time.monotonic()
        if fresh:
            self._record_progress()
        else:
            found = read_typed(self._progress, _Progress, PROGRESS, SCHEMA, oldest=SCHEMA)
            self._rows = found.rows
            self._sums = {layer: self._compare(layer, found.checksums, found.rows) for layer in self.layers}

    def _add(self, start: int, batch: Batch) -> None:
        if start != self._rows:
            raise ValueError(f"rows from {start} on, and {self._rows} are written; expected the next ones")
        for layer, tensors in batch.items():
            for name, tensor in tensors.items():
                kept = tensor.to("cpu", _item(name, self.dtype)).contiguous()
                content = kept.view(torch.uint8).numpy().data.cast("B")  # NumPy has no bfloat16
                self._files[layer].seek(self._offsets[name] + start * self._width(name))
                write_all(self._files[layer], content)
                self._sums[layer][name].update(content)
        self._rows += len(next(iter(batch.values()))["vectors"])
        if time.monotonic() - self._synced_at >= SECONDS_BETWEEN_SYNCS:
            self._sync()
            self._record_progress()

    def _finish(self) -> None:
        if self._rows != self.shape[0]:
            raise ValueError(f"{self._rows} rows were written to a store of {self.shape[0]}")
        self._sync()
        about = StoreRecord(self.shaped_by, self.shape, self.parts, self._checksums())
        write_record(self.folder / "store.json", KIND, SCHEMA, vars(about))

    def _sync(self) -> None:
        for file in self._files.values():
            os.fsync(file.fileno())
        self._synced_at = time.monotonic()

    def _record_progress(self) -> None:
        write_record(self._progress, PROGRESS, SCHEMA, {"rows": self._rows, "checksums": self._checksums()})

    def _checksums(self) -> dict[str, dict[str, str]]:
        return {str(layer): {name: one.hexdigest() for name, one in of.items()} for layer, of in self._sums.items()}

    def _width(self, name: str) -> int:
        return _item(name, self.dtype).itemsize * (self.shape[1] if name == "vectors" else 1)

    def _compare(self, layer: int, checksums: Mapping[str, Mapping[str, str]], rows: int) -> dict[str, Any]:
        """The checksums of the first rows on the disk, as objects that the next rows can be added to.

        Raises:
            DataError: they are not those that were recorded.
        """
        found = {name: xxhash.xxh3_128() for name in self.parts}
        with self.path(layer).open("rb") as file:
            for name, one in found.items():
                file.seek(self._offsets[name])
                left = rows * self._width(name)
                while left and (chunk := file.read(min(left, _CHUNK))):
                    one.update(chunk)
                    left -= len(chunk)
        if {name: one.hexdigest() for name, one in found.items()} != checksums.get(str(layer)):
            raise DataError(
                f"its vectors are not those that were written; delete the folder {self.folder} and capture again",
                file=self.path(layer),
            )
        return found

    def _check_layout(self, path: Path) -> None:
        size = path.stat().st_size if path.exists() else 0
        header = b""
        if size:
            with path.open("rb") as file:
                header = file.read(len(self._header))
        if size != self._size or header != self._header:
            raise DataError(
                f"not the layer file this store laid out ({size} bytes, expected {self._size}); delete the folder "
                f"{self.folder} and capture again",
                file=path,
            )


def _layout(rows: int, d: int, parts: tuple[str, ...], dtype: str) -> tuple[bytes, dict[str, int], int]:
    """The safetensors header of a layer file, where each tensor starts in the file, and the size of the file."""
    about, offsets, end = {}, {}, 0
    for name in sorted(parts, key=lambda name: -_item(name, dtype).itemsize):  # each begins at a multiple of its items
        kept, shape = _item(name, dtype), [rows, d] if name == "vectors" else [rows]
        size = kept.itemsize * int(np.prod(shape))
        about[name] = {"dtype": _CODES[kept], "shape": shape, "data_offsets": [end, end + size]}
        offsets[name], end = end, end + size
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    return len(header).to_bytes(8, "little") + header, {k: start + at for k, at in offsets.items()}, start + end


def _item(name: str, dtype: str) -> torch.dtype:
    return DTYPES[dtype if name == "vectors" else "float32"]


def layer_bytes(rows: int, d: int, parts: tuple[str, ...] = ("vectors", "sink"), dtype: str = "float32") -> int:
    """Size of one layer's file of a store: its header and its numbers."""
    return _layout(rows, d, parts, dtype)[2]


def save_index(representations: Representations, path: Path) -> None:
    """Write what `reopen` needs beside the store itself: which stored row is which scenario's, and the token counts.

    Raises:
        ValueError: vectors that were not captured to a store.
    """
    if "store" not in representations.provenance:
        raise ValueError("these vectors are in memory only; capture them with store=FOLDER to reopen them later")
    arrays = {name: getattr(representations, name).tolist() for name in ("row", "length", "total")}
    first = None if representations.first is None else representations.first.tolist()
    write_record(path, INDEX, SCHEMA, {"provenance": representations.provenance, **arrays, "first": first})


def reopen(index: Path, folder: Path) -> Representations:
    """Captured vectors read back without the model: one layer at a time, as they were captured.

    Args:
        index: a file of `save_index`.
        folder: the `store=` folder of the capture.

    Raises:
        FileNotFoundError: no index, or no complete store of its key in the folder.
        DataError: files that were changed, or do not fit the store; when a layer is read, vectors that were.
    """
    _, content = read_record(index, INDEX, SCHEMA, oldest=SCHEMA)
    try:
        described = folder / content["provenance"]["store"] / "store.json"
        row, length, total = (np.array(content[name], dtype=np.int64) for name in ("row", "length", "total"))
        first = None if content["first"] is None else np.array(content["first"], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not an index of captured vectors: {error!r:.200}", file=index) from error
    if not described.exists():
        raise FileNotFoundError(f"no complete store {described.parent}; capture again")
    about = read_typed(described, StoreRecord, KIND, SCHEMA, oldest=SCHEMA)
    dtype = about.shaped_by.get("store_dtype", "float32")
    store = Store(folder, about.shaped_by, tuple(about.shaped_by.get("layers", ())), about.shape, about.parts, dtype)
    if store.folder != described.parent:
        raise DataError(f"was changed: what it says hashes to {store.folder.name}; capture again", file=described)
    return Representations(store.layers, row, length, total, content["provenance"], store.read, first=first)
