"""Opened latents: what they cost, which they are, and that they read what a ridge regression of tokens reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from sae_moral.data.splits import group_split
from sae_moral.foundations import VIRTUE
from sae_moral.surgery import operate
from sae_moral.surgery.part import Part
from sae_moral.surgery.read import (
    PENALTIES,
    as_readers,
    cheapest,
    loss_without,
    mean_reading,
    ridge_of_tokens,
)
from sae_moral.surgery.terms import reconstruction, signed_typicality
from tests.surgery.worlds import BY_DIMENSION, D, data, representations, sae

K = torch.tensor([3, 5, 7, 20])
SHARES = (0.6, 0.15, 0.25)


def tokens(prompts: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    count = torch.randint(1, 6, (prompts,), generator=g)
    y = torch.randn(prompts, generator=g)
    x = torch.randn(int(count.sum()), D, generator=g) * torch.arange(1, D + 1)
    x[:, 3] += 2 * torch.repeat_interleave(y, count)
    return x, count, y


def test_the_ridge_is_scikit_learns_on_standardised_tokens_each_prompt_counted_once() -> None:
    x, count, y = tokens()
    weight, bias = ridge_of_tokens(x, count, y)
    w = (1 / torch.repeat_interleave(count, count)).double().numpy()
    target, z = torch.repeat_interleave(y, count).double().numpy(), x.double().numpy()
    mean = np.average(z, axis=0, weights=w)
    z = (z - mean) / np.sqrt(np.average((z - mean) ** 2, axis=0, weights=w))
    read = (x @ weight + bias).numpy()
    fits = [Ridge(alpha=p * len(count)).fit(z, target, sample_weight=w).predict(z) for p in PENALTIES]
    assert min(np.abs(fit - read).max() for fit in fits) < 1e-4
    assert np.corrcoef(read, target)[0, 1] > 0.3
    with pytest.raises(ValueError, match="60 prompts with one label; expected labels that vary"):
        ridge_of_tokens(x, count, torch.ones(60))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_the_loss_without_a_latent_is_what_silencing_it_costs(architecture: str) -> None:
    part, x = Part(sae(architecture), K), torch.randn(200, D, generator=torch.Generator().manual_seed(1))
    frozen = part.freeze(x)
    moved = part(part.start, frozen)
    for k, found in enumerate(loss_without(part, frozen)):
        without = moved.made - moved.activation[:, [k]] * part.start["W_dec"][[k]]
        expected = reconstruction(frozen.target, without) - reconstruction(frozen.target, moved.made)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_in_every_dimension_the_cheapest_are_opened_while_all_of_them_fit() -> None:
    loss = torch.tensor([0.3, 0.1, 0.2, 0.5, 0.05])
    columns = {0: torch.tensor([0, 1]), 1: torch.tensor([2, 3]), 3: torch.tensor([4])}
    assert cheapest(loss, columns, 1, 1.0) == {4: -1.0, 1: 1.0, 2: -1.0}
    assert cheapest(loss, columns, 2, 10.0) == {4: -1.0, 1: 1.0, 2: -1.0, 0: 1.0, 3: -1.0}
    assert cheapest(loss, columns, 1, 0.2) == {4: -1.0, 1: 1.0}
    assert cheapest(loss, columns, 1, 0.1) == {}  # a virtue is too dear: one pole alone reads nothing
    assert cheapest(loss, {0: torch.tensor([0]), 1: torch.tensor([0, 2])}, 1, 10.0) == {}  # 0 is of both


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_opened_latents_read_every_vector(architecture: str) -> None:
    part, g = Part(sae(architecture), K), torch.Generator().manual_seed(2)
    frozen = part.freeze(torch.randn(50, D, generator=g))
    weight, bias = torch.randn(D, generator=g), 0.3
    rows = as_readers(part, part.start, {1: 1.0, 2: -1.0}, weight, bias, (2.0, 0.5))
    before, after = (part(one, frozen).activation for one in (part.start, rows))
    read = frozen.x @ weight + bias
    torch.testing.assert_close(after[:, 1], 2 * read.relu())
    torch.testing.assert_close(after[:, 2], 0.5 * (-read).relu())
    assert torch.equal(after[:, [0, 3]], before[:, [0, 3]])
    count = torch.tensor([20, 30])
    means = torch.stack([part_.mean() for part_ in (-read).relu().split([20, 30])])
    torch.testing.assert_close(mean_reading(frozen.x, count, weight, bias, -1.0), means)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_an_operation_reads_as_a_ridge_regression_does(architecture: str) -> None:
    of, original = data(1000), sae(architecture)
    split = group_split(of, shares=SHARES)
    vectors = representations(of)
    how = {"split": split, "epochs": 10, "batch": 200, "lr": 0.02, "tolerance": 0.1}
    opened, closed = (operate(original, BY_DIMENSION, vectors, of, opened=n, **how) for n in (1, 0))
    found, other = (
        next(row["after"] for row in one.record.table if row["statistic"] == "reading_auroc") or 0.0
        for one in (opened, closed)
    )
    assert opened.original().sha256 == original.sha256
    assert not closed.record.opened
    if architecture == "topk":  # latents compete for their places
        assert not opened.record.opened and found == other
        return
    assert {*opened.record.opened} <= {*opened.latents.tolist()}
    x, y = vectors[1].numpy(), signed_typicality(torch.from_numpy(of.vector)).numpy()
    rows, moral = split["test"], of.pole[split["test"]] != 2
    dense = Ridge(alpha=10.0).fit(x[split["train"]], y[split["train"]]).predict(x[rows])
    best = roc_auc_score(of.pole[rows][moral] == VIRTUE, dense[moral])
    assert found > best - 0.03, (found, best, other)
    error = {row["statistic"]: row for row in opened.record.table}["reconstruction_error"]
    assert error["before"] and error["after"] and error["after"] <= 1.15 * error["before"]
