"""What `evaluate` accepts from a metric, and what it refuses."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from sae_moral.metrics import base
from sae_moral.metrics.base import FunctionMetric, Metric, Statistic, evaluate, mean_over_groups
from tests.metrics.worlds import planted

X, DATA = planted(0, n=30, d=3)


def run(returned: Any, headline: str = "a") -> list[Statistic]:
    return evaluate(FunctionMetric("mine", headline, lambda x, data: returned), X, DATA)


def test_a_function_metric_is_a_metric_and_gets_both_arguments() -> None:
    seen: list[Any] = []
    metric = FunctionMetric("mine", "a", lambda x, data: seen.append((x, data)) or {"a": 1.0})
    assert isinstance(metric, Metric)
    evaluate(metric, X, DATA)
    assert seen[0][0] is X and seen[0][1] is DATA


def test_a_mapping_by_name_is_overall_and_rests_on_all_scenarios() -> None:
    assert run({"a": 0.5, "b": None}) == [Statistic("a", 0.5, "overall", 30, 0), Statistic("b", None, "overall", 30, 0)]


def test_a_mapping_by_name_and_group_keeps_the_groups() -> None:
    assert [(s.name, s.group, s.value) for s in run({("a", "care"): 0.1, ("a", "harm"): 0.2})] == [
        ("a", "care", 0.1),
        ("a", "harm", 0.2),
    ]


def test_statistics_pass_unchanged_from_any_iterable() -> None:
    given = [Statistic("a", 0.5, "care", 3, 1), Statistic("b", None)]
    assert run(iter(given)) == given


def test_numpy_numbers_become_floats() -> None:
    assert type(run({"a": np.float64(0.25)})[0].value) is float


def test_a_headline_without_a_value_is_allowed() -> None:
    assert run({"a": None})[0].value is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_nan_and_infinity_are_refused_with_metric_statistic_and_group(bad: float) -> None:
    with pytest.raises(ValueError, match=r"'mine' gave -?(nan|inf) for 'b' of 'care'.*None"):
        run({("a", "care"): 0.0, ("b", "care"): bad})


def test_a_statistic_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mine' gave \[\('a', 'care'\)\] more than once"):
        run([Statistic("a", 0.1, "care"), Statistic("a", 0.2, "harm"), Statistic("a", 0.1, "care")])


def test_one_name_in_two_groups_is_not_twice() -> None:
    assert len(run([Statistic("a", 0.1, "care"), Statistic("a", 0.2, "harm")])) == 2


@pytest.mark.parametrize("returned", [{"b": 0.1}, [], {}])
def test_a_missing_headline_is_refused(returned: Any) -> None:
    with pytest.raises(ValueError, match="'mine' did not give its headline 'a'"):
        run(returned)


@pytest.mark.parametrize("returned", [None, 0.5, [0.5], ["a"], "a", [("a", 0.5)]])
def test_anything_but_statistics_or_a_mapping_is_a_type_error_that_names_the_metric(
    monkeypatch: pytest.MonkeyPatch, returned: Any
) -> None:
    class Mine:
        name, headline = "mine", "a"

        def __call__(self, representation: Any, data: Any) -> Any:
            return returned

    # Without the tests' type checks, as a user calls it.
    monkeypatch.setattr(base, "checked", inspect.unwrap(base.checked))
    untyped: Any = inspect.unwrap(evaluate)
    with pytest.raises(TypeError, match=r"metric 'mine' returned .*; expected Statistic objects or a mapping"):
        untyped(Mine(), X, DATA)


def test_the_overall_mean_weighs_groups_equally_and_leaves_unknown_ones_out() -> None:
    parts = [
        Statistic("a", 0.2, "care", 10, 1),
        Statistic("a", 0.6, "harm", 30, 2),
        Statistic("a", None, "loyalty", 7, 3),
    ]
    assert mean_over_groups("a", parts) == Statistic("a", (0.2 + 0.6) / 2, "overall", 40, 3)


def test_the_overall_mean_of_nothing_known_is_none() -> None:
    assert mean_over_groups("a", [Statistic("a", None, "care", 0, 0)]).value is None
