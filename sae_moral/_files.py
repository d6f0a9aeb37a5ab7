"""Files that are never half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sae_moral._errors import DataError


def write_text(path: Path, text: str) -> None:
    """Write to a temporary file beside `path`, sync, and rename: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """`write_text` of the value as JSON; NaN and infinities are refused.

    Raises:
        ValueError: a value JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """An object that says it is of this kind and schema version.

    Raises:
        DataError: something else.
        FileNotFoundError: no such file.
    """
    named = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise DataError(f"not {named}: {error}", file=path) from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise DataError(f"not {named}: expected a JSON object whose kind is '{kind}'", file=path)
    if content.get("schema_version") != schema:
        found = content.get("schema_version")
        raise DataError(
            f"schema version {found}; this sae_moral reads {schema}: install the one that wrote it", file=path
        )
    return content
