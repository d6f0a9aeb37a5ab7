"""Generation: Hugging Face's and TransformerLens' tokens, whatever the batch, the cache or the wrapper."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from benchmarks.architectures import save_random
from sae_moral.capture import load_model
from sae_moral.capture.prompts import left_padded
from sae_moral.errors import DataError, SaeMoralWarning
from sae_moral.steering import Steering, generate, prompt_ids, random_direction, steer, steering_hooks
from sae_moral.steering.forwards import Cached, cache_works, fused_attention, last_logits
from sae_moral.steering.generate import choose
from sae_moral.steering.hooks import steer_unwrapped
from sae_moral.steering.steering import OF_PROMPTS
from tests.conftest import bundled
from tests.libraries import of_transformer_lens_3, transformer_lens_3
from tests.steering.planted import D, operated, random_sae
from tests.tiny import forwards

PROMPTS = ["helping", "robbing the old baker is morally", "two strangers on the bus and the team", "hitting my sister"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}the{% endif %}{% if enable_thinking %} tired{% endif %}"
)


def steerings(positions: str = "all") -> list[Steering]:
    return [
        Steering(operated(random_sae("jumprelu", layer=0)), 1.5, positions=positions),
        Steering(random_direction(D, 2, 3), 0.3, units="relative", positions=positions),
    ]


@pytest.mark.parametrize("positions", OF_PROMPTS)
def test_batch_and_cache_change_nothing(tiny: Any, positions: str) -> None:
    options = {"steerings": steerings(positions), "max_new_tokens": 10, "stop_at_eos": False}
    alone = [generate(tiny, [prompt], use_cache=False, **options)[0] for prompt in PROMPTS]
    assert generate(tiny, PROMPTS, **options) == alone
    assert generate(tiny, PROMPTS, batch_size=3, **options) == alone
    assert generate(tiny, PROMPTS, use_cache=False, **options) == alone
    assert alone != generate(tiny, PROMPTS, max_new_tokens=10, stop_at_eos=False)
    assert all(len(found.ids) == 10 and not found.finished for found in alone)


def logits(
    model: Any,
    positions: str,
    rows: list[list[int]],
    use_cache: bool,
    new: list[list[int]],
    make: Callable[[str], list[Steering]] = steerings,
) -> torch.Tensor:
    """[rows, steps, words] with the given tokens forced."""
    tokens, mask = left_padded(rows, model)
    out = []
    with torch.inference_mode(), steer(model, make(positions), mask=mask):
        forward, given, real = last_logits(model, len(rows), use_cache=use_cache), tokens, mask.long()
        for step in torch.tensor(new).T:
            out.append(forward(given, real))
            given = step[:, None] if use_cache else torch.cat([given, step[:, None]], dim=1)
            real = torch.cat([real, torch.ones_like(step)[:, None]], dim=1)
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("positions", OF_PROMPTS)
def test_logits_agree(tiny: Any, positions: str) -> None:
    rows, new = prompt_ids(tiny, PROMPTS), [[5, 9, 14], [3, 20, 7], [11, 11, 4], [30, 6, 8]]
    batched = logits(tiny, positions, rows, True, new)
    alone = torch.cat([logits(tiny, positions, [row], False, [tokens]) for row, tokens in zip(rows, new, strict=True)])
    torch.testing.assert_close(batched, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_unsteered_is_hugging_face(tiny: Any, tiny_folder: Path, batch_size: int) -> None:
    found = generate(tiny, PROMPTS, max_new_tokens=12, batch_size=batch_size)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_folder)
    for generation in found:
        ids = torch.tensor([generation.prompt_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        new = expected[0, ids.shape[1] :].tolist()
        assert generation.finished == (2 in new)
        assert generation.ids == new[: new.index(2) if 2 in new else None]


def tiny_hooked(folder: Path) -> Any:
    """The tiny model's architecture and weights as a HookedTransformer."""
    lens = transformer_lens_3()
    from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights

    hf: Any = LlamaForCausalLM.from_pretrained(folder)
    config = lens.HookedTransformerConfig(
        n_layers=3, d_model=D, n_ctx=64, d_head=8, n_heads=2, n_key_value_heads=1, d_mlp=32,
        d_vocab=hf.config.vocab_size, act_fn="silu", gated_mlp=True, normalization_type="RMS",
        eps=hf.config.rms_norm_eps,
        positional_embedding_type="rotary", rotary_adjacent_pairs=False, rotary_dim=8, final_rms=True, device="cpu",
        rotary_base=10000, original_architecture="LlamaForCausalLM",
    )  # fmt: skip
    model = lens.HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(folder))
    model.load_state_dict(convert_llama_weights(hf, config), strict=False)
    return model


@pytest.mark.parametrize("positions", ["all", "last", "generated"])
def test_hooked_transformer_is_the_bridge(tiny: Any, tiny_folder: Path, positions: str) -> None:
    hooked = tiny_hooked(tiny_folder)
    rows, new = prompt_ids(tiny, PROMPTS), [[5, 9, 14], [3, 20, 7], [11, 11, 4], [30, 6, 8]]
    assert prompt_ids(hooked, PROMPTS) == rows
    of_bridge = logits(tiny, positions, rows, True, new)
    for use_cache in (True, False):
        found = logits(hooked, positions, rows, use_cache, new)
        torch.testing.assert_close(found.log_softmax(-1), of_bridge.log_softmax(-1), atol=1e-4, rtol=1e-4)
    options = {"steerings": steerings(positions), "max_new_tokens": 8}
    assert generate(hooked, PROMPTS, **options) == generate(tiny, PROMPTS, **options)


def test_the_script_of_the_documentation(tiny: Any) -> None:
    """Fifteen lines with TransformerLens' own hooks and generate give our tokens."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "steering.md").read_text(encoding="utf8")
    script = next(code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "model.generate(" in code)
    assert len([line for line in script.splitlines() if line.strip()]) <= 15
    operation = operated(random_sae("jumprelu"))
    names: dict[str, Any] = {"model": tiny, "operation": operation, "prompts": PROMPTS}
    exec(script, names)
    expected = generate(
        tiny, PROMPTS, steerings=Steering(operation, 1.5, positions="generated"), max_new_tokens=20, stop_at_eos=False
    )
    assert names["found"] == [one.ids for one in expected]
    assert names["found"] != [one.ids for one in generate(tiny, PROMPTS, max_new_tokens=20, stop_at_eos=False)]


def test_plain_hooks_serve_one_prompt_again_and_again(tiny: Any) -> None:
    ids = torch.tensor(prompt_ids(tiny, PROMPTS[1:2]))
    hooks = steering_hooks(tiny, steerings("generated"), mask=torch.ones_like(ids, dtype=torch.bool))
    options = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False, "verbose": False}
    with torch.inference_mode(), tiny.hooks(fwd_hooks=hooks):
        runs = [tiny.generate(ids, use_past_kv_cache=cache, **options) for cache in (True, False, True)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_samples_follow_seed_and_prompt_not_batch(tiny: Any) -> None:
    options = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12, "stop_at_eos": False}
    found = generate(tiny, PROMPTS, seed=3, **options)
    assert generate(tiny, PROMPTS[::-1], seed=3, batch_size=1, **options)[::-1] == found
    assert generate(tiny, PROMPTS, seed=4, **options) != found
    shorter = generate(tiny, PROMPTS, seed=3, **{**options, "max_new_tokens": 5})
    assert [one.ids for one in shorter] == [one.ids[:5] for one in found]
    state = torch.get_rng_state()
    generate(tiny, PROMPTS, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_choose_draws_from_the_distribution() -> None:
    p = torch.tensor([0.1, 0.5, 0.15, 0.25])
    n = 4000
    chance = (torch.arange(n) + 0.5) / n
    logits = p.log().expand(n, 4)
    assert torch.equal(choose(logits, chance, 0.0, 1.0), torch.ones(n, dtype=torch.long))
    for temperature, top_p, expected in (
        (1.0, 1.0, p),
        (0.5, 1.0, p**2 / (p**2).sum()),
        (1.0, 0.7, torch.tensor([0, 0.5, 0, 0.25]) / 0.75),
        (1.0, 0.4, torch.tensor([0.0, 1, 0, 0])),
    ):
        share = torch.bincount(choose(logits, chance, temperature, top_p), minlength=4) / n
        torch.testing.assert_close(share, expected, atol=1e-3, rtol=0)
    assert choose(p.log()[None], torch.tensor([1.0 - 1e-12]), 1.0, 0.7).item() == 3  # never one that was left out


@pytest.mark.parametrize(
    "name",
    [
        "Mamba",
        pytest.param("MPT", marks=of_transformer_lens_3),
        pytest.param("Falcon, ALiBi", marks=of_transformer_lens_3),
    ],
)
def test_without_a_cache_that_works_there_is_none(name: str, tmp_path: Path) -> None:
    save_random(name, tmp_path / "model")
    model: Any = load_model(tmp_path / "model", device="cpu")
    prompts, calls = ["the boy shared", "she lied to her friend"], []

    def hook(hidden: torch.Tensor, hook: Any) -> None:
        calls.append(hidden.shape[1])

    with model.hooks(fwd_hooks=[("blocks.0.hook_out", hook)]):
        with pytest.warns(SaeMoralWarning, match=r"KV cache .*; texts are generated without one, which is slower"):
            found = generate(model, prompts, max_new_tokens=6, stop_at_eos=False)
    assert len(calls) == 6 and calls == [calls[0] + i for i in range(6)]  # its hooks saw nothing but the six steps
    assert generate(model, prompts, max_new_tokens=6, stop_at_eos=False) == found  # and no second warning
    assert generate(model, prompts, max_new_tokens=6, stop_at_eos=False, use_cache=False) == found
    edit = Steering(random_direction(model.cfg.d_model, 1, 0), 2.0, units="relative", positions="generated")
    steered = [
        generate(model, prompts, steerings=edit, max_new_tokens=6, stop_at_eos=False, use_cache=use)
        for use in (True, False)
    ]
    assert steered[0] == steered[1]


@pytest.mark.parametrize("positions", ["all-but-first", "generated"])
def test_rows_that_have_ended_leave_the_batch(tiny: Any, positions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others come out as they do alone, steered or not."""
    verbs, nouns = ("helping", "robbing", "hitting"), ("team", "nurse", "baker")
    prompts = [f"{verb} the {noun}" for verb in verbs for noun in nouns]
    edit = Steering(random_direction(tiny.cfg.d_model, 1, 0), 1.0, units="relative", positions=positions)
    plain = generate(tiny, prompts, steerings=edit, max_new_tokens=10, stop_at_eos=False)
    first = {(token, one.ids.index(token)) for one in plain for token in one.ids}
    (end, _), *_ = Counter(token for token, _ in first).most_common()  # comes first in the most places
    monkeypatch.setattr(sys.modules[generate.__module__], "end_tokens", lambda model: [end])
    alone = [generate(tiny, [one], steerings=edit, max_new_tokens=10)[0] for one in prompts]
    rows, call = [], Cached.__call__

    def counted(self: Cached, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows.append(len(tokens))
        return call(self, tokens, mask)

    monkeypatch.setattr(Cached, "__call__", counted)
    assert generate(tiny, prompts, steerings=edit, max_new_tokens=10, batch_size=9) == alone
    assert rows == sorted(rows, reverse=True) and len(set(rows)) > 2
    assert sum(rows) == sum(min(len(one.ids) + one.finished, 10) for one in alone)


def test_a_cache_that_works_is_used(tiny: Any) -> None:
    calls = []
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_out", lambda hidden, hook: calls.append(hidden.shape[1]))]):
        generate(tiny, ["helping the team"], max_new_tokens=4, stop_at_eos=False)
    assert calls[1:] == [1, 1, 1] and cache_works(tiny)


def test_a_cache_that_fails_is_not_used(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = type(tiny).forward

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        if "past_key_values" in options:
            raise TypeError("no such argument")
        return run(self, *args, **options)

    monkeypatch.setattr(type(tiny), "forward", forward)
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_out", lambda hidden, hook: None)]):
        with pytest.warns(SaeMoralWarning, match=r"fails with its KV cache \(no such argument\)"):
            assert len(generate(tiny, ["helping"], max_new_tokens=3, stop_at_eos=False)[0].ids) == 3


class TestTheWrappedModelItself:
    """Of a bridge that nothing is hooked into the model that it wraps runs, and gives the same."""

    @pytest.mark.parametrize("positions", OF_PROMPTS)
    def test_it_gives_what_the_bridge_gives(self, tiny: Any, positions: str) -> None:
        options = {"steerings": steerings(positions), "max_new_tokens": 10, "stop_at_eos": False}
        alone = generate(tiny, PROMPTS, **options)
        with tiny.hooks(fwd_hooks=[("blocks.1.hook_out", lambda hidden, hook: None)]):
            assert generate(tiny, PROMPTS, **options) == alone

    def test_it_runs_by_itself(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        generate(tiny, PROMPTS, max_new_tokens=1)  # compared once
        calls = forwards(tiny, monkeypatch)
        generate(tiny, PROMPTS, steerings=steerings(), max_new_tokens=3, stop_at_eos=False)
        assert calls == ["transformers"] * 3

    @pytest.mark.parametrize("where", ["hook point", "module"])
    def test_not_where_something_is_hooked_into_the_bridge(
        self, tiny: Any, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        seen: list[int] = []
        calls = forwards(tiny, monkeypatch)
        options = {"max_new_tokens": 3, "stop_at_eos": False}
        if where == "hook point":
            with tiny.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", lambda value, hook: seen.append(1))]):
                generate(tiny, PROMPTS, **options)
        else:
            handle = tiny.blocks[0].mlp.register_forward_hook(lambda module, given, output: seen.append(1))
            generate(tiny, PROMPTS, **options)
            handle.remove()
        assert seen and "bridge" in calls

    def test_not_where_weights_that_the_bridge_holds_were_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_random("GPT-NeoX, parallel blocks", tmp_path / "model")
        model: Any = load_model(tmp_path / "model", device="cpu")
        options = {"max_new_tokens": 6, "stop_at_eos": False}
        before = generate(model, [[5, 9, 14]], **options)
        calls = forwards(model, monkeypatch)
        with torch.no_grad():  # a copy: transformers has query, key and value in one projection
            model.blocks[0].attn.q.weight.mul_(-3)
        after = generate(model, [[5, 9, 14]], **options)
        assert calls.count("bridge") > 6 and after != before
        assert after == generate(model, [[5, 9, 14]], use_cache=False, **options)

    def test_a_hook_of_a_steering_that_never_fires_is_an_error(self, tiny: Any) -> None:
        with pytest.raises(RuntimeError, match="never fired"):
            with steer_unwrapped(tiny, steerings()):
                pass
        assert len(generate(tiny, ["helping"], max_new_tokens=1)) == 1  # everything is back in its place


def test_plain_texts_begin_with_one_bos(tiny: Any) -> None:
    bos = tiny.tokenizer.bos_token_id
    (once,), (given,) = prompt_ids(tiny, ["hitting the team"]), prompt_ids(tiny, ["<s>hitting the team"])
    assert once == given and once.count(bos) == 1 and once[0] == bos
    assert prompt_ids(tiny, ["hitting the team"], bos="tokenizer") == [once[1:]]
    assert prompt_ids(tiny, [[7, 8]]) == [[7, 8]]


def test_chats_go_through_the_template_once(tiny: Any) -> None:
    turns = [{"role": "helping", "content": "the team"}, {"role": "hitting", "content": "two strangers"}]
    with pytest.raises(ValueError, match="has no chat template"):
        prompt_ids(tiny, [turns])
    with pytest.raises(ValueError, match="has no chat template"):
        prompt_ids(tiny, ["the team"], chat=True)
    assert prompt_ids(tiny, [turns, "the team"], chat="auto") == prompt_ids(
        tiny, ["the team two strangers", "the team"]
    )
    tiny.tokenizer.chat_template = CHAT
    tokens = lambda text: tiny.tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    expected = tokens("<s>helping : the team hitting : two strangers the")
    assert prompt_ids(tiny, [turns]) == prompt_ids(tiny, [turns], chat="auto") == [expected]
    assert expected.count(tiny.tokenizer.bos_token_id) == 1
    assert prompt_ids(tiny, ["the team"], chat="auto") == [tokens("<s>user : the team the")]
    assert prompt_ids(tiny, ["the team"], chat=True, thinking=True) == [tokens("<s>user : the team the tired")]
    assert prompt_ids(tiny, ["the team"]) == [tokens("<s>the team")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; expected more than 0 and at most 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected 1 or more"),
        ({"chat": "always"}, "chat is 'always'; expected True, False or 'auto'"),
        ({"bos": "prepnd"}, "unknown bos 'prepnd'; did you mean 'prepend'"),
    ],
)
def test_bad_settings_are_refused(tiny: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tiny, ["helping"], **options)


def test_bad_prompts_are_named(tiny: Any) -> None:
    with pytest.raises(DataError, match=r"row 2: a prompt of 61 tokens with 4 to come is longer than .* context of 64"):
        generate(tiny, ["helping", "helping " * 60], max_new_tokens=4)
    with pytest.raises(DataError, match="row 1: a prompt without a token"):
        generate(tiny, [[]])
    assert generate(tiny, [], steerings=steerings()) == []


@pytest.fixture(scope="module")
def hooked_gemma() -> Any:
    folder = bundled("gemma-3-270m")
    return transformer_lens_3().HookedTransformer.from_pretrained_no_processing(
        "google/gemma-3-270m",
        hf_model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )


@pytest.mark.slow
def test_real_models(gemma: Any, hooked_gemma: Any, smollm2: Any) -> None:
    prompts = ["Robbing a bank is", "The mayor of the town said that", "水在一百度"]
    make: Callable[[Any], list[Steering]] = lambda model: [  # noqa: E731
        Steering(random_direction(model.cfg.d_model, layer, 0), 0.2, units="relative", positions="generated")
        for layer in (3, 9)
    ]
    for model in (gemma, smollm2):
        options = {"steerings": make(model), "max_new_tokens": 12}
        alone = [generate(model, [prompt], use_cache=False, **options)[0] for prompt in prompts]
        assert generate(model, prompts, **options) == alone
    assert generate(hooked_gemma, prompts, steerings=make(gemma), max_new_tokens=12) == generate(
        gemma, prompts, steerings=make(gemma), max_new_tokens=12
    )


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["all-but-first", "generated"])
def test_logits_of_a_real_model_agree(smollm2: Any, positions: str) -> None:
    """Two operations at two layers: batched with a cache and one by one without are the same to 1e-4."""
    d = smollm2.cfg.d_model

    def make(positions: str) -> list[Steering]:
        operations = [operated(random_sae("jumprelu", layer=layer, d=d)) for layer in (3, 15)]
        return [Steering(one, 0.05, units="relative", positions=positions) for one in operations]

    rows = prompt_ids(smollm2, ["Robbing a bank is", "The mayor of the town said that", "Water boils"])
    new = [[5, 900, 1400], [333, 20, 7777], [11, 1111, 40]]
    batched = logits(smollm2, positions, rows, True, new, make)
    pairs = list(zip(rows, new, strict=True))
    alone = torch.cat([logits(smollm2, positions, [row], False, [tokens], make) for row, tokens in pairs])
    torch.testing.assert_close(batched.log_softmax(-1), alone.log_softmax(-1), atol=1e-4, rtol=1e-4)
    plain = logits(smollm2, positions, rows, True, new, lambda _: [])
    assert (plain - batched).abs()[:, -1].amax() > 0.05


def test_attention_is_fused_while_the_wrapped_model_runs_and_written_out_again_behind_it(tiny: Any) -> None:
    config = tiny.original_model.config
    assert config._attn_implementation == "eager"
    with pytest.raises(RuntimeError, match="on the way"), fused_attention(tiny.original_model):
        assert config._attn_implementation == "sdpa"
        raise RuntimeError("on the way")
    assert config._attn_implementation == "eager"
    generate(tiny, ["helping the team"], max_new_tokens=2)
    assert config._attn_implementation == "eager"


def test_attention_that_was_chosen_or_has_no_fused_kernel_stays(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny.original_model), "_supports_sdpa", False)
    with fused_attention(tiny.original_model):
        assert tiny.original_model.config._attn_implementation == "eager"
    with fused_attention(torch.nn.Linear(1, 1)):
        pass
