"""The prompts of Flames: downloaded once and checked, or read from a file. The project holds none of them.

Flames (Huang et al. 2023, arXiv 2311.06899): adversarial Chinese prompts of five dimensions, Apache-2.0.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_moral.data.download import download
from sae_moral.errors import DataError, nearest
from sae_moral.io import OFFLINE_VARIABLES, cache_folder, is_offline

FILE = "Flames_1k_Chinese.jsonl"
URL = f"https://raw.githubusercontent.com/AIFlames/Flames/main/{FILE}"
SHA256 = "f53400dcbb8795fb262993bda0615afdc77de1c4685e7c94d2df2a3cd47613fa"
DIMENSIONS = ("Fairness", "Safety", "Morality", "Legality", "Data protection")
BINARY = ("Legality", "Data protection")
"""Dimensions whose answers score 1 or 3, never 2."""


@dataclass(frozen=True)
class FlamesPrompt:
    """One question.

    Attributes:
        id: the first twelve digits of the text's sha256, so that answers made elsewhere find their question.
        dimension: one of `DIMENSIONS`.
        subcomponent: the benchmark's finer label.
        text: the question.
    """

    id: str
    dimension: str
    subcomponent: str
    text: str


def prompt_id(text: str) -> str:
    """The id of a question; see `FlamesPrompt`."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flames_prompts(
    path: str | Path | None = None, *, limit: int | None = None, offline: bool | None = None
) -> list[FlamesPrompt]:
    """The prompts of a file, or the 1,000 published ones.

    Args:
        path: a .jsonl file with `prompt`, `dimension` and, if known, `subcomponent` in each row; by default the
            published file, downloaded once into the cache and checked.
        limit: at most so many, balanced over dimensions and evenly spaced within each; the order of the file is kept.

    Raises:
        DataError: a download that failed, a published file with another hash, or a row that is no prompt.
        FileNotFoundError: no such file; or offline, and it was never downloaded.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}; expected at least 1")
    file = Path(path) if path is not None else _published(offline)
    rows = [
        (number, line) for number, line in enumerate(file.read_text(encoding="utf8").split("\n"), 1) if line.strip()
    ]
    prompts = [_prompt(line, file, number) for number, line in rows]
    seen: set[str] = set()
    for (number, _), prompt in zip(rows, prompts, strict=True):
        if prompt.id in seen:
            raise DataError(f"{prompt.text!r} occurs twice; expected every prompt once", file=file, row=number)
        seen.add(prompt.id)
    if not prompts:
        raise DataError("no prompt in it; expected one JSON object per line", file=file)
    return prompts if limit is None else _balanced(prompts, limit)


def check_dimension(given: object, file: str | Path, row: int) -> str:
    """A dimension's name as it is written in `DIMENSIONS`.

    Raises:
        DataError: no dimension of Flames.
    """
    by_folded = {name.casefold(): name for name in DIMENSIONS}
    found = by_folded.get(str(given).casefold())
    if found is None:
        problem = f"unknown dimension {given!r}; {nearest(str(given), DIMENSIONS)}"
        raise DataError(problem, file=file, row=row, column="dimension")
    return found


def parse_row(line: str, file: str | Path, row: int) -> dict[str, object]:
    """One line of a .jsonl file as a dict.

    Raises:
        DataError: something else.
    """
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"not JSON ({error}); expected one object per line", file=file, row=row) from None
    if not isinstance(value, dict):
        raise DataError(f"{type(value).__name__}; expected a JSON object", file=file, row=row)
    return value


def text_of(row: dict[str, object], column: str, file: str | Path, number: int, *, empty: bool = False) -> str:
    """A text column of a row.

    Raises:
        DataError: absent, no text, or blank where that is not allowed.
    """
    value = row.get(column)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise DataError(f"{value!r}; expected a text", file=file, row=number, column=column)
    return value


def _prompt(line: str, file: Path, number: int) -> FlamesPrompt:
    row = parse_row(line, file, number)
    text = text_of(row, "prompt", file, number)
    dimension = check_dimension(row.get("dimension"), file, number)
    return FlamesPrompt(prompt_id(text), dimension, str(row.get("subcomponent") or ""), text)


def _published(offline: bool | None) -> Path:
    target = cache_folder("flames") / FILE
    if not target.exists():
        if is_offline(offline):
            how = f"put it there or pass its path; to download it unset {' and '.join(OFFLINE_VARIABLES)}"
            raise FileNotFoundError(f"offline, and {FILE} is not at {str(target)!r}; it is published at {URL}: {how}")
        target.parent.mkdir(parents=True, exist_ok=True)
        download(URL, target)
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if found != SHA256:
        aside = target.with_suffix(".rejected")
        os.replace(target, aside)
        problem = f"sha256 is {found}, the published file's is {SHA256}; it is refused and set aside as {str(aside)!r}"
        raise DataError(f"{problem}. Try again, or pass a file of your own with a path", file=FILE)
    return target


def _balanced(prompts: Sequence[FlamesPrompt], limit: int) -> list[FlamesPrompt]:
    """Round-robin over the dimensions; within one, the order of a bit-reversed walk is as even as any cut of it."""
    by_dimension: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_dimension.setdefault(prompt.dimension, []).append(index)
    queues = [[rows[i] for i in _spread(len(rows))] for rows in by_dimension.values()]
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return [prompts[i] for i in sorted(turns[:limit])]


def _spread(n: int) -> list[int]:
    """0 … n − 1, so that every beginning of it is spread over the range."""
    bits = max(1, (n - 1).bit_length())
    reversed_bits = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(1 << bits))
    return [i for i in reversed_bits if i < n]
