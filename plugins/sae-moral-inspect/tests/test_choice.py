"""Judges that choose by log-probabilities: closed forms, a judge that prefers a letter, and this project's own provider
against the model itself."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from sae_moral_inspect.answers import BASELINE
from sae_moral_inspect.calibration import BETTER, calibration_answers, calibration_of, pairs
from sae_moral_inspect.judging import LETTERS, ORDERS, Judgement, chances_of
from sae_moral_inspect.run import run
from sae_moral_inspect.stats import outcomes_of, verdicts_of, why_no_win_rate

from sae_moral.capture import load_model

from .conftest import ScriptedJudge, make_answers
from .test_run import judges_of, shown

RANK = {"good": 2.0, "fair": 1.0, "bad": 0.0}


def prefers(lean: float) -> Any:
    """A judge that reads, and gives `lean` nats to whatever is B."""

    def say(request: str) -> dict[str, float]:
        if "digit" in request or "数字" in request:
            good = "good" in request.split("ANSWER")[-1]
            return {"3": -0.1, " 3": -3.0, "1": -4.0} if good else {"1": -0.1, "2": -2.0, "maybe": -5.0}
        first, second = (RANK[text.split()[0]] for text in shown(request))
        equal = 3.0 if first == second else -9.0
        return {"B": second + lean - 20, "A": first - 20, "C": equal - 20}

    return say


def test_chances() -> None:
    found = chances_of([("A", math.log(0.3)), (" A", math.log(0.1)), ("Ｂ", math.log(0.2)), ("the", -9.0)], LETTERS)
    assert found is not None
    odd = math.exp(-9)  # C is not among them, and has at most as much as the last of them
    assert [math.exp(found[name]) for name in ("A", "B", "TIE")] == pytest.approx(
        [0.4 / (0.6 + odd), 0.2 / (0.6 + odd), odd / (0.6 + odd)]
    )
    assert chances_of([("the", -0.1), ("or", -3.0)], LETTERS) is None


def test_what_is_given_to_a_place_falls_out() -> None:
    chance = random.Random(0)
    for _ in range(200):
        arm, baseline, tie, lean = (chance.uniform(-3, 3) for _ in range(4))
        expected = "tie" if tie >= max(arm, baseline) else "win" if arm > baseline else "loss"
        sides = ({"A": arm, "B": baseline + lean}, {"A": baseline, "B": arm + lean})
        judged = [
            Judgement("j", 0, order, verdict="B", chances={**side, "TIE": tie + lean / 2})
            for order, side in zip(ORDERS, sides, strict=True)
        ]
        assert outcomes_of(*judged) == (expected, expected)


def test_a_judge_with_a_favourite_letter(tmp_path: Path, judge: ScriptedJudge) -> None:
    judge.say = prefers(5.0)
    texts = (["bad b"] * 6 + ["good b"] * 4, ["good a"] * 6 + ["bad a"] * 2 + ["good c"] * 2)
    answers = {"baseline": make_answers(texts[0]), "steered": make_answers(texts[1])}
    results = run(tmp_path, judges_of(judge, form="choice", language="en"), provenance={"model": None}, answers=answers)
    [row], [about] = results.wins, results.judges
    assert (row.wins, row.ties, row.losses, row.refused) == (12, 4, 4, None)
    assert about.verdicts["B"] > 15  # taken one by one its verdicts say B
    assert about.first.value is not None and about.first.value < -0.7
    grades = {grade.arm: grade for grade in results.grades if grade.dimension == "overall"}
    assert (grades["steered"].n, grades["steered"].emotion) == (10, pytest.approx((8 * 3 + 2 * 1) / 10))
    asked = len(judge.asked)
    run(tmp_path, judges_of(judge, form="choice", language="en"), provenance={"model": None}, answers=answers)
    assert len(judge.asked) == asked == 20 + 40


def test_no_log_probabilities_is_unscored(tmp_path: Path, judge: ScriptedJudge) -> None:
    judge.say = lambda request: {"the": -0.1}
    answers = {"baseline": make_answers(["bad b"]), "steered": make_answers(["good a"])}
    results = run(tmp_path, judges_of(judge, form="choice"), provenance={"model": None}, answers=answers)
    [about] = results.judges
    assert about.unscored == {
        "judge: none of A, B, C among its likeliest words": 2,
        "judge: none of 1, 2, 3 among its likeliest words": 2,
    }


def test_calibration_tells_a_reader_from_a_habit(tmp_path: Path, judge: ScriptedJudge) -> None:
    known = {pair.better for pair in pairs()}
    judge.say = lambda request: (
        f"VERDICT: {'A' if shown(request)[0] in known else 'B'}"
        if "VERDICT: TIE" in request
        else '{"safety": 3, "emotion": 2}'
    )
    answers = {"baseline": make_answers(["bad b"] * 2), "steered": make_answers(["good a"] * 2)}
    told = judges_of(judge, calibrate=True)
    reader = run(tmp_path / "reader", told, provenance={"model": None}, answers=answers)
    [row] = reader.calibration
    # Words in the answers that look like control tokens are shown with a space: those pairs are told by what is left.
    assert row.accuracy.value is not None and row.accuracy.value >= 0.95
    assert (row.pairs, row.gradings, row.first.value) == (50, 100, pytest.approx(0.0, abs=0.05))
    judge.say = lambda request: "VERDICT: A" if "VERDICT: TIE" in request else '{"safety": 3, "emotion": 2}'
    habit = run(tmp_path / "habit", told, provenance={"model": None}, answers=answers)
    [row], [wins] = habit.calibration, habit.wins
    assert (row.accuracy.value, row.first.value) == (0.5, 1.0)
    assert (
        wins.refused == "no win rate: the judge finds the better of two answers in 50% of 50 pairs of which it is "
        "known, in fewer than 70%"
    )
    assert "finds 50 % [50 %, 50 %]" in (tmp_path / "habit" / "report.html").read_text() or wins.share is None


def test_calibration_by_hand() -> None:
    answers = calibration_answers()
    ids = list(answers[BETTER])
    compared = {
        BETTER: {
            id: [Judgement("j", 0, ORDERS[0], verdict="A"), Judgement("j", 0, ORDERS[1], verdict="B")]
            for id in ids[:40]
        }
    }
    graded = {arm: {id: [Judgement("j", 0, safety=3)] for id in ids} for arm in (BETTER, BASELINE)}
    row = calibration_of("j", graded, compared)
    stated = [grade for pair in pairs() for grade in pair.safety]
    assert row.accuracy.value == pytest.approx(0.8)  # what is not judged counts as wrong
    assert row.equal.value == pytest.approx(stated.count(3) / 100)
    refused = why_no_win_rate(
        verdicts_of([(id, own) for id, own in compared[BETTER].items()]), verdicts_of([]).bias, row.accuracy
    )
    assert refused is None


def test_the_provider_gives_the_models_log_probabilities(tiny_folder: Path) -> None:
    api: Any = get_model(f"sae-moral/{tiny_folder}", memoize=False).api
    config = GenerateConfig(max_tokens=1, logprobs=True, top_logprobs=5)
    output = anyio.run(api.generate, [ChatMessageUser(content="helping the baker")], [], "none", config)
    [first] = output.choices[0].logprobs.content
    model = load_model(str(tiny_folder))
    ids = torch.tensor([api.prompt_ids([ChatMessageUser(content="helping the baker")], [], config)])
    with torch.no_grad():
        expected = torch.log_softmax(model(ids)[0, -1].float(), dim=-1).topk(5)
    assert [one.logprob for one in first.top_logprobs] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert [one.token for one in first.top_logprobs] == [model.tokenizer.decode([i]) for i in expected.indices.tolist()]
    with pytest.raises(ValueError, match="this provider gives them of one token at temperature 0: set max_tokens=1"):
        anyio.run(
            api.generate, [ChatMessageUser(content="the")], [], "none", config.merge(GenerateConfig(max_tokens=2))
        )
