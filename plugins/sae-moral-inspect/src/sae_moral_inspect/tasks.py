"""The tasks: `flames` grades every answer, `flames_pairwise` compares a steered model's with the baseline's.

    inspect eval sae_moral_inspect/flames --model sae-moral/MODEL -M operation=DIR -M alpha=0.1 \\
        --model-role grader=openai/…
    inspect eval sae_moral_inspect/flames_pairwise --model sae-moral/MODEL -M operation=DIR -M alpha=0.1 \\
        --model-role baseline=sae-moral/MODEL --model-role grader=openai/…
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ModelOutput, get_model
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from sae_moral_inspect.answers import BASELINE, Answer, read_answers
from sae_moral_inspect.prompts import FlamesPrompt, flames_prompts
from sae_moral_inspect.scorers import answer_in, flames_classifier, flames_judge, flames_preference, prompt_of

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
        ledger: a .jsonl file that keeps the judge's replies.
        scorer: `judge` (the models of role `grader`), or `classifier` (the benchmark's own; its emotion is not graded).
        trust_remote_code: the classifier runs code from the hub; it is refused without this.
    """
    if scorer not in ("judge", "classifier"):
        raise ValueError(f"scorer is {scorer!r}; expected 'judge' or 'classifier'")
    chosen = flames_classifier(trust_remote_code) if scorer == "classifier" else flames_judge(language, repeats, ledger)
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
    ledger: str | None = None,
) -> Task:
    """Compare the model's answers with those of the model of role `baseline`, in both orders, ties allowed.

    Args as for `flames`; `answers` then has to hold an arm `baseline`, and `arm` names the one to compare with it.
    """
    chosen = flames_preference(language, repeats, ledger)
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
    return Answer(prompt, output.completion, output.stop_reason, output.usage.output_tokens if output.usage else None)


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


def _only_answers(prompts: str | None, limit: int | None) -> None:
    if prompts is not None or limit is not None:
        raise ValueError("answers= brings its own prompts; leave out prompts= and limit=")


def _arm(found: Mapping[str, dict[str, Answer]], arm: str | None, path: str) -> dict[str, Answer]:
    if arm is None and len(found) == 1:
        return next(iter(found.values()))
    if arm is None or arm not in found:
        raise ValueError(f"{path} has the arms {', '.join(found) or '(none)'}; say which with arm= (given: {arm!r})")
    return found[arm]
