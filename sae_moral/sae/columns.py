"""Latents read a few columns at a time, so that n scenarios × 65,536 latents are never in memory at once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.io import append
from sae_moral.sae.compatibility import ELEMENTWISE
from sae_moral.sae.load import LoadedSae, encode

ROWS = 8192
"""Vectors encoded at a time."""
ENTRY = np.dtype([("row", "<i4"), ("latent", "<i4"), ("value", "<f4")])


@runtime_checkable
class Columns(Protocol):
    """Latents of n rows, readable by columns."""

    @property
    def rows(self) -> int:
        """n."""
        ...

    @property
    def latents(self) -> int:
        """How many latents there are."""
        ...

    def read(self, start: int, stop: int) -> Float[Tensor, "n b"]:
        """Latents start … stop of every row, float32."""
        ...


@dataclass(frozen=True)
class EncodedColumns:
    """Latents computed when they are read, of an architecture in which each depends on its own encoder column.

    The vectors may be mapped from disk: only `ROWS` of them are in use at a time.
    """

    sae: LoadedSae
    vectors: Float[Tensor, "m d"]
    row: Int[Tensor, "n"]

    @property
    def rows(self) -> int:
        return len(self.row)

    @property
    def latents(self) -> int:
        return self.sae.d_sae

    def read(self, start: int, stop: int) -> Float[Tensor, "n b"]:
        part = self.sae.part(start, stop)
        return torch.cat([encode(part, self.vectors[rows], self.sae.source) for rows in self.row.split(ROWS)])


@dataclass(frozen=True)
class ChosenRows:
    """Some rows of other columns, in a given order."""

    columns: Columns
    row: Int[Tensor, "n"]

    @property
    def rows(self) -> int:
        return len(self.row)

    @property
    def latents(self) -> int:
        return self.columns.latents

    def read(self, start: int, stop: int) -> Float[Tensor, "n b"]:
        found = self.columns.read(start, stop)
        return found[self.row.to(found.device)]


class SparseColumns:
    """Latents kept as their entries other than zero (12 bytes each), in groups of neighbouring latents.

    For what cannot be computed again by column: TopK, in which latents compete, and latents pooled over tokens.
    Groups are sized so that one is at most `group_bytes` even if no entry of it is zero. Beyond `memory` bytes the
    entries go to files in a temporary folder, which is removed with the object.
    """

    def __init__(
        self, rows: int, latents: int, *, memory: int = 1 << 30, group_bytes: int = 1 << 28, folder: Path | None = None
    ) -> None:
        self.rows, self.latents = rows, latents
        self._width = int(np.clip(group_bytes // (ENTRY.itemsize * max(rows, 1)), 1, 1024))
        self._held: dict[int, list[np.ndarray]] = {}
        self._spilled: dict[int, int] = {}
        self._bytes, self._memory, self._parent = 0, memory, folder
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._last: tuple[int, np.ndarray] | None = None

    def add(self, start: int, values: Float[Tensor, "b s"]) -> None:
        """The latents of rows start …; each row once."""
        row, latent = values.nonzero(as_tuple=True)
        entries = np.empty(len(row), dtype=ENTRY)
        entries["value"] = values[row, latent].cpu().numpy()
        entries["row"], entries["latent"] = row.cpu().numpy() + start, latent.cpu().numpy()
        group = entries["latent"] // self._width
        order = np.argsort(group, kind="stable")
        entries, group = entries[order], group[order]
        present, first = np.unique(group, return_index=True)
        for name, piece in zip(present.tolist(), np.split(entries, first[1:]), strict=True):
            self._held.setdefault(name, []).append(piece)
        self._bytes += entries.nbytes
        self._last = None
        if self._bytes > self._memory:
            self._spill()

    def read(self, start: int, stop: int) -> Float[Tensor, "n b"]:
        dense = np.zeros((self.rows, stop - start), dtype=np.float32)
        for group in range(start // self._width, (stop - 1) // self._width + 1):
            entries = self._entries(group)
            entries = entries[(entries["latent"] >= start) & (entries["latent"] < stop)]
            dense[entries["row"], entries["latent"] - start] = entries["value"]
        return torch.from_numpy(dense)

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="latents-", dir=self._parent)
        for group, pieces in self._held.items():
            for piece in pieces:
                append(self._file(group), piece.tobytes())
                self._spilled[group] = self._spilled.get(group, 0) + len(piece)
        self._held, self._bytes = {}, 0

    def _entries(self, group: int) -> np.ndarray:
        if self._last is None or self._last[0] != group:
            pieces = list(self._held.get(group, ()))
            if group in self._spilled:
                pieces.append(np.fromfile(self._file(group), dtype=ENTRY))
                if len(pieces[-1]) != self._spilled[group]:
                    raise OSError(f"{self._file(group)} was changed, or cut short, while it was in use")
            self._last = group, np.concatenate(pieces) if pieces else np.empty(0, dtype=ENTRY)
        return self._last[1]

    def _file(self, group: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{group:06d}.bin"


def columns_of(sae: LoadedSae, vectors: Float[Tensor, "m d"], row: Int[Tensor, "n"]) -> Columns:
    """The latents of some of the vectors: by column where the architecture allows it, else encoded once and sparse."""
    if sae.architecture in ELEMENTWISE:
        return EncodedColumns(sae, vectors, row)
    kept = SparseColumns(len(row), sae.d_sae)
    step = max(1, min(ROWS, (1 << 28) // (4 * sae.d_sae)))
    for start in range(0, len(row), step):
        kept.add(start, sae.encode(vectors[row[start : start + step]]))
    return kept
