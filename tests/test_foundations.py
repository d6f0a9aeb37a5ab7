"""The vocabulary and the moral vector, against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_moral.foundations import (
    DIMENSIONS,
    FOUNDATIONS,
    POLARITIES,
    POLES,
    VICE,
    VIRTUE,
    dimension_index,
    foundation_index,
    moral_vector,
)


def test_the_order_of_the_dimensions_is_the_paper_s() -> None:
    expected = "care harm fairness cheating loyalty betrayal authority subversion sanctity degradation"
    assert expected.split() == list(DIMENSIONS)
    assert (*POLES, "neutral") == POLARITIES


@pytest.mark.parametrize("index", range(5))
def test_a_foundation_is_found_by_each_of_its_names(index: int) -> None:
    virtue, vice = FOUNDATIONS[index].split("-")
    for name in (FOUNDATIONS[index], virtue, vice, f"  {virtue.upper()} "):
        assert foundation_index(name) == index
    assert dimension_index(index, VIRTUE) == DIMENSIONS.index(virtue)
    assert dimension_index(index, VICE) == DIMENSIONS.index(vice)


def test_an_unknown_foundation_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown foundation 'loyalty-betrayel'; did you mean 'loyalty-betrayal'"):
        foundation_index("loyalty-betrayel")


@pytest.mark.parametrize(("foundation", "pole"), [(5, 0), (-1, 0), (0, 2), (0, -1)])
def test_there_is_no_dimension_outside(foundation: int, pole: int) -> None:
    with pytest.raises(ValueError, match=f"no dimension for foundation {foundation} and pole {pole}"):
        dimension_index(foundation, pole)


@pytest.mark.parametrize(
    ("judgment", "agreement", "foundations", "expected"),
    [
        (2.0, 4.0, ["care-harm"], {"care": 1.0}),
        (-2.0, 4.0, ["care-harm"], {"harm": 1.0}),
        (-1.0, 3.0, ["fairness-cheating"], {"cheating": 0.375}),
        (1.0, 1.0, ["sanctity-degradation"], {"sanctity": 0.125}),
        (-2.0, 3.0, ["loyalty-betrayal", "authority-subversion"], {"betrayal": 0.75, "subversion": 0.75}),
        (0.0, 4.0, ["care-harm"], {}),
        (-2.0, 0.0, ["care-harm"], {}),
        (1.0, 2.0, ["care", "harm"], {"care": 0.25}),
    ],
)
def test_moral_vector(judgment: float, agreement: float, foundations: list[str], expected: dict[str, float]) -> None:
    vector = moral_vector(judgment, agreement, foundations)
    assert {name: value for name, value in zip(DIMENSIONS, vector.tolist(), strict=True) if value} == expected


@pytest.mark.parametrize(
    ("judgment", "agreement", "message"),
    [
        (2.5, 4.0, "judgment is 2.5; expected a number from -2 to 2"),
        (math.nan, 4.0, "judgment is nan"),
        (1.0, 5.0, "agreement is 5.0; expected a number from 0 to 4"),
        (1.0, -1.0, "agreement is -1.0"),
    ],
)
def test_a_value_outside_its_range_is_refused(judgment: float, agreement: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moral_vector(judgment, agreement, ["care"])


def test_no_foundation_is_refused() -> None:
    with pytest.raises(ValueError, match="no foundation given"):
        moral_vector(1.0, 1.0, [])


@settings(deadline=None, database=None)
@given(st.floats(-2, 2), st.floats(0, 4), st.sets(st.sampled_from(FOUNDATIONS), min_size=1))
def test_only_the_judged_pole_of_the_named_foundations_is_set(j: float, w: float, named: set[str]) -> None:
    by_foundation = moral_vector(j, w, named).reshape(5, 2)
    strength = abs(j / 2 * w / 4)
    for foundation, pair in zip(FOUNDATIONS, by_foundation, strict=True):
        expected = np.zeros(2)
        if foundation in named:
            expected[int(j < 0)] = strength
        np.testing.assert_array_equal(pair, expected)
