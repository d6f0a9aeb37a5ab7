"""`sae-moral`: every command calls one public function and prints what came out.

A command is a function (`commands`) and its options (`table`), which are parameters of the functions and settings that
it hands them to (`options`). `failures` has the one table of errors and exit codes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from sae_moral import __version__
from sae_moral.cli.failures import STATUS, failure_of, in_options, print_warnings, said
from sae_moral.cli.options import UNKNOWN, Parser
from sae_moral.cli.table import COMMANDS, Command
from sae_moral.errors import nearest, unknown
from sae_moral.log import shown_log

__all__ = ["COMMANDS", "failure_of", "main", "parser"]
VERBOSE = ("-v", "--verbose")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (`STATUS`). `--debug` or `SAE_MORAL_DEBUG=1` shows tracebacks."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    space = argparse.Namespace(main=main, parser_of=parser, line=given)

    def words(text: str) -> str:
        return in_options(text, getattr(space, "parser", None))

    debug = "--debug" in given or os.environ.get("SAE_MORAL_DEBUG", "0") not in ("", "0")
    try:
        with warnings.catch_warnings():
            print_warnings(words)
            status = _run(given, space)
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt) as error:
        failure = failure_of(error)
        if debug or failure is None:
            raise
        if isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):  # else Python flushes into the closed pipe once more when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            print(f"sae-moral: {failure.words.format(words(said(error)))}", file=sys.stderr)
        return failure.status


def _run(given: list[str], space: argparse.Namespace) -> int:
    name = next((one for one in given if not one.startswith("-")), None)
    if name == "flames":
        at = given.index(name)
        return _flames([*(one for one in given[:at] if one in VERBOSE), *given[at + 1 :]])
    if name is not None and name not in COMMANDS:
        raise unknown("command", name, (*COMMANDS, "flames"))
    parsed, rest = parser(name or "").parse_known_args(given, space)  # --help and --version need no command's options
    if rest:
        hint = nearest(rest[0].partition("=")[0], parsed.parser.options()) if rest[0].startswith("-") else ""
        raise ValueError(f"unknown argument {rest[0]!r}; {hint or f'see: sae-moral {name} --help'}")
    with shown_log() if parsed.verbose else contextlib.nullcontext():
        return parsed.run(parsed)


def _flames(arguments: Sequence[str]) -> int:
    """The options are the plugin's own."""
    if importlib.util.find_spec("sae_moral_inspect") is None:
        raise ModuleNotFoundError("flames needs the plugin: pip install sae-moral-inspect")
    from sae_moral_inspect.cli import main as flames  # pyright: ignore[reportMissingImports]

    return flames(arguments)


def parser(command: str | None = None) -> Parser:
    """The parser of `sae-moral`, with the options of one command, or of all."""
    plain: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    about = "Measure how a language model's inside represents morality."
    made = Parser(prog="sae-moral", description=about, epilog=STATUS, **plain)
    made.add_argument("--version", action="version", version=f"sae-moral {__version__}")
    _add_common(made, default=False)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for name, one in COMMANDS.items():
        text = inspect.cleandoc(one.run.__doc__ or "")
        about, _, example = text.partition("\n\nExample: ")
        help, about = about.partition("\n\n")[0].replace("\n", " ").rstrip("."), _filled(about)
        sub = commands.add_parser(name, help=help, description=about, epilog=f"example:\n  {example}", **plain)
        if command in (None, name):
            _fill(sub, one)
    commands.add_parser("flames", help="Does behaviour change? The benchmark Flames (plugin sae-moral-inspect)")
    return made


def _add_common(made: Parser, default: Any = UNKNOWN) -> None:
    """What every command has; before its name, too."""
    made.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")
    made.add_argument(*VERBOSE, action="store_true", default=default, help="log what takes long, on standard error")


def _filled(text: str) -> str:
    """Its paragraphs as wide as argparse makes the rest."""
    width = shutil.get_terminal_size().columns - 2
    return "\n\n".join(textwrap.fill(part, width) for part in text.split("\n\n"))


def _fill(made: Parser, command: Command) -> None:
    made.set_defaults(run=command.run, parser=made)
    _add_common(made)
    for add in command.options:
        add(made)
    if command.actions:
        below = made.add_subparsers(metavar="ACTION")
        for name, action in command.actions.items():
            about = action.run.__doc__
            _fill(below.add_parser(name, help=about, description=about), action)
