"""`diagnose`: metrics × layers of one model on one source of scenarios; `Diagnosis`: what came out, and from what."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sae_moral._errors import DataError, unknown
from sae_moral._files import write_json
from sae_moral.protocol import Protocol, get_protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from jaxtyping import Int
    from matplotlib.figure import Figure

    from sae_moral.capture import Representations
    from sae_moral.data import MoralData
    from sae_moral.metrics import Metric, Statistic

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
        try:
            content = json.loads(path.read_text(encoding="utf8"))
        except ValueError as error:
            raise DataError(f"not a diagnosis: {error}", file=path) from error
        if not isinstance(content, dict) or content.get("kind") != "diagnosis":
            raise DataError("not a diagnosis: expected a JSON object whose kind is 'diagnosis'", file=path)
        if content.get("schema_version") != SCHEMA_VERSION:
            found = content.get("schema_version")
            raise DataError(
                f"schema version {found}; this sae_moral reads {SCHEMA_VERSION}: install the one that wrote it",
                file=path,
            )
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

        return overview_figure(self.frame, self.provenance["metrics"])

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
    store: str | Path | None = None,
    dtype: str = "float32",
    device: str | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """Measure the types of moral indifference of a language model, layer by layer.

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
        store: folder for captured vectors: memory stays bounded, interrupted captures resume, repeated ones are free.
        dtype, device: for a model given by name.
        progress: progress bars; by default only on a terminal.

    Raises:
        ValueError: an unknown name, layer, hook or setting; the message says what would be right.
        DataError: scenarios that cannot be read or used, with file, row and column.
    """
    from sae_moral.capture import capture, describe_model, load_model
    from sae_moral.data import load_data
    from sae_moral.metrics import resolve_metrics

    started = time.perf_counter()
    chosen = get_protocol(protocol)
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
    numbers = parse_layers(layers, model.cfg.n_layers)
    loaded = time.perf_counter()
    representations = capture(
        model,
        scenarios.text,
        layers=numbers,
        template=chosen.template,
        pooling=chosen.pooling,
        bos=chosen.bos,
        store=store,
        progress=progress,
    )
    captured = time.perf_counter()
    length = representations.total if chosen.pooling == "all" else representations.length
    scenarios = dataclasses.replace(scenarios, length=length)
    if match is not None:
        scenarios, kept = _match(scenarios, match, chosen.seed)
        representations = representations.subset(kept)
    rows, facts = _measure(representations, scenarios, resolved, chosen, progress)
    ceilings = _add_ceilings(rows, scenarios, chosen.seed)
    seconds = {"load": loaded - started, "capture": captured - loaded, "measure": time.perf_counter() - captured}
    provenance = {
        "model": describe_model(model),
        "data": {
            **scenarios.provenance,
            "n": len(scenarios),
            "n_texts": len(set(scenarios.group.tolist())),
            "sha256": scenarios.sha256,
        },
        "protocol": _jsonable(dataclasses.asdict(chosen)),
        "metrics": {metric.name: _describe_metric(metric) for metric in resolved},
        "layers": numbers,
        "capture": representations.provenance,
        "preprocessing": facts,
        "prototypes": _prototypes(scenarios) if chosen.estimators == "paper" else None,
        "ceilings": ceilings,
        "seed": chosen.seed,
        "versions": _versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    provenance["warnings"] = _warnings(provenance)
    return Diagnosis(rows, provenance)


def parse_layers(layers: str | int | Sequence[int], n_layers: int) -> list[int]:
    """Layer numbers, ascending, from `all`, a number, `0,5,9`, `0:30:5` (stop excluded), or a sequence; negative
    numbers count from the last.

    Raises:
        ValueError: something else, none at all, or a layer the model does not have.
    """
    try:
        if layers == "all":
            numbers = list(range(n_layers))
        elif isinstance(layers, str) and ":" in layers:
            numbers = list(range(n_layers))[slice(*(int(part) if part.strip() else None for part in layers.split(":")))]
        elif isinstance(layers, str):
            numbers = [int(part) for part in layers.split(",")]
        else:
            numbers = [layers] if isinstance(layers, int) else [int(layer) for layer in layers]
    except (ValueError, TypeError) as error:
        raise ValueError(f"layers {layers!r}; expected 'all', a number, '0,5,9' or '0:30:5'") from error
    outside = [layer for layer in numbers if not -n_layers <= layer < n_layers]
    if outside or not numbers:
        raise ValueError(
            f"layers {layers!r} of a model with {n_layers} blocks (0 to {n_layers - 1}): {outside or 'none selected'}"
        )
    return sorted({layer % n_layers for layer in numbers})


def _measure(
    representations: Representations,
    data: MoralData,
    metrics: Sequence[Metric],
    protocol: Protocol,
    progress: bool | None,
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Rows of all metrics, one layer in memory at a time, and the preprocessing's facts per layer."""
    from tqdm import tqdm

    from sae_moral.metrics import evaluate
    from sae_moral.metrics.preprocess import preprocess

    rows: list[dict[str, Any]] = []
    facts: dict[str, list[float]] = {}
    assert data.length is not None
    for layer in tqdm(
        representations.layers, desc="measure", unit="layer", disable=None if progress is None else not progress
    ):
        raw = representations[layer]
        prepared, found = preprocess(raw, data.length, protocol.preprocessing)
        for name, value in found.items():
            facts.setdefault(name, []).append(round(value, 6))
        for metric in metrics:
            x = raw.double() if getattr(metric, "raw", False) else prepared
            rows += [_row(metric, statistic, layer) for statistic in evaluate(metric, x, data)]
    order = {metric.name: i for i, metric in enumerate(metrics)}
    rows.sort(key=lambda row: order[row["metric"]])
    return rows, facts


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
    """Fill the `ceiling` of the overall rows of `CEILINGS`; returns the reliabilities they come from, by label.

    A reliability whose interval reaches 0 gives no ceiling: too few texts were annotated more than once.
    """
    from sae_moral.controls.reliability import label_reliability

    labels: tuple[Literal["typicality", "valence"], ...] = ("typicality", "valence")
    found = {label: label_reliability(data, label, ranks=True, seed=seed) for label in labels}
    for row in rows:
        reliability = found.get(CEILINGS.get((row["metric"], row["statistic"]), ""))
        if reliability is not None and reliability.ci_low > 0 and row["group"] == "overall":
            row["ceiling"] = reliability.correlation_ceiling[0]
    return {label: None if known is None else dataclasses.asdict(known) for label, known in found.items()}


def _row(metric: Metric, statistic: Statistic, layer: int) -> dict[str, Any]:
    known = {
        "metric": metric.name,
        "statistic": statistic.name,
        "layer": layer,
        "group": statistic.group,
        "value": statistic.value,
        "n": statistic.n,
        "n_dropped": statistic.n_dropped,
        "headline": statistic.name == metric.headline,
    }
    return {key: known.get(key) for key in ROW_KEYS}


def _describe_metric(metric: Metric) -> dict[str, Any]:
    texts = ("means", "does_not_prove", "chance", "higher_is")
    described = {"headline": metric.headline, **{key: getattr(metric, key, None) for key in texts}}
    if dataclasses.is_dataclass(metric):
        fields = {field.name: getattr(metric, field.name) for field in dataclasses.fields(metric)}
        parameters = {k: v for k, v in fields.items() if k not in (*texts, "name", "headline", "raw", "function")}
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
    if (processing := provenance["model"]["weight_processing"]) != "none":
        found.append(f"The weights were processed ({processing}): the residual stream is not the original model's.")
    return found


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    names = ("sae-moral", "torch", "transformers", "transformer-lens", "sae-lens", "numpy", "scipy", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
