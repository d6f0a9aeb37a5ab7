"""Which weights a model's name stands for, said without loading them; and the one model that is in memory.

An identity (`sae_moral.provenance.describe_model`) is of a loaded model. So that a finished study is recognised without
loading every model again, what a name stands for on the disk or on the hub is known by checksum or revision here.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.errors import DataError
from sae_moral.io import canonical, file_checksum, is_offline, read_typed, write_record

if TYPE_CHECKING:
    from sae_moral.provenance import HookedModel

RECENT = 2_000_000_000
"""Nanoseconds within which a file could be written twice with one time stamp: its checksum is not kept."""
SECONDS = 10.0
"""How long the hub may take to name a revision."""


@dataclass(frozen=True)
class _Files:
    """Per path: size, times of modification and of change, inode, device, and the checksum."""

    files: dict[str, tuple[int, int, int, int, int, str]]


class Checksums:
    """Checksums of files, read again only when size, times or inode changed. Kept in a file of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[int, int, int, int, int, str]] = {}
        # A cache: without it, or where it is damaged, everything is read again.
        with contextlib.suppress(OSError, DataError):
            self._known = read_typed(path, _Files, "checksums", 1).files

    def folder(self, folder: Path) -> dict[str, str]:
        """Checksum of every file below a folder, by its path there; hidden ones left out.

        Raises:
            OSError: a file cannot be read, or changed while it was read.
        """
        before = dict(self._known)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder) for path in files]
        shown = [(n, p) for n, p in zip(names, files, strict=True) if not any(part.startswith(".") for part in n.parts)]
        found = {name.as_posix(): self._of(path) for name, path in shown}
        if self._known != before:
            write_record(self.path, "checksums", 1, {"files": self._known})
        return found

    def _of(self, path: Path) -> str:
        file, stamp = str(path.resolve()), _stamp(path)
        known = self._known.get(file)
        if known is not None and known[:-1] == stamp:
            return known[-1]
        checksum = file_checksum(path)
        if _stamp(path) != stamp:
            raise OSError(f"{path} changed while it was read; run again when it is complete")
        if time.time_ns() - max(stamp[1:3]) > RECENT:
            self._known[file] = (*stamp, checksum)
        else:
            self._known.pop(file, None)
        return checksum


def source_of(name: str, checksums: Checksums, revision: str | None = None) -> dict[str, Any] | None:
    """What determines the weights behind a name: the checksums of a folder's files (of a bundled model, those of its
    converted weights), or the commit of a hub name and revision; None where it is not known before the model is loaded.

    Raises:
        OSError: files that cannot be read.
    """
    from sae_moral.capture.bundled import BUNDLED, bundled_folder

    folder = bundled_folder(name) if name in BUNDLED else Path(name)
    if folder.is_dir():
        return {"files": checksums.folder(folder)}
    commit = None if name in BUNDLED else hub_revision(name, revision)
    return None if commit is None else {"hub": name, "revision": commit}


def hub_revision(name: str, revision: str | None = None) -> str | None:
    """The commit that a hub name (its branch or tag) stands for now: the hub's answer, or, offline, that of the cached
    model; None where neither is known."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    if not is_offline():
        try:
            return HfApi().model_info(name, revision=revision, timeout=SECONDS).sha
        except HFValidationError:
            return None
        # Not reached, refused, …: whatever it is, the cached model is what would be loaded.
        except Exception:
            pass
    reference = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / (revision or "main")
    try:
        return reference.read_text(encoding="utf8").strip() or None
    except (OSError, ValueError):
        return None


class LoadError(RuntimeError):
    """A model that could not be loaded, as opposed to one that could not be measured."""


class OneModel:
    """The model that was asked for last; the one before is freed first."""

    def __init__(self, device: str | None) -> None:
        self.device = device
        self._asked: bytes | None = None
        self._model: HookedModel | None = None
        self._error: LoadError | None = None

    def __call__(
        self, name: str, dtype: str, source: Mapping[str, Any] | None, revision: str | None = None
    ) -> HookedModel:
        """The model, loaded if it is not the one in memory. A failure is kept as a model would be.

        Args:
            source: of its weights, as `source_of` says.

        Raises:
            LoadError: it could not be loaded; says why.
        """
        from sae_moral import capture

        asked = canonical([name, dtype, source, revision])
        if self._asked != asked:
            self.free()
            self._asked = asked
            try:
                self._model = capture.load_model(name, dtype=dtype, device=self.device, revision=revision)
            except Exception as problem:
                self._error = LoadError(f"could not be loaded: {explained(problem)}")
                self._error.__cause__ = problem
        if self._error is not None:
            raise self._error
        assert self._model is not None
        return self._model

    def free(self) -> None:
        """Let the model go."""
        self._asked = self._model = self._error = None
        free_memory()


def explained(problem: Exception) -> str:
    """An exception in words; of one whose message alone is a bare word, with its type."""
    named = isinstance(problem, (ValueError, OSError, ImportError, LoadError)) and str(problem)
    return str(problem) if named else f"{type(problem).__name__}: {problem}"


def free_memory() -> None:
    """Give back what nothing refers to any more, a GPU's memory included."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _stamp(path: Path) -> tuple[int, int, int, int, int]:
    found = path.stat()
    # The time of change cannot be set by hand, as that of modification can.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev
