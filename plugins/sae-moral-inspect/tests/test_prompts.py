"""Prompts and answers from files, and the download of the published ones."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from sae_moral_inspect import prompts as module
from sae_moral_inspect.answers import Answer, read_answers, write_answers
from sae_moral_inspect.prompts import FlamesPrompt, flames_prompts

from sae_moral import DataError

from .conftest import mutated

SHARED = Path(__file__).resolve().parents[4] / "shared/data/flames" / module.FILE
ROW = {"dimension": "Safety", "subcomponent": "s", "prompt": "问"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    [found] = flames_prompts(write(tmp_path / "p.jsonl", {**ROW, "dimension": "data protection"}))
    assert found == FlamesPrompt(hashlib.sha256("问".encode()).hexdigest()[:12], "Data protection", "s", "问")


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{**ROW, "prompt": " "}], "row 1, column 'prompt': ' '; expected a text"),
        ([ROW, {"prompt": "x", "dimension": "Safty"}], "row 2, column 'dimension': .*did you mean 'Safety'"),
        ([ROW, ROW], "row 2: '问' occurs twice"),
        ([["x"]], "row 1: list; expected a JSON object"),
        ([], "no prompt in it"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        flames_prompts(write(tmp_path / "p.jsonl", *rows))


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("question\n")
    with pytest.raises(DataError, match=r"p\.jsonl, row 1: not a JSON object, one per line"):
        flames_prompts(tmp_path / "p.jsonl")


def test_a_limit_is_balanced_and_spread(tmp_path: Path) -> None:
    sizes = {"Fairness": 8, "Safety": 16, "Legality": 2}
    rows = [{"dimension": name, "prompt": f"{name} {i}"} for name, n in sizes.items() for i in range(n)]
    path = write(tmp_path / "p.jsonl", *rows)
    found = flames_prompts(path, limit=6)
    assert [p.text for p in found] == ["Fairness 0", "Fairness 4", "Safety 0", "Safety 8", "Legality 0", "Legality 1"]
    assert Counter(p.dimension for p in flames_prompts(path, limit=12)) == {"Fairness": 5, "Safety": 5, "Legality": 2}
    assert flames_prompts(path, limit=99) == flames_prompts(path)
    with pytest.raises(ValueError, match="limit 0; expected at least 1"):
        flames_prompts(path, limit=0)


def test_the_published_file() -> None:
    if not SHARED.exists():
        pytest.skip("needs the published prompts beside the checkout")
    assert hashlib.sha256(SHARED.read_bytes()).hexdigest() == module.SHA256
    found = flames_prompts(SHARED)
    assert Counter(p.dimension for p in found) == {
        "Safety": 429, "Fairness": 249, "Morality": 201, "Data protection": 75, "Legality": 46,
    }  # fmt: skip
    assert len({p.id for p in found}) == 1000


def test_download_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps(ROW).encode()
    asked: list[str] = []

    def download(url: str, target: Path) -> Path:
        asked.append(url)
        target.write_bytes(content)
        return target

    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "download", download)
    with pytest.raises(FileNotFoundError, match=r"offline.*published at https://raw\.githubusercontent"):
        flames_prompts(offline=True)
    with pytest.raises(DataError, match=r"sha256 is .* refused and set aside"):
        flames_prompts(offline=False)
    assert not (tmp_path / "flames" / module.FILE).exists()
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(content).hexdigest())
    assert flames_prompts(offline=False) == flames_prompts(offline=True)
    assert asked == [module.URL] * 2


def test_answers_go_to_a_file_and_back(tmp_path: Path) -> None:
    prompt = FlamesPrompt(module.prompt_id("问"), "Safety", "s", "问")
    answers = [
        Answer(prompt, "答\n", "max_tokens", 5),
    ]
    write_answers(tmp_path / "x.jsonl", "operated L1", answers)
    assert read_answers([tmp_path / "x.jsonl"]) == {"operated L1": {prompt.id: answers[0]}}
    missing = Answer(prompt, " ", "model_length")
    assert (answers[0].missing, missing.missing) == (None, "prompt longer than the context")
    assert Answer(prompt, "").missing == "empty answer"


def test_answers_made_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "gpt.jsonl", {"prompt": "问", "response": "答", "dimension": "Safety"})
    [(arm, by_id)] = read_answers([path]).items()
    assert (arm, [a.text for a in by_id.values()]) == ("gpt", ["答"])
    twice = write(tmp_path / "twice.jsonl", *[{**ROW, "answer": "答"}] * 2)
    with pytest.raises(DataError, match=r"twice\.jsonl, row 2.*answered twice"):
        read_answers([twice])
    with pytest.raises(DataError, match="column 'response': None; expected a text"):
        read_answers([write(tmp_path / "none.jsonl", ROW)])
    with pytest.raises(DataError, match="no answer in"):
        read_answers([write(tmp_path / "empty.jsonl")])


@pytest.mark.parametrize("text", ["\\ud800", "x\\udfff"])
@pytest.mark.parametrize("column", ["prompt", "answer", "subcomponent", "arm", "stop_reason", "error"])
def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path, column: str, text: str) -> None:
    row = json.dumps({**ROW, "answer": "x", column: "HERE"}).replace("HERE", text)
    (tmp_path / "a.jsonl").write_text(row)
    with pytest.raises(DataError, match=rf"a\.jsonl, row 1, column '{column}': character . is half of a surrogate"):
        read_answers([tmp_path / "a.jsonl"])


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "3", 10**400])
def test_a_number_of_tokens(tmp_path: Path, tokens: object) -> None:
    with pytest.raises(DataError, match=r"column 'tokens': .*expected a number of tokens"):
        read_answers([write(tmp_path / "a.jsonl", {**ROW, "answer": "x", "tokens": tokens})])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "gb18030"])
def test_other_encodings_are_refused_and_a_byte_order_mark_is_skipped(tmp_path: Path, encoding: str) -> None:
    text = json.dumps({**ROW, "answer": "答"}, ensure_ascii=False) + "\n"
    (tmp_path / "a.jsonl").write_bytes(text.encode("utf-8-sig"))
    assert len(flames_prompts(tmp_path / "a.jsonl")) == len(read_answers([tmp_path / "a.jsonl"])["a"]) == 1
    (tmp_path / "a.jsonl").write_bytes(text.encode(encoding))
    for read in (lambda path: flames_prompts(path), lambda path: read_answers([path])):
        with pytest.raises(DataError, match=r"a\.jsonl, row 1: "):
            read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("n", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_whatever_the_bytes_the_readers_return_or_name_the_file(tmp_path: Path, n: int) -> None:
    path, chance = tmp_path / "fuzzed.jsonl", random.Random(n)
    rows = [
        {**ROW, "prompt": f"问 {i}", "answer": "答", "tokens": i, "arm": "baseline", "error": None} for i in range(4)
    ]
    content = write(path, *rows).read_bytes()
    refused = 0
    for _ in range(n):
        path.write_bytes(mutated(content, chance))
        for read in (lambda: flames_prompts(path), lambda: read_answers([path])):
            try:
                read()
            except DataError as error:
                refused += 1
                assert "fuzzed.jsonl" in str(error)
                str(error).encode()
    assert n < refused < 2 * n
