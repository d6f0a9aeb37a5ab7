"""A hook of mkdocs: reference pages made of what the package says of itself, the notebooks as files of Jupyter, and a
check that the site's own search finds every command, metric, source and bundled model."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from sae_moral.capture.bundled import BUNDLED
from sae_moral.cli import parser
from sae_moral.data import list_sources
from sae_moral.metrics import resolve_metrics
from sae_moral.metrics.base import Metric, declared
from sae_moral.protocol import PROTOCOLS, get_protocol

WIDTH = "100"
"""Of help, in characters."""


def on_files(files: Files, config: Any) -> Files:
    """The pages of the reference and the notebooks to download, beside what is written by hand."""
    for name, text in (("commands", commands()), ("metrics", metrics()), ("sources", sources())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for path in sorted((Path(config.docs_dir) / "notebooks").glob("*.py")):
        notebook = jupytext.writes(jupytext.read(path), fmt="ipynb")
        files.append(File.generated(config, f"notebooks/{path.stem}.ipynb", content=notebook))
    changes = Path(config.docs_dir).parent / "CHANGELOG.md"
    files.append(File.generated(config, "changelog.md", content=changes.read_text(encoding="utf8")))
    return files


def on_post_build(config: Any) -> None:
    """Look every name up in the index of the search.

    Raises:
        PluginError: names that it does not hold.
    """
    index = json.loads((Path(config.site_dir) / "search" / "search_index.json").read_text(encoding="utf8"))
    text = "\n".join(f"{one['title']} {one['text']}" for one in index["docs"])
    wanted = [name for name, _ in _commands()] + [metric.name for _, metric in _metrics()]
    wanted += [*(one.name for one in list_sources()), *BUNDLED]
    if lacking := [name for name in wanted if name not in text]:
        raise PluginError(f"the site's search does not find {', '.join(lacking)}; expected every name on some page")


def commands() -> str:
    """The help of every command."""
    parts = [
        "# Every command",
        "What `--help` says; what commands have in common is on [the page](../command-line.md).",
    ]
    for name, help in _commands():
        parts += [f"## {name}", f"```text\n{help.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def metrics() -> str:
    """Every metric under every protocol: what its statistics are, what it means, what it does not prove."""
    parts = ["# Metrics", "As `sae-moral metrics` lists them; [protocols](../protocols.md) says how they are computed."]
    for protocol, metric in _metrics():
        rows = [
            f"| `{spec.name}`{' (headline)' if spec.name == metric.headline else ''} | {spec.direction or '–'} | "
            f"{'–' if spec.chance is None else f'{spec.chance:g}'} | {spec.null or 'none'} | {spec.interval} |"
            for spec in declared(metric).values()
        ]
        table = [
            "| statistic | less indifferent | chance | labels permuted | interval |",
            "|---|---|---|---|---|",
            *rows,
        ]
        about = [metric.means, f"**Does not prove:** {metric.does_not_prove}", "\n".join(table)]
        parts += [f"## {metric.name}, protocol {protocol}", *about]
    return "\n\n".join(parts) + "\n"


def sources() -> str:
    """Every source: what it holds, its licence, how to get it."""
    parts = ["# Sources", "As `sae-moral data` lists them; [sources](../sources.md) says what is made of them."]
    for one in list_sources():
        facts = [("licence", one.licence), ("cite", one.citation), ("to have it", one.obtain)]
        parts += [f"## {one.name}", one.what, "\n".join(f"- {what}: {said}" for what, said in facts if said)]
    return "\n\n".join(parts) + "\n"


def _commands() -> Iterator[tuple[str, str]]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        yield from _below(parser())
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def _below(made: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                if one.prog != "sae-moral flames":  # whose options are the plugin's
                    yield one.prog, one.format_help()
                    yield from _below(one)


def _metrics() -> Iterator[tuple[str, Metric]]:
    """Every metric of every protocol, with the protocol's name."""
    for name in reversed(PROTOCOLS):
        yield from ((name, metric) for metric in resolve_metrics(None, get_protocol(name)))
