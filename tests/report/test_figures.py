"""The figures of a diagnosis show exactly its rows, peaks and baselines: assertions are on drawn data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex

from sae_moral.foundations import FOUNDATIONS
from sae_moral.report import heatmap_figure, layer_figure, overview_figure, profile_figure, statistics_figure
from sae_moral.report.figures import explained_figure
from sae_moral.report.style import FOUNDATION_COLOURS, plain
from sae_moral.results import MEAN_OF_GROUPS, Baseline, Row
from tests.report.drawn import data, draw, line
from tests.report.records import BASELINES, card, realistic, record, row

M = card("m", "score", "higher", 0.5)
LOWER = card("m", "score", "lower")


def test_lines_are_the_rows() -> None:
    made = realistic(layers=8)
    for metric, declared in made.metrics.items():
        axes = draw(layer_figure(made, metric)).axes[0]
        rows = [r for r in made.rows if r.metric == metric and r.headline]
        for group in {r.group for r in rows}:
            mine = sorted((r.layer, r.value) for r in rows if r.group == group)
            assert data(axes, group) == ([x for x, _ in mine], [y for _, y in mine])
        overall = sorted((r.layer, r.ceiling) for r in rows if r.group == "overall")
        assert data(axes, "ceiling")[1] == [ceiling for _, ceiling in overall]
        assert set(np.asarray(line(axes, "chance").get_ydata())) == {declared.spec.chance}


def test_bands_are_the_rows() -> None:
    rows = [
        row("m", "score", i, "overall", 0.6, ci_low=0.5 - i / 10, ci_high=0.7, null_low=0.1, null_high=0.2 + i / 10)
        for i in range(3)
    ]
    axes = layer_figure(record(rows, [M]), "m").axes[0]
    corners = [
        {(float(x), round(float(y), 6)) for x, y in np.asarray(c.get_paths()[0].vertices)} for c in axes.collections
    ]
    assert {(0, 0.1), (2, 0.1), (0, 0.2), (1, 0.3), (2, 0.4)} <= corners[0]
    assert {(0, 0.5), (1, 0.4), (2, 0.3), (0, 0.7), (2, 0.7)} <= corners[1]


def test_the_peak_is_marked() -> None:
    rows = [row("m", "score", i, "overall", v) for i, v in ((0, 0.4), (5, 0.9), (9, None), (12, 0.1))]
    for declared, layer, value in ((M, 5, 0.9), (LOWER, 12, 0.1)):
        axes = layer_figure(record(rows, [declared]), "m").axes[0]
        assert data(axes, "_best") == ([layer], [value])
        assert set(np.asarray(line(axes, "_best layer").get_xdata())) == {layer}
        assert axes.get_title(loc="right") == f"best layer {layer}: {value:.3f}"


def test_none_leaves_a_gap_and_lone_points_stay_visible() -> None:
    values = [0.1, None, 0.3, float("nan"), float("inf"), *[0.5] * 20]
    rows = [row("m", "score", i, "overall", v) for i, v in enumerate(values)]
    drawn = line(layer_figure(record(rows, [M]), "m").axes[0], "overall")
    assert np.flatnonzero(np.isnan(np.asarray(drawn.get_ydata(), dtype=float))).tolist() == [1, 3, 4]
    assert drawn.get_markevery() == [0, 2]


def test_a_row_that_is_absent_is_a_gap_too() -> None:
    rows = [row("m", "score", i, "overall", 0.5) for i in range(4)]
    rows += [row("m", "score", i, "care-harm", 0.4) for i in (0, 3)]
    x, y = data(layer_figure(record(rows, [M]), "m").axes[0], "care-harm")
    assert x == [0, 1, 2, 3] and np.isnan(y[1:3]).all() and y[0] == y[3] == 0.4


def test_one_layer_is_drawn_as_points() -> None:
    rows = [row("m", "score", 7, g, v, ci_low=v - 0.1, ci_high=v + 0.1) for g, v in (("overall", 0.6), ("harm", 0.4))]
    axes = draw(layer_figure(record(rows, [M]), "m")).axes[0]
    for group, value in (("overall", 0.6), ("harm", 0.4)):
        assert data(axes, group) == ([7], [value])
        assert line(axes, group).get_marker() == "o" and line(axes, group).get_markevery() == [0]
    assert list(axes.get_xticks()) == [7]
    assert len(axes.collections) == 1, "the interval of the leading group"


def test_without_overall_the_mean_of_the_groups_is_drawn_with_its_interval() -> None:
    planted = {0: (0.5, 0.6), 1: (0.2, 0.4), 2: (0.0, None)}
    rows = [row("m", "score", i, g, v) for i, pair in planted.items() for g, v in zip("ab", pair, strict=True)]
    made = record(rows, [LOWER])
    profile = dataclasses.replace(made.profiles["m"], ci_low=(None, 0.25, None), ci_high=(None, 0.35, None))
    made = dataclasses.replace(made, profiles={"m": profile})
    axes = draw(layer_figure(made, "m")).axes[0]
    assert data(axes, "a")[1] == [0.5, 0.2, 0.0]
    means = data(axes, MEAN_OF_GROUPS)[1]
    assert means[:2] == pytest.approx([0.55, 0.3]) and np.isnan(means[2])
    assert data(axes, "_best") == ([1], [pytest.approx(0.3)])
    assert axes.get_title(loc="right") == "best layer 1: mean of 2 groups 0.300"
    (band,) = axes.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert corners[:, 1].min() == 0.25 and corners[:, 1].max() == 0.35 and 0.5 < corners[:, 0].min() < 1


def test_a_metric_without_values_says_so() -> None:
    never = card("never-ran", "x")
    made = record([row("m", "score", i, "overall", None) for i in range(3)], [M, never])
    for metric in ("m", "never-ran"):
        axes = draw(layer_figure(made, metric)).axes[0]
        assert [text.get_text() for text in axes.texts] == ["no value was computed"] and not axes.get_lines()
    assert len(draw(overview_figure(made)).axes) == 2
    assert draw(heatmap_figure(made, "m")).axes[0].texts


@pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")
def test_third_party_names() -> None:
    groups = ["$x_{$", "<b>", "道德", "a\x00b", *(f"group {i}" for i in range(30))]
    rows = [row("rsa/1", "ρ$", i, g, 50 + i + j) for j, g in enumerate(groups) for i in range(4)]
    axes = draw(layer_figure(record(rows, [card("rsa/1", "ρ$", None)]), "rsa/1")).axes[0]
    for j, group in enumerate(groups):
        assert data(axes, plain(group))[1] == [50 + i + j for i in range(4)]
    assert axes.get_yscale() == "linear"


def test_an_exploding_statistic_does_not_flatten_the_rest() -> None:
    rows = [row("m", "score", i, "overall", v) for i, v in enumerate([0.1, 0.2, 0.15, 0.1, -50000.0])]
    axes = draw(layer_figure(record(rows, [M]), "m")).axes[0]
    assert axes.get_yscale() == "symlog" and data(axes, "overall")[1][-1] == -50000.0


def test_overview_has_one_panel_per_metric() -> None:
    made = realistic(layers=6)
    figure = draw(overview_figure(made))
    assert len(figure.axes) == 4
    for axes, (metric, declared) in zip(figure.axes, made.metrics.items(), strict=True):
        place = (metric, declared.headline, "overall")
        assert data(axes, "overall")[1] == [r.value for r in made.rows if (r.metric, r.statistic, r.group) == place]
    with pytest.raises(ValueError, match="no metric"):
        overview_figure(record([], []))


def test_small_multiples_hold_the_further_statistics() -> None:
    made = realistic(layers=4)
    figure = statistics_figure(made, "gradient")
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["spearman with neutral", "asymmetry"]
    expected = [r.value for r in made.rows if (r.statistic, r.group) == ("asymmetry", "care-harm")]
    assert data(figure.axes[1], "care-harm")[1] == expected
    alone = dataclasses.replace(made, rows=[r for r in made.rows if r.statistic == "spearman"])
    assert statistics_figure(alone, "gradient") is None


def test_heat_map_cells_are_the_rows() -> None:
    rows = [
        row("m", "score", i, g, None if (i, g) == (1, "b") else i + len(g)) for g in ("b", "overall") for i in (0, 1)
    ]
    figure = draw(heatmap_figure(record(rows, [M]), "m"))
    cells = figure.axes[0].collections[0].get_array()
    assert cells is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["overall", "b"]
    assert np.ma.filled(cells, -1).reshape(2, 2).tolist() == [[7, 8], [1, -1]]


def test_profile_is_the_list_and_its_length_is_checked() -> None:
    axes = draw(profile_figure([0, 5, 9], {"length_share": [0.9, None, 0.1]})).axes[0]
    x, y = data(axes, "length_share")
    assert x == [0, 5, 9] and (y[0], y[2]) == (0.9, 0.1) and np.isnan(y[1])
    with pytest.raises(ValueError, match="sinks has 2 values for 3 places"):
        profile_figure([0, 5, 9], {"sinks": [1.0, 2.0]})
    with pytest.raises(ValueError, match="nothing to draw"):
        profile_figure([0], {})


def test_the_explained_shares_are_the_lines() -> None:
    axes = draw(explained_figure([0, 5], {"length": [0.2, None], "all": [0.25, -0.01]})).axes[0]
    assert data(axes, "all together")[1] == [25, -1] and np.isnan(data(axes, "length")[1][1])
    assert axes.get_ylim()[0] <= -1
    with pytest.raises(ValueError, match="length has 1 values for 2 places"):
        explained_figure([0, 5], {"length": [0.2]})


def test_colours_are_kept_across_figures() -> None:
    made = realistic(layers=4)
    for metric, groups in (("categorical", {f: f for f in FOUNDATIONS}), ("gradient", {"harm": "care-harm"})):
        axes = layer_figure(made, metric).axes[0]
        for group, foundation in groups.items():
            assert to_hex(line(axes, group).get_color()) == FOUNDATION_COLOURS[foundation].lower()
    axes = layer_figure(made, "gradient").axes[0]
    assert line(axes, "care").get_linestyle() == "-" and line(axes, "harm").get_linestyle() == "--"


def test_contradictory_rows_and_unknown_names_are_refused() -> None:
    made = record([row("m", "score", 3, "harm", 0.1), row("m", "score", 3, "harm", 0.2)], [M])
    with pytest.raises(ValueError, match="m/score has two rows for layer 3 and group 'harm'"):
        layer_figure(made, "m")
    with pytest.raises(ValueError, match="unknown metric 'n'"):
        layer_figure(made, "n")
    with pytest.raises(ValueError, match="did you mean 'm/score'"):
        heatmap_figure(made, "m", "scores")


def test_baselines_are_drawn_and_named() -> None:
    made = realistic(layers=2)
    for metric in made.metrics:
        axes = draw(layer_figure(made, metric)).axes[0]
        for name, baseline in made.baselines.items():
            drawn = list(baseline.profiles[metric].values)
            assert data(axes, name)[1] == (drawn if name == "random weights" else drawn * 2)
            assert [text.get_fontstyle() for text in axes.texts if text.get_text() == name] == ["italic"]
        figure = layer_figure(made, metric)
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert {*BASELINES, "interval", "null band", "chance"} <= set(legend)
        dashes = {str(line(axes, n).get_linestyle()) + str(line(axes, n)._dash_pattern) for n in BASELINES}  # pyright: ignore[reportAttributeAccessIssue]
        assert len(dashes) == len(BASELINES), "they differ without colour"
    assert data(overview_figure(made).axes[0], "random weights")[1]


def test_baselines_over_one_layer_and_one_named_as_a_group() -> None:
    axes = draw(layer_figure(realistic(layers=1), "structural")).axes[0]
    assert all(len(set(data(axes, name)[1])) == 1 for name in BASELINES)
    rows: list[Row] = [row("m", "score", i, g, 0.5) for i in range(2) for g in ("overall", "nuisance")]
    made = record(rows, [M], names=("nuisance",))
    assert isinstance(made.baselines["nuisance"], Baseline)
    axes = draw(layer_figure(made, "m")).axes[0]
    assert data(axes, "nuisance")[1] == [0.5, 0.5] and data(axes, "nuisance (baseline)")[1] == [0.125, 0.125]
