"""A metric's peak over the layers, and its distance from a baseline's, by hand."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import norm

from sae_moral.controls import compare as compared
from sae_moral.controls.compare import Headline
from sae_moral.results import Direction, MetricCard, StatisticSpec

NAN = np.nan
compare, peak = cast(Any, compared.compare), cast(Any, compared.peak)  # whose parts may be None
CARD = MetricCard("mine", "a", {"a": StatisticSpec("a", "higher")})


def line(
    value: list[float],
    resampled: Any = None,
    null: Any = None,
    free: Any = None,
    opening: Any = None,
    layers: Any = None,
    direction: Direction | None = "higher",
) -> Any:
    draws = [None if part is None else np.array(part, dtype=float) for part in (resampled, null, free, opening)]
    layers = tuple(range(len(value)) if layers is None else layers)
    return Headline("mine", "a", direction, "overall", ("overall",), layers, np.array(value), *draws)


class TestHeadline:
    def of(self, values: list[dict], **draws: Any) -> Any:
        samples = {
            name: [{key: np.array(d, dtype=float) for key, d in s.items()} for s in own] for name, own in draws.items()
        }
        return Headline.of(CARD, [4, 9][: len(values)], values, samples)

    def test_overall_stands_for_the_metric_where_there_is_one(self) -> None:
        keys = ("a", "overall"), ("a", "care"), ("b", "overall")
        got = self.of(
            [dict(zip(keys, (0.5, 9.0, 9.0), strict=True)), dict(zip(keys, (0.25, 9.0, 9.0), strict=True))],
            resampled=[{keys[0]: [1, 2], keys[1]: [8, 8]}, {keys[0]: [3, 4]}],
        )
        assert (got.group, got.layers, got.value.tolist()) == ("overall", (4, 9), [0.5, 0.25])
        assert got.resampled.tolist() == [[1, 2], [3, 4]]
        assert got.null is got.free is got.opening is None

    def test_else_the_mean_of_its_groups_and_a_layer_that_lacks_one_takes_no_part(self) -> None:
        care, harm, never = ("a", "care"), ("a", "harm"), ("a", "fairness")
        got = self.of(
            [{care: 1.0, harm: 2.0, never: None}, {care: None, harm: 4.0, never: None}],
            null=[{care: [1, NAN, NAN], harm: [3, 5, NAN]}, {care: [0, 0, 0], harm: [1, 1, 1]}],
        )
        assert (got.group, got.groups) == ("mean of groups", ("care", "harm"))
        np.testing.assert_array_equal(got.value, [1.5, NAN])
        np.testing.assert_array_equal(got.null, [[2, 5, NAN], [NAN, NAN, NAN]])
        assert got.best == 0

    def test_a_baseline_is_the_mean_of_the_same_groups_as_the_model(self) -> None:
        care, harm = ("a", "care"), ("a", "harm")
        model = self.of([{care: 1.0, harm: None}])
        assert (model.group, model.groups) == ("care", ("care",))
        baseline = Headline.of(CARD, (), [{care: 0.5, harm: 9.0}], {}, model.groups)
        assert (baseline.group, baseline.value.tolist(), baseline.layers) == ("care", [0.5], ())
        lacking = Headline.of(CARD, (), [{care: 0.5}], {}, ("care", "harm"))
        assert np.isnan(lacking.value[0]) and lacking.best is None

    def test_an_overall_without_a_value_is_not_replaced_by_its_groups(self) -> None:
        got = self.of([{("a", "overall"): None, ("a", "care"): 1.0}])
        assert got.group == "overall" and got.best is None

    def test_its_profile_has_values_and_intervals_where_it_takes_part(self) -> None:
        found = line([0.5, NAN], resampled=[[0.4, 0.5, 0.6], [1, 2, 3]], layers=[4, 9]).profile(0.5)
        assert (found.metric, found.statistic, found.group) == ("mine", "a", "overall")
        assert (found.layers, found.values) == ((4, 9), (0.5, None))
        assert (found.ci_low, found.ci_high) == ((pytest.approx(0.45), None), (pytest.approx(0.55), None))
        assert line([0.5], layers=()).profile(0.5).layers == ()

    def test_a_layer_without_a_value_is_nan_and_draws_are_all_or_nothing(self) -> None:
        key = ("a", "overall")
        got = self.of([{key: None}, {key: 1.0}], null=[{key: [1, 2]}, {}])
        assert np.isnan(got.value[0]) and got.value[1] == 1
        assert got.null is None


class TestPeak:
    def test_it_is_the_least_indifferent_layer_with_its_interval_and_corrected_p(self) -> None:
        headline = line(
            [0.5, 0.8, 0.6],
            resampled=[[0] * 5, [0.6, 0.7, 0.8, 0.9, 1.0], [0] * 5],
            null=[[0.1, 0.2, 0.9, 0.3], [0.4, 0.1, 0.1, 0.1], [0.5, 0.1, 0.1, 0.85]],  # largest: .5, .2, .9, .85
            free=[[0.9] * 4, [0.1] * 4, [0.1] * 4],
            opening=[[0.9, 0.1, 0.1], [0.7, 0.1, 0.1], [0.1] * 3],
            layers=[0, 5, 10],
        )
        # Upper quarters less the layer's mean under permuted labels: layer 5: 0.9 − 0.175.
        assert dataclasses.asdict(peak(headline, 0.5, alpha=0.25, margin=0.7)) == {
            "metric": "mine",
            "statistic": "a",
            "group": "overall",
            "layer": 5,
            "value": 0.8,
            "n_layers": 3,
            "ci_low": pytest.approx(0.7),
            "ci_high": pytest.approx(0.9),
            "p_value": 3 / 5,
            "p_value_any_length": 5 / 5,
            "null_low": pytest.approx(0.425),
            "null_high": pytest.approx(0.8625),
            "ceiling": None,
            "ceiling_low": None,
            "ceiling_high": None,
            "p_family": None,
            "p_value_within_opening": 2 / 4,
            "smallest_p": 1 / 5,
            "outcome": "cannot tell",
            "margin": 0.7,
            "at_most": pytest.approx(0.9 - 0.175),
            "detectable": pytest.approx(0.8625 + 0.8416 * np.std([0.6, 0.7, 0.8, 0.9, 1.0]), abs=1e-4),
            "control_task": None,
            "selectivity": None,
        }

    def test_where_higher_is_more_indifferent_it_is_the_lowest_layer(self) -> None:
        headline = line([0.5, -0.8, -0.6], null=[[0.1, 0.2], [0.1, -0.9], [-0.3, 0.4]], direction="lower")
        found = peak(headline, 0.5)
        assert (found.layer, found.value, headline.sign) == (1, -0.8, -1)
        assert found.p_value == 2 / 3
        assert (found.null_low, found.null_high) == pytest.approx((-0.75, -0.45))
        assert found.ci_low is None and found.p_value_any_length is None

    def test_a_metric_that_does_not_say_peaks_where_it_is_highest_and_is_tested_both_ways(self) -> None:
        silent = line([1.0, 3.0], null=[[0, 2, 0, 5], [1, 0, 4, 0]], direction=None)
        found = peak(silent, 0.9)
        assert (silent.sign, found.layer, found.p_value) == (1, 1, 1.0)

    @pytest.mark.parametrize("direction", ["higher", "lower"])
    def test_of_normal_draws_the_bounds_are_those_of_normal_theory(self, direction: Direction) -> None:
        rng, sign = np.random.default_rng(0), 1 if direction == "higher" else -1
        resampled = 0.5 + sign * (0.04 + 0.03 * rng.standard_normal((1, 200_000)))
        null = 0.5 + 0.03 * rng.standard_normal((1, 200_000))
        got = peak(line([0.5 + sign * 0.04], resampled, null, direction=direction), 0.95, alpha=0.05, margin=0.1)
        assert got.at_most == pytest.approx(0.04 + 1.6449 * 0.03, abs=5e-4)
        assert sign * (got.detectable - 0.5) == pytest.approx((1.6449 + 0.8416) * 0.03, abs=5e-4)
        assert got.outcome == "not more"

    def test_every_layer_has_to_lie_within_the_margin_of_chance(self) -> None:
        rng = np.random.default_rng(0)
        resampled, null = 0.01 * rng.standard_normal((2, 1000)) + np.array([[0.03], [0.02]]), np.zeros((2, 1000))
        null[:, ::10] = 0.2  # heavy, so that nothing is beyond it
        got = peak(line([0.03, 0.02], resampled + np.array([[0.0], [0.02]]), null), 0.95, margin=0.03)
        assert got.layer == 0 and got.at_most == pytest.approx(0.04 + 0.0164 - 0.02, abs=2e-3)
        assert got.outcome == "cannot tell"

    def test_layers_without_a_value_are_passed_over_and_without_any_there_is_no_peak(self) -> None:
        found = peak(line([NAN, 0.25, NAN], null=[[NAN] * 3, [0.1, 0.2, 0.3], [NAN] * 3]), 0.9)
        assert (found.layer, found.p_value) == (1, 2 / 4)
        assert peak(line([NAN, NAN], null=[[1, 2], [1, 2]]), 0.9) is None

    def test_draws_without_any_value_leave_holes_and_no_nan(self) -> None:
        found = peak(line([0.5], [[NAN] * 3], [[NAN] * 3], [[NAN] * 3], [[NAN] * 2]), 0.9)
        numbers = (found.ci_low, found.p_value, found.p_value_any_length, found.null_low, found.p_value_within_opening)
        assert {*numbers, found.smallest_p, found.at_most, found.detectable} == {None}
        found = peak(line([0.5], null=[[0.1, 0.2, 0.3, 0.6] * 5 + [NAN]]), 0.9)
        assert found.p_value == 6 / 21


class TestCompare:
    # Errors: layer 2: 0, .4, −.1, 0; layer 7: −.1, 0, .1, 0; the larger of them: 0, .4, .1, 0.
    model = line([0.5, 0.8], resampled=[[0.5, 0.9, 0.4, 0.5], [0.7, 0.8, 0.9, 0.8]], layers=[2, 7])
    baseline = line([0.6], resampled=[[0.5, 0.6, 0.8, 0.2]], layers=())  # errors −.1, 0, .2, −.4

    def test_the_largest_error_of_any_layer_decides_what_is_beyond_and_the_peaks_own_the_upper_end(self) -> None:
        got = compare(self.model, self.baseline, "bag of words", 0.5)
        high = np.quantile([0.1, 0.4, -0.1, 0.4], 0.75)
        low = np.quantile([0.0, 0.0, -0.1, 0.4], 0.25)
        assert dataclasses.asdict(got) == {
            "metric": "mine",
            "statistic": "a",
            "against": "bag of words",
            "layer": 7,
            "value": 0.8,
            "against_layer": None,
            "against_value": 0.6,
            "difference": pytest.approx(0.2),
            "ci_low": pytest.approx(0.2 - high),
            "ci_high": pytest.approx(0.2 - low),
            "p_value": 3 / 5,  # of the errors .1, .4, −.1, .4 two reach .2
            "outcome": "cannot tell",
            "margin": None,
            # Leads less errors: layer 7: .2, .2, .3, −.2; layer 2: −.1 less .1, .4, −.3, .4: 0.95 quantiles.
            "at_most": pytest.approx(np.quantile([0.2, 0.2, 0.3, -0.2], 0.95)),
            "detectable": pytest.approx(np.quantile([0.1, 0.4, -0.1, 0.4], 0.95) + 0.8416 * np.std([0, 0, -0.1, 0.4]),
                                        abs=1e-4),
        }  # fmt: skip

    def test_where_higher_is_more_indifferent_everything_is_mirrored(self) -> None:
        mirrored = [
            dataclasses.replace(one, value=-one.value, resampled=-one.resampled, direction="lower")
            for one in (self.model, self.baseline)
        ]
        got, plain = compare(*mirrored, "x", 0.5), compare(self.model, self.baseline, "x", 0.5)
        assert (got.layer, got.value, got.difference) == (7, -0.8, pytest.approx(-plain.difference))
        assert (got.ci_low, got.ci_high) == pytest.approx((-plain.ci_high, -plain.ci_low))
        assert got.p_value == plain.p_value

    @pytest.mark.parametrize(
        ("lead", "outcome"), [(0.03, "more"), (0.0, "cannot tell"), (-0.012, "not more"), (-0.3, "not more")]
    )
    @pytest.mark.parametrize("direction", ["higher", "lower"])
    def test_of_normal_draws_it_is_the_two_one_sided_tests(
        self, lead: float, outcome: str, direction: Direction
    ) -> None:
        rng, sign, se, margin = np.random.default_rng(0), 1 if direction == "higher" else -1, 0.015, 0.02
        theirs = rng.normal(0.5, 0.009, (1, 200_000))
        mine = rng.normal(0.5 + sign * lead, 0.012, (1, 200_000))  # so that the difference has 0.015
        model = line([0.5 + sign * lead], mine, direction=direction)
        got = compare(model, line([0.5], theirs, direction=direction), "x", 0.90, alpha=0.05, margin=margin)
        assert got.at_most == pytest.approx(lead + 1.6449 * se, abs=4e-4)
        upper = got.ci_high if sign == 1 else -got.ci_low  # of the interval at 1 − 2 alpha
        assert got.at_most == pytest.approx(upper, abs=1e-9)
        assert got.detectable == pytest.approx((1.6449 + 0.8416) * se, abs=4e-4)
        assert got.p_value == pytest.approx(norm.sf(lead / se), abs=4e-3)
        assert (
            got.outcome
            == outcome
            == ("more" if lead > 1.66 * se else "not more" if lead < -0.3 * se else "cannot tell")
        )

    def test_a_layer_that_may_lead_stands_against_no_more(self) -> None:
        rng = np.random.default_rng(0)
        spread = np.array([[0.001], [0.1]])
        model = line([0.51, 0.50], np.array([[0.51], [0.50]]) + spread * rng.standard_normal((2, 4000)))
        got = compare(model, line([0.505], np.full((1, 4000), 0.505)), "x", 0.95, margin=0.02)
        assert got.layer == 0 and got.ci_high < 0.02 < got.at_most == pytest.approx(-0.005 + 1.645 * 0.1, abs=0.01)
        assert got.outcome == "cannot tell"

    def test_a_difference_of_the_detectable_size_is_shown_four_times_in_five(self) -> None:
        rng, errors = np.random.default_rng(1), np.random.default_rng(0).standard_normal((1, 400))
        baseline = line([0.0], np.zeros((1, 400)))
        size = compare(line([0.0], errors), baseline, "x", 0.95).detectable
        shown = [
            compare(line([value], value + errors), baseline, "x", 0.95).outcome == "more"
            for value in rng.normal(size, 1, 1500)
        ]
        assert np.mean(shown) == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / 1500))

    def test_a_model_below_its_baseline_has_a_large_p(self) -> None:
        got = compare(dataclasses.replace(self.baseline, layers=(0,)), self.model, "x", 0.5)
        assert got.difference == pytest.approx(-0.2)
        assert got.p_value == 5 / 5 - 1 / 5  # D_b − D = 0, −.1, .1, −.4 against −.2: three reach it
        assert got.against_layer == 7

    @pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
    def test_a_peak_that_is_no_higher_than_the_baselines_is_rarely_beyond_it(self, alike: float) -> None:
        rng = np.random.default_rng(0)

        def layers(b: int) -> np.ndarray:
            shared, own = rng.standard_normal((1, b)), rng.standard_normal((20, b))
            return np.sqrt(alike) * shared + np.sqrt(1 - alike) * own

        beyond = []
        for _ in range(400):
            value, against = layers(1), rng.standard_normal((1, 1))
            model = line(list(value[:, 0]), resampled=value + layers(200))
            baseline = line(list(against[0]), resampled=against + rng.standard_normal((1, 200)))
            beyond.append(compare(model, baseline, "x", 0.95).p_value < 0.05)
        assert np.mean(beyond) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)

    def test_layers_of_a_baseline_that_has_them_are_named(self) -> None:
        twin = dataclasses.replace(self.model, layers=(0, 3))
        assert compare(self.model, twin, "random weights", 0.5).against_layer == 3
        only = line([0.6], layers=[0])
        assert compare(self.model, only, "random weights", 0.5).against_layer == 0

    def test_without_resamples_there_is_a_difference_alone(self) -> None:
        got = compare(self.model, line([0.6]), "x", 0.5)
        assert got.difference == pytest.approx(0.2)
        assert (got.ci_low, got.ci_high, got.p_value) == (None, None, None)

    def test_without_a_value_there_is_no_comparison(self) -> None:
        assert compare(self.model, line([NAN]), "x", 0.5) is None
        assert compare(line([NAN]), self.baseline, "x", 0.5) is None

    def test_resamples_without_a_value_are_left_out_unless_they_are_too_many(self) -> None:
        holes = dataclasses.replace(self.model, resampled=np.full((2, 4), NAN))
        got = compare(holes, self.baseline, "x", 0.5)
        assert (got.ci_low, got.p_value) == (None, None)
        some = dataclasses.replace(self.model, resampled=np.where(np.arange(4) == 1, NAN, self.model.resampled))
        assert compare(some, self.baseline, "x", 0.5).p_value == 2 / 4
