"""A table of scenarios, and an empty working folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import scenarios


@pytest.fixture
def table(tmp_path: Path) -> Path:
    data = scenarios(120)
    lines = (json.dumps({"text": t, "vector": v}) for t, v in zip(data.text, data.vector.tolist(), strict=True))
    path = tmp_path / "table.v1.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
