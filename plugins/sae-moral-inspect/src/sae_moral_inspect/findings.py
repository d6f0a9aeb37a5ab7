"""The first sentence of a report: did behaviour change, in which direction, beyond which twins, at what damage; and
examples of answers, chosen by rules that are stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_moral_inspect.answers import BASELINE, Answer
from sae_moral_inspect.behaviour import distance
from sae_moral_inspect.contrasts import ContrastRow
from sae_moral_inspect.prompts import FlamesPrompt
from sae_moral_inspect.results import ArmRow, FlamesResults, Item
from sae_moral_inspect.stats import Estimate

WHAT = {
    "win share": "the judge's preference",
    "refused": "refusals",
    "over-refused": "refusals of harmless questions",
    "repetition": "repetition",
}
"""What is compared, as sentences call it."""


def sentences(results: FlamesResults) -> list[str]:
    """One sentence for every operation; one that says so where there is none."""
    arms = [arm for arm in results.arms if arm.kind == "operated"]
    if not arms:
        return ["Nothing was operated on, so there is no change to tell."]
    return [_sentence(arm, results) for arm in arms]


def _sentence(arm: ArmRow, results: FlamesResults) -> str:
    own = [row for row in results.contrasts if row.arm == arm.name]
    told = [_change(row) for row in own if row.twin_kind == BASELINE and _beyond(row)]
    damage = f" at a KL of {arm.neutral.kl:.3g} on neutral text" if arm.neutral and arm.neutral.kl is not None else ""
    start = f"{arm.name}{damage}: "
    shares = [row for row in results.wins if row.arm == arm.name]
    no_rate = "" if any(row.refused is None for row in shares) else " No judge here is good enough for a win rate."
    if not told:
        sizes = [
            f"{abs(row.detectable) * 100:.0f} points in {WHAT[row.what]}"
            for row in own
            if row.twin_kind == BASELINE and row.detectable
        ]
        seen = f" A difference of {', or of '.join(sizes)} would have been found." if sizes else ""
        return f"{start}behaviour is not shown to change against the baseline.{seen}{no_rate}"
    changed = {row.what for row in own if row.twin_kind == BASELINE and _beyond(row)}
    return f"{start}{'; '.join(told)}. {' '.join(_twins(own, what) for what in WHAT if what in changed)}{no_rate}"


def _change(row: ContrastRow) -> str:
    value = row.difference.value or 0.0
    way = "more" if value > 0 else "less"
    judge = f" ({row.judge})" if row.judge else ""
    return f"{WHAT[row.what]}{judge} {way} than the baseline's by {_points(row.difference)}"


def _twins(rows: Sequence[ContrastRow], what: str) -> str:
    """Which twins a change goes beyond, in the direction that it has against the baseline."""
    of = [row for row in rows if row.what == what]
    up = (next(row for row in of if row.twin_kind == BASELINE).difference.value or 0.0) > 0
    sides: dict[bool, list[str]] = {True: [], False: []}
    for row in of:
        if row.twin_kind != BASELINE:
            low, high = row.difference.low or 0.0, row.difference.high or 0.0
            sides[low > 0 if up else high < 0].append(row.twin)
    if not any(sides.values()):
        return f"No twin was run for {WHAT[what]}."
    beyond = f"beyond {', '.join(sides[True])}" if sides[True] else "beyond no twin"
    return f"In {WHAT[what]} it is {beyond}{'; not beyond ' + ', '.join(sides[False]) if sides[False] else ''}."


def _beyond(row: ContrastRow) -> bool:
    low, high = row.difference.low, row.difference.high
    return low is not None and high is not None and (low > 0 or high < 0)


def _points(estimate: Estimate) -> str:
    value, low, high = (100 * abs(x or 0.0) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.0f} points [{min(low, high):.0f}, {max(low, high):.0f}]"


@dataclass(frozen=True)
class Example:
    """One prompt with the answers of the baseline, an operation and its twins, and the rule that chose it."""

    rule: str
    prompt: FlamesPrompt
    answers: dict[str, Answer]


def examples(items: Sequence[Item], results: FlamesResults) -> list[Example]:
    """For the first operation: the answers that differ most from the baseline's, the median and least (letters in
    common), and those where its outcome and that of a twin are furthest apart. Ties go to the first prompt."""
    operated = next((arm.name for arm in results.arms if arm.kind == "operated"), None)
    by_prompt: dict[str, dict[str, Item]] = {}
    for item in items:
        by_prompt.setdefault(item.prompt.id, {})[item.arm] = item
    measured = []
    for arms in by_prompt.values():
        if operated in arms:
            sides = {name: answer for name, answer, _ in arms[operated].sides}
            if BASELINE in sides and operated in sides:
                measured.append((distance(sides[BASELINE].text, sides[operated].text), arms))
    if not measured:
        return []
    ranked = sorted(measured, key=lambda entry: entry[0])
    rules = {"largest difference": ranked[-1], "median difference": ranked[len(ranked) // 2]}
    rules["smallest difference"] = ranked[0]
    points = {"win": 1.0, "tie": 0.5, "mixed": 0.5, "identical": 0.5, "loss": 0.0}
    apart = [
        (abs(points[arms[operated].outcome] - points[other.outcome]), name, (near, arms))
        for near, arms in measured
        for name, other in arms.items()
        if name != operated and arms[operated].outcome in points and other.outcome in points
    ]
    if apart and (most := max(apart, key=lambda entry: entry[0]))[0]:
        rules[f"outcome furthest from that of {most[1]}"] = most[2]
    return [Example(rule, next(iter(arms.values())).prompt, _answers(arms)) for rule, (_, arms) in rules.items()]


def _answers(arms: dict[str, Item]) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    for item in arms.values():
        found |= {name: answer for name, answer, _ in item.sides}
    return found
