"""The paper's split, the split by text, what leaks, the stratified sample, and the comparison with published counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sae_moral.data import (
    MoralData,
    group_split,
    leaks,
    load_data,
    load_social_chem,
    paper_split,
    stratified_sample,
    verification_table,
    verify,
)
from sae_moral.data.moral_data import from_records
from sae_moral.data.verify import IDS, N_IDS, N_RECORDS, RECORDS, TRAIN
from sae_moral.foundations import NEUTRAL, VICE
from tests.data.invented_social_chem import write_table
from tests.tiny import scenarios


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> MoralData:
    return load_social_chem(write_table(tmp_path_factory.mktemp("table") / "table.tsv", 20_000))


def test_the_paper_split_is_the_published_one() -> None:
    ids = [f"socialchem_{i:06d}" for i in range(N_IDS)]
    split = paper_split(ids)
    assert {part: len(rows) for part, rows in split.items()} == IDS
    # The first ids of the validation part published with ReSO (repository LingyuLi-Cogs/ReSO, commit 3fc19b6).
    assert split["validation"][:24].tolist() == [
        10, 16, 18, 43, 46, 51, 59, 68, 81, 93, 132, 146, 157, 177, 178, 181, 185, 188, 189, 228, 229, 230, 247, 254,
    ]  # fmt: skip
    assert np.array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(N_IDS))


def test_records_of_an_id_stay_together_and_order_does_not_matter() -> None:
    ids = [f"{i // 3:03d}" for i in range(300)]
    state = np.random.get_state()[1]
    split = paper_split(ids)
    assert np.array_equal(state, np.random.get_state()[1])  # no global seed
    assert sorted(map(len, split.values())) == [30, 30, 240]
    for rows in split.values():
        assert all((rows // 3 == i).sum() == 3 for i in set((rows // 3).tolist()))
    turned = paper_split(ids[::-1])
    assert {ids[i] for i in split["test"]} == {ids[::-1][i] for i in turned["test"]}


def test_published_counts_are_consistent() -> None:
    assert sum(map(sum, TRAIN.values())) == RECORDS["train"]
    assert sum(RECORDS.values()) == N_RECORDS
    assert sum(IDS.values()) == N_IDS


def test_a_split_by_text_does_not_leak(invented: MoralData) -> None:
    by_id, by_text = paper_split(invented.id), group_split(invented)
    for split in (by_id, by_text):
        assert np.array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(len(invented)))
        shares = [len(rows) / len(invented) for rows in split.values()]
        np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    found = leaks(invented, by_id)
    texts = [set(invented.group[rows].tolist()) for rows in by_id.values()]
    several = (texts[0] & texts[1]) | (texts[0] & texts[2]) | (texts[1] & texts[2])
    assert found.texts == len(several) > 0
    assert found.records == {part: sum(g in several for g in invented.group[rows]) for part, rows in by_id.items()}
    assert leaks(invented, by_text).texts == 0
    assert set(leaks(invented, by_text).records.values()) == {0}
    assert not np.array_equal(group_split(invented, seed=1)["test"], by_text["test"])
    with pytest.raises(ValueError, match="do not belong together"):
        leaks(invented.subset(np.arange(10)), by_id)


def test_the_stratified_sample_has_the_quotas(tmp_path: Path) -> None:
    data = load_social_chem(write_table(tmp_path / "table.tsv", 60_000))
    sample = stratified_sample(data)
    for foundation in range(5):
        for pole in range(3):
            own = (data.foundation == foundation) & (data.pole == pole)
            drawn = (sample.foundation == foundation) & (sample.pole == pole)
            for level in (0.0,) if pole == NEUTRAL else (0.125, 0.25, 0.375, 0.5, 0.75, 1.0):
                quota = 150 if level == 1 else 300
                assert (drawn & (sample.typicality == level)).sum() == min(
                    quota, (own & (data.typicality == level)).sum()
                )
    assert len(set(zip(sample.id, sample.foundation.tolist(), strict=True))) == len(sample)
    assert [int(name[-6:]) for name in sample.id] == sorted(int(name[-6:]) for name in sample.id)
    assert stratified_sample(data).sha256 == sample.sha256 == stratified_sample(sample).sha256
    assert stratified_sample(data, seed=1).sha256 != sample.sha256
    assert sample.provenance["stratified"]["seed"] == 42
    assert sample.provenance["stratified"]["of"] == len(data)


def test_the_published_sample_is_its_own_sample(shared: Callable[[str], Path]) -> None:
    path = shared("social-chem-101/stratified_sample.jsonl")
    assert load_data("social-chem-101", path=path).sha256 == load_data(path).sha256


def test_nothing_to_sample_is_refused(refused: Callable[..., None]) -> None:
    data = from_records([("a", "hiding a kite", np.array([0, 0.3, *[0] * 8]), 0)], {})
    refused(lambda: stratified_sample(data), "none of typicality 0.125")


def test_verify_compares_every_count(invented: MoralData) -> None:
    counts = {count.name: count for count in verify(invented)}
    assert len(counts) == 28
    assert counts["rows in the table"][1:] == (355_922, 20_000, False)
    assert counts["ids"].found == len(set(invented.id))
    train = invented.subset(paper_split(invented.id)["train"])
    expected = int(((train.foundation == 3) & (train.pole == VICE)).sum())
    assert counts["train: authority-subversion, vice"][1:] == (8_034, expected, False)
    assert counts["texts in several parts of the split by text"].ok
    assert counts["texts in several parts of the split by id"].expected is None
    table = verification_table(verify(invented))
    assert table.splitlines()[-1] == "26 of 27 counts differ"
    assert "differs" not in next(line for line in table.splitlines() if "split by text" in line)


def test_verify_takes_any_data() -> None:
    data = from_records([("a", "waiting", np.zeros(10), -1)], {})
    assert not next(count for count in verify(data) if count.name == "rows in the table").ok


def test_group_split_takes_other_shares() -> None:
    data = scenarios(200)
    split = group_split(data, shares=(0.5, 0.2, 0.3))
    assert [round(len(rows) / 200, 1) for rows in split.values()] == [0.5, 0.2, 0.3]
    assert leaks(data, split).texts == 0
    for shares in ((0.5, 0.5, 0.0), (0.5, 0.2, 0.2)):
        with pytest.raises(ValueError, match="expected three numbers above 0 that sum to 1"):
            group_split(data, shares=shares)
