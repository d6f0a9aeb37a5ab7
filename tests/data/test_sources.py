"""`load_data` and `list_sources`: which reader is chosen, and what is refused."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.data import MoralData, Source, list_sources, load_data, register_source
from sae_moral.data.moral_data import from_records
from sae_moral.data.rows import Rows
from sae_moral.data.sources import SOURCES

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
        "moralstrength", "reddit-corpus", "scenarios-400", "social-chem-101", "social-chem-101-full", "vignettes",
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
    cases: list[tuple[Any, dict[str, Any]]] = [
        (data, {"path": "x"}),
        (data, {"extra_columns": "ignore"}),
        ("moralstrength", {"text_column": "words"}),
        (vignettes, {"text_column": "text"}),
        (vignettes, {"path": vignettes}),
        (data.to_dataset(), {"path": vignettes}),
    ]
    for source, options in cases:
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
    refused(lambda: untyped(DatasetDict({"train": data.to_dataset()})), "'train'", "expected split=")
    with pytest.raises(TypeError, match="a int; expected a MoralData"):
        untyped(3)


def test_importing_the_data_package_stays_light() -> None:
    heavy = ("pandas", "pyarrow", "datasets", "torch", "moralstrength", "requests", "matplotlib", "scipy", "tqdm")
    code = f"import sys, sae_moral.data.sources as s; print([m for m in {heavy} if m in sys.modules])"
    root = Path(sys.modules["sae_moral.data"].__file__ or "").resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def clean_sources() -> Iterator[None]:
    """Forget the sources a test registered."""
    before = dict(SOURCES.registered)
    yield
    SOURCES.registered.clear()
    SOURCES.registered.update(before)


def _own_source(**changes: Any) -> Source:
    def read(rows: Rows) -> MoralData:
        records = [(row.identifier(), row.text("deed"), np.zeros(10), -1) for row in rows.read(("deed", "mark"))]
        return from_records(records, {"source": "deeds"})

    about = {"what": "deeds", "licence": "CC0", "citation": "nobody", "obtain": "pass the .csv file as path="}
    table = {"suffix": ".csv", "columns": ("deed", "mark"), "read": read}
    return Source(name="deeds", **{**about, **table, **changes})


def test_a_source_of_one_s_own_is_known_by_name_and_by_its_columns(tmp_path: Path, clean_sources: None) -> None:
    path = tmp_path / "d.csv"
    path.write_text("deed,mark,more\nwaiting,1,x\n")
    with pytest.raises(ValueError, match="unknown data source 'deeds'"):
        load_data("deeds")
    assert register_source(_own_source()).name in [source.name for source in list_sources()]
    assert load_data(path).provenance == load_data("deeds", path=path).provenance == {"source": "deeds"}
    assert load_data(path).id == ("d.csv:2",)
    with pytest.raises(ValueError, match="'deeds' is not shipped"):
        load_data("deeds")
    with pytest.raises(ValueError, match=r"text_column= given for d\.csv, recognised as 'deeds'"):
        load_data(path, text_column="deed")
    with pytest.raises(ValueError, match="a data source named 'deeds' exists already"):
        register_source(_own_source())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"read": None, "suffix": "", "columns": ()}, "neither load= nor read="),
        ({"columns": ()}, "needs suffix=, columns= and read= together"),
        ({"recognises": lambda path: False}, "recognises= without load="),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        _own_source(**changes)


def test_an_entry_point_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("other", "sae_moral.data.builtin:vignettes", SOURCES.group)
    monkeypatch.setitem(SOURCES.declared, "other", entry)
    with pytest.raises(TypeError, match=r"the entry point 'other' of sae_moral\.sources gave .*expected a Source"):
        load_data("other")
