"""Nuisance features: closed forms, numpy's least squares, planted shares, and what cannot be explained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_moral.controls.nuisance import FEATURES, explained, explained_by_family, nuisance_features
from sae_moral.data import MoralData, word_frequency
from sae_moral.data.moral_data import from_records
from tests.tiny import scenarios


def _data(n: int = 240, seed: int = 0) -> MoralData:
    """Scenarios whose number of tokens is not quite their number of words."""
    data, rng = scenarios(n, seed=seed), np.random.default_rng(seed)
    return replace(data, length=np.array([len(text.split()) + rng.integers(1, 4) for text in data.text]))


def _texts(*texts: str) -> MoralData:
    return from_records([(str(i), text, np.zeros(10), 0) for i, text in enumerate(texts)], {})


def _adjusted(x: np.ndarray, features: np.ndarray) -> float:
    design = np.column_stack([np.ones(len(x)), features])
    rest = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    r2 = 1 - (rest**2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    return 1 - (1 - r2) * (len(x) - 1) / (len(x) - np.linalg.matrix_rank(design))


def test_columns_are_those_named_and_standardised() -> None:
    data = _data()
    features = nuisance_features(data)
    names = [name for names in FEATURES.values() for name in names]
    assert (features.shape, features.dtype) == ((240, len(names)), torch.float64)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(len(names), dtype=torch.float64))
    torch.testing.assert_close(features.square().mean(dim=0), torch.ones(len(names), dtype=torch.float64))
    assert data.length is not None
    raw = {"tokens": data.length, "log tokens": np.log(data.length), "1 / tokens": 1 / data.length,
           "characters": [len(text) for text in data.text], "mean log frequency": word_frequency(data)}  # fmt: skip
    for i, name in enumerate(names):
        assert np.corrcoef(raw[name], features[:, i])[0, 1] == pytest.approx(1), name


def test_word_frequency_by_hand() -> None:
    # Distinct texts: "the cat", "the dog" ("The cat." is the first again), "the".  the: 3, cat: 1, dog: 1.
    data = _texts("the cat", "The cat.", "the dog", "the")
    assert word_frequency(data) == pytest.approx([np.log(3) / 2, np.log(3) / 2, np.log(3) / 2, np.log(3)])


def test_characters_are_the_words_where_nothing_separates_them() -> None:
    data = _texts("帮助邻居", "帮人", "偷 kite")  # 帮: 2, all others 1
    assert word_frequency(data) == pytest.approx([np.log(2) / 4, np.log(2) / 2, 0])


def test_a_column_that_does_not_vary_is_zero() -> None:
    data = replace(_data(), length=np.full(240, 7))
    features = nuisance_features(data)
    assert features[:, [0, 1, 3]].eq(0).all()
    assert torch.isfinite(features).all()
    assert explained_by_family(torch.randn(240, 3, generator=torch.Generator().manual_seed(0)), data)["sink"] == 0


def test_lengths_are_needed() -> None:
    with pytest.raises(ValueError, match="no token counts"):
        nuisance_features(scenarios(10))


@pytest.mark.parametrize("d", [1, 5, 300])
def test_it_equals_numpys_least_squares(d: int) -> None:
    rng = np.random.default_rng(d)
    features = rng.standard_normal((80, 4)) * [1, 100, 1e-3, 1] + [0, 1e4, 0, -3]
    x = features @ rng.standard_normal((4, d)) + 5 * rng.standard_normal((80, d)) + 40
    expected = _adjusted(x, features)
    assert explained(torch.from_numpy(x), torch.from_numpy(features)) == pytest.approx(expected, rel=1e-9)


def test_closed_form() -> None:
    # One feature f = (−1, −1, 1, 1) and x = f + e with e ⊥ f, e ⊥ 1: R² = 4 / 8, adjusted 1 − ½ · 3 / 2.
    f, e = torch.tensor([-1.0, -1, 1, 1]), torch.tensor([-1.0, 1, -1, 1])
    assert explained((f + e)[:, None], f[:, None]) == pytest.approx(1 - 0.5 * 3 / 2)
    assert explained(f[:, None] * torch.tensor([1.0, -3.0]), f[:, None]) == pytest.approx(1)


def test_a_planted_share_is_found() -> None:
    data = _data(2000)
    rng = torch.Generator().manual_seed(0)
    features = nuisance_features(data)
    noise = torch.randn(2000, 50, generator=rng, dtype=torch.float64)
    x = features[:, 3:4] * torch.randn(1, 50, generator=rng, dtype=torch.float64)
    x = 0.6**0.5 * x / x.norm() + 0.4**0.5 * noise / noise.norm()
    shares = explained_by_family(x, data)
    assert list(shares) == [*FEATURES, "all"]
    assert shares["sink"] == pytest.approx(0.6, abs=0.02)
    assert shares["all"] == pytest.approx(0.6, abs=0.02)
    assert shares["word frequency"] < 0.4  # (longer texts have commoner words in this world)


def test_noise_gets_zero_on_average_and_is_not_clipped() -> None:
    rng = torch.Generator().manual_seed(0)
    draws = np.array([
        explained(torch.randn(40, 3, generator=rng), torch.randn(40, 6, generator=rng)) for _ in range(60)
    ])  # fmt: skip
    assert abs(draws.mean()) < 3 * draws.std() / 60**0.5
    assert draws.min() < 0


def test_collinear_and_constant_features_count_once() -> None:
    rng = np.random.default_rng(1)
    f = rng.standard_normal((50, 2))
    x = torch.from_numpy(f @ rng.standard_normal((2, 4)) + rng.standard_normal((50, 4)))
    many = torch.from_numpy(np.column_stack([f, f[:, 0] + f[:, 1], 2 * f[:, 0], np.full(50, 3.0)]))
    assert explained(x, many) == pytest.approx(explained(x, torch.from_numpy(f)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_far_from_zero_and_its_scale_do_not_matter(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(2)
    features = torch.randn(100, 3, generator=rng)
    x = (features @ torch.randn(3, 8, generator=rng) + torch.randn(100, 8, generator=rng) + 3).to(dtype)
    value = explained(x, features)
    assert value == pytest.approx(_adjusted(x.double().numpy(), features.double().numpy()), rel=1e-9)
    assert explained(1e-9 * x.double() + 1, features.to(dtype).double() * 1e6) == pytest.approx(value, abs=0.02)


def test_what_does_not_vary_has_nothing_to_explain() -> None:
    features = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    assert explained(torch.full((20, 4), 0.1), features) == 0
    assert explained(torch.randn(20, 2), torch.zeros(20, 3)) == pytest.approx(0)
    assert explained(torch.randn(20, 2), torch.zeros(20, 0)) == pytest.approx(0)


def test_the_inputs_stay_as_they_are() -> None:
    data = _data(60)
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    before, digest = x.clone(), data.sha256
    explained_by_family(x, data)
    assert torch.equal(x, before)
    assert data.sha256 == digest


@pytest.mark.parametrize(
    ("x", "features", "message"),
    [
        (torch.zeros(6, 2), torch.zeros(6, 5), "6 scenarios and 5 features; expected at least 7"),
        (torch.zeros(3, 2), torch.zeros(3, 5), "3 scenarios and 5 features"),
        (torch.full((9, 1), float("nan")), torch.zeros(9, 1), "not finite"),
        (torch.zeros(9, 1), torch.full((9, 1), float("inf")), "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: torch.Tensor, features: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explained(x, features)


def test_rows_must_match() -> None:
    with pytest.raises((ValueError, TypeError), match=r"9 rows of features for 8 vectors|f32\[9,1\]"):
        explained(torch.zeros(8, 2), torch.zeros(9, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_same() -> None:
    data = _data(100)
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    there, here = explained_by_family(x.cuda(), data), explained_by_family(x, data)
    assert there == pytest.approx(here, abs=1e-9)
