"""Latents in the place of the residual stream: diagnose(sae=...), activations by token, the commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral import diagnose
from sae_moral.cli import main
from sae_moral.controls import Controls
from sae_moral.controls.sample import Seen
from sae_moral.metrics import resolve_metrics
from sae_moral.metrics.base import evaluate
from sae_moral.metrics.categorical import AuditedCategorical
from sae_moral.metrics.preprocess import preprocess
from sae_moral.protocol import get_protocol
from sae_moral.sae import TrainSettings, load_sae, load_saes, train_saes
from sae_moral.sae.latents import latents_by_token
from tests.metrics.test_batched import plain
from tests.tiny import scenarios

FEW = Controls(names=("interval", "null"), resamples=50, permutations=19)


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs of two layers of the tiny model, twenty times as wide as it."""
    folder = tmp_path_factory.mktemp("saes")
    settings = TrainSettings(steps=30, expansion=20, architecture="batchtopk", target_l0=8, checkpoints=1)
    train_saes(str(tiny_folder), scenarios(), [1, 2], settings, out=folder, splice_texts=0)
    return folder


def test_coordinates_of_the_span_leave_every_metric_as_it_is() -> None:
    x, data = plain()
    wide = torch.cat([x, torch.from_numpy(np.random.default_rng(0).standard_normal((len(x), len(x) + 60)))], dim=1)
    protocol = get_protocol("audited")
    assert data.length is not None
    prepared, _ = preprocess(wide, data.length, protocol.preprocessing)
    turned = Seen(wide, prepared).by(AuditedCategorical())
    assert turned.shape == (len(x), len(x))
    torch.testing.assert_close(turned @ turned.T, prepared @ prepared.T, rtol=0, atol=1e-8)
    for metric in resolve_metrics(None, protocol):
        assert getattr(metric, "rotation_invariant", False)
        before, after = evaluate(metric, prepared, data), evaluate(metric, turned, data)
        assert [(s.name, s.group) for s in before] == [(s.name, s.group) for s in after]
        for one, other in zip(before, after, strict=True):
            assert (one.value is None) == (other.value is None)
            if one.value is not None:
                assert other.value == pytest.approx(one.value, abs=1e-6), (metric.name, one.name, one.group)


def test_a_metric_that_says_nothing_of_rotations_gets_the_latents_themselves(
    tiny: Any, trained: Path, clean_registry: None
) -> None:
    from sae_moral import metric

    seen = []

    @metric(headline="density", means="Share of latents that are not at their mean.")
    def density(x: Any, data: Any) -> dict[str, float]:
        seen.append(tuple(x.shape))
        return {"density": float((x != 0).double().mean())}

    found = diagnose(tiny, scenarios(60), sae=trained, layers=1, metrics=[density], controls="none")
    assert seen == [(60, 320)]
    assert 0 < (found.rows[0].value or 0) <= 1


def test_latents_are_measured_beside_the_stream_they_encode(tiny: Any, trained: Path) -> None:
    data = scenarios(120)
    found = diagnose(tiny, data, sae=trained, metrics=["categorical", "dimensional"], controls=FEW)
    assert found.provenance["layers"] == [1, 2]
    saes = load_saes(trained)
    held = found.provenance["saes"]
    assert held is not None and held["1"]["sha256"] == saes[1].sha256
    stream = diagnose(tiny, data, layers=[1, 2], metrics=["categorical", "dimensional"], controls=FEW)
    before = found.baselines["residual stream"].profiles
    for metric in ("categorical", "dimensional"):
        profile = stream.profiles[metric]
        assert (before[metric].layers, before[metric].values) == ((1, 2), profile.values)
    against = [one for one in found.comparisons if one.against == "residual stream"]
    assert {one.metric for one in against} == {"categorical", "dimensional"}
    assert all(one.p_value is not None for one in against)
    assert all("residual stream" not in verdict.sentence for verdict in found.verdicts.values())


def test_random_weights_are_encoded_by_the_same_sae(tiny: Any, trained: Path) -> None:
    controls = Controls(names=("random-weights",))
    found = diagnose(tiny, scenarios(60), sae=trained, layers="2", metrics=["categorical"], controls=controls)
    assert set(found.baselines) == {"random weights", "residual stream"}


def test_a_layer_without_an_sae_and_an_sae_of_another_width_are_refused(tiny: Any, trained: Path, gpt2: Path) -> None:
    with pytest.raises(ValueError, match=r"layers \[0\].*SAEs of \[1, 2\]"):
        diagnose(tiny, scenarios(60), sae=trained, layers="0,1")
    with pytest.raises(ValueError, match="width"):
        diagnose(tiny, scenarios(60), sae=gpt2)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """An SAE of vectors of 8 numbers."""
    from sae_lens import SAE

    sae = SAE.from_dict({"architecture": "standard", "d_in": 8, "d_sae": 16, "dtype": "float32", "device": "cpu",
                         "metadata": {"hook_name": "blocks.1.hook_resid_post"}})  # fmt: skip
    sae.save_model(tmp_path / "narrow")
    return tmp_path / "narrow"


def test_two_saes_of_one_layer_in_a_folder_are_refused(trained: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("a", "b"):
        shutil.copytree(trained / "blocks.1.hook_resid_post", tmp_path / name)
    with pytest.raises(ValueError, match=r"several SAEs of layers \[1\]"):
        load_saes(tmp_path)


def test_activations_by_token_are_those_that_are_pooled(tiny: Any, trained: Path) -> None:
    from sae_moral.sae import latent_representations

    sae, text = load_sae(trained / "blocks.1.hook_resid_post"), scenarios(6).text
    pooled = latent_representations(tiny, text, sae)[1]
    chosen = [0, 7, 319]
    found = latents_by_token(tiny, sae, text, chosen)
    for row, tokens in enumerate(found):
        assert [word for word, _ in tokens[0]] == text[row].split()
        for i, latent in enumerate(chosen):
            mean = np.mean([value for _, value in tokens[i]])
            assert mean == pytest.approx(float(pooled[row, latent]), abs=1e-5)
    with pytest.raises(ValueError, match="320"):
        latents_by_token(tiny, sae, text, [320])


def test_the_commands(tiny_folder: Path, trained: Path, tmp_path: Path, capsys: Any) -> None:
    table = tmp_path / "data.jsonl"
    rows = [
        {"text": text, **{d: float(v) for d, v in zip(_dimensions(), vector, strict=True)}}
        for text, vector in zip(scenarios(900).text, scenarios(900).vector, strict=True)
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    common = [str(tiny_folder), "--data", str(table)]
    out = tmp_path / "diagnosed"
    assert main(["diagnose", *common, "--sae", str(trained), "--controls", "none", "--out", str(out)]) == 0
    assert json.loads((out / "diagnosis.json").read_text())["provenance"]["saes"]
    assert main(["latents", *common, "--sae", str(trained), "--out", str(tmp_path / "latents")]) == 0
    assert (tmp_path / "latents" / "layer_002" / "moral_latents.json").exists()
    assert (tmp_path / "latents" / "latents.html").exists()
    options = ["--controls", "none", "--metrics", "categorical", "--out", str(tmp_path / "compared")]
    assert main(["compare-saes", *common, "--saes", str(trained), *options]) == 0
    assert re.search(r"blocks\.2\.hook_resid_post +2 +320 ", capsys.readouterr().out)
    assert main(["saes", "Qwen/Qwen3-8B"]) == 0
    assert "qwen-scope-3-8b-base-w64k-l50/" in capsys.readouterr().out
    assert main(["saes", "nobody/nothing-7b"]) == 1


def _dimensions() -> tuple[str, ...]:
    from sae_moral import DIMENSIONS

    return tuple(DIMENSIONS)
