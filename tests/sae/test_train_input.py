"""What the trainer is fed: the order of the data, centring and scaling, outliers, and both granularities on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture import Representations, capture
from sae_moral.data.splits import PARTS
from sae_moral.sae.activations import Activations, capture_activations
from sae_moral.sae.train_input import Batches, InputMap, within
from tests.tiny import scenarios


def invented(folder: Path, *, n: int = 400, d: int = 8, layers: int = 2, seed: int = 0) -> Activations:
    """Vectors that are sums of a few of 3 d directions, far from zero, as a finished capture would leave them."""
    rng, held = np.random.default_rng(seed), {}
    directions = rng.normal(size=(3 * d, d))
    for layer in range(layers):
        amounts = rng.exponential(size=(n, 3 * d)) * (rng.random((n, 3 * d)) < 0.1)
        vectors = torch.tensor(5 + amounts @ directions, dtype=torch.float32)
        held[layer] = vectors
    part = rng.choice(3, size=n, p=[0.8, 0.1, 0.1])
    about = {
        "granularity": "scenario",
        "model": {"name": "invented"},
        "data": {"source": "invented", "sha256": "0"},
        "capture": {"pooling": "scenario", "first_token": "<s>"},
        "n_vectors": {name: int((part == i).sum()) for i, name in enumerate(PARTS)},
    }
    hooks = {layer: f"blocks.{layer}.hook_resid_post" for layer in range(layers)}
    row = np.arange(n)
    captured = Representations(tuple(hooks), row, row, row, {}, held.__getitem__)
    return Activations(captured, hooks, part, about)


def _identity(d: int) -> InputMap:
    return InputMap("none", torch.zeros(d), torch.ones(d))


def test_every_epoch_gives_each_row_once_in_another_order() -> None:
    vectors = np.arange(20, dtype=np.float32)[:, None]
    rows = np.array([1, 3, 5, 7, 9, 11, 13])
    batches = Batches(vectors, rows, _identity(1), batch=3, seed=4)
    drawn = torch.cat([next(batches) for _ in range(7)]).flatten().int().tolist()
    assert sorted(drawn) == sorted(rows.tolist() * 3)  # 7 batches of 3 are 3 epochs of 7, batches span them
    firsts = [{int(v) for v in next(Batches(vectors, rows, _identity(1), batch=3, seed=s))} for s in range(6)]
    assert len({frozenset(first) for first in firsts}) > 1


def test_a_position_alone_says_what_comes_next() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    rows = np.arange(0, 30, 2)
    one, other = (Batches(vectors, rows, _identity(4), batch=4, seed=1) for _ in range(2))
    for _ in range(9):
        next(one)
    other.position = one.position
    torch.testing.assert_close(next(one), next(other), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "spread"), [("scale", None), ("standardise", 1.0), ("centre", None)])
def test_maps_centre_and_scale_and_can_be_inverted(kind: str, spread: float | None) -> None:
    x = np.random.default_rng(0).normal(7, [1, 2, 30], size=(500, 3)).astype(np.float32)
    fitted = InputMap.fit(x, np.arange(400), kind)
    z = fitted(torch.from_numpy(x[:400]))
    assert z.mean(0).abs().max() < 1e-4
    if kind == "scale":
        assert z.square().mean() == pytest.approx(1, abs=1e-4)
    if spread:
        torch.testing.assert_close(z.std(0), torch.ones(3), rtol=0.01, atol=0)
    torch.testing.assert_close(fitted.inverse(z), torch.from_numpy(x[:400]), rtol=1e-5, atol=1e-4)


def test_equal_vectors_are_refused_and_so_is_an_unknown_map() -> None:
    with pytest.raises(ValueError, match="all 5 training vectors are equal"):
        InputMap.fit(np.ones((5, 3), dtype=np.float32), np.arange(5), "scale")
    with pytest.raises(ValueError, match="did you mean 'standardise'"):
        InputMap.fit(np.ones((5, 3), dtype=np.float32), np.arange(5), "standardize")


def test_outliers_are_told_by_the_training_vectors() -> None:
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    x[[3, 150]] *= 200
    assert np.flatnonzero(~within(x, np.arange(200), np.arange(100), 10)).tolist() == [3, 150]
    assert within(x, np.arange(200), np.arange(100), None).all()


def test_token_vectors_are_those_of_one_forward_per_text(tiny: Any, tmp_path: Path) -> None:
    data = scenarios(20)
    found = capture_activations(tiny, data, [0, 2], store=tmp_path, granularity="token", progress=False)
    texts = sorted(set(data.text))
    total = 0
    vectors = {layer: torch.from_numpy(np.array(found.vectors(layer))) for layer in found.layers}
    for text in texts:
        ids = torch.tensor([[1, *tiny.tokenizer(text, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            _, cache = tiny.run_with_cache(ids)
        for layer in (0, 2):
            own = cache[f"blocks.{layer}.hook_resid_post"][0, 1:]
            nearest = (own[:, None] - vectors[layer]).abs().amax(dim=2).amin(dim=1)
            assert nearest.max() < 1e-4
        total += ids.shape[1] - 1
    assert len(vectors[0]) == total == sum(found.provenance["n_vectors"].values())


def test_a_text_group_is_on_one_side_only_and_the_pass_is_not_repeated(tiny: Any, tmp_path: Path) -> None:
    data = scenarios(120)
    first = capture_activations(tiny, data, [1], store=tmp_path, granularity="token", progress=False)
    pooled = capture_activations(tiny, data, [1], store=tmp_path, progress=False)
    assert len(pooled.part) == len(set(data.text)) and {0, 1, 2} == set(pooled.part.tolist())
    row = capture(tiny, data.text, layers=[1], progress=False).row
    for group in np.unique(data.group):
        assert len({int(pooled.part[row[i]]) for i in np.flatnonzero(data.group == group)}) == 1
    tiny.forward = None  # a second pass would fail
    again = capture_activations(tiny, data, [1], store=tmp_path, granularity="token", progress=False)
    np.testing.assert_array_equal(again.vectors(1), first.vectors(1))


def test_unknown_names_are_answered_with_the_nearest(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'token'"):
        capture_activations(tiny, scenarios(5), [0], store=tmp_path, granularity="tokens")
    with pytest.raises(KeyError, match="layer 7 was not captured; captured: 0, 1"):
        invented(tmp_path).vectors(7)
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        invented(tmp_path).rows("valid")
