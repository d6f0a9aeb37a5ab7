"""Figures as files for papers and slides: text stays text, and equal figures give equal bytes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral import io
from sae_moral.errors import unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
RESOLUTION = 300
_AS_TEXT: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "sae-moral"}
"""TrueType in PDF, as publishers ask for; letters in SVG; names of its parts that are the same every time."""
_NO_DATE: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def format_of(path: str | Path, format: str | None = None) -> str:
    """The format of a figure's file: `format`, else what the name ends with.

    Raises:
        ValueError: none of `FORMATS`, or a name that ends with another of them.
    """
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower()
    if format is None and not suffix:
        raise ValueError(f"{path} does not say its format; expected a name that ends with .{', .'.join(FORMATS)}")
    chosen = suffix if format is None else format
    if chosen not in FORMATS:
        raise unknown("figure format", chosen, FORMATS)
    if suffix in FORMATS and suffix != chosen:
        raise ValueError(f"the format {chosen} and a file that ends with .{suffix}; expected one of them, or the same")
    return chosen


def save_figure(figure: Figure, path: str | Path, *, format: str | None = None, resolution: int = RESOLUTION) -> Path:
    """Write a figure, whole or not at all, and return its path.

    Args:
        figure: any matplotlib figure.
        path: the file; missing folders are made.
        format: png, svg or pdf; by default what the name of the file ends with.
        resolution: of a PNG, in dots per inch.

    Raises:
        ValueError: another format, one that contradicts the file's name, or a resolution out of reach.
        OSError: it cannot be written; an older file stays as it was.
    """
    import matplotlib

    path, chosen = Path(path), format_of(path, format)
    if not 50 <= resolution <= 2400:
        raise ValueError(f"resolution {resolution}; expected 50 to 2400 dots per inch, e.g. {RESOLUTION}")
    with matplotlib.rc_context(_AS_TEXT), warnings.catch_warnings(), io.staged(path) as temporary:
        if chosen == "svg":  # whoever shows it draws the letters, whatever the font of the layout lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(temporary, format=chosen, dpi=resolution, metadata=_NO_DATE[chosen])
    return path
