"""Which controls are run, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sae_moral.controls.settings import DEFAULT, NAMES, Controls, get_controls


def test_named_sets() -> None:
    assert get_controls("default") == Controls() == get_controls(DEFAULT)
    assert get_controls("default").names == (
        "interval",
        "null",
        "nuisance",
        "words",
        "valence",
        "embeddings",
        "selectivity",
    )
    assert get_controls("all").names == NAMES == (*DEFAULT, "random-weights", "learning-curve")
    assert get_controls("none").names == ()
    assert get_controls("").names == ()


def test_names_with_commas_or_in_a_sequence_once_each() -> None:
    assert get_controls("null, words,null").names == ("null", "words")
    assert get_controls(["words", "null", "words"]).names == ("words", "null")
    assert get_controls(()).names == ()


def test_given_settings_stay_as_they_are() -> None:
    mine = Controls(names=("null",), permutations=49, seed=3)
    assert get_controls(mine) is mine
    assert "null" in mine and "interval" not in mine


@pytest.mark.parametrize("controls", ["nul", ["interval", "nul"]])
def test_an_unknown_name_is_an_error_with_the_nearest(controls: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"unknown control 'nul'; did you mean 'null'\?.*default, all, none"):
        get_controls(controls)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("resamples", 49, "resamples = 49; expected at least 50"),
        ("permutations", 18, "permutations = 18; expected at least 19"),
        ("margin", {"gradient": 0.0}, "margin of gradient = 0.0; expected a positive number in the units of its headl"),
        ("level", 1.0, "level 1.0, alpha 0.05; expected numbers between 0 and 1"),
        ("level", 0.0, "level 0.0"),
        ("alpha", 0.0, "alpha 0.0"),
        ("alpha", 95.0, "alpha 95.0"),
        ("stratum", 1, "stratum = 1 texts; expected at least 2, or None"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: float | dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Controls(), **{setting: value})


def test_the_smallest_settings_are_allowed() -> None:
    Controls(resamples=50, permutations=19, stratum=2)
    Controls(stratum=None)


def test_monte_carlo_errors_are_binomial() -> None:
    assert Controls().monte_carlo == {
        "interval_tail": pytest.approx((0.025 * 0.975 / 1000) ** 0.5, abs=1e-5),
        "p_value": pytest.approx((0.05 * 0.95 / 199) ** 0.5, abs=1e-5),
    }
