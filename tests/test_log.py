"""What long work says to somebody who waits."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

import pytest
from tqdm import tqdm

from sae_moral import io
from sae_moral.log import shown_log, timed
from sae_moral.studies.study import Cell, Study

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
logger = logging.getLogger("sae_moral.tests")


def test_it_is_off_by_default_and_off_again_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger("sae_moral")
    before = root.handlers[:], root.level, root.propagate
    with timed(logger, "before"):
        pass
    with shown_log(), timed(logger, "within"):
        pass
    logger.info("after")
    told = capsys.readouterr()
    lines = [f"{STAMP} INFO sae_moral.tests: within: begins", rf"{STAMP} INFO .*: within: done in \d+\.\d s"]
    assert told.out == "" and re.fullmatch("\n".join(lines) + "\n", told.err)
    assert (root.handlers, root.level, root.propagate) == before


def test_what_ends_work_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), shown_log(), timed(logger, "dividing"):
        _ = 1 / 0
    assert re.search(r"dividing: ZeroDivisionError after \d+\.\d s", capsys.readouterr().err)


def test_it_stands_above_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_log(), tqdm(total=2, disable=False) as bar:
        bar.update()
        logger.info("half")
    [line] = [one for one in re.split(r"[\r\n]", capsys.readouterr().err) if "half" in one]
    assert re.fullmatch(f"{STAMP} INFO sae_moral.tests: half", line)


def test_cells_begin_end_and_are_found_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sae_moral")
    cells = [Cell(name, {"name": name}, lambda folder: 1) for name in ("one", "two")]
    Study(tmp_path, "test").run(cells[:1])
    assert [re.sub(r"in .*", "", told) for told in caplog.messages] == ["cell one: begins", "cell one: done "]
    caplog.clear()
    Study(tmp_path, "test").run(cells)
    assert caplog.messages[:2] == ["cell one: found done", "cell two: begins"]


def test_who_is_waited_for_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sae_moral")
    with io.locked(tmp_path):
        other = threading.Thread(target=lambda: io.locked(tmp_path, wait=True).__enter__())
        other.start()
        other.join(0.5)
        assert other.is_alive()
    other.join()
    [told] = caplog.messages
    assert re.fullmatch(rf"waiting for {tmp_path}/\.lock, which process \d+ on .* holds", told)
