"""`train_saes`: SAEs of a model's residual stream on moral scenarios, all layers in one go, with SAELens' own trainer.

The model runs once for all layers (`activations`); then one SAE after another is trained from disk, so that memory
holds one. What comes out are ordinary SAELens folders, which `SAE.load_from_disk` reads.

Deviations from arXiv 2603.15615: SAELens' Adam has no weight decay, its L1 term weighs each latent by the norm of its
decoder row instead of fixing that norm, distinct prompts count once, and outliers are left out. A high explained
variance says nothing about morality.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.data.moral_data import MoralData
from sae_moral.data.sources import load_data
from sae_moral.data.splits import group_split
from sae_moral.io import jsonable, write_json
from sae_moral.provenance import versions
from sae_moral.sae.activations import Activations, capture_activations
from sae_moral.sae.evaluate import loss_recovered
from sae_moral.sae.train_config import SAELensConfig, TrainSettings, configure
from sae_moral.sae.train_layer import train_layer

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
SPLICED_TEXTS = 64
COLUMNS = ("layer", "train_ev", "held_out_ev", "per_dimension", "l0", "dead", "loss_recovered", "seconds")


@dataclass(frozen=True)
class TrainedSaes:
    """What a training left in a folder.

    Attributes:
        folder: one SAELens folder per layer in it, named by its hook.
        results: per layer the content of its `sae_moral.json`.
    """

    folder: Path
    results: dict[int, dict[str, Any]]

    def path(self, layer: int) -> Path:
        """The SAELens folder of a layer."""
        return self.folder / self.results[layer]["hook_name"]

    def load(self, layer: int, *, device: str = "cpu") -> Any:
        """The layer's SAE, as SAELens reads it."""
        from sae_lens import SAE

        return SAE.load_from_disk(self.path(layer), device=device)

    def table(self) -> pd.DataFrame:
        """One row per layer; explained variances, L0 and dead latents as in `evaluate`, held-out but for `train_ev`."""
        import pandas as pd

        return pd.DataFrame([_row(result) for result in self.results.values()], columns=list(COLUMNS))

    def summary(self) -> str:
        """The table as text."""
        return self.table().to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–")


def train_saes(
    model: Any,
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
    progress: bool | None = None,
) -> TrainedSaes:
    """Train one SAE per layer; run again after a crash, it goes on where it was and ends with the same weights.

    Args:
        model: a model with hooks and a tokenizer, or a name for `load_model`.
        data: scenarios, or what `load_data` takes.
        layers: `all`, 3, `0,5,9`, `0:30:5`, or numbers.
        settings: see `TrainSettings`.
        out: folder for the results: per layer `out/HOOK` (SAELens' files and `sae_moral.json`), `out/training.json`.
        store: folder for the vectors; `out/activations` by default. May be deleted afterwards.
        limit: use at most so many scenarios.
        dtype, device: of a model given by name; the SAEs are float32 and on the model's device.
        splice_texts: held-out scenarios for `loss_recovered`; 0 skips it.
        progress: progress bars; by default only on a terminal.

    Raises:
        ValueError: an unknown name or option; a folder that holds a training with other settings or data.
        DataError: scenarios that cannot be read or used.
        RuntimeError: a hook that did not fire exactly once, values that are not finite, a store in use.

    Warns:
        SaeMoralWarning: an SAE that reconstructs its training vectors much better than held-out ones.
    """
    from sae_moral.capture.models import load_model
    from sae_moral.protocol import parse_layers

    settings, out = settings or TrainSettings(), Path(out)
    scenarios = load_data(data)
    scenarios = scenarios if limit is None else scenarios.sample(limit)
    if isinstance(model, str | Path):
        model = load_model(model, dtype=dtype, device=device)
    activations = capture_activations(
        model,
        scenarios,
        parse_layers(layers, model.cfg.n_layers),
        store=out / "activations" if store is None else store,
        granularity=settings.granularity,
        protocol=settings.protocol,
        split_seed=settings.split_seed,
        progress=progress,
    )
    held = group_split(scenarios, seed=settings.split_seed)["validation"]
    text = list(dict.fromkeys(scenarios.text[i] for i in held))[:splice_texts]
    splice = partial(_splice, model, text, settings) if text else None
    return train_on(
        activations, settings, out=out, device=str(model.cfg.device or "cpu"), splice=splice, progress=progress
    )


def train_on(
    activations: Activations,
    settings: TrainSettings,
    *,
    out: str | Path,
    device: str = "cpu",
    splice: Callable[[Any], Mapping[str, Any]] | None = None,
    progress: bool | None = None,
) -> TrainedSaes:
    """`train_saes` from captured vectors, without the language model.

    Args:
        splice: from a loaded SAE to its `loss_recovered`.

    Raises:
        ValueError: a folder that holds a training with other settings or data.
    """
    out, settings = Path(out), settings.resolved(len(activations.rows("train")))
    config = configure(activations, settings, device=device)
    out.mkdir(parents=True, exist_ok=True)
    key = {**settings.to_dict(), **_what(activations)}
    _check_key(out, key)
    results: dict[int, dict[str, Any]] = {}
    for layer, hook in activations.hooks.items():
        done = out / hook / "sae_moral.json"
        results[layer] = (
            json.loads(done.read_text(encoding="utf8"))
            if done.exists()
            else train_layer(
                activations,
                layer,
                settings,
                config,
                out / hook,
                checkpoints=out / ".checkpoints" / hook,
                about=_about(activations, settings, config, layer),
                splice=splice,
                progress=progress,
            )
        )
        rows = [_row(result) for result in results.values()]
        write_json(out / "training.json", {**_head(key), "results": rows})
    shutil.rmtree(out / ".checkpoints", ignore_errors=True)
    return TrainedSaes(out, results)


def _splice(model: Any, text: Sequence[str], settings: TrainSettings, sae: Any) -> Mapping[str, Any]:
    return loss_recovered(model, sae, text, protocol=settings.protocol)


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    held = result["held_out"]
    values = (
        result["layer"],
        result["train"]["explained_variance"],
        held["explained_variance"],
        held["explained_variance_per_dimension"],
        held["l0"],
        result["dead_share"],
        (result["loss_recovered"] or {}).get("recovered"),
        result["seconds"],
    )
    return dict(zip(COLUMNS, values, strict=True))


def _head(key: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "kind": "sae_training", "key": key}


def _what(activations: Activations) -> dict[str, Any]:
    """What the vectors are, whichever layers were captured together and in what batches."""
    about = activations.provenance
    return {"model": about["model"], "data_sha256": about["data"]["sha256"], "n_vectors": about["n_vectors"]}


def _check_key(out: Path, key: Mapping[str, Any]) -> None:
    """Refuse to mix two trainings in one folder."""
    path = out / "training.json"
    if path.exists():
        before, now = json.loads(path.read_text(encoding="utf8"))["key"], jsonable(key)
        differing = [name for name in now if before.get(name) != now[name]]
        if differing:
            told = ", ".join(f"{name} {before.get(name)!r} (now {now[name]!r})" for name in differing)
            raise ValueError(f"{out} holds a training with other settings: {told}; choose another folder")
    else:
        write_json(path, {**_head(key), "results": []})


def _about(activations: Activations, settings: TrainSettings, config: SAELensConfig, layer: int) -> dict[str, Any]:
    from datetime import datetime, timezone

    sae = config.saes[layer].to_dict()
    return {
        **jsonable(activations.provenance),
        "settings": jsonable(settings.to_dict()),
        "sae_config": jsonable({name: value for name, value in sae.items() if name != "metadata"}),
        "trainer_config": jsonable(dataclasses.asdict(config.trainer)),
        "versions": versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
