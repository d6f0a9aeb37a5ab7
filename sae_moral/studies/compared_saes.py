"""`compare_saes`: SAEs of one model side by side, each beside the residual stream it encodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sae_moral.capture import hooked_model
from sae_moral.diagnosis import diagnose
from sae_moral.io import check_claim, claim, locked, read_typed, record, typed, write_together
from sae_moral.provenance import HookedModel, describe_model
from sae_moral.report.words import count, interval, number, p_value, signed
from sae_moral.results import DiagnosisRecord, ModelFacts
from sae_moral.sae import LoadedSae, load_saes
from sae_moral.sae.load import SaeLike
from sae_moral.shown import at, shown
from sae_moral.studies.shape import shape_of_diagnosis
from sae_moral.studies.study import Assembly, Cell, Study
from sae_moral.tables import Table, markdown_table, table, text_table

if TYPE_CHECKING:
    from sae_moral.controls import Controls
    from sae_moral.data import MoralData
    from sae_moral.metrics import Metric
    from sae_moral.protocol import Protocol

SCHEMA_VERSION = 2
FILES = ("saes.json", "saes.html")
_OLD_FILES = ("saes.md",)
"""Of version 0.1."""
BEFORE = "residual stream"


@shown()
@dataclass(frozen=True)
class SaeComparison:
    """What encoding does to one metric's headline.

    Attributes:
        sae, sha256, layer, d_sae, architecture: which SAE.
        metric, statistic: which headline.
        before: of the residual stream at the SAE's layer.
        after: of the latents.
        difference: after − before.
        ci_low, ci_high: its interval.
        p_value: that the latents show more.
        verdict: of the latents, against permuted labels and baselines.
    """

    sae: str
    sha256: str
    layer: int
    d_sae: int
    architecture: str
    metric: str
    statistic: str
    before: float | None
    after: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    verdict: str | None


@shown()
@dataclass(frozen=True)
class ReseedNoise:
    """How far SAEs lie apart that differ in the seed of their training alone, beside how far different SAEs do.

    Attributes:
        sae, layer: which SAE.
        reseeds: names of its other seeds.
        metric, statistic: which headline.
        values: of the latents of the SAE, and of each other seed.
        between_seeds: highest less lowest of them; None where fewer than two have a value.
        sae_to_sae: largest difference of the SAE from another one of its layer; None where there is none.
    """

    sae: str
    layer: int
    reseeds: list[str]
    metric: str
    statistic: str
    values: list[float | None]
    between_seeds: float | None
    sae_to_sae: float | None


@shown(facts=lambda found: {"model": at(found.model, "name")}, tables=lambda found: found.tables())
@dataclass(frozen=True, eq=False)
class ComparedSaes:
    """SAEs of one model on the same scenarios.

    Attributes:
        rows: one per SAE and metric.
        model: whose SAEs they are.
        data: checksum of the scenarios.
        options: what else shaped the diagnoses.
        reseeds: one per SAE with other seeds and metric.
    """

    rows: list[SaeComparison]
    model: ModelFacts
    data: str
    options: dict[str, Any]
    reseeds: list[ReseedNoise] = field(default_factory=list)

    def table(self) -> str:
        """As Markdown; a second table for other seeds."""
        return "\n\n".join(markdown_table(made) for made in self.tables())

    def summary(self) -> str:
        """Tables for the terminal."""
        return "\n\n".join(text_table([made.header, *made.rows]) for made in self.tables())

    def tables(self) -> list[Table]:
        """As words: SAEs and metrics; other seeds, where there are any."""
        return [self._table(), *([self._reseeds()] if self.reseeds else [])]

    def _reseeds(self) -> Table:
        return table(
            self.reseeds,
            {
                "SAE": lambda row: row.sae,
                "layer": lambda row: count(row.layer),
                "metric": lambda row: f"{row.metric} ({row.statistic})",
            },
            {
                "encoded, by seed": lambda row: ", ".join(map(number, row.values)),
                "between seeds": lambda row: number(row.between_seeds),
                "to other SAEs": lambda row: number(row.sae_to_sae),
            },
            always=("encoded, by seed", "between seeds", "to other SAEs"),
        )

    def _table(self) -> Table:
        return table(
            self.rows,
            {
                "SAE": lambda row: row.sae,
                "layer": lambda row: count(row.layer),
                "latents": lambda row: count(row.d_sae),
                "metric": lambda row: f"{row.metric} ({row.statistic})",
            },
            {
                "stream": lambda row: number(row.before),
                "encoded": lambda row: number(row.after),
                "difference": lambda row: signed(row.difference),
                "interval": lambda row: interval(row.ci_low, row.ci_high),
                "p (encoded is more)": lambda row: p_value(row.p_value),
                "verdict": lambda row: row.verdict or "–",
            },
            always=("stream", "encoded", "difference", "interval", "p (encoded is more)", "verdict"),
        )

    def save(self, folder: str | Path) -> Path:
        """Write `saes.json`, a record, and its page `saes.html` together; returns the path of the record."""
        from sae_moral.studies.compared_page import compared_page

        content: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "options": self.options,
            "results": self.rows,
        }
        content["reseeds"] = self.reseeds
        texts = record("compared_saes", SCHEMA_VERSION, content), compared_page(self)
        write_together(folder, dict(zip(FILES, texts, strict=True)))
        return Path(folder) / FILES[0]

    @classmethod
    def load(cls, path: str | Path) -> ComparedSaes:
        """Read a `saes.json`, or the folder that holds one; files of every older version load.

        Raises:
            DataError: another kind of file, damaged, or of a newer schema; names file and place.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        path = path / FILES[0] if path.is_dir() else path
        content = read_typed(path, _Content, "compared_saes", SCHEMA_VERSION, checked_from=2, migrate=_migrated)
        return cls(content.results, content.model, content.data, content.options, content.reseeds)


def compare_saes(
    model: HookedModel | nn.Module,
    saes: Sequence[SaeLike | Mapping[int, SaeLike]],
    data: MoralData,
    out: str | Path,
    *,
    protocol: str | Protocol = "audited",
    metrics: Sequence[str | Metric] | None = None,
    controls: str | Sequence[str] | Controls = "default",
    match: str | None = None,
    reseed: Sequence[SaeLike | Mapping[int, SaeLike]] = (),
    any_model: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> ComparedSaes:
    """Diagnose the latents of each SAE at its own layer. A diagnosis that `out` has already, of the same SAE, model,
    data and options, is not made again.

    Args:
        model: as for `capture`.
        saes: what `load_saes` takes, any number of SAEs each.
        data: the scenarios.
        out: folder: a diagnosis per SAE, `saes.json` and `saes.html`.
        protocol: as for `diagnose`.
        metrics: as for `diagnose`.
        controls: as for `diagnose`.
        match: as for `diagnose`.
        reseed: SAEs that differ from one of `saes` in the seed of their training alone. They are no rows of their own:
            what they differ by is what a seed does.
        any_model: accept SAEs of a model with another name.
        overwrite: write to `out` even if it holds something else.
        progress: as for `diagnose`.

    Raises:
        ValueError: as `load_saes` and `diagnose`; no SAE, one SAE twice; a reseeded SAE that has not the layer and the
            configuration of exactly one of the others.
        FolderError: `out` holds something else.
    """
    model = hooked_model(model)
    how = {"model": model, "any_model": any_model}
    loaded = [sae for source in saes for sae in load_saes(source, **how).values()]
    if not loaded:
        raise ValueError("no SAE given; expected at least one")
    others = [sae for source in reseed for sae in load_saes(source, **how).values()]
    partners = [_partner(sae, loaded) for sae in others]
    shaped = shape_of_diagnosis(data, protocol=protocol, metrics=metrics, controls=controls, match=match)
    options = {"protocol": protocol, "metrics": metrics, "controls": controls, "match": match, "progress": progress}
    facts = describe_model(model)

    def cell(sae: LoadedSae) -> Cell:
        of_sae = {"sae": sae.sha256, "layer": sae.layer}
        return Cell(sae.source, {"model": facts["identity"], **of_sae, **shaped}, lambda folder: work(sae, folder))

    def work(sae: LoadedSae, folder: Path) -> list[SaeComparison]:
        diagnosis = diagnose(model, data, sae={sae.layer: sae}, any_model=any_model, **options)
        diagnosis.report(folder / "report.html")
        diagnosis.save(folder)
        return _rows(sae, diagnosis)

    out = Path(out)
    if not overwrite:
        check_claim(out, "compared_saes", {}, files=(*FILES, *_OLD_FILES))
    with locked(out, wait=True):
        claim(out, "compared_saes", {}, files=(*FILES, *_OLD_FILES), overwrite=overwrite)
    assembly = Assembly(out)
    done = Study(out, "sae-diagnosis").run(map(cell, [*loaded, *others]), what="SAEs", progress=progress)
    measured = [[typed(row, SaeComparison, file=one.folder) for row in one.value] for one in done]
    rows = [row for own in measured[: len(loaded)] for row in own]
    again = list(zip(partners, measured[len(loaded) :], strict=True))
    noise = [
        _noise(row, [(sae, other) for partner, own in again if partner == i for sae, other in _named(own, row)], rows)
        for i in sorted(set(partners))
        for row in measured[i]
    ]
    compared = ComparedSaes(rows, facts, data.sha256, shaped, noise)
    assembly.make([rows, facts, shaped, noise], lambda: compared.save(out))
    return compared


def _rows(sae: LoadedSae, diagnosis: DiagnosisRecord) -> list[SaeComparison]:
    against = {one.metric: one for one in diagnosis.comparisons if one.against == BEFORE}
    stream = diagnosis.baselines[BEFORE].profiles if BEFORE in diagnosis.baselines else {}
    rows = []
    for metric, card in diagnosis.metrics.items():
        one, peak, verdict = against.get(metric), diagnosis.peaks.get(metric), diagnosis.verdicts.get(metric)
        before = one.against_value if one else stream[metric].values[0] if metric in stream else None
        after = peak.value if peak else None
        rows.append(
            SaeComparison(
                sae.source,
                sae.sha256,
                sae.layer,
                sae.d_sae,
                sae.architecture,
                metric,
                card.headline,
                before,
                after,
                None if before is None or after is None else after - before,
                one.ci_low if one else None,
                one.ci_high if one else None,
                one.p_value if one else None,
                verdict.word if verdict else None,
            )
        )
    return rows


def _partner(sae: LoadedSae, among: Sequence[LoadedSae]) -> int:
    """Place of the SAE that a reseeded one is another seed of.

    Raises:
        ValueError: there is none, or more than one, or it is that SAE itself.
    """
    own = [i for i, other in enumerate(among) if other.layer == sae.layer and _kind(other) == _kind(sae)]
    name = f"{sae.source} (layer {sae.layer}, {sae.architecture}, {sae.d_sae} latents), given as another seed,"
    if len(own) != 1:
        raise ValueError(
            f"{name} has the layer and the configuration of {len(own) or 'none'} of the SAEs; expected those of one"
        )
    if among[own[0]].sha256 == sae.sha256:
        raise ValueError(f"{name} has the very weights of {among[own[0]].source}; expected those of another training")
    return own[0]


def _kind(sae: LoadedSae) -> dict[str, Any]:
    """All that two seeds have in common."""
    named = ("source", "sha256", "neuronpedia_id", "seed")
    return {key: value for key, value in sae.describe().items() if key not in named} | {"on": dict(sae.trained_on)}


def _named(rows: Sequence[SaeComparison], like: SaeComparison) -> list[tuple[str, float | None]]:
    return [(row.sae, row.after) for row in rows if row.metric == like.metric]


def _noise(
    row: SaeComparison, reseeds: Sequence[tuple[str, float | None]], rows: Sequence[SaeComparison]
) -> ReseedNoise:
    """Of one metric of an SAE, from the values of its other seeds and all rows."""
    values = [row.after, *(value for _, value in reseeds)]
    known = [value for value in values if value is not None]
    beside = [one for one in rows if (one.layer, one.metric) == (row.layer, row.metric) and one.sha256 != row.sha256]
    apart = [abs(one.after - row.after) for one in beside if one.after is not None and row.after is not None]
    return ReseedNoise(
        row.sae,
        row.layer,
        [name for name, _ in reseeds],
        row.metric,
        row.statistic,
        values,
        max(known) - min(known) if len(known) > 1 else None,
        max(apart) if apart else None,
    )


@dataclass(frozen=True)
class _Content:
    model: ModelFacts
    data: str
    options: dict[str, Any]
    results: list[SaeComparison]
    reseeds: list[ReseedNoise] = field(default_factory=list)


def _migrated(version: int, content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had a sample of the weights in the place of the model's identity."""
    model = {"identity" if name == "weights" else name: value for name, value in content["model"].items()}
    return {**content, "model": model}
