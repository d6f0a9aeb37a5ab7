"""Files that appear whole or not at all: written under a temporary name in the same folder, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from sae_moral.errors import DataError

TEMPORARY = ".sae-moral-"
"""What names of temporary entries begin with; then host and number of the process."""


@runtime_checkable
class Writes(Protocol):
    """An unbuffered file, as far as `write_all` needs one."""

    def write(self, content: memoryview, /) -> int | None:
        """Take some of the content; returns how many bytes."""
        ...


def write_all(file: Writes, content: bytes | memoryview) -> None:
    """Write every byte to an unbuffered file, which may take fewer than it is given.

    Raises:
        OSError: the file took nothing more (a full disk).
    """
    rest = memoryview(content).cast("B")
    while rest:
        written = file.write(rest)
        if not written:
            raise OSError(f"{getattr(file, 'name', 'file')}: nothing more could be written; is the disk full?")
        rest = rest[written:]


@contextlib.contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """A new, empty temporary folder's entry that becomes `path` when the block ends without an error.

    For libraries that write files or folders themselves: write to the path that is given, a file or a folder. It is
    synced and renamed; an existing `path` is replaced. After an error nothing is left, and `path` is as it was.

    Example:
        with staged(folder / "weights.safetensors") as temporary:
            save_file(tensors, temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp is exclusive and private: nobody can plant a link where the file will be opened.
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{TEMPORARY}{owner()}-"))
    try:
        temporary = scratch / path.name
        yield temporary
        if temporary.is_dir() and path.exists():
            os.replace(path, scratch / ".old")
        publish(temporary, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(temporary: Path, path: Path) -> None:
    """Sync a finished file or folder, and give it its name: afterwards it is on the disk, whole."""
    for one in sorted(temporary.rglob("*")) if temporary.is_dir() else [temporary]:
        if one.is_file():
            with one.open("rb") as file:
                os.fsync(file.fileno())
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove a folder, if it is there. It loses its name first: whoever works in it finds no folder, and never a part
    of one."""
    nameless = folder.with_name(f"{TEMPORARY}{owner()}-{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        os.rename(folder, nameless)
    shutil.rmtree(nameless, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file: readers see the old one or the new one, never a part."""
    with staged(path) as temporary, temporary.open("xb", buffering=0) as file:
        write_all(file, content)


def write_from(path: str | Path, start: int, chunks: Iterable[bytes]) -> None:
    """Write chunks into a file from its byte `start` on, cutting off what was behind; on the disk when it returns.

    For files that grow over several calls (a download); everything else is written whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "x+b", buffering=0) as file:
        file.seek(start)
        file.truncate()
        for chunk in chunks:
            write_all(file, chunk)
        os.fsync(file.fileno())


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8 text, line ends as they are."""
    write_bytes(path, text.encode("utf8"))


def write_together(folder: str | Path, files: Mapping[str, str | bytes]) -> None:
    """Write several files of one folder: all are on the disk before the first takes its place."""
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        for name, content in files.items():
            temporary = stack.enter_context(staged(folder / name))
            with temporary.open("xb", buffering=0) as file:
                write_all(file, content.encode("utf8") if isinstance(content, str) else content)


@contextlib.contextmanager
def staged_files(folder: str | Path, *, first: str | None = None) -> Iterator[Path]:
    """An empty temporary folder whose files become files of `folder` when the block ends without an error, for
    libraries that write several files themselves: all are on the disk before one takes its place, `first` the first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=f"{TEMPORARY}{owner()}-"))
    try:
        yield scratch
        paths = sorted((path for path in scratch.iterdir() if path.is_file()), key=lambda path: path.name != first)
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for path in paths:
            publish(path, folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def reserve(file: IO[bytes], size: int) -> None:
    """Make the file `size` bytes long, the space for them taken from the disk.

    Raises:
        OSError: the disk has less; says how much is free and how much is needed.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError as error:
        free = shutil.disk_usage(Path(file.name).parent).free
        raise OSError(
            error.errno,
            f"{free / 1e9:.2f} GB free and {size / 1e9:.2f} GB needed ({error.strerror}); choose another disk",
            file.name,
        ) from error


def open_in_place(path: str | Path, size: int, *, fresh: bool) -> IO[bytes]:
    """A file of a fixed size, unbuffered, for writing parts of it in place (with `write_all`).

    A half-written one looks like any other: keep checksums of what was written in a record.

    Args:
        path: the file.
        size: in bytes; reserved when the file is made.
        fresh: make it, in the place of one that is there; else open the one that is there.

    Raises:
        OSError: the disk has too little space (no file is left then), or no such file.
    """
    path = Path(path)
    if not fresh:
        return path.open("r+b", buffering=0)
    path.unlink(missing_ok=True)  # never through a link that somebody put there
    file = path.open("x+b", buffering=0)
    try:
        reserve(file, size)
    except OSError:
        file.close()
        path.unlink()
        raise
    return file


def append(path: str | Path, content: bytes | memoryview) -> None:
    """Append to a file that nobody needs after this process; what must last is a record or a journal."""
    with Path(path).open("ab", buffering=0) as file:
        write_all(file, content)


def open_log(path: str | Path) -> IO[bytes]:
    """A file to append to what a process prints, unbuffered; its folder is made if it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab", buffering=0)


def file_checksum(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_checksums(folder: str | Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """SHA-256 of files in a folder, by name: of all of them, or of those named. For a record beside them."""
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if names is None else names
    return {name: file_checksum(folder / name) for name in names}


def check_files(folder: str | Path, checksums: Mapping[str, str]) -> None:
    """Check files against the checksums that a record holds of them.

    Raises:
        DataError: a file is missing, or not the one that the record was written with; names it.
    """
    for name, expected in checksums.items():
        path = Path(folder) / name
        if not path.is_file():
            raise DataError("missing, and the record beside it lists it", file=path)
        if file_checksum(path) != expected:
            raise DataError("damaged or changed: not the file that the record beside it was written with", file=path)


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary entries of processes that are no more (`staged`); those of other hosts stay for a day."""
    for entry in Path(folder).glob(f"{TEMPORARY}*"):
        host, pid = [*entry.name.removeprefix(TEMPORARY).split("-"), ""][:2]
        with contextlib.suppress(OSError):
            age = datetime.now().timestamp() - entry.stat().st_mtime
            if (host == this_host() and not alive(pid)) or age > 86_400:
                shutil.rmtree(entry, ignore_errors=True)


@cache
def this_host() -> str:
    """This machine since it was started, and its process numbers: of two containers on one machine they are others."""
    about = [socket.gethostname()]
    with contextlib.suppress(OSError):
        about.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf8"))
        about.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:8]


def owner() -> str:
    """Host and number of this process."""
    return f"{this_host()}-{os.getpid()}"


def alive(pid: str) -> bool:
    """Whether a process of this host is there. One that has ended and was not yet waited for is not."""
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with contextlib.suppress(OSError):  # Linux; elsewhere it counts as alive until somebody waits for it
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:1] != [b"Z"]
    return True
