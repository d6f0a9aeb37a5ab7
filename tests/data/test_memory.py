"""Tables in memory: the same scenarios from every kind, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

from sae_moral.data import MoralData, load_data

TABLE: dict[str, list[Any]] = {
    "text": ["hiding a tool", "lending a kite", "painting a boat"],
    "foundation": ["care-harm", "fairness-cheating|care-harm", "care-harm"],
    "judgment": [-2, 1.5, 0],
    "agreement": [4, 2, 3],
}
RECORDS = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "list of dicts": (RECORDS, {}),
    "dict of lists": (TABLE, {}),
    "pandas.DataFrame": (pd.DataFrame(TABLE, index=[7, 7, 8]), {}),
    "pyarrow.Table": (pa.table({**TABLE, "text": pa.array(TABLE["text"], pa.string_view())}), {}),
    "datasets.Dataset": (Dataset.from_dict(TABLE), {}),
    "datasets.IterableDataset": (Dataset.from_dict(TABLE).to_iterable_dataset(), {"limit": 10}),
    "a split of a DatasetDict": (DatasetDict({"train": Dataset.from_dict(TABLE)}), {"split": "train"}),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> MoralData:
    path = tmp_path_factory.mktemp("table") / "same.csv"
    pd.DataFrame(TABLE).to_csv(path, index=False)
    return load_data(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_what_the_file_gives(kind: str, expected: MoralData) -> None:
    source, how = KINDS[kind]
    found = load_data(source, **how)
    assert (found.text, found.foundation.tolist()) == (expected.text, expected.foundation.tolist())
    np.testing.assert_array_equal(found.vector, expected.vector)
    assert found.provenance["source"] == (kind if kind in ("list of dicts", "dict of lists") else _name(kind))
    assert found.provenance["sha256"] == found.sha256


def _name(kind: str) -> str:
    return "datasets.Dataset" if "DatasetDict" in kind else kind


def test_options_of_tables_hold_for_all_of_them() -> None:
    frame = pd.DataFrame(TABLE).rename(columns={"text": "deed"}).assign(note=1, author=["a", "b", "a"])
    found = load_data(frame, text_column="deed", extra_columns="ignore", groups="author")
    assert found.text[0] == "hiding a tool" and len(set(found.group[[0, 3]])) == 1


def test_vectors_of_numpy_and_missing_values_of_pandas() -> None:
    frame = pd.DataFrame({"text": ["waiting"], "vector": [np.eye(10)[3]], "id": [pd.NA]})
    found = load_data(frame)
    assert (found.foundation.tolist(), found.id) == ([1], ("DataFrame:1",))


@pytest.mark.parametrize(
    ("source", "how", "words"),
    [
        (DatasetDict({"a": Dataset.from_dict(TABLE)}), {}, "a DatasetDict with the splits 'a'; expected split="),
        (DatasetDict({"a": Dataset.from_dict(TABLE)}), {"split": "b"}, "no split 'b'; this DatasetDict has 'a'"),
        (IterableDatasetDict(), {}, "an? IterableDatasetDict with the splits"),
        (Dataset.from_dict(TABLE).to_iterable_dataset(), {}, "may have no end; expected the rows to read"),
        (Dataset.from_dict(TABLE).to_iterable_dataset(), {"limit": 0}, "limit=0 for an IterableDataset"),
        (RECORDS, {"limit": 2}, "limit=2 given for a list, which is read whole"),
        (RECORDS, {"split": "a"}, "split='a' given for a list, which has none"),
        (RECORDS, {"path": "x.csv"}, "path= given for a list of dicts, to which it does not apply"),
        ([], {}, "list: no scenarios; expected at least one row"),
        ({}, {}, "dict: no scenarios"),
        ({"text": ["a"], "judgment": [1, 2]}, {}, "columns of different lengths: 'text' 1, 'judgment' 2"),
        (
            pd.DataFrame([["a", "b"], ["c", "d"]], columns=["text", "text"]),
            {},
            "DataFrame, column 'text': a column is named twice",
        ),
        (pa.table([pa.array(["a"])] * 2, names=["text"] * 2), {}, "Table, column 'text': a column is named twice"),
        ({**TABLE, 1: [0, 0, 0]}, {}, "dict, row 1, column '1': unknown column"),
        ({"text": "a"}, {}, "dict, column 'text': 'a'; expected a list of values"),
        ([*RECORDS, {**RECORDS[0], "agreement": 9}], {}, "list, row 4, column 'agreement': 9.0; expected a number"),
        ([RECORDS[0], {"text": "b"}], {}, "list, row 2, column 'foundation': missing; every row needs"),
        (pd.DataFrame(TABLE).assign(judgment=[1, None, 2]), {}, "DataFrame, row 2, column 'judgment': None"),
        (pd.DataFrame(TABLE).assign(note=1), {}, "column 'note': unknown column; .*extra_columns='ignore'"),
        (pd.DataFrame(TABLE).rename(columns={"text": "deed"}), {}, "missing column; .*text_column="),
    ],
)
def test_what_cannot_be_read_is_refused(source: Any, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_data(source, **how)


def test_a_data_set_of_the_hub_by_name(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]) -> None:
    asked = []

    def load_dataset(name: str, split: str) -> Dataset:
        asked.append((name, split))
        return Dataset.from_dict(TABLE)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert load_data("owner/name", split="train").provenance["source"] == "datasets.Dataset"
    assert asked == [("owner/name", "train")]
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"the hub did not give it .*expected owner/name as on"):
        load_data("owner/name", split="train")
    with pytest.raises(FileNotFoundError, match="with split=, of a hub data set"):
        load_data("owner/name")
