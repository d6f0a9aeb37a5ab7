"""One word and one sentence from a metric's peak and its comparisons."""

from __future__ import annotations

import pytest

from sae_moral.controls.verdict import BASELINES, WORDS
from sae_moral.controls.verdict import verdict as verdict_of
from sae_moral.results import Comparison, Peak, Verdict


def peak(p: float | None, free: float | None = None) -> Peak:
    return Peak("mine", "auroc", "overall", 3, 0.75, 5, p_value=p, p_value_any_length=free)


def verdict(peak: Peak | None, comparisons: list[Comparison], alpha: float) -> Verdict:
    return verdict_of("mine", peak, comparisons, alpha)


def against(name: str, p: float | None, difference: float = 0.25) -> Comparison:
    return Comparison("mine", "auroc", name, 3, 0.75, None, 0.5, difference, 0.1, 0.4, p)


BEATEN = [against(name, 0.001) for name in BASELINES]


def test_without_permuted_labels_nothing_is_tested() -> None:
    for nothing in (None, peak(None), peak(None, 0.01)):
        assert verdict(nothing, BEATEN, 0.05) == Verdict("mine", "not tested", "No permuted labels to compare with.")


def test_not_beyond_permuted_labels_is_empty() -> None:
    for p, free in ((0.2, None), (0.05, None), (0.2, 0.05), (0.2, 0.5)):
        found = verdict(peak(p, free), BEATEN, 0.05)
        assert found.word == "empty"
        assert found.sentence.startswith("Not beyond permuted labels: morally empty as far as this metric sees")
        assert f"p = {p:.3f}" in found.sentence


def test_beyond_free_permutations_alone_is_length() -> None:
    found = verdict(peak(0.2, 0.005), BEATEN, 0.05)
    assert found == Verdict(
        "mine",
        "length",
        "What this sees is sentence length, not morality: beyond labels permuted freely (p = 0.005), but "
        "not beyond labels permuted among texts of equal length (p = 0.200).",
    )


def test_beyond_everything_is_found() -> None:
    found = verdict(peak(0.005, 0.005), BEATEN, 0.05)
    assert found.word == "found"
    assert found.sentence == (
        "Separates from permuted labels (p = 0.005), nuisance (difference +0.250, p = 0.001), random weights "
        "(difference +0.250, p = 0.001) and bag of words (difference +0.250, p = 0.001)."
    )
    assert verdict(peak(0.005), [], 0.05) == Verdict("mine", "found", "Separates from permuted labels (p = 0.005).")


@pytest.mark.parametrize(("baseline", "word"), BASELINES.items())
def test_a_baseline_that_is_not_exceeded_names_the_verdict(baseline: str, word: str) -> None:
    comparisons = [against(name, 0.05 if name == baseline else 0.001, -0.1) for name in BASELINES]
    found = verdict(peak(0.01), comparisons, 0.05)
    assert found.word == word
    assert found.sentence.endswith(f", but not from {baseline} (difference −0.100, p = 0.050): {WORDS[word]}.")
    assert found.sentence.startswith("Separates from permuted labels (p = 0.010), ")


def test_of_several_the_least_that_can_be_said_is_the_verdict() -> None:
    missed = [against(name, 0.5) for name in reversed(BASELINES)]
    found = verdict(peak(0.01), missed, 0.05)
    assert found.word == "nuisance"
    assert verdict(peak(0.01), missed[:2], 0.05).word == "untrained"
    assert found.sentence.startswith("Separates from permuted labels (p = 0.010), but not from bag of words (")


def test_a_comparison_without_a_p_value_says_nothing() -> None:
    found = verdict(peak(0.01), [against("bag of words", None)], 0.05)
    assert found == Verdict("mine", "found", "Separates from permuted labels (p = 0.010).")


def test_a_very_small_p_is_said_to_be_below_a_thousandth() -> None:
    assert verdict(peak(0.0002), [], 0.05).sentence == "Separates from permuted labels (p < 0.001)."


def test_alpha_decides() -> None:
    assert verdict(peak(0.02), [], 0.01).word == "empty"
    assert verdict(peak(0.02), [against("nuisance", 0.03)], 0.05).word == "found"
    assert verdict(peak(0.02), [against("nuisance", 0.03)], 0.025).word == "nuisance"


def test_words_and_baselines_are_in_order_and_every_verdict_has_its_word() -> None:
    assert list(WORDS) == ["not tested", "empty", "length", "nuisance", "untrained", "words", "found"]
    assert list(BASELINES.values()) == ["nuisance", "untrained", "words"]
