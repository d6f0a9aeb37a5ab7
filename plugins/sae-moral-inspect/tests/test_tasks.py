"""Inspect's own command line: our tasks, tasks we did not write, and its log viewer."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval, task
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, bundle_log_dir, list_eval_logs, read_eval_log
from inspect_ai.scorer import includes
from sae_moral_inspect.answers import write_answers
from sae_moral_inspect.tasks import flames, flames_pairwise

from .conftest import ScriptedJudge, make_answers, prompts_file

TEXTS = ["helping a neighbour", "robbing the old baker", "teaching my sister"]


@task
def words() -> Task:
    """An evaluation that knows nothing of us."""
    return Task([Sample(input=text, target="the", id=i) for i, text in enumerate(TEXTS)], scorer=includes())


def inspect(*arguments: str, folder: Path) -> EvalLog:
    command = [str(Path(sys.executable).with_name("inspect")), "eval", *arguments, "--log-dir", str(folder)]
    done = subprocess.run([*command, "--display", "plain"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    [log] = list_eval_logs(str(folder))
    return read_eval_log(log)


def test_an_evaluation_that_we_did_not_write(tiny_folder: Path, operation: Path, tmp_path: Path) -> None:
    """Steered and not, read back from the logs; the viewer makes a page of them."""
    said, arguments = {}, {"operation": str(operation), "alpha": 1.0}
    for name, given in (("plain", {}), ("steered", arguments)):
        [log] = eval(
            words(), model=f"sae-moral/{tiny_folder}", model_args=given, max_tokens=6, log_dir=str(tmp_path / "logs")
        )
        assert log.status == "success"
        read = read_eval_log(log.location)
        assert read.eval.model_args == given
        said[name] = [sample.output.completion for sample in read.samples or []]
    assert len(said["plain"]) == 3
    assert said["plain"] != said["steered"]
    bundle_log_dir(str(tmp_path / "logs"), str(tmp_path / "view"))
    assert (tmp_path / "view" / "index.html").exists()
    assert len(list((tmp_path / "view" / "logs").glob("*.eval"))) == 2


def test_inspects_command_line(tiny_folder: Path, operation: Path, judge: ScriptedJudge, tmp_path: Path) -> None:
    """The pairwise task with everything given on the command line; both sides decode alike."""
    prompts = prompts_file(tmp_path / "p.jsonl", 6)
    model, steering = f"sae-moral/{tiny_folder}", ["-M", f"operation={operation}", "-M", "alpha=1.0"]
    roles = ["--model-role", f"baseline={model}", "--model-role", f"grader={judge.name}"]
    options = ["-T", f"prompts={prompts}", "-T", "limit=5", "--max-tokens", "5"]
    log = inspect(
        "sae_moral_inspect/flames_pairwise", "--model", model, *steering, *roles, *options, folder=tmp_path / "l"
    )
    assert log.status == "success" and log.samples and log.results
    assert len(log.samples) == 5
    usage = [sample.metadata[f"{role} answer"]["tokens"] for sample in log.samples for role in ("arm", "baseline")]
    assert max(usage) == 5
    metrics = {name: m.value for s in log.results.scores for name, m in s.metrics.items()}
    judged = [
        s for s in log.samples if s.scores and not s.scores["flames_preference"].explanation == "identical answers"
    ]
    assert judged
    assert metrics["first preferred"] == 1.0
    assert math.isnan(metrics["win share"])


def test_grading_answers_made_elsewhere(judge: ScriptedJudge, tmp_path: Path) -> None:
    write_answers(tmp_path / "a.jsonl", "x", make_answers(["good", "", "fine", "hm", "yes", "no"]).values())
    judge.say = lambda text: '{"safety": 1, "emotion": 2}' if "\nfine\n" in text else '{"safety": 3, "emotion": 2}'
    given: Any = {"answers": str(tmp_path / "a.jsonl"), "ledger": str(tmp_path / "ledger.jsonl")}
    options: Any = {"model": None, "model_roles": {"grader": judge.name}, "log_dir": str(tmp_path / "logs")}
    eval(flames(**given), **options)
    [log] = eval(flames(**given), **options)
    assert log.status == "success" and log.results
    [score] = log.results.scores
    values = {name: m.value for name, m in score.metrics.items()}
    assert (score.unscored_samples, values["Morality rate"], values["Morality score"]) == (
        1,
        0.0,
        pytest.approx(100 / 3),
    )
    assert (values["Fairness rate"], values["overall rate"], values["emotion"]) == (100.0, 75.0, 2.0)
    assert len(judge.asked) == 5


def test_comparing_answers_made_elsewhere(judge: ScriptedJudge, tmp_path: Path) -> None:
    judge.say = lambda text: "VERDICT: TIE"
    path = tmp_path / "a.jsonl"
    for arm in ("baseline", "one", "two"):
        write_answers(tmp_path / f"{arm}.jsonl", arm, make_answers([f"{arm} 1", f"{arm} 2"]).values())
    path.write_text("".join((tmp_path / f"{arm}.jsonl").read_text() for arm in ("baseline", "one", "two")))
    with pytest.raises(ValueError, match="has the arms one, two; say which with arm="):
        flames_pairwise(answers=str(path))
    given = flames_pairwise(answers=str(path), arm="two")
    [log] = eval(given, model=None, model_roles={"grader": judge.name}, log_dir=str(tmp_path / "logs"))
    assert log.results
    values = {name: m.value for name, m in log.results.scores[0].metrics.items()}
    assert (values["win share"], values["scored"], values["order disagreement"]) == (0.5, 1.0, 0.0)
    assert all("two" in text for text in judge.asked)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scorer": "clasifier"}, "expected 'judge' or 'classifier'"),
        ({"scorer": "classifier"}, "brings its own Python code"),
        ({"answers": "a", "limit": 1}, "answers= brings its own prompts"),
        ({"language": "fr"}, "unknown language 'fr'"),
        ({"form": "words"}, "unknown form of judging 'words'"),
    ],
)
def test_bad_task_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flames(**arguments)


def test_without_a_judge(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.jsonl", "x", make_answers(["good"]).values())
    [log] = eval(flames(answers=str(tmp_path / "a.jsonl")), model=None, log_dir=str(tmp_path / "logs"))
    assert log.status == "error" and log.error
    assert "no judge: pass --model-role grader=MODEL" in log.error.message
