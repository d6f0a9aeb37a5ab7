"""Download a file once: resumed after a cut, retried, checked, and never half there.

A download grows in `NAME.part` and is renamed when complete, so an interrupted one goes on where it stopped, in the
same call or in a later one (HTTP Range, with If-Range on the entity tag so that two versions are never joined). What
is fetched here are tables inside zips; the checksum that is known is the table's, so the table is what is checked.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sae_moral.data.lines import read_blocks
from sae_moral.errors import DataError
from sae_moral.io import (
    OFFLINE_VARIABLES,
    file_checksum,
    is_offline,
    locked,
    publish,
    read_record,
    staged,
    write_from,
    write_record,
)

if TYPE_CHECKING:
    import requests

ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt; doubled before each later one."""
TIMEOUT = (10, 60)
"""Seconds to connect, and between two bytes."""
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Remote:
    """A table in a zip on a server.

    Attributes:
        name: of the source, for messages.
        url: address of the zip.
        member: name of the table in it, and of the file kept.
        sha256: of the table.
    """

    name: str
    url: str
    member: str
    sha256: str


def fetch(
    remote: Remote, folder: str | Path, *, offline: bool | None = None, attempts: int = ATTEMPTS, pause: float = PAUSE
) -> Path:
    """The table, downloaded unless it is in `folder` already (or its zip is: put there by hand, it is used).

    Raises:
        FileNotFoundError: offline, and neither is there; the message says where to put it.
        DataError: the download failed, or what arrived is not that zip, or what is there is not that table.
    """
    folder = Path(folder)
    table, archive = folder / remote.member, folder / remote.url.rsplit("/", 1)[-1]
    if table.exists():
        return _checked(remote, table)
    if not archive.exists() and is_offline(offline):
        problem = f"offline, and the source {remote.name!r} is not on this machine yet; put {remote.member} at"
        ways = f"(or the zip around it at {str(archive)!r}; it is published at {remote.url})"
        how = f"or go online: unset {' and '.join(OFFLINE_VARIABLES)} or leave out offline=True"
        raise FileNotFoundError(f"{problem} {str(table)!r} {ways}, {how}")
    with locked(folder, wait=True):
        if table.exists():
            return _checked(remote, table)
        if not archive.exists():
            download(remote.url, archive, attempts=attempts, pause=pause)
        _extract(remote, archive, table)
        archive.unlink()
    return table


def _checked(remote: Remote, table: Path) -> Path:
    found = file_checksum(table)
    if found != remote.sha256:  # put there by hand, or changed since
        problem = f"sha256 {found}; expected {remote.sha256}. Remove it from {str(table.parent)!r}"
        raise DataError(f"{problem}, or pass it as path= to use it as it is", file=table.name)
    return table


def download(url: str, target: Path, *, attempts: int = ATTEMPTS, pause: float = PAUSE) -> Path:
    """Download to `target`, with a progress bar in a terminal. Attempts that bring bytes do not count as failures.

    Raises:
        DataError: the server refuses, or `attempts` in a row brought nothing. What came so far stays in `.part`.
    """
    import requests
    import urllib3

    part, failures, reason = Path(f"{target}.part"), 0, ""
    while failures < attempts:
        if failures:
            time.sleep(pause * 2 ** (failures - 1))
        before = _size(part)
        try:
            with requests.Session() as session:
                if _receive(session, url, part):
                    publish(part, target)
                    _tag(part).unlink(missing_ok=True)
                    return target
            reason = "the connection ended early"
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            reason = str(error)
        except requests.RequestException as error:
            raise DataError(f"{url} cannot be downloaded ({error}); check the address", file=target.name) from None
        failures = 0 if _size(part) > before else failures + 1
    kept = f"; {_size(part)} bytes are kept and the next attempt goes on from there" if _size(part) else ""
    problem = f"{url} could not be downloaded, {attempts} attempts in a row brought nothing ({reason}){kept}"
    raise DataError(
        f"{problem}. Try again, or get the file by other means and put it at {str(target)!r}", file=target.name
    )


def _receive(session: requests.Session, url: str, part: Path) -> bool:
    """Append what is missing to `part`; returns whether it is complete."""
    tag = _read_tag(part, url)
    have = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416:  # nothing after `have`: complete, or longer than the file now is
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if total != str(have):
                part.unlink()
            return total == str(have)
        if status in (408, 425, 429) or status >= 500:
            return _later(status)
        response.raise_for_status()
        start, total = _range(response, have)
        write_record(_tag(part), "download", 1, {"url": url, "etag": response.headers.get("ETag")})
        write_from(part, start, _progress(_chunks(response), part.name.removesuffix(".part"), start, total))
    return total is None or _size(part) == total


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """What has arrived, as it arrives. (`iter_content` waits for whole chunks, and loses the last one at a cut.)"""
    while chunk := response.raw.read1(_CHUNK):
        yield chunk


def _later(status: int) -> bool:
    import requests

    raise requests.ConnectionError(f"the server answered {status}")


def _range(response: requests.Response, have: int) -> tuple[int, int | None]:
    """Where what the server sends begins, and how long the whole file is (None: it does not say)."""
    length = response.headers.get("Content-Length")
    if response.status_code == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        if start != str(have):
            raise DataError(f"asked for the bytes from {have}, the server sent {span or 'it does not say which'}")
        return have, int(total) if total.isdigit() else None
    return 0, int(length) if length is not None else None  # the whole file, from the start


def _progress(chunks: Iterator[bytes], name: str, start: int, total: int | None) -> Iterator[bytes]:
    from tqdm import tqdm

    # disable=None: no bar where the output is not a terminal
    with tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _extract(remote: Remote, archive: Path, table: Path) -> None:
    """Take the table out of the zip; a wrong one is set aside so that the next attempt downloads afresh."""
    digest = hashlib.sha256()
    try:
        with staged(table) as temporary:
            write_from(temporary, 0, read_blocks(archive, remote.member, digest))
            if digest.hexdigest() != remote.sha256:
                problem = f"sha256 of {remote.member} is {digest.hexdigest()}; expected {remote.sha256}"
                raise DataError(problem, file=archive.name)
    except DataError as error:
        aside = Path(f"{archive}.rejected")
        publish(archive, aside)
        raise DataError(f"{error}. It is refused, and set aside as {str(aside)!r}; try again", file=None) from None


def _tag(part: Path) -> Path:
    return Path(f"{part}.json")


def _read_tag(part: Path, url: str) -> str | None:
    """The entity tag of what is in `part`; a part of something else, or one whose tag is damaged, is removed."""
    try:
        _, known = read_record(_tag(part), "download", 1)
    except FileNotFoundError:
        return None
    except DataError:
        known = {}
    if known.get("url") != url:
        part.unlink(missing_ok=True)
        return None
    return known.get("etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
