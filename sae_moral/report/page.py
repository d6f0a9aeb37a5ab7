"""A page: one self-contained HTML file made of a title, facts, warnings and a list of sections; opens offline, in any
browser, on paper. And the blocks that bodies of sections are made of, as `Markup`: what they are given is escaped,
unless it is `Markup` itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from sae_moral.io import write_text
from sae_moral.report.svg import inline_svg
from sae_moral.report.words import count, detail
from sae_moral.tables import Table, html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 12
"""Lists in a tree with more entries are folded."""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        body: blocks, joined (`joined`).
        short: what the contents call it; the title by default.
        id: of its heading, for links; made of `short` by default, and kept unique.
        kind: a CSS class: `warnings` or `alarm`.
        listed: whether it is in the contents.
        folded: shut until its title is clicked: what few readers need.
    """

    title: str
    body: Markup
    short: str = ""
    id: str = ""
    kind: str = ""
    listed: bool = True
    folded: bool = False


def render_page(
    title: str,
    sections: Sequence[Section],
    *,
    kicker: str,
    facts: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    footer: str = "Written by sae_moral. An en dash marks what was not computed.",
    name: str = "",
) -> str:
    """The page as a string of HTML.

    Args:
        title: its heading.
        sections: in order; those of kind `alarm` come first.
        kicker: the line above the title: what kind of page it is.
        facts: the line under the title: name and value.
        warnings: what a reader must know first; a section of their own, before all others.
        footer: one sentence.
        name: of the browser's tab; kicker and title by default.
    """
    alarms = [section for section in sections if section.kind == "alarm"]
    others = [section for section in sections if section.kind != "alarm"]
    if warnings:
        others.insert(0, Section("Warnings", bullets(warnings), kind="warnings", listed=False))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(resource),
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(
        name=name or f"{kicker}: {Markup(title).striptags() if isinstance(title, Markup) else title}",
        title=title,
        kicker=kicker,
        facts=facts,
        sections=_named([*alarms, *others]),
        footer=footer,
        css=Markup(resource("report.css")),
        js=Markup(resource("report.js")),
    )


def write_page(path: str | Path, html: str, *, name: str = "report.html") -> Path:
    """Write a page, whole or not at all; returns its path.

    Args:
        path: the file; for an existing folder, `name` in it. Missing folders are made.
        html: from `render_page`.

    Raises:
        OSError: it cannot be written; an older page stays as it was.
    """
    path = Path(path)
    path = path / name if path.is_dir() else path
    write_text(path, html)
    return path


def resource(name: str) -> str:
    """The text of `report.css`, `report.js` or `page.html.j2`."""
    return resources.files("sae_moral.report").joinpath(name).read_text(encoding="utf-8")


# Blocks


def html(template: str, /, *values: Any, **named: Any) -> Markup:
    """HTML with `{}` for values, which are escaped."""
    return Markup(template).format(*values, **named)


def joined(parts: Iterable[str], between: str = "\n") -> Markup:
    """Blocks one after another."""
    return Markup(between).join(parts)


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph; nothing for an empty text. `kind`: a CSS class: `note`, `under` (small, below a table)."""
    return html("<p{}>{}</p>", _class(kind), text) if text else Markup("")


def heading(text: str, aside: str = "") -> Markup:
    """A heading inside a section, with a small grey word after it."""
    return html("<h3>{}{}</h3>", text, small(aside))


def small(text: str) -> Markup:
    """A grey word beside a heading; nothing for an empty text."""
    return html(' <span class="statistic">{}</span>', text) if text else Markup("")


def bullets(items: Iterable[str], kind: str = "") -> Markup:
    """A list."""
    return html("<ul{}>\n{}\n</ul>", _class(kind), joined(html("<li>{}</li>", item) for item in items))


def pairs(items: Iterable[tuple[str, str]], kind: str = "") -> Markup:
    """Names and what belongs to them: `kind` is `facts` (in a line), `marks`, `limits` or `meanings` (one per line)."""
    inside = joined(html("<div><dt>{}</dt><dd>{}</dd></div>", name, value) for name, value in items)
    return html("<dl{}>\n{}\n</dl>", _class(kind), inside)


def columns(items: Iterable[tuple[str, str]]) -> Markup:
    """Short texts with headings, side by side."""
    return html(
        '<div class="reading">\n{}\n</div>',
        joined(html("<div><h3>{}</h3><p>{}</p></div>", name, text) for name, text in items),
    )


def figure(made: Figure, *, prefix: str, label: str, caption: str = "") -> Markup:
    """A figure with its caption.

    Args:
        made: any matplotlib figure.
        prefix: unique within the page.
        label: what a screen reader says instead of the picture.
        caption: below it.
    """
    below = html("\n<figcaption>{}</figcaption>", caption) if caption else ""
    svg = inline_svg(made, prefix=prefix, label=label)
    return html('<figure><div class="panel">{}</div>{}</figure>', svg, below)


def data_table(
    made: Table,
    caption: str,
    *,
    hidden: bool = False,
    compact: bool = False,
    tall: bool = False,
    kinds: Sequence[str] = (),
) -> Markup:
    """A table that scrolls by itself where the page is narrow (`tall`: where it is long); else as `html_table`."""
    scroll = "scroll tall" if tall else "scroll"
    inside = html_table(made, caption, hidden=hidden, compact=compact, kinds=kinds)
    return html('<div class="{}">{}</div>', scroll, inside)


def folded(summary: str, body: str, *, printed: bool = False) -> Markup:
    """A body that opens on a click, and for a printer where it is to be `printed`."""
    kind = "more" if printed else "full"
    return html('<details class="{}"><summary>{}</summary>\n{}\n</details>', kind, summary, body)


def folded_table(made: Table, summary: str, caption: str, *, kinds: Sequence[str] = ()) -> Markup:
    """A long table that opens on a click, sorts by its columns and can be filtered; `kinds` as in `html_table`."""
    field = Markup(
        '<p><label>Filter <input type="search" class="filter" placeholder="harm 12"></label> '
        '<span class="shown" role="status"></span></p>'
    )
    inside = html(
        '<div class="scroll tall">{}</div>', html_table(made, caption, hidden=True, kinds=kinds, sortable=True)
    )
    left_out = f"Not computed for any row: {', '.join(made.left_out)}." if made.left_out else ""
    return folded(summary, joined([field, inside, paragraph(left_out, "left-out")]))


def tree(value: Any) -> Markup:
    """A JSON value as nested lists of names."""
    return html('<div class="tree">{}</div>', _branch(value))


def badge(word: str, sign: str, tone: str) -> Markup:
    """A verdict. `tone`: `good`, `weak`, `alarm` or `none`."""
    return html(
        '<span class="badge {}"><span class="visually-hidden">Verdict: </span>'
        '<span aria-hidden="true">{}</span> {}</span>',
        tone, sign, word,
    )  # fmt: skip


def card(title: str, number: str, body: str, *, href: str = "", kicker: str = "", aside: str = "") -> Markup:
    """One number large, and what belongs to it. `number` may hold a badge; `href`: where the title leads."""
    linked = html('<a href="{}">{}</a>', href, title) if href else escape(title)
    top = [paragraph(kicker, "kicker"), html("<h3>{}{}</h3>", linked, small(aside)), paragraph(number, "number")]
    return html('<article class="card">\n{}\n</article>', joined(part for part in [*top, body] if part))


def cards(made: Iterable[str]) -> Markup:
    """Cards side by side."""
    return html('<div class="cards">\n{}\n</div>', joined(made))


@dataclass(frozen=True)
class Mark:
    """One entry of a scale.

    Attributes:
        kind: how it is drawn: `value`, `interval`, `null`, `chance`, `baseline`, `nuisance`, `words`, `random`,
            `ceiling`; a CSS class.
        label: what it is called.
        words: what is said of it.
        low, high: its ends; equal for a point.
    """

    kind: str
    label: str
    words: str
    low: float
    high: float


def scale(marks: Sequence[Mark], *, ends: tuple[float, float] | None = None) -> Markup:
    """Numbers on one line, and below it each with its key, but for the value, which stands in the card already.

    Args:
        marks: drawn in this order.
        ends: of the line; those of the marks by default.
    """
    low, high = ends or (min(mark.low for mark in marks), max(mark.high for mark in marks))
    pad = 0.0 if ends else 0.05 * (high - low) or 1.0

    def at(value: float) -> str:
        return f"{100 * (min(max(value, low), high) - low + pad) / (high - low + 2 * pad):.2f}%"

    shapes = [html('<line class="axis" x1="0" x2="100%" y1="17" y2="17"/>')]
    for mark in marks:
        x, end = at(mark.low), at(mark.high)
        if mark.kind == "null":
            width = f"{float(end[:-1]) - float(x[:-1]):.2f}%"
            shapes.append(html('<rect class="null" x="{}" y="5" width="{}" height="24"/>', x, width))
        elif mark.kind == "interval":
            shapes.append(html('<line class="interval" x1="{}" x2="{}" y1="17" y2="17"/>', x, end))
        elif mark.kind == "value":
            shapes.append(html('<circle class="value" cx="{}" cy="17" r="5.5"/>', x))
        else:
            shapes.append(html('<line class="{}" x1="{}" x2="{}" y1="3" y2="31"/>', mark.kind, x, x))
    drawn = html(
        '<svg class="scale" width="100%" height="34" aria-hidden="true" focusable="false">\n{}\n</svg>', joined(shapes)
    )
    named = [(_key(mark.kind) + mark.label, mark.words) for mark in marks if mark.kind != "value"]
    return joined([drawn if len(marks) > 2 else Markup(""), pairs(named, "marks")])


def tokens(words: Iterable[tuple[str, float]]) -> Markup:
    """A text with each token coloured by its share (0 to 1) of the highest activation."""
    return joined(
        (
            html('<mark style="--on: {:.2f}" title="{:.0f} %">{}</mark>', 0.8 * share, 100 * share, word)
            if share > 0.05
            else escape(word)
            for word, share in words
        ),
        between="",
    )


# Details


def _named(sections: Iterable[Section]) -> list[Section]:
    """Sections with short titles and unique ids."""
    found: list[Section] = []
    taken = {"content"}  # the id of what the skip link leads to
    for section in sections:
        text = section.title.striptags() if isinstance(section.title, Markup) else section.title
        short = section.short or text
        wanted = section.id or re.sub(r"[^a-z0-9]+", "-", short.casefold()).strip("-") or "section"
        unique, i = wanted, 1
        while unique in taken:
            i += 1
            unique = f"{wanted}-{i}"
        taken.add(unique)
        found.append(replace(section, short=short, id=unique))
    return found


def _class(kind: str) -> Markup:
    return html(' class="{}"', kind) if kind else Markup("")


def _key(kind: str) -> Markup:
    shape = '<rect class="null" x="1" y="0" width="24" height="12"/>'
    if kind != "null":
        shape = html('<line class="{}" x1="1" x2="25" y1="6" y2="6"/>', kind)
    return html('<svg class="key" width="26" height="12" aria-hidden="true" focusable="false">{}</svg>', Markup(shape))


def _branch(value: Any) -> Markup:
    if isinstance(value, Mapping) and value:
        inside = joined(html("<div><dt>{}</dt><dd>{}</dd></div>", name, _branch(item)) for name, item in value.items())
        return html("<dl>\n{}\n</dl>", inside)
    if isinstance(value, Mapping | list | tuple):
        if not value:
            return Markup("none")
        items = joined((_branch(item) for item in value), between=", ")
        if len(value) > LONG:
            return html("<details><summary>{} entries</summary>{}</details>", count(len(value)), items)
        return items
    return escape(detail(value))
