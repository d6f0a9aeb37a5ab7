"""A run of Flames as a short page: what changed, what the judges are worth, win shares, twins, grades, side effects. No
prompt and no answer: those are the benchmark's.

    python benchmarks/flames/page.py OUT [--page docs/results/flames.md]

What is said of the numbers stands in remarks.md beside this script.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from sae_moral_inspect.findings import sentences
from sae_moral_inspect.report import contrasts_table, effects_table, grades_table, wins_table, worth
from sae_moral_inspect.results import FlamesResults

from sae_moral.tables import Table, markdown_table

ROOT = Path(__file__).resolve().parents[2]
REMARKS = Path(__file__).with_name("remarks.md")


def lines(results: FlamesResults) -> Iterator[str]:
    """Of the page, without the remarks."""
    yield "# Flames, measured\n"
    yield f"Made on {date.today().isoformat()} ({platform.machine()}, {os.cpu_count()} shared CPU cores).\n"
    yield from (f"- {sentence}" for sentence in sentences(results))
    yield "\n## What the judges are worth\n"
    calibrated = {row.judge: row for row in results.calibration}
    for judge in results.judges:
        yield f"**{judge.name}**\n"
        yield from (f"- {remark}" for remark in worth(judge, calibrated.get(judge.name)))
        yield ""
    refused = [f"- {row.arm}, {row.judge}: {row.refused}" for row in results.wins if row.refused]
    yield from _section("Win shares against the baseline", wins_table(results))
    yield from refused
    yield from _section("Operations against their twins", contrasts_table(results))
    yield from _section("Grades, overall", grades_table(results))
    yield from _section("Side effects", effects_table(results))


def _section(title: str, made: Table) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield markdown_table(made)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of a run")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/results/flames.md")
    given = parser.parse_args()
    results = FlamesResults.load(given.out / "results.json")
    text = "\n".join([*lines(results), "", REMARKS.read_text(encoding="utf8").rstrip()])
    given.page.write_text(text + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
