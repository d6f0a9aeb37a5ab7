"""Models × sources × protocols with every control: what the paper's protocol sees, what the audited one sees, and what
of it is more than length, words and chance.

    python benchmarks/replication/bundled.py --out results [--data SOURCE ...] [--models NAME ...] [--protocols P ...]
                                             [--halves] [--controls NAMES] [--templates chat ...] [--dtype D ...]
                                             [--only-run]

Writes a diagnosis, a report and a figure per combination, and `NAME.md` with the tables. --halves measures two random
halves of each source as well, groups of text kept whole: does a verdict come back? Captured vectors are kept below
--out, and finished combinations are taken as they are, so that an interrupted run goes on where it ended, and models
may be run side by side (--only-run) before the tables are made.
"""

from __future__ import annotations

import argparse
import platform
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import torch

from sae_moral import Diagnosis, diagnose, load_data
from sae_moral.data import MoralData
from sae_moral.results import Comparison

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
PROTOCOLS = ("paper", "audited")


HALVES = ("half 1", "half 2")
TITLES = {
    "bundled": "The bundled models",
    "qwen": "Qwen2.5-Coder-1.5B-Instruct",
    "four-sources": "Four sources side by side",
    "chat": "Models that chat, inside their chat templates and without",
    "scenarios": "The bundled models on scenarios-400",
}


@dataclass(frozen=True)
class Combination:
    """A model on a source, or on one of two halves of it, under a protocol, with the protocol's prompt or another."""

    model: str
    source: str
    protocol: str
    part: str = ""
    template: str = ""

    def folder(self, arguments: argparse.Namespace) -> Path:
        names = (self.model, Path(self.source).stem, str(arguments.limit or "all"), self.part, self.template)
        dtype = _own(self.model, arguments, "dtype")
        names = (*names, self.protocol, "" if dtype == "float32" else dtype)
        return arguments.out / "-".join(re.sub(r"\W+", "-", name).strip("-") for name in names if name)

    def data(self) -> MoralData:
        data = load_data(self.source)
        if not self.part:
            return data
        near = data.regrouped("near")
        names = np.random.default_rng(0).permutation(np.unique(near.group))
        return data.subset(np.flatnonzero(np.isin(near.group, names[HALVES.index(self.part) :: 2])))

    def run(self, arguments: argparse.Namespace) -> Diagnosis:
        folder = self.folder(arguments)
        if (folder / "diagnosis.json").exists():
            return Diagnosis.load(folder)
        diagnosis = diagnose(
            self.model,
            self.data(),
            limit=arguments.limit,
            protocol=self.protocol,
            template=self.template or None,
            dtype=_own(self.model, arguments, "dtype"),
            layers=_own(self.model, arguments, "layers"),
            controls=arguments.controls,
            store=arguments.out / "store",
        )
        diagnosis.report(folder.parent / f"{folder.name}.html")
        diagnosis.save(folder)
        return diagnosis


def _own(model: str, arguments: argparse.Namespace, option: str) -> str:
    """A model's value of an option that is given for all models, or one each."""
    return dict(zip(arguments.models, getattr(arguments, option) * len(arguments.models), strict=False))[model]


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


def table(diagnoses: dict[Combination, Diagnosis], protocol: str) -> list[str]:
    columns = COLUMNS[protocol]
    lines = [
        f"| model | data | n | {' | '.join(' '.join(column) for column in columns)} | minutes |",
        "|---|---|---|" + "---|" * (len(columns) + 1),
    ]
    for one, diagnosis in diagnoses.items():
        if one.protocol == protocol:
            numbers = " | ".join(best(diagnosis, *column) for column in columns)
            minutes = sum(diagnosis.provenance["seconds"].values()) / 60
            start = f"| {one.model} | {_label(one, diagnosis)} | {diagnosis.provenance['data']['n']}"
            lines.append(f"{start} | {numbers} | {minutes:.0f} |")
    return lines


def control_table(diagnoses: dict[Combination, Diagnosis], protocol: str) -> list[str]:
    """Every headline's peak against its controls."""
    lines = [
        "| model | data | metric | peak (layer) | 95 % | p | equal texts | without valence | best baseline | lead | "
        "margin | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one, diagnosis in diagnoses.items():
        if one.protocol != protocol or diagnosis.provenance["controls"] is None:
            continue
        for metric in diagnosis.metrics:
            start = f"| {one.model} | {_label(one, diagnosis)} | {metric} "
            if (peak := diagnosis.peaks.get(metric)) is None:
                lines.append(f"{start}| –" + " |" * 9)
                continue
            verdict = diagnosis.verdicts[metric]
            compared = {c.against: c for c in diagnosis.comparisons if c.metric == metric}.get(
                verdict.best_baseline or ""
            )
            cells = [
                f"{peak.value:.3f} ({peak.layer})",
                "–" if peak.ci_low is None else f"{peak.ci_low:.3f} … {peak.ci_high:.3f}",
                _number(peak.p_corrected),
                _number(_regrouped(diagnosis, metric)),
                _number(_left(diagnosis, metric)),
                "–" if compared is None else f"{compared.against} {compared.against_value:.3f}",
                "–" if compared is None else _lead(compared),
                _number(peak.margin, 2),
                verdict.word,
            ]
            lines.append(f"{start}{peak.statistic} | {' | '.join(cells)} |")
    return lines


def replication_table(diagnoses: dict[Combination, Diagnosis]) -> list[str]:
    """Peaks and verdicts of the whole and of both halves."""
    lines = ["| model | metric | whole | half 1 | half 2 | |", "|---|---|---|---|---|---|"]
    for one, whole in diagnoses.items():
        halves = [diagnoses.get(replace(one, part=part)) for part in HALVES]
        if one.part or None in halves:
            continue
        for metric in whole.verdicts:
            three = [d for d in (whole, *halves) if d is not None]
            words = [d.verdicts[metric].word if metric in d.verdicts else "–" for d in three]
            cells = [
                f"{d.peaks[metric].value:.3f} ({d.peaks[metric].layer}), {word}" if metric in d.peaks else word
                for d, word in zip(three, words, strict=True)
            ]
            agree = "halves agree" if words[1] == words[2] else "halves differ"
            lines.append(f"| {one.model} | {metric} | {' | '.join(cells)} | {agree} |")
    return lines


def _label(one: Combination, diagnosis: Diagnosis) -> str:
    return ", ".join(part for part in (str(diagnosis.provenance["data"]["source"]), one.part, one.template) if part)


def _regrouped(diagnosis: Diagnosis, metric: str) -> float | None:
    """The peak with groups of equal text, where groups were of near text."""
    found = [r.other_value for r in diagnosis.regrouped if (r.what, r.metric) == ("model", metric)]
    return found[0] if found else None


def _left(diagnosis: Diagnosis, metric: str) -> float | None:
    baseline = diagnosis.baselines.get("without valence")
    if baseline is None or metric not in baseline.profiles:
        return None
    profile = baseline.profiles[metric]
    return profile.values[profile.layers.index(diagnosis.peaks[metric].layer)]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _lead(comparison: Comparison) -> str:
    ends = "" if comparison.ci_low is None else f" [{comparison.ci_low:+.3f}, {comparison.ci_high:+.3f}]"
    return f"{comparison.difference:+.3f}{ends} (p {_number(comparison.p_value)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=["moralstrength"])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS))
    parser.add_argument("--limit", type=int, help="at most so many scenarios of each source")
    parser.add_argument("--layers", nargs="+", default=["all"], help="for all models, or one each")
    parser.add_argument("--controls", default="all")
    parser.add_argument("--templates", nargs="+", default=[], help="further prompts, e.g. chat (audited)")
    parser.add_argument("--dtype", nargs="+", default=["float32"], help="of all models, or one each")
    parser.add_argument("--halves", action="store_true", help="two random halves of each source as well (audited)")
    parser.add_argument("--only-run", action="store_true", help="no tables")
    parser.add_argument("--page", type=Path, help="a folder for NAME.md (tables and remarks) and its figures")
    parser.add_argument("--name", default="bundled", help=f"of the page: {', '.join(TITLES)}, or of a table alone")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    asked = [
        Combination(model, source, protocol, part)
        for model, source, protocol in product(arguments.models, arguments.data, arguments.protocols)
        for part in ("", *(HALVES if arguments.halves and protocol == "audited" else ()))
    ]
    asked += [replace(one, template=t) for one in asked for t in arguments.templates if one.protocol == "audited"]
    diagnoses = {one: one.run(arguments) for one in asked}
    if arguments.only_run:
        return
    tables = [line for protocol in arguments.protocols for line in sections(diagnoses, protocol)]
    found = "\n".join([made_by(arguments), "", *tables])
    (arguments.out / f"{arguments.name}.md").write_text(found + "\n", encoding="utf8")
    for one, diagnosis in diagnoses.items():
        diagnosis.figure().savefig(f"{one.folder(arguments)}.png", dpi=130)
    if arguments.page is not None:
        remarks = Path(__file__).with_name(f"{arguments.name}-remarks.md").read_text(encoding="utf8")
        for one in diagnoses:
            figure = f"{one.model}-{one.protocol}.png"
            if not one.part and not one.template and f"({figure})" in remarks:
                shutil.copy(f"{one.folder(arguments)}.png", arguments.page / figure)
        page = f"# {TITLES[arguments.name]}\n\n{found}\n{remarks}"
        (arguments.page / f"{arguments.name}.md").write_text(page, encoding="utf8")
    print(found)


def made_by(arguments: argparse.Namespace) -> str:
    """When, where and how."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, CPU"
    where += f", {' and '.join(dict.fromkeys(arguments.dtype))}"
    how = f"--layers {' '.join(arguments.layers)} --controls {arguments.controls}" + " --halves" * arguments.halves
    options = {"--models": arguments.models, "--templates": arguments.templates}
    how += "".join(f" {name} {shlex.join(values)}" for name, values in options.items() if values not in ([], [*MODELS]))
    how += f" --limit {arguments.limit}" * bool(arguments.limit) + f" --dtype {' '.join(arguments.dtype)}"
    how += f" --name {arguments.name}"
    data = " ".join(Path(source).name for source in arguments.data)
    start = f"python benchmarks/replication/bundled.py --out out --data {data}"
    command = f"{start} --protocols {' '.join(arguments.protocols)} {how} --page docs/results"
    return (
        f"Made on {date.today().isoformat()} ({where}) by `{command}`. Every headline at its best "
        "layer, in brackets. p: permuted labels, corrected for the choice of the layer and for the metrics. Equal "
        "texts: the same with these held together, not near ones. Without valence: the same layer, read without how "
        "pleasant a scenario is. Lead: over the baseline that is exceeded least, with its 95 % interval and p."
    )


def sections(diagnoses: dict[Combination, Diagnosis], protocol: str) -> list[str]:
    """The tables of a protocol."""
    own = {one: diagnosis for one, diagnosis in diagnoses.items() if one.protocol == protocol}
    whole = {one: diagnosis for one, diagnosis in own.items() if not one.part}
    lines = [f"## Protocol `{protocol}`", "", *table(whole, protocol), "", *control_table(whole, protocol), ""]
    if len(whole) < len(own):
        lines += ["### Two random halves", "", *replication_table(own), "", *control_table(own, protocol)[:2]]
        lines += [line for line in control_table(own, protocol)[2:] if ", half " in line] + [""]
    for one, diagnosis in whole.items():
        lines += [
            f"- {one.model} × {_label(one, diagnosis)}: {warning}" for warning in diagnosis.provenance["warnings"]
        ]
    return [*lines, ""]


if __name__ == "__main__":
    main()
