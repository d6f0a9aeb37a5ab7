"""Models × sources × protocols with every control: what the paper's protocol sees, what the audited one sees, and what
of it is more than length, words and chance.

    python benchmarks/replication/bundled.py --out results [--data SOURCE ...] [--models NAME ...] [--protocols P ...]

Writes a diagnosis, a report and a figure per combination, and `NAME.md` with the tables. Captured vectors are kept
below --out, and finished combinations are taken as they are, so that an interrupted run goes on where it ended.
"""

from __future__ import annotations

import argparse
import platform
from datetime import date
from pathlib import Path

import torch

from sae_moral import Diagnosis, diagnose, load_data, load_model
from sae_moral.results import Comparison

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
PROTOCOLS = ("paper", "audited")


def run(model: object, name: str, source: str, protocol: str, arguments: argparse.Namespace) -> Diagnosis:
    folder = arguments.out / f"{name}-{Path(source).stem}-{arguments.limit or 'all'}-{protocol}"
    if (folder / "diagnosis.json").exists():
        return Diagnosis.load(folder)
    diagnosis = diagnose(
        model,
        source,
        protocol=protocol,
        limit=arguments.limit,
        layers=arguments.layers,
        controls=arguments.controls,
        store=arguments.out / "store",
    )
    diagnosis.report(folder.parent / f"{folder.name}.html")
    diagnosis.save(folder)
    return diagnosis


def best(diagnosis: Diagnosis, metric: str, statistic: str) -> str:
    """The highest value over layers of a statistic's overall row, or the range of its groups, with the layer."""
    rows = [
        (row.value, row.layer, row.group)
        for row in diagnosis.rows
        if (row.metric, row.statistic) == (metric, statistic) and row.value is not None
    ]
    if overall := [row for row in rows if row[2] == "overall"]:
        value, layer, _ = max(overall, key=lambda row: row[0])
        return f"{value:.3f} ({layer})"
    return f"{min(rows)[0]:.2f} … {max(rows)[0]:.2f}" if rows else "–"


COLUMNS = {
    "paper": [
        ("categorical", "cosine"),
        ("gradient", "spearman"),
        ("structural", "ari_polarity"),
        ("structural", "ari_foundation"),
        ("dimensional", "r2"),
    ],
    "audited": [
        ("categorical", "auroc"),
        ("categorical", "cosine_corrected"),
        ("gradient", "spearman"),
        ("structural", "accuracy_polarity"),
        ("structural", "accuracy_foundation"),
        ("dimensional", "r2"),
        ("dimensional", "spearman_valence"),
    ],
}


def table(diagnoses: dict[tuple[str, str, str], Diagnosis], protocol: str) -> list[str]:
    columns = COLUMNS[protocol]
    lines = [
        "| model | data | n | " + " | ".join(f"{metric} {statistic}" for metric, statistic in columns) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for (model, source, used), diagnosis in diagnoses.items():
        if used == protocol:
            n = diagnosis.provenance["data"]["n"]
            numbers = " | ".join(best(diagnosis, *column) for column in columns)
            lines.append(f"| {model} | {source} | {n} | {numbers} |")
    return lines


def control_table(diagnoses: dict[tuple[str, str, str], Diagnosis], protocol: str) -> list[str]:
    """Every headline's peak against its controls."""
    lines = [
        "| model | data | metric | peak (layer) | 95 % | p | p, any length | − nuisance | − random weights "
        "| − bag of words | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, source, used), diagnosis in diagnoses.items():
        if used != protocol or diagnosis.provenance["controls"] is None:
            continue
        for metric in diagnosis.metrics:
            peak = diagnosis.peaks.get(metric)
            if peak is None:
                lines.append(f"| {model} | {source} | {metric} | – |" + " |" * 7)
                continue
            compared = {one.against: one for one in diagnosis.comparisons if one.metric == metric}
            differences = [_difference(compared.get(name)) for name in ("nuisance", "random weights", "bag of words")]
            cells = [
                f"{peak.value:.3f} ({peak.layer})",
                "–" if peak.ci_low is None else f"{peak.ci_low:.3f} … {peak.ci_high:.3f}",
                *(_p(p) for p in (peak.p_value, peak.p_value_any_length)),
                *differences,
                diagnosis.verdicts[metric].word,
            ]
            lines.append(f"| {model} | {source} | {metric} {peak.statistic} | {' | '.join(cells)} |")
    return lines


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return "–"
    return f"{comparison.difference:+.3f} (p {_p(comparison.p_value)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=["moralstrength"])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS))
    parser.add_argument("--limit", type=int, help="at most so many scenarios of each source")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--controls", default="all")
    parser.add_argument("--name", default="bundled", help="of the table that is written")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    diagnoses: dict[tuple[str, str, str], Diagnosis] = {}
    for name in arguments.models:
        model = load_model(name)
        for source in arguments.data:
            label = str(load_data(source).provenance["source"])
            for protocol in arguments.protocols:
                diagnoses[name, label, protocol] = run(model, name, source, protocol, arguments)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, CPU"
    lines = [f"{date.today().isoformat()}, {where}, float32. Highest value over layers (layer).", ""]
    for protocol in arguments.protocols:
        lines += [
            f"## Protocol `{protocol}`",
            "",
            *table(diagnoses, protocol),
            "",
            *control_table(diagnoses, protocol),
            "",
        ]
        for (model, source, used), diagnosis in diagnoses.items():
            if used == protocol:
                lines += [f"- {model} × {source}: {warning}" for warning in diagnosis.provenance["warnings"]]
        lines.append("")
    (arguments.out / f"{arguments.name}.md").write_text("\n".join(lines), encoding="utf8")
    for (model, source, protocol), diagnosis in diagnoses.items():
        diagnosis.figure().savefig(arguments.out / f"{model}-{source}-{protocol}.png", dpi=130)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
