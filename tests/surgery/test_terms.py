"""Every term on examples computed by hand; the paper's forms with the paper's margins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sae_moral.surgery import PAPER, terms
from sae_moral.surgery.terms import TERMS


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_reconstruction_is_the_mean_squared_error_in_units_of_the_error_before() -> None:
    target, made = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert terms.reconstruction(target, made) == (4 + 4) / 4
    assert terms.reconstruction(target, made, unit=4.0) == 0.5


def test_sparsity_is_the_l1_of_each_vector() -> None:
    assert terms.sparsity(torch.tensor([[1.0, 2.0], [0.0, 3.0]])) == 3.0


def test_polarity_asks_each_pole_to_exceed_the_other_by_the_margin() -> None:
    virtue, vice, pole = t(1.0, 0.2, 0.3, 0.0, 9.0), t(0.0, 0.1, 0.9, 0.6, 0.0), torch.tensor([0, 0, 1, 1, 2])
    # Virtuous: 0.5 − 1 + 0 → 0; 0.5 − 0.2 + 0.1 = 0.4. Vicious: 0.5 − 0.9 + 0.3 → 0; 0.5 − 0.6 + 0 → 0. Neutral: none.
    assert float(terms.polarity(virtue, vice, pole, PAPER.polarity_margin)) == pytest.approx(0.4 / 4)


def test_the_papers_ranking_multiplies_differences_and_charges_ties() -> None:
    m, a = t(1.0, 0.5, 0.5), t(0.8, 0.2, 0.6)
    # Pairs: 0.1 − 0.5·0.6 → 0; 0.1 − 0.5·0.2 = 0; tie 0.1 − 0 = 0.1.
    assert float(terms.prototype_product(a, m, PAPER.prototype_margin)) == pytest.approx(0.1 / 3, abs=1e-7)
    # In the wrong order: 0.1 + 0.5·0.6 and 0.1 + 0.5·0.2, and the tie.
    assert float(terms.prototype_product(-a, m, PAPER.prototype_margin)) == pytest.approx((0.4 + 0.2 + 0.1) / 3)


def test_our_ranking_leaves_ties_out_and_asks_for_more_where_more_differs() -> None:
    m, a = t(1.0, 0.5, 0.5), t(0.8, 0.2, 0.6)
    # 1·0.5 − 0.6 → 0; 1·0.5 − 0.2 = 0.3.
    assert float(terms.prototype(a, m, 1.0)) == pytest.approx(0.3 / 2)
    assert terms.prototype(a[1:], m[1:], 1.0) == 0


def test_the_papers_alignment_cannot_reach_most_typicalities_and_ours_reaches_all() -> None:
    m = t(0.125, 0.5, 1.0)
    sigmoid = 1 / (1 + math.exp(-1.0))
    assert float(terms.alignment_sigmoid(t(1.0), t(0.25))) == pytest.approx((sigmoid - 0.25) ** 2)
    assert terms.alignment(m, m) == 0
    assert float(terms.alignment_sigmoid(t(0.0), t(0.125))) == pytest.approx(0.375**2)  # the best of all a ≥ 0
    assert float(terms.alignment(t(0.5, 0.0), t(0.25, 1.0))) == pytest.approx((0.0625 + 1) / 2)


def test_monosemantic_charges_firing_on_items_of_another_dimension() -> None:
    activation = torch.tensor([[1.0, 3.0], [0.0, 0.5], [7.0, 7.0]])
    assert float(terms.monosemantic(activation, torch.tensor([True, True, False]))) == pytest.approx((2 + 0.25) / 2)


def test_reading_is_one_less_the_correlation() -> None:
    g = torch.Generator().manual_seed(0)
    a, y = torch.randn(50, generator=g), torch.randn(50, generator=g)
    assert float(terms.reading(a, y)) == pytest.approx(1 - np.corrcoef(a, y)[0, 1], abs=1e-5)
    assert float(terms.reading(5 + 3 * y, y)) == pytest.approx(0, abs=1e-5)  # of any size
    assert float(terms.reading(5 - 3 * y, y)) == pytest.approx(2, abs=1e-5)  # and of the right sign
    constant = torch.ones(50, requires_grad=True)
    terms.reading(constant, y).backward()
    assert terms.reading(constant, y) == 1 and constant.grad is not None and not constant.grad.any()


def test_the_contrast_adds_virtues_and_subtracts_vices() -> None:
    vector = torch.tensor([[0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0.25, 0, 0, 0, 0, 0, 0], [0.0] * 10])
    assert terms.signed_typicality(vector).tolist() == [0.5, -0.25, 0]
    assert terms.contrast({0: t(1.0, 2.0), 3: t(0.5, 0.0), 8: t(0.0, 1.0)}).tolist() == [0.5, 3.0]


def batch(released: bool) -> terms.Batch:
    vector = torch.zeros(4, 10)
    vector[0, 0], vector[1, 0], vector[2, 1] = 1.0, 0.25, 0.5
    labels = terms.Labels(torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 2]), vector)
    of = {0: t(0.2, 0.4, 3.0, 0.5), 1: t(0.1, 0.0, 0.3, 0.0)}
    nothing = torch.zeros(1, 1)
    return terms.Batch(nothing, nothing, 1.0, nothing, of, labels, False, 0.5, 0.1, released)


def test_the_released_code_counts_other_items_than_the_text() -> None:
    def value(name: str, number: int, released: bool) -> float:
        return float(TERMS[name].loss(batch(released), number))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    # Alignment of care: all four records, or the two with a typicality.
    errors = [(sigmoid(a) - m) ** 2 for a, m in ((0.2, 1.0), (0.4, 0.25), (3.0, 0.0), (0.5, 0.0))]
    assert value("alignment", 0, released=False) == pytest.approx(sum(errors) / 4)
    assert value("alignment", 0, released=True) == pytest.approx(sum(errors[:2]) / 2)
    # Polarity: 0.5 − 0.2 + 0.1 and 0.5 − 0.4 + 0, vice 0.5 − 0.3 + 3; without the virtuous one of 0.25.
    assert value("polarity", 0, released=False) == pytest.approx((0.4 + 0.1 + 3.2) / 3)
    assert value("polarity", 0, released=True) == pytest.approx((0.4 + 3.2) / 2)
    # Care's latents on the item of harm.
    assert value("monosemantic", 0, released=False) == pytest.approx(3.0)
    assert value("monosemantic", 0, released=True) == pytest.approx(9.0)


def test_terms_of_no_items_are_zero_and_have_no_gradient() -> None:
    a = torch.rand(3, requires_grad=True)
    nothing = torch.tensor([2, 2, 2])
    found = terms.polarity(a, a.detach(), nothing, 0.5) + terms.monosemantic(a[:, None], nothing == 0)
    found = found + terms.prototype(a[:1], torch.ones(1), 1.0)
    found.backward()
    assert found.item() == 0 and a.grad is not None and not a.grad.any()


def test_the_preset_has_the_papers_weights_and_margins() -> None:
    published = {"reconstruction": 1.0, "sparsity": 1e-4, "alignment": 0.5, "polarity": 0.3, "prototype": 0.2,
                 "monosemantic": 0.1, "reading": 0.0}  # fmt: skip
    assert {name: getattr(PAPER, name) for name in TERMS} == published
    assert (PAPER.polarity_margin, PAPER.prototype_margin, PAPER.per_dimension) == (0.5, 0.1, 20)
    assert not PAPER.relative and PAPER.rule == "paper"
