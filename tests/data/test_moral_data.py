"""`MoralData`: what it refuses, groups, hashes, subsets and samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sae_moral.data import MoralData
from sae_moral.data.moral_data import check_vectors, from_records
from sae_moral.data.text import normalise, without_stop
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS, NEUTRAL, NO_FOUNDATION, VICE, VIRTUE

TROUBLE = "-—–''\"`´“‘″ \u00ad\u200b\u200d\u0301\u3164\uffa0\x85\x93.aŉ"


def _vector(**strengths: float) -> np.ndarray:
    vector = np.zeros(len(DIMENSIONS))
    for name, strength in strengths.items():
        vector[DIMENSIONS.index(name)] = strength
    return vector


def _data(n: int = 6) -> MoralData:
    both = _vector(harm=0.5, loyalty=0.25)
    records = [
        ("a", "Leaving a guest out in the rain.", _vector(harm=1.0), 0),
        ("b", "standing by a brother who hit someone", both, 0),
        ("b", "standing by a brother who hit someone", both, 2),
        ("c", "sorting spoons", _vector(), NO_FOUNDATION),
        ("d", "leaving a guest  out in the rain", _vector(degradation=0.125), 4),
        ("e", "obeying in part", _vector(loyalty=0.5), 3),
    ]
    return from_records(records[:n], {"source": "invented"})


def test_labels_follow_from_vector_and_foundation() -> None:
    data = _data()
    assert len(data) == 6
    assert data.pole.tolist() == [VICE, VICE, VIRTUE, NEUTRAL, VICE, NEUTRAL]
    assert data.typicality.tolist() == [1.0, 0.5, 0.25, 0.0, 0.125, 0.0]
    assert data.provenance == {"source": "invented"}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Lying to a friend.", "lying to a  friend"),
        ("“Café closed!”", "cafe\u0301 closed"),
        ("ﬁne", "FINE"),
        ("...", " ... "),
        ("tab\tnew\nline", "tab new line"),
        ("Don’t lie", "Don't lie"),
        ("it`s hers", "it´s hers"),
        ("a “white” lie", 'a "white" lie'),
        ("l\x92\x93amie\x94", 'l\'"amie"'),
        ("ly\u00ading", "lying"),
        ("ly\u200bing\ufeff", "lying"),
        ("a\u00a0b\u2009c\u3000d", "a b c d"),
        ("a – b", "a - b"),
        ("a—b", "a -- b"),
        ("co\u2011worker", "co-worker"),
        ("wait…", "wait..."),
        ("e\u00ad\u0301", "é"),
        ("می\u200cخواهم", "میخواهم"),
        ("說謊。", "說謊"),
        ("\u202alying\u202c", "lying"),
    ],
)
def test_equal_texts_normalise_to_one(a: str, b: str) -> None:
    assert normalise(a) == normalise(b) != ""


@pytest.mark.parametrize(
    ("a", "b"),
    [("well-being", "wellbeing"), ("its", "it's"), ("a b", "ab"), ("resume", "résumé"), ("\u0661", "\u0600\u0661")],
)
def test_other_texts_stay_other(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


@settings(deadline=None, database=None)
@given(st.text(st.one_of(st.characters(), st.sampled_from(TROUBLE)), min_size=1).filter(str.strip))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text) != ""


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("It's rude to hate priests.", "It's rude to hate priests"),
        ("Stealing is bad!! \n", "Stealing is bad"),
        ("Well ...", "Well"),
        ("说谎不好。", "说谎不好"),
        ("偷窃！\u3000", "偷窃"),
        ("等等……", "等等"),
        ("说谎．", "说谎"),
        ("Is it rude?", "Is it rude?"),
        ("He said: “No.”", "He said: “No.”"),
        (" 3.5 kg", " 3.5 kg"),
        ("...", "..."),
    ],
)
def test_the_final_stop_is_left_out(text: str, without: str) -> None:
    assert without_stop(text) == without


def test_group_joins_equal_texts_and_nothing_else() -> None:
    group = _data().group
    assert group[0] == group[4]
    assert group[1] == group[2]
    assert len(set(group.tolist())) == 4


def test_items_counts_a_neutral_of_no_foundation_for_each() -> None:
    data = _data()
    assert np.flatnonzero(data.items(0, VICE)).tolist() == [0, 1]
    assert np.flatnonzero(data.items(0, NEUTRAL)).tolist() == [3]
    assert np.flatnonzero(data.items(3, NEUTRAL)).tolist() == [3, 5]
    assert not data.items(1, VIRTUE).any()


def test_hash_depends_on_texts_and_labels_only() -> None:
    data = _data()
    assert data.sha256 == _data().sha256
    assert data.sha256 == replace(data, provenance={}, id=("z",) * 6).sha256
    assert data.sha256 == replace(data, vector=np.where(data.vector == 0, -0.0, data.vector)).sha256
    assert data.sha256 != data.subset(np.array([0, 1])).sha256
    assert data.sha256 != replace(data, text=("other", *data.text[1:])).sha256
    moved = np.where(np.arange(6) == 3, 1, data.foundation)
    assert data.sha256 != replace(data, foundation=moved).sha256


@settings(deadline=None, database=None, max_examples=60)
@given(st.integers(0, 5), st.sampled_from(["text", "vector", "foundation", "pole", "typicality", "order"]), st.data())
def test_any_single_change_changes_the_hash(row: int, what: str, drawn: st.DataObject) -> None:
    """Every text, strength, foundation, pole and typicality counts, and so does the order of the records."""
    data = _data()
    here = np.arange(6) == row
    values: dict[str, Any] = {
        name: getattr(data, name).copy() for name in ("vector", "foundation", "pole", "typicality")
    }
    text = data.text
    if what == "text":
        place = drawn.draw(st.integers(0, len(text[row]) - 1))
        changed = text[row][:place] + drawn.draw(st.characters(exclude_categories=["Cs"])) + text[row][place + 1 :]
        text = tuple(changed if i == row else one for i, one in enumerate(text))
        assume(changed != data.text[row])
    elif what == "vector":
        values["vector"][row, drawn.draw(st.integers(0, 9))] += drawn.draw(st.sampled_from([1e-12, 0.125, -0.5]))
    elif what == "order":
        other = drawn.draw(st.integers(0, 5).filter(lambda i: i != row and data.text[i] != data.text[row]))
        order = np.arange(6)
        order[[row, other]] = other, row
        text, values = tuple(text[i] for i in order), {name: value[order] for name, value in values.items()}
    else:
        values[what] = np.where(here, values[what] + (1e-12 if what == "typicality" else 1), values[what])
    # Labels that contradict one another are refused when data are made; their hash is compared all the same.
    changed_data = object.__new__(MoralData)
    for name, value in {**vars(data), **values, "text": text}.items():
        if name not in ("sha256", "group"):
            object.__setattr__(changed_data, name, value)
    assert changed_data.sha256 != data.sha256


def test_texts_that_run_into_one_another_do_not_collide() -> None:
    one = from_records([("a", "ab", _vector(), -1), ("b", "c", _vector(), -1)], {})
    other = from_records([("a", "a", _vector(), -1), ("b", "bc", _vector(), -1)], {})
    assert one.sha256 != other.sha256


def test_subset_by_position_and_by_mask(same_data: Callable[..., None]) -> None:
    data = replace(_data(), length=np.arange(6))
    picked = data.subset(np.array([4, 0]))
    assert picked.id == ("d", "a")
    assert picked.length is not None
    assert picked.length.tolist() == [4, 0]
    same_data(data.subset(np.isin(np.arange(6), [0, 4])), data.subset(np.array([0, 4])))


def test_subset_refuses_a_mask_of_another_length_and_emptiness(refused: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="a mask of 3 values for 6 records"):
        _data().subset(np.ones(3, dtype=bool))
    refused(lambda: _data().subset(np.zeros(6, dtype=bool)), "no scenarios")


@pytest.mark.parametrize("seed", range(5))
def test_sample_keeps_the_share_of_every_cell_and_the_order(seed: int) -> None:
    records = [(f"{i}", f"deed {i}", _vector(harm=1.0) if i % 10 else _vector(loyalty=1.0), 0 if i % 10 else 2)
               for i in range(200)]  # fmt: skip
    data = from_records(records, {})
    part = data.sample(50, seed=seed)
    assert len(part) == 50
    assert (part.foundation == 2).sum() == 5
    assert [int(i) for i in part.id] == sorted(int(i) for i in part.id)
    assert part.id == data.sample(50, seed=seed).id
    assert part.provenance["sampled"] == {"n": 50, "seed": seed}


def test_sample_seeds_differ_and_limits() -> None:
    data = from_records([(f"{i}", f"deed {i}", _vector(care=0.5), 0) for i in range(100)], {})
    assert data.sample(20, seed=0).id != data.sample(20, seed=1).id
    assert data.sample(100) is data
    assert len(data.sample(1)) == 1
    with pytest.raises(ValueError, match="a sample of 0 scenarios; expected at least 1"):
        data.sample(0)


_FIRST = np.arange(6) == 0


@pytest.mark.parametrize(
    ("changes", "row", "column", "word"),
    [
        ({"text": (" ", *_data().text[1:])}, 1, "text", "empty text"),
        ({"text": ("\ud800", *_data().text[1:])}, 1, "text", "surrogate"),
        ({"id": ("a",)}, None, None, "1 values of id for 6 texts"),
        ({"pole": np.where(_FIRST, 7, _data().pole)}, None, None, "pole is one of 0"),
        ({"foundation": np.where(_FIRST, 5, _data().foundation)}, 1, "foundation", "foundation index 5"),
        ({"foundation": np.where(_FIRST, -1, _data().foundation)}, 1, "foundation", "foundation index -1"),
        ({"typicality": np.where(_FIRST, 0.5, _data().typicality)}, 1, "typicality", "typicality is 0.5"),
        ({"typicality": np.where(_FIRST, np.nan, _data().typicality)}, 1, "typicality", "typicality is nan"),
        ({"pole": np.where(_FIRST, VIRTUE, _data().pole)}, 1, "typicality", "the vector says 0.0"),
        ({"pole": np.where(_FIRST, NEUTRAL, _data().pole), "typicality": np.where(_FIRST, 0, _data().typicality)},
         1, "pole", "neutral, but"),
        ({"foundation": np.where(np.arange(6) == 5, -1, _data().foundation)}, 6, "pole", "neutral, but"),
        ({"vector": np.where(_data().vector == 0.25, 1.5, _data().vector)}, 2, "loyalty", "strength 1.5"),
        ({"vector": np.where(_data().vector == 0.25, np.nan, _data().vector)}, 2, "loyalty", "strength nan"),
        ({"vector": np.where(_data().vector == 0.25, -0.25, _data().vector)}, 2, "loyalty", "strength -0.25"),
        ({"vector": np.where([[d == "care" for d in DIMENSIONS]], 0.1, _data().vector)}, 1, "care", "both poles"),
    ],
)  # fmt: skip
def test_what_it_refuses(
    changes: dict[str, Any], row: int | None, column: str | None, word: str, refused: Callable[..., None]
) -> None:
    refused(lambda: replace(_data(), **changes), word, row=row, column=column)


def test_from_records_refuses_what_has_no_labels(refused: Callable[..., None]) -> None:
    refused(lambda: from_records([], {}), "no scenarios")
    refused(lambda: from_records([("a", "deed", np.zeros(9), 0)], {}), "a moral vector of 9 numbers; expected ten")
    for foundation in (5, -2):
        refused(lambda f=foundation: from_records([("a", "deed", np.zeros(10), f)], {}), f"index {foundation}",
                row=1, column="foundation")  # fmt: skip
    refused(
        lambda: from_records([("a", "deed", _vector(care=1.0), -1)], {}), "with none, for any", row=1, column="pole"
    )


def test_from_records_names_the_line_a_record_is_from(refused: Callable[..., None]) -> None:
    records = [("a", "deed", np.zeros(10), -1), ("b", "deed", np.zeros(10), 7)]
    refused(lambda: from_records(records, {}, file="x.csv", lines=[3, 8]), "index 7", file="x.csv", row=8,
            column="foundation")  # fmt: skip


def test_check_vectors_names_the_file(refused: Callable[..., None]) -> None:
    refused(lambda: check_vectors(np.full((1, 10), 2.0), ["deed"], file="x.csv"), file="x.csv", row=1, column="care")


def test_vectors_of_another_width_are_refused() -> None:
    # With the tests' type checks jaxtyping speaks first, with a TypeError.
    with pytest.raises((DataError, TypeError), match=r"shape \(6, 9\); expected \(6, 10\)|f64\[6,9\]"):
        replace(_data(), vector=np.zeros((6, 9)))


def test_dataset_has_names_and_comes_back(same_data: Callable[..., None]) -> None:
    from sae_moral.data import load_data

    data = _data()
    dataset = data.to_dataset()
    assert dataset.column_names == ["id", "text", "vector", "foundation", "pole", "typicality"]
    assert dataset[3]["foundation"] is None
    assert dataset[2]["foundation"] == "loyalty-betrayal"
    assert dataset[2]["pole"] == "virtue"
    same_data(load_data(dataset), data)
