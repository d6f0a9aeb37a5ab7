"""`find_moral_latents`: which latents of an SAE belong to which moral dimension, and how well that holds.

For every latent × dimension, on texts that took no part in the selection: Pearson and Spearman correlation, partial
correlation given length and word frequency, AUROC (does the latent separate texts of the dimension from all others?),
prototypicality (Spearman with the strength of the label, among texts of the dimension). Statistics and rules are in
`association`.

What it does not prove. That the model uses a latent: these are correlations over scenarios; surgery or steering tests
use. That a latent means what its label says: topic goes with foundation (a latent for police is one for authority on
these data), and only length and word frequency are taken out. That there are no moral latents where none is found:
small effects and rare latents are below what the sample can show, and a dimension may be spread over many.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from sae_moral.data import MoralData
from sae_moral.data.splits import Split
from sae_moral.errors import SaeMoralWarning
from sae_moral.foundations import DIMENSIONS
from sae_moral.io import key
from sae_moral.sae.association import PAPER_CLASSES, LatentSettings, audit, paper_classes, q_values
from sae_moral.sae.latents import LatentRepresentations, latent_representations
from sae_moral.sae.load import SaeLike, load_saes
from sae_moral.sae.measure import Arrays, Texts, measurable, measure, two_parts
from sae_moral.sae.moral_latents import LatentProvenance, MoralLatents, TopScenario

MEMORY = 1 << 30


def find_moral_latents(
    sae: SaeLike,
    source: Any,
    data: MoralData,
    *,
    settings: LatentSettings | None = None,
    split: Split | None = None,
    select: Sequence[str] = ("train",),
    report: Sequence[str] = ("validation", "test"),
    memory: int = MEMORY,
    **options: Any,
) -> MoralLatents:
    """Find one SAE's moral latents.

    Args:
        sae: an SAE; see `load_sae`.
        source: a model; `Representations` of the data (pooled vectors, encoded by the SAE); or `LatentRepresentations`
            of this SAE.
        data: the labelled scenarios.
        settings: what the audited rule asks.
        split: parts by name; by default `group_split(data, settings.seed)`.
        select: parts to select on.
        report: parts every reported number is of.
        memory: bytes for a block of latents. In all, the vectors [n, d] (or, for TopK and tokens, 12 bytes per latent
            that fires), this, and about 18 kB per latent.
        options: as for `latent_representations` (granularity, template, pooling, bos, any_model, …).

    Raises:
        ValueError: as `load_sae`, `latent_representations` and `two_parts`; representations of other scenarios, latents
            of another SAE; no dimension with enough texts.
    """
    found = find_moral_latents_by_layer(
        sae, source, data, settings=settings, split=split, select=select, report=report, memory=memory, **options
    )
    if len(found) != 1:
        raise ValueError(f"SAEs of {len(found)} layers; expected one, or use find_moral_latents_by_layer")
    return next(iter(found.values()))


def find_moral_latents_by_layer(
    saes: SaeLike | Mapping[int, SaeLike],
    source: Any,
    data: MoralData,
    *,
    settings: LatentSettings | None = None,
    split: Split | None = None,
    select: Sequence[str] = ("train",),
    report: Sequence[str] = ("validation", "test"),
    memory: int = MEMORY,
    **options: Any,
) -> dict[int, MoralLatents]:
    """`find_moral_latents` for one SAE per layer, from one pass of the model.

    Raises:
        ValueError: as `find_moral_latents`.
    """
    settings = settings or LatentSettings()
    if isinstance(source, LatentRepresentations):
        latents = source
        _check_same(latents, saes, options)
    else:
        latents = latent_representations(source, data.text, saes, **options)
    if len(latents) != len(data):
        raise ValueError(f"vectors of {len(latents)} scenarios and {len(data)} records; expected the same scenarios")
    warn_of_prompts(latents)
    parts = two_parts(data, latents.length, split, select, report, settings.seed)
    measured = measurable(*parts, settings.items)
    if not measured.any():
        raise ValueError(
            f"no dimension has {settings.items} labelled texts to select on and 3 to report on; expected more "
            "scenarios, or LatentSettings(items=...)"
        )
    found = {}
    for layer in latents.layers:
        rows = np.concatenate([part.row for part in parts])
        arrays = measure(latents.subset(rows).columns(layer), *parts, measured, settings, memory)
        kind = "group_split" if split is None else "given"
        found[layer] = _result(latents, layer, data, parts, measured, arrays, settings, select, report, kind)
    return found


def fractions_by_layer(found: Mapping[int, MoralLatents]) -> list[dict[str, Any]]:
    """One row per layer: the shares of `MoralLatents.fractions`."""
    return [{"layer": layer, "latents": len(one), **one.fractions()} for layer, one in sorted(found.items())]


def _check_same(latents: LatentRepresentations, saes: SaeLike | Mapping[int, SaeLike], options: dict[str, Any]) -> None:
    if options:
        raise ValueError(f"these are latents already, and {', '.join(options)} would have no effect; leave them out")
    for layer, sae in load_saes(saes).items():
        if layer not in latents.layers or latents.saes[layer].sha256 != sae.sha256:
            raise ValueError(
                f"the latents of layer {layer} are not those of {sae.source}; expected latents of that SAE"
            )


def warn_of_prompts(latents: LatentRepresentations) -> None:
    """Warn of latents read from other prompts, or in another way, than an SAE was trained on."""
    for sae in latents.saes.values():
        if sae.bos == "prepend" and latents.provenance.get("first_token") == "text":
            problem = (
                "prompts that begin with BOS, and these vectors are of prompts without: capture with bos='prepend'"
            )
            warnings.warn(f"{sae.source} was trained on {problem}", SaeMoralWarning, stacklevel=3)
        without = sae.sae.cfg.metadata.prepend_bos is False and "bos" not in sae.trained_on
        if without and latents.provenance.get("first_token") != "text":
            problem = "prompts without BOS, and these vectors are of prompts that begin with it"
            warnings.warn(
                f"{sae.source} was trained on {problem}: capture with bos='none'", SaeMoralWarning, stacklevel=3
            )
        if sae.sae.cfg.metadata.exclude_special_tokens and "pooling" not in sae.trained_on:
            if latents.provenance.get("pooling") == "all" and latents.provenance.get("first_token") != "text":
                problem = "no special tokens, and these vectors pool them: capture with pooling='scenario'"
                warnings.warn(f"{sae.source} was trained on {problem}", SaeMoralWarning, stacklevel=3)
        for name in ("template", "pooling", "granularity", "bos"):
            wanted, found = sae.trained_on.get(name), latents.provenance.get(name)
            if None not in (wanted, found) and wanted != found:
                problem = f"{name} {wanted!r}, and these vectors are of {found!r}"
                warnings.warn(f"{sae.source} was trained on {problem}", SaeMoralWarning, stacklevel=3)


def _result(
    latents: LatentRepresentations,
    layer: int,
    data: MoralData,
    parts: tuple[Texts, Texts],
    measured: Bool[np.ndarray, "10"],
    raw: Arrays,
    settings: LatentSettings,
    select: Sequence[str],
    report: Sequence[str],
    split: str,
) -> MoralLatents:
    arrays, null = _classified(raw, measured, settings)
    of_sae = latents.saes[layer].describe()
    sizes = {
        f"{name}_{unit}": int(count)
        for name, part in zip(("selection", "report"), parts, strict=True)
        for unit, count in (("texts", len(part)), ("records", part.count.sum()))
    }
    provenance: LatentProvenance = {
        "data": {**data.provenance, "sha256": data.sha256, "n": len(data)},
        "measured": [name for name, enough in zip(DIMENSIONS, measured, strict=True) if enough],
        "n": {**sizes, "latents": len(arrays["passes"]), "tested": int(arrays["tested"].sum())},
        "settings": dataclasses.asdict(settings),
        "select": list(select),
        "report": list(report),
        "split": split,
        "parts": key("parts", selection=parts[0].row.tolist(), report=parts[1].row.tolist()),
        "capture": {name: value for name, value in latents.provenance.items() if name != "saes"},
    }
    result = MoralLatents(layer, of_sae, provenance, null, {}, arrays)
    moral = sorted({*result.latents(), *result.latents(rule="paper", limit=200)})
    top: dict[str, list[TopScenario]] = {
        str(latent): [
            {"id": data.id[row], "text": data.text[row], "value": float(value)}
            for row, value in zip(arrays["top_row"][latent], arrays["top_value"][latent], strict=True)
            if value > 0
        ]
        for latent in moral
    }
    return dataclasses.replace(result, top=top)


def _classified(
    raw: Arrays, measured: Bool[np.ndarray, "10"], settings: LatentSettings
) -> tuple[Arrays, dict[str, float | None]]:
    """Both rules on the true labels, and the shares they find on each of the permuted ones."""
    tested = raw["fired"] >= settings.firing
    family = tested[:, None] & measured[None, :]
    shares: dict[str, list[float]] = {"audited": [], "paper": [], "paper_moral": []}
    arrays = {name: array for name, array in raw.items() if array.ndim != 3} | {"tested": tested}
    for k in range(raw["selection_p"].shape[1]):
        q = q_values(raw["selection_p"][:, k], family)
        halves = raw["first_half_p"][:, k], raw["second_half_p"][:, k]
        passes, audited, selectivity = audit(raw["selection_r"][:, k], q, halves, tested, settings)
        paper = paper_classes(raw["paper_r"][:, k])
        if k == 0:
            arrays |= {name: np.ascontiguousarray(array[:, 0]) for name, array in raw.items() if array.ndim == 3}
            arrays |= {"selection_q": q, "passes": passes, "audited_class": audited, "selectivity": selectivity}
            arrays |= {"paper_class": paper, "replicated": _replicated(raw["partial_p"], passes)}
            continue
        shares["audited"].append(float(passes.any(axis=1).mean()))
        shares["paper"].append(float((paper == PAPER_CLASSES.index("monosemantic")).mean()))
        shares["paper_moral"].append(float((paper != PAPER_CLASSES.index("weak")).mean()))
    return arrays, {name: float(np.mean(values)) if values else None for name, values in shares.items()}


def _replicated(p: np.ndarray, passes: Bool[np.ndarray, "s 10"]) -> Bool[np.ndarray, "s 10"]:
    """Pairs that pass and are significant on the held-out part, after correction over the pairs that pass."""
    return passes & (q_values(p, passes) <= 0.05)
