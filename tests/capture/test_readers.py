"""Pooling strategies against hand-computed means."""

from __future__ import annotations

import pytest
import torch

from sae_moral.capture.prompts import Tokens
from sae_moral.capture.readers import POOLINGS, get_pooling, pool

REAL = torch.tensor([[True, True, True, True], [True, True, True, False]])
OWN = torch.tensor([[False, True, True, False], [False, True, False, False]])
TOKENS = Tokens(torch.zeros(2, 4, dtype=torch.long), REAL, OWN)
HIDDEN = torch.arange(8.0).reshape(2, 4, 1).repeat(1, 1, 2)


@pytest.mark.parametrize(("name", "expected"), [("all", [1.5, 5.0]), ("scenario", [1.5, 5.0]), ("last", [3.0, 6.0])])
def test_each_strategy_takes_the_mean_of_its_tokens(name: str, expected: list[float]) -> None:
    pooled = pool(HIDDEN, POOLINGS[name](TOKENS))
    assert pooled.tolist() == [[value, value] for value in expected]


def test_padding_and_first_token_have_no_share() -> None:
    loud = HIDDEN.clone()
    loud[:, 0] = 1e6  # an attention sink
    loud[1, 3] = -1e6  # padding
    assert torch.equal(pool(loud, POOLINGS["scenario"](TOKENS)), pool(HIDDEN, POOLINGS["scenario"](TOKENS)))


def test_bfloat16_is_accumulated_in_float32() -> None:
    hidden = torch.ones(1, 1000, 1, dtype=torch.bfloat16)
    pooled = pool(hidden, torch.ones(1, 1000))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0  # summed in bfloat16, 256 + 1 is 256


def test_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown pooling 'scenarios'; did you mean 'scenario'\?"):
        get_pooling("scenarios")


def test_a_function_is_a_strategy() -> None:
    assert get_pooling(POOLINGS["last"]) is POOLINGS["last"]
