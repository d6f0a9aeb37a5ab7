"""`load_data` and `list_sources`: which reader is chosen, and what is refused."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.data import MoralData, list_sources, load_data
from sae_moral.data.moral_data import from_records

_VECTOR = [0.0, 0.5, *[0.0] * 8]
_TABLE = [{"id": "a", "text": "hiding a tool", "vector": _VECTOR}]


@pytest.fixture
def data() -> MoralData:
    return from_records([("a", "hiding a tool", np.array(_VECTOR), 0), ("b", "waiting", np.zeros(10), -1)], {})


def test_moral_data_is_returned_as_it_is(data: MoralData) -> None:
    assert load_data(data) is data


def test_the_sources_are_described() -> None:
    sources = {source.name: source for source in list_sources()}
    assert list(sources) == [
        "moralstrength", "reddit-corpus", "social-chem-101", "social-chem-101-full", "vignettes",
    ]  # fmt: skip
    assert all(source.what and source.licence and source.citation and source.obtain for source in sources.values())


def test_provenance_of_a_file_is_portable_json(jsonl: Callable[..., Path]) -> None:
    path = jsonl(_TABLE)
    found = load_data(path).provenance
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {
        "source": "table", "file": "own.jsonl", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "revision": None, "licence": None, "citation": None, "n_read": 1, "n": 1, "left_out": {}, "ignored_columns": [],
    }  # fmt: skip


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown data source 'moralstrenth'; did you mean 'moralstrength'"):
        load_data("moralstrenth")


@pytest.mark.parametrize("name", ["nowhere.csv", "some/where", Path("nowhere")])
def test_a_missing_file_is_not_an_unknown_name(name: Any) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing file"):
        load_data(name)


@pytest.mark.parametrize("name", ["vignettes", "reddit-corpus"])
def test_a_source_that_is_not_shipped_says_how_to_pass_its_file(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.* not shipped .*path="):
        load_data(name)


def test_options_that_do_not_apply_are_refused(data: MoralData, jsonl: Callable[..., Path]) -> None:
    vignettes = jsonl([{"id": "a", "foundation_coarse": "Care", "wrong": 1, "text": "You see a robot."}], "v.jsonl")
    for source, options in (
        (data, {"path": "x"}),
        (data, {"extra_columns": "ignore"}),
        ("moralstrength", {"text_column": "words"}),
        (vignettes, {"text_column": "text"}),
        (vignettes, {"path": vignettes}),
        (data.to_dataset(), {"path": vignettes}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))}= given for .* does not apply"):
            load_data(source, **options)


def test_a_name_with_the_file_of_another_source_is_refused(
    jsonl: Callable[..., Path], refused: Callable[..., None]
) -> None:
    path = jsonl(_TABLE)
    refused(lambda: load_data("vignettes", path=path), "missing column", file="own.jsonl", row=1,
            column="foundation_coarse")  # fmt: skip


def test_a_dataset_of_our_columns_comes_back_exactly(data: MoralData, same_data: Callable[..., None]) -> None:
    dataset = data.to_dataset()
    back = load_data(dataset)
    same_data(back, data)
    assert back.provenance["source"] == "datasets.Dataset"
    assert back.provenance["sha256"] == data.sha256
    same_data(load_data(dataset.with_format("numpy").select([1])), data.subset(np.array([1])))


def test_a_dataset_of_a_table_is_expanded(refused: Callable[..., None]) -> None:
    from datasets import Dataset

    row = {"deed": "hiding a tool", "foundation": "care|fairness", "judgment": -2, "agreement": 2}
    dataset = Dataset.from_list([row, {**row, "agreement": 9}])
    assert load_data(dataset.select([0]), text_column="deed").foundation.tolist() == [0, 1]
    refused(lambda: load_data(dataset, text_column="deed"), "9.0", file="Dataset", row=2, column="agreement")
    refused(lambda: load_data(dataset), "missing column", file="Dataset", column="text")
    refused(lambda: load_data(dataset.select([])), "no scenarios", file="Dataset")
    refused(lambda: load_data(Dataset.from_dict({})), "no scenarios", file="Dataset")


def test_several_splits_and_other_types_are_refused(data: MoralData, refused: Callable[..., None]) -> None:
    from datasets import DatasetDict

    untyped: Any = inspect.unwrap(load_data)  # without the tests' type checks, as a user calls it
    refused(lambda: untyped(DatasetDict({"train": data.to_dataset()})), "'train'", "choose a split")
    with pytest.raises(TypeError, match="a int; expected a MoralData"):
        untyped(3)


def test_importing_the_data_package_stays_light() -> None:
    heavy = ("pandas", "pyarrow", "datasets", "torch", "moralstrength", "requests", "matplotlib", "scipy", "tqdm")
    code = f"import sys, sae_moral.data.sources as s; print([m for m in {heavy} if m in sys.modules])"
    root = Path(sys.modules["sae_moral.data"].__file__ or "").resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
