"""Numbers as a reader should see them. What was not computed is an en dash, never 0 and never a float's own word."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from sae_moral.tables import MISSING

WIDTH = 120
"""Of a terminal, in characters."""
WORDS_BASELINE = "bag of words"
CONTROLS = {
    "interval": "intervals",
    "null": "permuted labels",
    "nuisance": "nuisance",
    "words": WORDS_BASELINE,
    "valence": "valence",
    "embeddings": "input embeddings",
    "random-weights": "random weights",
    "selectivity": "labels within opening words",
    "learning-curve": "learning curve",
}
"""A control's name in `Controls.names` → what pages and tables call it; a baseline's name is that in comparisons."""
AT_THIS_N = (
    "Values and intervals are those of readers fitted on this many scenarios. Readers fitted on more find more; fitted "
    "on as many in wider vectors, they find less of what is there."
)
"""What every number that was fitted estimates."""
BADGES: dict[str, tuple[str, str]] = {
    "found": ("✓", "good"),
    "beyond chance": ("›", "weak"),
    "words": ("=", "weak"),
    "valence": ("=", "weak"),
    "untrained": ("=", "weak"),
    "nuisance": ("=", "weak"),
    "length": ("!", "alarm"),
    "empty": ("∅", "none"),
    "not shown": ("?", "none"),
    "not testable": ("×", "none"),
    "not tested": ("–", "none"),
}
"""A verdict's word → sign and tone of its badge. What the words mean is in `sae_moral.controls.verdict.WORDS`."""


def number(value: Any) -> str:
    """A number with three decimals (whole numbers and large ones without), a true minus sign, MISSING for None/NaN."""
    if value is None or isinstance(value, bool):
        return MISSING if value is None else "yes" if value else "no"
    try:
        real = float(value)
    except (TypeError, ValueError):
        return str(value)
    if math.isnan(real):
        return MISSING
    if math.isinf(real):
        return "∞" if real > 0 else "−∞"
    if abs(real) >= 1000 or (isinstance(value, int) and not isinstance(value, bool)):
        text = f"{real:,.0f}"
    elif real and abs(real) < 0.0005:
        text = f"{real:.1e}"
    else:
        text = f"{real:.3f}"
    return text.replace("-", "−")


def count(value: Any) -> str:
    """A count, without decimals."""
    return number(value if value is None or not math.isfinite(float(value)) else int(value))


def p_value(value: Any) -> str:
    """A p value with three decimals, `<0.001` below."""
    return "<0.001" if value is not None and 0 <= float(value) < 0.001 else number(value)


def p_words(value: Any) -> str:
    """`p = 0.005`, `p < 0.001`, `p not computed`."""
    if value is None:
        return "p not computed"
    text = p_value(value)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def signed(value: Any) -> str:
    """A difference: `+0.040`, `−0.009`."""
    text = number(value)
    return text if text == MISSING or text.startswith("−") else f"+{text}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def interval(low: Any, high: Any) -> str:
    """`0.660 to 0.750`, or MISSING when either end is."""
    ends = [number(low), number(high)]
    return MISSING if MISSING in ends else " to ".join(ends)


def with_interval(value: Any, low: Any, high: Any) -> str:
    """`0.716 (0.519 to 0.836)`; a number without an interval alone."""
    ends = interval(low, high)
    return number(value) if ends == MISSING else f"{number(value)} ({ends})"


def detail(value: Any) -> str:
    """A provenance value in full precision: floats as Python writes them, None and NaN as `not computed`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not computed"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value) if math.isinf(value) else repr(value).replace("-", "−")
    return str(value)


def percent(share: float | None, digits: int = 3) -> str:
    """A share as `12.3 %`, with so many significant digits."""
    return MISSING if share is None else f"{100 * share:.{digits}g} %"


def wrapped(start: str, text: str, width: int = WIDTH) -> list[str]:
    """Lines for the terminal that begin with `start`; none for an empty text."""
    if not text:
        return []
    return textwrap.wrap(start + text, width, subsequent_indent=" " * min(len(start), 4), break_on_hyphens=False)
