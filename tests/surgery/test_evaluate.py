"""The table before and after: equal to scikit-learn and scipy, zero for the same SAE, intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from sae_moral.sae.evaluate import reconstruction
from sae_moral.surgery.evaluate import _ordering, read, table
from sae_moral.surgery.operation import rows_of, with_rows
from sae_moral.surgery.terms import by_columns
from sae_moral.surgery.vectors import vectors_of
from tests.surgery.worlds import BY_DIMENSION, data, representations, sae

LATENTS = torch.tensor(sorted(latent for members in BY_DIMENSION.values() for latent in members))
COLUMNS = by_columns(LATENTS, BY_DIMENSION)


def test_values_equal_scikit_learn_and_scipy() -> None:
    of, loaded = data(300), sae("topk")
    vectors, scale = vectors_of(representations(of), of.text, loaded), torch.linspace(0.5, 2, len(LATENTS))
    rows = table(loaded, loaded, vectors, of, torch.arange(300), LATENTS, COLUMNS, scale, draws=20)
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
    assert found["ordering_accuracy", "overall"] == pytest.approx(np.mean(four))


def test_ordering_counts_pairs_of_different_typicality_and_halves_ties() -> None:
    a, m = torch.tensor([3.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 0.5, 0.25, 0.5])
    # (0,1) right, (0,2) right, (0,3) right, (1,2) tied, (3,2) right; (1,3) has one typicality.
    weight = torch.tensor([[1.0, 1, 1, 1], [0, 2, 1, 0]])
    assert _ordering(a.double(), m.double(), weight.double()).tolist() == [4.5 / 5, 0.5]


def test_an_sae_compared_with_itself_has_not_changed() -> None:
    of, loaded = data(100), sae()
    vectors = vectors_of(representations(of), of.text, loaded)
    scale = torch.ones(len(LATENTS))
    for row in table(loaded, loaded, vectors, of, torch.arange(100), LATENTS, COLUMNS, scale, draws=50):
        assert (row["change"], row["ci_low"], row["ci_high"]) == (0, 0, 0)


def test_intervals_of_a_change_hold_the_change_of_the_population() -> None:
    of, loaded = data(4000), sae()
    rows = {name: value.clone() for name, value in rows_of(loaded, LATENTS).items()}
    rows["b_enc"] += torch.linspace(-0.3, 0.3, len(LATENTS))
    after = with_rows(loaded, LATENTS, rows, "after", surgery=None)
    vectors, scale = vectors_of(representations(of), of.text, loaded), torch.ones(len(LATENTS))

    def run(records: torch.Tensor, draws: int) -> dict[tuple[str, str], dict]:
        found = table(loaded, after, vectors, of, records, LATENTS, COLUMNS, scale, draws=draws)
        return {(row["statistic"], row["group"]): row for row in found if row["group"] == "overall"}

    truth = run(torch.arange(4000), 10)
    covered = [
        row["ci_low"] <= truth[key]["change"] <= row["ci_high"]
        for records in torch.arange(4000).split(200)
        for key, row in run(records, 200).items()
    ]
    assert len(covered) == 160 and 0.85 <= np.mean(covered) <= 1


def test_reading_encodes_only_what_is_asked_for() -> None:
    of, loaded = data(50), sae()
    vectors = vectors_of(representations(of), of.text, loaded)
    found = read(loaded, vectors, torch.tensor([4, 9]), LATENTS)
    assert torch.allclose(found.activation.float(), loaded.encode(vectors.x[[4, 9]])[:, LATENTS])
    assert found.count.tolist() == [1, 1]
