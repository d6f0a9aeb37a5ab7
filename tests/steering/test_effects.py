"""Effects: margins and side effects, computed here from plain forward passes; gaps and diversity by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.foundations import VICE, VIRTUE
from sae_moral.steering import (
    Direction,
    Diversity,
    MeasureSettings,
    NotFiniteError,
    SideEffects,
    Steering,
    Wording,
    acceptability,
    diversity,
    generate,
    neutral_texts,
    prompt_ids,
    random_direction,
    side_effects,
    steering_hooks,
)
from sae_moral.steering.effects import distinct_n, measure_steering
from tests.steering.planted import D, operated, random_sae
from tests.tiny import scenarios

DATA = scenarios(40)
PAIRS = (("helping", "hitting"), ("feeding", "robbing"))
WORDING = Wording("morally", "{text} is morally", PAIRS)
TEXTS = list(dict.fromkeys(scenarios(12).text))


def test_margins_are_those_of_plain_forward_passes(tiny: Any) -> None:
    steering = Steering(operated(random_sae("jumprelu")), 1.0)
    found = acceptability(tiny, DATA, steering, wording=WORDING, batch_size=7, draws=50)
    ids = [[tiny.tokenizer.convert_tokens_to_ids(word) for word in pair] for pair in PAIRS]
    assert found.tokens == tuple(map(tuple, ids))
    hooks = steering_hooks(tiny, steering)
    for text, margin in list(zip(DATA.text, found.margin, strict=True))[:8]:
        tokens = torch.tensor([tiny.tokenizer("<s>" + text + " is morally", add_special_tokens=False).input_ids])
        with torch.inference_mode():
            logits = tiny.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1]
        assert margin == pytest.approx(float(np.mean([logits[a] - logits[b] for a, b in ids])), abs=1e-4)
    plain = acceptability(tiny, DATA, wording=WORDING, draws=50)
    assert not np.allclose(plain.margin, found.margin, atol=1e-2)
    poles = [found.margin[DATA.pole == pole].mean() for pole in (VIRTUE, VICE)]
    assert found.gap.value == pytest.approx(poles[0] - poles[1])
    for one in (found.auroc, found.gap, found.gap_sd):
        assert one.low < one.value < one.high
    assert found.gap_sd.value * found.gap.value > 0


def test_bad_input_is_refused(tiny: Any) -> None:
    for word in (" morally good", "unheard"):
        with pytest.raises(ValueError, match="expected a word that is one, and known"):
            acceptability(tiny, DATA, wording=Wording("bad", "{text}", ((word, "hitting"),)))
    virtuous = DATA.subset(DATA.pole == VIRTUE)
    with pytest.raises(ValueError, match=r"16 virtuous and 0 vicious|virtuous and 0 vicious scenarios"):
        acceptability(tiny, virtuous, wording=WORDING)


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


@pytest.mark.parametrize("positions", ["all", "all-but-first", "generated", "template"])
def test_the_formulas(tiny: Any, positions: str) -> None:
    steerings = [
        Steering(operated(random_sae(layer=0)), 0.3, positions=positions),
        Steering(random_direction(D, 1, 0), 0.2, units="relative", positions=positions),
    ]
    found = side_effects(tiny, steerings, TEXTS, batch_size=5)
    acts = "all-but-first" if positions in ("all-but-first", "template") else "all"
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
    expected = {"distinct_1": 0.1, "distinct_2": 1 / 9, "repetition": 1 - 1 / 7}
    assert isinstance(found, Diversity) and vars(found) == pytest.approx(expected)


SETTINGS = MeasureSettings(neutral=tuple(TEXTS[:2]), openings=("helping", "the team"), new_tokens=4)


def test_all_measures_are_those_measured_alone(tiny: Any) -> None:
    steering = Steering(operated(random_sae("jumprelu", layer=0)), 2.0)
    found = measure_steering(tiny, [steering], DATA, [1], SETTINGS, [WORDING])
    margins = acceptability(tiny, DATA, steering, wording=WORDING, draws=1).margins
    assert found.margins == {WORDING.name: np.round(margins, 5).tolist()}
    effects = side_effects(tiny, steering, TEXTS[:2])
    assert (found.kl, found.norm_share) == (effects.kl, effects.norm_share)
    generated = diversity(tiny, steering, SETTINGS.openings, max_new_tokens=4)
    assert (found.distinct_1, found.distinct_2) == (generated.distinct_1, generated.distinct_2)
    assert set(found.headlines) == {"1"} and set(found.headlines["1"]) == {"categorical", "gradient"}
    less = measure_steering(tiny, [steering], DATA, [], SETTINGS, [WORDING], full=False)
    assert (less.margins, less.kl, less.headlines, less.distinct_1) == (found.margins, found.kl, {}, None)


def test_logits_that_are_not_finite_are_an_error(tiny: Any) -> None:
    loud = [("unembed.hook_out", lambda logits, hook: logits * float("inf"))]
    with tiny.hooks(fwd_hooks=loud), pytest.raises(NotFiniteError, match="the logits of 40 of 40 scenarios are not"):
        measure_steering(tiny, [], DATA, [], SETTINGS, [WORDING])


def test_neutral_texts_are_plain_and_distinct() -> None:
    texts = neutral_texts()
    assert len(texts) == len(set(texts)) >= 20
    assert all(text == text.strip() and text[-1] in ".。" for text in texts)
    assert sum(not text.isascii() for text in texts) >= 8
