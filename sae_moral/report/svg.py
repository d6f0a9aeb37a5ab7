"""A matplotlib figure as SVG markup that can stand inside an HTML page: no foreign ids, styles, comments or URLs."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_POINT = 1.68
"""Widest a figure is shown, so that a narrow one does not get larger letters than its neighbours."""

_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(figure: Figure, *, prefix: str, label: str) -> Markup:
    """The figure as one `<svg role="img">` element, scaled by its container.

    Text stays text (searchable, in the page's font). Every id starts with `prefix`, because ids of two inlined figures
    would clash; equal figures give equal markup.

    Args:
        figure: any matplotlib figure.
        prefix: unique within the page.
        label: what a screen reader says instead of the picture.
    """
    import matplotlib

    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        # The reader's browser draws the text, whatever glyphs the layout font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="svg", metadata=nothing)
    root = ElementTree.fromstring(stream.getvalue())
    _clean(root, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    widest = figure.get_figwidth() * 72 * PIXELS_PER_POINT
    root.attrib.update({"role": "img", "aria-label": label, "style": f"max-width: {widest:.0f}px"})
    return Markup(ElementTree.tostring(root, encoding="unicode", method="xml"))  # escaped by the serialiser


def _clean(element: ElementTree.Element, prefix: str) -> None:
    """Drop namespaces, metadata and `<style>` (it would restyle the page); prefix ids and references to them."""
    element.tag = element.tag.rpartition("}")[2]
    element.attrib = {
        name.rpartition("}")[2]: _prefixed(name.rpartition("}")[2], value, prefix)
        for name, value in element.attrib.items()
        if not name.endswith("}space")
    }
    for child in list(element):
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            element.remove(child)
        else:
            _clean(child, prefix)


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href" and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    if name == "style":
        value = _FAMILY.sub("", value)  # the page's own font, which every reader has
    return _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
