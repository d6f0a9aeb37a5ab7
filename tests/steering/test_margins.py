"""Statistics of margins: against scikit-learn, and against what a written-out sample of copies gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sae_moral.controls.draws import resamples
from sae_moral.data import MoralData
from sae_moral.data.moral_data import from_records
from sae_moral.foundations import NEUTRAL, VICE, VIRTUE
from sae_moral.steering.margins import (
    STATISTICS,
    auroc,
    drawn,
    estimate,
    gap,
    gap_sd,
    margin_effect,
    pushed_wrong,
)


def labelled(n: int, neutral: int = 0) -> MoralData:
    """n scenarios, every other one virtuous, the first ones neutral."""
    vectors = np.zeros((n, 10))
    vectors[np.arange(neutral, n), np.arange(neutral, n) % 2] = 1.0
    return from_records([(str(i), f"text {i}", vectors[i], 0) for i in range(n)], {})


DATA = labelled(120, neutral=15)
WEIGHTS = resamples(DATA, 30)
RNG = np.random.default_rng(0)
PLAIN = RNG.normal(size=(3, 120)).round(1)  # with ties
MARGIN = PLAIN + 0.3 * (DATA.pole == VIRTUE) + 0.1 * RNG.normal(size=(3, 120))


def by_hand(statistic: str, margin: np.ndarray, count: np.ndarray) -> float:
    """Mean over the pairs, of as many copies of each scenario as it counts."""
    copies = np.repeat(np.arange(len(DATA)), count.astype(int))
    copies = copies[DATA.pole[copies] != NEUTRAL]
    virtue, found = DATA.pole[copies] == VIRTUE, []
    for row in margin[:, copies]:
        good, bad = row[virtue], row[~virtue]
        pooled = ((len(good) - 1) * good.var(ddof=1) + (len(bad) - 1) * bad.var(ddof=1)) / (len(row) - 2)
        found.append(
            {
                "auroc": roc_auc_score(virtue, row),
                "gap": good.mean() - bad.mean(),
                "gap_sd": (good.mean() - bad.mean()) / np.sqrt(pooled),
            }[statistic]
        )
    return float(np.mean(found))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_every_draw_is_that_of_copies(statistic: str) -> None:
    assert (DATA.pole == NEUTRAL).sum() == 15
    found = drawn(statistic, MARGIN, DATA, WEIGHTS)
    once = np.ones(len(DATA))
    expected = [by_hand(statistic, MARGIN, count) for count in [once, *WEIGHTS.numpy()]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    single = drawn(statistic, MARGIN[0], DATA, WEIGHTS)
    np.testing.assert_allclose(single[0], by_hand(statistic, MARGIN[:1], once), atol=1e-12)


def test_estimates_and_their_changes_are_of_the_same_draws() -> None:
    for name, function in (("auroc", auroc), ("gap", gap), ("gap_sd", gap_sd)):
        own, other = (drawn(name, one, DATA, WEIGHTS) for one in (MARGIN, PLAIN))
        found = function(MARGIN, DATA, WEIGHTS)
        assert found == (own[0], *np.percentile(own[1:], [2.5, 97.5]))
        change = function(MARGIN, DATA, WEIGHTS, against=PLAIN)
        assert change == (own[0] - other[0], *np.percentile((own - other)[1:], [2.5, 97.5]))
        assert change.high - change.low < found.high - found.low  # paired
        assert function(MARGIN, DATA, WEIGHTS, against=MARGIN) == (0, 0, 0)


def test_the_interval_is_the_sampling_errors() -> None:
    """Distinct texts with unit variance: the standard error of a difference of two means, and Hanley and McNeil's of an
    AUROC of ½."""
    data, n = labelled(400), 200
    virtue = data.pole == VIRTUE
    noise = np.random.default_rng(1).normal(size=400)
    value, low, high = gap(noise + np.where(virtue, 0.5, -0.5), data, resamples(data, 4000, seed=1))
    error = 1.96 * np.sqrt(sum(noise[data.pole == pole].var() / n for pole in (VIRTUE, VICE)))
    assert value == pytest.approx(1.0, abs=0.25)
    assert (low, high) == (pytest.approx(value - error, abs=0.03), pytest.approx(value + error, abs=0.03))
    value, low, high = auroc(noise, data, resamples(data, 2000, seed=1))
    error = 1.96 * np.sqrt((0.25 + (n - 1) * (2 * 1 / 12)) / n**2)
    assert (low, high) == (pytest.approx(value - error, abs=0.006), pytest.approx(value + error, abs=0.006))


def test_sharper_logits_raise_the_gap_alone() -> None:
    effect = margin_effect(3 * PLAIN, PLAIN, DATA, WEIGHTS)
    assert effect.gap.value == pytest.approx(3 * gap(PLAIN, DATA, WEIGHTS).value)
    assert effect.auroc_change == (0, 0, 0)
    assert effect.gap_sd_change.value == pytest.approx(0, abs=1e-12)


def test_a_change_of_tone_pushes_one_pole_wrong() -> None:
    effect = margin_effect(PLAIN + 0.4, PLAIN, DATA, WEIGHTS)
    vice = (DATA.pole == VICE).sum() / (DATA.pole != NEUTRAL).sum()
    assert effect.pushed_wrong.value == pytest.approx(vice)
    assert (effect.gap_change.value, effect.auroc_change.value) == pytest.approx((0, 0), abs=1e-12)


def test_pushed_wrong_by_hand() -> None:
    moved = RNG.normal(size=(3, 120)) * (RNG.random((3, 120)) < 0.8)  # some stay
    virtue, vice = DATA.pole == VIRTUE, DATA.pole == VICE
    wrong = (moved[:, virtue] < 0).sum() + (moved[:, vice] > 0).sum()
    found = pushed_wrong(PLAIN + moved, DATA, WEIGHTS, PLAIN)
    assert found.value == pytest.approx(wrong / (3 * 105))
    assert found.low < found.value < found.high
    right = np.where(virtue, 0.1, -0.1)
    assert pushed_wrong(PLAIN + right, DATA, WEIGHTS, PLAIN) == (0, 0, 0)
    assert pushed_wrong(PLAIN - right, DATA, WEIGHTS, PLAIN) == (1, 1, 1)


def test_a_part_of_the_pairs() -> None:
    whole, part = (margin_effect(MARGIN[rows], PLAIN[rows], DATA, WEIGHTS) for rows in ([0, 1, 2], [1]))
    assert part.auroc == auroc(MARGIN[1], DATA, WEIGHTS) != whole.auroc


def test_draws_without_a_pole_say_nothing() -> None:
    data, margin = labelled(4), np.arange(4.0)
    weights = torch.tensor([[2.0, 0, 2, 0], [1, 1, 1, 1], [0, 1, 2, 1]])
    assert np.isnan(drawn("auroc", margin, data, weights)[1])
    assert auroc(margin, data, weights).value == 0.25 or auroc(margin, data, weights).value == 0.75
    assert np.isfinite(auroc(margin, data, weights)).all()
    assert np.isnan(estimate(np.array([0.5, np.nan]))[1:]).all()
    assert auroc(margin, data, weights[:0]).value == auroc(margin, data, weights).value


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown statistic 'aurok'; did you mean 'auroc'"):
        drawn("aurok", MARGIN, DATA, WEIGHTS)
    virtuous = DATA.subset(DATA.pole == VIRTUE)
    with pytest.raises(ValueError, match="52 virtuous and 0 vicious scenarios; expected some of both"):
        auroc(MARGIN[:, DATA.pole == VIRTUE], virtuous, resamples(virtuous, 3))
