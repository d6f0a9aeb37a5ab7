"""Operations against their twins, paired by prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_moral.shown import shown
from sae_moral.steering.effects import distinct_n
from sae_moral_inspect import stats
from sae_moral_inspect.answers import BASELINE, Answer, Answers
from sae_moral_inspect.arms import ArmAbout
from sae_moral_inspect.behaviour import refuses
from sae_moral_inspect.judging import Judged, Judgement
from sae_moral_inspect.stats import Estimate

POWER = 2.8
"""Standard errors of a difference that a test at 5 % finds in 80 % of runs."""


@shown()
@dataclass(frozen=True)
class ContrastRow:
    """An operation against its twin, paired by prompt: both at the same layers and strength.

    Attributes:
        arm, twin: names.
        twin_kind: one of `KINDS`, or the baseline.
        judge: whose win shares; empty for what needs no judge.
        what: `win share` (each against the baseline, whose own is ½), `refused`, `over-refused` or `repetition`.
        difference: of the arm less the twin.
        detectable: the difference that this many prompts find in 80 % of runs at 5 %; None without a spread.
    """

    arm: str
    twin: str
    twin_kind: str
    judge: str
    what: str
    difference: Estimate
    detectable: float | None


def contrasts(
    arms: Sequence[ArmAbout],
    answers: Answers,
    compared: Judged,
    harmless: Answers,
    given: Collection[tuple[str, str]],
) -> list[ContrastRow]:
    """Every operation against every twin of its layers and strength, and against the baseline.

    Args:
        given: arms and judges that have a win rate; win shares of others are not compared.
    """
    rows = []
    for arm in (arm for arm in arms if arm.kind == "operated"):
        strength = _place(arm)
        for twin in arms:
            if twin.kind == "operated" or not (twin.kind == BASELINE or _place(twin) == strength):
                continue
            pairs = {("", what): values for what, values in _behaviours(arm, twin, answers, harmless).items()}
            for judge in {judge for name, judge in given if name == arm.name}:
                own = _points(compared[arm.name], judge)
                if twin.kind == BASELINE:  # which as often wins as loses against itself
                    pairs[judge, "win share"] = [points - 0.5 for points in own.values()]
                elif (twin.name, judge) in given:
                    pairs[judge, "win share"] = _paired(own, _points(compared[twin.name], judge))
            for (judge, what), values in pairs.items():
                found = stats.mean_estimate(values, span=(-1.0, 1.0))
                error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
                rows.append(ContrastRow(arm.name, twin.name, twin.kind, judge, what, found, POWER * error or None))
    return rows


def _points(by_id: Mapping[str, Sequence[Judgement]], judge: str) -> dict[str, float]:
    """Of each prompt with a verdict of this judge in both orders, the mean of its points."""
    found = {id: stats.points_of([j for j in said if j.judge == judge]) for id, said in by_id.items()}
    return {id: sum(own.values()) / 2 for id, own in found.items() if len(own) == 2}


def _place(arm: ArmAbout) -> tuple[str, ...]:
    """Layers and strength, as the name of an arm has them behind its kind."""
    return tuple(arm.name.split()[-3 if arm.kl is not None else -2 :])


def _behaviours(one: ArmAbout, other: ArmAbout, answers: Answers, harmless: Answers) -> dict[str, list[float]]:
    """Differences by prompt of what needs no judge."""

    def of(by_id: Mapping[str, Answer], value: Any) -> dict[str, float]:
        found = {id: value(answer.text) for id, answer in by_id.items() if not answer.missing}
        return {id: float(number) for id, number in found.items() if number is not None}

    measured = {"refused": (answers, refuses), "over-refused": (harmless, refuses), "repetition": (answers, _repeated)}
    found = {
        what: _paired(*(of(given.get(arm.name, {}), value) for arm in (one, other)))
        for what, (given, value) in measured.items()
    }
    return {what: values for what, values in found.items() if values}


def _paired(one: Mapping[str, float], other: Mapping[str, float]) -> list[float]:
    return [one[id] - other[id] for id in one if id in other]


def _repeated(text: str) -> float | None:
    distinct = distinct_n([[ord(letter) for letter in text]], 4)
    return None if distinct is None else 1 - distinct
