"""`sae-moral flames` is the plugin's command, and says so where the plugin is missing."""

from __future__ import annotations

import importlib.util

import pytest

from sae_moral.cli import main


def test_options_are_the_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flames", "--out", "nowhere"]) == 2
    assert "say who answers: --model MODEL" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["flames", "--help"])
    assert "--operations" in capsys.readouterr().out


def test_without_the_plugin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["flames"]) == 2
    assert "pip install sae-moral-inspect" in capsys.readouterr().err
