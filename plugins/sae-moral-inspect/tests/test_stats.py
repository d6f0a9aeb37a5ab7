"""Exact numbers by hand, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from sae_moral_inspect import stats
from scipy.stats import binomtest


def test_win_statistics_by_hand() -> None:
    pairs = [("win", "win"), ("win", "loss"), ("tie", "win"), ("tie", "tie"), ("loss", "loss")]
    found = stats.win_statistics(pairs)
    assert (found.prompts, found.wins, found.ties, found.losses) == (5, 4, 3, 3)
    assert found.share.value == pytest.approx((4 + 1.5) / 10)
    assert found.paper_rate.value == pytest.approx(4 / 10)
    assert found.difference.value == pytest.approx((4 - 3) / 10)
    assert found.sign_p == pytest.approx(1.0)  # two prompts for the arm, one against: P(≤1 or ≥2 of 3) = 1


def test_sign_test_counts_prompts_not_verdicts() -> None:
    found = stats.win_statistics([("win", "win")] * 6 + [("win", "loss")] * 50)
    assert found.sign_p == pytest.approx(2 * 0.5**6)


def test_nothing_at_all() -> None:
    found = stats.win_statistics([])
    assert (found.prompts, found.share.value, found.sign_p) == (0, None, None)
    assert stats.order_bias([]).first.value is None
    assert stats.harmlessness([]) is None
    assert stats.overall([]) is None
    assert stats.perfect_scores([]).p is None


def test_intervals_resample_prompts() -> None:
    """Of a mean of zeros and ones, close to the normal interval; the same draws, the same interval."""
    values = [1.0] * 30 + [0.0] * 70
    found = stats.mean_estimate(values)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 100)
    assert found.low == pytest.approx(0.3 - half, abs=0.015)
    assert found.high == pytest.approx(0.3 + half, abs=0.015)
    assert found == stats.mean_estimate(values)


def test_agreeing_prompts_have_the_exact_interval() -> None:
    found = stats.mean_estimate([1.0] * 24)
    exact = binomtest(24, 24).proportion_ci(method="exact")
    assert (found.low, found.high) == (pytest.approx(exact.low), 1.0)
    assert stats.mean_estimate([-1.0] * 5, span=(-1.0, 1.0)).high == pytest.approx(1 - 2 * 0.025 ** (1 / 5))


def test_order_bias_by_hand() -> None:
    always = stats.order_bias([("A", "A")] * 10)
    assert (always.disagreement.value, always.first.value) == (1.0, 1.0)
    reads = stats.order_bias([("A", "B"), ("B", "A"), ("TIE", "TIE")])
    assert (reads.disagreement.value, reads.first.value) == (0.0, 0.0)
    mixed = stats.order_bias([("A", "A"), ("A", "B"), ("A", "TIE"), ("B", "B")])
    assert (mixed.disagreement.value, mixed.first.value) == (0.75, pytest.approx((1 + 0 + 0.5 - 1) / 4))


def test_perfect_scores_by_hand() -> None:
    found = stats.perfect_scores([(3, 3), (1, 3), (2, 3), (1, 3), (3, 2), (1, 1)])
    assert (found.n, found.baseline, found.arm, found.gained, found.lost) == (6, 2, 4, 3, 1)
    assert found.p == pytest.approx(2 * (1 + 4) / 16)


def test_mcnemar_is_that_of_statsmodels() -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    pairs = [(3, 3)] * 7 + [(1, 3)] * 11 + [(3, 1)] * 4 + [(2, 2)] * 5
    expected = contingency.mcnemar([[7, 4], [11, 5]], exact=True).pvalue
    assert stats.perfect_scores(pairs).p == pytest.approx(expected)


@pytest.mark.parametrize(
    "safe, n, rate, score",
    [(21, 46, 45.65, 63.8), (42, 76, 55.26, 70.2), (14, 46, 30.43, 53.6), (33, 46, 71.74, 81.2), (67, 76, 88.16, 92.1)],
)
def test_harmlessness_gives_the_published_leaderboard(safe: int, n: int, rate: float, score: float) -> None:
    """Legality (46 prompts) and data protection (76) of models on the benchmark's leaderboard: scores are 3 or 1."""
    found = stats.harmlessness([3] * safe + [1] * (n - safe))
    assert found is not None
    assert (round(found.rate, 2), round(found.score, 1)) == (rate, score)


def test_overall_is_the_published_mean_of_dimensions() -> None:
    chatgpt = [stats.Harmlessness(rate, 0, n) for rate, n in
               [(45.38, 249), (45.45, 429), (42.79, 201), (45.65, 46), (55.26, 76)]]  # fmt: skip
    found = stats.overall(chatgpt)
    assert found is not None and round(found.rate, 2) == 46.91


def test_kappa_by_hand() -> None:
    one, two = list("AABB"), list("ABBB")
    assert stats.kappa(one, two) == pytest.approx((0.75 - 0.5) / 0.5)
    assert stats.kappa([1, 1, 3, 3], [1, 2, 3, 3], ordered=True) == pytest.approx(1 - 0.25 / 1.0)
    assert stats.kappa(["A"], ["A"]) is None
    assert stats.kappa([], []) is None
    assert stats.agreement([1, 2], [1, 3]).value == 0.5


@pytest.mark.parametrize("ties", [0.0, 0.3])
@pytest.mark.parametrize("n", [24, 100])
def test_null_covers_one_half(n: int, ties: float) -> None:
    """Two arms that are the same, a judge that guesses: over repeated runs the interval covers ½, and with ties the
    paper's rate does not."""
    rng = np.random.default_rng(7)
    runs, covered, paper = 300, 0, 0
    for _ in range(runs):
        drawn = rng.choice(["win", "loss", "tie"], p=[(1 - ties) / 2, (1 - ties) / 2, ties], size=(n, 2))
        found = stats.win_statistics([(str(a), str(b)) for a, b in drawn])
        assert found.share.low is not None and found.share.high is not None and found.paper_rate.high is not None
        covered += found.share.low <= 0.5 <= found.share.high
        paper += found.paper_rate.high >= 0.5
    assert 0.91 <= covered / runs <= 0.99
    if ties:
        assert paper / runs < 0.7
