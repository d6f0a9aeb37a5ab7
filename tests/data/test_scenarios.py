"""scenarios-400: nothing but the deed tells its sentences apart, as far as counting shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sae_moral.data import MoralData, load_data
from sae_moral.data.describe import cells
from sae_moral.data.text import words
from sae_moral.foundations import FOUNDATIONS, NEUTRAL, NO_FOUNDATION, VICE, VIRTUE

VERDICTS = set(
    "good bad kind cruel honest dishonest evil wicked noble selfish generous greedy loyal disloyal fair unfair rude "
    "polite brave cowardly decent indecent moral immoral wrong right shameful disgusting pure impure sinful vile "
    "heartless caring callous faithful treacherous obedient disobedient respectful just unjust".split()
)
"""Adjectives that would say outright what a deed is worth."""
OF_THINGS = {"the wrong drops", "the village fair", "just fallen"}


@pytest.fixture(scope="module")
def data() -> MoralData:
    return load_data("scenarios-400")


def length(data: MoralData) -> np.ndarray:
    return np.array([len(words(text)) for text in data.text])


def test_twelve_of_every_foundation_pole_and_grade_and_sixty_neutral(data: MoralData) -> None:
    moral = data.pole != NEUTRAL
    found = Counter(
        zip(
            data.foundation[moral].tolist(),
            data.pole[moral].tolist(),
            (3 * data.typicality[moral]).tolist(),
            strict=True,
        )
    )
    expected = {(f, pole, grade): 12 for f in range(5) for pole in (VIRTUE, VICE) for grade in (1.0, 2.0, 3.0)}
    assert found == expected
    assert (data.foundation[~moral] == NO_FOUNDATION).sum() == (~moral).sum() == 60
    assert len(set(data.id)) == len(set(data.text)) == len(data) == 420


def test_every_cell_opens_with_the_same_words(data: MoralData) -> None:
    """Twelve openings, one sentence each in a cell, five each among the neutral ones: an opening tells nothing."""
    opening = np.array([" ".join(words(text)[: 1 if text.startswith("Someone") else 2]) for text in data.text])
    openings = Counter(opening[data.pole == NEUTRAL])
    assert len(openings) == 12 and set(openings.values()) == {5}
    for foundation in range(len(FOUNDATIONS)):
        for pole in (VIRTUE, VICE):
            for grade in (1, 2, 3):
                cell = data.items(foundation, pole) & np.isclose(3 * data.typicality, grade)
                assert sorted(opening[cell]) == sorted(openings)


def test_lengths_tell_neither_pole_nor_grade(data: MoralData) -> None:
    n = length(data)
    assert n.min() >= 8 and n.max() <= 17
    means = {pole: n[data.pole == pole].mean() for pole in (VIRTUE, VICE, NEUTRAL)}
    assert max(means.values()) - min(means.values()) < 0.5
    for foundation in range(len(FOUNDATIONS)):
        assert abs(n[data.items(foundation, VIRTUE)].mean() - n[data.items(foundation, VICE)].mean()) < 0.5
    grades = [n[np.isclose(3 * data.typicality, grade)].mean() for grade in (1, 2, 3)]
    assert max(grades) - min(grades) < 0.5
    for grade in (1, 2, 3):
        of = np.isclose(3 * data.typicality, grade)
        assert abs(n[of & (data.pole == VIRTUE)].mean() - n[of & (data.pole == VICE)].mean()) < 0.5


def test_no_two_are_near(data: MoralData) -> None:
    """Otherwise folds would have to hold them together: a cosine of 0.5 between TF-IDF vectors of words."""
    facts = data.regrouped("near").provenance["groups"]
    assert facts["threshold"] == 0.5 and facts["pairs"] == 0


def test_no_adjective_says_what_a_deed_is_worth(data: MoralData) -> None:
    found = {(word, text) for text in data.text for word in words(text.casefold()) if word in VERDICTS}
    assert [one for one in sorted(found) if not any(of in one[1] for of in OF_THINGS)] == []


def test_it_says_that_nobody_rated_it(data: MoralData) -> None:
    found = data.provenance
    assert (found["source"], found["file"], found["n"]) == ("scenarios-400", "scenarios_400.csv", 420)
    assert "no one else rated" in found["labels"] and found["licence"].startswith("MIT")
    assert [name for name, _, _ in cells(data)] == [*np.repeat(FOUNDATIONS, 2), "(none)"]


def test_a_table_of_the_same_columns_is_read(tmp_path: Path, refused: Callable[..., None]) -> None:
    def load(*rows: str) -> MoralData:
        (tmp_path / "own.csv").write_text("\n".join(["id,foundation,pole,grade,text", *rows, ""]))
        return load_data("scenarios-400", path=tmp_path / "own.csv")

    data = load("a,care-harm,vice,2,Someone ran.", "b,,neutral,,Someone sat.")
    assert data.vector[0, 1] == data.typicality[0] == pytest.approx(2 / 3) and not data.vector[1].any()
    for row, column in (("a,care,vice,4,x", "grade"), ("a,,vice,2,x", "foundation"), ("a,care,bad,2,x", "pole")):
        refused(lambda row=row: load(row), "", file="own.csv", row=2, column=column)
