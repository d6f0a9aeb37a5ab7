"""What is kept survives kills and full disks, and nothing else is read back."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from sae_moral_inspect.ledger import Ledger, key_of, open_ledger

from sae_moral import DataError


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.add("a", text="一\n二", n=1)
    ledger.add("b", text="\u2028 line separator")
    again = Ledger(path)
    assert len(again) == 2
    assert again.get("a") == {"text": "一\n二", "n": 1}
    assert again.get("b") == {"text": "\u2028 line separator"}
    assert again.get("c") is None


@pytest.mark.parametrize("kept", range(1, 30, 3))
def test_half_a_line_is_dropped_and_written_over(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add("a", n=1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "b", "text": "half a line"}'[:kept])
    ledger = Ledger(path)
    assert (ledger.get("a"), ledger.get("b")) == ({"n": 1}, None)
    ledger.add("c", n=3)
    assert path.read_bytes() == whole + b'{"key": "c", "n": 3}\n'


@pytest.mark.parametrize("damage", [b"garbage", b'{"no": "key"}', b"[1]", b""])
def test_damage_in_the_middle_is_an_error(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(damage + b'\n{"key": "a"}\n')
    with pytest.raises(DataError, match=r"ledger\.jsonl, row 1: not a record"):
        Ledger(path)


def test_a_full_disk_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.add("a", n=1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.add("b", n=2)
    assert ledger.get("b") is None
    ledger.add("c", n=3)
    assert [Ledger(path).get(key) for key in "abc"] == [{"n": 1}, None, {"n": 3}]


def test_a_file_has_one_ledger(tmp_path: Path) -> None:
    one, two = (open_ledger(str(tmp_path / "ledger.jsonl")) for _ in range(2))
    assert one is two
    assert open_ledger() is not open_ledger()


def test_keys_are_equal_exactly_when_all_parts_are() -> None:
    base: dict[str, Any] = {"a": 1, "b": ["x"]}
    assert key_of(**base) == key_of(b=["x"], a=1)
    others = [{"a": 1, "b": ["x", ""]}, {"a": "1", "b": ["x"]}, {"a": 1}, {"a": 1, "b": "x"}]
    assert len({key_of(**base), *(key_of(**other) for other in others)}) == 5
    with pytest.raises(ValueError):
        key_of(a=float("nan"))
