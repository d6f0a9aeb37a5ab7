"""The learning curve: power laws with known limits, subsets that are whole groups, and what a diagnosis keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture import Representations
from sae_moral.controls import learning_curve as public
from sae_moral.controls.learning_curve import extrapolate, learning_curve
from sae_moral.data import MoralData
from sae_moral.metrics import Statistic
from sae_moral.protocol import AUDITED
from tests.metrics.worlds import planted

SIZES = 800 * np.array([0.125, 0.2, 0.32, 0.5, 0.75, 1.0])


def _draws(truth: float, c: float, rng: np.random.Generator, draws: int = 8) -> np.ndarray:
    """Means of 800 numbers of which m are drawn, on a curve of exponent c."""
    sample = rng.normal(size=800)
    values = np.empty((draws, len(SIZES)))
    for row in values:
        order = rng.permutation(800)
        row[:] = [truth - 0.2 * (m / 800) ** -c + 0.3 * sample[order[: int(m)]].mean() for m in SIZES]
    return values


@pytest.mark.parametrize("c", [0.25, 0.5, 1.0])
def test_an_exact_power_law_gives_its_limit(c: float) -> None:
    exact = np.tile(0.8 - 0.2 * (SIZES / 800) ** -c, (4, 1))
    found = extrapolate(SIZES, exact)
    assert found is not None
    assert (found.value, found.exponent) == (pytest.approx(0.8, abs=1e-6), pytest.approx(c))
    assert found.low - 1e-6 <= 0.8 <= found.high + 1e-6


@pytest.mark.parametrize("c", [0.3, 0.5, 0.9])
def test_the_interval_covers_the_limit_of_any_power_law(c: float) -> None:
    rng = np.random.default_rng(1)
    found = [extrapolate(SIZES, _draws(0.7, c, rng), seed=seed) for seed in range(80)]
    covered = np.mean([one is not None and one.low <= 0.7 <= one.high for one in found])
    assert covered >= 0.92, covered


def test_the_error_of_the_whole_sample_is_in_the_interval() -> None:
    # A flat curve: what is left is the error of a mean of 800 numbers of standard deviation 0.3.
    rng = np.random.default_rng(2)
    flat = [extrapolate(SIZES, _draws(0.7, 0.5, rng) + 0.2 * (SIZES / 800) ** -0.5, seed=seed) for seed in range(60)]
    widths = [one.high - one.low for one in flat if one is not None]
    assert min(widths) > 2 * 0.3 / 800**0.5


def test_too_few_sizes_have_no_limit() -> None:
    values = _draws(0.7, 0.5, np.random.default_rng(0))
    values[0, :3] = np.nan
    assert extrapolate(SIZES, values) is None
    values = _draws(0.7, 0.5, np.random.default_rng(0))
    values[:, -1] = np.nan
    assert extrapolate(SIZES, values) is None


class _Noted:
    """A metric whose value is 1 − 10 / n, which notes the data it was given."""

    name, headline, means, does_not_prove = "noted", "value", "", ""

    def __init__(self) -> None:
        self.seen: list[tuple[MoralData, tuple[int, ...]]] = []

    def __call__(self, representation: Any, data: MoralData) -> list[Statistic]:
        self.seen.append((data, tuple(representation.shape)))
        return [Statistic("value", 1 - 10 / len(data), "overall", len(data))]


def _captured(x: torch.Tensor) -> Representations:
    lengths, vectors = np.full(len(x), 5), x.float()
    return Representations((3,), np.arange(len(x)), lengths, lengths, {}, lambda layer: vectors)


def test_subsets_are_whole_groups_of_every_cell() -> None:
    x, data = planted(0, n=240, d=8)
    twins = MoralData(
        tuple(f"text {i // 2}" for i in range(240)),
        *(np.repeat(part[::2], 2, axis=0) for part in (data.vector, data.foundation, data.pole, data.typicality)),
        id=data.id,
        length=data.length,
    )
    metric = _Noted()
    found = learning_curve(_captured(x), twins, metric, 3, draws=3)  # type: ignore[arg-type]
    assert len(metric.seen[0][0]) == 240 and len(metric.seen) == 1 + 3 * 5
    for part, shape in metric.seen:
        assert shape == (len(part), 8)
        assert (np.bincount(part.group)[np.unique(part.group)] == 2).all()
        if len(part) < 240:
            share = min((0.125, 0.2, 0.32, 0.5, 0.75), key=lambda one: abs(one - len(part) / 240))
            cells, all_cells = (np.bincount(d.foundation * 3 + d.pole, minlength=15) / 2 for d in (part, twins))
            assert (np.abs(cells - share * all_cells) < 1).all()  # groups of each cell
    assert found.sizes[-1] == 240 and found.values[-1] == pytest.approx(1 - 10 / 240)
    assert list(found.sizes) == sorted(found.sizes)
    assert found.limit == pytest.approx(1, abs=0.01) and found.exponent == 1.0
    again = learning_curve(_captured(x), twins, _Noted(), 3, draws=3)  # type: ignore[arg-type]
    assert again == found


def test_what_cannot_be_drawn_is_refused() -> None:
    x, data = planted(0, n=60, d=8)
    with pytest.raises(ValueError, match=r"unknown layer '2'"):
        public(_captured(x), data, _Noted(), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected two draws or more"):
        public(_captured(x), data, _Noted(), 3, shares=(0.5, 1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected two draws or more"):
        public(_captured(x), data, _Noted(), 3, draws=1)  # type: ignore[arg-type]


def test_a_diagnosis_keeps_the_curve_of_each_peak() -> None:
    from sae_moral.controls import Controls, measure

    x, data = planted(1, n=240, d=8)
    metrics: Any = [_Noted()]
    controls = Controls(names=("learning-curve",))
    found = measure(_captured(x), data, metrics, AUDITED, controls, progress=False)
    curve, peak = found.learning_curves["noted"], found.peaks["noted"]
    assert (curve.layer, curve.group, curve.statistic) == (peak.layer, peak.group, peak.statistic)
    assert curve.values[-1] == pytest.approx(peak.value) and curve.sizes[-1] == 240
    assert curve.ci_low is not None and curve.ci_high is not None and curve.limit is not None
    assert curve.ci_low <= curve.limit + 1e-9 and curve.limit - 1e-9 <= curve.ci_high
    none = measure(_captured(x), data, metrics, AUDITED, Controls(names=()), progress=False)
    assert none.learning_curves == {}
