"""Requests that arrive one by one, done in batches by one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

import anyio

QUIET = 0.05
"""Seconds without a new request after which an incomplete batch is begun."""
_POLL = 0.005


class Batcher:
    """Collects requests that can be done together and hands them to a function, one batch at a time."""

    def __init__(self, work: Callable[[Hashable, list[Any]], list[Any]], size: int, *, quiet: float = QUIET) -> None:
        """`work(kind, items)` gets at most `size` items of one kind and returns a result for each, in their order."""
        self._work, self._size, self._quiet = work, size, quiet
        self._waiting: list[tuple[Hashable, Any, Future[Any]]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    async def submit(self, kind: Hashable, item: Any) -> Any:
        """The item's result, or the error of its batch. Cancelled before its batch began, it is never done."""
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((kind, item, future))
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sae-moral-batcher", daemon=True)
                self._thread.start()
        try:
            while not future.done():  # works under asyncio and trio, and in any number of event loops
                await anyio.sleep(_POLL)
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def _run(self) -> None:
        while True:
            batch = [entry for entry in self._next() if entry[2].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                results = self._work(batch[0][0], [item for _, item, _ in batch])
                for (_, _, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            except BaseException as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next(self) -> list[tuple[Hashable, Any, Future[Any]]]:
        """The oldest request and those of its kind, once they fill a batch or no more come."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            last, since = 0, time.monotonic()
            while True:
                kind = self._waiting[0][0]
                same = [entry for entry in self._waiting if entry[0] == kind]
                if len(same) != last:
                    last, since = len(same), time.monotonic()
                left = self._quiet - (time.monotonic() - since)
                if len(same) >= self._size or left <= 0:
                    break
                self._changed.wait(left)
            batch = same[: self._size]
            self._waiting = [entry for entry in self._waiting if entry not in batch]
            return batch
