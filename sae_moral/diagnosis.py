"""`diagnose`: metrics × layers of one model on one source of scenarios; `Diagnosis`: what came out, and from what."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sae_moral.errors import DataError, unknown
from sae_moral.io import read_record, write_json
from sae_moral.protocol import Protocol, get_protocol, parse_layers

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from jaxtyping import Int
    from matplotlib.figure import Figure

    from sae_moral.capture import Representations
    from sae_moral.controls import Controls, Measured
    from sae_moral.data import MoralData
    from sae_moral.metrics import Metric
    from sae_moral.sae.load import SaeLike

SCHEMA_VERSION = 1
ROW_KEYS = (
    "metric",
    "statistic",
    "layer",
    "group",
    "value",
    "ci_low",
    "ci_high",
    "null_low",
    "null_high",
    "p_value",
    "ceiling",
    "baseline",
    "n",
    "n_dropped",
    "headline",
)
"""Columns of a result row; what was not computed is None."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The results of metrics × layers, with full provenance.

    Attributes:
        rows: one per metric, statistic, layer and group, with the keys of `ROW_KEYS`.
        provenance: model, data, protocol, metrics, capture, preprocessing, layers, warnings, seeds, library versions
            and time taken. JSON values only.
    """

    rows: list[dict[str, Any]]
    provenance: dict[str, Any]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a tidy table, one column per key of `ROW_KEYS`; None becomes NaN."""
        import pandas as pd

        frame = pd.DataFrame(self.rows, columns=list(ROW_KEYS))
        numbers = [key for key in ROW_KEYS if key not in ("metric", "statistic", "layer", "group", "headline")]
        return frame.astype(dict.fromkeys(numbers, float))

    def save(self, folder: str | Path) -> Path:
        """Write `folder/diagnosis.json` (never half of it); returns its path."""
        path = Path(folder) / "diagnosis.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "schema_version": SCHEMA_VERSION,
            "kind": "diagnosis",
            "provenance": self.provenance,
            "results": self.rows,
        }
        write_json(path, content)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Diagnosis:
        """Read a `diagnosis.json`, or the folder that holds one.

        Raises:
            DataError: not a diagnosis, or of a newer schema.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        path = path / "diagnosis.json" if path.is_dir() else path
        _, content = read_record(path, "diagnosis", SCHEMA_VERSION, checked_from=2)
        for i, row in enumerate(content["results"]):
            if set(row) != set(ROW_KEYS):
                raise DataError(f"keys {sorted(set(row) ^ set(ROW_KEYS))} missing or unknown", file=path, row=i + 1)
        return cls(content["results"], content["provenance"])

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page; returns its path."""
        from sae_moral.report import write_report

        return write_report(self, Path(path))

    def figure(self) -> Figure:
        """Every metric's headline by layer, one panel each."""
        from sae_moral.report import overview_figure

        return overview_figure(self.frame, self.provenance["metrics"], self.provenance.get("controls"))

    def summary(self) -> str:
        """A table for the terminal: each metric's headline, its highest layer, and its groups there."""
        from sae_moral.report.summary import summary_table

        return summary_table(self)


def diagnose(
    model: Any,
    data: Any = "moralstrength",
    *,
    protocol: str | Protocol = "audited",
    metrics: Sequence[str | Metric] | None = None,
    layers: str | int | Sequence[int] = "all",
    limit: int | None = None,
    match: str | None = None,
    controls: str | Sequence[str] | Controls = "default",
    sae: SaeLike | Mapping[int, SaeLike] | None = None,
    store: str | Path | None = None,
    dtype: str = "float32",
    device: str | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """Measure the types of moral indifference of a language model, layer by layer.

    With `sae`, of an SAE's latents in the place of the residual stream they encode; the stream itself is then a
    baseline (`provenance["controls"]["baselines"]["residual stream"]`): what the metric sees before encoding.

    Args:
        model: a HookedTransformer, a TransformerBridge or an SAE variant of either; or the name of a bundled model, a
            folder in Hugging Face format, a hub name.
        data: a source name, a path to a table, a `MoralData` or a `datasets.Dataset`.
        protocol: `audited`, `paper`, or a `Protocol` of your own.
        metrics: names or instances; all registered ones by default.
        layers: `all`, a number, numbers with commas (`0,5,9`), a range `start:stop:step`, or a sequence of numbers.
        limit: use at most so many scenarios, every foundation and pole keeping its share.
        match: `length`: draw virtue, vice and neutral items of a foundation with the same distribution of token
            counts before measuring.
        controls: `default` (intervals, permuted labels, nuisance, bag of words, selectivity), `all` (the same
            architecture with random weights, too), `none`, names, or `Controls` of your own.
        sae: an SAE (an SAELens object, a folder, `(release, id)`, `release/id`) or {layer: SAE}; `layers="all"` are
            then its layers. Prompts and pooling are the protocol's; tokens or scenarios are encoded, as it was trained.
        store: folder for captured vectors (latents are not kept): memory stays bounded, interrupted captures resume,
            repeated ones are free.
        dtype, device: for a model given by name.
        progress: progress bars; by default only on a terminal.

    Raises:
        ValueError: an unknown name, layer, hook or setting; the message says what would be right.
        DataError: scenarios that cannot be read or used, with file, row and column.
    """
    import numpy as np

    from sae_moral._reading import Reader, load_saes_of
    from sae_moral.capture import load_model
    from sae_moral.controls import get_controls, measure, random_weights
    from sae_moral.data import load_data
    from sae_moral.metrics import resolve_metrics

    started = time.perf_counter()
    chosen, settings = get_protocol(protocol), get_controls(controls)
    resolved = resolve_metrics(metrics, chosen)
    scenarios = load_data(data)
    scenarios = scenarios if limit is None else scenarios.sample(limit, seed=chosen.seed)
    if isinstance(model, str | Path):
        model = load_model(model, dtype=dtype, device=device)
    elif not hasattr(model, "hook_dict") or not hasattr(model, "cfg"):
        raise ValueError(
            f"{type(model).__name__} is not a model with hooks; "
            "expected a HookedTransformer, a TransformerBridge or a name"
        )
    asked = None if layers == "all" else parse_layers(layers, model.cfg.n_layers)
    saes = None if sae is None else load_saes_of(sae, model, asked)
    numbers = parse_layers(layers if saes is None else list(saes), model.cfg.n_layers)
    reader = Reader(scenarios.text, numbers, chosen, saes, store, progress)
    loaded = time.perf_counter()
    representations = reader.latents(model)
    captured = time.perf_counter()
    length = representations.total if chosen.pooling == "all" else representations.length
    measured, kept = dataclasses.replace(scenarios, length=length), np.arange(len(scenarios))
    if match is not None:
        measured, kept = _match(measured, match, chosen.seed)
        representations = representations.subset(kept)
    baselines: dict[str, Callable[[], Representations]] = {}
    if "random-weights" in settings:
        baselines["random weights"] = lambda: reader.latents(random_weights(model, seed=settings.seed)).subset(kept)
    if saes is not None:
        baselines["residual stream"] = lambda: reader.stream(model).subset(kept)
    where = model.cfg.device or "cpu"
    result = measure(
        representations, measured, resolved, chosen, settings, baselines=baselines, device=where, progress=progress
    )
    ceilings = _add_ceilings(result.rows, measured, chosen.seed)
    seconds = {"load": loaded - started, "capture": captured - loaded, "measure": time.perf_counter() - captured}
    provenance = _provenance(model, measured, chosen, resolved, representations, result)
    provenance |= {"ceilings": ceilings, "seconds": {name: round(value, 2) for name, value in seconds.items()}}
    return Diagnosis(result.rows, provenance)


def _match(data: MoralData, by: str, seed: int) -> tuple[MoralData, Int[np.ndarray, "k"]]:
    """The matched scenarios, and which they are."""
    import numpy as np

    from sae_moral.data import match_length

    if by != "length":
        raise unknown("match", by, ["length"])
    places = dataclasses.replace(data, id=tuple(map(str, range(len(data)))))
    kept = np.array([int(place) for place in match_length(places, seed=seed).id])
    matched = data.subset(kept)
    facts = {"by": by, "seed": seed, "n_before": len(data)}
    return dataclasses.replace(matched, provenance={**matched.provenance, "matched": facts}), kept


CEILINGS = {("gradient", "spearman"): "typicality", ("dimensional", "spearman_valence"): "valence"}
"""Statistics whose ceiling follows from how well repeated annotations of one text agree on a label."""


def _add_ceilings(rows: list[dict[str, Any]], data: MoralData, seed: int) -> dict[str, Any]:
    """Fill the `ceiling` of the overall rows of `CEILINGS`, and of the prototypes' cosines (their split-half
    reliability); returns the reliabilities of labels, by label.

    A reliability whose interval reaches 0 gives no ceiling: too few texts were annotated more than once.
    """
    from sae_moral.data.reliability import label_reliability

    labels: tuple[Literal["typicality", "valence"], ...] = ("typicality", "valence")
    found = {label: label_reliability(data, label, ranks=True, seed=seed) for label in labels}
    for row in rows:
        reliability = found.get(CEILINGS.get((row["metric"], row["statistic"]), ""))
        if reliability is not None and reliability.ci_low > 0 and row["group"] == "overall":
            row["ceiling"] = reliability.correlation_ceiling[0]
    prototypes = {(row["layer"], row["group"]): row["value"] for row in rows if row["statistic"] == "reliability"}
    for row in rows:
        if (row["metric"], row["statistic"]) == ("categorical", "cosine"):
            row["ceiling"] = prototypes.get((row["layer"], row["group"]))
    return {label: None if known is None else dataclasses.asdict(known) for label, known in found.items()}


def _provenance(
    model: Any,
    data: MoralData,
    protocol: Protocol,
    metrics: Sequence[Metric],
    representations: Representations,
    measured: Measured,
) -> dict[str, Any]:
    """JSON values only."""
    from sae_moral.provenance import describe_model, versions

    found = {
        "model": describe_model(model),
        "data": {
            **data.provenance,
            "n": len(data),
            "n_texts": len(set(data.group.tolist())),
            "sha256": data.sha256,
        },
        "protocol": _jsonable(dataclasses.asdict(protocol)),
        "metrics": {metric.name: _describe_metric(metric) for metric in metrics},
        "layers": list(representations.layers),
        "saes": representations.provenance.get("saes"),
        "capture": {key: value for key, value in representations.provenance.items() if key != "saes"},
        "preprocessing": measured.facts,
        "controls": measured.controls,
        "prototypes": _prototypes(data) if protocol.estimators == "paper" else None,
        "seed": protocol.seed,
        "versions": versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    found["warnings"] = _warnings(found)
    return found


def _describe_metric(metric: Metric) -> dict[str, Any]:
    texts, for_controls = ("means", "does_not_prove", "chance", "higher_is"), ("nulls", "alternatives", "readers")
    described = {"headline": metric.headline, **{key: getattr(metric, key, None) for key in texts}}
    given = {key: getattr(metric, key) for key in for_controls if hasattr(metric, key)}
    described |= {key: dict(value) if isinstance(value, Mapping) else value for key, value in given.items()}
    if dataclasses.is_dataclass(metric):
        fields = {field.name: getattr(metric, field.name) for field in dataclasses.fields(metric)}
        told = (*texts, *for_controls, "name", "headline", "raw", "function")
        parameters = {k: v for k, v in fields.items() if k not in told}
        described["parameters"] = _jsonable(parameters)
    return described


def _jsonable(value: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(value, default=str))


def _prototypes(data: MoralData) -> dict[str, dict[str, float]]:
    """Where the paper's prototypes come from: the typicality of their items and how many there are."""
    from sae_moral.foundations import DIMENSIONS
    from sae_moral.metrics.prototypes import prototype_items

    found = {dimension: prototype_items(data, *divmod(d, 2)) for d, dimension in enumerate(DIMENSIONS)}
    return {dimension: {"typicality": top, "n": int(items.sum())} for dimension, (items, top) in found.items()}


def _warnings(provenance: Mapping[str, Any]) -> list[str]:
    """What a reader must know before reading a number."""
    found: list[str] = []
    facts, layers = provenance["preprocessing"], provenance["layers"]
    by_length = [
        (layer, share)
        for layer, share, r in zip(layers, facts["pc1_share"], facts["pc1_length_r"], strict=True)
        if share > 0.5 and r > 0.8
    ]
    if by_length and "standardise" not in provenance["protocol"]["preprocessing"]:
        ruled, shares = zip(*by_length, strict=True)
        found.append(
            f"In {len(ruled)} of {len(layers)} layers ({ruled[0]}–{ruled[-1]}) one direction holds {min(shares):.0%} "
            f"to {max(shares):.1%} of the variance and follows one over the sentence length (|r| > 0.8): what this "
            "protocol measures there is mostly length."
        )
    for dimension, where in (provenance["prototypes"] or {}).items():
        if 0 < where["typicality"] < 1:
            found.append(
                f"{dimension}: no item of typicality 1.0; its prototype is the mean of {where['n']} items at "
                f"{where['typicality']:.3g}."
            )
    verdicts = provenance["controls"].get("verdicts", {})
    found += [f"{name}: {about['sentence']}" for name, about in verdicts.items() if about["verdict"] == "length"]
    if (processing := provenance["model"]["weight_processing"]) != "none":
        found.append(f"The weights were processed ({processing}): the residual stream is not the original model's.")
    return found
