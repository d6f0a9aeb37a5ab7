"""What shells complete: a script that shtab makes of the parsers, once. Nothing of it runs when a command does."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("DIR", "FOLDER", "OPERATION", "SAE")
"""Metavars of folders; what else is a path is a file."""


def script(made: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`, with commands, options, their choices, files and folders, models and sources.

    Raises:
        ModuleNotFoundError: shtab is not installed.
    """
    import shtab  # pyright: ignore[reportMissingImports]

    from sae_moral.capture.bundled import BUNDLED
    from sae_moral.registry import Registry

    models = _names_or_paths("models", BUNDLED, folders=True)
    sources = _names_or_paths("sources", Registry[object]("data source", "sae_moral.sources").names())
    for action in _actions(_with_flames(made)):
        complete = None
        if action.metavar == "MODEL":
            complete = models
        elif action.metavar == "SOURCE":
            complete = sources
        elif action.metavar in FOLDERS:
            complete = shtab.DIRECTORY
        elif action.type is Path:
            complete = shtab.FILE
        if complete is not None:
            action.complete = complete  # pyright: ignore[reportAttributeAccessIssue]
    return shtab.complete(made, shell)


def _actions(made: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in made._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def _with_flames(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With the options of the plugin, where it is installed."""
    if importlib.util.find_spec("sae_moral_inspect") is not None:
        from sae_moral_inspect.cli import parser as flames  # pyright: ignore[reportMissingImports]

        commands = next(one for one in made._actions if isinstance(one, argparse._SubParsersAction))
        commands.choices["flames"] = flames()
    return made


def _names_or_paths(what: str, names: Iterable[str], *, folders: bool = False) -> dict[str, Any]:
    """How each shell completes one of these names, or a path (as `shtab.FILE` says it of paths alone)."""
    kind = "dirs" if folders else "files"  # by which the script for bash knows that a slash may follow
    function, words = f"_sae_moral_{what}_or_{kind}", " ".join(names)
    bash = f'{function}() {{\n  compgen -W "{words}" -- "$1"\n  compgen -{"d" if folders else "f"} -- "$1"\n}}'
    files = "_files -/" if folders else "_files"
    zsh = f"{function}() {{\n  _alternative '{what}:name:({words})' '{kind}:path:{files}'\n}}"
    paths = "__fish_complete_directories" if folders else "__fish_complete_path"
    fish = f"function {function}\n  printf '%s\\n' {words}\n  {paths} (commandline -ct)\nend"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "preamble": {"bash": bash, "zsh": zsh, "fish": fish},
    }
