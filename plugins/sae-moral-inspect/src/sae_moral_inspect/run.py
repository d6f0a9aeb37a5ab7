"""A whole run: every arm answers every prompt once, judges judge what was kept, and one report is written.

Both halves go through Inspect, so that its logs are there to look at; ledgers beside them see to it that a run that
was killed asks nothing twice. The halves are apart: judging needs no model, and answers made elsewhere can be judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from inspect_ai import Task, eval
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig, Model, get_model

from sae_moral.io import write_json
from sae_moral_inspect.answers import BASELINE, Answers, write_answers
from sae_moral_inspect.judge import Judgement
from sae_moral_inspect.prompts import FlamesPrompt
from sae_moral_inspect.results import Judged, results_of
from sae_moral_inspect.scorers import flames_classifier, flames_judge, flames_preference, judgements_in
from sae_moral_inspect.tasks import answer_of, asking_task, comparing_task, grading_task

ANSWERS_LEDGER, REPLIES_LEDGER = "asked-models.jsonl", "asked-judges.jsonl"
RESULTS, REPORT = "results.json", "report.html"


@dataclass(frozen=True)
class Arm:
    """One way to answer all prompts.

    Attributes:
        name: in tables, and of the file of its answers.
        kind: baseline, operated, shuffled, pretrained, random or reseeded.
        layer, alpha: where and how strongly it is steered; None for the baseline.
        arguments: for the provider.
        seed: of the sampling.
    """

    name: str
    kind: str
    layer: int | None = None
    alpha: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """What the results say of it."""
        return {"name": self.name, "kind": self.kind, "layer": self.layer, "alpha": self.alpha}


@dataclass(frozen=True)
class Judges:
    """Who judges, and how.

    Attributes:
        models: none if the classifier alone grades.
        language, repeats: see `Judging`.
        connections: requests at the same time.
        scorer: `judge`, or `classifier` for the grades.
        trust_remote_code: see `FlamesClassifier`.
    """

    models: Sequence[Model] = ()
    language: str = "zh"
    repeats: int = 1
    connections: int = 4
    scorer: str = "judge"
    trust_remote_code: bool = False


def arms_of(
    operations: Sequence[str | Path],
    *,
    shuffled: Sequence[str | Path] = (),
    alphas: Sequence[float] = (0.1,),
    kinds: Sequence[str] = ("operated", "pretrained", "shuffled", "random"),
    seed: int = 0,
    **common: Any,
) -> list[Arm]:
    """The baseline, and for every operation and α its own arm and its controls.

    Args:
        operations: folders of operations, of different layers.
        shuffled: folders of operations trained on shuffled labels; each is the control at its layer.
        kinds: which of `operated`, `pretrained`, `shuffled`, `random`, and `reseeded` (the baseline again with another
            seed: the null).
        common: the provider's other arguments.

    Raises:
        FileNotFoundError: a folder without an operation.
        ValueError: two operations of one layer, an operation in the place of its control, or the reverse.
    """
    steering = ("units", "form", "positions", "direction_seed", "any_model")
    plain = {name: value for name, value in common.items() if name not in steering}
    arms = [Arm(BASELINE, BASELINE, arguments=plain, seed=seed)]
    if "reseeded" in kinds:
        arms.append(Arm("reseeded", "reseeded", arguments=plain, seed=seed + 1))
    by_layer = {"operated": _by_layer(operations, "none"), "shuffled": _by_layer(shuffled, "shuffled")}
    for alpha in alphas:
        for layer, folder in by_layer["operated"].items():
            folders: dict[str, Path] = dict.fromkeys(("operated", "pretrained", "random"), folder)
            folders |= {"shuffled": by_layer["shuffled"][layer]} if layer in by_layer["shuffled"] else {}
            for kind in (kind for kind in kinds if kind in folders):
                arm = kind if kind in ("pretrained", "random") else "operated"
                arguments = {**common, "operation": str(folders[kind]), "alpha": alpha, "arm": arm}
                arms.append(Arm(f"{kind} L{layer} α{alpha:g}", kind, layer, alpha, arguments, seed))
    return arms


def ask_models(
    model: str, arms: Sequence[Arm], prompts: Sequence[FlamesPrompt], decoding: GenerateConfig, out: Path
) -> tuple[Answers, dict[str, dict[str, Any]]]:
    """Every arm's answers (kept in `out/answers`), and what it is: its `identity`, and what it does to `neutral` text.

    Raises:
        RuntimeError: it stopped; run it again to go on.
    """
    answers: Answers = {}
    about: dict[str, dict[str, Any]] = {}
    for arm in arms:
        ledger = str(out / ANSWERS_LEDGER)
        provider = get_model(f"sae-moral/{model}", **{**arm.arguments, "ledger": ledger})
        task = asking_task(prompts, decoding.merge(GenerateConfig(seed=arm.seed)), f"answers {arm.name}")
        log = _run(task, out, model=provider)
        by_id = {prompt.id: prompt for prompt in prompts}
        found = [answer_of(by_id[str(sample.id)], sample.output) for sample in log.samples or []]
        answers[arm.name] = {answer.prompt.id: answer for answer in found}
        if len(found) != len(prompts):
            raise RuntimeError(f"{arm.name}: {len(found)} of {len(prompts)} prompts answered; run it again to go on")
        write_answers(out / "answers" / f"{arm.name}.jsonl", arm.name, found)
        api: Any = provider.api
        about[arm.name] = {"identity": api.identity, "neutral": api.side_effects() if api.steerings else None}
    return answers, about


def ask_judges(answers: Answers, judges: Judges, out: Path) -> tuple[Judged, Judged]:
    """Grades of every arm, and verdicts of every arm against the baseline.

    Raises:
        RuntimeError: it stopped; run it again to go on.
    """
    said = {"language": judges.language, "repeats": judges.repeats, "ledger": str(out / REPLIES_LEDGER)}
    grader = flames_classifier(judges.trust_remote_code) if judges.scorer == "classifier" else None
    graded: dict[str, dict[str, list[Judgement]]] = {}
    compared: dict[str, dict[str, list[Judgement]]] = {}
    for arm, by_id in answers.items():
        if grader or judges.models:
            task = grading_task(by_id, grader or flames_judge(**said), f"flames {arm}")
            graded[arm] = _judgements(_run(task, out, judges=judges))
        if judges.models and arm != BASELINE and BASELINE in answers:
            task = comparing_task(answers[BASELINE], by_id, flames_preference(**said), f"flames_pairwise {arm}")
            compared[arm] = _judgements(_run(task, out, judges=judges))
    return graded, compared


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
) -> dict[str, Any]:
    """Answer (unless `answers` are given), judge, and write `results.json` and `report.html`. Run again, it goes on.

    Raises:
        RuntimeError: another run is at work in this folder, or it stopped on the way.
        OSError: a file could not be written; what was kept is unharmed.
    """
    from sae_moral_inspect.report import write_report

    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"another run is at work in {out}; wait for it, or choose another folder") from None
    try:
        about: dict[str, dict[str, Any]] = {}
        if answers is None:
            assert model is not None
            answers, about = ask_models(model, arms, prompts, decoding or GenerateConfig(), out)
        described = [arm.describe() for arm in arms] or [Arm(name, "given").describe() for name in answers]
        described = [arm | about.get(arm["name"], {"identity": None, "neutral": None}) for arm in described]
        graded, compared = ask_judges(answers, judges, out)
        results = results_of(answers, graded, compared, arms=described, provenance=provenance)
        write_json(out / RESULTS, results)
        write_report(results, answers, graded, compared, out / REPORT)
        return results
    finally:
        lock.release()


def _run(task: Task, out: Path, *, model: Model | None = None, judges: Judges | None = None) -> EvalLog:
    connections = judges.connections if judges else None
    [log] = eval(
        task,
        model=model,
        model_roles={"grader": list(judges.models)} if judges and judges.models else None,
        log_dir=str(out / "logs"),
        max_samples=connections,
        display="none",
        log_level="error",
    )
    if log.status != "success":
        error = log.error.message if log.error else log.status
        raise RuntimeError(f"{task.name}: stopped ({error}); what was answered is kept: run it again to go on")
    return log


def _judgements(log: EvalLog) -> dict[str, list[Judgement]]:
    scores = {str(sample.id): next(iter((sample.scores or {}).values())) for sample in log.samples or []}
    return {id: judgements_in(score) for id, score in scores.items()}


def _by_layer(folders: Sequence[str | Path], control: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for folder in map(Path, folders):
        file = folder / "surgery.json"
        if not file.exists():
            raise FileNotFoundError(f"no surgery.json in {folder}; expected what `sae-moral operate` writes")
        about = json.loads(file.read_text(encoding="utf8"))
        if about.get("control") != control:
            raise ValueError(f"{folder} is an operation with control {about.get('control')!r}; expected {control!r}")
        if about["layer"] in found:
            raise ValueError(f"{folder} and {found[about['layer']]} are both of layer {about['layer']}; give one")
        found[int(about["layer"])] = folder
    return dict(sorted(found.items()))
