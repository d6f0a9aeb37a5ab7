"""A model's chat template as a prompt for reading scenarios."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

CHAT = "chat"
_PLACE = "\ue000text\ue001"


def message_of(template: str) -> str | None:
    """The user's message, with `{text}` in it, of the setting `chat` or `chat: MESSAGE`; None for any other prompt.

    Raises:
        ValueError: not exactly one `{text}`.
    """
    message = template.removeprefix(CHAT).removeprefix(":").strip() or "{text}"
    chat = template == CHAT or template.startswith(f"{CHAT}:")
    if (message if chat else template).count("{text}") != 1:
        raise ValueError(
            f"template {template!r}; expected exactly one {{text}} in it, e.g. '{{text}} is morally' or "
            "'chat: Is this right or wrong? {text}'"
        )
    return message if chat else None


def chat_prompt(tokenizer: Any, message: str = "{text}") -> str:
    """The prompt that the model's own chat template makes of a user's message, up to where the assistant begins.

    Args:
        message: what the user says, with `{text}` where a scenario stands. In a causal model a question that comes
            after the scenario changes nothing in the scenario's own tokens.

    Returns:
        A template for `capture(..., template=..., bos="none")`: control tokens and BOS are written in it.

    Raises:
        ValueError: the model has no chat template, or one that refuses a single message of the user or does not write
            it exactly once.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(f"{tokenizer.name_or_path} has no chat template (a base model?); leave out template='chat'")
    messages = [{"role": "user", "content": message.replace("{text}", _PLACE)}]
    how: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        written = str(tokenizer.apply_chat_template(messages, **how))
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template of {tokenizer.name_or_path} refuses a user's message ({error})") from error
    if (n := written.count(_PLACE)) != 1:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} writes a user's message {n} times; expected once"
        )
    return written.replace(_PLACE, "{text}")
