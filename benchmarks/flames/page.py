"""A run of Flames as a short page: what changed, what the judges are worth, win shares, twins, grades, side effects,
some answers. Prompts are the benchmark's and are not shown.

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

from sae_moral_inspect.answers import BASELINE, read_answers
from sae_moral_inspect.findings import examples, sentences
from sae_moral_inspect.report import contrasts_table, effects_table, grades_table, wins_table, worth
from sae_moral_inspect.results import FlamesResults, items_of

from sae_moral.tables import Table, markdown_table

ROOT = Path(__file__).resolve().parents[2]
REMARKS = Path(__file__).with_name("remarks.md")


def lines(results: FlamesResults, out: Path) -> Iterator[str]:
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
    yield from _examples(results, out)


def _examples(results: FlamesResults, out: Path) -> Iterator[str]:
    """The baseline's answer and the first operation's, at the prompts that the rules choose."""
    operated = next((arm.name for arm in results.arms if arm.kind == "operated"), None)
    found = examples(items_of(read_answers(sorted((out / "answers").glob("*.jsonl"))), {}, {}), results)
    yield "\n## Answers beside each other\n"
    yield "Chosen by how much of the letters the operated answer shares with the baseline's; line breaks left out."
    for one in found:
        yield f"\n**{one.rule[:1].upper()}{one.rule[1:]}** (prompt {one.prompt.id}, {one.prompt.dimension})\n"
        for arm in filter(None, (BASELINE, operated)):
            yield f"- {arm}: {' '.join(one.answers[arm].text.split())}"


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
    text = "\n".join([*lines(results, given.out), "", REMARKS.read_text(encoding="utf8").rstrip()])
    given.page.write_text(text + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
