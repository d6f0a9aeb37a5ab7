"""`train_saes`: SAEs of a model's residual stream on moral scenarios, all layers in one go, with SAELens' own trainer.

The model runs once for all layers (`activations`); then one SAE after another is trained from disk, so that memory
holds one. What comes out are ordinary SAELens folders, which `SAE.load_from_disk` reads.

Deviations from arXiv 2603.15615: SAELens' Adam has no weight decay, its L1 term weighs each latent by the norm of its
decoder row instead of fixing that norm, distinct prompts count once, and outliers are left out.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sae_moral.data.moral_data import MoralData
from sae_moral.data.sources import load_data
from sae_moral.data.splits import group_split
from sae_moral.io import check_claim, check_files, claim, jsonable, key, locked, read_typed, write_record
from sae_moral.provenance import HookedModel, describe_model, versions
from sae_moral.report.words import MISSING
from sae_moral.sae.activations import Activations, capture_activations
from sae_moral.sae.evaluate import LossRecovered, loss_recovered
from sae_moral.sae.train_config import SAELensConfig, TrainSettings, configure
from sae_moral.sae.train_layer import RECORD, LayerTraining, TrainedSae, read_trained, train_layer
from sae_moral.sae.train_logging import LogSettings, keep_weights, log_settings, logged_run, with_logger
from sae_moral.shown import shown
from sae_moral.tables import Table, text_table

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA_VERSION = "sae_training", 2
FILE = "training.json"
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


def train_saes(
    model: HookedModel | nn.Module | str | Path,
    data: MoralData | str | Path,
    layers: str | int | Sequence[int] = "all",
    settings: TrainSettings | None = None,
    *,
    out: str | Path,
    store: str | Path | None = None,
    limit: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    splice_texts: int = SPLICED_TEXTS,
    log: LogSettings | str | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> TrainedSaes:
    """Train one SAE per layer; run again after a crash, it goes on where it was and ends with the same weights.

    Args:
        model: as for `capture`, or a name for `load_model`.
        data: scenarios, or what `load_data` takes.
        layers: `all`, 3, `0,5,9`, `0:30:5`, or numbers.
        settings: see `TrainSettings`.
        out: folder for the results: per layer `out/HOOK` (SAELens' files and `sae_moral.json`), `out/training.json`.
        store: folder for the vectors; `out/activations` by default. May be deleted afterwards.
        limit: use at most so many scenarios.
        dtype: of a model given by name; the SAEs are float32.
        device: of a model given by name; the SAEs are on the model's device.
        splice_texts: held-out scenarios for `loss_recovered`; 0 skips it.
        log: `wandb`, `trackio` or `LogSettings`: log the course of the training there.
        overwrite: take over a folder that holds another training.
        progress: progress bars; by default only on a terminal.

    Raises:
        ValueError: an unknown name or option.
        FolderError: a folder that holds other results; says in what they differ.
        BusyError: another process is writing there.
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
    by_name = isinstance(model, str | Path)
    model = load_model(model, dtype=dtype, device=device) if by_name else hooked_model(model)
    chosen = parse_layers(layers, model.cfg.n_layers)
    held = group_split(scenarios, seed=settings.split_seed)["validation"]
    text = list(dict.fromkeys(scenarios.text[i] for i in held))[:splice_texts]
    splice = partial(_splice, model, text, settings) if text else None
    shaped_by = _shaped_by(settings, describe_model(model), scenarios.sha256, len(text))
    with _claimed(out, shaped_by, overwrite):
        activations = capture_activations(
            model,
            scenarios,
            chosen,
            store=out / "activations" if store is None else store,
            granularity=settings.granularity,
            protocol=settings.protocol,
            split_seed=settings.split_seed,
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
        BusyError: another process is writing there.
    """
    out, log, about = Path(out), log_settings(log), activations.provenance
    configure(activations, settings, device=device)  # what SAELens refuses is refused before anything is written
    shaped_by = _shaped_by(settings, about["model"], about["data"]["sha256"], int(splice is not None))
    with _claimed(out, shaped_by, overwrite):
        return _trained(activations, settings, out, device, splice, shaped_by, log, progress)


def _shaped_by(settings: TrainSettings, model: Mapping[str, Any], data_sha256: str, spliced: int) -> dict[str, Any]:
    """All that shapes a training, whichever layers are trained."""
    return {**settings.to_dict(), "model": dict(model), "data_sha256": data_sha256, "spliced_texts": spliced}


@contextmanager
def _claimed(out: Path, shaped_by: Mapping[str, Any], overwrite: bool) -> Iterator[None]:
    if not overwrite:
        check_claim(out, KIND, shaped_by, files=(FILE,))
    with locked(out):
        claim(out, KIND, shaped_by, files=(FILE,), overwrite=overwrite)
        yield


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
    results: dict[int, TrainedSae] = {}
    for layer, hook in activations.hooks.items():
        of_layer = key("trained-sae", layer=layer, hook=hook, **shaped_by)
        found = read_trained(out / hook) if (out / hook / RECORD).exists() else None
        if found is None or found.get("key") != of_layer:
            about = _about(activations, settings, config, layer)
            with logged_run(log, f"{out.name}/{hook}", of_layer, about) as logged:
                training = LayerTraining(
                    activations, layer, settings, with_logger(config, log),
                    checkpoints=out / ".checkpoints" / hook, key=of_layer, log=logged,
                )  # fmt: skip
                found = train_layer(training, out / hook, about=about, splice=splice, progress=progress)
                keep_weights(log, out / hook, training.sae.get_name())
        results[layer] = found
        listing = {"shaped_by": dict(shaped_by), "results": [_row(result) for result in results.values()]}
        write_record(out / FILE, KIND, SCHEMA_VERSION, listing)
    shutil.rmtree(out / ".checkpoints", ignore_errors=True)
    return TrainedSaes(out, results)


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
