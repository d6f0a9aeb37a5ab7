"""What rows gain: directions in closed form, sizes as least squares find them, and limits that hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from sae_moral.data.splits import group_split
from sae_moral.surgery import Scene, WriteTerm, along, operate
from sae_moral.surgery.fit import largest
from sae_moral.surgery.operation import rows_of
from sae_moral.surgery.terms import Labels
from sae_moral.surgery.write import REPRESENTATION, SHARED, get_writes, rows_gained, sizes
from tests.surgery.worlds import BY_DIMENSION, D, data, representations, sae

DATA = data(400)
VECTORS = representations(DATA)
SPLIT = group_split(DATA)
COLUMNS = {0: torch.tensor([0, 1]), 1: torch.tensor([2]), 7: torch.tensor([3])}
"""Latents of care, harm and subversion."""


def scene(n: int = 400) -> Scene:
    g = torch.Generator().manual_seed(0)
    return Scene(torch.rand(n, 4, generator=g), VECTORS[1][:n], Labels.of(DATA, torch.device("cpu")), COLUMNS)


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm()


def test_representation_is_each_dimensions_difference_in_means() -> None:
    rows, x = REPRESENTATION.rows(scene()), VECTORS[1]
    care = torch.from_numpy(DATA.foundation == 0)
    virtue, vice = (care & torch.from_numpy(DATA.pole == pole) for pole in (0, 1))
    expected = unit(x[virtue].mean(dim=0) - x[care & ~virtue].mean(dim=0))
    torch.testing.assert_close(rows[0], expected)
    torch.testing.assert_close(rows[1], expected)
    torch.testing.assert_close(rows[2], unit(x[vice].mean(dim=0) - x[care & ~vice].mean(dim=0)))


def test_shared_is_the_difference_of_all_virtues_and_vices_with_each_latents_sign() -> None:
    rows, x = SHARED.rows(scene()), VECTORS[1]
    expected = unit(x[torch.from_numpy(DATA.pole == 0)].mean(dim=0) - x[torch.from_numpy(DATA.pole == 1)].mean(dim=0))
    torch.testing.assert_close(rows, torch.stack([expected, expected, -expected, -expected]))


def test_along_is_one_direction_with_each_latents_sign() -> None:
    v = torch.arange(1.0, D + 1)
    rows = along(v).rows(scene())
    torch.testing.assert_close(rows, torch.stack([unit(v), unit(v), -unit(v), -unit(v)]))
    for bad in (torch.zeros(D), torch.full((D,), torch.nan)):
        with pytest.raises(ValueError, match="zero or not finite; expected a direction"):
            along(bad)


def test_sizes_are_non_negative_least_squares_with_a_ridge() -> None:
    one = scene()
    a = (one.activation * one.sign).double().numpy()
    y = DATA.typicality * np.where(DATA.pole == 0, 1, np.where(DATA.pole == 1, -1, 0))
    ridge = (0.1 * len(a) * (a**2).mean()) ** 0.5 * np.eye(4)
    expected = lsq_linear(np.vstack([a, ridge]), np.concatenate([y, np.zeros(4)]), bounds=(0, np.inf)).x
    np.testing.assert_allclose(sizes(one, 0.1).numpy(), expected, atol=1e-6)
    assert (expected >= 0).all() and expected.any()


def test_writes_add_up_with_their_weights() -> None:
    one, scale = scene(), torch.tensor([1.0, 2.0, 0.5, 4.0])
    twice = dataclasses.replace(SHARED, weight=2.0)
    found = rows_gained((REPRESENTATION, twice), one, scale)
    expected = (sizes(one).float() / scale)[:, None] * (REPRESENTATION.rows(one) + 2 * SHARED.rows(one))
    torch.testing.assert_close(found, expected)


def test_a_write_of_ones_own_is_a_function_of_the_scene() -> None:
    own = WriteTerm("first dimension", 1.0, lambda scene: scene.sign[:, None] * torch.eye(D)[0])
    operation = operate(sae(), BY_DIMENSION, VECTORS, DATA, split=SPLIT, write=[own], epochs=3)
    gained = operation.sae.sae.W_dec[operation.latents] - operation.before["W_dec"]
    trained = operate(sae(), BY_DIMENSION, VECTORS, DATA, split=SPLIT, epochs=3, read_share=0.75)
    assert operation.record.written is not None and operation.record.written["rank"] == 1
    if operation.record.stopped == trained.record.stopped:
        gained = operation.sae.sae.W_dec[operation.latents] - trained.sae.sae.W_dec[operation.latents]
        assert gained[:, 1:].abs().max() < 1e-5 < gained[:, 0].abs().max()
    with pytest.raises(ValueError, match=r"gave rows of shape \(1, 16\); expected finite \(7, 16\)"):
        bad = WriteTerm("bad", 1.0, lambda scene: torch.ones(1, D))
        operate(sae(), BY_DIMENSION, VECTORS, DATA, split=SPLIT, write=bad, epochs=1)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_limits_hold_and_readers_stay_as_they_were_trained(architecture: str) -> None:
    rescale = {"rescale_acts_by_decoder_norm": True} if architecture == "topk" else {}
    before = sae(architecture, **rescale)
    operation = operate(before, BY_DIMENSION, VECTORS, DATA, split=SPLIT, write="shared", epochs=5, row_cap=1.5)
    written, rows = operation.record.written, rows_of(operation.sae, operation.latents)
    assert written is not None and written["writes"] == {"shared": 1.0} and written["size"] > 0
    longest = (rows["W_dec"].norm(dim=1) / operation.before["W_dec"].norm(dim=1)).max()
    assert longest <= 1.5 + 1e-4 and written["longest"] == pytest.approx(float(longest), rel=1e-4)
    x = VECTORS[1][torch.from_numpy(SPLIT["validation"])]
    errors = [(one.sae.decode(one.sae.encode(x)) - x).square().mean() for one in (before, operation.sae)]
    assert errors[1] <= 1.02 * errors[0] + 1e-5
    if rescale:  # where a row's length decides which latents are active, it stays
        assert longest == pytest.approx(1, rel=1e-4)
    else:  # one of the limits is what stopped it
        assert longest > 1.49 or errors[1] > 1.018 * errors[0]


def test_nothing_is_written_without_labels_to_write() -> None:
    neutral = dataclasses.replace(DATA, vector=DATA.vector)
    with pytest.raises(ValueError, match="a write needs latents of moral dimensions"):
        operate(sae(), [3, 7], VECTORS, neutral, split=SPLIT, write="shared", epochs=1)
    with pytest.raises(ValueError, match="no size of the write stays within"):
        operate(sae(), BY_DIMENSION, VECTORS, DATA, split=SPLIT, write="shared", epochs=1, row_cap=0.5)


def test_names_are_checked() -> None:
    assert get_writes(None) == () and get_writes("shared") == (SHARED,)
    with pytest.raises(ValueError, match="unknown write 'shard'"):
        get_writes("shard")
    with pytest.raises(ValueError, match="expected each name once"):
        get_writes(["shared", SHARED])


@pytest.mark.parametrize("limit", [0.003, 0.9, 1.0, 77.0])
def test_the_largest_size_that_fits(limit: float) -> None:
    assert largest(lambda size: size <= limit, start=1.0) == pytest.approx(limit, rel=2e-3)


def test_no_size_fits_and_any_size_fits() -> None:
    assert largest(lambda size: False, start=1.0) == 0
    assert largest(lambda size: True, start=1.0) >= 1000
