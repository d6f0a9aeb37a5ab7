"""`MoralData` as a parquet file that carries its provenance, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_moral.data.moral_data import MoralData
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NO_FOUNDATION, POLARITIES

if TYPE_CHECKING:
    import pyarrow

KEY = b"sae_moral.provenance"
"""The key of the file's metadata that holds the provenance as JSON."""


def write_parquet(data: MoralData, path: str | Path, *, columns: Mapping[str, Any] | None = None) -> Path:
    """Write the columns of `MoralData.to_dataset` (id, text, vector, foundation, pole, typicality), further `columns`
    of the caller's, and the provenance. The file is written beside `path` and renamed: no one sees half of it.

    Returns:
        `path`.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
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
            **{name: pyarrow.array(values) for name, values in (columns or {}).items()},
        }
    )
    table = table.replace_schema_metadata({KEY: json.dumps(dict(data.provenance), ensure_ascii=False, allow_nan=False)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            parquet.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def has_provenance(path: str | Path) -> bool:
    """Whether a file was written by `write_parquet`."""
    import pyarrow
    from pyarrow import parquet

    try:
        return KEY in (parquet.read_schema(path).metadata or {})
    except (pyarrow.ArrowException, OSError):
        return False


def read_parquet(path: str | Path) -> MoralData:
    """What `write_parquet` wrote; the labels are checked against the vectors again.

    Raises:
        DataError: a file that is damaged, was not written by it, or whose columns were changed.
        FileNotFoundError: no such file.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    try:
        table = parquet.ParquetFile(path).read(use_threads=False)
        table.validate(full=True)
        provenance = json.loads((table.schema.metadata or {})[KEY])
    except FileNotFoundError:
        raise
    except KeyError:
        raise DataError("no provenance in its metadata; expected a file of write_parquet", file=path.name) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"not a readable parquet file ({reason})", file=path.name) from None
    for name in ("id", "text", "vector", "foundation", "pole", "typicality"):
        if name not in table.column_names:
            raise DataError("missing column; expected a file of write_parquet as it was", file=path.name, column=name)
    try:
        return _data(table, provenance)
    except DataError as error:
        raise DataError(str(error), file=path.name) from None
    except (pyarrow.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"its columns were changed ({error}); expected a file of write_parquet", file=path.name
        ) from None


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
    )
