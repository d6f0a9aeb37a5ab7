"""Shuffled labels move within what the losses condition on; random latents fire as often and are not moral."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_moral.data.splits import group_split
from sae_moral.surgery.controls import NEAREST, firing_rates, random_latents, shuffled
from sae_moral.surgery.vectors import vectors_of
from tests.surgery.worlds import BY_DIMENSION, data, representations, sae


def test_labels_are_permuted_within_foundation_and_part_and_the_third_part_keeps_its_own() -> None:
    of = data()
    split, length = group_split(of), representations(of).length
    found = shuffled(of, split, length, 0)
    for name, rows in split.items():
        for f in (0, 3):
            mine = rows[of.foundation[rows] == f]
            assert sorted(found.vector[mine].tolist()) == sorted(of.vector[mine].tolist())
        moved = (found.vector[rows] != of.vector[rows]).any(axis=1).mean()
        assert moved == 0 if name == "test" else moved > 0.5
    assert (found.foundation == of.foundation).all() and found.text == of.text
    again, other = shuffled(of, split, length, 0), shuffled(of, split, length, 1)
    assert (again.vector == found.vector).all() and (other.vector != found.vector).any()


def test_labels_that_cannot_move_are_refused() -> None:
    of = data(12)
    split = {"train": np.arange(1), "validation": np.arange(1, 2), "test": np.arange(2, 12)}
    with pytest.raises(ValueError, match="of the labels cannot move"):
        shuffled(of, split, representations(of).length, 0)


def test_firing_rates_are_shares_of_prompts() -> None:
    of, loaded = data(100), sae()
    vectors = vectors_of(representations(of), of.text, loaded)
    rates = firing_rates(loaded, vectors, torch.arange(50))
    assert np.allclose(rates, (loaded.encode(vectors.x[:50]) > 0).double().mean(dim=0).numpy())


def test_random_latents_match_in_number_and_firing_rate_and_leave_out_moral_ones() -> None:
    rates = np.linspace(0, 1, 200)
    moral = {latent for members in BY_DIMENSION.values() for latent in members} | {42, 43}
    found = random_latents(BY_DIMENSION, rates, moral, 0)
    assert {name: len(members) for name, members in found.items()} == {n: len(m) for n, m in BY_DIMENSION.items()}
    drawn = [latent for members in found.values() for latent in members]
    assert len(set(drawn)) == len(drawn) and not moral & set(drawn) and 0 not in drawn
    gap = np.abs(np.sort(rates[drawn]) - np.sort(rates[[m for ms in BY_DIMENSION.values() for m in ms]]))
    assert gap.max() <= 2 * NEAREST / 199
    assert found != random_latents(BY_DIMENSION, rates, moral, 1)
    with pytest.raises(ValueError, match="1 latents fire and are not moral; expected at least 7"):
        random_latents(BY_DIMENSION, (np.arange(200) == 9).astype(float), moral, 0)


def test_a_latent_of_two_dimensions_is_replaced_by_one() -> None:
    found = random_latents({"care": [3], "harm": [3]}, np.full(20, 0.5), {3}, 0)
    assert found["care"] == found["harm"]
