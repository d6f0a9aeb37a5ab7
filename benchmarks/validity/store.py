"""Results as JSON lines, one per world, and what is left to do."""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import sae_moral
from benchmarks.validity.plan import Configuration, by_name

Records = dict[str, list[dict[str, Any]]]
"""Name of a configuration → its worlds, by seed."""
HELD = ("groups.py", "moral_data.py", "text.py")
"""Modules of `sae_moral.data` that say which scenarios are held together."""


@cache
def fingerprint() -> str:
    """Hash of the code whose results these are, docstrings and comments left out: protocols, metrics, controls, how
    scenarios are held together, and worlds."""
    package, here = Path(sae_moral.__file__).parent, Path(__file__).parent
    files = [package / "protocol.py", *(package / "data" / name for name in HELD)]
    files += [file for name in ("metrics", "controls") for file in sorted((package / name).glob("*.py"))]
    files += [here / name for name in ("worlds.py", "nulls.py", "measuring.py")]
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                said = [part for part in body if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)]
                node.body = [part for part in body if part not in said]  # pyright: ignore[reportAttributeAccessIssue]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def load(file: Path, configurations: Iterable[Configuration], code: str | None = None) -> Records:
    """What has been measured of these configurations, the latest where a world was measured twice. A line that a killed
    run left half written is dropped.

    Args:
        code: only what was measured with this code (`fingerprint`); None for any.
    """
    names = {c.key: (c.name, c.count) for c in configurations}
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in file.read_text(encoding="utf8").splitlines() if file.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        name, count = names.get(entry["key"], ("", 0))
        if entry["seed"] < count and code in (None, entry["code"]):
            found[name][entry["seed"]] = entry
    return {name: [part[seed] for seed in sorted(part)] for name, part in found.items()}


def fill(file: Path, quick: bool, processes: int, minutes: float | None = None) -> None:
    """Measure what is missing, appending each world as it comes.

    Configurations take turns in proportion to their size, so that a run cut short has some of everything.

    Args:
        minutes: after which it stops; None for all worlds.
    """
    configurations = by_name(quick)
    done = load(file, configurations.values(), fingerprint())
    known = {name: {entry["seed"] for entry in entries} for name, entries in done.items()}
    jobs = sorted(
        (c.turn * (seed + 1) / c.count, position, (name, seed, quick))
        for position, (name, c) in enumerate(configurations.items())
        for seed in range(c.count)
        if seed not in known.get(name, set())
    )
    started = time.monotonic()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if file.exists() and not file.read_text(encoding="utf8").endswith("\n"):
        with file.open("a", encoding="utf8") as stream:
            stream.write("\n")
    with (
        multiprocessing.get_context("spawn").Pool(processes, _quiet) as pool,
        file.open("a", encoding="utf8") as stream,
    ):
        for i, line in enumerate(pool.imap_unordered(_work, [job for *_, job in jobs])):
            stream.write(line + "\n")
            stream.flush()
            if i % 50 == 49 or i + 1 == len(jobs):
                print(f"{i + 1} of {len(jobs)} worlds, {time.monotonic() - started:.0f} s", flush=True)
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                break


def seconds(quick: bool) -> None:
    """Print how long a world of each configuration takes on one core, and all of them; nothing is kept.

    The second of two worlds is timed: the first one imports and compiles.
    """
    _quiet()
    total = 0.0
    for name, configuration in by_name(quick).items():
        own = []
        for seed in (0, 1):
            started = time.process_time()
            configuration.measure(seed)
            own.append(time.process_time() - started)
        total += own[1] * configuration.count
        print(f"{own[1]:7.2f} s × {configuration.count:3} = {own[1] * configuration.count:6.0f} s  {name}", flush=True)
    print(f"{total:.0f} s on one core")


def _quiet() -> None:
    import torch

    torch.set_num_threads(1)


def _work(job: tuple[str, int, bool]) -> str:
    name, seed, quick = job
    configuration = by_name(quick)[name]
    return json.dumps({"key": configuration.key, "seed": seed, "code": fingerprint(), **configuration.measure(seed)})
