"""What a metric's controls say together, in one word and one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from sae_moral.controls.baselines import BASELINES as KINDS
from sae_moral.results import Comparison, Peak, Verdict

WORDS = {
    "not tested": "no permuted labels to compare with",
    "empty": "not beyond permuted labels: morally empty as far as this metric sees",
    "length": "sentence length, not morality",
    "nuisance": "no more than length and word frequency give by themselves",
    "untrained": "no more than the same architecture with random weights shows",
    "words": "no more than the words of the scenarios give without a model",
    "found": "beyond every control that was run",
}
"""The verdicts, from the least that can be said to the most."""
BASELINES = {kind.name: kind.shortfall for kind in KINDS if kind.shortfall is not None}
"""Baseline → the verdict where it is not exceeded."""


def verdict(metric: str, peak: Peak | None, comparisons: Sequence[Comparison], alpha: float) -> Verdict:
    """The verdict on one metric, and the sentence that says why.

    A metric is `found` when its peak is beyond permuted labels and beyond every baseline at `alpha`; each of these
    tests stands for itself, so all of them together are stricter than `alpha`. Comparisons with a baseline that has no
    word of its own (an SAE's residual stream) say nothing about morality and take no part.
    """
    if peak is None or peak.p_value is None:
        return Verdict(metric, "not tested", f"{WORDS['not tested'].capitalize()}.")
    p, free = peak.p_value, peak.p_value_any_length
    if p >= alpha:
        if free is not None and free < alpha:
            return Verdict(
                metric,
                "length",
                f"What this sees is {WORDS['length']}: beyond labels permuted freely ({_p(free)}), but "
                f"not beyond labels permuted among texts of equal length ({_p(p)}).",
            )
        return Verdict(metric, "empty", f"{WORDS['empty'].capitalize()} ({_p(p)}).")
    beyond, not_beyond, missed = [f"permuted labels ({_p(p)})"], [], []
    for one in comparisons:
        if one.against not in BASELINES or one.p_value is None:
            continue
        size = f"{one.against} (difference {_signed(one.difference)}, {_p(one.p_value)})"
        if one.p_value < alpha:
            beyond.append(size)
        else:
            not_beyond.append(size)
            missed.append(BASELINES[one.against])
    word = min(missed, key=list(WORDS).index) if missed else "found"
    sentence = f"Separates from {_list(beyond)}"
    sentence += f", but not from {_list(not_beyond)}: {WORDS[word]}." if not_beyond else "."
    return Verdict(metric, word, sentence)


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
