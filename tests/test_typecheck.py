"""Annotations are checked while the tests run."""

from __future__ import annotations

from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.metrics import ranks
from tests.typecheck import CALLS, check, first_calls


def test_shapes_are_checked_in_the_first_calls() -> None:
    @first_calls(typechecker=check)
    def pairs(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> int:
        return len(x)

    x, longer = torch.zeros(2), torch.zeros(3)
    with pytest.raises(jaxtyping.TypeCheckError):
        pairs(x, longer)
    assert {pairs(x, x) for _ in range(CALLS)} == {2}
    assert pairs(x, longer) == 2


def test_fields_are_checked_when_first_made() -> None:
    @first_calls(typechecker=check)
    @dataclass
    class Pair:
        x: Float[Tensor, "n"]
        y: Float[Tensor, "n"]

    with pytest.raises(jaxtyping.TypeCheckError):
        Pair(torch.zeros(2), torch.zeros(3))
    assert len([Pair(torch.zeros(2), torch.zeros(2)) for _ in range(CALLS)]) == CALLS
    assert len(Pair(torch.zeros(2), torch.zeros(3)).y) == 3


def test_the_package_is_checked() -> None:
    assert ranks.spearman.__code__.co_filename.endswith("typecheck.py")
