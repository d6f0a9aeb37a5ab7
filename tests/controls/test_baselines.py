"""What is left of a number without valence, in planted worlds; what baselines are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_moral.controls.baselines import BASELINES, barring, one_layer
from sae_moral.controls.settings import NAMES, Controls
from sae_moral.metrics import FunctionMetric
from sae_moral.metrics.categorical import AuditedCategorical
from sae_moral.metrics.dimensional import AuditedDimensional
from tests.controls.test_measure import PROTOCOL, moral, representations, run, world

CONTROLS = Controls(("interval", "valence"), resamples=50, permutations=19)
MINE = FunctionMetric("mine", "n", lambda x, data: {"n": float(x[0, 0])})
METRICS = [AuditedCategorical(3), AuditedDimensional(3), MINE]
DATA = world(0)
X = moral(DATA, 2.0)
MORAL = [0, 1, 2]
"""The directions that labels go along; the others are noise."""


def left(columns: list[int], layers: tuple[int, ...] = (4,)) -> dict[str, tuple[float, float, float | None]]:
    """Per metric: the peak, what is left of it, and the lower end of its interval, when the valence reader's scores are
    these directions."""
    x = dict.fromkeys(layers, X)
    scores = representations(DATA, {layer: 10 * X[:, columns] - 3 for layer in layers})
    found = run(DATA, x, METRICS, CONTROLS, PROTOCOL, baselines={"valence reader": lambda: scores})
    assert "without valence" not in {one.against for one in found.comparisons}
    assert "without valence" not in " ".join(one.sentence for one in found.verdicts.values())
    profiles = found.baselines["without valence"].profiles
    assert set(profiles) == {"categorical", "dimensional"}  # a metric that cannot take anything out is left out
    assert {one.layers for one in profiles.values()} == {layers}
    return {name: (found.peaks[name].value, one.values[0], one.ci_low[0]) for name, one in profiles.items()}


def test_nothing_is_left_where_morality_is_valence() -> None:
    found = left(MORAL)
    assert found["categorical"][0] > 0.95 and abs(found["categorical"][1] - 0.5) < 0.12
    assert found["dimensional"][0] > 0.04 and found["dimensional"][1] < 0.005


def test_all_is_left_where_valence_is_something_else() -> None:
    for peak, value, low in left([4, 5]).values():
        assert value == pytest.approx(peak, abs=0.02)
        assert low is not None and low < value


def test_each_layer_is_without_its_own_scores() -> None:
    scores = representations(DATA, {2: X[:, MORAL], 4: X[:, [4, 5]]})
    found = run(DATA, {2: X, 4: X}, METRICS[:1], CONTROLS, PROTOCOL, baselines={"valence reader": lambda: scores})
    profile = found.baselines["without valence"].profiles["categorical"]
    low, high = profile.values
    assert abs(low - 0.5) < 0.12 and high > 0.9
    # An interval where the peak is, and there alone.
    assert [end is not None for end in profile.ci_low] == [found.peaks["categorical"].layer == one for one in (2, 4)]


def test_it_is_the_metric_of_data_with_these_columns() -> None:
    assert DATA.length is not None
    x, columns = torch.from_numpy(X), torch.from_numpy(X[:, :1])
    barred = barring(DATA, columns)
    assert barred.nuisance is not None and (barred.group == DATA.group).all()
    np.testing.assert_array_equal(barred.nuisance, X[:, :1])
    one = one_layer(x, DATA)
    assert one.layers == (0,) and torch.equal(one[0], x)


def test_every_baseline_is_asked_for_by_a_control_and_made_in_one_way() -> None:
    assert {kind.control for kind in BASELINES} <= {*NAMES, None}
    for kind in BASELINES:
        assert [kind.vectors, kind.capture, kind.without].count(None) == 2
        assert kind.without is None or kind.without in [one.name for one in BASELINES[: BASELINES.index(kind)]]
