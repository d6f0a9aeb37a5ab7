"""Linear CKA against what is known in closed form and against the definition on n × n kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_moral.studies.cka import linear_cka, linear_cka_interval

SHAPES = [(60, 8, 5), (20, 50, 30), (40, 60, 10)]


def noise(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    """Σ of the U-centred kernels' products (Székely & Rizzo 2014), the same estimator by another road."""

    def u_centred(z: torch.Tensor) -> torch.Tensor:
        k, n = z @ z.T, len(z)
        k = k - torch.diag(k.diagonal())
        k = k - k.sum(0) / (n - 2) - k.sum(1, keepdim=True) / (n - 2) + k.sum() / ((n - 1) * (n - 2))
        return k - torch.diag(k.diagonal())

    k, m = u_centred(x), u_centred(y)
    return float((k * m).sum() / (k.square().sum() * m.square().sum()).sqrt())


def plain_by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    n = len(x)
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return float((k * m).sum() / (k.norm() * m.norm()))


@pytest.mark.parametrize(("n", "d1", "d2"), SHAPES)
def test_equals_the_definition(n: int, d1: int, d2: int) -> None:
    x = noise(n, d1, 0) + 3.0
    y = x[:, :d2] @ noise(min(d1, d2), d2, 1) + noise(n, d2, 2) - 1.0
    assert linear_cka(x, y) == pytest.approx(by_definition(x, y), abs=1e-12)
    assert linear_cka(x, y, bias="plain") == pytest.approx(plain_by_definition(x, y), abs=1e-12)


@pytest.mark.parametrize("bias", ["debiased", "plain"])
@pytest.mark.parametrize(("n", "d", "_"), SHAPES)
def test_is_one_for_itself_rotated_scaled_and_moved(n: int, d: int, _: int, bias: str) -> None:
    x = noise(n, d, 0)
    rotation, _r = torch.linalg.qr(noise(d, d, 1))
    assert linear_cka(x, x, bias=bias) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, 1e4 * x @ rotation + 7.0, bias=bias) == pytest.approx(1.0, abs=1e-9)


def test_independent_noise_is_zero_only_when_debiased() -> None:
    n, d = 50, 500
    pairs = [(noise(n, d, seed), noise(n, d, 1000 + seed)) for seed in range(20)]
    debiased = np.array([linear_cka(x, y) for x, y in pairs])
    plain = np.array([linear_cka(x, y, bias="plain") for x, y in pairs])
    assert abs(debiased.mean()) < 3 * debiased.std() / np.sqrt(len(pairs)) + 1e-3
    assert np.abs(debiased).max() < 0.1 and plain.min() > 0.85


def test_orthogonal_parts_of_one_representation_are_unlike() -> None:
    x = torch.linalg.qr(noise(200, 8, 0) - noise(200, 8, 0).mean(0))[0]
    assert linear_cka(x[:, :4], x[:, 4:], bias="plain") == pytest.approx(0.0, abs=1e-12)


def test_float32_far_from_zero_keeps_its_digits() -> None:
    x = noise(100, 6, 0)
    assert linear_cka((x + 100).float(), x) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("bias", ["debiased", "plain"])
def test_what_does_not_vary_has_no_similarity(bias: str) -> None:
    constant = torch.full((30, 4), 0.1)
    assert linear_cka(constant, noise(30, 4, 0), bias=bias) is None
    assert linear_cka(noise(30, 40, 0), constant, bias=bias) is None
    assert linear_cka_interval(constant, noise(30, 4, 0)).value is None


def test_interval_equals_a_jackknife_by_hand() -> None:
    for n, d in ((90, 6), (40, 60)):
        x = noise(n, d, 0)
        y = x + 2 * noise(n, d, 1)
        found = linear_cka_interval(x, y, blocks=10, seed=3)
        blocks = np.array_split(np.random.default_rng(3).permutation(n), 10)
        values = [linear_cka(x[keep], y[keep]) for keep in (np.setdiff1d(np.arange(n), block) for block in blocks)]
        error = np.sqrt(9 * np.var(np.array(values)))
        assert found.value == linear_cka(x, y)
        assert found.ci_low == pytest.approx(found.value - 1.96 * error, abs=1e-9)
        assert found.ci_high == pytest.approx(min(1, found.value + 1.96 * error), abs=1e-9)


def test_interval_covers_the_value_of_a_large_sample() -> None:
    mixing = noise(5, 5, 9)
    big = noise(20_000, 5, 10)
    truth = linear_cka(big, big @ mixing + noise(20_000, 5, 11))
    assert truth is not None
    covered = 0
    for seed in range(40):
        x = noise(150, 5, 100 + seed)
        found = linear_cka_interval(x, x @ mixing + noise(150, 5, 200 + seed))
        assert found.ci_low is not None and found.ci_high is not None
        covered += found.ci_low <= truth <= found.ci_high
    assert covered >= 34


def test_too_few_for_an_interval_still_gives_the_value() -> None:
    found = linear_cka_interval(noise(4, 3, 0), noise(4, 3, 1))
    assert found.value is not None and found.ci_low is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (noise(10, 2, 0), noise(9, 2, 0), "10 and 9 rows"),
        (noise(3, 2, 0), noise(3, 2, 0), "at least 4"),
        (noise(9, 2, 0), noise(9, 2, 0) * torch.nan, "second representation holds NaN"),
    ],
)
def test_refuses(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_cka(x, y)
    with pytest.raises(ValueError, match=message):
        linear_cka_interval(x, y)


def test_unknown_bias_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'debiased'"):
        linear_cka(noise(9, 2, 0), noise(9, 2, 0), bias="debiasd")
