"""A diagnosis of four metrics where there is nothing: how often at least one of them says that there is something."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture.vectors import Representations
from sae_moral.controls.measure import measure
from sae_moral.controls.settings import Controls
from sae_moral.data.moral_data import MoralData
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.metrics.base import Prepared, PreparedFunctionMetric, Values, Variants
from sae_moral.protocol import AUDITED
from sae_moral.results import StatisticSpec
from tests.metrics.worlds import moral_data

WORLDS = 200


def contrast(axis: int) -> PreparedFunctionMetric:
    """How far virtue lies above vice along one axis."""

    def many(x: Any, data: MoralData) -> Prepared:
        sign = torch.from_numpy(np.choose(data.pole, [1.0, -1.0, 0.0]))

        def run(variants: Variants, only: Collection[str] | None = None) -> Values:
            return {("lead", "overall"): sign[variants.index] @ x[:, axis].double() / len(x)}

        return Prepared(len(data), {}, run)

    spec = StatisticSpec("lead", "higher", "pole", margin=0.02)
    return PreparedFunctionMetric(
        f"axis {axis}", "lead", lambda x, data: many(x, data).statistics(), (spec,), many=many
    )


@pytest.fixture(scope="module")
def words() -> list[dict[str, str]]:
    """The verdicts of each world: two layers of 60 texts, four metrics that share half of their noise."""
    found = []
    text = [f"text {i}" for i in range(60)]
    for seed in range(WORLDS):
        rng = np.random.default_rng(seed)
        data = moral_data([0] * 60, rng.permutation([VIRTUE, VICE] * 30), [1.0] * 60, text=text, length=np.full(60, 7))
        shared, own = rng.standard_normal((2, 60, 1)), rng.standard_normal((2, 60, 4))
        x = torch.from_numpy(np.sqrt(0.5) * (shared + own)).float()
        row = np.unique(data.group, return_index=True, return_inverse=True)[2]
        first = np.unique(data.group, return_index=True)[1]
        read = [x[layer][first] for layer in range(2)]
        vectors = Representations((0, 1), row, np.full(60, 7), np.full(60, 10), {}, lambda layer, r=read: r[layer])
        four, controls = [contrast(i) for i in range(4)], Controls(("null",), permutations=99, seed=seed)
        one = measure(vectors, data, four, AUDITED, controls, progress=False)
        assert all(peak.p_value is not None for peak in one.peaks.values())
        found.append(
            {name: verdict.word for name, verdict in one.verdicts.items()}
            | {f"{name}, alone": str((peak.p_value or 1) < 0.05) for name, peak in one.peaks.items()}
        )
    return found


def test_at_least_one_says_something_in_one_world_of_twenty(words: list[dict[str, str]]) -> None:
    something = np.mean([bool({"found", "beyond chance"} & set(world.values())) for world in words])
    assert something <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / WORLDS)
    # Each by itself at 5 %, as in version 0.1:
    alone = np.mean(["True" in world.values() for world in words])
    assert alone > 0.1


def test_nothing_is_called_empty_without_intervals(words: list[dict[str, str]]) -> None:
    rest = {word for world in words for name, word in world.items() if "alone" not in name}
    assert rest <= {"not shown", "beyond chance"}
