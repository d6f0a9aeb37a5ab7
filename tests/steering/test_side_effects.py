"""Side effects: the formulas, computed here from two plain forward passes; diversity on texts counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_moral.steering import Direction, Steering, generate, prompt_ids, random_direction, steering_hooks
from sae_moral.steering.side_effects import SideEffects, distinct_n, diversity, neutral_texts, side_effects
from tests.steering.planted import D, operated, random_sae
from tests.tiny import scenarios

TEXTS = list(dict.fromkeys(scenarios(12).text))


def by_hand(model: Any, steerings: list[Steering], layer: int) -> SideEffects:
    kl, worse, same, share = [], [], [], []
    streams: list[torch.Tensor] = []
    keep = (f"blocks.{layer}.hook_resid_post", lambda h, hook: streams.append(h.clone()))
    for ids in prompt_ids(model, TEXTS):
        tokens = torch.tensor([ids])
        hooks = steering_hooks(model, steerings)
        with torch.inference_mode():
            logits = [model.run_with_hooks(tokens, fwd_hooks=[*chosen, keep])[0].double() for chosen in ([], hooks)]
        p, q = (torch.log_softmax(one, dim=-1)[:-1] for one in logits)
        kl += torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).tolist()
        following = tokens[0, 1:]
        worse += (p - q)[torch.arange(len(following)), following].tolist()
        same += (p.argmax(-1) == q.argmax(-1)).double().tolist()
        share += ((streams[1] - streams[0]).norm(dim=-1) / streams[0].norm(dim=-1))[0].tolist()
        streams.clear()
    means = [float(torch.tensor(values, dtype=torch.float64).mean()) for values in (kl, worse, same, share)]
    return SideEffects(means[0], float(torch.tensor(means[1]).exp()), means[2], means[3], len(kl))


@pytest.mark.parametrize("positions", ["all", "all-but-first", "generated"])
def test_the_formulas(tiny: Any, positions: str) -> None:
    steerings = [
        Steering(operated(random_sae(layer=0)), 0.3, positions=positions),
        Steering(random_direction(D, 1, 0), 0.2, units="relative", positions=positions),
    ]
    found = side_effects(tiny, steerings, TEXTS, batch_size=5)
    acts = positions if positions == "all-but-first" else "all"
    plain = [Steering(one.what, one.alpha, units=one.units, positions=acts) for one in steerings]
    expected = by_hand(tiny, plain, layer=1)
    assert vars(found) == pytest.approx(vars(expected), rel=1e-3)
    assert found.kl > 0.01 and 0 < found.top_agreement < 1 and found.norm_share > 0.1


def test_nothing_installed_changes_nothing(tiny: Any) -> None:
    found = side_effects(tiny, Steering(random_direction(D, 1, 0), 0.0), TEXTS)
    assert (found.kl, found.perplexity_ratio, found.top_agreement, found.norm_share) == (0, 1, 1, 0)
    with pytest.raises(ValueError, match="no neutral text given"):
        side_effects(tiny, (), [])


def test_relative_strength_is_the_share_of_the_norm(tiny: Any) -> None:
    found = side_effects(tiny, Steering(random_direction(D, 2, 0), -0.25, units="relative", positions="all"), TEXTS)
    assert found.norm_share == pytest.approx(0.25, rel=1e-5)


def test_distinct_n() -> None:
    assert distinct_n([[1, 2, 1, 2, 1]], 1) == 2 / 5
    assert distinct_n([[1, 2, 1, 2, 1]], 2) == 2 / 4
    assert distinct_n([[1, 2, 3], [7, 7, 7, 7], [5]], 2) == (1 + 1 / 3) / 2
    assert distinct_n([[1, 2], []], 4) is None


def test_diversity_of_a_model_that_repeats_itself(tiny: Any) -> None:
    token = 7
    vector = tiny.W_U[:, token].detach() - tiny.W_U.detach().mean(dim=1)
    stuck = Steering(Direction(2, 1e4 * vector, "stuck"), 1.0)
    options = {"max_new_tokens": 10, "stop_at_eos": False}
    assert set(generate(tiny, ["helping"], steerings=stuck, **options)[0].ids) == {token}
    found = diversity(tiny, stuck, ["helping", "the team"], **options)
    assert found == {"distinct_1": 0.1, "distinct_2": pytest.approx(1 / 9), "repetition": pytest.approx(1 - 1 / 7)}


def test_neutral_texts_are_plain_and_distinct() -> None:
    texts = neutral_texts()
    assert len(texts) == len(set(texts)) >= 20
    assert all(text == text.strip() and text[-1] in ".。" for text in texts)
    assert sum(not text.isascii() for text in texts) >= 8
