"""`sae-moral doctor`: every problem it knows, made up, and that no token is ever told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from sae_moral import __version__, doctor
from sae_moral.cli import main
from sae_moral.doctor import Examination, Problem, examine

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A package that is there by its metadata alone, found before those that are installed."""

    def add(name: str, version: str = "1.0", needs: str = "", entry_points: str = "", python: str = ">=3.10") -> None:
        folder = tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        required = f"Requires-Dist: {needs}\n" if needs else ""
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {python}\n{required}"
        (folder / "METADATA").write_text(about)
        (folder / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(tmp_path / "site")

    return add


def problem(word: str, found: Examination | None = None) -> Problem:
    """The one problem that tells of a word."""
    (one,) = [one for one in (found or examine()).problems if word in one.what]
    return one


def test_here_nothing_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "nothing blocks" in printed.splitlines()[-1]
    for word in ("python", "sae-moral", "torch", "transformers", "transformer-lens", "sae-lens", "cores", "cache"):
        assert word in printed
    assert __version__ in printed and str(torch.get_num_threads()) in printed


def test_json_holds_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "device", "hub", "caches", "problems", "blocked"}
    assert found["versions"]["torch"] == torch.__version__ and found["blocked"] is False
    assert found["device"]["threads"] == torch.get_num_threads()
    assert all(set(one) == {"what", "do", "blocks"} for one in found["problems"])


def test_a_token_is_never_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobody_should_read_this")
    assert examine().hub["token"] == "present"
    for line in (["doctor"], ["doctor", "--json"]):
        main(line)
        assert "nobody_should" not in "".join(capsys.readouterr())


def test_a_package_that_pins_another_version_is_named_and_does_not_block(install: Install) -> None:
    install("steering-vectors", "0.12.2", needs="transformers<5")
    one = problem("steering-vectors")
    assert "needs transformers<5, and transformers 5" in one.what and not one.blocks
    assert "environment of its own" in one.do


def test_extras_that_were_not_asked_for_are_no_conflict(install: Install) -> None:
    install("pins-in-an-extra", needs='numpy<2; extra == "old"')
    assert not [one for one in examine().problems if "pins-in-an-extra" in one.what]


@pytest.mark.parametrize(("needs", "said"), [("numpy<1", "numpy 2"), ("no-such-thing>=3", "no-such-thing is not inst")])
def test_what_this_package_needs_blocks(
    install: Install, needs: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install("sae-moral", __version__, needs=needs)
    one = problem("sae-moral needs")
    assert said in one.what and one.blocks and one.do == f"pip install '{needs}'"
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert f"blocks: {one.what}" in printed and "block" in printed.splitlines()[-1]


def test_another_python_blocks(install: Install) -> None:
    install("sae-moral", __version__, python=">=3.99")
    assert problem("expected >=3.99").blocks


def test_metadata_of_another_version_is_told(install: Install) -> None:
    install("sae-moral", "0.0.1")
    one = problem("metadata")
    assert "0.0.1" in one.what and __version__ in one.what and "pip install -e ." in one.do


def test_an_import_that_fails_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library.py").write_text("raise OSError('libsomething.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "IMPORTED", ("broken_library",))
    one = problem("broken_library")
    assert "libsomething.so" in one.what and one.blocks and "broken-library" in one.do


@pytest.mark.parametrize(
    ("entry", "said"),
    [("categorical = somewhere.other:metric", "two packages declare"), ("mine = no_such_module:m", "does not load")],
)
def test_plugins_that_cannot_be_had_block(install: Install, entry: str, said: str) -> None:
    install("a-plugin", entry_points=f"[sae_moral.metrics]\n{entry}\n")
    one = problem(said)
    assert one.blocks and "uninstall" in one.do


def test_threads_beyond_a_containers_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    found = examine()
    assert found.device["cores"] == 1
    assert problem("2 threads on 1 core", found).do == "OMP_NUM_THREADS=1"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert examine().device["cores"] == len(getattr(sys.modules["os"], "sched_getaffinity", lambda _: [0])(0))


def test_a_build_for_gpus_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    one = problem("CUDA 13.0")
    assert not one.blocks and "nvidia-smi" in one.do


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "mem_get_info": lambda i: (2**30 * (i + 1), 80 * 2**30),
        "get_device_name": lambda i: f"Card {i}",
        "is_bf16_supported": lambda: True,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    found = examine()
    assert found.device["gpus"][1] == {"name": "Card 1", "memory_gib": 80.0, "free_gib": 2.0, "bfloat16": True}
    assert "Card 0" in found.summary() and not [one for one in found.problems if "GPU" in one.what]


def test_half_an_offline_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("SAE_MORAL_OFFLINE", "1")
    assert "HF_HUB_OFFLINE=1" in problem("SAE_MORAL_OFFLINE").do


def test_caches_are_measured_and_one_that_cannot_be_written_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache" / "models").mkdir(parents=True)
    with (tmp_path / "cache" / "models" / "weights").open("wb") as file:
        file.truncate(3 * 2**29)
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path / "cache"))
    assert examine().caches["sae-moral"]["size_gib"] == 1.5
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path / "file" / "below"))
    one = problem("cannot be written")
    assert one.blocks and "SAE_MORAL_CACHE" in one.do


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**29}))
    assert all("make room" in one.do for one in examine().problems if "GiB are left" in one.what)
    assert [one for one in examine().problems if "0.5 GiB are left" in one.what]
