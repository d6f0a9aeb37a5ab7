"""Texts as they are compared: what two typings of one scenario have in common, and the words of it."""

from __future__ import annotations

import re
import unicodedata

_SINGLE = "‘’‚‛‹›`´′‵ʹʻʼʽˈˊˋ΄´\x91\x92"
_DOUBLE = "“”„‟«»″‶〝〞〟ˮ\x93\x94"
_HYPHENS = "‐‑‒–−⁃﹣－֊᠆⹀゠\x96"
_RULES = "—―⸺⸻﹘︱︲〜〰\x97"
_TWINS = str.maketrans(
    {char: plain for chars, plain in ((_SINGLE, "'"), (_DOUBLE, '"'), (_HYPHENS, "-"), (_RULES, "—")) for char in chars}
)
"""What word processors put in the place of what keyboards have, and what code page 1252 read as Latin-1 makes of it."""
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # controls, but those that are white space
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Controls, and the characters of Unicode's property Default_Ignorable_Code_Point: soft hyphens, zero-width spaces and
joiners, marks of direction, selectors of variants. Format characters that are seen (Arabic number signs) stay."""
_DASHES = re.compile("[-—]*(?:--|—)[-—]*")
_OUTER = " .,;:!?\"'。、¿¡"
_STOPS = " \t\r\n\u3000.!…。．！"
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def normalise(text: str) -> str:
    """What two scenarios share if they are the same text: case folded, single spaces, no outer punctuation, and no
    difference that only typography makes. ("Don’t lie." and "don't  lie" are the same scenario.)

    Compatibility forms are those of Unicode's NFKC. Curly quotes, primes and accents that stand alone are straight
    quotes; every dash is a hyphen, a long one with spaces around it, as two hyphens are; what is not seen is left out.
    Joiners are left out in every script: in Persian and in scripts of India they choose a form, sometimes a spelling,
    and two texts that differ in nothing else are one scenario. Normalising twice changes nothing.
    """
    folded = _fold(text)
    while (again := _fold(folded)) != folded:  # what NFKC makes of one character may be another's twin
        folded = again
    return folded or " ".join(text.split()) or text


def visible(text: str) -> str:
    """What of it is seen: without controls and zero-width characters. White space stays."""
    return _UNSEEN.sub("", text)


def without_stop(text: str) -> str:
    """The text without its final stop, English or Chinese, for a sentence that goes on after it. Exclamation marks and
    an ellipsis count as stops; a question mark stays, as it is part of what is said. A text of stops alone stays.

    Example:
        without_stop("It's rude to hate priests.")  # "It's rude to hate priests"
    """
    return text.rstrip(_STOPS) or text


def is_blank(text: str) -> bool:
    """Whether nothing of it is seen: spaces, controls, zero-width characters."""
    return not visible(text).strip()


def _fold(text: str) -> str:
    if text.isascii():
        folded = text.casefold()
    else:
        folded = _UNSEEN.sub("", text.translate(_TWINS))
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).casefold())
    folded = _DASHES.sub(" - ", _UNSEEN.sub("", folded.translate(_TWINS)).replace("''", '"'))
    folded = " ".join(folded.split())
    return folded.strip(_OUTER) or folded


def words(text: str) -> list[str]:
    """A text's words, normalised: what spaces separate, and each Chinese or Japanese character (nothing does there)."""
    return _WORD.findall(normalise(text))
