"""What must hold in planted worlds, and whether it does: rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.validity.plan import (
    CAUTIOUS,
    COMPARED,
    COMPARED_WORLDS,
    HEAVY_WORLDS,
    METRICS,
    MORE_NULLS,
    NULLS,
    POWER_METRICS,
    UNTESTABLE,
    Configuration,
)
from benchmarks.validity.store import Records
from benchmarks.validity.summary import (
    Entries,
    Rate,
    family,
    family_between,
    headline_coverage,
    holds,
    mostly_faultless,
    peaks,
    percent,
    rejected,
    verdicts,
)

Plan = Mapping[str, Configuration]


def draws(plan: Plan, protocol: str | None = None) -> list[Configuration]:
    """The kinds that rates are counted in."""
    return [c for c in plan.values() if c.part == "draws" and protocol in (None, c.protocol)]


def claims(records: Records, plan: Plan) -> Iterator[str]:
    """The table."""
    yield from ("", "## What must hold under `audited`", "", "| claim | found | holds |", "|---|---|---|")
    yield from _false_positives(records, plan)
    yield from _coverage(records, plan)
    yield from _power(records, plan)
    yield from _compared(records, plan)
    yield from _not_testable(records, plan)
    yield from _named(records, plan)


def _row(claim: str, rates: list[Rate], low: float, high: float, more: str = "") -> str:
    least, most = min(rates, key=lambda r: r.value), max(rates, key=lambda r: r.value)
    said = percent(least) if len(rates) == 1 else f"{percent(least)} to {percent(most)}"
    return f"| {claim} | {said}{more} | {holds(rates, low, high)} |"


def of_world(records: Records, plan: Plan, protocol: str, world: str) -> Entries:
    """All worlds of a name, whatever their size."""
    return [entry for c in draws(plan, protocol) if c.world == world for entry in records.get(c.name, [])]


def _false_positives(records: Records, plan: Plan) -> Iterator[str]:
    """Of each metric by itself, and of all four together."""
    for world in (*NULLS, *MORE_NULLS):
        entries = of_world(records, plan, "audited", world)
        rates = [rejected(peaks(entries, metric, "p_value")) for metric in METRICS]
        known = [rate for rate in rates if rate is not None]
        if known:
            low = 0.0 if world in CAUTIOUS else 0.03
            said = "at most 7 %" if world in CAUTIOUS else "3 to 7 %"
            yield _row(f"{world}: every metric has {said} false positives", known, low, 0.07)
        if (together := family(entries)) is not None:
            between = family_between(entries)
            more = "" if between is None else f"; {100 * between:.1f} % with permutations without end"
            said = "one metric of four or more is beyond chance in at most 7 %"
            yield _row(f"{world}: {said}", [together], 0, 0.07, more)


def _coverage(records: Records, plan: Plan) -> Iterator[str]:
    nulls = (*NULLS, *MORE_NULLS)
    for words, kinds in (
        ("without morality", [c for c in draws(plan, "audited") if c.world in nulls]),
        ("with morality", [c for c in draws(plan, "audited") if c.world not in nulls]),
    ):
        for metric in METRICS:
            entries = [records.get(c.name, []) for c in kinds]
            found = [(headline_coverage(own, metric), mostly_faultless(own, metric)) for own in entries]
            known = [(one, at_best) for one, at_best in found if one is not None and one.rate.n >= 40]
            for at_best in (False, True):
                own = [one for one, other in known if other == at_best]
                if not own:
                    continue
                widths = [one.width for one in own]
                more = f", {len(own)} kinds" * (len(own) > 1) + f"; width {min(widths):.2f} to {max(widths):.2f}"
                share, high = ("at least 92 %", 1.0) if at_best else ("92 to 97 %", 0.97)
                claim = f"{metric}: {share} of the intervals hold the estimator's mean at this n, worlds {words}"
                claim += ", most without an error" * at_best
                yield _row(claim, [one.rate for one in own], 0.92, high, more)


def _power(records: Records, plan: Plan) -> Iterator[str]:
    for world, metrics in POWER_METRICS.items():
        for metric in metrics:
            rate = rejected(peaks(records.get(f"power/audited/{world} 0.05/2000x100", []), metric, "p_value"))
            if rate is not None:
                yield _row(f"{metric} detects {world} of 5 % at n = 2,000 in 90 % of worlds", [rate], 0.9, 1)
    for c in plan.values():
        if c.part == "power" and c.world in HEAVY_WORLDS:
            for metric in POWER_METRICS["polarity"]:
                rate = rejected(peaks(records.get(c.name, []), metric, "p_value"))
                if rate is not None:
                    yield _row(f"{metric} detects {c.world} at n = {c.n:,} in 90 % of worlds", [rate], 0.9, 1)


def _compared(records: Records, plan: Plan) -> Iterator[str]:
    """`found` takes all comparisons, and a lead over each."""
    for world in COMPARED_WORLDS:
        for names in COMPARED:
            counts = [
                verdicts(records.get(c.name, []), "categorical")
                for c in plan.values()
                if c.part == f"compared {'+'.join(names)}" and c.world == world
            ]
            n = sum(sum(one.values()) for one in counts)
            if not n:
                continue
            rate = Rate(sum(one["found"] for one in counts), n)
            if names != COMPARED[-1]:
                yield _row(f"{world}, controls {', '.join(names)}: categorical is never found", [rate], 0, 0)
            elif world == "told by words":
                yield _row(f"{world}, all comparisons: categorical is never found", [rate], 0, 0)
            else:
                yield _row(f"{world}, all comparisons: categorical is found in 90 %", [rate], 0.9, 1)


def _not_testable(records: Records, plan: Plan) -> Iterator[str]:
    for world in UNTESTABLE:
        counts = verdicts(of_world(records, plan, "audited", world), "categorical")
        if n := sum(counts.values()):
            rate = Rate(counts["not testable"] + counts["not tested"], n)
            yield _row(f"{world}: categorical is not testable", [rate], 0.9, 1)
    counts = verdicts(of_world(records, plan, "audited", "95 % vice"), "categorical")
    if n := sum(counts.values()):
        yield _row("95 % vice: categorical is never called empty", [Rate(counts["empty"], n)], 0, 0)


def _named(records: Records, plan: Plan) -> Iterator[str]:
    for world in ("length only", "sink only"):
        for metric in METRICS[:2]:
            counts = verdicts(of_world(records, plan, "paper", world), metric)
            named = counts["length"] + counts["nuisance"]
            if n := named + counts["found"] + counts["beyond chance"] + counts["words"]:
                claim = f"{world}: what {metric} finds under `paper` is named length or nuisance"
                yield _row(claim, [Rate(named, n)], 0.93, 1)
