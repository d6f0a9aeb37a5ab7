"""`workers`: processes of this machine that do the same work as this one, on the same folder.

They divide it by its leases (`io.leases`), as processes on other hosts do that were started with the same command: here
is only how they are started, which device and how many threads each has, and how they end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from sae_moral.errors import SaeMoralWarning
from sae_moral.io import open_log

SECONDS_TO_END = 10.0
"""For a worker to let go of what it holds before it is killed, which loses nothing but its unfinished cell."""


@contextlib.contextmanager
def workers(n: int, work: Callable[[], object], *, logs: str | Path, device: str | None = None) -> Iterator[None]:
    """While the block runs, n − 1 processes beside this one call `work()`. The block itself has to do the same work: it
    is the n-th worker, and when it has all results the others are ended.

    Devices are dealt out: with as many GPUs as workers each sees one; without a GPU each has its share of the CPU's
    threads (unless OMP_NUM_THREADS says how many).

    Args:
        n: workers, this one included; with 1 nothing is started.
        work: a `functools.partial` of a function of a module and of what can be sent to a process.
        logs: folder for what they print, a file each.
        device: what the caller was given: `cpu` or a device with a number is for all workers.

    Raises:
        ValueError: no worker.

    Warns:
        SaeMoralWarning: a worker failed; the others did its work.
    """
    if n < 1:
        raise ValueError(f"{n} workers; expected at least 1")
    if n == 1:
        yield
        return
    own, *theirs = shares(n, device)
    started: dict[BaseProcess, Path] = {}
    try:
        for i, share in enumerate(theirs, start=2):
            log = Path(logs) / f"{socket.gethostname()}-{i}.log"
            process = multiprocessing.get_context("spawn").Process(
                target=_work, args=(log, work), name=f"worker {i} of {n}"
            )
            with _environment(share):
                process.start()
            started[process] = log
        with _environment(own), _threads(own):
            yield
        failed = [(one, log) for one, log in started.items() if one.exitcode not in (None, 0)]
    finally:
        _end(list(started))
    for one, log in failed:
        said = f"{one.name} failed with status {one.exitcode}; the others did its work (see {log})"
        warnings.warn(said, SaeMoralWarning, stacklevel=3)


def shares(n: int, device: str | None = None) -> list[dict[str, str]]:
    """Per worker the environment variables that say which devices it sees, and how many threads it has."""
    found, gpus = [], _gpus(device)
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, _cpus() // n))}
    for i in range(n):
        own = gpus[i::n] or gpus[i % len(gpus) :][:1] if gpus else []
        found.append({**threads, **({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})})
    return found


def _gpus(device: str | None) -> list[str]:
    """The devices that are dealt out; none where all workers use the one that was named."""
    if device not in (None, "cuda"):
        return []
    import torch

    visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    return (visible or list(map(str, range(torch.cuda.device_count()))))[: torch.cuda.device_count()]


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _threads(share: Mapping[str, str]) -> Iterator[None]:
    """The libraries of this process, which are loaded already, with its share of the threads."""
    if "OMP_NUM_THREADS" not in share:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before, own = torch.get_num_threads(), int(share["OMP_NUM_THREADS"])
    with threadpool_limits(limits=own):
        torch.set_num_threads(own)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _work(log: Path, work: Callable[[], object]) -> None:
    """What a worker's process does."""
    with open_log(log) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leases are let go of
    threading.Thread(target=_end_with_starter, daemon=True).start()
    status = work()
    # Of a command 1 is an answer, above it are failures.
    sys.exit(status if isinstance(status, int) and status > 1 else 0)


def _end_with_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)


def _end(processes: Sequence[BaseProcess]) -> None:
    for one in processes:
        one.terminate()
    for one in processes:
        one.join(SECONDS_TO_END)
        if one.is_alive():
            one.kill()
            one.join()
