"""Which weights a hub name and a revision stand for, and that they are what is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sae_moral.capture
from sae_moral.studies.plan import read_plan
from sae_moral.studies.weights import Checksums, OneModel, source_of
from tests.capture import hub


def test_the_commit_of_a_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    with hub.answering(hub.repository({}, seen), monkeypatch, tmp_path):
        for revision in (None, "v1"):
            found = source_of("someone/tiny", Checksums(tmp_path / "checksums.json"), revision)
            assert found == {"hub": "someone/tiny", "revision": hub.COMMIT}
    assert seen[0].url.path == "/api/models/someone/tiny" and seen[1].url.path.endswith("/revision/v1")


def test_offline_it_is_that_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--someone--tiny" / "refs"
    refs.mkdir(parents=True)
    for name in ("main", "v1"):
        (refs / name).write_text(f"commit of {name}")
        found = source_of("someone/tiny", Checksums(tmp_path / "c.json"), None if name == "main" else name)
        assert found == {"hub": "someone/tiny", "revision": f"commit of {name}"}


def test_the_revision_of_a_plan_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Any] = []
    monkeypatch.setattr(sae_moral.capture, "load_model", lambda name, **options: given.append((name, options)))
    (tmp_path / "models.yaml").write_text("models: [{name: A, model: a/b, revision: v1}, {name: B, model: a/b}]")
    models = OneModel("cpu")
    for entry in read_plan(tmp_path / "models.yaml").entries:
        with pytest.raises(AssertionError):  # nothing was loaded
            models(entry.model, entry.dtype, None, entry.revision)
    assert [(name, options["revision"]) for name, options in given] == [("a/b", "v1"), ("a/b", None)]
