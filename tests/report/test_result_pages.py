"""Pages of a training, an operation and compared SAEs: the first sentences say what the numbers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_moral.sae import train_page
from sae_moral.studies import compared_page
from sae_moral.surgery import page
from tests.report.made import change, compared, recorded, trained


def test_a_training_says_what_is_explained_of_held_out_vectors(tmp_path: Path) -> None:
    said = train_page.answers(trained(tmp_path).results)
    assert said[0] == (
        "The 2 SAEs explain 80 % to 90 % of the variance of held-out vectors (70 % per dimension), measured on 2,335 "
        "of them."
    )
    assert "5.0 points more per dimension" in said[1] and said[2] == "5 % of the latents are dead."
    assert "keep 99 % of the next token's loss" in said[3]


def test_a_training_of_vectors_that_do_not_vary_has_no_numbers_to_give(tmp_path: Path) -> None:
    side: Any = {"explained_variance": None, "explained_variance_per_dimension": None, "l0": 0.0, "n": 3}
    one = trained(tmp_path, (1,), train=side, held_out=side, loss_recovered=None, history=[])
    assert train_page.answers(one.results)[0].startswith("The SAE explains – of the variance")
    assert "How they got there" not in one.page() and "<svg" not in one.page()


def test_an_operation_says_what_its_latents_read_and_what_it_cost() -> None:
    made = recorded()
    said = page.answers(len(made.latents), made.record)
    assert said == [
        "5 latents read virtue from vice with an AUROC of 0.800 on 672 texts that took no part; before surgery with "
        "0.600 (+0.200 [+0.100, +0.300]).",
        "Its reconstruction error changed by +1.000 %, where training stops at 2 % on its own validation part.",
        "Decoder rows gained what representation writes; the longest row is 1.420 times as long as before.",
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"written": None}, "Nothing was written"),
        ({"control": "shuffled"}, "It is a control (shuffled)"),
        ({"table": [change("reconstruction_error", before=2.0, after=1.0)], "settings": {}}, "by −50.000 %."),
    ],
)
def test_what_an_operation_lacks_or_is(changed: dict[str, Any], sentence: str) -> None:
    assert any(sentence in one for one in page.answers(5, recorded(**changed).record))


def test_an_operation_made_by_hand_has_a_page() -> None:
    html = recorded(table=[], history=[], written=None, stopped=None).page()
    assert "Nothing was written" in html and "Operated latents" not in html and "<svg" not in html


def test_what_a_page_shows_of_an_operation() -> None:
    html = recorded().page()
    assert "Epoch 3 of 8 was kept: no lower validation loss." in html
    assert html.count("<td>care-harm</td>") + html.count(">care-harm<") >= 4
    assert "1, 4, 9, 22, 39" in html


@pytest.mark.parametrize(
    ("difference", "half", "sentence"),
    [
        (-0.05, 0.02, "shows less than the stream it encodes for categorical (−0.050 [−0.070, −0.030])"),
        (0.05, 0.02, "shows more for categorical (+0.050 [+0.030, +0.070])"),
        (0.01, 0.02, "cannot be told from it for categorical (+0.010 [−0.010, +0.030])"),
        (0.01, None, "was not compared for categorical, gradient, structural and dimensional"),
        (None, None, "was not compared for categorical"),
    ],
)
def test_compared_saes_say_which_way_each_headline_goes(
    difference: float | None, half: float | None, sentence: str
) -> None:
    found = compared(difference, half)
    first, *said = compared_page.answers(found.rows)
    counted = 0 if half is None else 8
    less, more = (counted if way in sentence else 0 for way in ("shows less", "shows more"))
    assert first.startswith(f"Of {counted} comparisons of latents with the stream they encode, {less} show less")
    assert f"{more} more" in first
    assert len(said) == 2 and all(sentence in one for one in said)
    assert sentence.split("(")[0] in compared_page.compared_page(found)


def test_compared_saes_show_other_seeds_where_there_are_any(tmp_path: Path) -> None:
    found = compared()
    assert found.save(tmp_path) == tmp_path / "saes.json"
    html = (tmp_path / "saes.html").read_text(encoding="utf8")
    assert "Other seeds" in html and "between seeds" in html
