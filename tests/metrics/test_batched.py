"""Every built-in metric on many versions of a sample at once is the metric on one version after the other."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score, pairwise_distances_argmin, roc_auc_score
from torch import Tensor

from sae_moral.controls.draws import permutations, resamples
from sae_moral.controls.inference import FIXED
from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import NEUTRAL
from sae_moral.metrics.base import Preparing, Values, Variants, declared, folds
from sae_moral.metrics.categorical import AuditedCategorical, PaperCategorical
from sae_moral.metrics.dimensional import AuditedDimensional, PaperDimensional
from sae_moral.metrics.discriminant import Whitened
from sae_moral.metrics.gradient import AuditedGradient, PaperGradient
from sae_moral.metrics.structural import PENALTY, AuditedStructural, PaperStructural
from tests.metrics.worlds import LEVELS, lengths, moral_data, planted, values

METRICS = [
    AuditedCategorical(folds=3),
    AuditedGradient(folds=3),
    AuditedStructural(folds=3, components=4),
    AuditedDimensional(folds=3),
    PaperCategorical(),
    PaperGradient(),
    PaperStructural(min_cluster_size=6, min_samples=2),
    PaperDimensional(),
]
VERSIONS = 4
TOLERANCE = {PaperDimensional: 1e-5}


def named(metric: Any) -> str:
    return type(metric).__name__


def plain() -> tuple[Tensor, MoralData]:
    """Distinct texts, every foundation and pole."""
    return planted(0, n=240, d=5, polarity=1, foundation=1.5, gradation=2)


def twins() -> tuple[Tensor, MoralData]:
    """Equal texts under any labels, a tenth of them rated for two foundations; lengths go with texts."""
    x, data = planted(1, n=240, d=5, polarity=1, foundation=1.5, gradation=2)
    rng = np.random.default_rng(1)
    twin = np.where(rng.random(240) < 0.2, rng.integers(0, 240, 240), np.arange(240))
    f, pole, typicality = data.foundation.copy(), data.pole, data.typicality
    rated, other = np.arange(0, 30, 2), np.arange(1, 30, 2)  # record 2i + 1 is text 2i, of the next foundation
    twin[other], f[other] = twin[rated], (f[rated] + 1) % 5
    text = [f"text {i}" + "." * (row % 2) for row, i in enumerate(twin)]
    data = moral_data(f, pole, typicality, text=text, length=lengths(data)[twin])
    return x[torch.from_numpy(twin)] + torch.from_numpy(1e-3 * rng.standard_normal((240, 5))), data


def homeless() -> tuple[Tensor, MoralData]:
    """Neutrals of no foundation, several foundations rated in one vector, and no vice of loyalty."""
    x, data = planted(2, n=240, d=5, polarity=1, foundation=1.5, gradation=2)
    rng = np.random.default_rng(2)
    vector = data.vector.copy()
    moral = np.flatnonzero(data.pole != NEUTRAL)
    also = 2 * ((data.foundation[moral] + 1) % 5) + rng.integers(0, 2, len(moral))
    vector[moral, also] = rng.choice(LEVELS, len(moral))
    foundation = np.where((data.pole == NEUTRAL) & (rng.random(240) < 0.7), -1, data.foundation)
    vector[foundation < 0] = 0
    data = dataclasses.replace(data, vector=vector, foundation=foundation)
    keep = ~((data.foundation == 2) & (data.pole == 1))
    return x[torch.from_numpy(keep)], data.subset(keep)


WORLDS = {world.__name__: world for world in (plain, twins, homeless)}


def indices(metric: Any, data: MoralData) -> dict[str, Tensor]:
    """Scheme → permutations of the labels, the first of which moves nothing."""
    nulls = {spec.null for spec in declared(metric).values() if spec.null is not None}
    assert isinstance(metric, Preparing)
    found = {}
    fold = folds(data, 3, 0) if "Audited" in named(metric) else None
    for name in sorted(nulls):
        index = permutations(data, name, VERSIONS - 1, seed=3, fold=fold, stratum=None).index
        assert (index != torch.arange(len(data))).float().mean() > 0.15
        found[name] = torch.cat([torch.arange(len(data))[None], index])
    return found


def equal(got: Values, v: int, expected: dict[tuple[str, str], float | None], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    numbers = {key: float(value[v]) for key, value in got.items()}
    assert {key for key, value in numbers.items() if np.isnan(value)} == {k for k, e in expected.items() if e is None}
    known = {key: (numbers[key], value) for key, value in expected.items() if value is not None}
    off = {key: pair for key, pair in known.items() if abs(pair[0] - pair[1]) > tolerance * max(1, abs(pair[1]))}
    assert not off


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("metric", METRICS, ids=named)
def test_many_relabelled_versions_are_the_metric_on_each(metric: Any, world: str) -> None:
    x, data = WORLDS[world]()
    prepared, tolerance = metric.prepare(x, data), TOLERANCE.get(type(metric), 1e-9)
    for name, index in indices(metric, data).items():
        only = [spec.name for spec in metric.statistics if spec.null == name]
        got = prepared(Variants.relabelled(index), only)
        assert {len(value) for value in got.values()} == {VERSIONS}
        moved = {key: (value - value[0]).abs().max() > 1e-6 for key, value in got.items() if not value.isnan().any()}
        assert any(moved.values())
        for v in range(VERSIONS):
            alone = values(metric, x, data.relabelled(index[v].numpy()))
            equal(got, v, {key: value for key, value in alone.items() if key[0] in only}, tolerance)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("metric", METRICS, ids=named)
def test_single_precision_changes_draws_by_its_rounding(metric: Any, world: str) -> None:
    x, data = WORLDS[world]()
    prepared, seed = metric.prepare(x, data), torch.Generator().manual_seed(0)
    weight = 1 + 0.3 * torch.rand(VERSIONS, len(data), generator=seed, dtype=torch.float64)
    cases: list[tuple[Variants, list[str] | None]] = [
        (Variants.weighed(weight), None),
        (Variants.refitted(weight), None),
    ]
    for name, index in indices(metric, data).items():
        cases.append((Variants.relabelled(index), [spec.name for spec in metric.statistics if spec.null == name]))
    for variants, only in cases:
        single, double = prepared(variants.single(), only), prepared(variants, only)
        assert single.keys() == double.keys()
        for key, value in single.items():
            assert value.dtype == torch.float64
            # A penalty may be another one of two that are equally good (docs/design/metrics.md).
            np.testing.assert_allclose(value, double[key], atol=2e-4 if key[0].startswith("r2") else 1e-5)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("metric", METRICS, ids=named)
def test_every_scenario_counted_once_is_the_plain_value(metric: Any, world: str) -> None:
    x, data = WORLDS[world]()
    got, expected = (
        metric.prepare(x, data)(Variants.weighed(torch.ones(2, len(data)))),
        values(metric, x, data),
    )
    for v in range(2):
        shared = {key: value.expand(2) for key, value in got.items()}
        equal(shared, v, expected, TOLERANCE.get(type(metric), 1e-9))


@pytest.mark.parametrize("metric", METRICS, ids=named)
def test_only_gives_exactly_what_is_asked_for(metric: Any) -> None:
    x, data = plain()
    prepared, weight = metric.prepare(x, data), resamples(data, 3)
    everything = prepared(Variants.weighed(weight))
    names = list(dict.fromkeys(name for name, _ in everything))
    for only in ([], *([name] for name in names), names[:2], names[-2:]):
        got = prepared(Variants.weighed(weight), only)
        assert got.keys() == {key for key in everything if key[0] in only}
        for key, value in got.items():
            np.testing.assert_allclose(value, everything[key], atol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=named)
def test_each_weight_gives_what_it_gives_by_itself(metric: Any) -> None:
    # Enough items for prototypes of several texts: those of one have cosines of 1 that rounding would order.
    x, data = planted(3, n=600, d=5, polarity=1, foundation=1.5, gradation=2)
    prepared, weight = metric.prepare(x, data), resamples(data, 3, seed=1)
    together = prepared(Variants.weighed(weight))
    for v in range(3):
        alone = metric.prepare(x, data)(Variants.weighed(weight[v : v + 1]))
        assert alone.keys() == together.keys()
        for key, value in alone.items():
            np.testing.assert_allclose(together[key].expand(3)[v], value[0], atol=1e-9)


@pytest.mark.parametrize("metric", METRICS, ids=named)
def test_labels_and_weights_go_together_version_by_version(metric: Any) -> None:
    x, data = twins()
    prepared, weight = metric.prepare(x, data), resamples(data, VERSIONS, seed=2)
    for name, index in indices(metric, data).items():
        only = [s.name for s in metric.statistics if s.null == name and s.interval != "linearised"]
        together = prepared(Variants(index, weight), only)
        for v in range(VERSIONS):
            alone = prepared(Variants(index[v : v + 1], weight[v : v + 1]), only)
            for key, value in alone.items():
                tolerance = TOLERANCE.get(type(metric), 1e-9)
                expected = pytest.approx(value[0].item(), abs=tolerance, rel=tolerance, nan_ok=True)
                assert together[key].expand(VERSIONS)[v].item() == expected, key


@pytest.mark.parametrize("metric", [m for m in METRICS if not isinstance(m, PaperStructural)], ids=named)
def test_labels_moved_out_of_their_blocks_are_refused(metric: Any) -> None:
    x, data = plain()
    index = torch.arange(len(data))[None].flip(1)
    with pytest.raises(ValueError, match="keeps apart"):
        metric.prepare(x, data)(Variants.relabelled(index), [metric.headline])


@pytest.mark.parametrize("metric", METRICS[:4], ids=named)
def test_fits_to_every_scenario_once_are_the_plain_ones(metric: Any) -> None:
    x, data = twins()
    given = [spec.name for spec in metric.statistics if spec.interval in FIXED]
    got = metric.prepare(x, data)(Variants.refitted(torch.ones(2, len(data))), given)
    expected = {key: value for key, value in values(metric, x, data).items() if key[0] in given}
    for v in range(2):
        equal({key: value.expand(2) for key, value in got.items()}, v, expected, 1e-9)


def test_a_fits_weight_is_so_many_copies_in_what_is_fitted_and_none_in_what_is_scored() -> None:
    x, data = plain()
    v, fold, reader = x.numpy(), folds(data, 3, 0), resamples(data, 3, seed=4)
    variants = Variants.refitted(reader)
    names = ["auroc_prototype", "spearman_graded", "accuracy_polarity"]
    metrics = [replace(metric, remove_length=False) for metric in METRICS[:3]]
    read = [m.prepare(x, data)(variants, [name]) for m, name in zip(metrics, names, strict=True)]
    got = {key: value for values in read for key, value in values.items()}
    whitened = Whitened.of(x, data, fold, length=False).scaled(PENALTY).numpy()
    own, virtue, t = data.items(0, 0) | data.items(0, 1), data.items(0, 0), data.typicality
    for i in range(3):
        parts: dict[tuple[str, str], list[tuple[float, int]]] = {
            ("auroc_prototype", "care-harm"): [], ("spearman_graded", "care"): [], ("accuracy_polarity", "overall"): []
        }  # fmt: skip
        for k in range(3):
            copies = np.repeat(np.flatnonzero(fold != k), reader[i].numpy()[fold != k].astype(int))
            sides = [copies[data.items(0, pole)[copies]] for pole in (0, 1)]
            test = own & (fold == k)
            score = v[test] @ (v[sides[0]].mean(axis=0) - v[sides[1]].mean(axis=0))
            pairs = int(virtue[test].sum() * (~virtue[test]).sum())
            parts["auroc_prototype", "care-harm"].append((roc_auc_score(virtue[test], score), pairs))
            test = virtue & (fold == k)
            direction = (t[sides[0]] - t[sides[0]].mean()) @ v[sides[0]]
            score = v[test] @ direction / np.linalg.norm(v[test], axis=1)
            parts["spearman_graded", "care"].append((cast(float, spearmanr(t[test], score)[0]), test.sum() - 1))
            means = np.stack([whitened[copies[data.pole[copies] == pole]].mean(axis=0) for pole in range(3)])
            nearest = pairwise_distances_argmin(whitened[fold == k], means)
            right = balanced_accuracy_score(data.pole[fold == k], nearest, adjusted=True)
            parts["accuracy_polarity", "overall"].append((right, (fold == k).sum()))
        for key, part in parts.items():
            expected = np.average([p[0] for p in part], weights=[p[1] for p in part])
            assert got[key][i].item() == pytest.approx(expected, abs=1e-9), key


def test_fits_to_many_labels_cannot_be_weighed_to_first_order() -> None:
    x, data = plain()
    both = Variants(indices(METRICS[3], data)["labels"], torch.ones(1, len(data)).double(), resamples(data, VERSIONS))
    with pytest.raises(ValueError, match=f"weighed fits for {VERSIONS} versions of the labels; expected one"):
        METRICS[3].prepare(x, data)(both)
