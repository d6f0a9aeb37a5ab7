"""Colours, labels, and what importing the room costs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sae_moral.report.style import group_styles, line_styles, numbers, ordered, plain, spread_out


@pytest.mark.parametrize("wanted", [[], [0.5], [0.5, 0.5, 0.5], [-1.0, 0.0, 0.02, 3.0], [0.99, 1.0, 1.0]])
def test_labels_are_moved_apart(wanted: list[float]) -> None:
    places = spread_out(wanted, 0.1)
    assert len(places) == len(wanted) and (np.diff(places) >= 0.1 - 1e-9).all()
    assert (places >= 0).all() and (places <= 1 + 1e-9).all()


def test_every_name_has_a_style_of_its_own() -> None:
    for styles in (group_styles([f"g{i}" for i in range(32)]), line_styles([f"g{i}" for i in range(32)])):
        assert len({(s.colour, str(s.dash)) for s in styles.values()}) == 32
    assert ordered(["z", "harm", "care", "overall", "a"]) == ["overall", "care", "harm", "z", "a"]


def test_missing_and_infinite_numbers_are_gaps() -> None:
    assert np.isnan(numbers([None, float("inf"), float("nan")])).all()
    assert numbers([1, 0.5]).tolist() == [1.0, 0.5]


def test_names_are_no_mathematics_and_not_longer_than_their_place() -> None:
    assert plain("$x$") == r"\$x\$" and plain("a\x00b") == "a b"
    assert len(plain("x" * 100)) == 44


def test_importing_the_room_loads_no_matplotlib() -> None:
    code = "import sys, sae_moral.report; print([m for m in ('matplotlib', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = "import sys\nfrom sae_moral.report import layer_figure\nprint('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
