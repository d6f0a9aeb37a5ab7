"""The only place that opens a file for writing, and the readers of what it wrote.

Every file appears whole or not at all: it is written under a temporary name of its own in the same folder, synced, and
renamed. Every state file is a *record* (a JSON object with `kind`, `schema_version` and a `checksum` of all the rest),
a *journal* (JSON lines, each with its own checksum), or a binary file whose checksum a record holds, so that damage is
noticed when it is read. Readers return what was written or raise `DataError` with file and place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, runtime_checkable

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from sae_moral.errors import BusyError, DataError, FolderError

T = TypeVar("T")
OFFLINE_VARIABLES = ("SAE_MORAL_OFFLINE", "HF_HUB_OFFLINE")
LOCK = ".lock"
"""Name of a folder's lock file; it stays behind, empty of meaning, when nobody holds it."""
_TEMPORARY = ".sae-moral-"
_DEEPEST = 200
"""Nesting of JSON beyond which a file is damaged; ours are below 20."""


def cache_folder(name: str = "") -> Path:
    """The folder `name` in `$SAE_MORAL_CACHE`, else in the user's cache folder. Not created."""
    return Path(os.environ.get("SAE_MORAL_CACHE") or user_cache_path("sae_moral", appauthor=False)) / name


def is_offline(offline: bool | None = None) -> bool:
    """What the caller says; where it says nothing, whether an environment variable of `OFFLINE_VARIABLES` is set to
    anything but 0, false, no or off."""
    if offline is not None:
        return offline
    values = (os.environ.get(name, "").strip().casefold() for name in OFFLINE_VARIABLES)
    return any(value not in ("", "0", "false", "no", "off") for value in values)


# Writing


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
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_TEMPORARY}{_owner()}-"))
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


def write_json(path: str | Path, value: object) -> None:
    """`write_text` of the value as JSON, for files that others read; state files are records (`write_record`).

    Raises:
        TypeError, ValueError: a value JSON cannot hold, NaN included.
    """
    write_text(path, json.dumps(jsonable(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


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
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=f"{_TEMPORARY}{_owner()}-"))
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


# Records


def jsonable(value: Any) -> Any:
    """Dataclasses, tuples and mappings as what JSON has for them.

    Raises:
        TypeError: a value JSON cannot hold (no `str()` of whatever it is: two things must not look alike).
        ValueError: NaN or an infinity.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {wrong[0]!r} is no text; JSON objects have text for keys")
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be kept in JSON; give None for what was not computed")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a {type(value).__name__} ({value!r:.80}) cannot be kept in JSON")


def canonical(value: Any) -> bytes:
    """One spelling of a JSON value: sorted keys, no blanks, UTF-8."""
    return json.dumps(
        jsonable(value), sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":")
    ).encode()


def key(kind: str, /, **shaped_by: Any) -> str:
    """Hash of everything that shaped a result: 32 hexadecimal digits, equal exactly when all of it is equal.

    Args:
        kind: what is made, with the number of its method where that has changed (`sweep-cell/2`).
        shaped_by: JSON values, dataclasses of them.

    Raises:
        TypeError: a value JSON cannot hold.
    """
    return hashlib.sha256(canonical({"kind": kind, "shaped_by": shaped_by})).hexdigest()[:32]


def checksum(value: Any) -> str:
    """Checksum of a JSON value, as records and journal lines carry it: 16 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


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


def record(kind: str, schema: int, content: Mapping[str, Any]) -> str:
    """The text of a record: `schema_version`, `kind`, the content, and the checksum of these.

    Raises:
        TypeError, ValueError: a value JSON cannot hold, NaN included.
    """
    whole = {"schema_version": schema, "kind": kind, **jsonable(content)}
    whole = {**whole, "checksum": checksum(whole)}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_record(path: str | Path, kind: str, schema: int, content: Mapping[str, Any]) -> None:
    """Write a record (see `record`), whole or not at all."""
    write_text(path, record(kind, schema, content))


def read_record(
    path: str | Path, kind: str, schema: int, *, checked_from: int = 1, oldest: int = 1
) -> tuple[int, dict[str, Any]]:
    """A record's schema version and content (without `schema_version`, `kind` and `checksum`).

    Args:
        path: the file.
        kind: what it must be.
        schema: the newest version this code knows.
        checked_from: the first version that has a checksum.
        oldest: the oldest version this code can still read.

    Raises:
        DataError: another kind, another version, damage; names file and place.
        OSError: the file cannot be read, FileNotFoundError among them.
    """
    path = Path(path)
    named = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    content = read_json(path, what=named)
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise DataError(f"not {named}: expected a JSON object whose kind is '{kind}'", file=path)
    found = content.get("schema_version")
    if type(found) is not int or not oldest <= found <= schema:
        raise DataError(
            f"schema version {found!r}; this sae_moral reads {oldest} to {schema}: install the one that wrote it",
            file=path,
        )
    stated = content.pop("checksum", None)
    if (stated is not None or found >= checked_from) and stated != checksum(content):
        raise DataError("damaged, or changed by hand: it does not fit its own checksum; make it again", file=path)
    return found, {name: value for name, value in content.items() if name not in ("kind", "schema_version")}


def read_typed(
    path: str | Path,
    to: type[T],
    kind: str,
    schema: int,
    *,
    checked_from: int = 1,
    oldest: int = 1,
    migrate: Callable[[int, dict[str, Any]], dict[str, Any]] | None = None,
) -> T:
    """A record's content as an object of a type, every field checked: the one loader of all results.

    Args:
        path, kind, schema, checked_from, oldest: as for `read_record`.
        to: a dataclass (of dataclasses, typed dictionaries, lists, …) whose fields are the content's names.
        migrate: from an older version and its content to today's content. It may take for granted what that version
            wrote: what it trips over is reported as damage.

    Raises:
        DataError: as `read_record`; a field that is missing, unknown, or of another type, by its place.
    """
    version, content = read_record(path, kind, schema, checked_from=checked_from, oldest=oldest)
    if version < schema and migrate is not None:
        try:
            content = migrate(version, content)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a {kind} of schema {version}: {error!r:.200}", file=path) from error
    return typed(content, to, file=path)


def typed(value: Any, to: type[T], *, file: str | Path | None = None, row: int | None = None) -> T:
    """A JSON value as an object of a type, every field checked and none left over.

    Raises:
        DataError: a field that is missing, unknown, or of another type, by its place.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        # Not `canonical`: what stands by name keeps its order.
        text = json.dumps(jsonable(value), ensure_ascii=True, allow_nan=False)
        found = TypeAdapter(to).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DataError(f"{place or 'the whole'}: {first['msg'].lower()}{more}", file=file, row=row) from error
    if left := _left_over(value, jsonable(found)):
        raise DataError(f"{left}: unknown field", file=file, row=row)
    return found


def read_text(path: str | Path) -> str:
    """A UTF-8 text; a byte order mark is skipped.

    Raises:
        DataError: other bytes; says where.
        OSError: the file cannot be read.
    """
    return decode(Path(path).read_bytes(), file=path)


def decode(content: bytes, *, file: str | Path, row: int | None = None) -> str:
    """Bytes of a file as UTF-8 text; a byte order mark is skipped.

    Args:
        row: the line they are, where they are one; else the line of the offending byte is found.

    Raises:
        DataError: other bytes; says where.
    """
    try:
        return content.decode("utf8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        utf16 = "; it looks like UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") or 0 in content[:4] else ""
        problem = f"byte 0x{content[error.start]:02x} is not UTF-8{utf16}; save it as UTF-8"
        raise DataError(problem, file=file, row=row or line) from error


def read_json(path: str | Path, *, what: str = "JSON") -> Any:
    """Any JSON file; a number that is no JSON (NaN) and a key given twice are refused.

    Raises:
        DataError: something else; names file and line.
        OSError: the file cannot be read.
    """
    return parse_json(read_text(path), file=path, what=what)


def parse_json(
    text: str, *, file: str | Path | None = None, row: int | None = None, what: str = "JSON", nan: bool = False
) -> Any:
    """A JSON text.

    Args:
        file, row: where it is from.
        what: what was expected, for the message.
        nan: accept NaN and infinities, as Python's own writer leaves them in other people's files.

    Raises:
        DataError: something else, however damaged (nested a thousand deep, too); names file and line.
    """
    try:
        value = json.loads(text, parse_constant=float if nan else _no_constant, object_pairs_hook=_unique)
        _check_depth(value)
        return value
    except RecursionError:
        raise DataError(f"not {what}: nested too deeply", file=file, row=row) from None
    except json.JSONDecodeError as error:
        problem = f"not {what}: {error.msg} at character {error.colno}"
        raise DataError(problem, file=file, row=row or error.lineno) from error
    except ValueError as error:  # a number of thousands of digits, NaN, a key twice
        raise DataError(f"not {what}: {error}", file=file, row=row) from error


# Journals


class Journal:
    """Values by key in a file of JSON lines, each on the disk before `add` returns: long work goes on where it ended.

    A last line that was cut short (a kill, a full disk) is dropped; any other line that does not fit its own checksum
    is an error. Several processes, and several objects of one, may share a file: what one adds the others find.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """Read what is there; without a path values are kept in memory only.

        Raises:
            DataError: a damaged line; names file and line.
        """
        self.path = None if path is None else Path(path)
        self._values: dict[str, Any] = {}
        self._end = self._lines = 0
        self._read_on()

    def __contains__(self, name: object) -> bool:
        if name not in self._values:
            self._read_on()
        return name in self._values

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return self._values[name]

    def __len__(self) -> int:
        self._read_on()
        return len(self._values)

    def get(self, name: str) -> Any | None:
        """The value of a key; None where there is none.

        Raises:
            DataError: a damaged line that another process added.
        """
        return self._values[name] if name in self else None

    def add(self, name: str, value: Any) -> None:
        """Keep a value; when this returns, it is on the disk.

        Raises:
            OSError: it could not be written; what was there before is unharmed.
            TypeError, ValueError: a value JSON cannot hold.
        """
        value = jsonable(value)
        if self.path is not None:
            entry = {"key": name, "value": value}
            line = json.dumps({**entry, "checksum": checksum(entry)}, ensure_ascii=False, allow_nan=False) + "\n"
            self._append(self.path, line.encode())
        self._values[name] = value

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file, _alone(file):
            self._take(path, file)
            file.truncate(self._end)  # what a kill left of a line
            try:
                write_all(file, line)
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(self._end)
                raise
        self._end += len(line)
        self._lines += 1

    def _read_on(self) -> None:
        """Take in the lines that are new."""
        with contextlib.suppress(FileNotFoundError):
            if self.path is not None and self.path.stat().st_size > self._end:
                with self.path.open("rb") as file:
                    self._take(self.path, file)

    def _take(self, path: Path, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        if size < self._end:
            raise DataError(f"{size} bytes, and it had {self._end} a moment ago; was it deleted?", file=path)
        file.seek(self._end)
        for line in file.read().split(b"\n")[:-1]:  # what follows the last line break is a part of a line
            row = self._lines + 1
            try:
                text = line.decode("utf8")
            except UnicodeDecodeError as error:
                raise DataError(f"byte {error.start} is not UTF-8; {_REMOVE}", file=path, row=row) from error
            entry = parse_json(text, file=path, row=row, what="a line of this journal")
            if not isinstance(entry, dict) or set(entry) != {"key", "value", "checksum"}:
                raise DataError(f"not a line of this journal; {_REMOVE}", file=path, row=row)
            if entry.pop("checksum") != checksum(entry) or not isinstance(entry["key"], str):
                raise DataError(f"damaged: it does not fit its own checksum; {_REMOVE}", file=path, row=row)
            self._values[entry["key"]] = entry["value"]
            self._end += len(line) + 1
            self._lines += 1


@contextlib.contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """No other process in this block with this file, where the system has such locks; they end with the process."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
    yield  # closing the file ends the lock


_REMOVE = "remove the line, and what it held is made again"


# Folders


@contextlib.contextmanager
def locked(folder: str | Path, *, wait: bool = False) -> Iterator[Path]:
    """Have a folder for this process alone; it is made if it is missing. The lock ends with the process that holds it.

    What a killed process left under a temporary name is removed first.

    Args:
        folder: the folder.
        wait: wait until it is free.

    Raises:
        BusyError: another process has it (and `wait` is False); names the process.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / LOCK
    lock = FileLock(place)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BusyError(f"{folder} is being written by {_holder(place)}; wait for it, or choose another") from None
    try:
        remove_leftovers(folder)
        write_text(folder / f"{LOCK}.holder", _who())
        yield folder
    finally:
        (folder / f"{LOCK}.holder").unlink(missing_ok=True)
        lock.release()


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary entries of processes that are no more (`staged`); those of other hosts stay for a day."""
    for entry in Path(folder).glob(f"{_TEMPORARY}*"):
        host, pid = [*entry.name.removeprefix(_TEMPORARY).split("-"), ""][:2]
        with contextlib.suppress(OSError):
            age = datetime.now().timestamp() - entry.stat().st_mtime
            if (host == _host() and not _alive(pid)) or age > 86_400:
                shutil.rmtree(entry, ignore_errors=True)


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
                f"{folder} holds {', '.join(there)} of an unknown run; choose another folder, or --overwrite"
            )
        return
    _, found = read_record(path, "run", 1)
    if found.get("of") != kind:
        raise FolderError(f"{folder} holds a {found.get('of')}, not a {kind}; choose another folder, or --overwrite")
    before = found["shaped_by"] if isinstance(found.get("shaped_by"), dict) else {}
    before = {name: before.get(name) for name in about} if partly else before
    if before != about:
        told = differences(before, about)
        raise FolderError(f"{folder} holds other results: {told}; choose another folder, or --overwrite")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words what differs between two results' `shaped_by`; empty where nothing does."""
    before, now = jsonable(before), jsonable(now)
    names = [n for n in dict.fromkeys([*before, *now]) if before.get(n, _NOTHING) != now.get(n, _NOTHING)]
    told = [f"{name} {_short(before.get(name))} (now {_short(now.get(name))})" for name in names[:4]]
    return ", ".join(told) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# Details


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} stands twice")
    return found


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise RecursionError
        if any(isinstance(one, float) and math.isinf(one) for one in level):
            raise ValueError("a number larger than any that can be kept")
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [item for items in inside for item in items]


def _left_over(given: Any, kept: Any, place: str = "") -> str:
    """Where something given was not kept; empty where all was."""
    if isinstance(given, dict):
        pairs = [(str(name), value, kept.get(name, _NOTHING)) for name, value in given.items()]
    elif isinstance(given, list):
        pairs = [(str(i), *both) for i, both in enumerate(zip(given, kept, strict=True))]
    else:
        return ""
    for name, value, own in pairs:
        here = f"{place}.{name}" if place else name
        if own is _NOTHING:
            return here
        if found := _left_over(value, own, here):
            return found
    return ""


_NOTHING = object()


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _owner() -> str:
    return f"{_host()}-{os.getpid()}"


def _alive(pid: str) -> bool:
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _who() -> str:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} (since {since})"


def _holder(place: Path) -> str:
    try:
        return place.with_name(f"{LOCK}.holder").read_text(encoding="utf8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
