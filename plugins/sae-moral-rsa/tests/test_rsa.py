"""The metric against closed forms, and with every control, of which it knows nothing."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sae_moral_rsa import Rsa, rsa
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from sae_moral import AUDITED, Controls, diagnose
from sae_moral.controls import NAMES
from sae_moral.controls.baselines import BASELINES
from sae_moral.controls.verdict import WORDS
from sae_moral.metrics import registry
from tests.tiny import save_tiny_model, scenarios

DATA = scenarios(200)
FEW = Controls(names=NAMES, resamples=50, permutations=19)


def value(x: np.ndarray, **options: Any) -> float | None:
    return Rsa(**options)(torch.from_numpy(x), DATA)["spearman"]


def test_it_is_the_correlation_over_all_pairs_but_for_the_draw() -> None:
    x = DATA.vector @ np.random.default_rng(0).standard_normal((10, 30)) + 0.1
    different = DATA.group[:, None] != DATA.group
    pairs = different[np.triu_indices(len(DATA), 1)]
    whole = spearmanr(pdist(x, "cosine")[pairs], pdist(DATA.vector)[pairs])[0]
    assert value(x, pairs=200_000) == pytest.approx(whole, abs=0.01)


def test_distances_that_are_the_human_ones_give_one_and_noise_gives_nothing() -> None:
    # On a sphere around far-away centres, cosine distance is a monotone function of Euclidean distance.
    far = np.hstack([DATA.vector, np.sqrt(1e4 - (DATA.vector**2).sum(axis=1, keepdims=True))])
    assert value(far) == pytest.approx(1, abs=1e-3)
    noise = [value(np.random.default_rng(seed).standard_normal((200, 8))) for seed in range(20)]
    assert abs(np.mean(np.array(noise, dtype=float))) < 0.01


def test_rotation_and_scale_change_nothing_and_nothing_to_order_is_none() -> None:
    x = np.random.default_rng(1).standard_normal((200, 6)) + 3 * DATA.vector[:, :6]
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))[0]
    assert value(5 * x @ turn) == pytest.approx(value(x), abs=1e-9)
    neutral = DATA.subset(np.flatnonzero(DATA.vector.sum(axis=1) == 0))
    assert Rsa()(torch.from_numpy(x)[: len(neutral)], neutral) == {"spearman": None}


def test_every_control_comes_by_itself(tmp_path: Path) -> None:
    found = diagnose(
        str(save_tiny_model(tmp_path / "tiny")), DATA, metrics=[rsa(AUDITED)], layers=[0, 2], controls=FEW, device="cpu"
    )
    assert [(row.metric, row.statistic) for row in found.rows] == [("rsa", "spearman")] * 2
    for row in cast(list[Any], found.rows):
        assert row.ci_low <= row.ci_high and 0.05 <= row.p_value <= 1 and row.baseline is not None
    assert {one.against for one in found.comparisons} == {kind.name for kind in BASELINES if kind.shortfall is not None}
    assert found.verdicts["rsa"].word in WORDS
    assert found.metrics["rsa"].does_not_prove == Rsa.does_not_prove


def test_the_entry_point_of_the_package_is_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf8")
    group, name, target = re.search(r'entry-points\."(.+?)"\]\n(\w+) = "(.+?)"', text).groups()  # pyright: ignore
    assert group == registry.GROUP
    monkeypatch.setattr(registry, "entry_points", lambda **_: [EntryPoint(name, target, group)])
    assert registry.get_metric("rsa", AUDITED) == Rsa(seed=AUDITED.seed)
