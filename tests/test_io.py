"""Journals: what was added is there again, whatever was killed, and for every process that shares the file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_moral import io
from sae_moral.errors import DataError
from sae_moral.io import Journal, key


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    journal = Journal(path)
    journal.add("a", {"text": "一\n二", "n": 1})
    journal.add("b", "\u2028 line separator")
    again = Journal(path)
    assert len(again) == 2
    assert again["a"] == {"text": "一\n二", "n": 1}
    assert again.get("b") == "\u2028 line separator"
    assert again.get("c") is None and "c" not in again
    with pytest.raises(KeyError):
        again["c"]


def test_without_a_path_it_is_in_memory(tmp_path: Path) -> None:
    journal = Journal()
    journal.add("a", (1, 2))
    assert journal.get("a") == [1, 2] and len(journal) == 1


@pytest.mark.parametrize("kept", range(1, 40, 3))
def test_a_part_of_a_line_is_dropped_and_written_over(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add("a", 1)
    before = path.read_bytes()
    path.write_bytes(before + b'{"key": "b", "value": "half a line", "checksum"'[:kept])
    journal = Journal(path)
    assert (journal.get("a"), journal.get("b")) == (1, None)
    journal.add("c", 3)
    assert path.read_bytes().startswith(before + b'{"key": "c", "value": 3, "checksum": "')
    assert [Journal(path).get(name) for name in "abc"] == [1, None, 3]


@pytest.mark.parametrize(
    "damage",
    [b"garbage", b'{"no": "key"}', b"[1]", b"", b"\xff", b"[" * 1500, b'{"key": "a", "value": 1, "checksum": ""}'],
)
def test_damage_in_the_middle_is_an_error(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add("a", 1)
    path.write_bytes(path.read_bytes() + damage + b"\n" + path.read_bytes())
    with pytest.raises(DataError, match=r"journal\.jsonl, row 2: "):
        Journal(path)


def test_a_full_disk_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add("a", 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.add("b", 2)
    assert journal.get("b") is None and Journal(path).get("b") is None
    complete = io.write_all

    def short(file: Any, content: bytes) -> None:
        complete(file, content[:5])
        full(0)

    with monkeypatch.context() as patch:
        patch.setattr(io, "write_all", short)
        with pytest.raises(OSError, match="No space left"):
            journal.add("b", 2)
    journal.add("c", 3)
    assert [Journal(path).get(name) for name in "abc"] == [1, None, 3]


def test_what_one_adds_the_others_find(tmp_path: Path) -> None:
    one, two = (Journal(tmp_path / "journal.jsonl") for _ in range(2))
    one.add("a", 1)
    assert two["a"] == 1
    two.add("b", 2)
    one.add("c", 3)
    assert [journal.get(name) for journal in (one, two) for name in "abc"] == [1, 2, 3] * 2
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 3
    (tmp_path / "journal.jsonl").unlink()
    with pytest.raises(DataError, match=r"journal\.jsonl: 0 bytes, and it had \d+"):
        one.add("d", 4)


def test_processes_share_a_journal(tmp_path: Path) -> None:
    """Four of them add at once; every line is there, once and whole."""
    program = (
        "import sys; from sae_moral.io import Journal\n"
        "journal = Journal(sys.argv[1])\n"
        "for i in range(50): journal.add(f'{sys.argv[2]} {i}', 'x' * i)"
    )
    path = tmp_path / "journal.jsonl"
    running = [subprocess.Popen([sys.executable, "-c", program, str(path), str(n)]) for n in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    journal = Journal(path)
    assert len(journal) == 200 == len(path.read_text().splitlines())
    assert all(journal[f"{n} {i}"] == "x" * i for n in range(4) for i in range(50))


def test_keys_are_equal_exactly_when_all_parts_are() -> None:
    base: dict[str, Any] = {"a": 1, "b": ["x"]}
    assert key("k", **base) == key("k", b=["x"], a=1)
    others = [{"a": 1, "b": ["x", ""]}, {"a": "1", "b": ["x"]}, {"a": 1}, {"a": 1, "b": "x"}]
    assert len({key("k", **base), key("k/2", **base), *(key("k", **other) for other in others)}) == 6
    with pytest.raises(ValueError):
        key("k", a=float("nan"))
