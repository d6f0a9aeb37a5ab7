"""The one table of errors and exit codes, and how errors and warnings are said."""

from __future__ import annotations

import argparse
import errno
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from sae_moral.errors import BusyError, SaeMoralWarning, package_of


class Failure(NamedTuple):
    """A kind of error: the exit status, what is printed (`{}`: the error's own message), and which errors it is."""

    status: int
    words: str
    test: Callable[[BaseException], bool]


def _system(*numbers: int) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, OSError) and error.errno in numbers


def _is_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError is a RuntimeError that says so; of the CPU's memory torch has no type.
    said = re.search("out of memory|(can't|cannot) allocate memory|not enough memory", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said is not None)


def _is_safetensors(error: BaseException) -> bool:
    return type(error).__name__ == "SafetensorError"  # not imported for this


FAILURES = (
    Failure(130, "interrupted; {}", lambda error: isinstance(error, KeyboardInterrupt) and bool(str(error))),
    Failure(130, "interrupted", lambda error: isinstance(error, KeyboardInterrupt)),
    Failure(141, "", lambda error: isinstance(error, BrokenPipeError)),
    Failure(4, "{}", lambda error: isinstance(error, BusyError)),
    Failure(3, "the disk is full: {}; make room and run the command again", _system(errno.ENOSPC, errno.EDQUOT)),
    Failure(3, "the disk is read-only: {}; choose another folder with --out", _system(errno.EROFS)),
    Failure(3, "no permission: {}; choose another folder with --out", _system(errno.EACCES, errno.EPERM)),
    Failure(2, "{}; expected a folder there", _system(errno.ENOTDIR, errno.EEXIST)),
    Failure(2, "{}; expected a file there", _system(errno.EISDIR)),
    Failure(3, "too little memory: {}; use fewer layers, --limit, a smaller --dtype or another --device", _is_memory),
    Failure(2, "{}", lambda error: isinstance(error, ImportError)),
    Failure(2, "a damaged safetensors file: {}; make or download it again", _is_safetensors),
    Failure(2, "{}", lambda error: isinstance(error, ValueError | FileNotFoundError)),
    Failure(3, "{} (--debug shows where)", lambda error: isinstance(error, OSError | RuntimeError)),
)
"""The first that fits an error, or what caused it, counts. Any other error is a fault of ours: it has a traceback."""
STATUS = """\
exit status:
  0    done
  1    done, and the answer is no: counts differ (data verify), a model failed
       (atlas), no SAE is known (saes), something blocks (doctor)
  2    something given is wrong or missing: an argument, a file, a model, a
       package, a folder with other results
  3    the machine could not: disk, permissions, memory, network, a run whose
       numbers are not finite
  4    another process is writing to the folder
  130  interrupted"""


def failure_of(error: BaseException) -> Failure | None:
    """The kind of an error; None for a fault of ours."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return next((one for one in FAILURES if any(one.test(cause) for cause in causes)), None)


def said(error: BaseException) -> str:
    """An error in words: with the file it is about, and the package to install."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    said = str(error).strip() or type(error).__name__
    if isinstance(error, ImportError) and "pip install" not in said and (package := package_of(error)):
        return f"{said}; run: pip install {package}"
    return said


def in_options(text: str, made: argparse.ArgumentParser | None) -> str:
    """A message that names arguments of Python, with the options of a command in their place.

    `any_model=True` is `--any-model`, `rule='paper'` is `--rule paper`, `n_devices` is `--n-devices`. What the command
    has no option for stays, and so does a single word without `=`: it is English.
    """
    flags: dict[str, str] = {}
    for action in made._actions if made is not None else ():
        for flag in [one for one in action.option_strings if one.startswith("--")][:1]:
            flags |= {action.dest: flag, flag[2:].replace("-", "_"): flag}
    if not flags:
        return text
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    value = r"""True\b|None\b|'[^' ]*'|"[^" ]*"|[-+\w.]*[-+\w]|"""
    found = re.compile(rf"(?<![\w.'\"/-])({names})(?:=({value})|(?![\w=('\"/]|\.\w))")

    def option(one: re.Match[str]) -> str:
        name, given = one.groups()
        if given is None:
            return flags[name] if "_" in name else name
        given = "none" if given == "None" else given.strip("'\"")
        return flags[name] if given in ("", "True") else f"{flags[name]} {given}"

    return found.sub(option, text)


def print_warnings(words: Callable[[str], str] = str) -> None:
    """Our warnings as one line each; `words`: what is made of each."""
    shown = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, SaeMoralWarning):
            print(f"sae-moral: {words(str(message))}", file=sys.stderr)
        else:
            shown(message, category, *place, **more)

    warnings.simplefilter("always", SaeMoralWarning)
    warnings.showwarning = show
