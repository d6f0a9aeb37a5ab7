"""`diagnose`: metrics × layers of one model on one source of scenarios; `Diagnosis`: what came out, and from what."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.errors import SaeMoralWarning, unknown
from sae_moral.io import jsonable
from sae_moral.log import timed
from sae_moral.protocol import Protocol, get_protocol, parse_layers
from sae_moral.results import DiagnosisRecord, ModelFacts, Provenance
from sae_moral.shown import at, shown

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int
    from matplotlib.figure import Figure
    from torch import Tensor

    from sae_moral.capture import Representations
    from sae_moral.controls import Controls, Measured
    from sae_moral.data import MoralData
    from sae_moral.metrics import Metric
    from sae_moral.provenance import HookedModel
    from sae_moral.sae import LoadedSae
    from sae_moral.sae.load import SaeLike
    from sae_moral.tables import Table

logger = logging.getLogger(__name__)
MATCHES = ("length",)
"""What scenarios may be matched by."""


def _facts(diagnosis: Diagnosis) -> dict[str, object]:
    about = diagnosis.provenance
    named = {name: at(about, name, of) for name, of in (("model", "name"), ("data", "source"), ("protocol", "name"))}
    return {**named, "layers": about.get("layers"), "answer": diagnosis.answer or None}


def _headlines(diagnosis: Diagnosis) -> list[Table]:
    from sae_moral.report.diagnosis_page import headlines_table

    return [headlines_table(diagnosis)]


@shown(facts=_facts, tables=_headlines)
@dataclass(frozen=True, eq=False)
class Diagnosis(DiagnosisRecord):
    """The results of metrics × layers with full provenance, and how they are shown."""

    @property
    def answer(self) -> str:
        """What all of it says, in one sentence; empty without controls."""
        from sae_moral.controls.verdict import answer

        return answer(self)

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page (`report.html` in an existing folder); returns its path."""
        from sae_moral.report import write_report

        return write_report(self, path)

    def figure(self, metric: str | None = None, *, width: float | None = None) -> Figure:
        """A metric's headline by layer with its controls; without a name every metric's, one panel each.

        Save it with `sae_moral.report.save_figure`, which keeps text as text and equal figures equal.

        Args:
            metric: one of `metrics`.
            width: in inches, e.g. 3.3 for one column of a paper; by default that of a page.

        Raises:
            ValueError: unknown metric.
        """
        from sae_moral.report import layer_figure, overview_figure

        return overview_figure(self, width=width) if metric is None else layer_figure(self, metric, width=width)

    def summary(self) -> str:
        """A table for the terminal: each metric's headline, its best layer, and its groups there."""
        from sae_moral.report import summary_table

        return summary_table(self)


def diagnose(
    model: Any,
    data: Any = "moralstrength",
    *,
    protocol: str | Protocol = "audited",
    template: str | None = None,
    metrics: Sequence[str | Metric] | None = None,
    layers: str | int | Sequence[int] = "all",
    limit: int | None = None,
    match: str | None = None,
    groups: str | Sequence[object] | None = None,
    controls: str | Sequence[str] | Controls = "default",
    sae: SaeLike | Mapping[int, SaeLike] | None = None,
    any_model: bool = False,
    store: str | Path | None = None,
    store_dtype: str = "float32",
    shards: int = 1,
    dtype: str = "float32",
    device: str | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """Measure the types of moral indifference of a language model, layer by layer.

    With `sae`, of an SAE's latents in the place of the residual stream they encode; the stream itself is then a
    baseline (`diagnosis.baselines["residual stream"]`): what the metric sees before encoding.

    Everything that was asked for is checked before the model runs, and before anything is written.

    Args:
        model: a HookedTransformer, a TransformerBridge or an SAE variant of either; a transformers model, as
            `hooked_model` wraps it; or the name of a bundled model, a folder in Hugging Face format, a hub name, as
            `load_model` loads them (with its other options: give what that returns).
        data: what `load_data` takes: a source name, a table in a file or in memory, a `MoralData`.
        protocol: `audited`, `paper`, or a `Protocol` of your own.
        template: the prompt, in place of the protocol's, with `{text}` for the scenario. `chat`: the model's chat
            template, the scenario being all that the user says; `chat: Is this right or wrong? {text}`: with this
            message of the user. Under `audited` vectors are still of the scenario's own tokens.
        metrics: names or instances; all registered ones by default.
        layers: `all`, a number, numbers with commas (`0,5,9`), a range `start:stop:step`, or a sequence of numbers.
        limit: use at most so many scenarios, every foundation and pole keeping its share.
        match: `length`: draw virtue, vice and neutral items of a foundation with the same distribution of token
            counts before measuring.
        groups: what folds, draws and permutations hold together: `equal` texts, `near` ones too (of single words,
            families), a column of the table, or a value per scenario; by default what the data say, else what the
            protocol does (`audited`: `near`, `paper`: `equal`).
        controls: `default` (intervals, permuted labels, nuisance, words, valence, input embeddings, opening words),
            `all` (the same architecture with random weights and learning curves, too), `none`, names, or `Controls` of
            your own.
        sae: an SAE (an SAELens object, a folder, `(release, id)`, `release/id`) or {layer: SAE}; `layers="all"` are
            then its layers. Prompts and pooling are the protocol's; tokens or scenarios are encoded, as it was trained.
        any_model: accept an SAE of a model with another name.
        store: folder for captured vectors (latents are not kept): memory stays bounded, interrupted captures resume,
            repeated ones are free. What was drawn at a layer is kept there, too, until all is done: an interrupted
            diagnosis that is asked for again goes on, and processes that make the same one share the work.
        store_dtype: of the vectors there: `float32`, or `bfloat16` for half the space (see `capture`).
        shards: of the capture, for processes that share it.
        dtype: of a model given by name.
        device: of a model given by name.
        progress: progress bars; by default only on a terminal.

    Raises:
        ValueError: an unknown name, layer, hook or setting; the message says what would be right.
        TypeError: a metric that is none, or declares its statistics as version 0.1 did.
        DataError: scenarios that cannot be read or used, with file, row and column, or too few of them.
    """
    import numpy as np
    import torch

    from sae_moral.capture import hooked_model, load_model
    from sae_moral.capture.chat import message_of
    from sae_moral.controls import get_controls, measure
    from sae_moral.controls.baselines import Subject, captured
    from sae_moral.controls.checkpoint import Checkpoint
    from sae_moral.controls.measure import check
    from sae_moral.controls.regrouped import regrouped
    from sae_moral.data import load_data
    from sae_moral.data.groups import is_kind
    from sae_moral.metrics import resolve_metrics
    from sae_moral.provenance import versions

    started = time.perf_counter()
    chosen, settings = get_protocol(protocol), get_controls(controls)
    if match is not None and match not in MATCHES:
        raise unknown("match", match, MATCHES)
    message = None if template is None else message_of(template)  # a bad one is refused before the model is loaded
    resolved = resolve_metrics(metrics, chosen)
    scenarios = load_data(data, groups=None if is_kind(groups) else groups)
    scenarios = scenarios if limit is None else scenarios.sample(limit, seed=chosen.seed)
    scenarios = scenarios.regrouped(groups) if is_kind(groups) else scenarios.held_by(chosen.groups)
    check(scenarios, resolved, chosen, settings)
    by_name = isinstance(model, str | Path)
    model = load_model(model, dtype=dtype, device=device) if by_name else hooked_model(model)
    chosen = prompted(chosen, model.tokenizer, template, message)
    asked = None if layers == "all" else parse_layers(layers, model.cfg.n_layers)
    saes = None if sae is None else _load_saes(sae, model, asked, any_model)
    numbers = parse_layers(layers if saes is None else list(saes), model.cfg.n_layers)
    loaded = time.perf_counter()
    reading = _Reading(scenarios.text, numbers, chosen, saes, store, store_dtype, shards, progress)
    representations = reading.vectors(model)
    captured_at = time.perf_counter()
    length = representations.total if chosen.pooling == "all" else representations.length
    measured, kept = dataclasses.replace(scenarios, length=length), np.arange(len(scenarios))
    if match is not None:
        measured, kept = _matched(measured, match, chosen.seed)
        representations = representations.subset(kept)
    stream = None if saes is None else (lambda one: reading.stream(one).subset(kept))
    subject = Subject(
        model,
        measured,
        representations,
        read_texts=lambda text: dataclasses.replace(reading, text=text).vectors(model),
        read=lambda one: reading.vectors(one).subset(kept),
        stream=stream,
        embeddings=lambda: reading.embeddings(model)[torch.from_numpy(kept)],
        seed=settings.seed,
    )
    at = str(model.cfg.device or "cpu")
    kept_there = None if store is None else Checkpoint(Path(store) / "samples", {"protocol": chosen, **versions()})
    with timed(logger, f"measuring {len(measured):,} scenarios at {len(numbers)} layers"):
        result = measure(
            representations,
            measured,
            resolved,
            chosen,
            settings,
            baselines=captured(subject, settings),
            device=at,
            checkpoint=kept_there,
            progress=progress,
        )
        other = regrouped(result, representations, measured, resolved, chosen, device=at) if settings.names else []
    if kept_there is not None:
        kept_there.remove()
    seconds = {
        "load": loaded - started,
        "capture": captured_at - loaded,
        "measure": time.perf_counter() - captured_at,
    }
    provenance = _provenance(model, measured, chosen, representations, result, seconds)
    return Diagnosis(
        rows=result.rows,
        metrics=result.cards,
        profiles=result.profiles,
        peaks=result.peaks,
        verdicts=result.verdicts,
        comparisons=result.comparisons,
        baselines=result.baselines,
        provenance=provenance,
        regrouped=other,
        learning_curves=result.learning_curves,
    )


# Reading the model


def prompted(protocol: Protocol, tokenizer: Any, template: str | None, message: str | None) -> Protocol:
    """The protocol with another prompt; `message`: what `message_of` gives of the template."""
    from sae_moral.capture.chat import CHAT, chat_prompt

    if template is None:
        return protocol
    if message is None:
        return dataclasses.replace(protocol, template=template)
    written = chat_prompt(tokenizer, message)
    return dataclasses.replace(protocol, name=f"{protocol.name}, {CHAT}", template=written, bos="none")


@dataclass(frozen=True)
class _Reading:
    """How a diagnosis reads a model: the residual stream, or the latents of SAEs; a twin with random weights alike.

    Attributes:
        text: the scenarios.
        layers: blocks, ascending.
        protocol: template, pooling and BOS.
        saes: one per layer; None for the stream itself.
        store, store_dtype: folder for the stream's vectors, and what they are there.
        shards: of its capture.
    """

    text: Sequence[str]
    layers: Sequence[int]
    protocol: Protocol
    saes: Mapping[int, LoadedSae] | None
    store: str | Path | None
    store_dtype: str
    shards: int
    progress: bool | None

    @property
    def prompts(self) -> dict[str, Any]:
        """What the model reads, and which tokens of it."""
        chosen = self.protocol
        return {"template": chosen.template, "pooling": chosen.pooling, "bos": chosen.bos}

    def stream(self, model: HookedModel) -> Representations:
        """The residual stream, pooled."""
        from sae_moral.capture import capture

        more: dict[str, Any] = {"layers": self.layers, "progress": self.progress}
        if self.store is not None:
            more |= {"store": self.store, "store_dtype": self.store_dtype, "shards": self.shards}
        return capture(model, self.text, **more, **self.prompts)

    def embeddings(self, model: HookedModel) -> Float[Tensor, "n d"]:
        """The input embeddings of the same tokens, pooled."""
        from sae_moral.capture.embeddings import input_embeddings

        return input_embeddings(model, self.text, **self.prompts)

    def vectors(self, model: HookedModel) -> Representations:
        """What the SAEs encode of it; the stream where there are none.

        Warns:
            SaeMoralWarning: a protocol that reads other prompts than an SAE was trained on.
        """
        if self.saes is None:
            return self.stream(model)
        from sae_moral.sae import latent_representations
        from sae_moral.sae.find_latents import warn_of_prompts

        with warnings.catch_warnings():
            # That they fit was checked when they were loaded; a twin with random weights goes by another name.
            warnings.simplefilter("ignore", SaeMoralWarning)
            more = {"progress": self.progress, "any_model": True}
            found = latent_representations(model, self.text, self.saes, **more, **self.prompts)
        warn_of_prompts(found)
        return found


def _load_saes(
    sae: SaeLike | Mapping[int, SaeLike], model: HookedModel, layers: Sequence[int] | None, any_model: bool
) -> dict[int, LoadedSae]:
    """The SAEs of the layers that are asked for (None: of all there are), checked against the model.

    Raises:
        ValueError: as `load_saes`; a layer without one.
    """
    from sae_moral.sae import load_saes

    loaded = load_saes(sae, model=model, any_model=any_model)
    wanted = list(loaded) if layers is None else layers
    if missing := sorted(set(wanted) - set(loaded)):
        raise ValueError(f"layers {missing} were asked for, and there are SAEs of {sorted(loaded)}; give one for each")
    return {layer: loaded[layer] for layer in wanted}


def _matched(data: MoralData, by: str, seed: int) -> tuple[MoralData, Int[np.ndarray, "k"]]:
    """The matched scenarios, and which they are."""
    import numpy as np

    from sae_moral.data import match_length

    places = dataclasses.replace(data, id=tuple(map(str, range(len(data)))))
    kept = np.array([int(place) for place in match_length(places, seed=seed).id])
    facts = {"by": by, "seed": seed, "n_before": len(data)}
    return dataclasses.replace(data.subset(kept), provenance={**data.provenance, "matched": facts}), kept


# Provenance


def _provenance(
    model: HookedModel,
    data: MoralData,
    protocol: Protocol,
    representations: Representations,
    measured: Measured,
    seconds: Mapping[str, float],
) -> Provenance:
    from sae_moral.data.groups import groups_of
    from sae_moral.provenance import describe_model, versions

    facts = describe_model(model)
    prototypes = _prototypes(data) if protocol.estimators == "paper" else None
    captured = dict(representations.provenance)
    texts = len(set(data.same_text.tolist()))
    return Provenance(
        model=facts,
        data={**data.provenance, "n": len(data), "n_texts": texts, "sha256": data.sha256, "groups": groups_of(data)},
        protocol=jsonable(protocol),
        layers=list(representations.layers),
        saes=captured.pop("saes", None),
        capture=captured,
        preprocessing=measured.preprocessing,
        controls=measured.controls,
        prototypes=prototypes,
        ceilings=measured.ceilings,
        seed=protocol.seed,
        versions=versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds={name: round(value, 2) for name, value in seconds.items()},
        warnings=_warnings(protocol, facts, representations.layers, prototypes or {}, measured),
    )


def _prototypes(data: MoralData) -> dict[str, dict[str, float]]:
    """Where the paper's prototypes come from: the typicality of their items and how many there are."""
    from sae_moral.foundations import DIMENSIONS
    from sae_moral.metrics.prototypes import prototype_items

    found = {dimension: prototype_items(data, *divmod(d, 2)) for d, dimension in enumerate(DIMENSIONS)}
    return {dimension: {"typicality": top, "n": int(items.sum())} for dimension, (items, top) in found.items()}


def _warnings(
    protocol: Protocol,
    model: ModelFacts,
    layers: Sequence[int],
    prototypes: Mapping[str, Mapping[str, float]],
    measured: Measured,
) -> list[str]:
    """What a reader must know before reading a number."""
    found: list[str] = []
    facts = measured.preprocessing
    by_length = [
        (layer, share)
        for layer, share, r in zip(layers, facts["pc1_share"], facts["pc1_length_r"], strict=True)
        if share > 0.5 and r > 0.8
    ]
    if by_length and "standardise" not in protocol.preprocessing:
        ruled, shares = zip(*by_length, strict=True)
        found.append(
            f"In {len(ruled)} of {len(layers)} layers ({ruled[0]}–{ruled[-1]}) one direction holds {min(shares):.0%} "
            f"to {max(shares):.1%} of the variance and follows one over the sentence length (|r| > 0.8): what this "
            "protocol measures there is mostly length."
        )
    if shares := facts.get("span_share"):
        from sae_moral.metrics.preprocess import EXACT, LEADING

        found.append(
            f"Representations are wider than {EXACT:,} scenarios: metrics read their {LEADING:,} leading axes, which "
            f"hold {min(shares):.1%} or more of the sum of squares."
        )
    for dimension, made_of in prototypes.items():
        if 0 < made_of["typicality"] < 1:
            found.append(
                f"{dimension}: no item of typicality 1.0; its prototype is the mean of {made_of['n']} items at "
                f"{made_of['typicality']:.3g}."
            )
    found += [one.sentence for one in measured.verdicts.values() if one.word == "length"]
    if model["attached_saes"]:
        found.append(
            f"SAEs were attached to the model at {', '.join(model['attached_saes'])}: the residual stream is what the "
            "model computes with them in it."
        )
    if model["weight_processing"] != "none":
        found.append(
            f"The weights were processed ({model['weight_processing']}): the residual stream is not the original "
            "model's."
        )
    return found
