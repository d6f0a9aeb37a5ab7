"""The vignettes: invented rows in their format, and the file itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_moral.data import load_data
from sae_moral.data.vignettes import load_vignettes
from sae_moral.foundations import DIMENSIONS, NEUTRAL, NO_FOUNDATION, VICE


def _row(coarse: str = "Care", wrong: Any = 3.0, **changes: Any) -> dict[str, Any]:
    row = {"id": f"{coarse}-{wrong}", "foundation": coarse, "foundation_coarse": coarse, "wrong": wrong,
           "text": f"You see a robot doing something {coarse} {wrong}.", "human_Care": 90.0}  # fmt: skip
    return {**row, **changes}


def test_wrongness_becomes_vice(jsonl: Callable[..., Path]) -> None:
    names = ("Care", "Fairness", "Loyalty", "Authority", "Sanctity")
    rows = [*(_row(name, wrong) for wrong, name in enumerate(names)), _row("Social Norms", 0.5), _row("Liberty"),
            _row("Liberty", 2)]  # fmt: skip
    path = jsonl(rows)
    data = load_data(path)
    assert data.foundation.tolist() == [0, 1, 2, 3, 4, NO_FOUNDATION]
    assert data.pole.tolist() == [NEUTRAL, VICE, VICE, VICE, VICE, NEUTRAL]
    assert data.typicality.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]
    assert data.vector.sum() == 2.5
    assert data.vector[1, DIMENSIONS.index("cheating")] == 0.25
    found = data.provenance
    assert (found["source"], found["n_read"], found["n"], found["left_out"]) == ("vignettes", 8, 6, {"Liberty": 2})
    assert load_data("vignettes", path=path).sha256 == data.sha256


@pytest.mark.parametrize(
    ("changes", "column", "word"),
    [
        ({"wrong": 4.5}, "wrong", "4.5; expected a number from 0 to 4"),
        ({"wrong": "3"}, "wrong", "not a number"),
        ({"wrong": True}, "wrong", "not a number"),
        ({"foundation_coarse": "Loyality"}, "foundation_coarse", "did you mean 'Loyalty'"),
        ({"text": ""}, "text", "empty"),
    ],
)
def test_a_broken_row_is_refused(
    jsonl: Callable[..., Path], refused: Callable[..., None], changes: dict[str, Any], column: str, word: str
) -> None:
    path = jsonl([_row(), _row(**changes)], "v.jsonl")
    refused(lambda: load_vignettes(path), word, file="v.jsonl", row=2, column=column)


def test_a_row_without_a_column_is_refused(jsonl: Callable[..., Path], refused: Callable[..., None]) -> None:
    short = _row()
    del short["wrong"]
    path = jsonl([_row(), short])
    refused(lambda: load_data(path), "missing", file="own.jsonl", row=2, column="wrong")


def test_only_liberty_leaves_nothing(jsonl: Callable[..., Path], refused: Callable[..., None]) -> None:
    path = jsonl([_row("Liberty")])
    refused(lambda: load_data(path), "no scenarios")


def test_the_vignettes(shared: Callable[[str], Path]) -> None:
    data = load_data(shared("vignettes/clifford_2015.jsonl"))
    assert len(data) == 115
    assert data.provenance["left_out"] == {"Liberty": 17}
    assert data.provenance["n_read"] == 132
    assert [int((data.foundation == f).sum()) for f in range(-1, 5)] == [16, 32, 17, 16, 17, 17]
    assert ((data.pole == NEUTRAL) == (data.foundation == NO_FOUNDATION)).all()
    assert data.typicality.max() == pytest.approx(3.8 / 4)
