"""How long the command line takes to answer: commands that only print, and a first small diagnosis.

    python benchmarks/speed/startup.py [--rounds 5] [--model smollm2-135m-instruct] [--texts 60]

Processor seconds of a fresh process on one thread, its start included; medians over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PRINTING = (["--help"], ["metrics"], ["models"], ["data"], ["diagnose", "--help"], ["sweep", "--help"])
GOALS = {"printing": 0.5, "diagnosis": 6.0}
"""Seconds."""


def seconds(command: list[str], rounds: int) -> float:
    """Median processor seconds of a command that has to end well."""
    found = []
    for _ in range(rounds):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(found)


def main() -> None:
    """Print a line as each command ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--texts", type=int, default=60)
    given = parser.parse_args()
    program = str(Path(sys.executable).with_name("sae-moral"))
    print("| command | processor s | goal |\n|---|---|---|")
    for line in PRINTING:
        print(f"| {' '.join(line)} | {seconds([program, *line], given.rounds):.2f} | {GOALS['printing']} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        line = [program, "diagnose", given.model, "--limit", str(given.texts), "--layers", "15", "--controls", "none"]
        line += ["--data", "scenarios-400", "--device", "cpu", "--overwrite", "--out", folder]
        took = seconds(line, max(1, given.rounds // 2))
        print(f"| a diagnosis of {given.texts} texts at one layer | {took:.2f} | {GOALS['diagnosis']} |", flush=True)


if __name__ == "__main__":
    main()
