"""One function per command: it calls one public function and prints what came out. Its docstring is its help."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral import __version__, io
from sae_moral.cli.diff import coloured, flat, marked
from sae_moral.cli.folders import check_file, check_folder, claimed, name_of, out_folder
from sae_moral.cli.lists import print_table
from sae_moral.errors import DataError, FolderError

if TYPE_CHECKING:
    from sae_moral.data import MoralData
    from sae_moral.diagnosis import Diagnosis
    from sae_moral.provenance import HookedModel
    from sae_moral.sae import LoadedSae
    from sae_moral.surgery import Operation

CHAT = {"auto": "auto", "yes": True, "no": False}


def diagnose(a: argparse.Namespace) -> int:
    """Measure the types of moral indifference of a model.

    Layer by layer; writes diagnosis.json and report.html.

    Example: sae-moral diagnose gemma-3-270m --data my_scenarios.csv --layers 0:18:3 --out out
    """
    from sae_moral.controls import get_controls
    from sae_moral.protocol import get_protocol, parse_layers
    from sae_moral.provenance import describe_model
    from sae_moral.sae import load_saes
    from sae_moral.workers import workers

    if a.workers > 1 and a.store is None:
        raise ValueError(f"--workers {a.workers} without --store; expected --store DIR, through which they share")
    files, out = ("diagnosis.json", "report.html"), out_folder(a, "diagnosis", a.protocol)
    metrics, data = _metric_names(a), _scenarios(a, limit=False, kinds=False)
    asked = {"data": data.sha256, "protocol": get_protocol(a.protocol), "metrics": metrics, "limit": a.limit}
    asked |= {
        "template": a.template,
        "match": a.match,
        "groups": a.groups,
        "controls": get_controls(a.controls),
        "version": __version__,
    }
    asked |= {} if a.store_dtype == "float32" else {"store_dtype": a.store_dtype}
    check_folder(a, out, "diagnosis", files, asked)
    model = _model(a)
    saes = None if a.sae is None else load_saes(a.sae, model=model, any_model=a.any_model)
    layers = list(saes) if saes and a.layers == "all" else parse_layers(a.layers, model.cfg.n_layers)
    of_saes = None if saes is None else {str(layer): one.sha256 for layer, one in saes.items()}
    facts = describe_model(model)
    asked |= {"model": facts["identity"], "dtype": facts["dtype"], "layers": layers, "saes": of_saes}
    sent = argparse.Namespace(**{name: value for name, value in vars(a).items() if name != "parser"})
    with claimed(a, out, "diagnosis", files, asked):
        with workers(a.workers, partial(_diagnosis, sent), logs=out / "workers", device=a.device):
            diagnosis = _diagnosis(a, model, data, saes)
        with io.staged_files(out, first=files[0]) as new:
            diagnosis.save(new)
            diagnosis.report(new / files[1])
    print(f"{diagnosis.summary()}\n\n{out / files[0]}\n{out / files[1]}")
    return 0


def _diagnosis(
    a: argparse.Namespace,
    model: HookedModel | None = None,
    data: MoralData | None = None,
    saes: Mapping[int, LoadedSae] | None = None,
) -> Diagnosis:
    """What was asked for; a worker loads all that it needs itself."""
    from sae_moral.data.groups import is_kind
    from sae_moral.diagnosis import diagnose

    given = _given(a, diagnose, "model", "data", "sae", "metrics", "groups", "dtype", "device")
    groups = a.groups if is_kind(a.groups) else None
    return diagnose(
        model or _model(a),
        data or _scenarios(a, limit=False, kinds=False),
        sae=saes or a.sae,
        metrics=_metric_names(a),
        groups=groups,
        shards=a.workers,
        **given,
    )


def plan(a: argparse.Namespace) -> int:
    """Say what a study needs, before anything is loaded.

    Bytes, forward passes, files and hours of each step of diagnose or train-sae, and which of them does not fit on this
    machine, or on a device with --memory. Exit status 1 when one does not.

    Example: sae-moral plan gemma-3-270m --study train-sae --data social-chem-101 --layers 9,12 --memory 16GiB
    """
    from sae_moral.planning import plan

    settings = None
    if a.study == "train-sae":
        from sae_moral.sae.train_config import TrainSettings

        settings = TrainSettings(**_given(a, TrainSettings))
    data = _scenarios(a, limit=False)
    _quiet_loading()
    found = plan(a.model, data, settings=settings, **_given(a, plan, "model", "data", "settings"))
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if a.json else found.summary())
    return int(not found.fits)


def atlas(a: argparse.Namespace) -> int:
    """Measure many models and compare the variants of each.

    Measures the models of a YAML file one after another and compares the variants of each family; writes atlas.json,
    atlas.html and a diagnosis per model and protocol. Run again, it goes on where it ended. Exit status 1 when a model
    could not be loaded or measured.

    Example: sae-moral atlas models.yaml --out atlas
    """
    from sae_moral.studies import atlas

    out = a.out or Path(f"atlas-{a.models.stem}")
    check_folder(a, out, "atlas", ("atlas.json", "atlas.html"))
    _quiet_loading()
    given = _given(a, atlas, "out")
    found = atlas(a.models, out, delete_stores=a.store_delete_after, **given)
    print(found.summary())
    for name, error in found.failures.items():
        print(f"sae-moral: {name} {error}", file=sys.stderr)
    print(f"\n{out / 'atlas.json'}\n{out / 'atlas.html'}")
    return 1 if found.failures else 0


def train_sae(a: argparse.Namespace) -> int:
    """Train sparse autoencoders of a model on moral scenarios.

    Trains one SAE per layer with SAELens' own trainer, from one pass of the model; writes a SAELens folder per layer
    and training.json. Run again after a crash, it goes on where it was.

    Example: sae-moral train-sae gemma-3-270m --data social-chem-101 --layers 9,12 --architecture batchtopk --out saes
    """
    from sae_moral.sae.train import FILE, KIND, PAGE, train_saes
    from sae_moral.sae.train_config import TrainSettings
    from sae_moral.sae.train_logging import LogSettings

    out, settings = out_folder(a, "saes"), TrainSettings(**_given(a, TrainSettings))
    asked = _given(a, LogSettings)
    if "to" not in asked and asked != LogSettings.defaults():
        raise ValueError("--log-… given without --log; expected --log wandb or --log trackio")
    log = LogSettings(**asked) if "to" in asked else None
    data = _scenarios(a, limit=False)
    check_folder(a, out, KIND, (FILE, PAGE))
    given = _given(a, train_saes, "model", "data", "layers", "out", "settings", "dtype", "device", "workers")
    model, given["shards"] = _model(a), a.shards or a.workers
    with _beside(a, out, "--shards", str(given["shards"])):
        trained = train_saes(model, data, a.layers, settings, out=out, log=log, **given)
    print(f"{trained.summary()}\n\n{out / FILE}\n{out / PAGE}")
    return 0


def latents(a: argparse.Namespace) -> int:
    """Find the moral latents of SAEs.

    Finds the latents that carry a moral dimension, on one part of the texts, and measures them on another; writes
    moral_latents.json and .safetensors per layer, and latents.html.

    Example: sae-moral latents gemma-3-270m --data social-chem-101 --sae saes --out latents
    """
    from sae_moral.sae import LatentSettings
    from sae_moral.studies import latents_with_page

    out, settings, data = out_folder(a, "latents"), LatentSettings(**_given(a, LatentSettings)), _scenarios(a)
    check_folder(a, out, "latents", ("latents.html", "moral_latents.json"))
    model, how = _model(a), {"settings": settings, "any_model": a.any_model, "overwrite": a.overwrite}
    with _beside(a, out):
        found, page = latents_with_page(model, a.sae, data, out, **how)
    rows = [["layer", "moral latents", "of", "share"]]
    for layer, one in found.items():
        moral = len(one.latents())
        rows.append([str(layer), str(moral), str(len(one)), f"{moral / len(one):.2%}"])
    print_table(rows)
    print(f"\n{page}")
    return 0


def compare_saes(a: argparse.Namespace) -> int:
    """Measure SAEs of one model beside the stream they encode.

    Diagnoses the latents of each SAE and the residual stream it encodes on the same scenarios; writes saes.json,
    saes.html and a diagnosis per SAE. Run again, it goes on where it ended.

    Example: sae-moral compare-saes gemma-3-270m --saes saes gemma-scope-2-270m-pt-res/layer_12_width_16k_l0_small
    """
    from sae_moral.controls import get_controls
    from sae_moral.studies import compare_saes

    get_controls(a.controls)
    out, metrics, data = out_folder(a, "saes", "compared"), _metric_names(a), _scenarios(a)
    check_folder(a, out, "compared_saes", ("saes.json", "saes.html"))
    options = {"protocol": a.protocol, "metrics": metrics, "controls": a.controls, "match": a.match, "reseed": a.reseed}
    options |= {"any_model": a.any_model}
    model = _model(a)
    with _beside(a, out):
        compared = compare_saes(model, a.saes, data, out, overwrite=a.overwrite, **options)
    print(f"{compared.summary()}\n\n{out / 'saes.json'}\n{out / 'saes.html'}")
    return 0


def operate(a: argparse.Namespace) -> int:
    """Train the moral latents of an SAE to read human judgements, and to write what the model acts on.

    Everything else is frozen; writes an ordinary SAELens folder with surgery.json, before.safetensors and the page
    operation.html, and prints what changed on scenarios that took no part.

    Example: sae-moral operate gemma-3-270m saes/blocks.9.hook_resid_post --data social-chem-101 --write shared
    """
    from sae_moral.data import group_split
    from sae_moral.sae import MoralLatents, load_sae
    from sae_moral.steering import attribution
    from sae_moral.steering.model_writes import MODEL_WRITES, model_write
    from sae_moral.surgery import Operation, operate, summary
    from sae_moral.surgery.settings import SurgerySettings, get_settings
    from sae_moral.surgery.write import SHARED

    if a.by_attribution and a.latents:
        raise ValueError("--by-attribution and --latents: both choose the latents; expected one of them")
    out = out_folder(a, "operation", *(() if a.control == "none" else (a.control,)))
    settings, data = get_settings(a.settings, **_given(a, SurgerySettings, "name")), _scenarios(a)
    split, latents = group_split(data, shares=tuple(a.shares)), MoralLatents.load(a.latents) if a.latents else None
    check_folder(a, out, "operation", ())
    if (out / "surgery.json").exists() and not a.overwrite:
        about = Operation.load(out).record
        there = {"control": about.control, "seed": about.seed, "settings": about.settings, "data": about.data["sha256"]}
        there["write"] = list(about.written["writes"]) if about.written else []
        asked = {"control": a.control, "seed": a.seed, "settings": settings.to_dict(), "data": data.sha256}
        asked["write"] = a.write or []
        if told := io.differences(there, asked):
            raise FolderError(f"{out} holds another operation: {told}; choose another folder, or give --overwrite")
    model = _model(a)
    sae = load_sae(a.sae, model=model, any_model=a.any_model)
    given = _given(a, operate, "sae", "latents", "data", "settings", "write")
    train = data.subset(split["train"])
    if a.by_attribution:
        latents = attribution(model, sae, train, any_model=a.any_model).by_dimension(
            settings.per_dimension or sae.d_sae
        )
    made = partial(operate, sae, latents, model, data, settings=settings, split=split, **given)
    how = {"readers": partial(made, write=SHARED), "any_model": a.any_model}
    write = [model_write(one, model, sae.layer, train, **how) if one in MODEL_WRITES else one for one in a.write or ()]
    operation = made(write=write)
    folder = operation.save(out, overwrite=a.overwrite)
    print(f"{summary(operation)}\n\n{folder}\n{folder / 'operation.html'}")
    return 0


def push(a: argparse.Namespace) -> int:
    """Upload trained or operated SAEs to the Hugging Face hub.

    Uploads SAELens' files, our records and a model card, in one commit; what was trained on, how good it is, licences
    and how to load it stand on the card.

    Example: sae-moral push operation me/operated-saes --private --licence mit --dry-run
    """
    from sae_moral.surgery import push

    pushed = push(a.folder, **_given(a, push, "what"))
    print(f"{pushed.card}\n{pushed.summary()}" if a.dry_run else pushed.summary())
    return 0


def steer(a: argparse.Namespace) -> int:
    """Show what a model says as it is, and steered by an operation.

    Generates twice from every prompt, with the same seed and decoding; words that differ are marked.

    Example: sae-moral steer gemma-3-270m operation --prompt "Lying to a friend is" --alpha 1,4
    """
    from sae_moral.steering import Steering, at_kl, generate

    model = _model(a)
    operations = _operations(a.operation, model)
    options = {**_given(a, generate, "model"), "chat": CHAT[a.chat]}
    how = _given(a, Steering, "alpha")
    if a.kl is not None and len(operations) > 1:
        raise ValueError(f"--kl with {len(operations)} operations; expected one, whose strength it says")
    if a.kl is not None:
        a.alpha = [at_kl(model, Steering(operations[0], 1.0, **how), a.kl, any_model=a.any_model).alpha]
    chosen = {alpha: [Steering(one, alpha, **how) for one in operations] for alpha in a.alpha}
    plain = generate(model, a.prompt, **options)
    steered = {alpha: generate(model, a.prompt, steerings=given, **options) for alpha, given in chosen.items()}
    colour = coloured()
    for i, prompt in enumerate(a.prompt):
        print(f"\n{prompt}\n  unsteered  {flat(plain[i].text)}")
        for alpha, found in steered.items():
            print(f"  α = {alpha:<6g} {marked(plain[i].text, found[i].text, colour=colour)}")
    return 0


def sweep(a: argparse.Namespace) -> int:
    """What operations do to a model, beside their twins at the same damage.

    Measures operations, operations on shuffled labels or random latents, rotated and permuted writes, gates of the
    stream, valence and difference in means at equal KL on neutral text; writes sweep.html and sweep.json. Run again
    after a crash, it goes on where it was.

    Example: sae-moral sweep gemma-3-270m operation --shuffled control --data social-chem-101 --kls 0.005,0.02
    """
    from sae_moral.data import group_split
    from sae_moral.steering import MeasureSettings, Wording
    from sae_moral.studies import Sweep, sweep
    from sae_moral.studies.study import Assembly

    out, given = out_folder(a, "sweep"), _given(a, MeasureSettings)
    if "neutral" in given:
        given["neutral"] = tuple(line for line in io.read_text(a.neutral).splitlines() if line.strip())
    if "wordings" in given:
        found = io.read_json(a.wordings)
        if not isinstance(found, list):
            raise DataError(f"a {type(found).__name__}; expected a JSON list of wordings", file=a.wordings)
        rows = enumerate(found, start=1)
        given["wordings"] = tuple(io.typed(one, Wording, file=a.wordings, row=row) for row, one in rows)
    data = _scenarios(a, limit=False)
    options = _given(a, sweep, "model", "operations", "data", "out", "shuffled", "random_latents")
    options |= {"rotations": range(a.rotations), "permutations": range(a.permutations)}
    options |= {"settings": MeasureSettings(**given), "split": group_split(data, shares=tuple(a.shares))}
    check_folder(a, out, "sweep", Sweep.FILES)
    model = _model(a)
    operations, shuffled, random = (_operations(a, model) for a in (a.operations, a.shuffled, a.random_latents))
    assembly = Assembly(out)
    with _beside(a, out):
        found = sweep(model, operations, data, out=out, shuffled=shuffled, random_latents=random, **options)
        assembly.make([found.provenance, found.rows], lambda: found.save(out))
    print(f"{found.summary()}\n\n{out / 'sweep.html'}")
    return 0


def figure(a: argparse.Namespace) -> int:
    """Draw a result for a paper: PNG, SVG or PDF.

    Draws what the pages show, with intervals, nulls and baselines: a metric of a diagnosis or an atlas (all of them
    without --metric), effect and damage of a sweep, or moral latents. Text stays text, and the same result gives the
    same bytes.

    Example: sae-moral figure out --metric gradient --width 3.3 --format pdf
    """
    from sae_moral.report.save import format_of, save_figure
    from sae_moral.studies import result_figure

    if a.out is None:
        named = "-".join([name_of(str(a.path)), *([] if a.metric is None else [name_of(a.metric)])])
        a.out = Path(f"{named}.{a.format or 'png'}")
    given = {"format": format_of(a.out, a.format), "resolution": a.resolution}
    check_file(a)
    print(save_figure(result_figure(a.path, **_given(a, result_figure, "path")), a.out, **given))
    return 0


def build(a: argparse.Namespace) -> int:
    """Social-Chemistry-101 at full scale: filter, expand, write parquet."""
    from sae_moral.data import build

    check_file(a)
    print(build(a.path, a.out, offline=a.offline))
    return 0


def verify(a: argparse.Namespace) -> int:
    """Compare every count of Social-Chemistry-101 with the published ones; exit status 1 when one differs."""
    from sae_moral.data import load_social_chem, verification_table, verify

    counts = verify(load_social_chem(a.path, offline=a.offline))
    print(verification_table(counts))
    return 0 if all(count.ok for count in counts) else 1


def sample(a: argparse.Namespace) -> int:
    """The stratified diagnosis sample of Social-Chemistry-101."""
    from sae_moral.data import write_parquet
    from sae_moral.data.social_chem import diagnosis_sample

    check_file(a)
    sample = diagnosis_sample(a.path, seed=a.seed, offline=a.offline)
    print(f"{write_parquet(sample, a.out)}: {len(sample)} scenarios")
    return 0


# What commands have in common


def _beside(a: argparse.Namespace, out: Path, *options: str) -> AbstractContextManager[None]:
    """The other workers, while the block does the same: they run this very line, where the last of an option counts."""
    from sae_moral.workers import workers

    again = partial(a.main, [*a.line, "--workers", "1", *options])
    return workers(a.workers, again, logs=out / "workers", device=a.device)


def _given(arguments: argparse.Namespace, of: Callable[..., object], *skip: str) -> dict[str, Any]:
    """The options that are parameters of a function or settings."""
    given = vars(arguments)
    return {name: given[name] for name in inspect.signature(of).parameters if name in given and name not in skip}


def _scenarios(arguments: argparse.Namespace, *, limit: bool = True, kinds: bool = True) -> MoralData:
    """The scenarios that were asked for, with their groups; without `limit`, all of them, for functions that draw
    themselves; without `kinds`, grouped by a column at most, for those that group what they drew."""
    from sae_moral.data import load_data
    from sae_moral.data.groups import is_kind

    kind = is_kind(arguments.groups)
    table = {name: getattr(arguments, name) for name in ("path", "text_column", "extra_columns")}
    data = load_data(arguments.data, **table, split=arguments.hub_split, groups=None if kind else arguments.groups)
    data = data.sample(arguments.limit) if limit and arguments.limit is not None else data
    return data.regrouped(arguments.groups) if kind and kinds else data


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
    return load_model(arguments.model, **_given(arguments, load_model))


def _quiet_loading() -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _operations(paths: Sequence[Path], model: HookedModel) -> list[Operation]:
    from sae_moral.surgery import Operation

    return [Operation.load(path, device=model.cfg.device) for path in paths]
