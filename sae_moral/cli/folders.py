"""Folders of results: their default names, what is checked before a model is loaded, who may write there."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_moral import io
from sae_moral.errors import BusyError, FolderError


def out_folder(arguments: argparse.Namespace, first: str, *more: str) -> Path:
    """`--out`, or a name made of the command, model and data."""
    return arguments.out or Path("-".join([first, name_of(arguments.model), name_of(arguments.data), *more]))


def name_of(given: str) -> str:
    """A model or source as part of a folder's name: that of a local folder, that of a file without its suffix, and a
    hub name with its owner."""
    path = Path(given)
    if path.is_dir():
        return path.resolve().name
    if path.is_file():
        return path.stem
    return re.sub(r"[/\\:]+", "--", given)


def check_folder(
    arguments: argparse.Namespace, out: Path, kind: str, files: Sequence[str], asked: Mapping[str, Any] | None = None
) -> None:
    """What can be known of a folder before the model is loaded; the function that writes there checks the rest."""
    check_place(out)
    if not arguments.overwrite:
        io.check_claim(out, kind, asked or {}, files=files, partly=True)


def check_place(folder: Path) -> None:
    """That it can be made, or written to."""
    place = io.existing(folder)
    if not place.is_dir():
        raise FolderError(f"{place} is a file; expected a folder for the results")
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def check_file(arguments: argparse.Namespace) -> None:
    """That the file `--out` can be written, and is not there without `--overwrite`."""
    check_place(arguments.out.absolute().parent)
    if arguments.out.exists() and not arguments.overwrite:
        raise FolderError(f"{arguments.out} exists; choose another file, or give --overwrite")


@contextlib.contextmanager
def claimed(
    arguments: argparse.Namespace, out: Path, kind: str, files: Sequence[str], shaped_by: Mapping[str, Any]
) -> Iterator[None]:
    """Have the folder for these results alone; a new one is removed if nothing comes of it."""
    new = not out.exists()
    if not arguments.overwrite:
        io.check_claim(out, kind, shaped_by, files=files)
    try:
        with io.locked(out):
            io.claim(out, kind, shaped_by, files=files, overwrite=arguments.overwrite)
            yield
    except BusyError:
        raise
    except BaseException:
        if new and not any((out / name).exists() for name in files):
            (out / "run.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
