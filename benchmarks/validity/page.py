"""docs/results/validity.md and its figures, from measured worlds."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.validity import figures
from benchmarks.validity.claims import claims, draws
from benchmarks.validity.plan import (
    BIAS_D,
    BIAS_N,
    COMPARED,
    COMPARED_WORLDS,
    LEAKING,
    METRICS,
    MORE_NULLS,
    NULLS,
    POWER_METRICS,
    SHARES,
    UNTESTABLE,
    VERDICT_WORLDS,
    Configuration,
)
from benchmarks.validity.store import Records
from benchmarks.validity.summary import (
    Coverage,
    coverage,
    family,
    headline_coverage,
    named,
    peaks,
    percent,
    rejected,
    rows,
    total,
    verdicts,
)
from benchmarks.validity.theory import truths

HEADLINES = {
    "audited": {
        "categorical": "auroc",
        "gradient": "spearman",
        "structural": "accuracy_polarity",
        "dimensional": "r2",
    },
    "paper": {"categorical": "cosine", "gradient": "spearman", "structural": "ari_polarity", "dimensional": "r2"},
}
Plan = Mapping[str, Configuration]
REMARKS = Path(__file__).parent / "remarks.md"
"""What a reader should make of the numbers: written by hand for the full run."""


def write(folder: Path, records: Records, plan: Plan, *, quick: bool) -> Path:
    """The page and its two figures; returns the page's path."""
    figures.overview(records, plan).savefig(folder / "validity.png", dpi=130)
    figures.power(records).savefig(folder / "validity-power.png", dpi=130)
    lines = [*_head(records, plan, quick), *claims(records, plan)]
    if not quick and REMARKS.exists():
        lines += ["", *REMARKS.read_text(encoding="utf8").splitlines()]
    lines += [*_verdicts(records, plan), *_compared(records, plan), *_how_often(records, plan)]
    lines += [
        *_false_positives(records, plan),
        *_coverage(records, plan),
        *_statistics(records, plan),
        *_power(records),
        *_bias(records),
    ]
    page = folder / "validity.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf8")
    return page


def _head(records: Records, plan: Plan, quick: bool) -> Iterator[str]:
    done, asked = sum(map(len, records.values())), sum(c.count for c in plan.values())
    yield "# Can the metrics be fooled?"
    yield ""
    yield f"Made on {date.today().isoformat()} ({platform.machine()}, {os.cpu_count()} shared CPU cores) by"
    yield ""
    yield "```sh"
    yield f"python -m benchmarks.validity --out out{' --quick' if quick else ''}"
    yield "```"
    yield ""
    yield f"{done:,} planted worlds of {asked:,}. Every world is invented scenarios with labels like Social-Chemistry's"
    yield "(a tenth of the records share their text with another) and vectors of which it is known what is in them; a"
    yield "strength is a share of their total variance. They go through the product's own preprocessing, metrics and"
    yield "controls (99 permutations and 300 resamples; 199 and 500 in the verdict table). Rates have 95 % Wilson"
    yield "intervals and the number of worlds in brackets."
    if done < asked:
        yield ""
        yield "**Not complete:** the run was cut short; the same command goes on where it ended. Read the brackets."
    yield ""
    yield "![Verdicts, false positives and coverage](validity.png)"


def _verdicts(records: Records, plan: Plan) -> Iterator[str]:
    yield from ("", "## Verdicts", "")
    c = next(c for c in plan.values() if c.part == "verdicts")
    yield f"One world of each kind, n = {c.n:,}, d = {c.d}; `everything` has three layers. Headline value (p within"
    yield "strata of length; p with labels moved between texts of any length, where length is not taken out): verdict."
    yield "Controls are `interval`, `null`, `nuisance` and `words`."
    yield ""
    yield "| world | protocol | " + " | ".join(METRICS) + " |"
    yield "|---|---|" + "---|" * len(METRICS)
    for world in VERDICT_WORLDS:
        for protocol in ("audited", "paper"):
            names = [c.name for c in plan.values() if (c.part, c.world, c.protocol) == ("verdicts", world, protocol)]
            entry = next((records[name][0] for name in names if name in records), None)
            if entry is not None:
                cells = [_verdict(entry, metric) for metric in METRICS]
                yield f"| {world} | {protocol} | " + " | ".join(cells) + " |"


def _verdict(entry: dict, metric: str) -> str:
    peak, word = entry["peaks"].get(metric), entry["verdicts"].get(metric, {}).get("verdict", "–")
    if not peak:
        return "no value"
    p = ", ".join(f"{peak[name]:.3f}" for name in ("p_value", "p_value_any_length") if peak.get(name) is not None)
    return f"{peak['value']:.3f} ({p or '–'}): {word}"


def _how_often(records: Records, plan: Plan) -> Iterator[str]:
    yield from ("", "## How often each verdict is given", "")
    yield "Under `audited` with the control `null` only (with `interval` where labels are shuffled); under `paper` with"
    yield "`interval` and `nuisance`, too, where something is in the vectors."
    yield ""
    yield "| world | protocol | n × d | worlds | " + " | ".join(METRICS) + " |"
    yield "|---|---|---|---|" + "---|" * len(METRICS)
    shown = (*NULLS, *MORE_NULLS, *LEAKING, *UNTESTABLE)
    for c in sorted((c for c in draws(plan) if c.world in shown), key=lambda c: (shown.index(c.world), c.protocol)):
        if entries := records.get(c.name, []):
            cells = [_counts(entries, metric) for metric in METRICS]
            yield f"| {c.world} | {c.protocol} | {c.n} × {c.d} | {len(entries)} | " + " | ".join(cells) + " |"


def _counts(entries: list, metric: str) -> str:
    counts = verdicts(entries, metric)
    n = sum(counts.values())
    return ", ".join(f"{word} {100 * k / n:.0f} %" for word, k in counts.most_common()) or "–"


def _compared(records: Records, plan: Plan) -> Iterator[str]:
    yield from ("", "## What `found` takes", "")
    yield "Verdicts on the same worlds with other controls. In `told by words` every text has a word that tells its"
    yield "pole: words alone read it perfectly, the vectors poorly."
    yield ""
    yield "| world | controls | worlds | " + " | ".join(METRICS) + " |"
    yield "|---|---|---|" + "---|" * len(METRICS)
    for world in COMPARED_WORLDS:
        for names in COMPARED:
            part = f"compared {'+'.join(names)}"
            for c in (c for c in plan.values() if (c.part, c.world) == (part, world)):
                if entries := records.get(c.name, []):
                    cells = [_counts(entries, metric) for metric in METRICS]
                    yield f"| {world} | {', '.join(names)} | {len(entries)} | " + " | ".join(cells) + " |"


def _false_positives(records: Records, plan: Plan) -> Iterator[str]:
    yield from ("", "## False positives", "")
    yield "How often p ≤ 0.05 for the headline, in worlds without morality; in the last column how often the verdict on"
    yield "at least one metric says that it is beyond chance. `families of …` are no null worlds while only equal texts"
    yield "are held together: a reader that knows a text knows the labels of its family. With `near` they are."
    yield ""
    yield "| world | protocol | n × d | " + " | ".join(METRICS) + " | one or more |"
    yield "|---|---|---|" + "---|" * (len(METRICS) + 1)
    for c in draws(plan):
        entries = records.get(c.name, [])
        if c.world.split(", four")[0] in (*NULLS, *MORE_NULLS, *LEAKING) and len(entries) >= 20:
            rates = [*(rejected(peaks(entries, metric, "p_value")) for metric in METRICS), family(entries)]
            yield f"| {c.world} | {c.protocol} | {c.n} × {c.d} | " + " | ".join(map(percent, rates)) + " |"


def _coverage(records: Records, plan: Plan) -> Iterator[str]:
    yield from ("", "## Coverage", "")
    yield "How often the 95 % interval of the headline holds the mean of all worlds of its kind; after the slash, the"
    yield "mean half width of the intervals over 1.96 standard deviations of the values (1 is right, more is too wide)."
    yield "`weak`, `middle`, `strong`: sink, rogue dimension, length, and polarity, typicality and foundations of 0.5,"
    yield "5 and 20 % each."
    yield ""
    yield "| world | protocol | n × d | " + " | ".join(METRICS) + " |"
    yield "|---|---|---|" + "---|" * len(METRICS)
    for c in draws(plan):
        entries = records.get(c.name, [])
        found = [headline_coverage(entries, metric) for metric in METRICS]
        if any(found):
            yield f"| {c.world} | {c.protocol} | {c.n} × {c.d} | " + " | ".join(map(_covered, found)) + " |"


def _statistics(records: Records, plan: Plan) -> Iterator[str]:
    yield from ("", "## Every statistic", "")
    yield "`audited`: false positives with labels shuffled, and coverage / width as above. Statistics that say what a"
    yield "clustering looks like have intervals for the clusters as they are, not for those of another sample."
    yield ""
    kinds = [c for c in draws(plan, "audited") if "interval" in c.controls.names and (c.n, c.d) == (300, 20)]
    kinds = [c for c in kinds if c.world in (NULLS[0], "weak", "middle", "strong")]
    nulls = [records.get(c.name, []) for c in draws(plan, "audited") if c.world == NULLS[0]]
    yield "| statistic | false positives | " + " | ".join(c.world for c in kinds) + " |"
    yield "|---|---|" + "---|" * len(kinds)
    for row in named([entry for c in kinds for entry in records.get(c.name, [])]):
        rate = total(rejected(rows(entries, row)[:, 3]) for entries in nulls if entries)
        found = [coverage(rows(records[c.name], row)) if c.name in records else None for c in kinds]
        yield f"| {row.replace('/', ' ')} | {percent(rate)} | " + " | ".join(map(_covered, found)) + " |"


def _power(records: Records) -> Iterator[str]:
    yield from ("", "## Detection", "", "![Detection against effect and n](validity-power.png)", "")
    yield "Share of worlds with p ≤ 0.05 (d = 100, noise with a falling spectrum, 39 permutations), where there are"
    yield f"{figures.ENOUGH} worlds or more; in the last column the fewest worlds that a cell rests on."
    yield ""
    yield "| metric | planted | protocol | n | " + " | ".join(f"{100 * share:g} %" for share in SHARES) + " | worlds |"
    yield "|---|---|---|---|" + "---|" * (len(SHARES) + 1)
    for world, metrics in POWER_METRICS.items():
        for metric in metrics:
            for protocol in ("audited", "paper"):
                for n in (500, 1000, 2000):
                    parts = [records.get(f"power/{protocol}/{world} {share}/{n}x100", []) for share in SHARES]
                    rates = [rejected(peaks(part, metric, "p_value")) for part in parts]
                    rates = [rate if rate is not None and rate.n >= figures.ENOUGH else None for rate in rates]
                    if any(rates):
                        cells = ["–" if rate is None else f"{100 * rate.value:.0f} %" for rate in rates]
                        cells.append(str(min(rate.n for rate in rates if rate is not None)))
                        yield f"| {metric} | {world} | {protocol} | {n:,} | " + " | ".join(cells) + " |"


def _bias(records: Records) -> Iterator[str]:
    yield from ("", "## Bias", "")
    yield "Mean of the statistic less its value for readers fitted on infinitely many scenarios, in closed form; in"
    yield f"brackets the standard error; d = {BIAS_D}, isotropic noise, no text twice."
    yield ""
    yield "| statistic | protocol | truth | " + " | ".join(f"n = {n:,}" for n in BIAS_N) + " |"
    yield "|---|---|---|" + "---|" * len(BIAS_N)
    for (protocol, world, statistic), truth in truths(BIAS_D).items():
        cells = []
        for n in BIAS_N:
            values = _values(records.get(f"bias/{protocol}/{world}/{n}x{BIAS_D}", []), statistic)
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            cells.append(f"{values.mean() - truth:+.3f} ({error:.3f})" if len(values) > 1 else "–")
        yield f"| {statistic.replace('/', ' ')} | {protocol} | {truth:.3f} | " + " | ".join(cells) + " |"


def _values(entries: list, statistic: str) -> np.ndarray:
    """Its overall row; where it has none, that of one foundation."""
    for group in ("overall", "care-harm"):
        values = rows(entries, f"{statistic}/{group}")[:, 0] if entries else np.zeros(0)
        if np.isfinite(values).any():
            return values[np.isfinite(values)]
    return np.zeros(0)


def _covered(found: Coverage | None) -> str:
    return "–" if found is None else f"{100 * found.rate.value:.1f} % / {found.width:.2f}"
