"""A whole run: every arm answers every prompt once, judges judge what was kept, and one report is written.

Both halves go through Inspect, so that its logs are there to look at, and are cells of one study: an arm's answers are
one cell, what one judge says of an arm's answers another. Two journals beside them hold every single reply, so that a
run that was killed asks nothing twice. The halves are apart: judging needs no model, and answers made elsewhere can be
judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig, Model, get_model

from sae_moral.io import Journal, check_claim, claim, key, locked, typed, write_together
from sae_moral.steering import SideEffects
from sae_moral.studies.study import Assembly, Cell, Done, Study
from sae_moral_inspect.answers import BASELINE, Answer, Answers, write_answers
from sae_moral_inspect.arms import Arm, ArmAbout, Neutral
from sae_moral_inspect.calibration import calibration_answers
from sae_moral_inspect.judge import CLASSIFIER, judge_identity
from sae_moral_inspect.judging import READER, Judged, Judgement, rubric
from sae_moral_inspect.prompts import FlamesPrompt
from sae_moral_inspect.results import FlamesResults, items_of, results_of
from sae_moral_inspect.tasks import (
    answer_of,
    asking_task,
    comparing_task,
    flames_classifier,
    flames_judge,
    flames_preference,
    grading_task,
    judgements_in,
)

ANSWERS_LEDGER, REPLIES_LEDGER = "asked-models.jsonl", "asked-judges.jsonl"
RESULTS, REPORT = "results.json", "report.html"


@dataclass(frozen=True)
class Judges:
    """Who judges, and how.

    Attributes:
        models: none if the classifier alone grades.
        language, repeats: see `Judging`.
        connections: requests at the same time.
        scorer: `judge`, or `classifier` for the grades.
        trust_remote_code: see `FlamesClassifier`.
        form: see `judging.FORMS`.
        calibrate: judge pairs with a known better answer as well (`calibration`).

    Raises:
        ValueError: an unknown language or form, or one judge given twice.
    """

    models: Sequence[Model] = ()
    language: str = "zh"
    repeats: int = 1
    connections: int = 4
    scorer: str = "judge"
    trust_remote_code: bool = False
    form: str = "text"
    calibrate: bool = True

    def __post_init__(self) -> None:
        rubric(self.language, self.form)
        names = [str(model) for model in self.models]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"judge {twice[0]!r} is given twice; expected each judge once")


def run(
    out: Path,
    judges: Judges,
    *,
    provenance: Mapping[str, Any],
    model: str | None = None,
    arms: Sequence[Arm] = (),
    prompts: Sequence[FlamesPrompt] = (),
    decoding: GenerateConfig | None = None,
    answers: Answers | None = None,
    harmless: Sequence[FlamesPrompt] = (),
    overwrite: bool = False,
) -> FlamesResults:
    """Answer (unless `answers` are given), judge, and write `results.json` and `report.html`. Run again, it goes on.

    Several processes may work on one folder: each cell is done by one of them, and all have the whole result.

    Args:
        out: the folder; made when everything that is given has been checked.
        provenance: what the results say of where they come from; JSON values.
        model: what the provider loads; with `arms`, `prompts` and `decoding`, or else `answers`.
        harmless: prompts that nobody should refuse, for every arm as well (`calibration.harmless_prompts`).
        overwrite: take over a folder that holds another run; what both runs share is not asked again.

    Raises:
        ValueError: neither a model nor answers; an operation that does not fit the model.
        FolderError: the folder holds another run.
        DataError: a damaged file in it.
        RuntimeError: it stopped on the way; run it again to go on.
        OSError: a file could not be written; what was kept is unharmed.
    """
    from sae_moral_inspect.report import render

    study = Study(out, "flames/2")
    if (model is None) == (answers is None):
        raise ValueError("say who answers: a model, or answers made elsewhere")
    names = [arm.name for arm in arms] if answers is None else list(answers)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two arms are called {twice[0]!r}; expected every arm once")
    decoding = decoding or GenerateConfig()
    asking = [] if model is None else answering_cells(out, model, arms, prompts, decoding)
    also = answering_cells(out, model, arms, harmless, decoding, "harmless") if model and harmless else []
    shaped_by = {
        "model": model,
        "arms": names,
        "prompts": max(map(len, answers.values())) if answers else len(prompts),
        "answers": [study.key(cell) for cell in (*asking, *also)] if answers is None else _digest(answers),
        "calibrated": judges.calibrate,
        **_judging_identity(judges),
    }
    files = (RESULTS, REPORT, ANSWERS_LEDGER, REPLIES_LEDGER)
    if not overwrite:
        check_claim(out, "flames", shaped_by, files=files)
    with locked(out, wait=True):
        claim(out, "flames", shaped_by, files=files, overwrite=overwrite)
    assembly = Assembly(out)
    about = [ArmAbout(name, "given") for name in answers or ()]
    if answers is None:
        about, answers = _answers(study.run(asking, what="answers"), arms)
        for arm in arms:
            write_answers(out / "answers" / f"{arm.name}.jsonl", arm.name, answers[arm.name].values())
    _, innocent = _answers(study.run(also, what="harmless prompts"), arms) if also else ([], {})
    calibrated = None
    if judges.calibrate and judges.models:
        calibrated = _judgements(study, calibration_answers(), judges, "calibration: ")
    graded, compared = _judgements(study, answers, judges)
    made: dict[str, Any] = {"harmless": innocent, "calibrated": calibrated}
    results = results_of(answers, graded, compared, arms=about, provenance=provenance, **made)

    def write() -> None:
        page = render(results, items_of(answers, graded, compared))
        with locked(out, wait=True):
            write_together(out, {RESULTS: results.record(), REPORT: page})

    assembly.make(results, write)
    return results


@dataclass(frozen=True)
class _Answered:
    """The value of a cell of answers."""

    answers: list[Answer]
    identity: dict[str, Any]
    neutral: Neutral | None
    alpha: float | None = None


@dataclass(frozen=True)
class _Item:
    """What one judge said of one answer."""

    id: str
    judgements: list[Judgement]


@dataclass(frozen=True)
class _Judged:
    """The value of a cell of judgements."""

    items: list[_Item]


class _Unfinished(Exception):
    """A judge failed on the way: what there is, to be reported now; the next run asks for the rest."""

    def __init__(self, found: _Judged) -> None:
        super().__init__("some requests failed")
        self.found = found


def answering_cells(
    out: Path,
    model: str,
    arms: Sequence[Arm],
    prompts: Sequence[FlamesPrompt],
    decoding: GenerateConfig,
    what: str = "answers",
) -> list[Cell]:
    """One cell per arm. Each arm is loaded once here, so that what does not fit is noticed before anything is asked.

    Raises:
        ValueError: a model that cannot be loaded, or an operation that does not fit it.
        DataError: damage in the journal of the answers.
    """

    def provider(arm: Arm) -> Model:
        ledger = str(out / ANSWERS_LEDGER)
        return get_model(f"sae-moral/{model}", memoize=False, **{**arm.arguments, "ledger": ledger})

    def work(arm: Arm, task: Callable[[], Task], folder: Path) -> _Answered:
        asked = provider(arm)
        log = _evaluate(task(), folder, model=asked)
        by_id = {prompt.id: prompt for prompt in prompts}
        found = [answer_of(by_id[str(sample.id)], sample.output) for sample in log.samples or []]
        if len(found) != len(prompts):
            raise RuntimeError(f"{arm.name}: {len(found)} of {len(prompts)} prompts answered; run it again to go on")
        api: Any = asked.api
        steered = api.steerings
        neutral = _neutral(api.side_effects()) if steered else None
        return _Answered(found, api.identity, neutral, steered[0].alpha if len(steered) == 1 else None)

    cells = []
    for arm in arms:
        api: Any = provider(arm).api
        task = partial(asking_task, prompts, decoding.merge(GenerateConfig(seed=arm.seed)), f"{what} {arm.name}")
        shaped_by = {
            "what": "answers",
            "model": api.identity,
            "prompts": key("prompts", prompts=list(prompts)),
            "decoding": task().config.model_dump(exclude_none=True, mode="json"),
        }
        cells.append(Cell(f"{what} {arm.name}", shaped_by, partial(work, arm, task)))
    return cells


def _answers(done: Sequence[Done], arms: Sequence[Arm]) -> tuple[list[ArmAbout], Answers]:
    about, answers = [], {}
    for arm, one in zip(arms, done, strict=True):
        found = typed(one.value, _Answered, file=one.folder)
        about.append(ArmAbout(arm.name, arm.kind, arm.layer, found.alpha, found.identity, found.neutral, arm.kl))
        answers[arm.name] = {answer.prompt.id: answer for answer in found.answers}
    return about, answers


def _neutral(found: SideEffects) -> Neutral:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    shares = finite(found.top_agreement), finite(found.norm_share)
    return Neutral(finite(found.kl), finite(found.perplexity_ratio), *shares, found.n)


def judging_cells(out: Path, answers: Answers, judges: Judges, named: str = "") -> dict[tuple[str, str, str], Cell]:
    """The cells of every judge, by stage (`grades`, or `verdicts` against the baseline), arm and judge.

    Raises:
        DataError: damage in the journal of the judges' replies.
    """
    cells: dict[tuple[str, str, str], Cell] = {}
    said = {
        "language": judges.language,
        "repeats": judges.repeats,
        "form": judges.form,
        "ledger": str(out / REPLIES_LEDGER),
    }
    Journal(said["ledger"])  # damage in it is an error of its own, not one of an evaluation

    def add(stage: str, arm: str, who: str, about: Mapping[str, Any], task: Callable[[], Task], judge: Any) -> None:
        shaped_by = {"what": stage, "arm": arm, "answers": _digest({arm: answers[arm]}), "reader": READER, **about}
        cells[stage, arm, who] = Cell(
            f"{named}{stage} {arm} {who}", shaped_by, partial(_judge, task, judge, judges.connections)
        )

    for arm, by_id in answers.items():
        if judges.scorer == "classifier":
            task = _grading(by_id, partial(flames_classifier, judges.trust_remote_code), f"flames {arm}")
            add("grades", arm, "classifier", {"judge": CLASSIFIER}, task, None)
        for judge in judges.models:
            about = _judging_identity(judges, [judge])
            if judges.scorer == "judge":
                add(
                    "grades",
                    arm,
                    str(judge),
                    about,
                    _grading(by_id, partial(flames_judge, **said), f"flames {arm}"),
                    judge,
                )
            if arm != BASELINE and BASELINE in answers:
                about = {**about, "baseline": _digest({BASELINE: answers[BASELINE]})}
                task = partial(_comparing, answers[BASELINE], by_id, said, f"flames_pairwise {arm}")
                add("verdicts", arm, str(judge), about, task, judge)
    return cells


def _judgements(study: Study, answers: Answers, judges: Judges, named: str = "") -> tuple[Judged, Judged]:
    """Grades of every arm, and verdicts of every arm against the baseline; judges in their order."""
    cells = judging_cells(study.folder, answers, judges, named)
    found: dict[str, dict[str, dict[str, list[Judgement]]]] = {"grades": {}, "verdicts": {}}
    every = study.run(cells.values(), keep_going=(_Unfinished,), what=f"{named}judging")
    for (stage, arm, _), done in zip(cells, every, strict=True):
        failed = done.error if isinstance(done.error, _Unfinished) else None
        judged = failed.found if failed else typed(done.value, _Judged, file=done.folder)
        by_id = found[stage].setdefault(arm, {})
        for item in judged.items:
            by_id.setdefault(item.id, []).extend(item.judgements)
    return found["grades"], found["verdicts"]


def _grading(by_id: Mapping[str, Answer], scorer: Callable[[], Any], name: str) -> Callable[[], Task]:
    return lambda: grading_task(by_id, scorer(), name)


def _comparing(baseline: Mapping[str, Answer], arm: Mapping[str, Answer], said: Mapping[str, Any], name: str) -> Task:
    return comparing_task(baseline, arm, flames_preference(**said), name)


def _judge(task: Callable[[], Task], judge: Model | None, connections: int, folder: Path) -> _Judged:
    log = _evaluate(task(), folder, judge=judge, connections=connections)
    scores = {str(sample.id): next(iter((sample.scores or {}).values())) for sample in log.samples or []}
    found = _Judged([_Item(id, judgements_in(score)) for id, score in scores.items()])
    if any(judgement.failed for item in found.items for judgement in item.judgements):
        raise _Unfinished(found)
    return found


def _evaluate(
    task: Task, folder: Path, *, model: Model | None = None, judge: Model | None = None, connections: int | None = None
) -> EvalLog:
    [log] = eval(
        task,
        model=model,
        model_roles={"grader": judge} if judge else None,
        log_dir=str(folder),
        max_samples=connections,
        display="none",
        log_level="error",
    )
    if log.status != "success":
        error = log.error.message if log.error else log.status
        raise RuntimeError(f"{task.name}: stopped ({error}); what was answered is kept: run it again to go on")
    return log


def _judging_identity(judges: Judges, models: Sequence[Model] | None = None) -> dict[str, Any]:
    """Everything that shapes what judges say, except the answers."""
    return {
        "judges": [judge_identity(judge) for judge in (judges.models if models is None else models)],
        "scorer": judges.scorer,
        "language": judges.language,
        "repeats": judges.repeats,
        "rubric": key("rubric", **rubric(judges.language, judges.form)),
        **({} if judges.form == "text" else {"form": judges.form}),
    }


def _digest(answers: Answers) -> str:
    return key("answers", by_arm={arm: list(by_id.values()) for arm, by_id in answers.items()})
