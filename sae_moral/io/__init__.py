"""The only place that opens a file for writing, and the readers of what it wrote.

Every file appears whole or not at all: it is written under a temporary name of its own in the same folder, synced, and
renamed. Every state file is a *record* (a JSON object with `kind`, `schema_version` and a `checksum` of all the rest),
a *journal* (JSON lines, each with its own checksum), or a binary file whose checksum a record holds, so that damage is
noticed when it is read. Readers return what was written or raise `DataError` with file and place.
"""

from __future__ import annotations

from sae_moral.io.files import (
    Writes,
    append,
    check_files,
    discard,
    file_checksum,
    file_checksums,
    open_in_place,
    open_log,
    publish,
    remove_leftovers,
    reserve,
    staged,
    staged_files,
    write_all,
    write_bytes,
    write_from,
    write_text,
    write_together,
)
from sae_moral.io.folders import (
    LOCK,
    OFFLINE_VARIABLES,
    cache_folder,
    check_claim,
    claim,
    differences,
    existing,
    is_offline,
    locked,
)
from sae_moral.io.journal import Journal
from sae_moral.io.leases import Lease, leased
from sae_moral.io.records import (
    canonical,
    checksum,
    decode,
    jsonable,
    key,
    parse_json,
    read_json,
    read_record,
    read_text,
    read_typed,
    record,
    typed,
    write_json,
    write_record,
)
from sae_moral.io.sharing import shared

__all__ = [
    "LOCK",
    "OFFLINE_VARIABLES",
    "Journal",
    "Lease",
    "Writes",
    "append",
    "cache_folder",
    "canonical",
    "check_claim",
    "check_files",
    "checksum",
    "claim",
    "decode",
    "differences",
    "discard",
    "existing",
    "file_checksum",
    "file_checksums",
    "is_offline",
    "jsonable",
    "key",
    "leased",
    "locked",
    "open_in_place",
    "open_log",
    "parse_json",
    "publish",
    "read_json",
    "read_record",
    "read_text",
    "read_typed",
    "record",
    "remove_leftovers",
    "reserve",
    "shared",
    "staged",
    "staged_files",
    "typed",
    "write_all",
    "write_bytes",
    "write_from",
    "write_json",
    "write_record",
    "write_text",
    "write_together",
]
