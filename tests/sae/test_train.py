"""From a model and scenarios to SAEs, from Python and from the command line; what splicing one in costs the model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sae_moral.cli import main
from sae_moral.data import write_parquet
from sae_moral.sae.evaluate import loss_recovered
from sae_moral.sae.train import train_saes
from sae_moral.sae.train_config import TrainSettings
from tests.tiny import scenarios

QUICK = TrainSettings(expansion=4, target_l0=8, steps=150, batch=64, lr=3e-3, granularity="token", init="random")


def test_all_layers_from_one_pass(tiny: Any, tmp_path: Path) -> None:
    passes = []
    forward = type(tiny).forward

    def counting(*args: Any, **options: Any) -> Any:
        passes.append(options.get("return_type"))
        return forward(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tiny), "forward", counting)
        found = train_saes(tiny, scenarios(), "all", QUICK, out=tmp_path / "o", splice_texts=0, progress=False)
        once = len(passes)
        again = train_saes(tiny, scenarios(), "all", QUICK, out=tmp_path / "o", splice_texts=0, progress=False)
    assert len(passes) == once and again.results == found.results
    assert sorted(found.results) == [0, 1, 2] and found.results[2]["loss_recovered"] is None
    for layer, result in found.results.items():
        sae = found.load(layer)
        assert (sae.cfg.d_in, sae.cfg.d_sae) == (16, 64)
        assert sae.cfg.metadata.hook_name == f"blocks.{layer}.hook_resid_post" == found.path(layer).name
        assert (result["held_out"]["explained_variance"] or 0) > 0.5
    assert "held_out_ev" in found.summary()
    listed = json.loads((tmp_path / "o" / "training.json").read_text())
    assert (listed["kind"], len(listed["results"])) == ("sae_training", 3)


def test_our_loader_takes_what_was_trained(tiny: Any, tmp_path: Path) -> None:
    from sae_moral.sae.load import load_sae

    found = train_saes(tiny, scenarios(), [1], QUICK, out=tmp_path, progress=False)
    loaded = load_sae(found.path(1))
    assert (loaded.layer, loaded.d_sae, loaded.architecture) == (1, 64, "topk")
    assert set(found.results[1]["loss_recovered"] or ()) == {
        "recovered",
        "clean_nats",
        "spliced_nats",
        "zero_nats",
        "n_tokens",
    }


def _sae(decode: Any) -> Any:
    metadata = SimpleNamespace(hook_name="blocks.1.hook_resid_post")
    return SimpleNamespace(
        encode=lambda x: x, decode=decode, device="cpu", dtype=torch.float32, cfg=SimpleNamespace(metadata=metadata)
    )


def test_a_perfect_sae_recovers_all_of_the_loss_and_zeros_none(tiny: Any) -> None:
    data = scenarios(30)
    perfect = loss_recovered(tiny, _sae(lambda x: x), data.text)
    nothing = loss_recovered(tiny, _sae(torch.zeros_like), data.text)
    assert perfect["spliced_nats"] == pytest.approx(perfect["clean_nats"], abs=1e-6)
    assert nothing["spliced_nats"] == pytest.approx(nothing["zero_nats"], abs=1e-6)
    if perfect["recovered"] is not None:
        assert (perfect["recovered"], nothing["recovered"]) == pytest.approx((1, 0), abs=1e-5)
    with torch.no_grad():
        losses = []
        for text in sorted(set(data.text)):
            ids = torch.tensor([[1, *tiny.tokenizer(text, add_special_tokens=False).input_ids]])
            logits = tiny(ids, return_type="logits")[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    assert perfect["clean_nats"] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)
    assert perfect["n_tokens"] == len(torch.cat(losses))


def test_the_command_line(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_parquet(scenarios(60), tmp_path / "invented.parquet"), tmp_path / "saes"
    options = "--layers 0,2 --architecture batchtopk --expansion 4 --target-l0 8 --steps 20 --batch 32 --lr 0.003"
    line = ["train-sae", str(tiny_folder), "--data", str(data), *options.split(), "--out", str(out), "--device", "cpu"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "held_out_ev" in printed and str(out / "training.json") in printed
    assert sorted(path.name for path in out.iterdir() if path.name.startswith("blocks")) == [
        "blocks.0.hook_resid_post",
        "blocks.2.hook_resid_post",
    ]
    written = json.loads((out / "blocks.2.hook_resid_post" / "sae_moral.json").read_text())
    assert written["provenance"]["settings"]["architecture"] == "batchtopk"
    assert (out / "training.html").exists() and str(out / "training.html") in printed
    assert main([*line, "--store-dtype", "bfloat16"]) == 2
    assert "--store-dtype None (now 'bfloat16')" in capsys.readouterr().err
