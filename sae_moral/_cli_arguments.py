"""Arguments that several commands have in common, each said once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_scenarios(parser: argparse.ArgumentParser) -> None:
    """MODEL, and which scenarios it reads."""
    parser.add_argument(
        "model", metavar="MODEL", help="a bundled model (see: sae-moral models), a folder, or a hub name"
    )
    parser.add_argument(
        "--data",
        default="moralstrength",
        metavar="SOURCE",
        help="a source (see: sae-moral data) or a table (default: %(default)s)",
    )
    parser.add_argument("--path", type=Path, metavar="FILE", help="where the file of a named SOURCE is")
    parser.add_argument("--limit", type=int, metavar="N", help="use at most N scenarios")


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Which layers."""
    parser.add_argument("--layers", default="all", help="all (default), 3, 0,5,9 or 0:30:5")


def add_controls(parser: argparse.ArgumentParser) -> None:
    """Which protocol, metrics and controls."""
    parser.add_argument("--protocol", default="audited", help="audited (default) or paper")
    parser.add_argument("--metrics", metavar="A,B", help="metric names (default: all; see: sae-moral metrics)")
    parser.add_argument(
        "--controls",
        default="default",
        metavar="A,B",
        help="default (all but random-weights), all, none, or names of interval, null, nuisance, words, selectivity, "
        "random-weights",
    )


def add_running(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Where it runs, and where results go; `out`: the default, in words."""
    parser.add_argument("--dtype", default="float32", help="of the model: float32 (default), bfloat16 or float16")
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda when there is one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the results (default: {out})")


def scenarios(arguments: argparse.Namespace) -> Any:
    """The `MoralData` that was asked for; `--limit` is left to the caller, who knows how to draw."""
    from sae_moral import load_data

    return load_data(arguments.data, path=arguments.path)


def names(text: str | None) -> list[str] | None:
    """`a,b` → [a, b]."""
    return text.split(",") if text else None


def folder(arguments: argparse.Namespace, first: str, *more: str) -> Path:
    """`--out`, or a name made of the command, model and data."""
    parts = (arguments.model, arguments.data, *more)
    return arguments.out or Path("-".join([first, *(Path(part).stem for part in parts)]))


def quiet_loading() -> None:
    """Keep transformers' own progress bars and advice out of a command's output; errors stay."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
