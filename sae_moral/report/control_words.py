"""What the page says about controls in sentences: their settings, the errors these leave, what they do not prove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_moral.report.judged import CONTROLS, names_not_run, names_run
from sae_moral.report.words import count, detail, interval, listed, number

LIMITS = {
    "intervals": "They are about other texts of the same source, not about other sources, prompts or annotators. "
    "An interval at the best layer does not undo that the layer was chosen; p does.",
    "permuted labels": "Beyond them, labels go with something in the vectors; that it is morality is not shown. Words, "
    "topics within a foundation and whatever else goes with the labels is not in this null.",
    "nuisance": "Only length, the share of the first position and word frequency are in it. Topic, register and syntax "
    "are not.",
    "bag of words": "What exceeds it need not be understanding: knowing synonyms is enough. What does not exceed it "
    "may still hold morality: a mean over tokens blurs the exact words that the bag sees.",
    "random weights": "What exceeds them was learnt in training, which teaches words and topics, too. They are no "
    "zero: random features keep which words a text has.",
    "control tasks": "Selectivity says that words known by heart would not do, not that what is read is morality. It "
    "is a difference of means, not a test.",
    "ceiling": "It is what noise in the labels leaves reachable. A number below it may fall short of it for any "
    "reason.",
}
"""Control → what it does not prove."""


def limits(controls: Mapping[str, Any], *, ceiling: bool) -> list[tuple[str, str]]:
    """`LIMITS` of what was run."""
    ran = names_run(controls) + (["ceiling"] if ceiling else [])
    return [(name, words) for name, words in LIMITS.items() if name in ran]


def settings(controls: Mapping[str, Any]) -> list[str]:
    """How many draws were taken and how well they pin numbers down, a sentence per control."""
    names, errors = controls.get("names") or (), controls.get("monte_carlo") or {}
    found = []
    if "interval" in names and controls.get("resamples"):
        found.append(
            f"Intervals hold {_percent(controls['level'])} and come from {count(controls['resamples'])} resamples of "
            f"texts{_error(errors.get('interval_tail'), 'the share cut off at either end is known to', percent=True)}."
        )
    if "null" in names and controls.get("permutations"):
        n, stratum = int(controls["permutations"]), controls.get("stratum")
        among = (
            f"texts of about equal length (strata of {count(stratum)} or more)" if stratum else "texts of any length"
        )
        found.append(
            f"Labels were permuted {count(n)} times among {among}: no p can be below {number(1 / (n + 1))}"
            f"{_error(errors.get('p_value'), 'a p near ' + detail(controls.get('alpha')) + ' is known to')}."
        )
        found += _unmoved(controls.get("labels_that_cannot_move") or {})
    if "selectivity" in names and controls.get("control_tasks"):
        found.append(f"Control tasks are {count(controls['control_tasks'])} random labellings of opening words.")
    if controls.get("alpha") is not None:
        found.append(
            f"Verdicts are at p < {detail(controls['alpha'])}; each test stands for itself. "
            f"Everything was drawn from seed {detail(controls.get('seed'))}."
        )
    if seconds := controls.get("seconds"):
        found.append(f"Measuring with all of this took {count(sum(seconds.values()))} s.")
    return found


def names_words(controls: Mapping[str, Any] | None) -> str:
    """What was not run, as a sentence; empty where everything was."""
    missing = names_not_run(controls)
    if len(missing) == len(CONTROLS):
        return (
            "No controls were run: the numbers come without intervals, nulls and baselines of their own, and "
            "without a verdict. A high number may be sentence length, or words."
        )
    if not missing:
        return ""
    return f"Not run: {listed(missing)}. The verdicts rest on the other controls."


def reliabilities(ceilings: Mapping[str, Any] | None) -> list[str]:
    """One sentence per label whose reliability is known."""
    found = []
    for label, known in (ceilings or {}).items():
        if not known:
            continue
        words = f"Repeated annotations of a text agree on {label} with {number(known['value'])}"
        ends = interval(known.get("ci_low"), known.get("ci_high"))
        more = f" (interval {ends}; {count(known.get('n_texts'))} texts were annotated more than once)"
        short = "; the interval reaches 0, so no ceiling follows" if (known.get("ci_low") or 0) <= 0 else ""
        found.append(f"{words}{more}{short}.")
    return found


def _unmoved(shares: Mapping[str, float]) -> list[str]:
    if not shares:
        return []
    low, high = min(shares.values()), max(shares.values())
    span = _percent(high) if low == high else f"{_percent(low)} to {_percent(high)}"
    return [f"{span} of the scenarios had no other text of their kind to swap labels with, and kept theirs."]


def _error(error: Any, words: str, *, percent: bool = False) -> str:
    if error is None:
        return ""
    size = f"{100 * error:.1f} %" if percent else number(error)
    return f", and {words} ± {size} (standard error of Monte Carlo)"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
