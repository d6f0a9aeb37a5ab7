"""What was drawn, read back from a figure; and a page, parsed."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

VOID = {"meta", "input", "br", "link", "img"}


def line(axes: Axes, label: str) -> Line2D:
    """The one line with this label."""
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return found


def data(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    """x and y of the line with this label."""
    one = line(axes, label)
    return list(np.asarray(one.get_xdata())), list(np.asarray(one.get_ydata(), dtype=float))


def draw(figure: Figure) -> Figure:
    """Lay the figure out, as saving it would."""
    figure.draw_without_rendering()
    return figure


class Page(HTMLParser):
    """Checks that every tag is closed in order; collects tags, attributes, ids and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def words(self) -> str:
        """The visible text, one space between words."""
        return " ".join(" ".join(self.text).split())

    def ids(self) -> list[str]:
        """Every id in the page."""
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]
