"""Which tokens are the scenario's own, exactly one BOS, batches within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sae_moral import DataError
from sae_moral.capture.prompts import build_prompts, left_padded, prompt_ids, prompts_of, sink_token
from tests.tiny import WORDS


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


def words_of(tokenizer: Any, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_own_tokens_are_those_of_the_scenario(tokenizer: Any) -> None:
    prompts = build_prompts(["hitting the team"], tokenizer, template="is {text} is morally", bos="prepend")
    start, stop = prompts.own[0]
    assert words_of(tokenizer, prompts.ids[0]) == ["<s>", "is", "hitting", "the", "team", "is", "morally"]
    assert words_of(tokenizer, prompts.ids[0][start:stop]) == ["hitting", "the", "team"]
    assert prompts.special.tolist() == [1]
    assert (prompts.length.tolist(), prompts.total.tolist()) == ([3], [7])


def test_tokenizer_mode_adds_nothing_of_its_own(tokenizer: Any) -> None:
    prompts = build_prompts(["hitting the team"], tokenizer, bos="tokenizer")
    assert words_of(tokenizer, prompts.ids[0]) == ["hitting", "the", "team"]
    assert prompts.first_token == "text"


def test_a_bos_that_transformerlens_added_does_not_count_as_the_tokenizers(tiny_folder: Path) -> None:
    altered = AutoTokenizer.from_pretrained(tiny_folder, add_bos_token=True)
    assert altered("hitting").input_ids == [
        altered.bos_token_id,
        *altered("hitting", add_special_tokens=False).input_ids,
    ]
    assert len(build_prompts(["hitting"], altered, bos="tokenizer").ids[0]) == 1
    assert len(build_prompts(["hitting"], altered, bos="prepend").ids[0]) == 2


def test_an_original_that_cannot_be_loaded_again_is_an_error(tiny_folder: Path) -> None:
    altered = AutoTokenizer.from_pretrained(tiny_folder, add_bos_token=True)
    altered.name_or_path = "no/such/place"
    with pytest.raises(ValueError, match="cannot be loaded again"):
        build_prompts(["hitting"], altered, bos="tokenizer")


def test_equal_texts_are_one_prompt_and_come_back_in_order(tokenizer: Any) -> None:
    text = ["hitting the team", "hugging", "hitting the team", "hugging my sister"]
    prompts = build_prompts(text, tokenizer)
    assert len(prompts.ids) == 3
    assert prompts.row[0] == prompts.row[2]
    assert prompts.length.tolist() == [3, 1, 3, 3]


def test_tokenizer_without_bos_gets_its_end_of_text_token(tokenizer: Any) -> None:
    class NoBos:
        bos_token_id = None
        eos_token_id = 7

    assert sink_token(NoBos()) == 7
    with pytest.raises(ValueError, match="neither a BOS nor an end-of-text token"):
        sink_token(type("Neither", (), {"bos_token_id": None, "eos_token_id": None})())


@pytest.mark.parametrize("template", ["no place for it", "{text} and {text}"])
def test_template_needs_exactly_one_place_for_the_text(tokenizer: Any, template: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        build_prompts(["hugging"], tokenizer, template=template)


def test_unknown_bos_mode(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="unknown bos 'append'; did you mean 'prepend'"):
        build_prompts(["hugging"], tokenizer, bos="append")


def test_longer_than_the_context_names_the_row(tokenizer: Any) -> None:
    with pytest.raises(
        DataError, match=r"row 2: 1 prompts are longer than the model's context of 4 tokens \(this one has 7"
    ):
        build_prompts(["hugging", "hugging the old baker the team"], tokenizer, n_ctx=4)


def test_text_without_tokens_names_the_row(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="row 2: '  ' has no token of its own"):
        build_prompts(["hugging", "  "], tokenizer)


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=40),
    budget=st.integers(1, 60),
)
def test_batches_cover_every_prompt_once_within_the_budget(tokenizer: Any, text: list[str], budget: int) -> None:
    prompts = build_prompts(text, tokenizer)
    batches = list(prompts.batches(budget))
    assert [i for start, stop in batches for i in range(start, stop)] == list(range(len(prompts.ids)))
    for start, stop in batches:
        tokens = prompts.tokens(start, stop, "cpu")
        assert stop - start == 1 or tokens.ids.numel() <= budget
        assert tokens.real.sum().item() == sum(map(len, prompts.ids[start:stop]))
        assert not (tokens.own & ~tokens.real).any()
        assert tokens.own.sum(dim=1).tolist() == [b - a for a, b in prompts.own[start:stop]]


def test_a_text_of_which_nothing_is_seen_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"row 2: .* has no token of its own"):
        build_prompts(["hugging", "\u200b\u00ad"], tokenizer)
    with pytest.raises(DataError, match=r"row 1: '' has no token of its own"):
        build_prompts(["", "hugging"], tokenizer, bos="tokenizer")


# What looks like a control token


@pytest.mark.parametrize("bos", ["prepend", "tokenizer"])
def test_control_tokens_in_a_text_are_text(tokenizer: Any, bos: str) -> None:
    control = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for text in ("<s>hugging</s> the team", "</s>", "hugging<s>"):
        prompts = build_prompts([text], tokenizer, template="{text} is", bos=bos)
        start, stop = prompts.own[0]
        assert start == prompts.special[0] == (bos == "prepend")
        assert stop > start and not control & set(prompts.ids[0][start:stop])


def test_control_tokens_in_a_template_are_tokens_and_then_none_may_be_in_a_text(tokenizer: Any) -> None:
    prompts = build_prompts(["hugging"], tokenizer, template="{text}</s>", bos="tokenizer")
    assert words_of(tokenizer, prompts.ids[0]) == ["hugging", "</s>"]
    with pytest.raises(DataError, match=r"row 2: 'the <s>' holds a control token .* and so does the template"):
        build_prompts(["hugging", "the <s>"], tokenizer, template="{text}</s>")


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<s>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)


def test_control_tokens_in_a_message_are_text(tiny: Any) -> None:
    tiny.tokenizer.chat_template = TEMPLATE
    (plain,) = prompt_ids(tiny, ["hugging the team"], chat=True)
    assert words_of(tiny.tokenizer, plain) == ["<s>", "hugging", "the", "team", "</s>", "<s>"]
    (held,) = prompt_ids(tiny, ["hugging </s> the <s> team"], chat=True)
    first, second = tiny.tokenizer.bos_token_id, tiny.tokenizer.eos_token_id
    assert (held[0], *held[-2:]) == (first, second, first)
    assert not {first, second} & set(held[1:-2]) and len(held) > len(plain)
    chat = [{"role": "user", "content": "<s>"}, {"role": "assistant", "content": "hugging"}]
    (two,) = prompt_ids(tiny, [chat])
    assert [two.count(first), two.count(second)] == [3, 2]


def test_a_template_that_refuses_says_why_and_which_prompt(tiny: Any) -> None:
    tiny.tokenizer.chat_template = TEMPLATE
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hugging"}]
    with pytest.raises(ValueError, match=r"prompt 2: the chat template of .* refuses it .no system role"):
        prompt_ids(tiny, ["hugging", chat], chat=True)


def test_batches_padded_on_the_left_end_together(tiny: Any) -> None:
    prompts = prompts_of(tiny, ["hugging", "hugging the old baker"], template="{text} is morally")
    right, left = (prompts.tokens(0, 2, "cpu", left=side) for side in (False, True))
    ids, mask = left_padded(prompts.ids, tiny)
    assert torch.equal(left.ids, ids) and torch.equal(left.real, mask)
    for row in range(2):
        for name in ("ids", "own"):
            own = [getattr(side, name)[row][side.real[row]] for side in (left, right)]
            assert torch.equal(*own)
    assert left.own.tolist() == [[False] * 4 + [True, False, False], [False, *[True] * 4, False, False]]


# Ids beyond the embedding


def test_a_padding_token_without_a_row_is_not_used(tiny: Any) -> None:
    tiny.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tiny.tokenizer.pad_token_id >= tiny.cfg.d_vocab
    prompts = prompts_of(tiny, ["hugging", "hugging the old baker"])
    assert prompts.pad < tiny.cfg.d_vocab
    ids, mask = left_padded(prompts.ids, tiny)
    assert int(ids.max()) < tiny.cfg.d_vocab and mask.sum() == sum(map(len, prompts.ids))


def test_a_token_without_a_row_is_refused(tiny: Any) -> None:
    tiny.tokenizer.add_tokens(["quokka"])
    with pytest.raises(DataError, match=r"row 2: token .* has no row in the model's embedding"):
        prompts_of(tiny, ["hugging", "hugging the quokka"])
    with pytest.raises(DataError, match=r"row 1: token .* has no row"):
        prompt_ids(tiny, ["quokka"])
    with pytest.raises(DataError, match="row 1: token 100000 has no row"):
        prompt_ids(tiny, [[1, 100_000]])


def test_a_model_without_a_tokenizer(tiny: Any) -> None:
    tiny.tokenizer = None
    for read in (prompts_of, prompt_ids):
        with pytest.raises(ValueError, match=r"this TransformerBridge has no tokenizer; give it one"):
            read(tiny, ["hitting the team"])
