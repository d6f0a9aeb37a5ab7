"""`MoralData` as a parquet file that carries its provenance and its own checksum, and back.

The checksum is the SHA-256 of the file with zeros in its place, so that any changed byte is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_moral.data.moral_data import MoralData
from sae_moral.data.rows import arrow_table
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NO_FOUNDATION, POLARITIES
from sae_moral.io import decode, jsonable, parse_json, write_bytes

if TYPE_CHECKING:
    import pyarrow

KEY, CHECKSUM = b"sae_moral.provenance", b"sae_moral.sha256"
"""Keys of the file's metadata: the provenance as JSON, and the checksum."""
_FORMAT = 2
"""Version 0.1 wrote the bare provenance and no checksum (format 1)."""
_ZEROS = b"0" * 64
_STATED = re.compile(re.escape(CHECKSUM) + rb"\x18\x40([0-9a-f]{64})")
"""The checksum as Thrift writes it: the key, then a field of text of 64 bytes."""
_DAMAGED = "damaged, or changed since it was written: it does not fit its own checksum; remove it and make it again"


def write_parquet(data: MoralData, path: str | Path, *, columns: Mapping[str, Any] | None = None) -> Path:
    """Write the columns of `MoralData.to_dataset` (id, text, vector, foundation, pole, typicality), `group` where more
    than equal texts are held together, further `columns` of the caller's, and the provenance. The file appears whole
    or not at all.

    Returns:
        `path`.
    """
    import pyarrow
    from pyarrow import parquet

    flat = pyarrow.array(np.ascontiguousarray(data.vector, dtype=np.float64).ravel())
    names = pyarrow.array(data.foundation, mask=data.foundation == NO_FOUNDATION)
    table = pyarrow.table(
        {
            "id": pyarrow.array(data.id, pyarrow.string()),
            "text": pyarrow.array(data.text, pyarrow.string()),
            "vector": pyarrow.FixedSizeListArray.from_arrays(flat, len(DIMENSIONS)),
            "foundation": pyarrow.array(FOUNDATIONS).take(names),
            "pole": pyarrow.array(POLARITIES).take(pyarrow.array(data.pole)),
            "typicality": pyarrow.array(data.typicality.astype(np.float64)),
            **({} if data.groups is None else {"group": pyarrow.array(data.groups)}),
            **{name: pyarrow.array(values) for name, values in (columns or {}).items()},
        }
    )
    known = {"format": _FORMAT, "provenance": jsonable(data.provenance)}
    sink = pyarrow.BufferOutputStream()
    with parquet.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: json.dumps(known, ensure_ascii=False), CHECKSUM: _ZEROS})
    content = sink.getvalue().to_pybytes()
    start, end = list(_STATED.finditer(content))[-1].span(1)
    path = Path(path)
    write_bytes(path, content[:start] + hashlib.sha256(content).hexdigest().encode() + content[end:])
    return path


def has_provenance(path: str | Path) -> bool:
    """Whether a file was written by `write_parquet`, whatever became of it since."""
    content = Path(path).read_bytes()
    return KEY in content or CHECKSUM in content


def read_parquet(path: str | Path) -> MoralData:
    """What `write_parquet` wrote; the labels are checked against the vectors again.

    Raises:
        DataError: a file that is damaged, was not written by it, or was changed since.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    content, file = path.read_bytes(), path.name
    checked = _fits_checksum(content, file)
    table = arrow_table(content, file)
    known = (table.schema.metadata or {}).get(KEY)
    if known is None:
        raise DataError("no provenance in its metadata; expected a file of write_parquet", file=file)
    provenance = parse_json(decode(known, file=file), file=file, what="a provenance")
    if isinstance(provenance, dict) and "format" in provenance:
        if provenance["format"] != _FORMAT:
            problem = f"format {provenance['format']!r:.40}; this sae_moral reads 1 to {_FORMAT}"
            raise DataError(f"{problem}: install the one that wrote it", file=file)
        if not checked:
            raise DataError(_DAMAGED, file=file)
        provenance = provenance["provenance"]
    for name in ("id", "text", "vector", "foundation", "pole", "typicality"):
        if name not in table.column_names:
            raise DataError("missing column; expected a file of write_parquet as it was", file=file, column=name)
    try:
        return _data(table, provenance)
    except DataError as error:
        raise error.within(file) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"its columns were changed ({error}); expected a file of write_parquet", file=file) from None


def _fits_checksum(content: bytes, file: str) -> bool:
    """Whether there is a checksum, which is then right. Looked up in the bytes: a damaged file is not parsed first."""
    stated = list(_STATED.finditer(content))
    if not stated:
        return False
    start, end = stated[-1].span(1)  # the metadata are at the end
    if hashlib.sha256(content[:start] + _ZEROS + content[end:]).hexdigest().encode() != content[start:end]:
        raise DataError(_DAMAGED, file=file)
    return True


def _data(table: pyarrow.Table, provenance: Mapping[str, Any]) -> MoralData:
    def indices(column: str, names: tuple[str, ...], missing: int | None) -> np.ndarray:
        places = {name: i for i, name in enumerate(names)} | ({} if missing is None else {None: missing})
        try:
            return np.array([places[name] for name in table.column(column).to_pylist()], dtype=np.int64)
        except KeyError as error:
            raise DataError(f"{error.args[0]!r}; expected one of {', '.join(names)}", column=column) from None

    vector = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return MoralData(
        text=tuple(table.column("text").to_pylist()),
        vector=vector.astype(np.float64).reshape(table.num_rows, len(DIMENSIONS)),
        foundation=indices("foundation", FOUNDATIONS, NO_FOUNDATION),
        pole=indices("pole", POLARITIES, None),
        typicality=table.column("typicality").to_numpy().astype(np.float64),
        id=tuple(table.column("id").to_pylist()),
        provenance=provenance,
        groups=table.column("group").to_numpy().astype(np.int64) if "group" in table.column_names else None,
    )
