"""`Study`: every cell once, whole or not at all, by one worker or by several, whatever kills them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_moral import DataError, io
from sae_moral.io import Journal, canonical, files, read_record, write_bytes, write_record, write_text
from sae_moral.studies.study import RECORD, Cell, Done, Study
from tests.studies.worker import cells

ROOT = Path(__file__).resolve().parents[2]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


def start(folder: Path, n: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.studies.worker", str(folder), str(n), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(log: Path, line: str, seconds: float = 60.0) -> None:
    """Until the log of the cells has a line."""
    end = time.monotonic() + seconds
    while not (log.exists() and line in log.read_text().splitlines()):
        assert time.monotonic() < end, f"no {line!r} in {log}"
        time.sleep(0.01)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def test_results_are_made_once_and_stay_in_order(tmp_path: Path) -> None:
    study, asked = Study(tmp_path, "squares"), cells(tmp_path, 5)
    first = study.run(reversed(asked))
    again = study.run(asked)
    assert [done.value for done in again] == [{"square": i * i} for i in range(5)]
    assert [done.cell.name for done in first] == [f"cell {i}" for i in reversed(range(5))]
    assert [done.folder for done in again] == [study.path(cell) for cell in asked]
    assert [(study.path(cell) / "square.txt").read_text() for cell in asked] == [str(i * i) for i in range(5)]
    assert len((tmp_path / "log").read_text().splitlines()) == 10
    assert hidden(tmp_path) == []
    _, content = read_record(study.path(asked[2]) / RECORD, "cell", 1)
    assert (content["name"], content["shaped_by"], content["value"]) == ("cell 2", {"i": 2}, {"square": 4})


def test_a_value_is_the_same_when_it_is_made_and_when_it_is_read(tmp_path: Path) -> None:
    cell = Cell("x", {}, lambda folder: {"pair": (1, 2.5), "none": None})
    (made,), (read,) = Study(tmp_path, "k").run([cell]), Study(tmp_path, "k").run([cell])
    assert made.value == read.value == {"pair": [1, 2.5], "none": None}


def test_what_json_cannot_keep_is_no_result(tmp_path: Path) -> None:
    for value, error in ((float("nan"), ValueError), (Path("x"), TypeError)):
        with pytest.raises(error):
            Study(tmp_path, "k").run([Cell("x", {}, lambda folder, value=value: {"value": value})])
    with pytest.raises(TypeError, match="cannot be kept in JSON"):
        Study(tmp_path, "k").run([Cell("x", {"model": object()}, lambda folder: 1)])
    assert list((tmp_path / "cells").iterdir()) == []


@given(st.dictionaries(st.text(), JSON, max_size=4), st.data())
def test_any_change_of_what_shapes_a_cell_changes_its_key(shaped_by: dict[str, Any], data: st.DataObject) -> None:
    changed = data.draw(changes(shaped_by) | st.dictionaries(st.text(), JSON, max_size=4))
    study = Study("nowhere", "k")
    before, after = (study.key(Cell("x", one, lambda folder: None)) for one in (shaped_by, changed))
    assert (before == after) == (canonical(shaped_by) == canonical(changed))
    shuffled = dict(reversed(list(shaped_by.items())))
    assert study.key(Cell("another name", shuffled, lambda folder: None)) == before
    assert Study("nowhere", "k/2").key(Cell("x", shaped_by, lambda folder: None)) != before


@st.composite
def changes(draw: st.DrawFn, value: Any) -> Any:
    """The same JSON value with one thing in it, however deep, exchanged."""
    if isinstance(value, dict | list) and value:
        place = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        changed = dict(value) if isinstance(value, dict) else list(value)
        changed[place] = draw(changes(value[place]))
        return changed
    return draw(JSON if not isinstance(value, dict) else st.dictionaries(st.text(), JSON, min_size=1, max_size=2))


@pytest.mark.parametrize("name", ["a/b", "../up", ".", "", "Zoë", "con", "x" * 300, "-dash", "a\0b\n"])
def test_whatever_a_cell_is_called_its_folder_is_one_below_cells(name: str, tmp_path: Path) -> None:
    study = Study(tmp_path, "k")
    (done,) = study.run([Cell(name, {}, lambda folder: name)])
    assert done.folder is not None and done.folder.parent == tmp_path / "cells"
    assert study.read(done.cell) == done


def test_two_cells_of_one_name_differ_in_their_settings(tmp_path: Path) -> None:
    asked = [Cell("x", {"seed": seed}, lambda folder, seed=seed: seed) for seed in (0, 1)]
    assert [done.value for done in Study(tmp_path, "k").run(asked)] == [0, 1]
    with pytest.raises(ValueError, match=r"2 cells are x-.*expected each cell once"):
        Study(tmp_path, "k").run([asked[0], asked[0]])


def test_an_error_that_may_pass_is_reported_and_tried_again(tmp_path: Path) -> None:
    failing = [True]

    def work(folder: Path) -> str:
        write_text(folder / "half.txt", "x")
        if failing[0]:
            raise OSError("no route to the hub")
        assert list(folder.iterdir()) == [folder / "half.txt"]
        return "there"

    asked = [Cell("a", {}, work), Cell("b", {}, lambda folder: "b")]
    study = Study(tmp_path, "k")
    with pytest.raises(OSError, match="no route"):
        study.run(asked)
    with pytest.raises(OSError, match="no route"):
        study.run(asked, keep_going=(ValueError,))
    first, second = study.run(asked, keep_going=(OSError,))
    assert (first.folder, first.value, str(first.error)) == (None, None, "no route to the hub")
    assert (second.value, second.error) == ("b", None)
    assert not list(tmp_path.rglob("half.txt"))
    failing[0] = False
    assert [done.value for done in study.run(asked)] == ["there", "b"] and hidden(tmp_path) == []


@pytest.mark.parametrize("resume", [False, True])
def test_only_cells_that_resume_find_what_an_interrupted_run_left(resume: bool, tmp_path: Path) -> None:
    def work(folder: Path) -> int:
        journal = Journal(folder / "journal.jsonl")
        before = len(journal)
        for i in range(before, 5):
            if i == before + 3:
                raise KeyboardInterrupt
            journal.add(str(i), i)
        return before

    study, cell = Study(tmp_path, "k"), Cell("long", {}, work, resume)
    with pytest.raises(KeyboardInterrupt):
        study.run([cell])
    assert len(list(tmp_path.rglob("journal.jsonl"))) == resume
    if resume:
        (done,) = study.run([cell])
        assert done.value == 3 and done.folder is not None and len(Journal(done.folder / "journal.jsonl")) == 5
        assert hidden(tmp_path) == []


def test_a_disk_that_is_full_leaves_no_result_and_no_waste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(folder: Path) -> str:
        write_bytes(folder / "first", b"1" * 100)
        write_bytes(folder / "second", b"2" * 100)
        return "whole"

    study, cell, complete = Study(tmp_path, "k"), Cell("x", {}, work), io.write_all
    for full_after in range(3):  # the two files and the record
        written = []

        def write_all(file: Any, content: Any, written: list[int] = written, limit: int = full_after) -> None:
            if len(written) == limit:
                complete(file, content[:7])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written.append(len(content))
            complete(file, content)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(files, "write_all", write_all)
            study.run([cell])
        assert study.read(cell) is None and not list((tmp_path / "cells").iterdir())
    (done,) = study.run([cell])
    assert done.folder is not None and (done.folder / "second").read_bytes() == b"2" * 100 and hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "not a cell"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "not a cell"),
        (lambda path: path.write_text(path.read_text().replace('"square": 4', '"square": 5')), "damaged"),
        (lambda path: path.write_bytes(b"[" * 100_000), "nested too deeply"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "UTF-8"),
        (lambda path: path.unlink(), f"no {RECORD} in it; delete the folder"),
        (lambda path: write_record(path, "diagnosis", 1, {}), "kind is 'cell'"),
        (lambda path: write_record(path, "cell", 2, {}), "schema version 2"),
        (lambda path: write_record(path, "cell", 1, {"key": "0" * 32, "value": 1}), "the result of another cell"),
        (lambda path: write_record(path, "cell", 1, {"key": None}), "the result of another cell"),
    ],
)
def test_damage_is_found_before_anything_is_worked_on(damage: Any, message: str, tmp_path: Path) -> None:
    study, asked = Study(tmp_path, "squares"), cells(tmp_path, 4)
    folder = study.run(asked[2:3])[0].folder
    assert folder is not None
    damage(folder / RECORD)
    with pytest.raises(DataError, match=message) as caught:
        study.run(asked, keep_going=(Exception,))
    assert str(folder) in str(caught.value)
    assert (tmp_path / "log").read_text().count("begin") == 1


def test_a_file_in_the_place_of_a_result_is_damage(tmp_path: Path) -> None:
    study, (cell,) = Study(tmp_path, "squares"), cells(tmp_path, 1)
    write_text(study.path(cell), "x")
    with pytest.raises(DataError, match=f"no {RECORD} in it"):
        study.run([cell])


def test_two_processes_on_one_folder_do_each_cell_once_and_both_have_all(tmp_path: Path) -> None:
    workers = [start(tmp_path, 12, 0.1) for _ in range(2)]
    printed = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    assert [json.loads(out) for out, _ in printed] == [[i * i for i in range(12)]] * 2
    lines = Counter((tmp_path / "log").read_text().splitlines())
    assert lines == {f"{what} {i}": 1 for what in ("begin", "end") for i in range(12)}
    assert hidden(tmp_path) == []


def test_the_cell_of_a_killed_worker_is_taken_over_by_the_one_that_waits(tmp_path: Path) -> None:
    doomed = start(tmp_path, 2, 600)
    wait_for(tmp_path / "log", "begin 0")
    other = start(tmp_path, 1, 0)
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(timeout=4)
    assert (tmp_path / "log").read_text() == "begin 0\n"
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    out, errors = other.communicate(timeout=60)
    assert json.loads(out) == [0], errors
    assert (tmp_path / "log").read_text() == "begin 0\nbegin 0\nend 0\n"
    assert hidden(tmp_path) == []


def test_what_a_killed_worker_left_goes_even_if_its_cell_is_no_longer_asked_for(tmp_path: Path) -> None:
    doomed = start(tmp_path, 1, 600)
    wait_for(tmp_path / "log", "begin 0")
    assert len(list(tmp_path.rglob(".*.part"))) == 1
    study, another = Study(tmp_path, "squares"), Cell("another", {}, lambda folder: 1)
    study.run([another])
    assert len(list(tmp_path.rglob(".*.part"))) == 1  # somebody is at it
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    study.run([another])
    assert not list(tmp_path.rglob(".*.part"))


def test_cells_that_another_worker_is_doing_can_be_left_out(tmp_path: Path) -> None:
    doomed = start(tmp_path, 1, 600)
    try:
        wait_for(tmp_path / "log", "begin 0")
        found: list[Done] = Study(tmp_path, "squares").run(cells(tmp_path, 3), wait=False)
    finally:
        doomed.kill()
        doomed.communicate()
    assert [done.cell.name for done in found] == ["cell 1", "cell 2"]
    assert [done.value["square"] for done in Study(tmp_path, "squares").run(cells(tmp_path, 3))] == [0, 1, 4]
    assert hidden(tmp_path) == []


def test_results_are_read_from_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    study, asked = Study(tmp_path, "squares"), cells(tmp_path, 2)
    study.run(asked)
    (tmp_path / "cells").chmod(0o555)
    try:
        assert [done.value["square"] for done in study.run(asked)] == [0, 1]
    finally:
        (tmp_path / "cells").chmod(0o755)
