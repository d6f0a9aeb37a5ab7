"""What readers may not use: its columns, and their fits on training parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from sae_moral.metrics.nuisance import BIN, HELD, Nuisance, length_bins, length_design, nuisance_design
from tests.metrics.worlds import planted


def spanned(design: np.ndarray, column: np.ndarray) -> None:
    np.testing.assert_allclose(design @ (design.T @ column), column, atol=1e-8 * max(1.0, np.abs(column).max()))


class TestLengthDesign:
    def test_it_is_orthonormal_and_spans_smooth_forms_and_every_frequent_length(self) -> None:
        length = np.repeat(np.arange(3, 15), BIN + np.arange(12))
        design = length_design(length)
        np.testing.assert_allclose(design.T @ design, np.eye(design.shape[1]), atol=1e-12)
        assert design.shape[1] == 12  # one degree of freedom per length: nothing of it is left
        for value in np.unique(length):
            spanned(design, (length == value).astype(float))

    def test_rare_lengths_share_a_bin_and_the_smooth_forms_tell_them_apart(self) -> None:
        length = np.random.default_rng(0).integers(2, 200, 300)
        n, design = length.astype(float), length_design(length)
        assert design.shape[1] < 20
        for column in (np.ones(300), n, np.log(n), 1 / n):
            spanned(design, column)

    @pytest.mark.parametrize(
        ("values", "columns"), [([7], 1), ([3], 1), ([4, 9], 2), ([4, 9, 13], 3), ([1, 2, 3, 4], 4)]
    )
    def test_it_has_as_many_columns_as_the_lengths_can_bear(self, values: list[int], columns: int) -> None:
        assert length_design(np.resize(values, 101)).shape == (101, columns)

    def test_every_bin_has_enough_and_neighbours_stay_together(self) -> None:
        for seed in range(20):
            rng = np.random.default_rng(seed)
            length = np.round(np.exp(rng.normal(2.3, 0.5, int(rng.integers(BIN, 900))))).astype(int) + 1
            bins = length_bins(length)
            assert np.bincount(bins).min() >= BIN
            order = np.argsort(length, kind="stable")
            assert (np.diff(bins[order]) >= 0).all()
            assert all(len(np.unique(bins[length == value])) == 1 for value in np.unique(length))


class TestDesign:
    def test_without_anything_there_is_no_column(self) -> None:
        _, data = planted(0)
        assert nuisance_design(data, length=False).shape == (300, 0)
        assert nuisance_design(dataclasses.replace(data, length=None), length=True).shape == (300, 0)

    def test_columns_of_the_data_stand_beside_length(self) -> None:
        _, data = planted(0)
        own = np.random.default_rng(0).standard_normal((300, 2)) * 50 + 7
        data = dataclasses.replace(data, nuisance=own)
        for length in (True, False):
            design = nuisance_design(data, length=length)
            for column in (np.ones(300), *own.T):
                spanned(design, column)
        assert nuisance_design(data, length=False).shape[1] == 3


class TestFits:
    def test_they_are_least_squares_on_the_other_folds(self) -> None:
        x, data = planted(0)
        fold = np.random.default_rng(1).integers(0, 5, 300)
        design = nuisance_design(data, length=True)
        fits = Nuisance.of(x, data, fold, length=True)
        for left_out in ((), (2,), (0, 4)):
            held = np.linalg.eigvalsh(design[~np.isin(fold, left_out)].T @ design[~np.isin(fold, left_out)])
            assert held.min() > HELD * held.max()  # nothing is left unfitted here
            train = ~np.isin(fold, left_out)
            ours = design @ fits.without(*left_out).numpy()
            theirs = LinearRegression(fit_intercept=False).fit(design[train], x.numpy()[train]).predict(design)
            np.testing.assert_allclose(ours[train], theirs[train], atol=1e-8)

    def test_a_length_that_the_other_folds_lack_does_no_harm(self) -> None:
        length = np.repeat([4, 9, 20], 30)
        data = dataclasses.replace(planted(0, n=90)[1], length=length)
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((90, 3)))
        fold = (length == 20).astype(int)
        fitted = Nuisance.of(x, data, fold, length=True).without(1)
        assert torch.isfinite(fitted).all() and float(fitted.abs().max()) < 10 * float(x.abs().max()) * 90**0.5

    def test_what_a_training_part_hardly_holds_is_not_extrapolated(self) -> None:
        rng = np.random.default_rng(0)
        length = np.concatenate([rng.integers(5, 9, 196), [9, 300, 310, 320]])
        data = dataclasses.replace(planted(0, n=200)[1], length=length)
        fold = np.where(length > 100, 1, 0)
        x = torch.from_numpy(rng.standard_normal((200, 3)))
        design = torch.from_numpy(nuisance_design(data, length=True))
        predicted = design @ Nuisance.of(x, data, fold, length=True).without(1)
        assert float(predicted[fold == 1].abs().max()) < 3
