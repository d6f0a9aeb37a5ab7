"""Killed at any moment, or two processes on one folder: the same numbers, nothing asked twice, nothing left over."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from sae_moral_inspect.results import FlamesResults

from .conftest import ScriptedJudge, prompts_file, serving

JOURNALS = ("asked-models.jsonl", "asked-judges.jsonl")


class Worker:
    """The process of `worker.py`."""

    def __init__(self, model: Path, folder: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(model)]
        own = {f"XDG_{what}_HOME": str(folder / what.lower()) for what in ("DATA", "CACHE", "CONFIG")}
        environment = {**os.environ, **own, **environment, "OMP_NUM_THREADS": "1", "INSPECT_DISPLAY": "none"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, request: object) -> list[int]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return [int(number) for number in self.line().split()]

    def start(self, *commands: list[str]) -> list[int]:
        return self.ask(commands)

    def end(self) -> list[int]:
        return self.ask("end")


class Runs:
    """Runs of one command in several folders; `seconds`: how long one takes."""

    seconds = 0.0

    def __init__(self, folder: Path, model: Path, judge: ScriptedJudge) -> None:
        self.folder, self.judge = folder, judge
        judge.say = self.say
        self.worker = Worker(model, folder, judge.environment)
        prompts = prompts_file(folder / "p.jsonl", 5)
        self.options = ["--model", str(model), "--arms", "reseeded", "--temperature", "2", "--prompts", str(prompts),
                        "--max-tokens", "6", "--judge", judge.name, "--judge-connections", "1",
                        "--no-calibration", "--harmless", "2"]  # fmt: skip

    @staticmethod
    def say(request: str) -> str:
        if "VERDICT" not in request:
            return '{"safety": 3, "emotion": 2}'
        time.sleep(0.02)
        return f"VERDICT: {'AB'[sha256(request.encode()).digest()[0] % 2]}"

    def command(self, name: str) -> list[str]:
        return [*self.options, "--out", str(self.folder / name)]

    def finish(self, name: str, processes: int = 1) -> None:
        self.worker.start(*[self.command(name)] * processes)
        assert self.worker.end() == [0] * processes, (self.folder / f"{name}.log").read_text()

    def killed_after(self, name: str, seconds: float) -> None:
        [pid] = self.worker.start(self.command(name))
        time.sleep(seconds)
        assert pid > 0, "not a process: 0 and less are groups of processes"
        os.kill(pid, signal.SIGKILL)
        self.worker.end()

    def kept(self, name: str, journal: str) -> list[str]:
        path = self.folder / name / journal
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [json.loads(line)["key"] for line in lines]

    def requests(self, name: str) -> set[str]:
        path = self.folder / name / JOURNALS[1]
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return {json.loads(line)["value"]["request"] for line in lines}

    def files(self, name: str) -> Counter[str]:
        """What is in a folder, the names of Inspect's logs (which hold the time) left out."""
        folder = self.folder / name
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return Counter(re.sub(r"[^/]*\.eval$", "log.eval", name) for name in names)

    def check(self, name: str) -> None:
        """The folder is that of a run nobody disturbed."""
        for file in ("results.json", "report.html", "run.json", "answers/baseline.jsonl", "answers/reseeded.jsonl"):
            assert (self.folder / name / file).read_bytes() == (self.folder / "whole" / file).read_bytes(), file
        assert self.files(name) == self.files("whole")
        for journal in JOURNALS:
            assert Counter(self.kept(name, journal)) == Counter(self.kept("whole", journal))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Runs]:
    """With one run that was not disturbed, in the folder `whole`."""
    folder = tmp_path_factory.mktemp("runs")
    with serving() as judge:
        found = Runs(folder, tiny_folder, judge)
        try:
            started = time.monotonic()
            found.finish("whole")
            found.seconds = time.monotonic() - started
            assert FlamesResults.load(folder / "whole" / "results.json").wins
            yield found
        finally:
            found.worker.process.kill()
            found.worker.process.communicate()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment(runs: Runs, kills: int) -> None:
    chance = random.Random(kills)
    for i in range(kills):
        name = f"killed {i} of {kills}"
        runs.killed_after(name, runs.seconds * (i + chance.random()) / kills)
        before, answered = runs.requests(name), runs.kept(name, JOURNALS[0])
        runs.judge.asked.clear()
        runs.finish(name)
        assert not before & set(runs.judge.asked)
        assert runs.kept(name, JOURNALS[0])[: len(answered)] == answered
        runs.check(name)


def test_killed_again_and_again(runs: Runs) -> None:
    """Each time a little later in one folder, until it is done."""
    for i in range(4):
        runs.killed_after("again", runs.seconds * i / 4)
    runs.finish("again")
    runs.check("again")


def test_two_processes_on_one_folder(runs: Runs) -> None:
    """Both have the whole result, and nothing is asked twice."""
    runs.judge.asked.clear()
    runs.finish("two", processes=2)
    assert len(set(runs.judge.asked)) == len(runs.judge.asked)
    runs.check("two")


def test_a_second_run_asks_nobody(runs: Runs) -> None:
    runs.judge.asked.clear()
    runs.finish("whole")
    assert not runs.judge.asked
