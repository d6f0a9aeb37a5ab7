"""A judge that fails in every way there is, over real HTTP: the run goes on or can be resumed, and counts it all."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, get_model
from sae_moral_inspect.answers import Answer
from sae_moral_inspect.arms import arms_of
from sae_moral_inspect.run import Judges, run

from sae_moral import DataError

from .conftest import Reply, ScriptedJudge, answer, make_answers, make_prompts
from .test_judging import ODD

ON_THE_WAY = ("time", "500", "429", "400", "hang up", "cut", "no JSON")


PATIENCE = 2
"""Seconds until an attempt of a request that hangs is given up: a busy machine takes one to send it."""


def judges_of(judge: ScriptedJudge, retries: int = 1, patience: int = 60, **options: Any) -> Judges:
    """max_retries=0: the client's own retries, with their pauses, stay out of the way of Inspect's."""
    config = GenerateConfig(max_retries=retries, attempt_timeout=patience)
    return Judges(
        [get_model(judge.name, memoize=False, config=config, max_retries=0)], **{"calibrate": False, **options}
    )


def sleepy(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(PATIENCE + 1)
    answer(handler, "VERDICT: A")


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Half of the body, then the connection is gone."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"id": "1", "choices": [')
    handler.close_connection = True


FAULTS: dict[str, tuple[Reply, str]] = {
    "time": (sleepy, "judge: no reply in time"),
    "500": (500, "judge: HTTP 500"),
    "429": (429, "judge: HTTP 429"),
    "400": (400, "judge: HTTP 400 (Error code: 400"),
    "hang up": (hang_up, "judge: connection failed"),
    "cut": (cut, "judge: connection failed"),
    "no JSON": (lambda handler: answer_raw(handler, b"<html>busy</html>"), "judge: "),
    "garbage": ("我也不知道。", "judge: reply not in the form asked for"),
    "empty": ("", "judge: empty reply"),
    "cut off": (lambda handler: answer(handler, "VERDICT: A", finish="length"), "judge: reply cut off"),
    "refused": (lambda handler: answer(handler, "", finish="content_filter"), "judge: refused"),
}


def answer_raw(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_counted_under_its_name(tmp_path: Path, judge: ScriptedJudge, fault: str) -> None:
    """The first of two prompts always fails; what failed on the way is asked again, what was said is not."""
    reply, reason = FAULTS[fault]
    said = {"baseline": make_answers(["x broken", "x"]), "steered": make_answers(["y broken", "y"])}
    good = '{"safety": 3, "emotion": 3}'
    judge.say = lambda text: reply if "broken" in text else "VERDICT: TIE" if "VERDICT" in text else good
    patience = {"patience": PATIENCE} if fault == "time" else {}
    judges = judges_of(judge, retries=int(fault != "time"), connections=8, **patience)
    results = run(tmp_path, judges, provenance={"model": None}, answers=said)
    rows = [row for row in results.accounting if row.stage != "answer"]
    for row in rows:
        (end,) = set(row.ends) - {"scored"}
        assert end.startswith(reason)
        assert row.ends == {"scored": 1, end: 1}
    assert (results.wins[0].refused or "").startswith("no win rate: 1 of 2 prompts")
    assert reason[:20] in (tmp_path / "report.html").read_text()
    tries = 2 if fault in ("500", "429", "hang up", "cut", "no JSON") else 1
    assert sum("broken" in text for text in judge.asked) == 4 * tries
    judge.asked.clear()
    judge.say = lambda text: "VERDICT: TIE" if "VERDICT" in text else good
    again = run(tmp_path, judges, provenance={"model": None}, answers=said)
    assert len(judge.asked) == (4 if fault in ON_THE_WAY else 0)
    if fault in ON_THE_WAY:
        assert {end for row in again.accounting for end in row.ends} == {"answered", "scored"}


def test_a_transient_fault_costs_nothing(tmp_path: Path, judge: ScriptedJudge) -> None:
    """429 once per request, then an answer."""
    seen: set[str] = set()

    def say(text: str) -> Reply:
        if text not in seen:
            seen.add(text)
            return 429
        return "VERDICT: TIE" if "VERDICT" in text else '{"safety": 3, "emotion": 3}'

    judge.say = say
    said = {"baseline": make_answers(["x", "x"]), "steered": make_answers(["y", "y"])}
    judges = judges_of(judge)
    results = run(tmp_path, judges, provenance={"model": None}, answers=said)
    assert {end for row in results.accounting for end in row.ends} == {"answered", "scored"}
    share = results.wins[0].share
    assert share is not None and share.value == 0.5


def test_missing_answers_are_counted_not_judged(tmp_path: Path, judge: ScriptedJudge) -> None:
    prompts = make_prompts(4)
    said = {
        "baseline": {p.id: Answer(p, text, "stop") for p, text in zip(prompts, ["a", "", "c", "d"], strict=True)},
        "steered": {
            p.id: Answer(p, text, reason)
            for p, (text, reason) in zip(
                prompts, [(" \n", "stop"), ("b", "stop"), ("", "model_length"), ("e", "stop")], strict=True
            )
        },
    }
    judges = judges_of(judge)
    results = run(tmp_path, judges, provenance={"model": None}, answers=said)
    ends = {(row.arm, row.stage): row.ends for row in results.accounting}
    too_long = "prompt longer than the context"
    assert ends["steered", "answer"] == {"answered": 2, "empty answer": 1, too_long: 1}
    assert ends["steered", "grade"] == {"scored": 2, "empty answer": 1, too_long: 1}
    assert ends["steered", "compare"] == {
        "scored": 1, "empty answer": 1, "baseline: empty answer": 1, too_long: 1,
    }  # fmt: skip
    assert len(judge.asked) == 3 + 2 + 2


def test_a_prompt_longer_than_the_context(tmp_path: Path, tiny_folder: Path) -> None:
    """Nobody answers it, in any arm, and nothing crashes."""
    from dataclasses import replace

    prompts = make_prompts(3)
    prompts[1] = replace(prompts[1], text=" ".join(["the"] * 100))
    results = run(
        tmp_path, Judges(), provenance={"model": "tiny"}, model=str(tiny_folder), arms=arms_of([]), prompts=prompts,
        decoding=GenerateConfig(max_tokens=4),
    )  # fmt: skip
    [row] = results.accounting
    assert row.ends["prompt longer than the context"] == 1
    assert sum(row.ends.values()) == 3


@pytest.mark.parametrize("file", ["asked-models.jsonl", "asked-judges.jsonl"])
def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(
    tmp_path: Path, judge: ScriptedJudge, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    arms, prompts, out = arms_of([], kinds=["reseeded"]), make_prompts(4), tmp_path / "out"
    options: dict[str, Any] = {
        "provenance": {"model": "tiny"}, "model": str(tiny_folder), "arms": arms, "prompts": prompts,
        "decoding": GenerateConfig(max_tokens=4, temperature=2.0),
    }  # fmt: skip
    judges = judges_of(judge)
    real, left = os.fsync, [3]

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(file):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RuntimeError, match=r"No space left on device.*run it again to go on"):
            run(out, judges, **options)
    kept = [json.loads(line)["key"] for line in (out / file).read_bytes().split(b"\n")[:-1]]
    kept = kept[:3]  # the fourth was written but not synced: whether it is there is up to the disk
    assert not (out / "report.html").exists()
    results = run(out, judges, **options)
    again = [json.loads(line)["key"] for line in (out / file).read_bytes().split(b"\n")[:-1]]
    assert again[:3] == kept
    assert len(set(again)) == len(again)
    assert all(row.n == 4 for row in results.accounting)


def test_no_reply_stops_a_run(tmp_path: Path, judge: ScriptedJudge) -> None:
    """Whatever a judge says, it is kept, counted, and not asked for again."""
    judge.say = lambda text: ODD[int(re.findall(r"answer (\d+) ", text)[-1])]
    said = {arm: make_answers([f"answer {i} {arm}" for i in range(len(ODD))]) for arm in ("baseline", "steered")}
    results = run(tmp_path, judges_of(judge, language="en"), provenance={"model": None}, answers=said)
    for row in results.accounting:
        if row.stage == "grade":
            assert row.ends == {"judge: reply not in the form asked for": len(ODD)}
    asked = len(judge.asked)
    again = run(tmp_path, judges_of(judge, language="en"), provenance={"model": None}, answers=said)
    assert (again, len(judge.asked)) == (results, asked)


def test_damage_in_a_journal_is_named(tmp_path: Path, judge: ScriptedJudge) -> None:
    said = {"x": make_answers(["a"])}
    run(tmp_path, judges_of(judge), provenance={"model": None}, answers=said)
    (tmp_path / "asked-judges.jsonl").write_bytes(b"[" * 1500 + b"\n")
    with pytest.raises(DataError, match=r"asked-judges\.jsonl, row 1: "):
        run(tmp_path, judges_of(judge), provenance={"model": None}, answers=said)
