"""How time and memory of a study's steps grow, and what the paper's full scale would take: on synthetic stores, every
measurement in a process of its own, with one thread.

    python -m benchmarks.speed.growth --out out [--steps store,values,…] [--page docs/results/scale.md] [--quick]

From a base, one size at a time is raised: n scenarios, d dimensions, layers, s latents. Time is processor time; memory
is the highest private memory (mapped files, which the system may drop, are not in it) over what the process held before
the step. An exponent is the slope between the two largest values of a size, so that what a step always takes does not
flatten it; the largest measured value times these powers gives full scale. Where matrix products grow with all sizes at
once, what these take alone at full scale, at the rate of one large product in the same run, stands beside it.

Every measurement is a line of OUT/growth.jsonl, and is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.validity.worlds import scenarios
from sae_moral import AUDITED
from sae_moral.capture.store import Store
from sae_moral.capture.vectors import Representations
from sae_moral.controls import Controls, measure
from sae_moral.data import MoralData
from sae_moral.data.splits import group_split
from sae_moral.foundations import NEUTRAL, VIRTUE
from sae_moral.io import write_text
from sae_moral.metrics import resolve_metrics
from sae_moral.sae import TrainSettings, find_moral_latents, train_on
from sae_moral.sae.activations import Activations

ROWS = 1024
SETTLED = 200
"""Training steps that are timed; the same at every size, so that what grows is the reading of vectors."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Size:
    """Scenarios, dimensions, layers and latents."""

    n: int = 4096
    d: int = 576
    layers: int = 1
    s: int = 0


@dataclass(frozen=True)
class Step:
    """What is measured, where it begins, what is raised to what, and full scale.

    Attributes:
        title: in words.
        run: from a store of that size.
        promise: what the documentation says of its memory.
        besides: further sizes, which no power is fitted to.
        products: operations of the matrix products that grow with all sizes at once, which powers of one size at a time
            do not see while they are small.
    """

    title: str
    run: Callable[[Size, Path], Any]
    base: Size
    raised: dict[str, tuple[int, ...]]
    full: Size
    promise: str
    products: Callable[[Size], float] | None = None
    besides: tuple[Size, ...] = ()


def filled(size: Size, folder: Path) -> Store:
    """A store of normal noise with a weak polarity in every layer."""
    data, seen = labels(size), torch.Generator().manual_seed(0)
    layers = tuple(range(size.layers))
    store = Store(folder, {"growth": [size.n, size.d], "layers": list(layers)}, layers, (size.n, size.d))
    pole = torch.from_numpy(np.where(data.pole == NEUTRAL, 0, np.where(data.pole == VIRTUE, 1, -1))).float()
    along = torch.randn(size.d, generator=seen) / 10

    def write(done: int, take: Callable[[int, Any], None]) -> None:
        for start in range(done, size.n, ROWS):
            rows = min(ROWS, size.n - start)
            x = torch.randn(rows, size.d, generator=seen) + pole[start : start + rows, None] * along
            own = {"vectors": x, "sink": torch.ones(rows)}
            take(start, {layer: own for layer in range(size.layers)})

    store.fill(write)
    return store


def labels(size: Size) -> MoralData:
    """Invented scenarios, the same at every width."""
    return scenarios(np.random.default_rng(0), size.n)


def captured(size: Size, folder: Path) -> tuple[Representations, MoralData]:
    """What a capture leaves, mapped from the store."""
    data, store = labels(size), filled(size, folder)
    length = np.asarray(data.length)
    about = {"pooling": "mean", "first_token": "text", "bos": "prepend", "template": "plain"}
    return Representations(store.layers, np.arange(size.n), length, length + 1, about, store.read), data


def diagnosis(size: Size, folder: Path, controls: Controls) -> Callable[[], object]:
    """All metrics at all layers."""
    vectors, data = captured(size, folder)
    return lambda: measure(vectors, data, resolve_metrics(None, AUDITED), AUDITED, controls, progress=False)


def latents(size: Size, folder: Path) -> Callable[[], object]:
    """Moral latents of an SAE with random weights."""
    from sae_lens import SAE

    vectors, data = captured(size, folder)
    metadata = {"hook_name": "blocks.0.hook_resid_post", "model_name": None}
    sae: Any = SAE.from_dict({"architecture": "standard", "d_in": size.d, "d_sae": size.s, "metadata": metadata})
    with torch.no_grad():
        for name, value in sae.named_parameters():
            drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) / 30
            value.copy_(drawn - 1 if name == "b_enc" else drawn)
    return lambda: find_moral_latents(sae, vectors, data)


def training(size: Size, folder: Path) -> Callable[[], object]:
    """Some steps of a TopK SAE from mapped vectors, with all that comes before and after them."""
    vectors, data = captured(size, folder)
    part = np.empty(size.n, dtype=np.int64)
    for number, rows in enumerate(group_split(data, seed=0).values()):
        part[rows] = number
    about = {
        "model": {"name": "synthetic"},
        "data": {"source": "synthetic", "sha256": data.sha256},
        "capture": vectors.provenance,
        "n_vectors": {},
    }
    activations = Activations(vectors, {0: "blocks.0.hook_resid_post"}, part, about)
    settings = TrainSettings(expansion=2, target_l0=16, granularity="scenario", steps=SETTLED)
    return lambda: train_on(activations, settings, out=folder / "saes", progress=False)


STEPS = {
    "store": Step(
        "Vectors to disk (capture without the model)",
        lambda size, folder: lambda: filled(size, folder),
        Size(layers=4),
        {"n": (4096, 16384, 65536), "d": (576, 1536, 4096), "layers": (4, 12, 36)},
        Size(251_334, 4096, 36),
        "one batch",
    ),
    "values": Step(
        "Diagnosis, values alone",
        lambda size, folder: diagnosis(size, folder, Controls(names=())),
        Size(),
        {"n": (4096, 16384, 65536), "d": (576, 1536, 4096), "layers": (1, 2, 4)},
        Size(16_135, 4096, 36),
        "one layer",
    ),
    "controls": Step(
        "Diagnosis with intervals and nulls (1,000 resamples, 199 permutations)",
        lambda size, folder: diagnosis(size, folder, Controls(names=("interval", "null"))),
        Size(n=2048),
        {"n": (2048, 4096, 8192), "d": (576, 1152, 2304), "layers": (1, 2)},
        Size(16_135, 4096, 36),
        "one layer",
    ),
    "latents": Step(
        "Moral latents of an SAE",
        latents,
        Size(n=4096, s=8192),
        {"n": (4096, 16384, 65536), "d": (576, 1536, 4096), "s": (8192, 16384, 65536)},
        Size(251_334, 4096, 1, 65_536),
        "1 GiB a block, 18 kB a latent",
        lambda size: 2.0 * size.n * size.s * size.d,
        (Size(251_334, s=2048),),
    ),
    "training": Step(
        f"Training of an SAE, {SETTLED} steps of 256 vectors",
        training,
        Size(),
        {"n": (4096, 16384, 65536), "d": (576, 1152)},
        Size(251_334, 4096),
        "the SAE and its optimiser, not the vectors",
        lambda size: 6.0 * SETTLED * 256 * 2 * size.d**2,
    ),
}


def private() -> int:
    """Bytes of private memory that are resident now."""
    status = Path("/proc/self/status").read_text(encoding="utf8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


def measured(step: Step, size: Size) -> dict[str, float]:
    """Processor seconds and bytes of a step, in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        run = step.run(size, Path(scratch))
        before, peak, done = private(), [0], threading.Event()

        def look() -> None:
            while not done.wait(0.02):
                peak[0] = max(peak[0], private())

        watcher = threading.Thread(target=look)
        watcher.start()
        started = time.process_time()
        try:
            run()
        finally:
            seconds = time.process_time() - started
            done.set()
            watcher.join()
    return {"seconds": round(seconds, 3), "bytes": max(0, peak[0] - before)}


def rate() -> float:
    """Operations per second of a large product in float32 on one thread."""
    torch.set_num_threads(1)
    a = torch.randn(2048, 2048)
    torch.mm(a, a)
    started = time.process_time()
    for _ in range(3):
        torch.mm(a, a)
    return 3 * 2 * len(a) ** 3 / (time.process_time() - started)


def sizes(step: Step, quick: bool) -> list[Size]:
    """The base, every size raised by itself, and what is measured besides."""
    found = [step.base]
    for name, values in step.raised.items():
        found += [dataclasses.replace(step.base, **{name: value}) for value in values[: 2 if quick else None]]
    return list(dict.fromkeys([*found, *(() if quick else step.besides)]))


def known(file: Path) -> dict[tuple[str, Size], dict[str, float]]:
    """What was measured, by step and size."""
    lines = file.read_text(encoding="utf8").splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return {(one["step"], Size(**one["size"])): one for one in found}


def exponent(step: str, name: str, what: str, found: dict[tuple[str, Size], dict[str, float]]) -> float | None:
    """The slope of log seconds (bytes) over the log of a size, between the two largest values measured."""
    base = STEPS[step].base
    points = []
    for value in STEPS[step].raised[name]:
        one = found.get((step, dataclasses.replace(base, **{name: value})))
        if one is not None:
            points.append((value, max(one[what], 1e-9)))
    if len(points) < 2:
        return None
    (x, y), (xx, yy) = points[-2:]
    return float(np.log(yy / y) / np.log(xx / x))


def at_full_scale(step: str, what: str, found: dict[tuple[str, Size], dict[str, float]]) -> float | None:
    """From the base: up to the largest value of each size as measured, and on with its power."""
    given = STEPS[step]
    start = found.get((step, given.base))
    if start is None:
        return None
    value = start[what]
    for name, values in given.raised.items():
        power = exponent(step, name, what, found)
        largest = max(v for v in values if (step, dataclasses.replace(given.base, **{name: v})) in found)
        one = found[step, dataclasses.replace(given.base, **{name: largest})]
        if power is None or not start[what]:
            return None
        value *= one[what] / start[what] * (getattr(given.full, name) / largest) ** power
    return float(value)


def page(found: dict[tuple[str, Size], dict[str, float]], command: str) -> str:
    """Tables of every step, and of full scale."""
    lines = ["# Growth, and full scale", ""]
    made = f"{date.today().isoformat()} ({platform.machine()}, one thread of {os.cpu_count()} shared CPU cores)"
    lines += [f"Made on {made} by", "", "```sh", command, "```", "", *(__doc__ or "").split("\n\n")[2].splitlines(), ""]
    reached = rate()
    head = "| step | full scale | time grows with | memory grows with | one core | its products | memory | promised |"
    lines += [head, "|---" * 8 + "|"]
    for name, step in STEPS.items():
        if (name, step.base) not in found:
            continue
        powers = []
        for what in ("seconds", "bytes"):
            each = {size: exponent(name, size, what, found) for size in step.raised}
            powers.append(", ".join(f"{size}^{power:.2f}" for size, power in each.items() if power is not None))
        seconds, held = at_full_scale(name, "seconds", found), at_full_scale(name, "bytes", found)
        full = " × ".join(f"{getattr(step.full, size):,} {size}" for size in step.raised)
        hours = "–" if seconds is None else f"{seconds / 3600:,.1f} h"
        alone = "–" if step.products is None else f"{step.products(step.full) / reached / 3600:,.1f} h"
        lines.append(
            f"| {step.title} | {full} | {powers[0]} | {powers[1]} | {hours} | {alone} | "
            f"{'–' if held is None else f'{held / 1e9:,.2f} GB'} | {step.promise} |"
        )
    lines += ["", Path(__file__).with_name("growth-remarks.md").read_text(encoding="utf8").rstrip()]
    lines += ["", "## As measured", "", "| step | n | d | layers | latents | processor seconds | GB |"]
    lines += ["|---" * 7 + "|"]
    for (name, size), one in found.items():
        shape = f"{size.n:,} | {size.d:,} | {size.layers} | {size.s or '–'}"
        lines.append(f"| {name} | {shape} | {one['seconds']:.1f} | {one['bytes'] / 1e9:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where measurements are kept")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--page", type=Path, help="default: OUT/scale.md")
    parser.add_argument("--quick", action="store_true", help="two values of each size")
    parser.add_argument("--only-page", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, size = json.loads(given.one)
        print(json.dumps(measured(STEPS[name], Size(**size))))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "growth.jsonl"
    for name in () if given.only_page else given.steps.split(","):
        for size in sizes(STEPS[name], given.quick):
            if (name, size) in known(file):
                continue
            asked = json.dumps([name, dataclasses.asdict(size)])
            own = [sys.executable, "-m", "benchmarks.speed.growth", "--out", str(given.out), "--one", asked]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(own, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
            one = {"step": name, "size": dataclasses.asdict(size), **json.loads(done.stdout.splitlines()[-1])}
            with file.open("a", encoding="utf8") as stream:
                stream.write(json.dumps(one) + "\n")
            print(one, flush=True)
    options = [one for one in sys.argv[1:] if one != "--only-page"]
    to = given.page or given.out / "scale.md"
    write_text(to, page(known(file), f"python -m benchmarks.speed.growth {shlex.join(options)}"))
    print(to)


if __name__ == "__main__":
    main()
