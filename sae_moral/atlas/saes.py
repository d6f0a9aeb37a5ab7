"""SAEs of one model side by side: their diagnoses beside the stream they encode, and their moral latents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_moral.data import MoralData
from sae_moral.diagnosis import Diagnosis, diagnose
from sae_moral.io import write_json, write_text
from sae_moral.provenance import describe_model
from sae_moral.report.sae_page import shown_latents, write_sae_report
from sae_moral.report.version1 import Version1
from sae_moral.report.words import MISSING, interval, number, p_value, signed
from sae_moral.sae import LoadedSae, MoralLatents, find_moral_latents_by_layer, load_saes
from sae_moral.sae.latents import latents_by_token
from sae_moral.sae.load import SaeLike

BEFORE = "residual stream"
COLUMNS = (
    "SAE",
    "layer",
    "latents",
    "metric",
    "stream",
    "encoded",
    "difference",
    "interval",
    "p (encoded is more)",
    "verdict",
)


@dataclass(frozen=True, eq=False)
class ComparedSaes:
    """What encoding does to each metric's headline, SAE by SAE.

    Attributes:
        rows: per SAE and metric: `sae`, `sha256`, `layer`, `d_sae`, `architecture`, `metric`, `statistic`, `before`
            (the residual stream's headline at that layer), `after` (the latents'), `difference`, `ci_low`, `ci_high`,
            `p_value` (that the latents show more), `verdict` (of the latents, against permuted labels and baselines).
    """

    rows: list[dict[str, Any]]

    def table(self) -> str:
        """As Markdown."""
        lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
        for row in self.rows:
            cells = [
                *(row["sae"], str(row["layer"]), f"{row['d_sae']:,}", f"{row['metric']} ({row['statistic']})"),
                *(number(row["before"]), number(row["after"])),
                MISSING if row["difference"] is None else signed(row["difference"]),
                MISSING if row["ci_low"] is None else interval(row["ci_low"], row["ci_high"]),
                MISSING if row["p_value"] is None else p_value(row["p_value"]),
                row["verdict"] or MISSING,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def compare_saes(
    model: Any, saes: Sequence[SaeLike | Mapping[int, SaeLike]], data: MoralData, out: str | Path, **options: Any
) -> ComparedSaes:
    """Diagnose the latents of each SAE at its own layer. A diagnosis that `out` has already, of the same SAE, model,
    data and options, is not made again.

    Args:
        model: a model with hooks and a tokenizer.
        saes: what `load_saes` takes, any number of SAEs each.
        data: the scenarios.
        out: folder: a diagnosis per SAE, `saes.json` and `saes.md`.
        options: as for `diagnose` (protocol, metrics, controls, …).

    Raises:
        ValueError: as `load_saes` and `diagnose`; no SAE.
    """
    loaded = [sae for source in saes for sae in load_saes(source, model=model).values()]
    if not loaded:
        raise ValueError("no SAE given; expected at least one")
    out, rows = Path(out), []
    about = {"model": describe_model(model), "data": data.sha256, "options": {k: str(v) for k, v in options.items()}}
    for sae in loaded:
        rows += _rows(sae, _diagnosed(model, sae, data, out, {**about, "sae": sae.sha256}, options))
    compared = ComparedSaes(rows)
    write_json(out / "saes.json", {"schema_version": 1, "kind": "compared_saes", **about, "results": rows})
    write_text(out / "saes.md", compared.table() + "\n")
    return compared


def _diagnosed(
    model: Any, sae: LoadedSae, data: MoralData, out: Path, key: dict[str, Any], options: dict[str, Any]
) -> Diagnosis:
    folder = out / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', sae.source)}-{sae.sha256[:8]}"
    kept = folder / "key.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf8")) == json.loads(json.dumps(key)):
        return Diagnosis.load(folder)
    kept.unlink(missing_ok=True)
    diagnosis = diagnose(model, data, sae={sae.layer: sae}, **options)
    diagnosis.save(folder)
    diagnosis.report(folder / "report.html")
    write_json(kept, key)
    return diagnosis


def _rows(sae: LoadedSae, record: Diagnosis) -> list[dict[str, Any]]:
    diagnosis = Version1(record)
    controls, rows = diagnosis.provenance["controls"], []
    compared = {one["metric"]: one for one in controls.get("comparisons", ()) if one["against"] == BEFORE}
    for metric in diagnosis.provenance["metrics"]:
        statistic = diagnosis.provenance["metrics"][metric]["headline"]
        found = [r for r in diagnosis.rows if (r["metric"], r["statistic"]) == (metric, statistic)]
        overall = next((row["value"] for row in found if row["group"] == "overall"), None)
        one = compared.get(metric)
        rows.append(
            {
                **{"sae": sae.source, "sha256": sae.sha256, "layer": sae.layer, "d_sae": sae.d_sae},
                **{"architecture": sae.architecture, "metric": metric, "statistic": statistic},
                "before": one["against_value"] if one else None,
                "after": one["value"] if one else overall,
                **{name: one[name] if one else None for name in ("difference", "ci_low", "ci_high", "p_value")},
                "verdict": (controls.get("verdicts", {}).get(metric) or {}).get("verdict"),
            }
        )
    return rows


def latents_with_page(
    model: Any, sae: SaeLike | Mapping[int, SaeLike], data: MoralData, out: str | Path, **options: Any
) -> tuple[dict[int, MoralLatents], Path]:
    """`find_moral_latents_by_layer`, kept in `out/layer_NNN` (`out` itself for one SAE), and the page `latents.html`
    with every shown scenario's tokens.

    Args:
        options: as for `find_moral_latents_by_layer`.

    Raises:
        ValueError: as `find_moral_latents_by_layer`.
    """
    out, saes = Path(out), load_saes(sae, model=model)
    found = find_moral_latents_by_layer(saes, model, data, **options)
    tokens = {}
    for layer, one in found.items():
        one.save(out if len(found) == 1 else out / f"layer_{layer:03d}")
        template = str(one.provenance["capture"]["template"])
        tokens[layer] = _tokens(model, saes[layer], one, template)
    return found, write_sae_report(found, out / "latents.html", tokens=tokens)


def _tokens(
    model: Any, sae: LoadedSae, found: MoralLatents, template: str
) -> dict[int, dict[str, list[tuple[str, float]]]]:
    shown = shown_latents(found)
    text = sorted({scenario["text"] for latent in shown for scenario in found.top.get(str(latent), ())})
    if not text:
        return {}
    values = latents_by_token(model, sae, text, shown, template=template)
    return {
        latent: {name: per_latent[i] for name, per_latent in zip(text, values, strict=True)}
        for i, latent in enumerate(shown)
    }
