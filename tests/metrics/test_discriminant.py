"""The regularised linear reader: an explicit loop, its limits, and what it must not see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from sae_moral.data import MoralData
from sae_moral.metrics import discriminant
from sae_moral.metrics.base import folds
from sae_moral.metrics.discriminant import PENALTIES, SHARED, Domain, Whitened, discriminant_scores
from sae_moral.metrics.nuisance import nuisance_design
from tests.metrics.worlds import planted


def domains_of(space: Whitened, data: MoralData, label: np.ndarray) -> list[Domain]:
    """Poles within foundations, with labels of the scenarios (or several versions of them)."""
    found = []
    for f in range(5):
        rows = np.flatnonzero((data.foundation == f) & (data.pole != 2))
        moved = torch.from_numpy(np.atleast_2d(label)[:, rows]).double()
        found.append(Domain(space.items(data, rows), moved, torch.ones(1, len(rows), dtype=torch.float64)))
    return found


def scores(x: torch.Tensor, data: MoralData, label: np.ndarray, fold: np.ndarray, *, length: bool) -> np.ndarray:
    """Of one version, one per scenario; NaN for those of no domain."""
    space = Whitened.of(x, data, fold, length=length)
    found = np.full(len(data), np.nan)
    domains = domains_of(space, data, label)
    for domain, own in zip(domains, discriminant_scores(space, domains), strict=True):
        for k, part in domain.items.folds:
            found[domain.items.rows[part.numpy()]] = own[k][0].numpy()
    return found


def explicit(v: np.ndarray, data: MoralData, label: np.ndarray, fold: np.ndarray, *, length: bool) -> np.ndarray:
    """The same by loops over folds, penalties and shares, in the representation's own coordinates."""
    design = nuisance_design(data, length=length)
    v = v - v.mean(axis=0)

    def rest(train: np.ndarray) -> np.ndarray:
        if not design.shape[1]:
            return v
        return v - LinearRegression(fit_intercept=False).fit(design[train], v[train]).predict(design)

    every = rest(np.ones(len(v), dtype=bool))
    covariance = every.T @ every / len(every)
    # torch's median: the lower of the two in the middle
    spectrum = np.linalg.eigvalsh(covariance)
    scale = np.sort(spectrum[spectrum > 1e-12 * spectrum.max()])[(np.sum(spectrum > 1e-12 * spectrum.max()) - 1) // 2]
    own = [(data.foundation == f) & (data.pole != 2) for f in range(5)]

    def read(train: np.ndarray, penalty: float, share: float) -> list[np.ndarray]:
        x, parts = rest(train), []
        for items in own:
            y = label[items & train]
            parts.append((y - y.mean()) @ x[items & train])
        n = [int((items & train).sum()) for items in own]
        ways = [(1 - share) * part / m + share * sum(parts) / sum(n) for part, m in zip(parts, n, strict=True)]
        inverse = np.linalg.inv(covariance + penalty * scale * np.eye(len(covariance)))
        return [x @ inverse @ way for way in ways]

    found = np.full(len(v), np.nan)
    for k in np.unique(fold):
        gain = {}
        for penalty in PENALTIES:
            for share in SHARED:
                gain[penalty, share] = 0.0
                for m in np.unique(fold):
                    if m != k:
                        for items, score in zip(own, read(~np.isin(fold, (k, m)), penalty, share), strict=True):
                            test = items & (fold == m)
                            gain[penalty, share] += test.sum() * np.corrcoef(label[test], score[test])[0, 1]
        penalty, share = max(gain, key=lambda pair: gain[pair])
        for items, score in zip(own, read(fold != k, penalty, share), strict=True):
            found[items & (fold == k)] = score[items & (fold == k)]
    return found


SIGN = np.array([1.0, -1.0, 0.0])


@pytest.mark.parametrize(("n", "d"), [(300, 8), (150, 40)])
@pytest.mark.parametrize("length", [True, False])
def test_it_is_an_explicit_nested_loop(n: int, d: int, length: bool) -> None:
    x, data = planted(0, n=n, d=d, polarity=0.4, foundation=1.0)
    fold = folds(data, 5, 0)
    label = SIGN[data.pole]
    expected = explicit(x.numpy(), data, label, fold, length=length)
    np.testing.assert_allclose(scores(x, data, label, fold, length=length), expected, rtol=1e-7, atol=1e-9)


def test_shared_by_all_domains_it_is_a_ridge_regression_of_labels_centred_within_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discriminant, "SHARED", (1.0,))
    monkeypatch.setattr(discriminant, "PENALTIES", np.array([1.0]))
    x, data = planted(1, n=240, d=6, polarity=0.5)
    data = data.subset(data.pole != 2)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((len(data), 6)))
    fold, label, v = np.arange(len(data)) % 5, SIGN[data.pole], x.numpy() - x.numpy().mean(axis=0)
    got, scale = scores(x, data, label, fold, length=False), np.sort(np.linalg.eigvalsh(v.T @ v / len(v)))[2]
    for k in range(5):
        train = fold != k
        y = (
            label[train]
            - np.array([label[train & (data.foundation == f)].mean() for f in range(5)])[data.foundation[train]]
        )
        # Ridge with the whole sample's covariance in the place of the training part's.
        ridge = Ridge(alpha=scale * len(v), fit_intercept=False).fit(v, np.zeros(len(v)))
        ridge.coef_ = np.linalg.solve(v.T @ v / len(v) + scale * np.eye(6), v[train].T @ y / train.sum())
        np.testing.assert_allclose(got[fold == k], ridge.predict(v[fold == k]), atol=1e-12)


def test_a_great_penalty_gives_the_line_between_prototypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discriminant, "SHARED", (0.0,))
    monkeypatch.setattr(discriminant, "PENALTIES", np.array([1e9]))
    x, data = planted(2, n=300, d=5, polarity=0.5)
    fold, v = folds(data, 5, 0), x.numpy()
    got = scores(x, data, SIGN[data.pole], fold, length=False)
    for f in range(5):
        for k in range(5):
            own = [(data.foundation == f) & (data.pole == pole) & (fold != k) for pole in (0, 1)]
            test = (data.foundation == f) & (data.pole != 2) & (fold == k)
            line = v[test] @ (v[own[0]].mean(axis=0) - v[own[1]].mean(axis=0))
            assert np.corrcoef(got[test], line)[0, 1] == pytest.approx(1, abs=1e-9)


def test_the_labels_of_a_fold_have_no_part_in_its_scores() -> None:
    x, data = planted(3, n=300, polarity=0.4)
    fold, label = folds(data, 5, 0), SIGN[data.pole]
    other = np.where(fold == 2, -label, label)
    before, after = (scores(x, data, own, fold, length=True) for own in (label, other))
    np.testing.assert_array_equal(before[fold == 2], after[fold == 2])
    assert np.nanmax(np.abs(before - after)[fold != 2]) > 0.01


def test_many_versions_are_each_by_itself_and_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, data = planted(4, n=200, polarity=0.3)
    fold, rng = folds(data, 5, 0), np.random.default_rng(0)
    label = np.stack([np.where(data.pole == 2, 0.0, rng.choice([-1.0, 1.0], 200)) for _ in range(7)])
    space = Whitened.of(x, data, fold, length=True)
    together = discriminant_scores(space, domains_of(space, data, label))
    monkeypatch.setattr(discriminant, "_NUMBERS", 1000)
    in_parts = discriminant_scores(space, domains_of(space, data, label))
    for v in range(7):
        alone = discriminant_scores(space, domains_of(space, data, label[v]))
        for one, whole, part in zip(alone, together, in_parts, strict=True):
            for k in one:
                torch.testing.assert_close(whole[k][v], one[k][0], rtol=1e-9, atol=1e-12)
                torch.testing.assert_close(part[k][v], one[k][0], rtol=1e-9, atol=1e-12)


def test_items_of_weight_zero_are_not_fitted_and_a_common_weight_changes_nothing() -> None:
    x, data = planted(4, n=200, polarity=0.3)
    fold, rng, label = folds(data, 5, 0), np.random.default_rng(0), SIGN[data.pole]
    space, out = Whitened.of(x, data, fold, length=True), rng.random(200) < 0.3

    def read(weight: np.ndarray, own: np.ndarray) -> np.ndarray:
        domains = [
            dataclasses.replace(one, fit=torch.from_numpy(weight[one.items.rows])[None])
            for one in domains_of(space, data, own)
        ]
        return np.concatenate([s[0].numpy() for one in discriminant_scores(space, domains) for s in one.values()])

    kept = np.where(out, 0.0, 1.0)
    np.testing.assert_allclose(read(kept, np.where(out, -label, label)), read(kept, label), atol=1e-12)
    np.testing.assert_allclose(read(kept * 3, label), read(kept, label), rtol=1e-9, atol=1e-12)
    assert np.abs(read(np.ones(200), label) - read(kept, label)).max() > 1e-3


def test_wide_vectors_are_read_in_their_span() -> None:
    x, data = planted(5, n=120, d=7, polarity=0.6)
    wide = x @ torch.from_numpy(np.linalg.qr(np.random.default_rng(0).standard_normal((400, 7)))[0].T)
    fold, label = folds(data, 5, 0), SIGN[data.pole]
    narrow, padded = (scores(v, data, label, fold, length=True) for v in (x, wide))
    assert Whitened.of(wide, data, fold, length=True).x.shape == (120, 120)
    np.testing.assert_allclose(padded, narrow, rtol=1e-6, atol=1e-9)


def test_vectors_without_any_variation_score_zero() -> None:
    _, data = planted(6, n=100)
    got = scores(torch.full((100, 3), 2.5), data, SIGN[data.pole], folds(data, 5, 0), length=True)
    assert set(np.abs(got[~np.isnan(got)])) == {0.0}


def test_a_domain_without_items_takes_no_part() -> None:
    x, data = planted(8, n=200, polarity=0.4)
    fold, label = folds(data, 5, 0), SIGN[data.pole]
    space = Whitened.of(x, data, fold, length=True)
    domains = domains_of(space, data, label)
    nobody = np.zeros(0, dtype=np.int64)
    empty = Domain(space.items(data, nobody), torch.zeros(1, 0).double(), torch.ones(1, 0).double())
    first, *others = discriminant_scores(space, [empty, *domains])
    assert first == {} == discriminant_scores(space, [empty])[0]
    for one, alone in zip(others, discriminant_scores(space, domains), strict=True):
        assert one.keys() == alone.keys() and all(torch.equal(one[k], alone[k]) for k in one)


def test_two_folds_leave_nothing_to_choose_by() -> None:
    x, data = planted(7, n=100, polarity=1.0)
    got = scores(x, data, SIGN[data.pole], np.arange(100) % 2, length=True)
    assert np.isfinite(got[data.pole != 2]).all()


def test_a_rotated_heavy_tailed_direction_does_not_hide_the_poles() -> None:
    rng = np.random.default_rng(8)
    x, data = planted(8, n=600, d=20, polarity=0.8)
    heavy = rng.standard_t(1.5, 600)[:, None] * np.linalg.qr(rng.standard_normal((20, 20)))[0][:1] * 30
    noisy, label = x + torch.from_numpy(heavy), SIGN[data.pole]
    fold = folds(data, 5, 0)
    got = scores(noisy, dataclasses.replace(data, length=None), label, fold, length=False)
    moral = data.pole != 2
    assert np.mean([np.corrcoef(got[moral & (fold == k)], label[moral & (fold == k)])[0, 1] for k in range(5)]) > 0.4
