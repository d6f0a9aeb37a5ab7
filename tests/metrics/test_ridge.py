"""Nested ridge regression against scikit-learn's, fold by fold."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from torch import Tensor

from sae_moral.metrics.ridge import PENALTIES, NestedRidge, RidgeFit, leave_one_out, nested_ridge, refitted
from tests.metrics.worlds import rotation


def problem(seed: int, n: int, d: int, *, k: int = 3, folds: int = 4, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.exp(rng.standard_normal(d)) + rng.standard_normal(d)
    y = x @ rng.standard_normal((d, k)) / np.sqrt(d) + noise * np.arange(1, k + 1) * rng.standard_normal((n, k))
    fold = rng.permutation(np.minimum(np.arange(n) * (folds + 1) // n, folds - 1))  # the last fold twice the size
    return x, y + 3, fold


def scale(x: np.ndarray, train: np.ndarray) -> float:
    """Mean squared singular value of the training part, over as many as the whole sample's inputs have."""
    centred = x[train] - x[train].mean(axis=0)
    return float((centred**2).sum() / min(x.shape))


def explicit(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, as a nested loop over scikit-learn's Ridge."""
    names = np.unique(fold)
    predicted, penalty, parameters = np.zeros_like(y), np.zeros((len(names), y.shape[1])), np.zeros(y.shape[1])
    for o, outer in enumerate(names):
        train = fold != outer
        for target in range(y.shape[1]):
            errors = np.zeros(len(PENALTIES))
            for inner in names[names != outer]:
                fit, test = train & (fold != inner), fold == inner
                for p, multiple in enumerate(PENALTIES):
                    model = Ridge(alpha=multiple * scale(x, fit)).fit(x[fit], y[fit, target])
                    errors[p] += ((model.predict(x[test]) - y[test, target]) ** 2).sum()
            penalty[o, target] = PENALTIES[errors.argmin()]
            alpha = penalty[o, target] * scale(x, train)
            model = Ridge(alpha=alpha).fit(x[train], y[train, target])
            predicted[~train, target] = model.predict(x[~train])
            squared = np.linalg.svd(x[train] - x[train].mean(axis=0), compute_uv=False) ** 2
            parameters[target] += (squared / (squared + alpha)).sum() / len(names)
    return predicted, penalty, parameters


@pytest.mark.parametrize(("n", "d"), [(60, 8), (40, 40), (40, 70), (41, 40)])
@pytest.mark.parametrize("folds", [3, 5])
def test_it_is_a_nested_loop_over_sklearns_ridge(n: int, d: int, folds: int) -> None:
    x, y, fold = problem(n + d, n, d, folds=folds)
    predicted, penalty, parameters = explicit(x, y, fold)
    fit = nested_ridge(torch.from_numpy(x), y, fold)
    np.testing.assert_array_equal(fit.penalty, penalty)
    np.testing.assert_allclose(fit.predicted, predicted, atol=1e-9)
    np.testing.assert_allclose(fit.parameters, parameters, atol=1e-9)


def test_the_penalties_are_not_all_the_same_in_that_comparison() -> None:
    chosen = [nested_ridge(torch.from_numpy(x), y, f).penalty for x, y, f in (problem(68, 60, 8), problem(110, 40, 70))]
    assert len(np.unique(np.concatenate(chosen))) > 3


def test_with_two_folds_each_chooses_its_penalty_on_itself() -> None:
    x, y, fold = problem(5, 40, 6, folds=2)
    fit = nested_ridge(torch.from_numpy(x), y, fold)
    for held_out in (0, 1):
        train = fold != held_out
        model = Ridge(alpha=PENALTIES[0] * scale(x, train)).fit(x[train], y[train])
        np.testing.assert_allclose(fit.predicted[~train], model.predict(x[~train]), atol=1e-9)


@pytest.mark.parametrize("d", [6, 60])
def test_the_targets_of_a_fold_have_no_part_in_its_predictions(d: int) -> None:
    x, y, fold = problem(6, 45, d)
    other = y.copy()
    other[fold == 2] = np.random.default_rng(0).standard_normal(other[fold == 2].shape)
    before, after = (nested_ridge(torch.from_numpy(x), targets, fold) for targets in (y, other))
    np.testing.assert_allclose(after.predicted[fold == 2], before.predicted[fold == 2], atol=1e-10)
    np.testing.assert_array_equal(after.penalty[2], before.penalty[2])
    assert (after.predicted - before.predicted)[fold == 0].abs().max() > 0.01


@given(st.integers(0, 2**32 - 1), st.sampled_from([(40, 6), (24, 40)]), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=20, deadline=None)
def test_predictions_do_not_depend_on_rotation_scale_origin_or_order(
    seed: int, shape: tuple[int, int], factor: float, shift: float
) -> None:
    x, y, fold = problem(seed, *shape)
    expected = nested_ridge(torch.from_numpy(x), y, fold)
    moved = factor * torch.from_numpy(x) @ rotation(shape[1], seed) + shift
    order = np.random.default_rng(seed).permutation(shape[0])
    got = nested_ridge(moved[order], y[order], fold[order])
    np.testing.assert_allclose(got.predicted, expected.predicted[order], atol=1e-6)


def test_inputs_far_from_the_origin_lose_no_digits() -> None:
    x, y, fold = problem(1, 60, 8)
    expected = nested_ridge(torch.from_numpy(x), y, fold).predicted
    np.testing.assert_allclose(nested_ridge(torch.from_numpy(x + 1e6), y, fold).predicted, expected, atol=1e-8)


def test_float32_inputs_give_the_result_of_their_float64_values() -> None:
    x, y, fold = problem(1, 60, 8)
    single = torch.from_numpy(x).float() + 300
    got, expected = nested_ridge(single, y, fold).predicted, nested_ridge(single.double(), y, fold).predicted
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_that_do_not_vary_give_the_training_mean(dtype: torch.dtype) -> None:
    _, y, fold = problem(2, 40, 4)
    fit = nested_ridge(torch.full((40, 4), 0.1, dtype=dtype), y, fold)
    for k in range(4):
        np.testing.assert_allclose(fit.predicted[fold == k], np.tile(y[fold != k].mean(axis=0), ((fold == k).sum(), 1)))
    np.testing.assert_allclose(fit.parameters, 0, atol=1e-12)
    single = NestedRidge.of(torch.full((40, 4), 0.1, dtype=dtype), fold).fit(torch.from_numpy(y).float())
    np.testing.assert_allclose(single.predicted, fit.predicted, atol=1e-5)


def test_a_constant_input_and_a_constant_target_do_no_harm() -> None:
    x, y, fold = problem(3, 60, 5)
    x[:, 2], y[:, 1] = 7.0, 0.25
    fit = nested_ridge(torch.from_numpy(x), y, fold)
    np.testing.assert_allclose(fit.predicted[:, 1], 0.25, atol=1e-12)
    np.testing.assert_allclose(fit.predicted, explicit(x, y, fold)[0], atol=1e-9)


def weighed_predictions(
    x: np.ndarray, y: np.ndarray, fold: np.ndarray, fit: RidgeFit, weight: np.ndarray
) -> np.ndarray:
    """Held-out predictions of ridge regressions that minimise Σ w (y − b − xβ)² + λ‖β‖², with an intercept of their
    own (so x and y are centred at their weighted means) and the λ that the fit chose."""
    predicted = np.zeros_like(y)
    for k, multiples in zip(np.unique(fold), fit.penalty, strict=True):
        train = fold != k
        for target, multiple in enumerate(multiples):
            model = Ridge(alpha=multiple * scale(x, train)).fit(x[train], y[train, target], sample_weight=weight[train])
            predicted[~train, target] = model.predict(x[~train])
    return predicted


class TestInfluence:
    """Of an item on the held-out squared error: the exact derivative, by the item's weight in every fit it takes part
    in, of a refit with an intercept; only the penalties stay as they are."""

    @pytest.mark.parametrize(("n", "d", "folds"), [(40, 5, 4), (30, 50, 3), (31, 30, 3), (24, 4, 2)])
    def test_it_is_the_derivative_of_a_weighed_refit_with_the_same_penalties(self, n: int, d: int, folds: int) -> None:
        x, y, fold = problem(n, n, d, folds=folds)
        fit = NestedRidge.of(torch.from_numpy(x), fold).fit(torch.from_numpy(y), influence=True)
        assert fit.influence is not None
        assert len(np.unique(fit.penalty)) > 1 or folds == 2
        np.testing.assert_allclose(weighed_predictions(x, y, fold, fit, np.ones(n)), fit.predicted, atol=1e-9)
        step = 1e-4
        for j in range(0, n, 3):
            errors = []
            for sign in (1, -1):
                weight = np.ones(n)
                weight[j] += sign * step
                errors.append(((weighed_predictions(x, y, fold, fit, weight) - y) ** 2).sum(axis=0))
            derivative = (errors[0] - errors[1]) / (2 * step)
            np.testing.assert_allclose(fit.influence[j], derivative, rtol=1e-4, atol=1e-5)

    def test_predictions_are_the_same_with_it_and_it_is_not_made_unasked(self) -> None:
        x, y, fold = problem(0, 40, 6)
        ridge, target = NestedRidge.of(torch.from_numpy(x), fold), torch.from_numpy(y)
        assert ridge.fit(target).influence is None
        assert torch.equal(ridge.fit(target).predicted, ridge.fit(target, influence=True).predicted)

    def test_inputs_that_do_not_vary_pull_by_the_mean_alone(self) -> None:
        _, y, fold = problem(2, 40, 4)
        fit = NestedRidge.of(torch.zeros(40, 3), fold).fit(torch.from_numpy(y), influence=True)
        expected = np.zeros_like(y)
        for k in range(4):
            train = fold != k
            error = (y[~train] - y[train].mean(axis=0)).sum(axis=0)
            expected[train] += -2 * (y[train] - y[train].mean(axis=0)) * error / train.sum()
        np.testing.assert_allclose(cast(Tensor, fit.influence), expected, atol=1e-9)


def test_many_targets_at_once_are_each_by_itself() -> None:
    x, y, fold = problem(4, 50, 6, k=7)
    ridge = NestedRidge.of(torch.from_numpy(x), fold)
    together = ridge.fit(torch.from_numpy(y), influence=True)
    for k in range(7):
        alone = ridge.fit(torch.from_numpy(y[:, k : k + 1]), influence=True)
        np.testing.assert_allclose(together.predicted[:, k], alone.predicted[:, 0], atol=1e-12)
        assert together.influence is not None and alone.influence is not None
        np.testing.assert_allclose(together.influence[:, k], alone.influence[:, 0], atol=1e-10)
        np.testing.assert_array_equal(together.penalty[:, k], alone.penalty[:, 0])


@pytest.mark.parametrize(("n", "d", "folds"), [(300, 30, 5), (60, 90, 4), (80, 6, 2)])
def test_targets_in_single_precision_are_predicted_as_in_double(n: int, d: int, folds: int) -> None:
    x, _, fold = problem(5, n, d, folds=folds)
    rng = np.random.default_rng(5)
    y = torch.from_numpy(x @ rng.standard_normal((d, 300)) * rng.uniform(0, 1, 300) + rng.standard_normal((n, 300)) * 5)
    ridge = NestedRidge.of(torch.from_numpy(x), fold)
    double, single = ridge.fit(y), ridge.fit(y.float())
    assert single.predicted.dtype == torch.float32
    np.testing.assert_array_equal(single.penalty, double.penalty)
    np.testing.assert_allclose(single.predicted, double.predicted, atol=2e-5 * float(y.std()))


@pytest.mark.parametrize(("n", "d", "folds"), [(40, 5, 4), (30, 50, 3), (24, 4, 2)])
def test_refitted_predictions_are_those_of_weighed_fits_to_first_order(n: int, d: int, folds: int) -> None:
    x, y, fold = problem(n, n, d, folds=folds)
    ridge, target = NestedRidge.of(torch.from_numpy(x), fold), torch.from_numpy(y)
    fit = ridge.fit(target, influence=True)
    direction = np.random.default_rng(0).standard_normal((2, n))
    got = refitted(ridge, target, fit, torch.from_numpy(1 + direction)).numpy() - fit.predicted.numpy()
    step = 1e-4
    for v in range(2):
        plus, minus = (weighed_predictions(x, y, fold, fit, 1 + sign * step * direction[v]) for sign in (1, -1))
        np.testing.assert_allclose(got[v], (plus - minus) / (2 * step), rtol=1e-4, atol=1e-5)
    assert torch.equal(refitted(ridge, target, fit, torch.ones(3, n))[1], fit.predicted)
    # What moves the predictions moves the squared error.
    change = -2 * ((target - fit.predicted) * torch.from_numpy(got[0])).sum(dim=0)
    np.testing.assert_allclose(change, torch.from_numpy(direction[0]) @ cast(Tensor, fit.influence), rtol=1e-9)


def test_few_items_are_read_with_the_penalty_of_leave_one_out() -> None:
    rng = np.random.default_rng(0)
    for d in (5, 90):
        x = rng.standard_normal((40, d)) + 3
        y = np.sign(x[:, 0] - 3 + rng.standard_normal(40))
        scale = np.sum((x - x.mean(axis=0)) ** 2) / min(39, d)
        errors = [
            np.square(y - cross_val_predict(Ridge(alpha=penalty * scale), x, y, cv=LeaveOneOut())).sum()
            for penalty in PENALTIES
        ]
        best = PENALTIES[int(np.argmin(errors))]
        coefficients, intercept, penalty = leave_one_out(x, y)
        assert penalty == pytest.approx(best)
        fitted = Ridge(alpha=best * scale).fit(x, y)
        np.testing.assert_allclose(coefficients, fitted.coef_, atol=1e-9)
        assert intercept == pytest.approx(fitted.intercept_, abs=1e-8)


def test_what_does_not_vary_is_not_read() -> None:
    coefficients, intercept, _ = leave_one_out(np.ones((10, 3)), np.r_[np.ones(4), -np.ones(6)])
    assert coefficients.tolist() == [0, 0, 0] and intercept == pytest.approx(-0.2)
