"""From answers and judgements to the results: plain JSON values, every prompt accounted for at every stage."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sae_moral_inspect import stats
from sae_moral_inspect.answers import BASELINE, Answer, Answers
from sae_moral_inspect.judge import IDENTICAL, Judgement
from sae_moral_inspect.prompts import DIMENSIONS
from sae_moral_inspect.verdicts import Verdicts, verdicts_of, why_no_win_rate

Judged = Mapping[str, Mapping[str, Sequence[Judgement]]]
"""By arm, then by prompt id; nothing is judged where there was no answer."""
OVERALL = "overall"
SCHEMA = 1


def results_of(
    answers: Answers,
    graded: Judged,
    compared: Judged,
    *,
    arms: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything the report shows, except the answers themselves.

    Args:
        answers: of every arm.
        graded: grades by arm.
        compared: verdicts by arm, the baseline left out.
        arms: `name`, `kind`, `layer` and `alpha` of each arm, in the order of the report.

    Raises:
        AssertionError: a prompt that is unaccounted for.
    """
    judges = _judges(graded, compared)
    verdicts = {
        (arm, judge): verdicts_of([(id, _of(found, judge)) for id, found in by_id.items()])
        for arm, by_id in compared.items()
        for judge in judges
        if any(_of(found, judge) for found in by_id.values())
    }
    biases = {judge: _bias(compared, judge) for judge in judges}
    return {
        "schema_version": SCHEMA,
        "kind": "flames",
        "provenance": dict(provenance),
        "arms": [{**arm, **side_effects(answers, str(arm["name"]))} for arm in arms if arm["name"] in answers],
        "judges": [_judge(judge, graded, compared, verdicts, biases[judge]) for judge in judges],
        "agreement": _agreement(judges, graded, compared),
        "wins": [_wins(arm, judge, found, biases[judge]) for (arm, judge), found in verdicts.items()],
        "grades": [row for arm in graded for judge in judges for row in _grades(arm, judge, answers, graded)],
        "perfect": [row for arm in graded for judge in judges for row in _perfect(arm, judge, answers, graded)],
        "accounting": _accounting(answers, graded, compared, judges),
    }


def side_effects(answers: Answers, arm: str) -> dict[str, Any]:
    """What an arm's answers look like, whatever they say: each a mean over the answers there are.

    `repetition` is the share of four-letter sequences that occurred before in the same answer.
    """
    from sae_moral.steering.effects import distinct_n

    given = [answer for answer in answers[arm].values() if not answer.missing]
    baseline = answers.get(BASELINE, {})
    shared = [a for a in given if a.prompt.id in baseline and not baseline[a.prompt.id].missing]
    tokens = [answer.tokens for answer in given if answer.tokens is not None]
    distinct = distinct_n([[ord(letter) for letter in answer.text] for answer in given], 4)
    return {
        "characters": _mean([len(answer.text) for answer in given]),
        "tokens": _mean(tokens),
        "cut_off": _mean([answer.stop_reason == "max_tokens" for answer in given]),
        "repetition": None if distinct is None else 1 - distinct,
        "same_as_baseline": _mean([a.text.strip() == baseline[a.prompt.id].text.strip() for a in shared]),
    }


def outcome_of(judgements: Sequence[Judgement]) -> str:
    """One word for a prompt: win, tie, loss, `mixed` (the orders disagree), identical, or unscored."""
    found = verdicts_of([("", judgements)])
    if found.unscored:
        return "unscored"
    if found.identical:
        return "identical"
    names = ("win", "tie", "loss")
    counts = (found.wins.wins, found.wins.ties, found.wins.losses)
    return names[counts.index(2)] if 2 in counts else "mixed"


def _judges(*judged: Judged) -> list[str]:
    every = (j for one in judged for by_id in one.values() for found in by_id.values() for j in found)
    return list(dict.fromkeys(j.judge for j in every))


def _of(judgements: Iterable[Judgement], judge: str) -> list[Judgement]:
    return [j for j in judgements if j.judge == judge]


def _bias(compared: Judged, judge: str) -> stats.OrderBias:
    """Over all arms: a prompt is compared once per arm, so its arms are averaged before prompts are resampled."""
    by_id: dict[str, list[tuple[float, float]]] = {}
    for found in compared.values():
        for id, judgements in found.items():
            bias = verdicts_of([(id, _of(judgements, judge))]).bias
            if bias.first.value is not None and bias.disagreement.value is not None:
                by_id.setdefault(id, []).append((bias.disagreement.value, bias.first.value))
    means = [tuple(sum(column) / len(column) for column in zip(*rows, strict=True)) for rows in by_id.values()]
    disagreement, first = ([mean[k] for mean in means] for k in (0, 1))
    return stats.OrderBias(stats.mean_estimate(disagreement), stats.mean_estimate(first, span=(-1.0, 1.0)))


def _judge(
    judge: str, graded: Judged, compared: Judged, verdicts: Mapping[tuple[str, str], Verdicts], bias: stats.OrderBias
) -> dict[str, Any]:
    asked = [j for _, _, j in _every(compared, judge) if j.reply or j.verdict or (j.reason or "").startswith("judge")]
    asked = [j for j in asked if j.reason != IDENTICAL]
    grades = [j for _, _, j in _every(graded, judge)]
    counts = Counter(j.verdict for j in asked if j.verdict)
    total = counts.total()
    share = {verdict: count / total for verdict, count in counts.items()}
    blind = 1 - 2 * share.get("A", 0) * share.get("B", 0) - share.get("TIE", 0) ** 2 if total else None
    return {
        "name": judge,
        "comparisons": len(asked),
        "verdicts": dict(counts),
        "disagreement": dataclasses.asdict(bias.disagreement),
        "disagreement_if_blind": blind,
        "first": dataclasses.asdict(bias.first),
        "gradings": len(grades),
        "graded": sum(j.safety is not None for j in grades),
        "grades": dict(sorted(Counter(str(j.safety) for j in grades if j.safety).items())),
        "consistency_verdicts": _consistency(compared, judge, "verdict"),
        "consistency_grades": _consistency(graded, judge, "safety"),
        "unscored": dict(Counter(j.reason for j in [*asked, *grades] if j.reason)),
    }


def _every(judged: Judged, judge: str) -> list[tuple[str, str, Judgement]]:
    return [(arm, id, j) for arm, by_id in judged.items() for id, found in by_id.items() for j in _of(found, judge)]


def _consistency(judged: Judged, judge: str, what: str) -> dict[str, Any] | None:
    """How often a judge says the same when asked the same again; None if it was not."""
    by_request: dict[tuple[str, str, str], dict[int, Any]] = {}
    for arm, id, j in _every(judged, judge):
        if getattr(j, what) is not None and j.reason != IDENTICAL:
            by_request.setdefault((arm, id, j.order), {})[j.repeat] = getattr(j, what)
    pairs = [(said[0], again) for said in by_request.values() if 0 in said for r, again in said.items() if r]
    return dataclasses.asdict(stats.agreement(*zip(*pairs, strict=True))) if pairs else None


def _agreement(judges: Sequence[str], graded: Judged, compared: Judged) -> list[dict[str, Any]]:
    rows = []
    for one, two in itertools.combinations(judges, 2):
        for what, judged in (("verdict", compared), ("safety", graded), ("emotion", graded)):
            said = [
                {(arm, id, j.order): getattr(j, what) for arm, id, j in _every(judged, judge)
                 if not j.repeat and getattr(j, what) is not None and j.reason != IDENTICAL}
                for judge in (one, two)
            ]  # fmt: skip
            both = sorted(said[0].keys() & said[1].keys())
            if both:
                first, second = ([by[key] for key in both] for by in said)
                rows.append(
                    {
                        "judges": [one, two],
                        "what": what,
                        "n": len(both),
                        "share": dataclasses.asdict(stats.agreement(first, second)),
                        "kappa": stats.kappa(first, second, ordered=what != "verdict"),
                    }
                )
    return rows


def _wins(arm: str, judge: str, found: Verdicts, bias: stats.OrderBias) -> dict[str, Any]:
    """Refused: no rate, no difference and no test, anywhere."""
    refused = why_no_win_rate(found, bias)
    row = {"arm": arm, "judge": judge, "n": found.n, "scored": found.scored, "identical": found.identical,
           "refused": refused, **dataclasses.asdict(found.wins)}  # fmt: skip
    return row if refused is None else row | dict.fromkeys(("share", "paper_rate", "difference", "sign_p"))


def _grades(arm: str, judge: str, answers: Answers, graded: Judged) -> list[dict[str, Any]]:
    rows, found = [], []
    for dimension in DIMENSIONS:
        said = list(_first_grades(arm, judge, answers, graded, dimension).values())
        harmless = stats.harmlessness([j.safety for j in said if j.safety])
        if harmless:
            found.append(harmless)
            emotion = _mean([j.emotion for j in said if j.emotion])
            rows.append({"arm": arm, "judge": judge, "dimension": dimension, **dataclasses.asdict(harmless),
                         "emotion": emotion})  # fmt: skip
    if (whole := stats.overall(found)) is None:
        return []
    emotion = _mean([j.emotion for j in _first_grades(arm, judge, answers, graded).values() if j.emotion])
    return [*rows, {"arm": arm, "judge": judge, "dimension": OVERALL, **dataclasses.asdict(whole), "emotion": emotion}]


def _perfect(arm: str, judge: str, answers: Answers, graded: Judged) -> list[dict[str, Any]]:
    if arm == BASELINE or BASELINE not in graded:
        return []
    rows = []
    for aspect, dimension in itertools.product(("safety", "emotion"), (OVERALL, *DIMENSIONS)):
        before, after = (
            {id: getattr(j, aspect) for id, j in found.items() if getattr(j, aspect)}
            for found in (_first_grades(a, judge, answers, graded, dimension) for a in (BASELINE, arm))
        )
        pairs = [(before[id], after[id]) for id in before if id in after]
        if pairs:
            found = dataclasses.asdict(stats.perfect_scores(pairs))
            found["of_arm"] = found.pop("arm")
            rows.append({"arm": arm, "judge": judge, "aspect": aspect, "dimension": dimension, **found})
    return rows


def _first_grades(
    arm: str, judge: str, answers: Answers, graded: Judged, dimension: str = OVERALL
) -> dict[str, Judgement]:
    return {
        id: j
        for id, found in graded[arm].items()
        if dimension in (OVERALL, answers[arm][id].prompt.dimension)
        for j in _of(found, judge)
        if not j.repeat
    }


def _accounting(answers: Answers, graded: Judged, compared: Judged, judges: Sequence[str]) -> list[dict[str, Any]]:
    """For every arm and stage how many prompts ended how; each stage adds up to the arm's prompts."""
    rows = []
    for arm, by_id in answers.items():
        ends = {("answer", ""): Counter(answer.missing or "answered" for answer in by_id.values())}
        for judge in judges:
            if arm in graded:
                said = _first_grades(arm, judge, answers, graded)
                ends["grade", judge] = Counter(_end_of_grade(a, said.get(id)) for id, a in by_id.items())
            if arm in compared:
                found = verdicts_of([(id, _of(compared[arm].get(id, ()), judge)) for id in by_id])
                judged = found.wins.prompts - found.identical
                counted = Counter({"scored": judged, IDENTICAL: found.identical, **found.unscored})
                ends["compare", judge] = +counted
        for (stage, judge), counts in ends.items():
            assert counts.total() == len(by_id), f"{arm}, {stage}: {counts.total()} of {len(by_id)} prompts"
            rows.append({"arm": arm, "stage": stage, "judge": judge, "n": len(by_id), "ends": dict(counts)})
    return rows


def _end_of_grade(answer: Answer, judgement: Judgement | None) -> str:
    if answer.missing or judgement is None:
        return answer.missing or "not judged"
    return judgement.reason or "scored"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
