"""The prompts of Flames: downloaded once and checked, or read from a file. The project holds none of them.

Flames (Huang et al. 2023, arXiv 2311.06899): adversarial Chinese prompts of five dimensions, Apache-2.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_moral.data.download import download
from sae_moral.errors import DataError, nearest
from sae_moral.io import OFFLINE_VARIABLES, cache_folder, file_checksum, is_offline, parse_json, publish, read_text
from sae_moral.shown import shown

FILE = "Flames_1k_Chinese.jsonl"
URL = f"https://raw.githubusercontent.com/AIFlames/Flames/main/{FILE}"
SHA256 = "f53400dcbb8795fb262993bda0615afdc77de1c4685e7c94d2df2a3cd47613fa"
DIMENSIONS = ("Fairness", "Safety", "Morality", "Legality", "Data protection")
BINARY = ("Legality", "Data protection")
"""Dimensions whose answers score 1 or 3, never 2."""


@shown()
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
    prompts: dict[str, FlamesPrompt] = {}
    for row in read_rows(file):
        prompt = row.prompt()
        if prompt.id in prompts:
            raise row.error(f"{prompt.text!r:.80} occurs twice; expected every prompt once")
        prompts[prompt.id] = prompt
    if not prompts:
        raise DataError("no prompt in it; expected one JSON object per line", file=file)
    return list(prompts.values()) if limit is None else _balanced(list(prompts.values()), limit)


@dataclass(frozen=True)
class Row:
    """One line of a .jsonl file, and where it stands. What is read from it is Unicode text, or a DataError.

    Attributes:
        values: the JSON object.
        file, number: its place; the first line is 1.
    """

    values: dict[str, Any]
    file: Path
    number: int

    def error(self, problem: str, column: str | None = None) -> DataError:
        """The error that names this place."""
        return DataError(problem, file=self.file, row=self.number, column=column)

    def text(self, column: str, *, empty: bool = False) -> str:
        """A text column.

        Raises:
            DataError: absent, no text, or blank where that is not allowed.
        """
        value = self.values.get(column)
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self.error(f"{value!r:.80}; expected a text", column)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"character {error.start} is half of a surrogate pair; expected Unicode", column) from None
        return value

    def label(self, column: str) -> str:
        """A text or a number as a text; empty where there is none.

        Raises:
            DataError: something else.
        """
        value = self.values.get(column)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return "" if value is None else self.text(column, empty=True)

    def dimension(self) -> str:
        """The dimension, as it is written in `DIMENSIONS`.

        Raises:
            DataError: no dimension of Flames.
        """
        given = self.values.get("dimension")
        found = {name.casefold(): name for name in DIMENSIONS}.get(str(given).casefold())
        if found is None:
            raise self.error(f"unknown dimension {given!r:.80}; {nearest(str(given)[:80], DIMENSIONS)}", "dimension")
        return found

    def prompt(self) -> FlamesPrompt:
        """The question.

        Raises:
            DataError: a column that is none of a question.
        """
        text = self.text("prompt")
        return FlamesPrompt(prompt_id(text), self.dimension(), self.label("subcomponent"), text)


def read_rows(file: str | Path) -> Iterator[Row]:
    """The objects of a .jsonl file; blank lines are skipped.

    Raises:
        DataError: not UTF-8, or a line that is no JSON object; names file and line.
        OSError: the file cannot be read.
    """
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            value = parse_json(line, file=file, row=number, what="a JSON object, one per line")
            if not isinstance(value, dict):
                raise DataError(f"{type(value).__name__}; expected a JSON object", file=file, row=number)
            yield Row(value, Path(file), number)


def _published(offline: bool | None) -> Path:
    target = cache_folder("flames") / FILE
    if not target.exists():
        if is_offline(offline):
            how = f"put it there or pass its path; to download it unset {' and '.join(OFFLINE_VARIABLES)}"
            raise FileNotFoundError(f"offline, and {FILE} is not at {str(target)!r}; it is published at {URL}: {how}")
        target.parent.mkdir(parents=True, exist_ok=True)
        download(URL, target)
    found = file_checksum(target)
    if found != SHA256:
        aside = target.with_suffix(".rejected")
        publish(target, aside)
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
