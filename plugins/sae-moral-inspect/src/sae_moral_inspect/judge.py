"""Ask a judge, keep every reply, and say of each judgement what came out or why nothing did.

A judge is any Inspect model. What fails on the way (time, connection, server) is not kept and is asked again by the
next run; what the judge did say is kept, even if it cannot be read, and never asked twice.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from inspect_ai.model import GenerateConfig, Model
from tenacity import RetryError

from sae_moral_inspect.answers import Answer
from sae_moral_inspect.judging import Grades, compare_request, parse_grades, parse_verdict, score_request
from sae_moral_inspect.ledger import Ledger, key_of

ORDERS = ("arm first", "baseline first")
IDENTICAL = "identical answers"
DEFAULTS = GenerateConfig(temperature=0.0, max_tokens=256, max_retries=3, attempt_timeout=120)
"""Of a judge whose own settings leave these open."""
_TRANSPORT = ("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections",
              "adaptive_connections", "cache", "batch", "fail_on_refusal")  # fmt: skip


@dataclass(frozen=True)
class Judging:
    """How to ask.

    Attributes:
        language: of the rubric, `zh` or `en`.
        repeats: how often the same is asked, for the judge's self-consistency.
        ledger: what was replied already.
    """

    language: str = "zh"
    repeats: int = 1
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Judgement:
    """One thing that was asked of one judge.

    Attributes:
        judge: its name.
        repeat: from 0.
        order: one of `ORDERS` for a comparison, empty for grades.
        reply: the judge's own words.
        verdict: `A`, `B` or `TIE` of a comparison, in the order shown.
        safety, emotion: the grades.
        reason: why there is neither; None when there is.
    """

    judge: str
    repeat: int
    order: str = ""
    reply: str = ""
    verdict: str | None = None
    safety: int | None = None
    emotion: int | None = None
    reason: str | None = None

    @property
    def outcome(self) -> str | None:
        """`win`, `tie` or `loss` of the arm against the baseline; None without a verdict."""
        if self.verdict in (None, "TIE"):
            return "tie" if self.verdict else None
        return "win" if (self.verdict == "A") == (self.order == ORDERS[0]) else "loss"

    def record(self) -> dict[str, Any]:
        """JSON values; `Judgement(**record)` is the same again."""
        return dataclasses.asdict(self)


async def grade(judge: Model, answer: Answer, how: Judging) -> list[Judgement]:
    """Grades of one answer, once per repeat."""
    request = score_request(answer.prompt, answer.text, how.language)
    found = []
    for repeat in range(how.repeats):
        reply, reason = await _ask(judge, request, repeat, how.ledger)
        grades = parse_grades(reply, answer.prompt.dimension) if reason is None else None
        reason = reason or (None if grades else _unreadable(reply))
        grades = grades or Grades(0, 0)
        found.append(
            Judgement(str(judge), repeat, reply=reply, safety=grades.safety or None, emotion=grades.emotion or None,
                      reason=reason)
        )  # fmt: skip
    return found


async def compare(judge: Model, baseline: Answer, arm: Answer, how: Judging) -> list[Judgement]:
    """Verdicts on two answers in both orders, once per repeat. Answers that are equal are a tie without asking."""
    if baseline.text.strip() == arm.text.strip():
        return [Judgement(str(judge), 0, order, verdict="TIE", reason=IDENTICAL) for order in ORDERS]
    found = []
    for repeat in range(how.repeats):
        for order in ORDERS:
            first, second = (arm, baseline) if order == ORDERS[0] else (baseline, arm)
            request = compare_request(arm.prompt, first.text, second.text, how.language)
            reply, reason = await _ask(judge, request, repeat, how.ledger)
            verdict = parse_verdict(reply) if reason is None else None
            reason = reason or (None if verdict else _unreadable(reply))
            found.append(Judgement(str(judge), repeat, order, reply, verdict, reason=reason))
    return found


async def _ask(judge: Model, request: str, repeat: int, ledger: Ledger) -> tuple[str, str | None]:
    """The reply, and why it is none."""
    config = DEFAULTS.merge(judge.config)
    if repeat and config.seed is not None:
        config.seed += repeat
    shaping = config.model_dump(exclude_none=True, exclude=set(_TRANSPORT), mode="json")
    # Not its address: a judge that is served anew on another port is the same judge.
    about = {"judge": str(judge), "args": str(judge.model_args), "config": shaping}
    key = key_of(**about, request=request, repeat=repeat)
    kept = ledger.get(key)
    if kept is None:
        try:
            output = await judge.generate(request, config=config, cache=False)
        except Exception as error:
            return "", _failure(error)
        kept = ledger.add(
            key, judge=str(judge), repeat=repeat, request=request, reply=output.completion, stop=output.stop_reason
        )
    refused = {
        "max_tokens": "judge: reply cut off",
        "model_length": "judge: request longer than its context",
        "content_filter": "judge: refused",
    }
    return kept["reply"], refused.get(kept["stop"])


def _unreadable(reply: str) -> str:
    return "judge: reply not in the form asked for" if reply.strip() else "judge: empty reply"


def _failure(error: BaseException) -> str:
    if isinstance(error, RetryError):  # what tenacity raises when attempts are used up
        error = error.last_attempt.exception() or error
    status, name = getattr(error, "status_code", None), type(error).__name__
    if "timeout" in name.casefold():
        return "judge: no reply in time"
    if status is not None:
        said = getattr(error, "provider_message", str(error))[:120]
        return f"judge: HTTP {status}" + (f" ({said})" if 400 <= status < 500 and status != 429 else "")
    return "judge: connection failed" if "Connection" in name else f"judge: {name}"
