"""Where SAELens cannot be imported, what is about SAEs says what to install, and the rest does not ask for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_moral.cli import main
from sae_moral.sae import community_saes, load_sae
from sae_moral.sae.train_config import architectures

ASKED: dict[str, Callable[[Path], Any]] = {
    "an SAE of a folder": lambda folder: load_sae(folder),
    "SAEs of a model": lambda folder: community_saes("gemma-3-270m"),
    "architectures to train": lambda folder: architectures(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_missing_is_named(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    told = r"SAEs need SAELens, which cannot be imported \(.*; TransformerLens \d\S+ is .*pip install sae-lens"
    with pytest.raises(ModuleNotFoundError, match=told):
        ASKED[asked](tmp_path)


def test_a_command_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    assert main(["saes", "gemma-3-270m"]) == 2
    assert "SAEs need SAELens" in (error := capsys.readouterr().err) and "Traceback" not in error
