"""Work that processes share: the one loop over results of which each is made once, by whoever takes its lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from sae_moral.io.leases import Lease, leased, pauses

Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


def shared(
    places: Mapping[Name, Path],
    find: Callable[[Name], Result | None],
    make: Callable[[Name, Lease], Result],
    *,
    wait: bool = True,
    waiting: Callable[[Name], object] = lambda name: None,
) -> Iterator[tuple[Name, Result]]:
    """Every result as it comes to be there: found, or made here under its lease. Processes that do the same share the
    work, and each has all the results.

    Args:
        places: per result the place of its lease.
        find: the result; None where there is none.
        make: what makes it. Its errors are raised, unless the lease was lost meanwhile: then it is another's to make.
        wait: wait for what others are making, after all else, and make what they give up; else leave it out.
        waiting: told of what is waited for.
    """
    left, waits, patient = dict(places), pauses(), False
    while left:
        before = len(left)
        for name, place in places.items():
            if name not in left:
                continue
            if (result := find(name)) is None:
                with leased(place) as lease:
                    if lease is None:
                        if patient:
                            waiting(name)
                        continue
                    # Another may have finished it between the look and the lease.
                    result = find(name)
                    try:
                        result = make(name, lease) if result is None else result
                    except Exception:
                        if lease.held:
                            raise
            if result is not None:
                del left[name]
                yield name, result
        if not wait:
            return
        if left and len(left) == before and patient:
            time.sleep(next(waits))
        elif len(left) < before:
            waits = pauses()
        patient = True
