"""What a study needs, against what it then takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sae_moral import plan
from sae_moral.capture import capture, load_model
from sae_moral.cli import main
from sae_moral.data import group_split
from sae_moral.planning import Needs
from sae_moral.planning.sizes import sizes_of
from sae_moral.sae.activations import capture_activations
from sae_moral.sae.train_config import TrainSettings
from tests.conftest import bundled
from tests.tiny import scenarios

LAYERS = (0, 2)
FLOPS = 1e10
"""Given, so that no test waits for a measurement of the forward pass."""


def step(needs: Needs, name: str) -> Any:
    return next(one for one in needs.steps if one.name.startswith(name))


def vectors(store: Path) -> list[Path]:
    return sorted(store.rglob("layer_*.safetensors"))


def test_a_store_takes_the_bytes_that_were_said(tiny_folder: Path, tmp_path: Path) -> None:
    data = scenarios(60)
    needs = plan(tiny_folder, data, layers=LAYERS, store=tmp_path, flops=FLOPS)
    captured = capture(load_model(tiny_folder, device="cpu"), data.text, layers=LAYERS, store=tmp_path)
    one = step(needs, "capture")
    assert one.disk == sum(path.stat().st_size for path in vectors(tmp_path))
    assert one.files == len([path for path in tmp_path.rglob("*") if path.is_file()])
    assert one.forwards == captured.provenance["n_prompts"] == len(set(data.text))
    assert needs.facts["tokens"] == captured.provenance["n_tokens"]


def test_vectors_of_tokens_take_the_bytes_that_were_said(tiny_folder: Path, tmp_path: Path) -> None:
    data, settings = scenarios(60), TrainSettings(expansion=2, target_l0=4, batch=16)
    needs = plan(tiny_folder, data, study="train-sae", layers=LAYERS, settings=settings, out=tmp_path, flops=FLOPS)
    model = load_model(tiny_folder, device="cpu")
    activations = capture_activations(model, data, LAYERS, store=tmp_path / "store", granularity="token")
    assert step(needs, "capture").disk == sum(path.stat().st_size for path in vectors(tmp_path))
    assert needs.facts["training_vectors"] == len(activations.rows("train"))
    assert needs.facts["steps"] == settings.resolved(len(activations.rows("train"))).steps
    d, s = 16, 32
    assert needs.facts["weights_of_an_SAE"] == 2 * d * s + d + s
    assert needs.rates[-1].unit == "s per step and weight" and needs.rates[-1].value > 0
    assert step(needs, "train").seconds == pytest.approx(
        len(LAYERS) * needs.facts["steps"] * needs.facts["weights_of_an_SAE"] * needs.rates[-1].value
    )


def test_operations_are_those_of_the_matrices(tiny_folder: Path) -> None:
    sizes = sizes_of(tiny_folder, dtype=torch.float32)
    d, wide, heads, kv = 16, 32, 2, 1
    head = d // heads
    matrices = d * d + 2 * d * kv * head + d * d + 3 * d * wide
    rows, width = 3, 10
    # Per token two operations for each weight; per pair of tokens, products of queries with keys and with values.
    each = 2 * matrices * rows * width + 2 * 2 * d * rows * width**2
    assert sizes.blocks[0].of(rows, width) == pytest.approx(each, rel=1e-9)
    assert sizes.until(1).of(rows, width) == pytest.approx(2 * each, rel=1e-9)
    assert sizes.whole.of(rows, width) > 3 * each


@pytest.mark.parametrize("name, fixture", [("smollm2-135m-instruct", "smollm2"), ("gemma-3-270m", "gemma")])
def test_parameters_of_bundled_models_are_counted_without_them(
    name: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    folder = bundled(name)
    sizes = sizes_of(name, dtype=torch.float32)
    files = [load_file(path) for path in folder.glob("*.safetensors")]
    assert sizes.parameters == sum(one.numel() for file in files for one in file.values())
    model = request.getfixturevalue(fixture).original_model
    # TransformerLens gives an unembedding a bias of zeros, the only vector as long as the vocabulary.
    own = [one for one in model.parameters() if one.shape != (sizes.n_vocab,)]
    assert sizes.parameters == sum(one.numel() for one in own)
    assert (sizes.n_layers, sizes.d_model) == (model.config.num_hidden_layers, model.config.hidden_size)


def test_a_memory_that_is_too_small_is_named(tiny_folder: Path) -> None:
    needs = plan(tiny_folder, scenarios(60), memory="1MiB", flops=FLOPS)
    assert not needs.fits
    assert needs.problems[0].startswith("load: needs ")
    assert "1 MiB (given); take bfloat16" in needs.problems[0]
    assert f"does not fit: {needs.problems[0]}" in needs.summary()
    assert plan(tiny_folder, scenarios(60), memory="80GiB", flops=FLOPS).fits


def test_only_the_step_that_is_too_large_is_named(tiny_folder: Path) -> None:
    data = scenarios(60)
    needs = plan(tiny_folder, data, device="cuda:7", memory="1GiB", flops=FLOPS)
    assert needs.fits and needs.device == "cuda:7" and not needs.facts["process"].strip("0 B")
    largest = max(needs.steps, key=lambda one: one.memory)
    needs = plan(tiny_folder, data, device="cuda:7", memory=largest.memory - 1, flops=FLOPS)
    assert [one.partition(":")[0] for one in needs.problems] == [largest.name]


def test_a_full_disk_is_named(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("sae_moral.planning.study.shutil.disk_usage", lambda _: free)
    needs = plan(tiny_folder, scenarios(60), store=tmp_path, flops=FLOPS)
    assert any(
        one.startswith("capture: by then ") and "choose another folder for them" in one for one in needs.problems
    )


def test_a_device_that_is_elsewhere_has_no_measured_rate(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no device 'cuda:7' on this machine; say what it has, e\.g\. memory="):
        plan(tiny_folder, scenarios(60), device="cuda:7")
    needs = plan(tiny_folder, scenarios(60), device="cuda:7", memory="80GiB")
    assert needs.hours is None and any("give its FLOP/s" in note for note in needs.notes)


def test_more_controls_take_more(tiny_folder: Path) -> None:
    data = scenarios(60)
    none, default, every = (
        plan(tiny_folder, data, controls=controls, flops=FLOPS) for controls in ("none", "default", "all")
    )
    assert [len(one.steps) for one in (none, default, every)] == [4, 5, 6]
    assert none.table().rows[-1][4] == f"{len(set(data.text)):,}"
    twin = step(every, "random weights").memory - step(every, "capture").memory
    assert twin >= 8 * none.facts["parameters"]  # one in the model's dtype, and float32 while it is drawn


def test_rates_are_measured(tiny_folder: Path) -> None:
    rates = plan(tiny_folder, scenarios(60)).rates
    assert [rate.unit for rate in rates] == ["FLOP/s", "bytes/s"]
    assert all(rate.value > 0 and rate.source.startswith("measured on this machine") for rate in rates)


def test_bad_arguments_say_what_was_expected(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="unknown study 'train'; did you mean 'train-sae'"):
        plan(tiny_folder, scenarios(60), study="train")
    with pytest.raises(ValueError, match="memory 'much'; expected bytes, or a number with a unit"):
        plan(tiny_folder, scenarios(60), memory="much")
    with pytest.raises(ValueError, match="flops is 0; expected operations per second"):
        plan(tiny_folder, scenarios(60), flops=0)


def test_the_command_prints_a_table_or_json(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = scenarios(60)
    lines = [json.dumps({"text": t, "vector": v}) for t, v in zip(data.text, data.vector.tolist(), strict=True)]
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    line = ["plan", str(tiny_folder), "--data", "table.jsonl", "--flops", "1e10", "--layers", "0,2"]
    assert main(line) == 0
    assert "all steps fit" in capsys.readouterr().out
    assert main([*line, "--json", "--memory", "1MiB"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == [0, 2] and not found["fits"] and len(found["problems"]) >= 1
    assert main([*line, "--study", "train-sae", "--expansion", "2", "--target-l0", "4", "--batch", "16"]) == 0
    assert "train 2 SAEs" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "table.jsonl"]


def test_many_texts_are_estimated(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_moral.planning.texts.TOKENISED", 20)
    data = scenarios(200)
    distinct = len(set(data.text))
    needs = plan(tiny_folder, data, flops=FLOPS)
    assert step(needs, "capture").forwards == distinct
    assert any(note.startswith("tokens are estimated") for note in needs.notes)
    assert group_split(data)["train"].size  # the data can be split, as a training would
