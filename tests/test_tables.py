"""One table for pages, Markdown and the terminal."""

from __future__ import annotations

from markupsafe import Markup

from sae_moral.report.words import MISSING, number
from sae_moral.tables import Table, html_table, markdown_table, table, text_table


def made() -> Table:
    rows = [("a|b", 0.5), ("<c>", None)]
    return table(rows, {"name": lambda r: r[0]}, {"value": lambda r: number(r[1]), "p": lambda r: MISSING})


def test_columns_without_any_number_are_left_out_and_listed() -> None:
    assert made() == Table(["name", "value"], [["a|b", "0.500"], ["<c>", MISSING]], 1, ["p"])
    kept = table([1], {"name": str}, {"value": lambda r: MISSING}, always=("value",))
    assert kept.header == ["name", "value"] and kept.left_out == []


def test_html_escapes_all_but_markup() -> None:
    html = html_table(made(), "cap<tion", kinds=["", "missed"], compact=True)
    assert '<tr><th scope="row">a|b</th><td>0.500</td></tr>' in html
    assert f'<tr class="missed"><th scope="row">&lt;c&gt;</th><td>{MISSING}</td></tr>' in html
    assert "<caption>cap&lt;tion</caption>" in html and '<table class="compact">' in html
    linked = html_table(Table(["n"], [[Markup("<a href='#x'>y</a>")]]))
    assert "<a href='#x'>y</a>" in linked
    assert '<td colspan="2">nothing</td>' in html_table(Table(["a", "b", "c"], [["x", "nothing"]]))
    assert '<button type="button">value</button>' in html_table(made(), sortable=True)


def test_markdown_keeps_bars_apart() -> None:
    assert markdown_table(made()) == f"| name | value |\n|---|--:|\n| a\\|b | 0.500 |\n| <c> | {MISSING} |"


def test_the_terminal_aligns_numbers_right_and_words_left() -> None:
    rows = [["metric", "best", "p", "verdict"], ["one", "−0.25", "<0.001", "found"], ["longer", "12", MISSING, ""]]
    assert text_table([*rows, ["third", "0.5", "could not be computed"]]).splitlines() == [
        "metric   best       p  verdict",
        "one     −0.25  <0.001  found",
        "longer     12       –",
        "third     0.5  could not be computed",
    ]
    assert text_table([]) == "" and text_table([["only"]]) == "only"


def test_sentences_go_on_below_themselves_where_the_terminal_ends() -> None:
    rows = [
        ["name", "n", "meaning"],
        ["one", "12", "a sentence of several words"],
        ["", "a note over the rest of the line"],
    ]
    assert text_table(rows, 34).splitlines() == [
        "name   n  meaning",
        "one   12  a sentence of several",
        "          words",
        "      a note over the rest of the",
        "      line",
    ]
    assert text_table(rows, 30).splitlines()[1:3] == [  # too little is left for a sentence
        "one   12  a sentence of several words",
        "      a note over the rest of",
    ]
    assert text_table([["n"], ["1"]], 24) == text_table([["n"], ["1"]])
