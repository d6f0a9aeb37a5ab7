"""What a judge's reply says in its own words: no reasoning, no control tokens, no decoration.

Whatever is typography is taken away once, here: compatibility forms (full-width letters), characters that are not seen,
reasoning, control tokens, tags and signs of markdown. Reasoning is never read: what stands in a block that was not
closed, or before the end of a block without a beginning, is none of the reply.
"""

from __future__ import annotations

import re
import unicodedata

from sae_moral.data.text import visible

_CONTROL = re.compile(
    r"<[|｜]?[^<>|｜\s]{1,40}[|｜]>|<[|｜][^<>|｜\s]{1,40}>"  # <|im_end|>, <|turn>, <turn|>
    r"|</?s>|<(?:bos|eos|pad|unk|eo[ahst]|unused\d+|(?:start|end)_of_\w{1,20})>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)
_TURN = re.compile(rf"(?:(?:{_CONTROL.pattern})\s*){{2,}}", re.IGNORECASE)
"""One turn ends and another begins: a model that is not stopped goes on to write both sides."""
_REASONING = re.compile(
    r"<\s?\|?(?P<end>/\s?|end_(?:of_)?)?(?:(?:begin|start)_(?:of_)?|\w{1,12}:)?"  # <think>, <|begin_of_thought|>
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|rationale|scratchpad|cot)\b[^<>\n]{0,40}>"
    r"|\[(?P<end_2>/)?THINK\]|◁(?P<end_3>/)?think▷|<\|channel>\s*\w+|(?P<end_4><channel\|>)|<unused94>|(?P<end_5><unused95>)",
    re.IGNORECASE,
)
"""Where it begins and, with one of the groups, ends."""
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^\n<]{0,40}(?:<\|constrain\|>\s*\w+\s*)?(?:<\|message\|>)?")
"""OpenAI's harmony: `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`."""
_BARE_CHANNEL = re.compile(r"\s*(?:analysis|commentary)(?=\w)(?:.*assistantfinal|.*)", re.DOTALL)
"""The same after a server has left its control tokens out."""
_MARKUP = re.compile(
    r"</?(?:b|i|u|em|strong|mark|code|pre|p|br|span|answer|verdict|final|result|output|json)\b[^<>\n]{0,40}>"
    r"|[*_`#]|~{3,}",
    re.IGNORECASE,
)


def as_text(text: str) -> str:
    """A text in which nothing is a control token (`<|im_end|>`, `</s>`): a space stands after the first sign of each.

    The servers of local models read control tokens in a message as such; a judge could be made to believe that its turn
    had begun, and what it had said.
    """
    return _CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def lines_of(reply: str) -> list[str]:
    """The lines of a reply that say something, in its own words (see above); none if it never ended its reasoning."""
    text = _answer(visible(unicodedata.normalize("NFKC", reply)))
    turn = next((part for part in _TURN.split(text) if part.strip() not in ("", "assistant", "model")), "")
    lines = (line.strip() for line in _MARKUP.sub("", _CONTROL.sub("", turn)).splitlines())
    return [line for line in lines if re.search(r"[\w{}]", line)]


def _answer(text: str) -> str:
    """What stands outside of reasoning."""
    if channels := list(_CHANNEL.finditer(text)):
        final = [found.end() for found in channels if found[1] == "final"]
        text = text[final[-1] :] if final else ""
    if bare := _BARE_CHANNEL.match(text):
        text = text[bare.end() :]
    kept, depth, after = "", 0, 0
    for tag in _REASONING.finditer(text):
        if depth == 0:
            kept += text[after : tag.start()]
        after = tag.end()
        if tag[0].endswith("/>"):
            continue
        if not any(tag.groups()):
            depth += 1
        elif depth:
            depth -= 1
        else:
            kept = ""  # an end without a beginning, which some chat templates write themselves
    return kept + text[after:] if depth == 0 else ""
