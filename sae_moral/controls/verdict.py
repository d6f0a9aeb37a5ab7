"""What a metric's controls say together, in one word and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_moral.controls.compare import Comparison

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
BASELINES = {"nuisance": "nuisance", "random weights": "untrained", "bag of words": "words"}
"""Baseline → the verdict where it is not exceeded."""


def verdict(peak: dict[str, Any] | None, comparisons: Sequence[Comparison], alpha: float) -> dict[str, str]:
    """The verdict on one metric, and the sentence that says why.

    A metric is `found` when its peak is beyond permuted labels and beyond every baseline at `alpha`; each of these
    tests stands for itself, so all of them together are stricter than `alpha`. Comparisons with anything that is not in
    `BASELINES` (an SAE's residual stream) say nothing about morality and take no part.
    """
    if peak is None or peak["p_value"] is None:
        return {"verdict": "not tested", "sentence": f"{WORDS['not tested'].capitalize()}."}
    p, free = peak["p_value"], peak.get("p_value_any_length")
    if p >= alpha:
        if free is not None and free < alpha:
            return {
                "verdict": "length",
                "sentence": f"What this sees is {WORDS['length']}: beyond labels permuted freely ({_p(free)}), but "
                f"not beyond labels permuted among texts of equal length ({_p(p)}).",
            }
        return {"verdict": "empty", "sentence": f"{WORDS['empty'].capitalize()} ({_p(p)})."}
    beyond, not_beyond = [f"permuted labels ({_p(p)})"], []
    word = "found"
    comparisons = [comparison for comparison in comparisons if comparison.against in BASELINES]
    for comparison in comparisons:
        if comparison.p_value is None:
            continue
        size = f"{comparison.against} (difference {_signed(comparison.difference)}, {_p(comparison.p_value)})"
        if comparison.p_value < alpha:
            beyond.append(size)
        else:
            not_beyond.append(size)
    order = list(WORDS)
    missed = [BASELINES[c.against] for c in comparisons if c.p_value is not None and c.p_value >= alpha]
    word = min(missed, key=order.index) if missed else word
    sentence = f"Separates from {_list(beyond)}"
    sentence += f", but not from {_list(not_beyond)}: {WORDS[word]}." if not_beyond else "."
    return {"verdict": word, "sentence": sentence}


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
