"""The table before and after: equal to scikit-learn and scipy, zero for the same SAE, intervals that cover. Controls:
shuffled labels move within what the terms condition on; random latents fire as often and are not moral."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from sae_moral.data.splits import group_split
from sae_moral.sae.evaluate import reconstruction
from sae_moral.surgery.evaluate import NEAREST, _ordering, firing_rates, random_latents, read, shuffled, table
from sae_moral.surgery.operation import rows_of, with_rows
from sae_moral.surgery.terms import by_columns
from sae_moral.surgery.vectors import vectors_of
from tests.surgery.worlds import BY_DIMENSION, data, representations, sae

LATENTS = torch.tensor(sorted(latent for members in BY_DIMENSION.values() for latent in members))
COLUMNS = by_columns(LATENTS, BY_DIMENSION)


def test_values_equal_scikit_learn_and_scipy() -> None:
    of, loaded = data(300), sae("topk")
    vectors, scale = vectors_of(representations(of), of.text, loaded), torch.linspace(0.5, 2, len(LATENTS))
    rows = table(loaded, loaded, vectors, of, torch.arange(300), LATENTS, COLUMNS, (scale, scale), draws=20)
    found = {(row["statistic"], row["group"]): row["before"] for row in rows}
    z = (loaded.encode(vectors.x)[:, LATENTS] / scale).double().numpy()
    mean = {
        name: z[:, [LATENTS.tolist().index(i) for i in members]].mean(axis=1) for name, members in BY_DIMENSION.items()
    }
    care = (of.foundation == 0) & (of.pole != 2)
    g = mean["care"] - mean["harm"]
    assert found["polarity_auroc", "care-harm"] == pytest.approx(roc_auc_score(of.pole[care] == 0, g[care]))
    signed = np.where(of.pole == 0, g, -g)[care]
    assert found["polarity_margin", "care-harm"] == pytest.approx(signed.mean())
    graded = of.items(0, 1) | of.items(0, 2)
    wanted = stats.spearmanr(mean["harm"][graded], of.typicality[graded])[0]
    assert found["spearman", "harm"] == pytest.approx(wanted)
    whole = reconstruction(loaded.sae, vectors.x.numpy(), np.arange(300))
    assert found["explained_variance", "overall"] == pytest.approx(whole.explained_variance, abs=1e-5)
    per_dimension = found["explained_variance_per_dimension", "overall"]
    assert per_dimension == pytest.approx(whole.explained_variance_per_dimension, abs=1e-5)
    assert found["l0", "overall"] == pytest.approx(whole.l0)
    four = [found["ordering_accuracy", name] for name in BY_DIMENSION]
    assert found["ordering_accuracy", "overall"] == pytest.approx(np.mean(np.array(four, dtype=float)))


def test_ordering_counts_pairs_of_different_typicality_and_halves_ties() -> None:
    a, m = torch.tensor([3.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 0.5, 0.25, 0.5])
    # (0,1) right, (0,2) right, (0,3) right, (1,2) tied, (3,2) right; (1,3) has one typicality.
    weight = torch.tensor([[1.0, 1, 1, 1], [0, 2, 1, 0]])
    assert _ordering(a.double(), m.double(), weight.double()).tolist() == [4.5 / 5, 0.5]


def test_an_sae_compared_with_itself_has_not_changed() -> None:
    of, loaded = data(100), sae()
    vectors = vectors_of(representations(of), of.text, loaded)
    scale = torch.ones(len(LATENTS))
    for row in table(loaded, loaded, vectors, of, torch.arange(100), LATENTS, COLUMNS, (scale, scale), draws=50):
        assert (row["change"], row["ci_low"], row["ci_high"]) == (0, 0, 0)


def test_intervals_of_a_change_hold_the_change_of_the_population() -> None:
    of, loaded = data(4000), sae()
    rows = {name: value.clone() for name, value in rows_of(loaded, LATENTS).items()}
    rows["b_enc"] += torch.linspace(-0.3, 0.3, len(LATENTS))
    after = with_rows(loaded, LATENTS, rows, "after", surgery=None)
    vectors, scale = vectors_of(representations(of), of.text, loaded), torch.ones(len(LATENTS))

    def run(records: torch.Tensor, draws: int) -> dict[tuple[str, str], dict]:
        found = table(loaded, after, vectors, of, records, LATENTS, COLUMNS, (scale, scale), draws=draws)
        return {(row["statistic"], row["group"]): dict(row) for row in found if row["group"] == "overall"}

    truth = run(torch.arange(4000), 10)
    covered = [
        row["ci_low"] <= truth[key]["change"] <= row["ci_high"]
        for records in torch.arange(4000).split(200)
        for key, row in run(records, 200).items()
    ]
    assert len(covered) == 180 and 0.85 <= np.mean(covered) <= 1


def test_reading_encodes_only_what_is_asked_for() -> None:
    of, loaded = data(50), sae()
    vectors = vectors_of(representations(of), of.text, loaded)
    found = read(loaded, vectors, torch.tensor([4, 9]), LATENTS)
    assert torch.allclose(found.activation.float(), loaded.encode(vectors.x[[4, 9]])[:, LATENTS])
    assert found.count.tolist() == [1, 1]


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
