"""One metric with its draws: which of them are corrected, and by what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sae_moral.controls.sample as sample_module
from sae_moral.controls.draws import STEP, Draws, in_folds, permutations, resamples
from sae_moral.controls.inference import faultless, narrowed, widened
from sae_moral.controls.sample import Seen
from sae_moral.controls.sample import sample as sample_of
from sae_moral.controls.settings import Controls
from sae_moral.metrics import Metric, preprocess
from sae_moral.metrics.base import Variants, declared, folds
from sae_moral.metrics.categorical import AuditedCategorical
from sae_moral.metrics.dimensional import AuditedDimensional
from sae_moral.metrics.gradient import AuditedGradient
from sae_moral.metrics.structural import AuditedStructural
from tests.metrics.worlds import planted

X, DATA = planted(0, n=150, d=5, polarity=0.7, gradation=1)
CONTROLS = Controls(("interval", "null"), resamples=60, permutations=29, seed=3)


def draws(controls: Controls = CONTROLS, *, free: bool = False) -> Any:
    """`Draws`; which of them are None depends on the controls."""
    return Draws(DATA, controls, folds(DATA, 3, 0), free)


def sample(metric: Metric, *arguments: Any, **options: Any) -> Any:
    """`Sampled`, whose values are None where a statistic has none."""
    return sample_of(metric, declared(metric), *arguments, **options)


def test_given_readers_are_widened_by_their_refits_and_nothing_else_is() -> None:
    metric, drawn = AuditedCategorical(3), draws()
    found, prepared = sample(metric, X, DATA, drawn, CONTROLS), metric.prepare(X, DATA)
    given = ["auroc", "auroc_prototype"]
    raw, refits = (
        prepared(Variants.weighed(drawn.weight).single()),
        prepared(Variants.refitted(drawn.fit).single(), given),
    )
    moved = prepared(Variants.weighed(drawn.perturbed).single(), given)
    assert found.resampled.keys() == raw.keys()
    for key, value in raw.items():
        expected = value.numpy()
        if key in refits:
            own, null = found.values[key], found.null[key]
            expected = widened(moved[key].numpy(), refits[key].numpy(), own, null, 3)
            assert expected.var() > 1.05 * np.var((moved[key].numpy() - own) / STEP)
            expected = faultless(own, 1.0, expected, null, 3)
        np.testing.assert_allclose(found.resampled[key], expected, atol=1e-12)


def test_means_over_folds_keep_the_shares_of_the_folds() -> None:
    metric, drawn, key = AuditedGradient(3), draws(), ("spearman", "overall")
    found, prepared = sample(metric, X, DATA, drawn, CONTROLS), metric.prepare(X, DATA)
    kept = in_folds(drawn.perturbed, DATA, drawn.fold)
    moved, free = (prepared(Variants.weighed(w).single(), ["spearman"])[key].numpy() for w in (kept, drawn.perturbed))
    refits = prepared(Variants.refitted(drawn.fit).single(), ["spearman"])[key].numpy()
    np.testing.assert_allclose(
        found.resampled[key], widened(moved, refits, found.values[key], found.null[key], 3), atol=1e-12
    )
    assert moved.var() < 0.9 * free.var()


def test_readers_refitted_to_first_order_are_narrowed_by_the_null() -> None:
    metric, drawn, key = AuditedDimensional(3), draws(), ("r2", "overall")
    noise = torch.randn(len(DATA), 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    signal = torch.from_numpy(DATA.vector) + 0.3 * noise
    for x, near in ((signal, False), (noise, True)):  # what permuted labels never give is not narrowed
        found = sample(metric, x, DATA, drawn, CONTROLS)
        raw = metric.prepare(x, DATA)(Variants.weighed(drawn.weight).single())[key].numpy()
        np.testing.assert_allclose(found.resampled[key], narrowed(raw, found.values[key], found.null[key]), atol=1e-12)
        assert (found.resampled[key].var() < 0.99 * raw.var()) == near


def test_an_interval_is_the_same_whether_or_not_a_null_is_asked_for() -> None:
    metric, alone = AuditedDimensional(3), Controls(("interval",), resamples=60, permutations=29, seed=3)
    with_null, without = (sample(metric, X, DATA, draws(c), c) for c in (CONTROLS, alone))
    assert without.null == {} != with_null.null
    for key, value in with_null.resampled.items():
        np.testing.assert_array_equal(value, without.resampled[key])


def test_every_statistic_gets_the_null_of_its_own_scheme() -> None:
    metric, drawn = AuditedStructural(folds=3, components=4), draws(free=True)
    found, prepared = sample(metric, X, DATA, drawn, CONTROLS), metric.prepare(X, DATA)
    for name, scheme in (
        ("accuracy_foundation", "foundation"),
        ("accuracy_polarity", "labels"),
        ("kmeans_ari_both", "all"),
    ):
        for free, got in ((False, found.null), (True, found.free)):
            index = drawn.permuted(scheme, free=free).index
            expected = prepared(Variants.relabelled(index).single(), [name])[name, "overall"]
            np.testing.assert_allclose(got[name, "overall"], expected, atol=1e-12)
    assert ("noise", "overall") not in found.null


def test_labels_within_opening_words_are_drawn_of_the_headline_alone() -> None:
    controls = Controls(("selectivity",), permutations=29, seed=3)
    metric, drawn = AuditedCategorical(3), draws(controls)
    found = sample(metric, X, DATA, drawn, controls)
    index = drawn.within_opening("pole").index
    expected = metric.prepare(X, DATA)(Variants.relabelled(index).single(), ["auroc"])
    assert found.opening.keys() == expected.keys() and found.null == {}
    for key, value in expected.items():
        np.testing.assert_allclose(found.opening[key], value, atol=1e-12)


def test_a_baseline_has_resamples_of_its_headline_alone() -> None:
    found = sample(AuditedCategorical(3), X, DATA, draws(free=True), CONTROLS, baseline=True)
    assert {key[0] for key in found.resampled} == {"auroc"}
    assert (found.null, found.free, found.opening) == ({}, {}, {})
    full = sample(AuditedCategorical(3), X, DATA, draws(), CONTROLS)
    assert found.statistics == full.statistics
    np.testing.assert_array_equal(found.resampled["auroc", "overall"], full.resampled["auroc", "overall"])


@pytest.mark.parametrize("names", [(), ("interval",), ("null",), ("selectivity",)])
def test_only_what_is_asked_for_is_drawn(names: tuple[str, ...]) -> None:
    drawn = draws(Controls(names, resamples=60, permutations=29))
    assert (drawn.weight is not None) == (drawn.fit is not None) == ("interval" in names)
    assert (drawn.permuted("pole") is not None) == ("interval" in names or "null" in names)
    assert (drawn.within_opening("pole") is not None) == ("selectivity" in names)
    assert drawn.permuted("pole", free=True) is None


def test_draws_are_those_of_the_settings_and_readers_have_texts_of_their_own() -> None:
    drawn = draws(free=True)
    torch.testing.assert_close(drawn.weight, resamples(DATA, 60, seed=3))
    assert len(drawn.fit) == 29 and not torch.equal(drawn.fit, drawn.weight[:29])
    fold = folds(DATA, 3, 0)
    for stratum, free in ((5, False), (None, True)):
        expected = permutations(DATA, "pole", 29, seed=3, fold=fold, stratum=stratum).index
        assert torch.equal(drawn.permuted("pole", free=free).index, expected)


def test_what_is_wider_than_many_scenarios_is_read_by_its_leading_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 80)))
    metric = AuditedStructural()
    assert Seen(x, x).facts == {}
    every = Seen(x, x).by(metric)
    torch.testing.assert_close(every @ every.T, x @ x.T)
    monkeypatch.setattr(preprocess, "EXACT", 49)
    monkeypatch.setattr(sample_module, "EXACT", 49)
    monkeypatch.setattr(preprocess, "LEADING", 10)
    seen = Seen(x, x)
    leading = seen.by(metric)
    spread = torch.linalg.svdvals(x).square()
    assert leading.shape == (50, 10)
    assert seen.facts["span_share"] == pytest.approx(float(spread[:10].sum() / spread.sum()), rel=0.02)
    assert Seen(x, torch.zeros_like(x)).facts == {"span_share": 1.0}
