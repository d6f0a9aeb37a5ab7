"""Numbers and lists as a reader sees them."""

from __future__ import annotations

from sae_moral.controls import NAMES
from sae_moral.controls.baselines import BASELINES as KINDS
from sae_moral.controls.verdict import WORDS
from sae_moral.report.style import BASELINES
from sae_moral.report.words import (
    BADGES,
    CONTROLS,
    MISSING,
    count,
    detail,
    interval,
    listed,
    number,
    p_value,
    p_words,
    percent,
    signed,
    wrapped,
)


def test_numbers() -> None:
    nan = float("nan")
    assert [number(x) for x in (None, nan, -0.5, 0.0, 12, 12345.6, 1e-5)] == [
        *(MISSING, MISSING, "−0.500", "0.000", "12", "12,346", "1.0e−05"),
    ]
    assert [number(float("inf")), number(-float("inf"))] == ["∞", "−∞"]
    assert [count(None), count(1500.0), count(nan)] == [MISSING, "1,500", MISSING]
    assert [p_value(0.0004), p_value(0.02), p_value(None)] == ["<0.001", "0.020", MISSING]
    assert [interval(0.1, 0.2), interval(0.1, None)] == ["0.100 to 0.200", MISSING]
    given = (None, nan, True, 0.25, "a", 3)
    assert [detail(x) for x in given] == ["not computed", "not computed", "yes", "0.25", "a", "3"]
    assert [percent(0.0123), percent(1.0), percent(None)] == ["1.23 %", "100 %", MISSING]
    assert [signed(0.04), signed(-0.009), signed(None)] == ["+0.040", "−0.009", MISSING]
    assert [p_words(0.0004), p_words(0.02), p_words(None)] == ["p < 0.001", "p = 0.020", "p not computed"]


def test_lists_and_lines() -> None:
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert wrapped("m: ", "") == [] and wrapped("m: ", "one two", width=6) == ["m: one", "   two"]


def test_the_words_are_those_of_the_controls() -> None:
    assert list(BADGES) == list(reversed(WORDS)) and set(CONTROLS) == set(NAMES)
    assert {kind.control for kind in KINDS if kind.control is not None} <= set(CONTROLS)
    # What an SAE encodes is drawn beside its latents, but says nothing about morality: no verdict rests on it.
    assert set(BASELINES) == {kind.name for kind in KINDS}
