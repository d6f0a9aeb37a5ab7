"""One word and one sentence per metric from its peak and its comparisons, corrected for the number of metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from sae_moral.controls.compare import outcome
from sae_moral.controls.inference import holm
from sae_moral.controls.verdict import BASELINES, REQUIRED, WORDS, answer, best_baseline, judge
from sae_moral.report.words import BADGES
from sae_moral.results import Comparison, MetricCard, Outcome, Peak, StatisticSpec, Verdict
from tests.report.records import realistic

CARD = MetricCard("mine", "auroc", {"auroc": StatisticSpec("auroc", "higher", margin=0.02)})


def peak(p: float | None, free: float | None = None, **more: Any) -> Peak:
    told: dict[str, Any] = {"smallest_p": 0.005, "margin": 0.02} | more
    return Peak("mine", "auroc", "overall", 3, 0.75, 5, p_value=p, p_value_any_length=free, **told)


def against(name: str, p: float | None, difference: float = 0.25, *, at_most: float | None = 0.4) -> Comparison:
    made = Comparison("mine", "auroc", name, 3, 0.75, None, 0.5, difference, 0.1, 0.4, p, margin=0.02, at_most=at_most)
    return dataclasses.replace(made, outcome=outcome(p, at_most, 0.05, 0.02), detectable=0.03)


def verdict(
    peak: Peak, comparisons: Sequence[Comparison] = (), stuck: float | None = 0.0, alpha: float = 0.05
) -> Verdict:
    return judge({"mine": CARD}, {"mine": peak}, comparisons, {} if stuck is None else {"mine": stuck}, alpha)[1][
        "mine"
    ]


EXCEEDED = [against(name, 0.001) for name in BASELINES]
SUBJECT = "mine (auroc 0.750 at layer 3)"


class TestHolm:
    def test_by_hand(self) -> None:
        # Sorted .01, .02, .03, .2: times 4, 3, 2, 1, never falling.
        assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
        assert holm([0.5, 0.6]) == [1.0, 1.0]
        assert holm([0.03]) == [0.03] and holm([]) == []

    def test_what_was_not_tested_takes_no_part(self) -> None:
        assert holm([None, 0.01, None, 0.04]) == [None, 0.02, None, 0.04]

    def test_it_is_the_closed_test_of_bonferroni(self) -> None:
        """A hypothesis is rejected iff every intersection with it is, each at min p · size (Marcus et al. 1976)."""
        from itertools import combinations

        rng = np.random.default_rng(0)
        for _ in range(50):
            p = list(rng.random(4) ** 2)
            for i, corrected in enumerate(holm(p)):
                sets = [s for k in range(1, 5) for s in combinations(range(4), k) if i in s]
                assert corrected == pytest.approx(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets))


class TestFound:
    def test_beyond_everything_at_least_nuisance_and_words_is_found(self) -> None:
        got = verdict(peak(0.005, 0.005), EXCEEDED)
        assert (got.word, got.p_value, got.not_compared) == ("found", 0.005, ())
        names = " and ".join((", ".join([f"{n} (difference +0.250, p = 0.001)" for n in list(BASELINES)[:-1]]),
                              f"{list(BASELINES)[-1]} (difference +0.250, p = 0.001)"))  # fmt: skip
        assert got.sentence == f"{SUBJECT} is beyond permuted labels (p = 0.005) and more than {names}."

    def test_permuted_labels_alone_are_beyond_chance_and_what_was_not_compared_is_named(self) -> None:
        """`controls="null"` gave `found`."""
        got = verdict(peak(0.005))
        assert (got.word, got.p_value, got.not_compared) == ("beyond chance", None, tuple(BASELINES))
        assert got.sentence.startswith(f"{SUBJECT} is beyond permuted labels (p = 0.005); not compared with nuisance")
        assert all(name in got.sentence for name in BASELINES)

    def test_a_comparison_without_intervals_was_not_computed(self) -> None:
        """`controls=("null", "words")` gave `found` to AUROC 0.713 beside words at 1.000."""
        words = Comparison("mine", "auroc", "bag of words", 3, 0.713, None, 1.0, -0.287, margin=0.02)
        got = verdict(peak(0.005), [words])
        assert got.word == "beyond chance" and "bag of words" in got.not_compared

    @pytest.mark.parametrize("missing", REQUIRED)
    def test_without_one_of_the_required_it_is_not_found(self, missing: str) -> None:
        got = verdict(peak(0.005), [one for one in EXCEEDED if one.against != missing])
        assert (got.word, got.p_value) == ("beyond chance", None)
        assert got.sentence.endswith(f"; not compared with {missing}.")

    def test_another_baseline_that_was_not_run_is_named(self) -> None:
        got = verdict(peak(0.005), [one for one in EXCEEDED if one.against in REQUIRED])
        others = tuple(name for name in BASELINES if name not in REQUIRED)
        assert (got.word, got.not_compared) == ("found", others)
        assert "; not compared with " in got.sentence


class TestThreeOutcomes:
    def test_they_follow_from_p_bound_and_margin(self) -> None:
        cases: list[tuple[float | None, float | None, float | None, Outcome]] = [
            (None, 0.0, 0.02, "not computed"), (0.049, 0.5, 0.02, "more"), (0.05, 0.02, 0.02, "not more"),
            (0.05, 0.021, 0.02, "cannot tell"), (0.9, None, 0.02, "cannot tell"), (0.9, -0.5, None, "cannot tell"),
        ]  # fmt: skip
        for p, at_most, margin, expected in cases:
            assert outcome(p, at_most, 0.05, margin) == expected

    @pytest.mark.parametrize(("baseline", "word"), BASELINES.items())
    def test_no_more_than_a_baseline_by_the_margin_names_the_verdict(self, baseline: str, word: str) -> None:
        lost = against(baseline, 0.9, -0.1, at_most=-0.05)
        got = verdict(peak(0.01), [lost if one.against == baseline else one for one in EXCEEDED])
        assert got.word == word
        clause = f"; no more than {baseline} (difference −0.100, ahead by −0.050 at most; margin 0.020)."
        assert got.sentence.endswith(clause)

    @pytest.mark.parametrize("baseline", BASELINES)
    def test_what_cannot_be_told_is_not_no_more(self, baseline: str) -> None:
        unclear = against(baseline, 0.2, 0.01, at_most=0.04)
        got = verdict(peak(0.01), [unclear if one.against == baseline else one for one in EXCEEDED])
        assert got.word == "beyond chance"
        clause = f"; not shown to be more than {baseline} (difference +0.010, p = 0.200; +0.030 would have shown four "
        assert got.sentence.endswith(clause + "times in five).")

    def test_of_several_the_least_that_can_be_said_is_the_verdict(self) -> None:
        lost = [against(name, 0.9, -0.1, at_most=-0.05) for name in reversed(BASELINES)]
        assert verdict(peak(0.01), lost).word == "nuisance"
        assert verdict(peak(0.01), lost[:1]).word == BASELINES[lost[0].against] == "valence"


class TestChance:
    def test_no_layer_further_from_chance_than_the_margin_is_empty(self) -> None:
        got = verdict(peak(0.4, at_most=0.0185, outcome="not more"), EXCEEDED)
        assert got.word == "empty"
        told = (
            "is not beyond permuted labels (p = 0.400), and no layer is further from chance than 0.018 (margin 0.020)."
        )
        assert got.sentence == f"{SUBJECT} {told}"

    def test_else_it_is_not_shown_with_what_would_have_shown(self) -> None:
        got = verdict(peak(0.05, 0.05, at_most=0.1, detectable=0.81))
        assert got.word == "not shown"
        assert got.sentence == (
            f"{SUBJECT} is not beyond permuted labels (p = 0.050); 0.810 would have shown four times in five."
        )

    def test_beyond_free_permutations_alone_is_length(self) -> None:
        got = verdict(peak(0.2, 0.005, at_most=0.0, outcome="not more"), EXCEEDED)
        assert got.word == "length"
        assert got.sentence == (
            f"What {SUBJECT} sees is sentence length, not morality: beyond labels permuted freely (p = 0.005), but not "
            "beyond labels permuted among texts of equal length (p = 0.200)."
        )

    def test_without_permuted_labels_nothing_is_tested(self) -> None:
        for nothing in (peak(None), peak(None, 0.01)):
            got = verdict(nothing, EXCEEDED, stuck=None)
            assert (got.word, got.p_value) == ("not tested", None)
        cards, nothing = {"mine": CARD}, dict[str, Peak]()
        assert judge(cards, nothing, [], {}, 0.05)[1]["mine"].sentence == "mine could not be computed."


class TestNotTestable:
    def test_labels_that_cannot_move_are_not_emptiness(self) -> None:
        """94 % of the labels were fixed, and it read as empty."""
        got = verdict(peak(0.4, at_most=0.0, outcome="not more"), EXCEEDED, stuck=0.94)
        assert got.word == "not testable"
        why = (
            "94 % of the labels' variation cannot move within what a label has to stay in (kind of label, fold, length)"
        )
        assert got.sentence.endswith(f", and says nothing: {why}.")

    def test_a_small_p_is_valid_however_few_labels_move(self) -> None:
        assert verdict(peak(0.01), EXCEEDED, stuck=0.94).word == "found"

    def test_a_p_that_cannot_be_small_says_nothing(self) -> None:
        got = verdict(peak(0.5, smallest_p=0.05))
        assert got.word == "not testable" and got.sentence.endswith("p cannot be below 0.050.")
        assert verdict(peak(0.5, smallest_p=0.0499)).word == "not shown"

    def test_labels_that_do_not_move_at_all_have_no_p(self) -> None:
        got = verdict(peak(None, smallest_p=1.0), EXCEEDED, stuck=1.0)
        assert got.word == "not testable" and "100 % of the labels' variation" in got.sentence


class TestOverMetrics:
    @staticmethod
    def judged(p: Mapping[str, float], beaten: float | None = 0.001) -> Any:
        cards = {name: dataclasses.replace(CARD, name=name) for name in p}
        peaks = {name: dataclasses.replace(peak(value), metric=name) for name, value in p.items()}
        made = [dataclasses.replace(against(b, beaten), metric=name) for name in p for b in BASELINES]
        return judge(cards, peaks, made, dict.fromkeys(p, 0.0), 0.05)

    def test_p_is_corrected_for_their_number(self) -> None:
        peaks, verdicts = self.judged({"a": 0.005, "b": 0.02, "c": 0.04, "d": 0.6})
        assert [peaks[name].p_family for name in "abcd"] == pytest.approx([0.02, 0.06, 0.08, 0.6])
        assert [verdicts[name].word for name in "abcd"] == ["found", "not shown", "not shown", "not shown"]
        assert "(p = 0.060 over 4 metrics)" in verdicts["b"].sentence
        assert [peaks[name].outcome for name in "ab"] == ["more", "cannot tell"]

    def test_the_whole_claim_is_corrected_and_not_the_null_alone(self) -> None:
        peaks, verdicts = self.judged(dict.fromkeys("abcd", 0.005), beaten=0.04)
        assert {peak.outcome for peak in peaks.values()} == {"more"}
        assert {v.word for v in verdicts.values()} == {"beyond chance"} and verdicts["a"].p_value == 0.16
        assert "; but not once all of this is corrected for 4 metrics (p = 0.160)" in verdicts["a"].sentence

    def test_at_least_one_false_finding_in_a_family_of_four_is_at_alpha(self) -> None:
        """Four metrics that share half of their noise, in 2,000 worlds without anything: one at 5 % each would be
        beyond chance in about 16 %."""
        rng = np.random.default_rng(0)
        found = uncorrected = 0
        for _ in range(2000):
            shared, own = rng.standard_normal((200, 1)), rng.standard_normal((200, 4))
            drawn = np.sqrt(0.5) * shared + np.sqrt(0.5) * own
            p = (drawn >= drawn[0]).mean(axis=0)  # 199 permutations and the sample itself
            words = {v.word for v in self.judged(dict(zip("abcd", p.tolist(), strict=True)))[1].values()}
            found += bool(words & {"found", "beyond chance"})
            uncorrected += bool((p < 0.05).any())
        assert uncorrected / 2000 > 0.12
        assert found / 2000 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


def test_the_best_baseline_is_the_one_exceeded_least() -> None:
    made = [against("nuisance", 0.1, 0.3), against("bag of words", 0.1, -0.1), against("residual stream", 0.1, -0.9)]
    assert best_baseline(made, CARD) == "bag of words"
    lower = MetricCard("mine", "auroc", {"auroc": StatisticSpec("auroc", "lower")})
    assert best_baseline(made, lower) == "nuisance" and best_baseline([], CARD) is None


def test_a_stream_says_nothing_about_morality() -> None:
    got = verdict(peak(0.005), [*EXCEEDED, against("residual stream", 0.9, -0.3, at_most=-0.2)])
    assert got.word == "found" and "residual stream" not in got.sentence


def test_alpha_decides() -> None:
    assert verdict(peak(0.02), EXCEEDED, alpha=0.01).word == "not shown"
    assert verdict(peak(0.02), EXCEEDED, alpha=0.025).word == "found"


def test_words_and_baselines_are_in_order_and_every_verdict_has_its_word_and_badge() -> None:
    order = list(WORDS)
    assert order[:5] == ["not tested", "not testable", "not shown", "empty", "length"]
    assert order[-2:] == ["beyond chance", "found"]
    assert set(BASELINES.values()) == set(order[5:-2]) and set(REQUIRED) <= set(BASELINES)
    assert BADGES.keys() == WORDS.keys()


def test_the_answer_is_one_sentence_from_the_most_to_the_least() -> None:
    made = realistic(layers=2, verdicts={"gradient": "words", "structural": "not shown"})
    assert answer(made) == (
        f"In toy (planted, n = 600), what categorical and dimensional see is {WORDS['found']}; what gradient sees is "
        f"{WORDS['words']}; what structural sees is {WORDS['not shown']}."
    )
    one = made.verdicts["categorical"]
    lacking = made.verdicts | {"categorical": dataclasses.replace(one, not_compared=("random weights",))}
    assert "(not compared with random weights);" in answer(dataclasses.replace(made, verdicts=lacking))
    assert answer(dataclasses.replace(made, verdicts={})) == ""
