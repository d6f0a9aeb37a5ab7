"""The figures show exactly the rows: every assertion here is on drawn data, not on pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_moral.foundations import FOUNDATIONS
from sae_moral.report import heatmap_figure, layer_figure, overview_figure, profile_figure, statistics_figure
from sae_moral.report.axes import spread_out
from sae_moral.report.palette import FOUNDATION_COLOURS, group_styles, ordered, plain
from sae_moral.report.series import best_layer, headline_of, tracks_by_group

Make = Callable[..., Any]
HIGHER = {"headline": "score", "chance": 0.5, "higher_is": "less indifferent"}
LOWER = {"headline": "score", "chance": None, "higher_is": "more indifferent"}


def line(axes: Axes, label: str) -> Line2D:
    """The one line with this label."""
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return found


def data(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    """x and y of the line with this label."""
    one = line(axes, label)
    return list(np.asarray(one.get_xdata())), list(np.asarray(one.get_ydata(), dtype=float))


def draw(figure: Figure) -> Figure:
    """Lay the figure out, as saving it would."""
    figure.draw_without_rendering()
    return figure


def test_lines_are_the_rows(make_realistic: Make) -> None:
    fake = make_realistic()
    for metric, provenance in fake.provenance["metrics"].items():
        axes = draw(layer_figure(fake.frame, metric, provenance)).axes[0]
        rows = [r for r in fake.rows if r["metric"] == metric and r["headline"]]
        for group in {r["group"] for r in rows}:
            mine = sorted((r["layer"], r["value"]) for r in rows if r["group"] == group)
            assert data(axes, group) == ([x for x, _ in mine], [y for _, y in mine])
        overall = sorted((r["layer"], r["ceiling"], r["baseline"]) for r in rows if r["group"] == "overall")
        assert data(axes, "ceiling")[1] == [r[1] for r in overall]
        assert data(axes, "baseline")[1] == [r[2] for r in overall]
        assert set(np.asarray(line(axes, "chance").get_ydata())) == {provenance["chance"]}


def test_bands_are_the_rows(make_diagnosis: Make, make_row: Make) -> None:
    rows = [
        make_row(
            "m", "score", i, "overall", 0.6, ci_low=0.5 - i / 10, ci_high=0.7, null_low=0.1, null_high=0.2 + i / 10
        )
        for i in range(3)
    ]
    axes = layer_figure(make_diagnosis(rows, {}).frame, "m", HIGHER).axes[0]
    corners = [
        {(float(x), round(float(y), 6)) for x, y in np.asarray(c.get_paths()[0].vertices)} for c in axes.collections
    ]
    assert {(0, 0.1), (2, 0.1), (0, 0.2), (1, 0.3), (2, 0.4)} <= corners[0]
    assert {(0, 0.5), (1, 0.4), (2, 0.3), (0, 0.7), (2, 0.7)} <= corners[1]


def test_the_best_layer_is_marked(make_diagnosis: Make, make_row: Make) -> None:
    rows = [make_row("m", "score", i, "overall", v) for i, v in ((0, 0.4), (5, 0.9), (9, None), (12, 0.1))]
    frame = make_diagnosis(rows, {}).frame
    for provenance, layer, value in ((HIGHER, 5, 0.9), (LOWER, 12, 0.1)):
        axes = layer_figure(frame, "m", provenance).axes[0]
        assert data(axes, "_best") == ([layer], [value])
        assert set(np.asarray(line(axes, "_best layer").get_xdata())) == {layer}
        assert axes.get_title(loc="right") == f"best layer {layer}: {value:.3f}"


def test_none_leaves_a_gap_and_lone_points_stay_visible(make_diagnosis: Make, make_row: Make) -> None:
    values = [0.1, None, 0.3, float("nan"), float("inf"), *[0.5] * 20]
    rows = [make_row("m", "score", i, "overall", v) for i, v in enumerate(values)]
    drawn = line(layer_figure(make_diagnosis(rows, {}).frame, "m", HIGHER).axes[0], "overall")
    assert np.flatnonzero(np.isnan(np.asarray(drawn.get_ydata(), dtype=float))).tolist() == [1, 3, 4]
    assert drawn.get_markevery() == [0, 2]


def test_a_row_that_is_absent_is_a_gap_too(make_diagnosis: Make, make_row: Make) -> None:
    rows = [make_row("m", "score", i, "overall", 0.5) for i in range(4)]
    rows += [make_row("m", "score", i, "care-harm", 0.4) for i in (0, 3)]
    x, y = data(layer_figure(make_diagnosis(rows, {}).frame, "m", HIGHER).axes[0], "care-harm")
    assert x == [0, 1, 2, 3] and np.isnan(y[1:3]).all() and y[0] == y[3] == 0.4


def test_one_layer_is_drawn_as_points(make_diagnosis: Make, make_row: Make) -> None:
    rows = [
        make_row("m", "score", 7, g, v, ci_low=v - 0.1, ci_high=v + 0.1) for g, v in (("overall", 0.6), ("harm", 0.4))
    ]
    axes = draw(layer_figure(make_diagnosis(rows, {}).frame, "m", HIGHER)).axes[0]
    for group, value in (("overall", 0.6), ("harm", 0.4)):
        assert data(axes, group) == ([7], [value])
        assert line(axes, group).get_marker() == "o" and line(axes, group).get_markevery() == [0]
    assert list(axes.get_xticks()) == [7]
    assert len(axes.collections) == 1, "the interval of the leading group"


def test_without_overall_the_mean_of_the_groups_decides(make_diagnosis: Make, make_row: Make) -> None:
    planted = {0: (0.5, 0.6), 1: (0.2, 0.4), 2: (0.0, None)}
    rows = [make_row("m", "score", i, g, v) for i, pair in planted.items() for g, v in zip("ab", pair, strict=True)]
    fake = make_diagnosis(rows, {})
    best = best_layer(tracks_by_group(fake.frame, "m", "score"), LOWER)
    assert best is not None and (best.layer, best.group, best.groups, best.layers) == (1, None, 2, 2)
    assert best.value == pytest.approx(0.3) and best.spread == (0.2, 0.4)
    axes = draw(layer_figure(fake.frame, "m", LOWER)).axes[0]
    assert data(axes, "a")[1] == [0.5, 0.2, 0.0]
    assert not [one for one in axes.get_lines() if one.get_label() == "_best"]


def test_a_metric_without_values_says_so(make_diagnosis: Make, make_row: Make) -> None:
    frame = make_diagnosis([make_row("m", "score", i, "overall", None) for i in range(3)], {}).frame
    for metric in ("m", "never-ran"):
        axes = draw(layer_figure(frame, metric, HIGHER)).axes[0]
        assert [text.get_text() for text in axes.texts] == ["no value was computed"] and not axes.get_lines()
    assert len(draw(overview_figure(frame, {"m": HIGHER, "never-ran": {}})).axes) == 2
    assert draw(heatmap_figure(frame, "m", "score")).axes[0].texts


@pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")
def test_third_party_names(make_diagnosis: Make, make_row: Make) -> None:
    groups = ["$x_{$", "<b>", "道德", "a\x00b", *(f"group {i}" for i in range(30))]
    rows = [make_row("rsa/1", "ρ$", i, g, 50 + i + j) for j, g in enumerate(groups) for i in range(4)]
    fake = make_diagnosis(rows, {"rsa/1": {}})
    axes = draw(layer_figure(fake.frame, "rsa/1", {})).axes[0]
    for j, group in enumerate(groups):
        assert data(axes, plain(group))[1] == [50 + i + j for i in range(4)]
    assert axes.get_yscale() == "linear"


def test_an_exploding_statistic_does_not_flatten_the_rest(make_diagnosis: Make, make_row: Make) -> None:
    rows = [make_row("m", "r2", i, "overall", v) for i, v in enumerate([0.1, 0.2, 0.15, 0.1, -50000.0])]
    axes = draw(layer_figure(make_diagnosis(rows, {}).frame, "m", {})).axes[0]
    assert axes.get_yscale() == "symlog" and data(axes, "overall")[1][-1] == -50000.0


def test_overview_has_one_panel_per_metric(make_realistic: Make) -> None:
    fake = make_realistic(layers=6)
    figure = draw(overview_figure(fake.frame, fake.provenance["metrics"]))
    assert len(figure.axes) == 4
    for axes, (metric, provenance) in zip(figure.axes, fake.provenance["metrics"].items(), strict=True):
        expected = [
            r["value"] for r in fake.rows
            if (r["metric"], r["statistic"], r["group"]) == (metric, provenance["headline"], "overall")
        ]  # fmt: skip
        assert data(axes, "overall")[1] == expected
    with pytest.raises(ValueError, match="no metric"):
        overview_figure(fake.frame, {})


def test_small_multiples_hold_the_further_statistics(make_realistic: Make) -> None:
    fake = make_realistic(layers=4)
    figure = statistics_figure(fake.frame, "gradient", fake.provenance["metrics"]["gradient"])
    assert figure is not None
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["spearman with neutral", "spearman partial", "asymmetry"]
    expected = [r["value"] for r in fake.rows if (r["statistic"], r["group"]) == ("asymmetry", "care-harm")]
    assert data(figure.axes[2], "care-harm")[1] == expected
    headline_only = fake.frame[fake.frame["statistic"] == "spearman"]
    assert statistics_figure(headline_only, "gradient", {}) is None


def test_heatmap_cells_are_the_rows(make_diagnosis: Make, make_row: Make) -> None:
    rows = [
        make_row("m", "score", i, g, None if (i, g) == (1, "b") else i + len(g))
        for g in ("b", "overall")
        for i in (0, 1)
    ]
    figure = draw(heatmap_figure(make_diagnosis(rows, {}).frame, "m", "score", chance=0.5))
    cells = figure.axes[0].collections[0].get_array()
    assert cells is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["overall", "b"]
    assert np.ma.getmaskarray(cells).reshape(2, 2).tolist() == [[False, False], [False, True]]
    assert np.ma.filled(cells, -1).reshape(2, 2).tolist() == [[7, 8], [1, -1]]


def test_profile_is_the_list_and_its_length_is_checked() -> None:
    axes = draw(profile_figure([0, 5, 9], {"length_share": [0.9, None, 0.1]})).axes[0]
    x, y = data(axes, "length_share")
    assert x == [0, 5, 9] and (y[0], y[2]) == (0.9, 0.1) and np.isnan(y[1])
    with pytest.raises(ValueError, match="sinks has 2 entries for 3 layers"):
        profile_figure([0, 5, 9], {"sinks": [1.0, 2.0]})
    with pytest.raises(ValueError, match="nothing to draw"):
        profile_figure([0], {})


def test_colours_are_kept_across_figures(make_realistic: Make) -> None:
    fake = make_realistic(layers=4)
    for metric, groups in (("categorical", {f: f for f in FOUNDATIONS}), ("gradient", {"harm": "care-harm"})):
        axes = layer_figure(fake.frame, metric, fake.provenance["metrics"][metric]).axes[0]
        for group, foundation in groups.items():
            assert to_hex(line(axes, group).get_color()) == FOUNDATION_COLOURS[foundation].lower()
    assert line(axes, "care").get_linestyle() == "-" and line(axes, "harm").get_linestyle() == "--"
    assert len({(s.colour, str(s.dash)) for s in group_styles([f"g{i}" for i in range(32)]).values()}) == 32
    assert ordered(["z", "harm", "care", "overall", "a"]) == ["overall", "care", "harm", "z", "a"]


def test_contradictory_rows_are_refused(make_diagnosis: Make, make_row: Make) -> None:
    frame = make_diagnosis([make_row("m", "score", 3, "harm", 0.1), make_row("m", "score", 3, "harm", 0.2)], {}).frame
    with pytest.raises(ValueError, match="m/score has two rows for layer 3 and group 'harm'"):
        layer_figure(frame, "m", HIGHER)
    with pytest.raises(ValueError, match="did you mean 'score'"):
        layer_figure(frame, "m", {"headline": "scor"})
    with pytest.raises(ValueError, match="did you mean 'm/score'"):
        heatmap_figure(frame, "m", "scores")


def test_the_headline_is_found_without_provenance(make_diagnosis: Make, make_row: Make) -> None:
    rows = [make_row("m", "first", 0, "overall", 1.0), make_row("m", "second", 0, "overall", 2.0, headline=True)]
    assert headline_of(make_diagnosis(rows, {}).frame, "m", {}) == "second"
    assert headline_of(make_diagnosis(rows[:1], {}).frame, "m", {}) == "first"


@pytest.mark.parametrize("wanted", [[], [0.5], [0.5, 0.5, 0.5], [-1.0, 0.0, 0.02, 3.0], [0.99, 1.0, 1.0]])
def test_labels_are_moved_apart(wanted: list[float]) -> None:
    places = spread_out(wanted, 0.1)
    assert len(places) == len(wanted) and (np.diff(places) >= 0.1 - 1e-9).all()
    assert (places >= 0).all() and (places <= 1 + 1e-9).all()


def test_importing_the_room_loads_no_matplotlib() -> None:
    code = "import sys, sae_moral.report; print([m for m in ('matplotlib', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = "import sys\nfrom sae_moral.report import layer_figure\nprint('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
