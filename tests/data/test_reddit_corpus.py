"""The Reddit corpus: invented rows in its format, and the file itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sae_moral.data import load_data
from sae_moral.data.reddit_corpus import FIELDS
from sae_moral.foundations import NEUTRAL, NO_FOUNDATION, VICE, VIRTUE

_NAMES = (
    "ID",
    "text",
    "Equality",
    "Care",
    "Non-Moral",
    "Authority",
    "Thin Morality",
    "Loyalty",
    "Proportionality",
    "Purity",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: dict[str, object]) -> Path:
        path = tmp_path / "r.tsv"
        cells = [
            [str({"ID": i, "text": f"comment {i}", **row}.get(name, 0)) for name in _NAMES]
            for i, row in enumerate(rows)
        ]
        path.write_text("\n".join("\t".join(line) for line in ([*_NAMES], *cells)) + "\n", encoding="utf8")
        return path

    return write


def test_counts_become_strength_in_the_slot_of_the_name(corpus: Callable[..., Path]) -> None:
    path = corpus(
        {"Care": 2, "Equality": 1, "Proportionality": 3},
        {"Purity": 1, "Non-Moral": 4},
        {"Non-Moral": 3},
        {"Non-Moral": 1, "Thin Morality": 2},
        {"Loyalty": 3, "Authority": 1, "Thin Morality": 1},
    )
    data = load_data(path)
    assert data.id == ("mfrc_0", "mfrc_0", "mfrc_1", "mfrc_2", "mfrc_4", "mfrc_4")
    assert data.foundation.tolist() == [0, 1, 4, NO_FOUNDATION, 2, 3]
    assert data.pole.tolist() == [VIRTUE, VIRTUE, VIRTUE, NEUTRAL, VIRTUE, VIRTUE]
    np.testing.assert_allclose(data.typicality, [2 / 3, 1, 1 / 4, 0, 1, 1 / 3])
    found = data.provenance
    assert (found["source"], found["n_read"], found["n"]) == ("reddit-corpus", 5, 6)
    assert found["left_out"] == {"moral, but of no foundation (Thin Morality)": 1}
    assert found["poles"] is False
    assert "not labelled" in found["labels"]
    assert load_data("reddit-corpus", path=path).sha256 == data.sha256


def test_entities_become_characters(corpus: Callable[..., Path]) -> None:
    path = corpus({"text": ' &gt;It&amp;#039;s &amp;amp; "so" ', "Care": 1, "Non-Moral": 2})
    assert load_data(path).text == ('>It\'s & "so"',)


@pytest.mark.parametrize("protocol", ["paper", "audited"])
def test_what_compares_the_poles_gives_no_number(corpus: Callable[..., Path], protocol: str) -> None:
    import torch

    from sae_moral.metrics import resolve_metrics
    from sae_moral.protocol import get_protocol

    data = load_data(corpus(*({"Care": 1 + i % 3, "Non-Moral": 3} if i % 4 else {"Non-Moral": 3} for i in range(80))))
    representation = torch.randn(len(data), 8, generator=torch.Generator().manual_seed(0))
    for metric in resolve_metrics(["categorical", "gradient"], get_protocol(protocol)):
        for statistic in metric(representation, data):
            of_one_pole = statistic.name == "prototype_reliability" and statistic.group != "harm"
            if (metric.name == "categorical" and not of_one_pole) or statistic.group == "harm":
                assert statistic.value is None, statistic


@pytest.mark.parametrize(
    ("row", "column", "word"),
    [
        ({"Care": 5}, "Care", "from 0 to 4"),
        ({"Care": "1.5"}, "Care", "a number of annotators"),
        ({"Care": "two"}, "Care", "not a number"),
        ({}, "Non-Moral", "no annotator"),
        ({"Care": 1, "text": "&nbsp;"}, "text", "empty"),
    ],
)
def test_a_broken_row_is_refused(
    corpus: Callable[..., Path], refused: Callable[..., None], row: dict[str, object], column: str, word: str
) -> None:
    path = corpus({"Care": 3}, row)
    refused(lambda: load_data(path), word, file="r.tsv", row=3, column=column)


def test_the_corpus(shared: Callable[[str], Path]) -> None:
    data = load_data(shared("reddit-corpus/mfrc_aggregated.tsv"))
    assert set(FIELDS) == set(_NAMES)
    assert (data.provenance["n_read"], len(data)) == (17_457, 19_540)
    assert list(data.provenance["left_out"].values()) == [4_586]
    assert Counter(data.foundation.tolist()) == {0: 4_555, 1: 4_979, 2: 1_872, 3: 3_283, 4: 1_694, NO_FOUNDATION: 3_157}
    assert not (data.pole == VICE).any()
    assert not any("&gt;" in text or "&amp;" in text for text in data.text)
