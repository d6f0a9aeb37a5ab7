"""Intervals, corrected variances and p-values, by hand."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from sae_moral.controls.draws import STEP
from sae_moral.controls.inference import faultless, interval, narrowed, p_values, smallest_p, widened
from sae_moral.results import Direction

NAN = np.nan


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


class TestInterval:
    def test_it_is_the_percentile_interval(self) -> None:
        assert interval(np.arange(101.0)[::-1], 0.9) == pytest.approx((5.0, 95.0))
        assert interval(array(1, 2, 3, 4), 0.5) == (1.75, 3.25)

    def test_a_tenth_without_a_value_is_left_out_and_more_are_too_many(self) -> None:
        draws = np.arange(100.0)
        draws[:10] = NAN
        assert interval(draws, 0.5) == pytest.approx((10 + 0.25 * 89, 10 + 0.75 * 89))
        draws[10] = np.inf
        assert interval(draws, 0.5) is None
        assert interval(np.full(5, NAN), 0.5) is None
        assert interval(array(), 0.5) is None


class TestFaultless:
    null = 0.5 + array(-1, 1) * np.sqrt(1 / (6 * 40))  # as forty independent pairs have

    def test_a_sample_without_an_error_ends_at_the_exact_one_sided_bound(self) -> None:
        drawn = faultless(1.0, 1.0, np.full(4000, 1.0), self.null, 0)
        assert interval(drawn, 0.95) == pytest.approx(
            (binomtest(40, 40, alternative="greater").proportion_ci(0.95).low, 1.0), abs=1e-3
        )

    def test_the_variance_of_an_auroc_of_permuted_labels_gives_the_number_of_pairs(self) -> None:
        rng, m = np.random.default_rng(0), 40
        labels = np.repeat([0, 1], m)
        null = array(*(roc_auc_score(rng.permutation(labels), np.arange(2 * m)) for _ in range(2000)))
        low = np.quantile(faultless(1.0, 1.0, np.ones(4000), null, 0), 0.025)
        assert 1 - low == pytest.approx(1 - 0.05 ** (1 / m), rel=0.1)

    def test_draws_stay_on_this_side_of_the_best_value_and_are_else_as_they_were(self) -> None:
        drawn = array(0.97, 1.02, NAN)
        np.testing.assert_array_equal(faultless(0.99, 1.0, drawn, self.null, 0), array(0.97, 1.0, NAN))
        np.testing.assert_array_equal(faultless(0.99, None, drawn, self.null, 0), drawn)

    @pytest.mark.parametrize("null", [None, array(NAN), array(0.5, 0.5)])
    def test_nothing_is_added_where_permuted_labels_say_nothing(self, null: np.ndarray | None) -> None:
        np.testing.assert_array_equal(faultless(1.0, 1.0, array(1, 1), null, 0), array(1, 1))


class TestWidened:
    refitted = array(1, 2, 6)  # about their mean: −2, −1, 3

    def test_it_adds_the_spread_of_refitted_about_its_mean(self) -> None:
        got = widened(np.full(30_000, 10.0), self.refitted, 7.0, None, 0)
        assert set(got) == {5.0, 6.0, 10.0}
        assert [(got == value).mean() for value in (5, 6, 10)] == pytest.approx([1 / 3] * 3, abs=0.01)

    def test_small_perturbations_are_scaled_up_about_the_value_and_independent_of_the_readers(self) -> None:
        rng = np.random.default_rng(1)
        moved, refitted = 5 + 2 * STEP * rng.standard_normal(20_000), 7 + 3 * rng.standard_normal(500)
        got = widened(moved, refitted, 4.0, None, 0)
        assert got.mean() == pytest.approx(4, abs=0.1)
        assert got.var() == pytest.approx(4 + refitted.var(), rel=0.05)

    def test_a_value_that_permuted_labels_give_varies_at_least_as_they_do(self) -> None:
        moved, null = STEP * array(-1, 1), array(-3, 3)  # variances 1 and 9 once scaled
        widths = {value: np.ptp(widened(moved, array(), value, null, 0)) for value in (0.0, 5.9, 9.0, 12.0, 40.0)}
        assert widths[0.0] == pytest.approx(6) and widths[5.9] == pytest.approx(6)
        assert widths[9.0] == pytest.approx(2 * np.sqrt(1 + 0.5 * 8))  # three standard deviations: half way
        assert widths[12.0] == pytest.approx(2) and widths[40.0] == pytest.approx(2)
        assert np.ptp(widened(moved, array(), 0.0, null / 30, 0)) == pytest.approx(2)  # never narrower

    @pytest.mark.parametrize("refitted", [array(3, 3, 3), array(NAN, NAN), array(4), array()])
    def test_readers_that_do_not_vary_add_nothing(self, refitted: np.ndarray) -> None:
        got = widened(STEP * array(1, 2, 3), refitted, 0.0, None, 0)
        np.testing.assert_allclose(got, array(-1, 0, 1), atol=1e-12)

    def test_draws_without_a_value_are_left_out_of_the_spread_and_stay(self) -> None:
        got = widened(array(0, NAN, 0, 0), array(NAN, *self.refitted, NAN), 0.0, array(NAN), 3)
        np.testing.assert_array_equal(got, widened(array(0, NAN, 0, 0), self.refitted, 0.0, None, 3))
        assert np.isnan(got[1]) and set(got[[0, 2, 3]]) <= {-2, -1, 3}

    def test_the_seed_decides(self) -> None:
        first, again, other = (widened(np.zeros(50), self.refitted, 0.0, None, seed) for seed in (0, 0, 1))
        assert (first == again).all() and (first != other).any()


class TestNarrowed:
    sampled = array(-1, 5, -1, 5)  # variance 9 about 2

    def test_it_takes_the_null_variance_off_about_the_value(self) -> None:
        got = narrowed(self.sampled, 1.0, array(-2, 2))  # 9 − 4 of 9 are left
        np.testing.assert_allclose(got, 1 + (self.sampled - 1) * np.sqrt(5 / 9))
        assert got.var() == pytest.approx(5)

    def test_what_permuted_labels_do_not_give_keeps_its_variance(self) -> None:
        left = {value: narrowed(self.sampled, value, array(-2, 2)).var() for value in (4.0, 6.0, 8.0, 50.0)}
        assert left == pytest.approx({4.0: 5, 6.0: 7, 8.0: 9, 50.0: 9})

    def test_half_of_the_variance_stays(self) -> None:
        got = narrowed(self.sampled, 1.0, array(-20, 20))
        assert got.var() == pytest.approx(4.5)

    def test_where_nothing_varies_or_nothing_is_known_draws_stay_as_they_are(self) -> None:
        constant = array(2, 2, 2)
        np.testing.assert_array_equal(narrowed(constant, 1.0, array(-2, 2)), constant)
        np.testing.assert_array_equal(narrowed(self.sampled, 1.0, array(NAN, NAN)), self.sampled)
        nothing = array(NAN, NAN)
        np.testing.assert_array_equal(narrowed(nothing, 1.0, array(-2, 2)), nothing)

    def test_draws_without_a_value_are_left_out_of_the_variances(self) -> None:
        got = narrowed(array(*self.sampled, NAN), 1.0, array(-2, 2, NAN))
        np.testing.assert_allclose(got[:4], narrowed(self.sampled, 1.0, array(-2, 2)))
        assert np.isnan(got[4])


class TestPValues:
    def test_the_sample_itself_counts_as_one_draw(self) -> None:
        null = array(0.1, 0.2, 0.6)
        assert p_values([0.5], [null], "higher") == [2 / 4]
        assert p_values([0.7], [null], "higher") == [1 / 4]
        assert p_values([0.0], [null], "higher") == [1.0]
        assert p_values([0.15], [null], "lower") == [2 / 4]
        assert p_values([0.0], [null], "lower") == [1 / 4]

    def test_a_tie_counts_even_where_rounding_hides_it(self) -> None:
        sides: tuple[tuple[int, Direction], ...] = ((1, "higher"), (-1, "lower"))
        for sign, side in sides:
            null = sign * array(0.0, 0.3, 0.3 - 1e-7, 0.3 - 1e-5)
            assert p_values([sign * 0.3], [null], side) == [3 / 5]

    def test_every_layer_is_compared_with_the_most_extreme_layer_of_each_permutation(self) -> None:
        null = [array(0, 2, 0, 5), array(1, 0, 4, 0)]  # largest: 1, 2, 4, 5
        assert p_values([1.0, 3.0], null, "higher") == [5 / 5, 3 / 5]
        assert p_values([-1.0, -3.0], [-one for one in null], "lower") == [5 / 5, 3 / 5]
        assert p_values([3.0], null[1:], "higher") == [2 / 5]

    def test_two_sided_is_twice_the_smaller_tail_and_at_most_1(self) -> None:
        null = [array(-3, 0, 1, 2), array(-1, -2, 0, 4)]  # largest: −1, 0, 1, 4; smallest: −3, −2, 0, 2
        assert p_values([3.0, -2.5], null, None) == [2 * 2 / 5, 2 * 2 / 5]
        assert p_values([0.5, 0.5], null, None) == [1.0, 1.0]

    def test_a_layer_without_a_value_has_none_and_no_part_in_the_largest(self) -> None:
        null = [array(0, 2, 0, 5), array(9, 9, 9, 9)]
        assert p_values([3.0, None], null, "higher") == [2 / 5, None]
        assert p_values([None, None], null, "higher") == [None, None]
        assert p_values([3.0, 4.0], [null[0], None], "higher") == [2 / 5, None]
        assert p_values([3.0], [None], None) == [None]

    def test_a_layer_with_too_few_draws_has_none_and_no_part_in_the_largest(self) -> None:
        few = np.full(20, 9.0)
        few[:3] = NAN
        enough = np.arange(20.0)
        enough[:2] = NAN
        got = p_values([18.0, 9.0], [enough, few], "higher")
        assert got == [3 / 19, None]  # two draws without any value are no draws
        assert p_values([18.0, 9.0], [enough, few], None) == [2 * 3 / 19, None]

    def test_a_draw_that_one_layer_lacks_is_that_of_the_others(self) -> None:
        first, second = np.arange(20.0), np.zeros(20)
        first[19], second[19] = NAN, 30.0
        assert p_values([18.5, 0.0], [first, second], "higher")[0] == 2 / 21
        second[19] = NAN
        assert p_values([17.5, 0.0], [first, second], "higher")[0] == 2 / 20

    def test_an_exact_test_rejects_no_more_often_than_it_says(self) -> None:
        rng = np.random.default_rng(0)
        p = []
        for _ in range(400):
            draws = rng.standard_normal((5, 40))  # five layers, the first draw is the sample
            p.append(min(cast(list[float], p_values(list(draws[:, 0]), list(draws[:, 1:]), "higher"))))
        for alpha in (0.1, 0.3, 0.5):
            share = np.mean(np.array(p) <= alpha + 1e-12)
            assert share == pytest.approx(alpha, abs=3 * np.sqrt(alpha * (1 - alpha) / 400))


class TestSmallestP:
    def test_it_is_what_the_most_extreme_of_the_draws_would_get(self) -> None:
        assert smallest_p(np.array([[0.1, 0.5, 0.3, 0.2]]), "higher") == 1 / 5
        assert smallest_p(np.array([[0.1, 0.5, 0.5, 0.5 - 1e-12]]), "higher") == 3 / 5
        assert smallest_p(np.array([[0.1, 0.5, 0.5, 0.5]]), "lower") == 1 / 5
        assert smallest_p(np.array([[0.1, 0.5, 0.5, 0.5]]), None) == 2 / 5
        assert smallest_p(np.array([[0.1, 0.5], [0.5, 0.2]]), "higher") == 2 / 3  # over layers
        assert smallest_p(np.array([[0.5, 0.5, np.nan]]), "higher") == 2 / 3
        assert smallest_p(np.full((1, 4), np.nan), "higher") is None
