"""Groups beyond equal text: near texts against all products, families of words, values of the user's, their bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from sae_moral.data import MoralData, group_split, load_data, write_parquet
from sae_moral.data.groups import KINDS, NEAR, groups_of, near_groups
from sae_moral.data.moral_data import from_records
from sae_moral.errors import DataError
from sae_moral.foundations import DIMENSIONS
from sae_moral.metrics.base import folds


def data_of(texts: list[str]) -> MoralData:
    vector = np.eye(len(DIMENSIONS))
    return from_records([(str(i), text, vector[i % 10], i % 10 // 2) for i, text in enumerate(texts)], {})


def partition(group: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(group == value).tolist()) for value in np.unique(group)}


def every(n: int) -> np.ndarray:
    return np.ones(n, dtype=np.int64)


def families(n: int, size: int, seed: int = 0) -> list[str]:
    """Families of texts that share four words of five."""
    rng = np.random.default_rng(seed)
    return [
        " ".join([*(f"f{i}w{k}" for k in range(4)), f"u{rng.integers(10**9)}n{j}"])
        for i in range(n)
        for j in range(size)
    ]


SHORT = st.lists(st.sampled_from("a the to lie lies steal give friend mother money dog car".split()), min_size=1)


@settings(deadline=None, database=None, max_examples=60)
@given(st.lists(SHORT.map(" ".join), min_size=2, max_size=40, unique=True), st.sampled_from([1, 50, 10**6]))
def test_near_texts_are_the_components_of_all_pairs(texts: list[str], block: int) -> None:
    texts = [*texts, "one two", "two three", "alone"]
    x = TfidfVectorizer(token_pattern=r"\S+").fit_transform(texts)
    near = (x @ x.T).toarray() >= NEAR - 1e-12
    for _ in range(len(texts)):  # until nothing more is reached
        near = near @ near
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae_moral.data.groups._BLOCK", block)
        patch.setattr("sae_moral.data.groups.LARGEST", 1.0)
        patch.setattr("sae_moral.data.groups.ONE_WORD", 2.0)
        found = near_groups(texts, every(len(texts)))
    assert partition(found.group) == {frozenset(np.flatnonzero(row).tolist()) for row in near}
    assert (found.facts["groups_cut"], found.facts["pairs_left_apart"]) == (0, 0)


def test_families_of_paraphrases_are_groups() -> None:
    found = near_groups(families(40, 3), every(120))
    assert partition(found.group) == {frozenset(range(3 * i, 3 * i + 3)) for i in range(40)}


def test_a_giant_component_is_cut_where_it_is_thinnest_and_that_is_told() -> None:
    # A chain of families: each shares words with the next, fewer than its own members share.
    texts = [f"a{i} b{i} c{i} a{i + 1} b{i + 1} c{i + 1} x{j}" for i in range(40) for j in range(3)]
    found = near_groups(texts, every(120))
    size = np.bincount(found.group)
    assert found.facts["groups_cut"] == 1 and found.facts["pairs_left_apart"] > 0
    assert found.facts["largest_allowed"] == 10 == min(10, 120 // 10)
    assert size.max() <= 10 and size.max() > 3
    assert all(len(set(found.group[3 * i : 3 * i + 3])) == 1 for i in range(40))


def test_records_count_towards_the_bound() -> None:
    texts = families(100, 2)
    count = every(200)
    count[:2] = 30
    found = near_groups(texts, count)
    assert found.group[0] != found.group[1] and found.group[2] == found.group[3]


@pytest.mark.parametrize(
    ("family", "apart"),
    [
        ("abuse abuser abusing abusive abuses", "abstain"),
        ("lie lying lied lies", "lion"),
        ("care caring cared carer careless", "cat"),
        ("just unjust justice injustice", "jury"),
        ("loyal disloyal disloyalty loyalty", "logic"),
        ("war anti-war", "wall"),
    ],
)
def test_words_of_one_family(family: str, apart: str) -> None:
    texts = [*family.split(), apart]
    filler = [f"{a}{b}{c}{d}e" for a in "bdfgk" for b in "aeiou" for c in "lmnrs" for d in "aeo"]
    group = near_groups([*texts, *filler], every(len(texts) + len(filler))).group
    n = len(texts) - 1
    assert len(set(group[:n])) == 1 and group[n] not in group[:n]


def test_moralstrength_has_families() -> None:
    facts = groups_of(load_data("moralstrength").regrouped("near"))
    assert facts["by"] == "families of words"
    assert 1000 < facts["n_groups"] < 1500 and facts["n_with_other_texts"] > 1500


@pytest.mark.parametrize("groups", [*KINDS, "own"])
def test_folds_and_splits_keep_groups_together(groups: str) -> None:
    data = data_of(families(40, 3))
    own = np.arange(120) // 6
    held = data.regrouped(own if groups == "own" else groups)
    assert len(np.unique(held.group)) == {"equal": 120, "near": 40, "own": 20}[groups]
    fold = folds(held, 5, 0)
    part = np.empty(120, dtype=int)
    for number, rows in enumerate(group_split(held).values()):
        part[rows] = number
    for value in np.unique(held.group):
        assert len(set(fold[held.group == value])) == 1 == len(set(part[held.group == value]))


def test_the_hash_depends_on_the_groups_and_not_on_their_numbers() -> None:
    data = data_of(families(10, 2))
    own = np.arange(20) // 4
    hashes = [data.sha256, *(data.regrouped(one).sha256 for one in ("near", own, np.arange(20) // 5))]
    assert len(set(hashes)) == 4
    assert data.regrouped("equal").sha256 == data.sha256 == data.regrouped(own).regrouped("equal").sha256
    assert data.regrouped(own).sha256 == data.regrouped([f"g{-g}" for g in own]).sha256
    rows = np.array([19, 3, 8, 2])
    assert data.regrouped(own).subset(rows).sha256 == data.subset(rows).regrouped(own[rows]).sha256


def test_groups_stay_with_subsets_and_moved_labels() -> None:
    data = data_of(families(10, 2)).regrouped("near")
    assert data.subset(np.array([3, 1, 2])).group.tolist() == data.group[[3, 1, 2]].tolist()
    assert data.relabelled(np.arange(20)[::-1].copy()).group.tolist() == data.group.tolist()
    assert data.sample(12).groups is not None
    assert data.held_by("equal") is data and data_of(["a b", "c d"]).held_by("near").groups is not None
    assert data.regrouped("equal").held_by("near").groups is None


def test_equal_texts_are_joined_whatever_the_values() -> None:
    held = data_of(["a b", "A b.", "c", "d"]).regrouped([1, 2, 2, 3])
    assert partition(held.group) == {frozenset({0, 1, 2}), frozenset({3})}
    assert groups_of(held) == {
        "kind": "own", "joined_by_equal_texts": 1, "n_groups": 2, "largest": 3, "n_with_other_texts": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ("nere", ValueError, "unknown groups 'nere'.*near"),
        ([1, 2], ValueError, "2 values of groups for 3 records"),
        ([1, None, 2], DataError, "row 2.*no group"),
        ([1.0, 2.0, float("nan")], DataError, "row 3.*no group"),
    ],
)
def test_groups_that_are_none(groups: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        data_of(["a", "b", "c"]).regrouped(groups)


def test_a_column_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    rows = ["lying,care,-2,4,x", "stealing,fairness|care,-2,4,y", "giving,care,2,4,x"]
    path.write_text("\n".join(["text,foundation,judgment,agreement,author", *rows]) + "\n")
    with pytest.raises(DataError, match="unknown column"):
        load_data(path)
    data = load_data(path, groups="author")
    assert [data.text[i] for i in np.flatnonzero(data.group == data.group[0])] == ["lying", "giving"]
    assert len(data) == 4 and data.group[1] == data.group[2] != data.group[0]
    with pytest.raises(DataError, match="autor"):
        load_data(path, groups="autor")
    path.write_text("\n".join(["text,foundation,judgment,agreement,author", *rows[:2], "giving,care,2,4,"]) + "\n")
    with pytest.raises(DataError, match=r"(?s)own\.csv.*4.*author.*expected a name or a number"):
        load_data(path, groups="author")
    with pytest.raises(ValueError, match="groups='author' given for the source 'moralstrength'"):
        load_data("moralstrength", groups="author")


def test_parquet_keeps_groups(tmp_path: Path) -> None:
    data = data_of(families(10, 2)).regrouped("near")
    again = load_data(write_parquet(data, tmp_path / "data.parquet"))
    assert again.sha256 == data.sha256 and groups_of(again) == groups_of(data)
    plain = replace(data, groups=None, provenance={})
    assert load_data(write_parquet(plain, tmp_path / "plain.parquet")).groups is None
