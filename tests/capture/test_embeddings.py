"""Input embeddings: what the embedding's hook gives, pooled as a capture pools, without context and position."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_moral.capture.embeddings import input_embeddings
from sae_moral.capture.prompts import build_prompts
from sae_moral.capture.readers import POOLINGS
from tests.tiny import scenarios


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_they_are_the_mean_of_what_the_hook_gives(tiny: Any, pooling: str) -> None:
    text = scenarios(30).text
    found = input_embeddings(tiny, text, template="{text} is morally", pooling=pooling)
    assert found.shape == (30, 16) and not found.requires_grad
    for one, vector in zip(text, found, strict=True):
        prompts = build_prompts([one], tiny.tokenizer, template="{text} is morally")
        tokens = prompts.tokens(0, 1, "cpu")
        seen: list[torch.Tensor] = []
        hooks: Any = [("hook_embed", lambda x, hook, seen=seen: seen.append(x.detach()))]
        with tiny.hooks(fwd_hooks=hooks), torch.inference_mode():
            tiny(tokens.ids, return_type=None)
        weight = POOLINGS[pooling](tokens)
        expected = (seen[0][0] * weight[0][:, None]).sum(dim=0) / weight.sum()
        torch.testing.assert_close(vector, expected, atol=1e-6, rtol=1e-5)


def test_order_and_context_are_not_in_them(tiny: Any) -> None:
    found = input_embeddings(tiny, ["helping the team", "team the helping", "helping helping the team team the"])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
