"""Folders: where things are kept, one process at a time, never two results mixed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from sae_moral.errors import BusyError, FolderError
from sae_moral.io.files import remove_leftovers
from sae_moral.io.leases import holder_of, leased
from sae_moral.io.records import jsonable, key, read_record, write_record

OFFLINE_VARIABLES = ("SAE_MORAL_OFFLINE", "HF_HUB_OFFLINE")
LOCK = ".lock"
"""Name of a folder's lease; it is there while somebody holds it."""
_NOTHING = object()
logger = logging.getLogger(__name__)


def cache_folder(name: str = "") -> Path:
    """The folder `name` in `$SAE_MORAL_CACHE`, else in the user's cache folder. Not created."""
    return Path(os.environ.get("SAE_MORAL_CACHE") or user_cache_path("sae_moral", appauthor=False)) / name


def existing(path: str | Path) -> Path:
    """The path, or the first above it that there is."""
    whole = Path(path).absolute()
    return next(one for one in (whole, *whole.parents) if one.exists())


def is_offline(offline: bool | None = None) -> bool:
    """What the caller says; where it says nothing, whether an environment variable of `OFFLINE_VARIABLES` is set to
    anything but 0, false, no or off."""
    if offline is not None:
        return offline
    values = (os.environ.get(name, "").strip().casefold() for name in OFFLINE_VARIABLES)
    return any(value not in ("", "0", "false", "no", "off") for value in values)


@contextlib.contextmanager
def locked(folder: str | Path, *, wait: bool = False) -> Iterator[Path]:
    """Have a folder for this process alone; it is made if it is missing. A lease, which ends with its process.

    What a killed process left under a temporary name is removed first.

    Args:
        folder: the folder.
        wait: wait until it is free.

    Raises:
        BusyError: another process has it (and `wait` is False); names the process.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with leased(folder / LOCK, wait=wait) as lease:
        if lease is None:
            held = holder_of(folder / LOCK)
            raise BusyError(f"{folder} is being written by {held}; wait for it, or choose another")
        remove_leftovers(folder)
        yield folder


def claim(
    folder: str | Path, kind: str, shaped_by: Mapping[str, Any], *, files: Iterable[str] = (), overwrite: bool = False
) -> None:
    """Say in `folder/run.json` what the folder is for; refuse one that holds something else. Hold its lock.

    Args:
        folder: the folder of a command's results; made if it is missing.
        kind: of the results: `diagnosis`, `sweep`, …
        shaped_by: all that shapes them, by name; JSON values.
        files: what will be written; results of these names without a `run.json` are somebody else's.
        overwrite: take the folder over.

    Raises:
        FolderError: the folder holds other results; says in what they differ. Nothing was changed.
    """
    folder, about = Path(folder), jsonable(dict(shaped_by))
    if not overwrite:
        check_claim(folder, kind, about, files=files)
    write_record(folder / "run.json", "run", 1, {"of": kind, "key": key(kind, **about), "shaped_by": about})
    logger.info("%s is claimed for %s", folder, kind)


def check_claim(
    folder: str | Path, kind: str, shaped_by: Mapping[str, Any], *, files: Iterable[str] = (), partly: bool = False
) -> None:
    """The refusals of `claim`, without writing anything.

    Args:
        folder, kind, shaped_by, files: as for `claim`.
        partly: `shaped_by` is a part of what shapes the results, known before the rest is; only that is compared.

    Raises:
        FolderError: the folder holds other results.
    """
    folder, about = Path(folder), jsonable(dict(shaped_by))
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file; expected a folder for the results")
    path = folder / "run.json"
    if not path.exists():
        if there := [name for name in files if (folder / name).exists()]:
            raise FolderError(
                f"{folder} holds {', '.join(there)} of an unknown run; choose another folder, or overwrite=True"
            )
        return
    _, found = read_record(path, "run", 1)
    if found.get("of") != kind:
        raise FolderError(f"{folder} holds a {found.get('of')}, not a {kind}; choose another folder, or overwrite=True")
    before = found["shaped_by"] if isinstance(found.get("shaped_by"), dict) else {}
    before = {name: before.get(name) for name in about} if partly else before
    if before != about:
        told = differences(before, about)
        raise FolderError(f"{folder} holds other results: {told}; choose another folder, or overwrite=True")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words what differs between two results' `shaped_by`; empty where nothing does."""
    before, now = jsonable(before), jsonable(now)
    names = [n for n in dict.fromkeys([*before, *now]) if before.get(n, _NOTHING) != now.get(n, _NOTHING)]
    told = [f"{name} {_short(before.get(name))} (now {_short(now.get(name))})" for name in names[:4]]
    return ", ".join(told) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
