"""Invented scenarios, and where the shared data are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_moral.data import MoralData
from sae_moral.errors import DataError

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A file of the shared data; the test is skipped where it is missing."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs the shared data beside the checkout: ../shared/data/{name}")
        return path

    return find


@pytest.fixture(scope="session")
def same_data() -> Callable[[MoralData, MoralData], None]:
    """Asserts that two data sets hold the same records."""

    def check(a: MoralData, b: MoralData) -> None:
        assert a.text == b.text
        assert a.id == b.id
        for name in ("vector", "foundation", "pole", "typicality"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.sha256 == b.sha256

    return check


@pytest.fixture(scope="session")
def refused() -> Callable[..., None]:
    """Asserts that a call raises `DataError` with this place and these words."""

    def check(call: Callable[[], Any], *words: str, file: Any = None, row: Any = None, column: Any = None) -> None:
        with pytest.raises(DataError) as caught:
            call()
        error = caught.value
        assert (error.file, error.row, error.column) == (file, row, column), str(error)
        for word in words:
            assert word in str(error)

    return check


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records to a .jsonl file."""

    def write(records: Iterable[Mapping[str, Any]], name: str = "own.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
        return path

    return write
