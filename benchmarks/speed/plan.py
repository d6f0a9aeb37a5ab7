"""What `sae-moral plan` says of a study, beside what the study then takes.

    python benchmarks/speed/plan.py [--data SOURCE] [--limit 300] [--models smollm2-135m-instruct,gemma-3-270m]

Per model a diagnosis of two layers with the default controls, and a training of one SAE, each in its own process with
one thread: processor seconds and the highest resident memory, with the imports that the plan leaves out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sae_moral import plan
from sae_moral.sae import TrainSettings

LAYERS = {"smollm2-135m-instruct": ("0,15", "15"), "gemma-3-270m": ("0,9", "9")}
STEPS = 200


def real(command: Sequence[str]) -> tuple[float, int]:
    """Processor seconds and peak resident bytes of `sae-moral COMMAND`.

    Raises:
        RuntimeError: it failed.
    """
    child = subprocess.Popen([sys.executable, "-m", "sae_moral.cli", *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"sae-moral {' '.join(command)} ended with status {status}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="moralstrength")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--models", default=",".join(LAYERS))
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    print("| study | planned s | real s | real / planned | planned GB | real GB | real / planned |")
    print("|---" * 7 + "|", flush=True)
    for model in given.models.split(","):
        two, one = LAYERS[model]
        settings = TrainSettings(steps=STEPS)
        with tempfile.TemporaryDirectory() as scratch:
            out, how = Path(scratch), {"limit": given.limit, "device": "cpu"}
            common = [model, "--data", given.data, "--limit", str(given.limit), "--device", "cpu"]
            studies = {
                "diagnose": (plan(model, given.data, layers=two, **how), ["--layers", two, "--out", str(out / "d")]),
                "train-sae": (
                    plan(model, given.data, study="train-sae", layers=one, settings=settings, **how),
                    ["--layers", one, "--steps", str(STEPS), "--out", str(out / "t")],
                ),
            }
            for study, (needs, options) in studies.items():
                seconds, peak = real([study, *common, *options])
                planned = (needs.hours or float("nan")) * 3600
                times = f"{planned:.1f} | {seconds:.1f} | {seconds / planned:.2f}"
                bytes_ = f"{needs.peak / 1e9:.2f} | {peak / 1e9:.2f} | {peak / needs.peak:.2f}"
                print(f"| {study} {model} | {times} | {bytes_} |", flush=True)


if __name__ == "__main__":
    main()
