"""`train_saes`: SAEs of a model's residual stream on moral scenarios, all layers in one go, with SAELens' own trainer.

The model runs once for all layers (`activations`); then one SAE after another is trained from disk, so that memory
holds one. What comes out are ordinary SAELens folders, which `SAE.load_from_disk` reads.

Deviations from arXiv 2603.15615: SAELens' Adam has no weight decay, its L1 term weighs each latent by the norm of its
decoder row instead of fixing that norm, distinct prompts count once, and outliers are left out.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sae_moral.data.moral_data import MoralData
from sae_moral.data.sources import load_data
from sae_moral.data.splits import group_split
from sae_moral.io import (
    Lease,
    check_claim,
    check_files,
    claim,
    jsonable,
    key,
    locked,
    publish,
    read_typed,
    record,
    shared,
    write_together,
)
from sae_moral.log import timed
from sae_moral.provenance import HookedModel, describe_model, versions
from sae_moral.report.words import MISSING
from sae_moral.sae.activations import Activations, capture_activations
from sae_moral.sae.evaluate import LossRecovered, loss_recovered
from sae_moral.sae.saelens import need_saelens
from sae_moral.sae.train_config import SAELensConfig, TrainSettings, configure
from sae_moral.sae.train_layer import RECORD, LayerTraining, TrainedSae, read_trained, train_layer
from sae_moral.sae.train_logging import LogSettings, keep_weights, log_settings, logged_run, with_logger
from sae_moral.shown import shown
from sae_moral.tables import Table, text_table
from sae_moral.workers import workers as beside

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
KIND, SCHEMA_VERSION = "sae_training", 2
FILE, PAGE = "training.json", "training.html"
SPLICED_TEXTS = 64
COLUMNS = ("layer", "train_ev", "held_out_ev", "per_dimension", "l0", "dead", "loss_recovered", "seconds")


@shown(tables=lambda trained: [trained.cells()])
@dataclass(frozen=True)
class TrainedSaes:
    """What a training left in a folder.

    Attributes:
        folder: one SAELens folder per layer in it, named by its hook.
        results: per layer the content of its `sae_moral.json`.
    """

    folder: Path
    results: dict[int, TrainedSae]

    @classmethod
    def read(cls, folder: str | Path) -> TrainedSaes:
        """What a training left in the folder, every file checked.

        Raises:
            FileNotFoundError: no training in the folder.
            DataError: a damaged file, or one of another kind; names it.
        """
        folder = Path(folder)
        read_typed(folder / FILE, _Listing, KIND, SCHEMA_VERSION, checked_from=2, migrate=_migrated)
        found = [read_trained(path.parent) for path in folder.glob(f"*/{RECORD}")]
        return cls(folder, {one["layer"]: one for one in sorted(found, key=lambda one: one["layer"])})

    def path(self, layer: int) -> Path:
        """The SAELens folder of a layer."""
        return self.folder / self.results[layer]["hook_name"]

    def load(self, layer: int, *, device: str = "cpu") -> Any:
        """The layer's SAE, as SAELens reads it.

        Raises:
            DataError: a damaged file.
        """
        need_saelens()
        from sae_lens import SAE

        check_files(self.path(layer), self.results[layer].get("files", {}))
        return SAE.load_from_disk(self.path(layer), device=device)

    def table(self) -> pd.DataFrame:
        """One row per layer; explained variances, L0 and dead latents as in `evaluate`, held-out but for `train_ev`."""
        import pandas as pd

        return pd.DataFrame([_row(result) for result in self.results.values()], columns=list(COLUMNS))

    def summary(self) -> str:
        """The table as text."""
        made = self.cells()
        return text_table([made.header, *made.rows])

    def cells(self) -> Table:
        """The table as words."""
        rows = [_row(result) for result in self.results.values()]
        return Table(list(COLUMNS), [[_cell(value) for value in row.values()] for row in rows])

    def page(self) -> str:
        """All of it as one HTML page, which lies beside the SAEs as `training.html`."""
        from sae_moral.sae.train_page import training_page

        return training_page(self.results, self.cells())

    def _save(self, shaped_by: Mapping[str, Any]) -> None:
        listing = {"shaped_by": dict(shaped_by), "results": [_row(one) for one in self.results.values()]}
        write_together(self.folder, {FILE: record(KIND, SCHEMA_VERSION, listing), PAGE: self.page()})


def train_saes(
    model: HookedModel | nn.Module | str | Path,
    data: MoralData | str | Path,
    layers: str | int | Sequence[int] = "all",
    settings: TrainSettings | None = None,
    *,
    out: str | Path,
    store: str | Path | None = None,
    store_dtype: str = "float32",
    limit: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    splice_texts: int = SPLICED_TEXTS,
    log: LogSettings | str | None = None,
    workers: int = 1,
    shards: int | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> TrainedSaes:
    """Train one SAE per layer; run again after a crash, it goes on where it was and ends with the same weights. Several
    processes that are asked for the same share the layers, and the shards of the capture.

    Args:
        model: as for `capture`, or a name for `load_model`.
        data: scenarios, or what `load_data` takes.
        layers: `all`, 3, `0,5,9`, `0:30:5`, or numbers.
        settings: see `TrainSettings`.
        out: folder for the results: per layer `out/HOOK` (SAELens' files and `sae_moral.json`), `out/training.json` and
            its page, `out/training.html`.
        store: folder for the vectors; `out/activations` by default. May be deleted afterwards.
        store_dtype: of the vectors there, as for `capture`: `bfloat16` takes half the space.
        limit: use at most so many scenarios.
        dtype: of a model given by name; the SAEs are float32.
        device: of a model given by name; the SAEs are on the model's device.
        splice_texts: held-out scenarios for `loss_recovered`; 0 skips it.
        log: `wandb`, `trackio` or `LogSettings`: log the course of the training there.
        workers: of a model given by name: processes on this machine that share the layers.
        shards: of the capture, for processes that share it; as many as workers by default.
        overwrite: take over a folder that holds another training.
        progress: progress bars; by default only on a terminal.

    Raises:
        ValueError: an unknown name or option.
        FolderError: a folder that holds other results; says in what they differ.
        DataError: scenarios that cannot be read or used; a damaged file of an earlier run.
        RuntimeError: a hook that did not fire exactly once, values that are not finite.

    Warns:
        SaeMoralWarning: an SAE that reconstructs its training vectors much better than held-out ones.
    """
    from sae_moral.capture.models import hooked_model, load_model
    from sae_moral.protocol import parse_layers

    settings, log, out = settings or TrainSettings(), log_settings(log), Path(out)
    scenarios = load_data(data)
    scenarios = scenarios if limit is None else scenarios.sample(limit)
    given = model
    if isinstance(model, str | Path):
        model = load_model(model, dtype=dtype, device=device)
    elif workers > 1:
        raise ValueError(f"{workers} workers and a model that is loaded; expected its name: each worker loads its own")
    else:
        model = hooked_model(model)
    chosen = parse_layers(layers, model.cfg.n_layers)
    held = group_split(scenarios, seed=settings.split_seed)["validation"]
    text = list(dict.fromkeys(scenarios.text[i] for i in held))[:splice_texts]
    splice = partial(_splice, model, text, settings) if text else None
    shaped_by = _shaped_by(settings, describe_model(model), scenarios.sha256, len(text))
    shaped_by |= {} if store_dtype == "float32" else {"store_dtype": store_dtype}
    _claim(out, shaped_by, overwrite)
    same = partial(
        train_saes, given, data, layers, settings, out=out, store=store, store_dtype=store_dtype, limit=limit,
        dtype=dtype, device=device,
        splice_texts=splice_texts, log=log, shards=shards or workers, progress=False,
    )  # fmt: skip
    with beside(workers, same, logs=out / "workers", device=device):
        activations = capture_activations(
            model,
            scenarios,
            chosen,
            store=out / "activations" if store is None else store,
            store_dtype=store_dtype,
            granularity=settings.granularity,
            protocol=settings.protocol,
            split_seed=settings.split_seed,
            shards=shards or workers,
            progress=progress,
        )
        device = str(model.cfg.device or "cpu")
        return _trained(activations, settings, out, device, splice, shaped_by, log, progress)


def train_on(
    activations: Activations,
    settings: TrainSettings,
    *,
    out: str | Path,
    device: str = "cpu",
    splice: Callable[[Any], LossRecovered] | None = None,
    log: LogSettings | str | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> TrainedSaes:
    """`train_saes` from captured vectors, without the language model.

    Args:
        splice: from a loaded SAE to its `loss_recovered`.
        log: as for `train_saes`.

    Raises:
        ValueError: an option that SAELens does not have.
        FolderError: a folder that holds other results; says in what they differ.
    """
    out, log, about = Path(out), log_settings(log), activations.provenance
    configure(activations, settings, device=device)  # what SAELens refuses is refused before anything is written
    shaped_by = _shaped_by(settings, about["model"], about["data"]["sha256"], int(splice is not None))
    _claim(out, shaped_by, overwrite)
    return _trained(activations, settings, out, device, splice, shaped_by, log, progress)


def _shaped_by(settings: TrainSettings, model: Mapping[str, Any], data_sha256: str, spliced: int) -> dict[str, Any]:
    """All that shapes a training, whichever layers are trained."""
    return {**settings.to_dict(), "model": dict(model), "data_sha256": data_sha256, "spliced_texts": spliced}


def _claim(out: Path, shaped_by: Mapping[str, Any], overwrite: bool) -> None:
    if not overwrite:
        check_claim(out, KIND, shaped_by, files=(FILE, PAGE))
    with locked(out, wait=True):
        claim(out, KIND, shaped_by, files=(FILE, PAGE), overwrite=overwrite)


def _trained(
    activations: Activations,
    settings: TrainSettings,
    out: Path,
    device: str,
    splice: Callable[[Any], LossRecovered] | None,
    shaped_by: Mapping[str, Any],
    log: LogSettings | None,
    progress: bool | None,
) -> TrainedSaes:
    settings = settings.resolved(len(activations.rows("train")))
    config = configure(activations, settings, device=device)
    hooks, known = activations.hooks, dict[int, TrainedSae]()

    def key_of(layer: int) -> str:
        return key("trained-sae", layer=layer, hook=hooks[layer], **shaped_by)

    def find(layer: int) -> TrainedSae | None:
        folder = out / hooks[layer]
        if (
            layer not in known
            and (folder / RECORD).exists()
            and (found := read_trained(folder)).get("key") == key_of(layer)
        ):
            known[layer] = found
        return known.get(layer)

    def make(layer: int, lease: Lease) -> TrainedSae:
        hook, about = hooks[layer], _about(activations, settings, config, layer)
        checkpoints = out / ".checkpoints" / hook / lease.holder
        for left in sorted(checkpoints.parent.glob("*"))[:1]:
            publish(left, checkpoints)  # whoever had it writes there no more, should it only have been asleep
        with logged_run(log, f"{out.name}/{hook}", key_of(layer), about) as logged:
            training = LayerTraining(
                activations, layer, settings, with_logger(config, log),
                checkpoints=checkpoints, key=key_of(layer), log=logged,
            )  # fmt: skip
            how = {"about": about, "splice": splice, "progress": progress}
            with timed(logger, f"training of an SAE of {hook}"):
                found = train_layer(training, out / hook, check=lease.check, **how)
            keep_weights(log, out / hook, training.sae.get_name())
        return found

    for layer, found in shared({layer: out / f".{hook}.lease" for layer, hook in hooks.items()}, find, make):
        known[layer] = found
        with locked(out, wait=True):
            there = [one for layer in hooks if (one := find(layer)) is not None]  # those of other workers, too
            TrainedSaes(out, {one["layer"]: one for one in there})._save(shaped_by)
    shutil.rmtree(out / ".checkpoints", ignore_errors=True)
    return TrainedSaes(out, {layer: known[layer] for layer in hooks})


@dataclass(frozen=True)
class _Listing:
    """The content of `training.json`."""

    shaped_by: dict[str, Any]
    results: list[dict[str, float | None]]


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 called `shaped_by` the key."""
    return {"shaped_by": content.pop("key"), **content}


def _splice(model: HookedModel, text: Sequence[str], settings: TrainSettings, sae: Any) -> LossRecovered:
    return loss_recovered(model, sae, text, protocol=settings.protocol)


def _row(result: TrainedSae) -> dict[str, float | None]:
    held, recovered = result["held_out"], result["loss_recovered"]
    values = (
        result["layer"],
        result["train"]["explained_variance"],
        held["explained_variance"],
        held["explained_variance_per_dimension"],
        held["l0"],
        result["dead_share"],
        None if recovered is None else recovered["recovered"],
        result["seconds"],
    )
    return dict(zip(COLUMNS, values, strict=True))


def _cell(value: float | None) -> str:
    return MISSING if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _about(activations: Activations, settings: TrainSettings, config: SAELensConfig, layer: int) -> dict[str, Any]:
    sae = config.saes[layer].to_dict()
    about = {
        **activations.provenance,
        "settings": settings.to_dict(),
        "sae_config": {name: value for name, value in sae.items() if name != "metadata"},
        "trainer_config": dataclasses.asdict(config.trainer),
        "training_step": config.step,
        "versions": versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return jsonable(about)
