"""Two texts, and where they differ."""

from __future__ import annotations

import difflib
import os
import re
import sys


def coloured() -> bool:
    """Whether standard output shows colours: a terminal that can, and no NO_COLOR (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def marked(plain: str, steered: str, *, colour: bool) -> str:
    """The steered text with the words that the unsteered one does not have there in bold, or between `[` and `]`; `…`
    stands where words are missing. Chinese is compared character by character."""
    before, after = _words(plain), _words(steered)
    opening, closing = ("\033[1;33m", "\033[0m") if colour else ("[", "]")
    parts = []
    for what, _, stop, first, last in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        text = "".join(after[first:last])
        if what == "equal":
            parts.append(text)
        elif what == "delete":
            parts.append(f"{opening}…{closing}" + (" " if before[stop - 1].endswith(" ") else ""))
        else:
            body = text.rstrip()
            parts.append(f"{opening}{body}{closing}{text[len(body) :]}")
    return "".join(parts)


def _words(text: str) -> list[str]:
    return re.findall(r"[\u3000-\u9fff\uff00-\uffef]\s?|[^\s\u3000-\u9fff\uff00-\uffef]+\s?|\s", flat(text))


def flat(text: str) -> str:
    """On one line."""
    return " ".join(text.split())
