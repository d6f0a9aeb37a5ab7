"""The commands as a table: for each its function, and its options in the order of its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

from sae_moral.cli import commands as run
from sae_moral.cli import lists, new
from sae_moral.cli.completion import SHELLS
from sae_moral.cli.options import UNKNOWN, Parser, listed, named, one_of
from sae_moral.io import parse_json

DIAGNOSE, TRAIN, TRAINING = "diagnosis:diagnose", "sae.train:train_saes", "sae.train_config:TrainSettings"
LATENTS, OPERATE = "sae.association:LatentSettings", "surgery.operate:operate"
PUSH = "surgery.push:push"
SURGERY, STEERING = "surgery.settings:SurgerySettings", "steering.steering:Steering"
GENERATE, SWEEP = "steering.generate:generate", "studies.sweep_run:sweep"
MEASURES, BUILD = "steering.effects:MeasureSettings", "data.social_chem:build"
LOAD, MODEL = "data.sources:load_data", "capture.models:load_model"
PLAN = "planning.study:plan"
LOG = "sae.train_logging:LogSettings"
FIGURE, SAVED = "studies.result_figures:result_figure", "report.save:save_figure"
"""Where the options of commands are written down."""

Option = Callable[[Parser], object]
of, all_of, own = (partial(methodcaller, name) for name in ("of", "all_of", "add_argument"))
"""An option that is a parameter, the options of all plain parameters, an option of the command line alone."""
switch = partial(own, action="store_true")


class Command:
    """A function (its docstring is the help), its options, and the commands below it."""

    def __init__(self, run: Callable[[argparse.Namespace], int], *options: Option, **actions: Command) -> None:
        self.run, self.options, self.actions = run, options, actions


def _forms(text: str) -> list[str]:
    read = one_of("form", named("FORMS", "steering.steering"))
    return [read(one) for one in text.split(",")]


def _writes(text: str) -> list[str]:
    read = one_of("write", (*named("WRITES", "surgery.write"), *named("MODEL_WRITES", "steering.model_writes")))
    return [read(one) for one in text.split(",")]


def _json(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'{text!r}; expected a JSON object, e.g. {{"load_in_4bit": true}}')
    return found


def _named_or_json(text: str) -> str | dict[str, Any]:
    return _json(text) if text.lstrip().startswith("{") else text


def _limits(text: str) -> dict[int | str, Any]:
    return {int(device) if device.isdigit() else device: limit for device, limit in _json(text).items()}


def _layers(text: str) -> str:
    """Layers that a model could have."""
    from sae_moral.protocol import parse_layers

    try:
        parse_layers(text, 100_000)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


METRICS = "metric names (default: all; see: sae-moral metrics)"
CONTROLS = f"default (all but random-weights), all, none, or names of {', '.join(named('NAMES', 'controls.settings'))}"
GROUPS = (
    "hold together equal texts, near ones too, or a column of the table (default: equal; measuring: the protocol's)"
)
PROMPT = "chat, 'chat: Is this right? {text}' or '{text} is morally' (default: the protocol's)"
PARTS = "shares of train, validation and test scenarios"
WORDINGS = "JSON list of {name, template, pairs: [[approving, disapproving], …]}: how judgements are asked for"
NEUTRAL = "neutral texts, one a line (default: our own)"
FOLDERS = "folders of sae-moral operate"
QUANTISED = 'quantise while loading, e.g. {"quant_method": "bitsandbytes", "load_in_4bit": true}'
STRENGTHS = listed(float, "numbers with commas, e.g. 0.5,1,2")
WRITE = "what decoder rows gain; output, natural, downstream and order need the model"
SHARES = listed(float, "three numbers, e.g. 0.6,0.15,0.25", 3)


workers = of("studies.atlas_run:atlas", "workers", metavar="N")


def _out(folder: str) -> tuple[Option, ...]:
    return (
        own("--out", type=Path, metavar="DIR", help=f"folder for the results (default: {folder})"),
        switch("--overwrite", help="replace other results that are there"),
    )


def _package(kind: str) -> tuple[Option, ...]:
    name = own("name", metavar="NAME", help=f"of the {kind}: lower-case words joined by - or _")
    return name, of(f"scaffold:new_{kind}", "out", metavar="DIR"), as_json


def _file(name: str) -> tuple[Option, ...]:
    return (
        of(BUILD, "out", default=Path(name), metavar="FILE", help="file to write"),
        switch("--overwrite", help="replace that file"),
    )


as_json = switch("--json", help="as JSON")
of_tables = (
    of(LOAD, "text_column", metavar="NAME", help="column of a table with the texts (default: text)"),
    of(LOAD, "extra_columns", help="columns of a table no layout has (default: error)"),
)
model = own("model", metavar="MODEL", help="a bundled model (see: sae-moral models), a folder, or a hub name")
data = (
    model,
    of(DIAGNOSE, "data", metavar="SOURCE", help="a source (see: sae-moral data) or a table"),
    of(LOAD, "path", metavar="FILE", type=Path, help="where the file of a named SOURCE is"),
    *of_tables,
    own("--hub-split", metavar="NAME", help="SOURCE is a data set of the Hugging Face hub; this split of it"),
    of(DIAGNOSE, "limit", metavar="N"),
    of(DIAGNOSE, "groups", help=GROUPS),
)
layers = of(DIAGNOSE, "layers", type=_layers, help="all, 3, 0,5,9 or 0:30:5")
measured = (
    of(DIAGNOSE, "protocol", help="template, pooling, preprocessing and form of the metrics"),
    of(DIAGNOSE, "metrics", metavar="A,B", type=listed(str, "names"), help=METRICS),
    of(DIAGNOSE, "controls", metavar="A,B", help=CONTROLS),
    of(DIAGNOSE, "match"),
)
shares = of("data.splits:group_split", "shares", type=SHARES, metavar="A,B,C", help=PARTS)
any_model = of(SWEEP, "any_model", help="accept an SAE of a model with another name")
device = of(DIAGNOSE, "device", help="cpu, cuda, … (default: cuda when there is one)")
dtypes = ("float32", "bfloat16", "float16", "fp32", "bf16", "fp16")
machine = (
    *(of(DIAGNOSE, "dtype", choices=dtypes, help="of the model"), device),
    of(MODEL, "revision"),
    of(MODEL, "device_map", type=_named_or_json, help="auto, balanced, or JSON {module: device}: several devices"),
    of(MODEL, "max_memory", type=_limits, metavar="JSON", help='of each device, with --device-map: {"0": "20GiB"}'),
    of(MODEL, "n_devices", metavar="N"),
    of(MODEL, "quantization_config", type=_json, metavar="JSON", help=QUANTISED),
    of(MODEL, "trust_remote_code"),
)
"""How a model is loaded: the options of `load_model`. A token of the hub comes from HF_TOKEN or `hf auth login`."""
chemistry = (
    own("path", nargs="?", type=Path, metavar="PATH", help="its .zip, .tsv or built .parquet"),
    of(BUILD, "offline", action="store_true", help="never download"),
)

COMMANDS = {
    "diagnose": Command(
        run.diagnose,
        *(*data, layers, *measured),
        of(DIAGNOSE, "template", metavar="PROMPT", help=PROMPT),
        of(DIAGNOSE, "sae", help="measure an SAE's latents: a folder (of one or of several), or release/id"),
        any_model,
        of(DIAGNOSE, "store", metavar="DIR"),
        of(DIAGNOSE, "store_dtype", choices=named("STORED", "capture.store")),
        *(workers, *machine, *_out("diagnosis-MODEL-SOURCE-PROTOCOL")),
    ),
    "plan": Command(
        run.plan,
        *data,
        of(PLAN, "study", help="the command that is planned"),
        layers,
        of(DIAGNOSE, "protocol", help="template and pooling"),
        of(DIAGNOSE, "controls", metavar="A,B", help=CONTROLS),
        of(DIAGNOSE, "template", metavar="PROMPT", help=PROMPT),
        all_of(TRAINING, "protocol"),
        of(PLAN, "store", metavar="DIR", help="folder for the vectors (without: in memory)"),
        of(PLAN, "out", metavar="DIR", help="folder of the results: whose disk it is"),
        *(of(DIAGNOSE, "dtype", choices=dtypes, help="of the model"), of(PLAN, "device")),
        *(of(MODEL, "revision"), of(MODEL, "trust_remote_code")),
        of(PLAN, "memory", metavar="SIZE"),
        of(PLAN, "flops", metavar="N"),
        switch("--json", help="as JSON"),
    ),
    "atlas": Command(
        run.atlas,
        own("models", type=Path, metavar="MODELS.yaml", help="which models, measured how (see docs/atlas.md)"),
        device,
        switch("--store-delete-after", help="delete the captured vectors once they have been compared"),
        workers,
        *_out("atlas-MODELS"),
    ),
    "train-sae": Command(
        run.train_sae,
        *(*data, layers, all_of(TRAINING)),
        of(TRAIN, "splice_texts", metavar="N"),
        of(TRAIN, "store", metavar="DIR", help="folder for the vectors (default: OUT/activations)"),
        of(TRAIN, "store_dtype", choices=named("STORED", "capture.store")),
        of(
            LOG,
            "to",
            "--log",
            choices="sae.train_logging:BACKENDS",
            help="log the course of the training (default: off)",
        ),
        *(of(LOG, name, f"--log-{name}") for name in ("project", "entity", "every", "weights")),
        *(workers, of(TRAIN, "shards", metavar="N"), *machine, *_out("saes-MODEL-SOURCE")),
    ),
    "saes": Command(
        lists.saes,
        own("model", metavar="MODEL", help="any name of the model, e.g. Qwen/Qwen3-8B"),
        switch("--ids", help="list every SAE of every release"),
        as_json,
    ),
    "latents": Command(
        run.latents,
        *data,
        own("--sae", required=True, metavar="SAE", help="a folder (of one or of several), or release/id"),
        *(any_model, all_of(LATENTS), workers, *machine, *_out("latents-MODEL-SOURCE")),
    ),
    "compare-saes": Command(
        run.compare_saes,
        *data,
        own("--saes", required=True, nargs="+", metavar="SAE", help="folders, or release/id"),
        own("--reseed", default=(), nargs="+", metavar="SAE", help="other seeds of some of these: the noise of a seed"),
        *(any_model, *measured, workers, *machine, *_out("saes-MODEL-SOURCE-compared")),
    ),
    "operate": Command(
        run.operate,
        *data,
        own("sae", metavar="SAE", help="a folder, or release/id"),
        own("--latents", type=Path, metavar="DIR", help="moral latents found before (default: find them)"),
        switch("--by-attribution", help="take the latents that carry the margin of the model's answer"),
        of(OPERATE, "write", type=_writes, metavar="A,B", help=WRITE),
        of(OPERATE, "control", help="a control in place of the surgery"),
        of(OPERATE, "settings", help="values of all that follows, where it is not given"),
        all_of(SURGERY, "name", "form", default=UNKNOWN),
        of(SURGERY, "form", choices="surgery.settings:FORMS", default=UNKNOWN),
        of(OPERATE, "granularity", help="default: what the SAE was trained on"),
        shares,
        of(OPERATE, "seed"),
        of(OPERATE, "store", metavar="DIR", help="keep captured vectors here: later runs reuse them"),
        *(any_model, *machine, *_out("operation-MODEL-SOURCE[-CONTROL]")),
    ),
    "push": Command(
        run.push,
        own("folder", type=Path, metavar="FOLDER", help="of train-sae (of one SAE or of all) or of operate"),
        own("repo_id", metavar="REPO", help="owner/name on the Hugging Face hub"),
        all_of(PUSH, "what", "repo_id"),
    ),
    "steer": Command(
        run.steer,
        model,
        own("operation", metavar="OPERATION", type=Path, nargs="+", help=FOLDERS),
        own("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times"),
        of(STEERING, "alpha", type=STRENGTHS, default=[1], metavar="A,B", help="strengths, one after the other"),
        own("--kl", type=float, metavar="NATS", help="strength by damage: KL per token on neutral text"),
        of(STEERING, "form", choices="steering.steering:FORMS"),
        *(of(STEERING, "units"), of(STEERING, "positions")),
        of(GENERATE, "max_new_tokens", "--tokens", metavar="N", help="new tokens at most"),
        *(of(GENERATE, "temperature"), of(GENERATE, "top_p")),
        of(GENERATE, "seed", help="of the samples"),
        of(GENERATE, "chat", choices=tuple(run.CHAT), default="auto", help="use the chat template"),
        *(any_model, *machine),
    ),
    "sweep": Command(
        run.sweep,
        *data,
        own("operations", metavar="OPERATION", type=Path, nargs="+", help=FOLDERS),
        own("--shuffled", type=Path, nargs="*", default=[], metavar="OPERATION", help=f"{FOLDERS} --control shuffled"),
        own("--random-latents", type=Path, nargs="*", default=[], metavar="OPERATION", help="… --control random"),
        of(SWEEP, "kls", type=STRENGTHS, metavar="A,B", help="strengths: KL on neutral text, nats per token"),
        of(
            SWEEP,
            "alphas",
            type=STRENGTHS,
            metavar="A,B",
            default=UNKNOWN,
            help="of the operations alone, e.g. 0.5,1,2",
        ),
        of(SWEEP, "forms", "--form", metavar="A,B", type=_forms),
        of(SWEEP, "positions", choices="steering.steering:WITHOUT_MASK"),
        own("--rotations", type=int, default=19, metavar="N", help="rotated writes per strength (default: 19)"),
        own("--permutations", type=int, default=3, metavar="N", help="permuted writes per strength (default: 3)"),
        *(shares, of(SWEEP, "downstream", metavar="LAYER")),
        of(MEASURES, "neutral", type=Path, metavar="FILE", default=UNKNOWN, help=NEUTRAL),
        of(MEASURES, "wordings", type=Path, metavar="FILE", default=UNKNOWN, help=WORDINGS),
        *(all_of(MEASURES), of(SWEEP, "draws", metavar="N")),
        *(any_model, workers, *machine, *_out("sweep-MODEL-SOURCE")),
    ),
    "figure": Command(
        run.figure,
        own("path", metavar="RESULT", type=Path, help="a folder or JSON file of diagnose, atlas, sweep or latents"),
        of(FIGURE, "metric", metavar="NAME"),
        of(FIGURE, "protocol", choices=None, metavar="NAME"),
        of(FIGURE, "width", metavar="INCHES"),
        of(SAVED, "format", choices="report.save:FORMATS", help="default: what --out ends with, else png"),
        of(SAVED, "resolution", metavar="DPI"),
        own("--out", type=Path, metavar="FILE", help="file to write (default: RESULT[-METRIC].FORMAT)"),
        switch("--overwrite", help="replace that file"),
    ),
    "data": Command(
        lists.data,
        as_json,
        info=Command(
            lists.info,
            own("source", metavar="SOURCE", help="a source name or a file"),
            *of_tables,
            own("--figure", type=Path, metavar="FILE", help="also draw it (.svg, .png or .pdf)"),
        ),
        build=Command(run.build, *chemistry, *_file("social-chem-101.parquet")),
        verify=Command(run.verify, *chemistry),
        sample=Command(
            run.sample,
            *chemistry,
            of("data.social_chem:diagnosis_sample", "seed", help="of the draws"),
            *_file("social-chem-101-sample.parquet"),
        ),
    ),
    "models": Command(lists.models, as_json),
    "metrics": Command(lists.metrics, of(DIAGNOSE, "protocol"), as_json),
    "new-metric": Command(new.new_metric, *_package("metric")),
    "new-source": Command(new.new_source, *_package("source")),
    "doctor": Command(lists.doctor, as_json),
    "completion": Command(lists.completion, own("shell", choices=SHELLS, help="which shell")),
}
