"""The stratified Social-Chemistry sample: invented rows in its format, and the sample itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.data import load_data
from sae_moral.data.social_chem import load_social_chem_sample
from sae_moral.foundations import FOUNDATIONS, NEUTRAL, VICE, VIRTUE

_SAMPLE = "social-chem-101/stratified_sample.jsonl"


def _row(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "invented_1",
        "action": "hiding a colleague's umbrella",
        "rot-moral-foundations": "care-harm|loyalty-betrayal",
        "moral_vector": [0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0],
        "m_virtue": 0.0,
        "m_vice": 0.5,
        "sampled_dimension": "loyalty-betrayal",
        "sample_type": "vice",
        "score_stratum": 0.5,
    }
    return {**row, **changes}


_TYPICAL = _row(
    **{"rot-moral-foundations": "care-harm", "sampled_dimension": "care-harm"},
    moral_vector=[1.0, *[0.0] * 9],
    m_virtue=1.0,
    m_vice=0.0,
    sample_type="virtue_typical",
    score_stratum=1.0,
)
_NEUTRAL = _row(moral_vector=[0.0] * 10, m_vice=0.0, sample_type="neutral", score_stratum=0.0)


def test_each_row_is_the_record_of_its_sampled_dimension(jsonl: Callable[..., Path]) -> None:
    other = _row(sampled_dimension="care-harm")  # the same id and text again
    path = jsonl([_row(), _TYPICAL, _NEUTRAL, other])
    data = load_data(path)
    assert data.foundation.tolist() == [2, 0, 2, 0]
    assert data.pole.tolist() == [VICE, VIRTUE, NEUTRAL, VICE]
    assert data.typicality.tolist() == [0.5, 1.0, 0.0, 0.5]
    assert data.id == ("invented_1",) * 4
    assert data.provenance["source"] == "social-chem-101"
    assert data.provenance["licence"] == "CC BY-SA 4.0"
    assert (data.provenance["file"], data.provenance["n_read"], data.provenance["n"]) == ("own.jsonl", 4, 4)
    assert load_data("social-chem-101", path=path).sha256 == data.sha256


@pytest.mark.parametrize(
    ("changes", "column", "word"),
    [
        ({"m_vice": 0.25}, "m_vice", "0.25 but the vector says 0.5"),
        ({"m_virtue": 0.5}, "m_virtue", "0.5 but the vector says 0.0"),
        ({"score_stratum": 1.0}, "score_stratum", "1.0 but the vector says 0.5"),
        ({"sample_type": "vice_typical"}, "sample_type", "'vice_typical' but the vector says 'vice'"),
        ({"sample_type": "virtue"}, "sample_type", "'virtue' but the vector says 'vice'"),
        ({"sampled_dimension": "fairness-cheating"}, "sampled_dimension", "not among"),
        ({"sampled_dimension": "care-hram"}, "sampled_dimension", "did you mean 'care-harm'"),
        ({"rot-moral-foundations": "loyalty-betrayal"}, "moral_vector", "harm is 0.5; expected 0.0"),
        ({"rot-moral-foundations": "loyalty-betrayel"}, "rot-moral-foundations", "did you mean 'loyalty-betrayal'"),
        ({"moral_vector": [0.5] * 10}, "moral_vector", "both poles of care-harm"),
        ({"moral_vector": [0.5] * 9}, "moral_vector", "9 numbers; expected ten"),
        ({"moral_vector": [2] + [0] * 9}, "moral_vector", "care is 2.0"),
        ({"action": " "}, "action", "empty"),
        ({"action": None}, "action", "None is not text"),
        ({"id": 1.5}, "id", "not an id"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(
    jsonl: Callable[..., Path], refused: Callable[..., None], changes: dict[str, Any], column: str, word: str
) -> None:
    path = jsonl([_TYPICAL, _row(**changes)])
    refused(lambda: load_data(path), word, file="own.jsonl", row=2, column=column)


def test_a_missing_column_is_refused(jsonl: Callable[..., Path], refused: Callable[..., None]) -> None:
    rows = [{("m-vice" if name == "m_vice" else name): value for name, value in _row().items()}]
    path = jsonl(rows)
    refused(lambda: load_social_chem_sample(path), "did you mean 'm-vice'", file="own.jsonl", row=1, column="m_vice")


def test_the_stratified_sample_equals_its_own_vectors(shared: Callable[[str], Path]) -> None:
    path = shared(_SAMPLE)
    rows = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    data = load_data(path)
    assert len(data) == len(rows) == 2786
    assert data.text == tuple(row["action"] for row in rows)
    assert data.id == tuple(row["id"] for row in rows)
    np.testing.assert_array_equal(data.vector, [row["moral_vector"] for row in rows])
    assert [FOUNDATIONS[f] for f in data.foundation] == [row["sampled_dimension"] for row in rows]
    np.testing.assert_array_equal(data.typicality, [row["score_stratum"] for row in rows])
    poles = [("virtue", "vice", "neutral").index(row["sample_type"].removesuffix("_typical")) for row in rows]
    assert data.pole.tolist() == poles
    assert Counter(poles) == {VIRTUE: 1172, VICE: 1368, NEUTRAL: 246}
