"""Records: JSON objects with `kind`, `schema_version` and a `checksum` of the rest; keys of what shaped a result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sae_moral.errors import DataError
from sae_moral.io.files import write_text

T = TypeVar("T")
_DEEPEST = 200
"""Nesting of JSON beyond which a file is damaged; ours are below 20."""
_NOTHING = object()


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


def write_json(path: str | Path, value: object) -> None:
    """`write_text` of the value as JSON, for files that others read; state files are records (`write_record`).

    Raises:
        TypeError, ValueError: a value JSON cannot hold, NaN included.
    """
    write_text(path, json.dumps(jsonable(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


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
