"""Files appear whole or not at all, damage is noticed, folders are not mixed."""

from __future__ import annotations

import errno
import io as stdio
import json
import multiprocessing
import os
import random
import shutil
import string
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_moral import io
from sae_moral.errors import BusyError, DataError, FolderError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


class Short(stdio.RawIOBase):
    """Takes a few bytes at a time, and none for a while once it is full."""

    name = "short"

    def __init__(self, most: int, capacity: int | None = None) -> None:
        self.most, self.capacity, self.content = most, capacity, b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        room = self.most if self.capacity is None else min(self.most, self.capacity - len(self.content))
        taken = bytes(content[: max(0, room)])
        self.content += taken
        return len(taken)


class TestWriting:
    def test_every_byte_is_written_where_a_file_takes_few_at_a_time(self) -> None:
        file: Any = Short(most=7)
        io.write_all(file, bytes(range(256)))
        assert file.content == bytes(range(256))

    def test_a_full_disk_is_an_error_and_not_a_short_file(self) -> None:
        file: Any = Short(most=7, capacity=100)
        with pytest.raises(OSError, match="disk full"):
            io.write_all(file, bytes(256))

    def test_an_error_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        io.write_text(tmp_path / "a", "old")
        with pytest.raises(RuntimeError), io.staged(tmp_path / "a") as temporary:
            temporary.write_text("new")
            raise RuntimeError
        assert (tmp_path / "a").read_text() == "old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["a"]

    def test_a_folder_is_replaced_whole(self, tmp_path: Path) -> None:
        for content in ("old", "new"):
            with io.staged(tmp_path / "folder") as temporary:
                temporary.mkdir()
                (temporary / content).write_text(content)
        assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["new"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    def test_a_planted_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / "a").symlink_to(victim)
        io.write_text(tmp_path / "a", "new")
        assert victim.read_text() == "mine"
        assert not (tmp_path / "a").is_symlink()

    def test_files_written_together_come_together(self, tmp_path: Path) -> None:
        io.write_together(tmp_path, {"a": "1", "b": "2"})
        assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"a": "1", "b": "2"}
        with pytest.raises(TypeError):
            io.write_together(tmp_path, {"a": "3", "b": None})  # pyright: ignore[reportArgumentType]
        assert (tmp_path / "a").read_text() == "1"

    def test_space_that_is_not_there_is_refused_with_both_sizes(self, tmp_path: Path) -> None:
        with (
            (tmp_path / "a").open("xb", buffering=0) as file,
            pytest.raises(OSError, match=r"GB free and .* GB needed"),
        ):
            io.reserve(file, 1 << 50)


class TestFullDisk:
    """On a file system of one megabyte: whatever was to be written is an error, what was there is unharmed."""

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "small"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    def test_text_and_journal(self, small: Path) -> None:
        io.write_text(small / "a", "old")
        journal = io.Journal(small / "j")
        journal.add("first", 1)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            io.write_bytes(small / "a", bytes(2 << 20))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            journal.add("big", "x" * (2 << 20))
        assert (small / "a").read_text() == "old"
        assert "big" not in journal
        journal.add("second", 2)  # the disk has room again
        again = io.Journal(small / "j")
        assert (len(again), again["first"], again["second"]) == (2, 1, 2)


class TestKey:
    @given(JSON, JSON)
    def test_equal_exactly_when_all_is_equal(self, a: Any, b: Any) -> None:
        same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
        assert (io.key("k", value=a) == io.key("k", value=b)) == same

    def test_covers_the_kind_and_the_names(self) -> None:
        assert len({io.key("k", a=1), io.key("l", a=1), io.key("k", b=1), io.key("k", a=1, b=None)}) == 4

    @pytest.mark.parametrize("value", [object(), {1: 2}, b"x", {1, 2}, Path("x")])
    def test_nothing_is_keyed_by_its_looks(self, value: Any) -> None:
        with pytest.raises(TypeError):
            io.key("k", value=value)

    def test_not_a_number_is_no_value(self) -> None:
        with pytest.raises(ValueError, match="nan"):
            io.key("k", value=float("nan"))


@dataclass(frozen=True)
class Point:
    x: int
    name: str | None = None


@dataclass(frozen=True)
class Points:
    points: list[Point]
    about: dict[str, float]


POINTS = Points([Point(1, "a"), Point(2)], {"mean": 1.5})


class TestRecords:
    @given(st.dictionaries(st.text(max_size=8).filter(lambda name: name not in ("kind", "schema_version", "checksum")),
                           JSON, max_size=4))  # fmt: skip
    def test_come_back_as_they_were(self, content: dict[str, Any]) -> None:
        text = io.record("thing", 3, content)
        parsed = io.parse_json(text)
        assert parsed.pop("checksum") == io.checksum(parsed)
        assert {k: v for k, v in parsed.items() if k not in ("kind", "schema_version")} == content

    def test_typed_ones_come_back_as_objects(self, tmp_path: Path) -> None:
        io.write_record(tmp_path / "p.json", "points", 1, io.jsonable(POINTS))
        assert io.read_typed(tmp_path / "p.json", Points, "points", 1) == POINTS

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c["points"][0].update(x="1"), r"points\.0\.x: input should be a valid integer"),
            (lambda c: c["points"][1].update(y=1), r"points\.1\.y: unknown field"),
            (lambda c: c.pop("about"), "about: field required"),
            (lambda c: c.update(more=1), "more: unknown field"),
        ],
    )
    def test_a_field_that_is_wrong_is_named(
        self, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
    ) -> None:
        content = io.jsonable(POINTS)
        change(content)
        io.write_record(tmp_path / "p.json", "points", 1, content)
        with pytest.raises(DataError, match=rf"p\.json: {message}"):
            io.read_typed(tmp_path / "p.json", Points, "points", 1)

    def test_another_kind_and_a_newer_version_are_refused(self, tmp_path: Path) -> None:
        io.write_record(tmp_path / "p.json", "points", 2, {})
        with pytest.raises(DataError, match="not a line"):
            io.read_record(tmp_path / "p.json", "line", 2)
        with pytest.raises(DataError, match="schema version 2; this sae_moral reads 1 to 1"):
            io.read_record(tmp_path / "p.json", "points", 1)

    def test_an_older_one_is_migrated_and_what_its_migration_trips_over_is_damage(self, tmp_path: Path) -> None:
        path = tmp_path / "p.json"
        path.write_text(json.dumps({"schema_version": 1, "kind": "points", "xs": [1, 2]}))

        def migrate(version: int, content: dict[str, Any]) -> dict[str, Any]:
            return {"points": [{"x": x, "name": None} for x in content["xs"]], "about": {}}

        read = io.read_typed(path, Points, "points", 2, checked_from=2, migrate=migrate)
        assert [point.x for point in read.points] == [1, 2]
        path.write_text(json.dumps({"schema_version": 1, "kind": "points", "ys": []}))
        with pytest.raises(DataError, match=r"p\.json: not a points of schema 1"):
            io.read_typed(path, Points, "points", 2, checked_from=2, migrate=migrate)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with a bit flipped, a piece cut out, doubled or overwritten, or its end missing."""
    at, size = rng.randrange(len(content)), rng.randint(1, 40)
    kind = rng.randrange(6)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[at + size :]
    if kind == 3:
        return content[:at] + content[at : at + size] + content[at:]
    if kind == 4:
        return content[:at] + rng.choice([b"[", b"{", b'"', b"\x00", b"\xff", b"NaN", b"9" * 5000]) + content[at:]
    return content[:at] + bytes(rng.randrange(256) for _ in range(size)) + content[at + size :]


class TestDamage:
    """Whatever the bytes: what was written, or our error with the file's name."""

    @pytest.mark.parametrize("seed", range(200))
    def test_of_a_record(self, tmp_path: Path, seed: int) -> None:
        path, rng = tmp_path / "p.json", random.Random(seed)
        content = {**io.jsonable(POINTS), "about": {w: 0.1 for w in string.ascii_lowercase}}
        io.write_record(path, "points", 1, content)
        path.write_bytes(damaged(path.read_bytes(), rng))
        try:
            _, read = io.read_record(path, "points", 1)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert read == content  # white space changed, or nothing

    @pytest.mark.parametrize("seed", range(200))
    def test_of_a_journal(self, tmp_path: Path, seed: int) -> None:
        path, rng = tmp_path / "j.jsonl", random.Random(seed)
        journal = io.Journal(path)
        values = {f"k{i}": {"i": i, "words": ["a", None, 0.5]} for i in range(5)}
        for name, value in values.items():
            journal.add(name, value)
        path.write_bytes(damaged(path.read_bytes(), rng))
        try:
            read = io.Journal(path)
        except DataError as error:
            assert str(path) in str(error)
            assert error.row is not None
        else:
            assert all(read.get(name) in (value, None) for name, value in values.items())
            assert len(read) <= len(values)

    @pytest.mark.parametrize(
        "content", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a": NaN}', '{"a": 1, "a": 2}', "1" * 5000, ""]
    )
    def test_json_that_no_parser_likes(self, content: str) -> None:
        with pytest.raises(DataError, match="somewhere, row"):
            io.parse_json(content, file="somewhere", row=3)

    def test_text_of_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes("ä\nö".encode("utf-16"))
        with pytest.raises(DataError, match="UTF-16; save it as UTF-8"):
            io.read_text(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
        assert io.read_text(tmp_path / "a") == "abc"


class TestJournal:
    def test_a_line_that_was_cut_short_is_dropped_and_written_over(self, tmp_path: Path) -> None:
        path = tmp_path / "j.jsonl"
        journal = io.Journal(path)
        journal.add("a", 1)
        whole = path.read_bytes()
        path.write_bytes(whole + whole[:-10])
        again = io.Journal(path)
        again.add("b", 2)
        assert path.read_bytes().startswith(whole)
        assert (io.Journal(path).get("a"), io.Journal(path).get("b"), len(io.Journal(path))) == (1, 2, 2)

    def test_without_a_path_it_is_in_memory(self) -> None:
        journal = io.Journal()
        journal.add("a", {"b": (1, 2)})
        assert "a" in journal and journal["a"] == {"b": [1, 2]}


def hold(folder: str, seconds: float) -> None:
    with io.locked(folder), io.staged(Path(folder) / "half") as temporary:
        temporary.write_text("half")
        (Path(folder) / "ready").write_text("")
        time.sleep(seconds)


class TestFolders:
    def test_another_process_is_named_and_what_it_left_when_killed_is_removed(self, tmp_path: Path) -> None:
        process = multiprocessing.get_context("spawn").Process(target=hold, args=(str(tmp_path), 60))
        process.start()
        try:
            while not (tmp_path / "ready").exists():
                time.sleep(0.02)
            with pytest.raises(BusyError, match=f"process {process.pid} on "), io.locked(tmp_path):
                pass
        finally:
            process.kill()
            process.join()
        assert any(entry.name.startswith(".sae-moral-") for entry in tmp_path.iterdir())
        with io.locked(tmp_path):
            pass
        assert {entry.name for entry in tmp_path.iterdir()} <= {"ready", ".lock"}

    def test_a_claim_is_kept_by_the_same_and_refused_to_another(self, tmp_path: Path) -> None:
        io.claim(tmp_path, "diagnosis", {"model": "a", "layers": (1, 2)})
        io.claim(tmp_path, "diagnosis", {"model": "a", "layers": [1, 2]})
        with pytest.raises(FolderError, match=r"model 'a' \(now 'b'\)"):
            io.claim(tmp_path, "diagnosis", {"model": "b", "layers": [1, 2]})
        with pytest.raises(FolderError, match="holds a diagnosis, not a sweep"):
            io.claim(tmp_path, "sweep", {"model": "a", "layers": [1, 2]})
        io.claim(tmp_path, "sweep", {"model": "b"}, overwrite=True)
        io.check_claim(tmp_path, "sweep", {"model": "b"})

    def test_results_of_an_unknown_run_are_refused_and_other_files_are_not(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        io.check_claim(tmp_path, "diagnosis", {}, files=("diagnosis.json",))
        (tmp_path / "diagnosis.json").write_text("{}")
        with pytest.raises(FolderError, match=r"holds diagnosis\.json of an unknown run"):
            io.check_claim(tmp_path, "diagnosis", {}, files=("diagnosis.json",))

    def test_a_check_creates_nothing(self, tmp_path: Path) -> None:
        io.check_claim(tmp_path / "new", "diagnosis", {})
        assert not (tmp_path / "new").exists()
        (tmp_path / "file").write_text("")
        with pytest.raises(FolderError, match="is a file"):
            io.check_claim(tmp_path / "file", "diagnosis", {})
