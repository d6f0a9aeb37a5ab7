"""A metric without `prepare`, one version after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_moral.controls.draws import permutations, resamples
from sae_moral.controls.sample import prepared as prepare
from sae_moral.controls.sample import statistics_of
from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import FOUNDATIONS, VICE, VIRTUE
from sae_moral.metrics import FunctionMetric, Statistic
from sae_moral.metrics.base import Preparing, Variants, folds
from sae_moral.metrics.categorical import AuditedCategorical, PaperCategorical
from tests.metrics.worlds import moral_data, planted, values


def distance(x: Tensor, data: MoralData) -> dict[tuple[str, str], float | None]:
    """How far virtues lie from vices, in care and over all; with None where there is nothing to compare."""
    found: dict[tuple[str, str], float | None] = {("texts", "overall"): float(len(np.unique(data.group)))}
    for group, own in (("care-harm", data.foundation == 0), ("overall", data.foundation >= 0)):
        sides = [x[torch.from_numpy(own & (data.pole == pole))] for pole in (VIRTUE, VICE)]
        known = min(map(len, sides)) > 0
        found["distance", group] = float((sides[0].mean(dim=0) - sides[1].mean(dim=0)).norm()) if known else None
    return found


METRIC = FunctionMetric("mine", "distance", distance)


def world() -> tuple[Tensor, MoralData]:
    """Forty records, a few of equal text; care has two virtues and two vices, so some resamples lack one."""
    x, data = planted(0, n=45, d=3, polarity=1)
    care = [np.flatnonzero(data.items(0, pole))[:2] for pole in (VIRTUE, VICE)]
    keep = np.concatenate([np.flatnonzero(data.foundation != 0), *care])
    x, data = x[torch.from_numpy(keep)], data.subset(keep)
    text = [f"text {i - (i % 5 == 1)}" for i in range(len(data))]
    return x, moral_data(data.foundation, data.pole, data.typicality, text=text, length=data.length)


def test_relabelled_versions_are_an_explicit_loop() -> None:
    x, data = world()
    index = permutations(data, "all", 6, stratum=None).index
    got = prepare(METRIC, x, data)(Variants.relabelled(index))
    for v in range(6):
        for key, value in distance(x, data.relabelled(index[v].numpy())).items():
            assert got[key][v].item() == pytest.approx(np.nan if value is None else value, abs=1e-12, nan_ok=True)


def test_weighed_versions_are_the_metric_of_so_many_copies() -> None:
    x, data = world()
    weight = resamples(data, 40)
    got = prepare(METRIC, x, data)(Variants.weighed(weight))
    for v in range(40):
        rows = np.repeat(np.arange(len(data)), weight[v].numpy().astype(int))
        for key, value in distance(x[torch.from_numpy(rows)], data.subset(rows)).items():
            assert got[key][v].item() == pytest.approx(np.nan if value is None else value, abs=1e-12, nan_ok=True)
    assert got["distance", "care-harm"].isnan().any() and not got["distance", "care-harm"].isnan().all()
    assert (got["texts", "overall"] < len(np.unique(data.group))).all()


def test_labels_are_moved_before_copies_are_made() -> None:
    x, data = world()
    index, weight = permutations(data, "all", 3, stratum=None).index, resamples(data, 3)
    got = prepare(METRIC, x, data)(Variants(index, weight))
    for v in range(3):
        rows = np.repeat(np.arange(len(data)), weight[v].numpy().astype(int))
        expected = distance(x[torch.from_numpy(rows)], data.relabelled(index[v].numpy()).subset(rows))
        assert got["distance", "overall"][v].item() == pytest.approx(expected["distance", "overall"], abs=1e-12)


def test_copies_of_a_text_stay_in_one_fold() -> None:
    seen: list[int] = []

    def spy(x: Tensor, data: MoralData) -> dict[str, float | None]:
        fold = folds(data, 3, 0)
        seen.append(len(data))
        assert all(len(np.unique(fold[data.group == group])) == 1 for group in np.unique(data.group))
        return {"folds": float(len(np.unique(fold)))}

    x, data = world()
    prepare(FunctionMetric("spy", "folds", spy), x, data)(Variants.weighed(resamples(data, 10)))
    assert len(seen) == 10 and len(set(seen)) > 1  # texts with two records make samples of several sizes


def test_only_gives_exactly_what_is_asked_for() -> None:
    x, data = world()
    prepared = prepare(METRIC, x, data)
    assert set(prepared(Variants.one(len(data)), ["texts"])) == {("texts", "overall")}
    assert prepared(Variants.one(len(data)), []) == {}


def test_a_shared_row_serves_all_versions_and_nothing_is_changed_in_place() -> None:
    x, data = world()
    before = x.clone()
    index = permutations(data, "all", 2, stratum=None).index
    both = prepare(METRIC, x, data)(Variants(index, torch.ones(1, len(data)).double()))
    assert {len(value) for value in both.values()} == {2}
    assert torch.equal(x, before)


def test_own_statistics_are_the_metrics_own_checked() -> None:
    x, data = world()
    got = {(s.name, s.group): s.value for s in statistics_of(METRIC, prepare(METRIC, x, data), x, data)}
    assert got == distance(x, data)
    bad = FunctionMetric("bad", "a", lambda x, data: [Statistic("a", float("nan"))])
    with pytest.raises(ValueError, match="'bad' gave nan"):
        statistics_of(bad, prepare(bad, x, data), x, data)
    built_in = AuditedCategorical(folds=3)
    found = statistics_of(built_in, prepare(built_in, x, data), x, data)
    assert {(s.name, s.group): s.value for s in found} == values(built_in, x, data)


def test_a_metric_that_prepares_is_not_looped() -> None:
    class Counting(PaperCategorical):
        def __call__(self, representation, data):
            raise AssertionError("called")

    x, data = world()
    assert isinstance(Counting(), Preparing) and not isinstance(METRIC, Preparing)
    found = prepare(Counting(), x, data)(Variants.one(len(data)))
    assert set(found) == {("cosine", foundation) for foundation in FOUNDATIONS}
