"""Answers to the prompts, by arm: what the models said, or a .jsonl file of answers made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_moral.errors import DataError
from sae_moral.io import write_text
from sae_moral.shown import shown
from sae_moral_inspect.prompts import FlamesPrompt, Row, read_rows

BASELINE = "baseline"
"""The arm every other one is compared with."""
KINDS = (
    *("operated", "pretrained", "shuffled", "random", "rotated", "permuted", "dense", "valence", "constant"),
    "reseeded",
)
"""Of the arms beside the baseline: the operation, its twins (see `sae_moral.steering.twins`), and the null."""
Answers = dict[str, dict[str, "Answer"]]
"""By arm, then by prompt id."""


@shown()
@dataclass(frozen=True)
class Answer:
    """What one arm said to one prompt.

    Attributes:
        prompt: the question.
        text: the answer; empty when there is none.
        stop_reason: Inspect's: `stop`, `max_tokens`, `model_length`, …
        tokens: tokens generated, if known.
        error: why there is no answer, if generating failed.
    """

    prompt: FlamesPrompt
    text: str
    stop_reason: str = "unknown"
    tokens: int | None = None
    error: str | None = None

    @property
    def missing(self) -> str | None:
        """Why there is nothing to judge; None when there is an answer."""
        if self.error:
            return self.error
        if self.text.strip():
            return None
        return "prompt longer than the context" if self.stop_reason == "model_length" else "empty answer"


def write_answers(path: Path, arm: str, answers: Iterable[Answer]) -> None:
    """Write one arm's answers as .jsonl, whole or not at all."""
    rows = (
        {
            "arm": arm,
            "id": answer.prompt.id,
            "dimension": answer.prompt.dimension,
            "subcomponent": answer.prompt.subcomponent,
            "prompt": answer.prompt.text,
            "answer": answer.text,
            "stop_reason": answer.stop_reason,
            "tokens": answer.tokens,
            "error": answer.error,
        }
        for answer in answers
    )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_answers(paths: Sequence[str | Path]) -> Answers:
    """Answers of .jsonl files: `prompt`, `answer` (or `response`) and `dimension` in each row.

    Args:
        paths: files; a row without `arm` belongs to the arm named like its file.

    Raises:
        DataError: not UTF-8, a row that is no answer, or a question that is answered twice in an arm.
        OSError: a file that cannot be read.
    """
    found: Answers = {}
    for path in map(Path, paths):
        for row in read_rows(path):
            answer = _answer(row)
            arm = found.setdefault(row.label("arm") or path.stem, {})
            if answer.prompt.id in arm:
                raise row.error("this prompt is answered twice in one arm", "prompt")
            arm[answer.prompt.id] = answer
    if not found:
        raise DataError(f"no answer in {', '.join(map(str, paths)) or 'no file'}; expected one JSON object per line")
    return found


def _answer(row: Row) -> Answer:
    tokens = row.values.get("tokens")
    if tokens is not None and not (type(tokens) is int and 0 <= tokens < 1 << 32):
        raise row.error(f"{tokens!r:.80}; expected a number of tokens", "tokens")
    return Answer(
        row.prompt(),
        row.text("answer" if "answer" in row.values else "response", empty=True),
        row.label("stop_reason") or "unknown",
        tokens,
        row.label("error") or None,
    )
