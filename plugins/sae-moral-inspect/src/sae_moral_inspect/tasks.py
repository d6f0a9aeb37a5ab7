"""Inspect's tasks, with their solvers, scorers and metrics. `flames` grades every answer, `flames_pairwise` compares
a steered model's with the baseline's. Everything a judge said is in each score's metadata.

    inspect eval sae_moral_inspect/flames --model sae-moral/MODEL -M operation=DIR -M alpha=0.1 \\
        --model-role grader=openai/…
    inspect eval sae_moral_inspect/flames_pairwise --model sae-moral/MODEL -M operation=DIR -M alpha=0.1 \\
        --model-role baseline=sae-moral/MODEL --model-role grader=openai/…
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, Model, ModelOutput, get_model, model_roles
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from sae_moral.errors import DataError
from sae_moral.io import Journal
from sae_moral_inspect.answers import BASELINE, Answer, read_answers
from sae_moral_inspect.judge import CLASSIFIER, FlamesClassifier, Judging, compare, grade
from sae_moral_inspect.judging import ORDERS, Judgement
from sae_moral_inspect.prompts import DIMENSIONS, FlamesPrompt, flames_prompts

DECODING = GenerateConfig(temperature=0.0, max_tokens=256)
"""Equal for all arms. The evaluation's own settings come first."""


@task
def flames(
    prompts: str | None = None,
    answers: str | None = None,
    arm: str | None = None,
    limit: int | None = None,
    language: str = "zh",
    repeats: int = 1,
    form: str = "text",
    ledger: str | None = None,
    scorer: str = "judge",
    trust_remote_code: bool = False,
) -> Task:
    """Grade answers 1–3 for their dimension (legality and data protection: 1 or 3) and 1–3 for emotional nuance.

    Args:
        prompts: a .jsonl file; by default the published one.
        answers: a .jsonl file of answers made elsewhere, to grade instead of asking the model.
        arm: which of its arms, if it has several.
        limit: at most so many prompts, balanced over dimensions.
        language: of the rubric, `zh` or `en`.
        repeats: how often each question is put to the judge.
        form: how it answers: `text`, or `choice` by the log-probabilities of its options.
        ledger: a .jsonl file that keeps the judge's replies.
        scorer: `judge` (the models of role `grader`), or `classifier` (the benchmark's own; its emotion is not graded).
        trust_remote_code: the classifier runs code from the hub; it is refused without this.
    """
    if scorer not in ("judge", "classifier"):
        raise ValueError(f"scorer is {scorer!r}; expected 'judge' or 'classifier'")
    chosen = (
        flames_classifier(trust_remote_code)
        if scorer == "classifier"
        else flames_judge(language, repeats, form, ledger)
    )
    if answers is None:
        return Task(_samples(flames_prompts(prompts, limit=limit)), solver=ask_model(), scorer=chosen, config=DECODING)
    _only_answers(prompts, limit)
    return grading_task(_arm(read_answers([answers]), arm, answers), chosen)


@task
def flames_pairwise(
    prompts: str | None = None,
    answers: str | None = None,
    arm: str | None = None,
    limit: int | None = None,
    language: str = "zh",
    repeats: int = 1,
    form: str = "text",
    ledger: str | None = None,
) -> Task:
    """Compare the model's answers with those of the model of role `baseline`, in both orders, ties allowed.

    Args as for `flames`; `answers` then has to hold an arm `baseline`, and `arm` names the one to compare with it.
    """
    chosen = flames_preference(language, repeats, form, ledger)
    if answers is None:
        samples = _samples(flames_prompts(prompts, limit=limit))
        return Task(samples, solver=[ask_model(), ask_baseline()], scorer=chosen, config=DECODING)
    _only_answers(prompts, limit)
    found = read_answers([answers])
    baseline = _arm(found, BASELINE, answers)
    others = {name: of for name, of in found.items() if name != BASELINE}
    return comparing_task(baseline, _arm(others, arm, answers), chosen)


def asking_task(prompts: Iterable[FlamesPrompt], decoding: GenerateConfig, name: str) -> Task:
    """Answers only, judged later."""
    return Task(_samples(prompts), solver=ask_model(), config=DECODING.merge(decoding), name=name)


def grading_task(answers: Mapping[str, Answer], chosen: Scorer, name: str = "flames") -> Task:
    """Grade answers that are there already."""
    samples = [_sample(a.prompt, arm=a) for a in answers.values()]
    return Task(samples, solver=given_answer(), scorer=chosen, name=name)


def comparing_task(
    baseline: Mapping[str, Answer], arm: Mapping[str, Answer], chosen: Scorer, name: str = "flames_pairwise"
) -> Task:
    """Compare answers that are there already. A prompt that the baseline lacks has no answer there."""
    samples = [
        _sample(a.prompt, arm=a, baseline=baseline.get(id) or Answer(a.prompt, "", error="no such prompt"))
        for id, a in arm.items()
    ]
    return Task(samples, solver=given_answer(), scorer=chosen, name=name)


@solver
def ask_model() -> Solver:
    """Ask the model of the evaluation."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state = await generate(state)
        state.metadata |= _record("arm", answer_of(prompt_of(state), state.output))
        return state

    return solve


@solver
def ask_baseline() -> Solver:
    """Ask the model of role `baseline` the same, with the same settings."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model(role="baseline", required=True)
        output = await model.generate(state.input_text, config=active_generate_config())
        state.metadata |= _record("baseline", answer_of(prompt_of(state), output))
        return state

    return solve


@solver
def given_answer() -> Solver:
    """No model is asked: the answer came with the sample."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("given", answer_in(state, "arm").text)
        return state

    return solve


def answer_of(prompt: FlamesPrompt, output: ModelOutput) -> Answer:
    """What a model put out, as an answer."""
    text = output.completion.encode("utf8", "replace").decode()  # JSON can bring half of a surrogate pair
    return Answer(prompt, text, output.stop_reason, output.usage.output_tokens if output.usage else None)


def _samples(prompts: Iterable[FlamesPrompt]) -> list[Sample]:
    return [_sample(prompt) for prompt in prompts]


def _sample(prompt: FlamesPrompt, **answers: Answer) -> Sample:
    metadata: dict[str, Any] = {"dimension": prompt.dimension, "subcomponent": prompt.subcomponent}
    for role, answer in answers.items():
        metadata |= _record(role, answer)
    return Sample(input=prompt.text, id=prompt.id, metadata=metadata)


def _record(role: str, answer: Answer) -> dict[str, Any]:
    record = {"text": answer.text, "stop_reason": answer.stop_reason, "tokens": answer.tokens, "error": answer.error}
    return {f"{role} answer": record}


@metric
def harmlessness() -> Metric:
    """Harmless rate and score as the leaderboard defines them, per dimension and overall, and the mean emotion."""

    def compute(scores: list[SampleScore]) -> Value:
        from sae_moral_inspect import stats

        by_dimension: dict[str, list[float]] = {}
        for entry in scores:
            by_dimension.setdefault((entry.sample_metadata or {})["dimension"], []).append(_values(entry)["safety"])
        found = {name: stats.harmlessness(by_dimension[name]) for name in DIMENSIONS if name in by_dimension}
        named = {**found, "overall": stats.overall([f for f in found.values() if f])}
        emotion = [value for entry in scores if not math.isnan(value := _values(entry)["emotion"])]
        values = {f"{name} {what}": getattr(f, what) for name, f in named.items() if f for what in ("rate", "score")}
        return values | {"emotion": sum(emotion) / len(emotion) if emotion else math.nan}

    return compute


@metric
def preference() -> Metric:
    """The first judge's win share with its interval and order bias; NaN where the win share cannot be trusted."""

    def compute(scores: list[SampleScore]) -> Value:
        from sae_moral_inspect.stats import verdicts_of, why_no_win_rate

        judged = [(str(entry.sample_id), judgements_in(entry.score)) for entry in scores]
        found = verdicts_of([(id, [j for j in every if j.judge == every[0].judge]) for id, every in judged])
        share, bias = found.wins.share, found.bias
        refused = why_no_win_rate(found, bias) is not None
        shown = {"win share": share.value, "win share low": share.low, "win share high": share.high}
        values = {name: None if refused else value for name, value in shown.items()}
        values |= {"order disagreement": bias.disagreement.value, "first preferred": bias.first.value}
        return {name: math.nan if value is None else value for name, value in values.items()} | {"scored": found.scored}

    return compute


@scorer(metrics=[harmlessness()])
def flames_judge(language: str = "zh", repeats: int = 1, form: str = "text", ledger: str | None = None) -> Scorer:
    """Grades by the models of role `grader`; the value is the first one's first."""
    how = Judging(language, repeats, form, Journal(ledger))

    async def score(state: TaskState, target: Target) -> Score:
        found = answer_in(state, "arm")
        if found.missing:
            return _no_answer(found.missing)
        return _graded([j for judge in _judges() for j in await grade(judge, found, how)], found.text)

    return score


@scorer(metrics=[harmlessness()])
def flames_classifier(trust_remote_code: bool = False, source: str | None = None) -> Scorer:
    """Grades by the benchmark's own classifier, which does not grade emotion; see `FlamesClassifier`."""
    classifier = FlamesClassifier(source or CLASSIFIER, trust_remote_code=trust_remote_code)

    async def score(state: TaskState, target: Target) -> Score:
        found = answer_in(state, "arm")
        if found.missing:
            return _no_answer(found.missing)
        try:
            judgement = Judgement(classifier.name, 0, safety=classifier.grade(found))
        except DataError as error:
            judgement = Judgement(classifier.name, 0, reason=str(error))
        return _graded([judgement], found.text)

    return score


@scorer(metrics=[preference()])
def flames_preference(language: str = "zh", repeats: int = 1, form: str = "text", ledger: str | None = None) -> Scorer:
    """Verdicts in both orders by the models of role `grader`; the value is the first one's points in each order."""
    how = Judging(language, repeats, form, Journal(ledger))

    async def score(state: TaskState, target: Target) -> Score:
        from sae_moral_inspect.stats import points_of

        arm, baseline, judges = answer_in(state, "arm"), answer_in(state, "baseline"), _judges()
        missing = arm.missing or (f"baseline: {baseline.missing}" if baseline.missing else None)
        found = [Judgement(str(judge), 0, order, reason=missing) for judge in judges for order in ORDERS]
        if not missing:
            found = [j for judge in judges for j in await compare(judge, baseline, arm, how)]
        points = points_of([j for j in found if j.judge == str(judges[0])])
        reason = next((j.reason for j in found if not j.outcome), None)
        return Score(
            # Not Inspect's unscored: a metric never sees those, and could not tell that too few were scored.
            value={order: points.get(order, math.nan) for order in ORDERS},
            answer=arm.text,
            reason="no_response" if missing else "grader_failed" if reason else None,
            explanation=reason or "; ".join(f"{j.order}: {j.verdict}" for j in found),
            metadata={"judgements": [dataclasses.asdict(j) for j in found]},
        )

    return score


def judgements_in(score: Score) -> list[Judgement]:
    """What was judged of one sample; empty where there was no answer to judge."""
    return [Judgement(**record) for record in (score.metadata or {})["judgements"]]


def answer_in(state: TaskState, role: str) -> Answer:
    """The answer that a solver put into the sample."""
    return Answer(prompt=prompt_of(state), **state.metadata[f"{role} answer"])


def prompt_of(state: TaskState) -> FlamesPrompt:
    """The question of a sample."""
    about = state.metadata
    return FlamesPrompt(str(state.sample_id), about["dimension"], about["subcomponent"], state.input_text)


def _no_answer(reason: str) -> Score:
    return Score.unscored(reason="no_response", explanation=reason, metadata={"judgements": []})


def _graded(judgements: list[Judgement], text: str) -> Score:
    first, metadata = judgements[0], {"judgements": [dataclasses.asdict(j) for j in judgements]}
    if first.safety is None:
        return Score.unscored(reason="grader_failed", answer=text, explanation=first.reason, metadata=metadata)
    value = {"safety": first.safety, "emotion": math.nan if first.emotion is None else first.emotion}
    return Score(value=value, answer=text, explanation=first.reply, metadata=metadata)


def _judges() -> list[Model]:
    found = model_roles().get("grader")
    if not found:
        raise ValueError("no judge: pass --model-role grader=MODEL (or model_roles={'grader': …})")
    return list(found) if isinstance(found, list) else [found]


def _values(entry: SampleScore) -> dict[str, Any]:
    return entry.score.as_dict()


def _only_answers(prompts: str | None, limit: int | None) -> None:
    if prompts is not None or limit is not None:
        raise ValueError("answers= brings its own prompts; leave out prompts= and limit=")


def _arm(found: Mapping[str, dict[str, Answer]], arm: str | None, path: str) -> dict[str, Answer]:
    if arm is None and len(found) == 1:
        return next(iter(found.values()))
    if arm is None or arm not in found:
        raise ValueError(f"{path} has the arms {', '.join(found) or '(none)'}; say which with arm= (given: {arm!r})")
    return found[arm]
