"""Leases: who is at what in a folder that processes share, on one host or on many.

A lease is a folder with one entry, which is named by its holder. It is taken by giving a whole folder its name, taken
over by renaming the entry, and renewed by touching the entry; each of these fails where somebody else came first. It
ends when its holder lets go, when the holder is a process of this host that is no more, or when a watcher has seen it
not renewed for `STALE` seconds of its own time: no two clocks are compared. What can go wrong: docs/design/workers.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from sae_moral.io.files import TEMPORARY, alive, owner, this_host, write_all

logger = logging.getLogger(__name__)
BEAT = 10.0
"""Seconds between two renewals."""
STALE = 120.0
"""Seconds without one after which a lease is taken over. An NFS client may see a renewal a minute late."""
_LONGEST_PAUSE = 2.0
_watched: dict[Path, tuple[int, float, float]] = {}
"""Per entry of another holder: when it was last renewed, when this process last looked, and how long nothing changed
while it looked."""


class Lease:
    """A lease that this process holds, renewed by a thread until it is released.

    Attributes:
        place: the lease's folder.
        holder: name of this process and of this very lease; no other has it.
    """

    def __init__(self, place: Path, holder: str) -> None:
        self.place, self.holder = place, holder
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease of {place.name}", daemon=True)
        self._thread.start()

    @property
    def held(self) -> bool:
        """False once another process took it over."""
        return (self.place / self.holder).exists()

    def check(self) -> None:
        """Before a result is given its name.

        Raises:
            RuntimeError: another process took the lease over.
        """
        if not self.held:
            raise RuntimeError(f"{self.place}: another process took over; this one was not heard of for {STALE:g} s")

    def release(self) -> None:
        """Let go; harmless where another process took it over."""
        self._released.set()
        self._thread.join()
        _remove(self.place, self.holder)

    def _renew(self) -> None:
        while not self._released.wait(BEAT):
            try:
                os.utime(self.place / self.holder)
            except FileNotFoundError:
                return
            except OSError:  # the file server is away; when it is back, so is the lease
                continue


def take(place: str | Path) -> Lease | None:
    """Take a lease that nobody holds, or whose holder is gone; None where somebody holds it.

    Raises:
        OSError: its parent folder cannot be made or written.
    """
    place = Path(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    mine, holder = f"{owner()}-{secrets.token_hex(4)}", _holder(place)
    if holder is None:
        _put(place, mine)
    elif _gone(place / holder):
        with contextlib.suppress(OSError):  # whoever is first renames it; for all others it is not there
            os.rename(place / holder, place / mine)
            os.utime(place / mine)
            _sign(place / mine)
    # Not what `rename` said: a network may lose the answer, and a repeated request fails.
    return Lease(place, mine) if (place / mine).exists() else None


@contextlib.contextmanager
def leased(place: str | Path, *, wait: bool = False) -> Iterator[Lease | None]:
    """Hold a lease in the block; None where somebody else has it.

    Args:
        place: the lease's folder.
        wait: wait until it is free.
    """
    waits, told = pauses(), False
    while (lease := take(place)) is None and wait:
        if not told:
            logger.info("waiting for %s, which %s holds", place, holder_of(place))
            told = True
        time.sleep(next(waits))
    try:
        yield lease
    finally:
        if lease is not None:
            lease.release()


def holder_of(place: str | Path) -> str:
    """In words who holds a lease: process, host, since when."""
    place = Path(place)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (place / (_holder(place) or "")).read_text(encoding="utf8") or "another process"
    return "another process"


def pauses() -> Iterator[float]:
    """Seconds between looks: at first short ones."""
    pause = 0.02
    while True:
        yield pause
        pause = min(1.5 * pause, _LONGEST_PAUSE)


def _holder(place: Path) -> str | None:
    try:
        # An entry with a dot is what NFS keeps of a removed one.
        return next((name for name in sorted(os.listdir(place)) if not name.startswith(".")), None)
    except FileNotFoundError:
        return None
    except NotADirectoryError:  # the lock file of an earlier version
        with contextlib.suppress(OSError):
            place.unlink()
        return None


def _put(place: Path, mine: str) -> None:
    """Make the lease, whole, in the place of none or of an empty one that a killed process left."""
    made = place.with_name(f"{TEMPORARY}{mine}")
    made.mkdir()
    try:
        (made / mine).touch(exist_ok=False)
        _sign(made / mine)
        with contextlib.suppress(OSError):
            place.rmdir()
        with contextlib.suppress(OSError):
            os.rename(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove(place: Path, holder: str) -> None:
    with contextlib.suppress(OSError):
        (place / holder).unlink()
        place.rmdir()


def _sign(entry: Path) -> None:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with entry.open("r+b", buffering=0) as file:
        file.truncate()
        write_all(file, f"process {os.getpid()} on {socket.gethostname()} (since {since})".encode())


def _gone(entry: Path) -> bool:
    """Whether a lease's holder is no more, as far as this process can tell now."""
    host, pid = [*entry.name.split("-"), ""][:2]
    if host == this_host() and not alive(pid):
        return True
    try:
        with entry.open("rb") as file:  # opened, because NFS then asks the server
            renewed = os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return False
    now = time.monotonic()
    before, looked, quiet = _watched.get(entry, (None, now, 0.0))
    # Time in which this process did not look may have been one in which nobody ran.
    quiet = quiet + min(now - looked, BEAT) if before == renewed else 0.0
    _watched[entry] = renewed, now, quiet
    return quiet >= STALE
