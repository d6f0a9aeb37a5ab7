"""Figures of any numbers show exactly these: every assertion is on drawn data, not on pixels."""

from __future__ import annotations

import numpy as np
import pytest

from sae_moral.report.panels import Line, Panel, heat_map, panels_figure
from sae_moral.report.style import LEAD, legend_line
from tests.report.drawn import data, draw, line


def test_lines_bands_and_legend() -> None:
    one = Line([0, 5, 9], [0.5, None, 0.1], LEAD, [0.4, None, 0.0], [0.6, None, 0.2])
    figure = panels_figure([Panel("p", {"a": one}, [0, 5, 9], chance=0.3)], legend=[[legend_line("a", LEAD)]])
    axes = draw(figure).axes[0]
    x, y = data(axes, "a")
    assert x == [0, 5, 9] and (y[0], y[2]) == (0.5, 0.1) and np.isnan(y[1])
    assert len(axes.collections) == 2, "two lone points have a bar each"
    assert set(np.asarray(line(axes, "chance").get_ydata())) == {0.3}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a"]


def test_an_axis_of_shares_and_a_panel_without_values() -> None:
    empty = Panel("empty", {"a": Line([0], [None])}, [0])
    shares = Panel("depth", {"a": Line([0.5, 1.0], [1, 2])}, ylim=(0.0, None), ylabel="CKA")
    figure = draw(panels_figure([empty, shares], columns=2))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no value was computed"]
    assert figure.axes[1].get_xlim() == (0, 1.02) and figure.axes[1].get_ylim()[0] == 0


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        panels_figure([])
    with pytest.raises(ValueError, match="sinks has 2 values for 3 places"):
        panels_figure([Panel("p", {"sinks": Line([0, 5, 9], [1.0, 2.0])}, [0, 5, 9])])


def test_heat_map_cells_are_the_numbers() -> None:
    figure = draw(heat_map([[7, 8], [1, None]], ["overall", "b"], ["0", "1"], title="t", middle=0.5))
    cells = figure.axes[0].collections[0].get_array()
    assert cells is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["overall", "b"]
    assert np.ma.getmaskarray(cells).reshape(2, 2).tolist() == [[False, False], [False, True]]
    assert np.ma.filled(cells, -1).reshape(2, 2).tolist() == [[7, 8], [1, -1]]
    assert draw(heat_map([[None]], ["a"], ["0"], title="t")).axes[0].texts
