"""`sae-moral operate`: what a user types, what is written, how it fails."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from sae_moral.cli import main
from sae_moral.steering import Wording
from sae_moral.steering.model_writes import model_write
from sae_moral.surgery import Operation
from tests.surgery.worlds import sae
from tests.tiny import scenarios


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    loaded = sae("topk")
    g = torch.Generator().manual_seed(0)
    loaded.sae.W_enc.data = torch.randn(16, 48, generator=g)
    loaded.sae.cfg.metadata.sae_moral = {"granularity": "token", "template": "{text}", "pooling": None}
    loaded.sae.save_model(tmp_path / "sae")
    data = scenarios(400)
    lines = (json.dumps({"text": t, "vector": v}) for t, v in zip(data.text, data.vector.tolist(), strict=True))
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_operate_writes_an_operation_and_prints_what_changed(
    folder: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["operate", str(tiny_folder), str(folder / "sae"), "--data", str(folder / "table.jsonl")]
    options = ["--settings", "paper", "--shares", "0.6,0.2,0.2", "--device", "cpu", "--store", str(folder / "store")]
    assert main([*command, *options, "--control", "shuffled", "--out", str(folder / "out")]) == 0
    printed = capsys.readouterr().out
    assert "polarity_auroc" in printed and "95 % interval" in printed and str(folder / "out") in printed
    operation = Operation.load(folder / "out")
    assert operation.record.control == "shuffled"
    assert operation.record.capture["granularity"] == "token" and operation.record.parts["test"] == 80


def test_bad_input_says_what_would_be_right_and_writes_nothing(
    folder: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["operate", str(tiny_folder), str(folder / "sae"), "--data", str(folder / "table.jsonl")]
    for options, message in (
        (["--control", "shufled"], "did you mean 'shuffled'"),
        (["--shares", "0.6,0.4"], "expected three numbers"),
        (["--latents", str(folder)], "moral_latents.json"),
    ):
        assert main([*command, *options, "--device", "cpu", "--out", str(folder / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_writes_are_named_and_another_write_is_another_operation(
    folder: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [Wording("tiny", "{text} is morally", (("helping", "hitting"),))]  # the tiny model has no " right"
    known = partial(model_write, wordings=words)
    monkeypatch.setattr("sae_moral.steering.model_writes.model_write", known)
    command = ["operate", str(tiny_folder), str(folder / "sae"), "--data", str(folder / "table.jsonl")]
    command += "--rule paper --epochs 2 --shares 0.6,0.2,0.2 --device cpu".split()
    command += ["--store", str(folder / "store"), "--out", str(folder / "out")]
    names = ("shared", "output", "natural", "downstream", "order")
    assert main([*command, "--write", ",".join(names)]) == 0, capsys.readouterr().err
    written = Operation.load(folder / "out").record.written
    assert written is not None and written["writes"] == dict.fromkeys(names, 1.0)
    capsys.readouterr()
    assert main([*command, "--by-attribution", "--latents", str(folder)]) == 2
    assert "both choose the latents" in capsys.readouterr().err
    assert main([*command, "--write", "shared"]) == 2
    assert "write" in capsys.readouterr().err
    assert main([*command, "--write", "outputs"]) == 2
    assert "did you mean 'output'" in capsys.readouterr().err
