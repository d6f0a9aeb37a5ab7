"""A chat template as a prompt for reading scenarios."""

from __future__ import annotations

from typing import Any

import pytest

from sae_moral.capture.chat import chat_prompt, message_of
from sae_moral.capture.prompts import prompt_ids, prompts_of
from sae_moral.errors import DataError

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "is {{ m.content | trim }}</s>{% endfor %}{% if add_generation_prompt %}<s>morally{% endif %}"
)


@pytest.fixture
def chatty(tiny: Any) -> Any:
    tiny.tokenizer.chat_template = TEMPLATE
    return tiny


def test_settings() -> None:
    assert message_of("chat") == message_of("chat:") == "{text}"
    assert message_of("chat: is it right? {text}") == "is it right? {text}"
    assert message_of("{text} is morally") is None
    assert message_of("chatting about {text}") is None
    for wrong in ("chat: no place", "chat: {text} {text}", "chats", "is morally"):
        with pytest.raises(ValueError, match="exactly one"):
            message_of(wrong)


@pytest.mark.parametrize("message", ["{text}", "the team {text} morally"])
def test_prompts_are_those_of_a_chat_and_own_tokens_the_scenarios(chatty: Any, message: str) -> None:
    """The same ids as when the message itself goes through the template, no BOS added to that which the template has,
    and only the scenario's tokens are its own."""
    texts = ["hugging the old baker", "robbing two strangers"]
    prompts = prompts_of(chatty, texts, template=chat_prompt(chatty.tokenizer, message), bos="none")
    whole = prompt_ids(chatty, [message.format(text=text) for text in texts], chat=True)
    alone = chatty.tokenizer(texts, add_special_tokens=False).input_ids
    for i, row in enumerate(prompts.row):
        ids, (start, stop) = prompts.ids[row], prompts.own[row]
        assert ids == whole[i]
        assert ids[start:stop] == alone[i]
    assert prompts.first_token == "<s>"


def test_a_control_token_in_a_scenario_is_refused(chatty: Any) -> None:
    with pytest.raises(DataError, match=r"row 2: .* holds a control token"):
        prompts_of(chatty, ["hugging", "the </s> team"], template=chat_prompt(chatty.tokenizer), bos="none")


def test_templates_that_cannot_be_used(tiny: Any) -> None:
    with pytest.raises(ValueError, match="has no chat template"):
        chat_prompt(tiny.tokenizer)
    tiny.tokenizer.chat_template = "{{ raise_exception('not today') }}"
    with pytest.raises(ValueError, match=r"refuses a user's message .not today"):
        chat_prompt(tiny.tokenizer)
    tiny.tokenizer.chat_template = "{{ 1 + 'a' }}"
    with pytest.raises(ValueError, match=r"refuses a user's message .unsupported operand"):
        chat_prompt(tiny.tokenizer)
    for template, n in (("nothing", 0), ("{{ messages[0].content }} or {{ messages[0].content }}", 2)):
        tiny.tokenizer.chat_template = template
        with pytest.raises(ValueError, match=f"message {n} times"):
            chat_prompt(tiny.tokenizer)
