"""Planted worlds with known answers, and what every metric says of them under both protocols.

    python -m benchmarks.validity --out out [--quick] [--processes 2] [--minutes 45] [--time]

Every measured world is a line in OUT/worlds.jsonl (worlds-quick.jsonl), so that an interrupted run goes on where it
ended. The tables and figures go to --page (docs/results by default; --quick writes them to OUT).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.validity.page import write
from benchmarks.validity.plan import by_name
from benchmarks.validity.store import fill, load, seconds


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where measured worlds are kept")
    parser.add_argument("--quick", action="store_true", help="few and small worlds: does it run, not what does it say")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="stop after so many; the same command goes on")
    parser.add_argument("--page", type=Path, help="where validity.md and its figures go")
    parser.add_argument("--only-page", action="store_true", help="from what has been measured so far")
    parser.add_argument("--time", action="store_true", help="only print how long a world of each kind takes")
    arguments = parser.parse_args()
    if arguments.time:
        return seconds(arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / ("worlds-quick.jsonl" if arguments.quick else "worlds.jsonl")
    plan = by_name(arguments.quick)
    if not arguments.only_page:
        fill(file, arguments.quick, arguments.processes, arguments.minutes)
    page = arguments.page or (arguments.out if arguments.quick else Path("docs/results"))
    page.mkdir(parents=True, exist_ok=True)
    print(f"wrote {write(page, load(file, plan.values()), plan, quick=arguments.quick)}")


if __name__ == "__main__":
    main()
