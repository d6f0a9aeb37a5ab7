"""Run by test_killed: loads everything once, then runs `sae-moral flames` in child processes that can be killed.

Usage: python worker.py MODEL. A line on the standard input is a JSON list of commands that run at the same time; prints
their process ids on a line. Another line asks for their exit statuses: only then are they waited for, so that the ids
are theirs until then even if they have ended, and a kill reaches no other process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import sae_moral_inspect.report
import sae_moral_inspect.run  # noqa: F401
from sae_moral_inspect.cli import main
from sae_moral_inspect.provider import loaded


def start(command: list[str]) -> int:
    """The id of a child process that runs the command, its output in a file beside its results."""
    child = os.fork()
    if child:
        return child
    log = Path(command[command.index("--out") + 1]).with_suffix(".log")
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 99
    try:
        status = main(command)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    loaded(sys.argv[1], "float32", None)
    print("ready", flush=True)
    for line in sys.stdin:
        children = [start(command) for command in json.loads(line)]
        print(*children, flush=True)
        sys.stdin.readline()
        print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
