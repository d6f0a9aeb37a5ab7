"""Answers to the prompts, by arm: what the models said, or a .jsonl file of answers made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sae_moral.errors import DataError
from sae_moral.io import write_text
from sae_moral_inspect.prompts import FlamesPrompt, check_dimension, parse_row, prompt_id, text_of

BASELINE = "baseline"
"""The arm every other one is compared with."""
Answers = dict[str, dict[str, "Answer"]]
"""By arm, then by prompt id."""


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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_answers(paths: Iterable[str | Path], *, prompts: Mapping[str, FlamesPrompt] | None = None) -> Answers:
    """Answers of .jsonl files: `prompt`, `answer` (or `response`) and `dimension` in each row.

    Args:
        paths: files; a row without `arm` belongs to the arm named like its file.
        prompts: the questions by id: rows of others are refused, and their dimension may be left out.

    Raises:
        DataError: a row that is no answer, a question that is none of `prompts`, or one answered twice in an arm.
    """
    found: Answers = {}
    for path in map(Path, paths):
        for number, line in enumerate(path.read_text(encoding="utf8").split("\n"), 1):
            if not line.strip():
                continue
            row = parse_row(line, path, number)
            answer = _answer(row, path, number, prompts)
            arm = found.setdefault(str(row.get("arm") or path.stem), {})
            if answer.prompt.id in arm:
                raise DataError("this prompt is answered twice in one arm", file=path, row=number, column="prompt")
            arm[answer.prompt.id] = answer
    if not found:
        raise DataError(f"no answer in {', '.join(map(str, paths)) or 'no file'}; expected one JSON object per line")
    return found


def _answer(row: dict[str, object], path: Path, number: int, prompts: Mapping[str, FlamesPrompt] | None) -> Answer:
    text = text_of(row, "prompt", path, number)
    if prompts is None:
        dimension = check_dimension(row.get("dimension"), path, number)
        prompt = FlamesPrompt(prompt_id(text), dimension, str(row.get("subcomponent") or ""), text)
    elif (prompt := prompts.get(prompt_id(text))) is None:
        raise DataError("none of the prompts of this run", file=path, row=number, column="prompt")
    tokens, error = row.get("tokens"), row.get("error")
    return Answer(
        prompt,
        text_of(row, "answer" if "answer" in row else "response", path, number, empty=True),
        str(row.get("stop_reason") or "unknown"),
        tokens if isinstance(tokens, int) else None,
        str(error) if error else None,
    )
