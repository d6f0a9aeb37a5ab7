"""Requests become batches; every request gets its own result or its batch's error."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any

import anyio
import pytest
from sae_moral_inspect.batching import Batcher


def test_batches_are_full_and_of_one_kind() -> None:
    batches: list[tuple[Hashable, list[int]]] = []

    def work(kind: Hashable, items: list[int]) -> list[int]:
        batches.append((kind, items))
        return [10 * item for item in items]

    batcher, found = Batcher(work, 4), {}

    async def one(kind: str, item: int) -> None:
        found[item] = await batcher.submit(kind, item)

    async def every() -> None:
        async with anyio.create_task_group() as group:
            for item in range(10):
                group.start_soon(one, "even" if item % 2 == 0 else "odd", item)

    anyio.run(every)
    assert found == {item: 10 * item for item in range(10)}
    assert sorted(len(items) for _, items in batches) == [1, 1, 4, 4]
    assert all(item % 2 == (kind == "odd") for kind, items in batches for item in items)


def test_an_error_reaches_its_batch_only() -> None:
    def work(kind: Hashable, items: list[Any]) -> list[Any]:
        if kind == "bad":
            raise ValueError("the batch failed")
        return items

    batcher = Batcher(work, 2, quiet=0.01)

    async def every() -> None:
        with pytest.raises(ValueError, match="the batch failed"):
            await batcher.submit("bad", 1)
        assert await batcher.submit("good", 2) == 2

    anyio.run(every)


def test_cancelled_requests_are_not_done() -> None:
    begun, go = threading.Event(), threading.Event()
    done: list[int] = []

    def work(kind: Hashable, items: list[int]) -> list[int]:
        begun.set()
        go.wait(5)
        done.extend(items)
        return items

    batcher = Batcher(work, 1, quiet=0.01)

    async def every() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.submit, "k", 1)
            while not begun.is_set():
                await anyio.sleep(0.01)
            with anyio.move_on_after(0.05):
                await batcher.submit("k", 2)
            go.set()
            assert await batcher.submit("k", 3) == 3

    anyio.run(every)
    assert done == [1, 3]


def test_an_incomplete_batch_does_not_wait_for_long() -> None:
    batcher = Batcher(lambda kind, items: items, 100, quiet=0.02)
    started = time.monotonic()
    assert anyio.run(batcher.submit, "k", 1) == 1
    assert time.monotonic() - started < 2
