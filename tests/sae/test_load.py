"""Loading: community formats give their authors' latents; what does not fit is refused by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from sae_moral.errors import SaeMoralWarning
from sae_moral.provenance import HookedModel
from sae_moral.sae.columns import columns_of
from sae_moral.sae.compatibility import community_saes, model_family
from sae_moral.sae.load import load_sae, load_saes
from tests.capture import hub
from tests.sae.formats import FORMATS, MODEL, D, K, S, gemma_scope, llama_scope, qwen_scope, serve, sparsify

X = torch.randn(40, D, generator=torch.Generator().manual_seed(9)) * 3


def model(name: str = MODEL, d_model: int = D, n_layers: int = 3) -> Any:
    cfg = SimpleNamespace(model_name=name, d_model=d_model, n_layers=n_layers, device="cpu")
    return Mock(spec=HookedModel, cfg=cfg, training=False)


def small_sae(architecture: str = "standard", **options: Any) -> Any:
    """An SAELens SAE with random weights."""
    from sae_lens import SAE

    metadata = {"hook_name": "blocks.1.hook_resid_post", "model_name": MODEL, **options.pop("metadata", {})}
    config = {"architecture": architecture, "d_in": D, "d_sae": S, "metadata": metadata, **options}
    sae = SAE.from_dict(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.3
    return sae


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_a_community_format_gives_its_authors_latents(
    write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae_id, architecture, release, encode = write(tmp_path)
    serve(monkeypatch, tmp_path, "someones-saes", release)
    loader = "sparsify" if write is sparsify else None  # nothing on SAELens' list is in this layout
    loaded = load_sae(("someones-saes", sae_id), model=model(), loader=loader)
    assert (loaded.architecture, loaded.d_in, loaded.d_sae) == (architecture, D, S)
    assert loaded.layer == (2 if write.__name__ == "gemma_scope_2" else 1)
    assert loaded.bos == "prepend"
    torch.testing.assert_close(loaded.encode(X), encode(X), rtol=1e-5, atol=1e-5)
    again = load_sae(f"someones-saes/{sae_id}", loader=loader)
    assert again.sha256 == loaded.sha256
    assert json.dumps(loaded.describe())
    measured = columns_of(loaded, X, torch.arange(len(X)))
    torch.testing.assert_close(measured.read(3, S), encode(X)[:, 3:], rtol=1e-5, atol=1e-5)
    for other, problem in (
        (model(d_model=D + 2), "width: "),
        (model(n_layers=1), "hook: "),
        (model("gpt2"), "model: "),
    ):
        with pytest.raises(ValueError, match=problem):
            load_sae(("someones-saes", sae_id), model=other, loader=loader)


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_damaged_files_are_refused(write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae_id, _, release, _ = write(tmp_path)
    serve(monkeypatch, tmp_path, "someones-saes", release)
    largest = max((path for path in tmp_path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cannot load the SAE someones-saes/.*complete and unchanged"):
        load_sae(("someones-saes", sae_id), loader="sparsify" if write is sparsify else None)


def test_a_configuration_of_another_width_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae_id, _, release, _ = qwen_scope(tmp_path)
    release["config_overrides"]["d_sae"] = S + 1
    serve(monkeypatch, tmp_path, "someones-saes", release)
    with pytest.raises(ValueError, match="size mismatch"):
        load_sae(("someones-saes", sae_id))


def test_a_scaling_that_is_not_folded_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae_id, _, release, _ = llama_scope(tmp_path)
    serve(monkeypatch, tmp_path, "someones-saes", {**release, "norm_scaling_factor": {}})
    with warnings.catch_warnings(), pytest.raises(ValueError, match="expected_average_only_in, which is not folded"):
        warnings.simplefilter("ignore", UserWarning)
        load_sae(("someones-saes", sae_id))


def test_folders_load_in_both_layouts(tmp_path: Path) -> None:
    sae_id, _, _, encode = sparsify(tmp_path)
    loaded = load_sae(tmp_path / sae_id)
    torch.testing.assert_close(loaded.encode(X), encode(X), rtol=1e-5, atol=1e-5)
    sae = small_sae("jumprelu")
    sae.save_model(tmp_path / "mine")
    again = load_sae(str(tmp_path / "mine"), model=model())
    assert torch.equal(again.encode(X), sae.encode(X))
    assert again.sha256 == load_sae(sae).sha256
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no cfg\.json beside"):
        load_sae(tmp_path / "empty")
    config = json.loads((tmp_path / sae_id / "cfg.json").read_text())
    (tmp_path / sae_id / "cfg.json").write_text(json.dumps({**config, "transcode": True}))
    with pytest.raises(ValueError, match="transcode=true"):
        load_sae(tmp_path / sae_id)


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_the_input_path_is_that_of_the_configuration(architecture: str, normalize: str) -> None:
    options = {"k": K} if architecture == "topk" else {}
    sae = small_sae(architecture, normalize_activations=normalize, apply_b_dec_to_input=True, **options)
    loaded = load_sae(sae)
    found = loaded.encode(X.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, sae.encode(X.bfloat16()))
    if architecture == "topk":
        with pytest.raises(ValueError, match="latents of a topk SAE compete"):
            loaded.part(0, 3)
    else:
        parts = [loaded.part(start, start + 7).encode(X.bfloat16()) for start in range(0, S - 7, 7)]
        torch.testing.assert_close(torch.cat(parts, dim=1), found[:, : 7 * len(parts)])


def test_a_different_input_setting_is_another_sae() -> None:
    assert load_sae(small_sae()).sha256 != load_sae(small_sae(apply_b_dec_to_input=False)).sha256


def test_an_sae_in_training_is_what_saelens_saves(tmp_path: Path) -> None:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    training = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D, d_sae=S, k=K))
    training.cfg.metadata.hook_name = "blocks.0.hook_resid_pre"
    training.topk_threshold.fill_(0.3)
    with torch.no_grad():
        training.W_dec.mul_(3.0)
    before = {name: value.clone() for name, value in training.state_dict().items()}
    training.cfg.metadata.hook_name = "blocks.2.hook_resid_pre"
    loaded = load_sae(training)
    assert (loaded.architecture, loaded.layer) == ("jumprelu", 1)
    assert all(torch.equal(before[name], value) for name, value in training.state_dict().items())
    training.save_inference_model(tmp_path / "saved")
    assert torch.equal(loaded.encode(X), load_sae(tmp_path / "saved").encode(X))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"metadata": {"hook_name": "blocks.1.attn.hook_z"}}, "hook: .* reads 'blocks.1.attn.hook_z'"),
        ({"metadata": {"hook_name": "blocks.0.hook_resid_pre"}}, "hook: .* reads 'blocks.0.hook_resid_pre'"),
        ({"metadata": {"hook_name": None}}, "pass layer="),
        ({"metadata": {"hook_name": "blocks.7.hook_resid_post"}}, "hook: .* has blocks 0 to 2"),
        ({"metadata": {"model_name": "gemma-2-2b"}}, "model: .* was trained on gemma-2-2b, and this model is tiny-"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening, which is not folded"),
        ({"d_in": D + 2}, f"width: .* reads vectors of {D + 2} numbers and tiny-model has {D}"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load_sae(small_sae(**changes), model=model())


def test_other_refusals(tmp_path: Path) -> None:
    from sae_lens import SAE

    transcoder = SAE.from_dict(
        {"architecture": "transcoder", "d_in": D, "d_out": D, "d_sae": S, "apply_b_dec_to_input": False}
    )
    with pytest.raises(ValueError, match="is a transcoder: it predicts another hook"):
        load_sae(transcoder)
    damaged = small_sae()
    damaged.W_enc.data[3, 2] = float("nan")
    with pytest.raises(ValueError, match="weights that are not finite: W_enc"):
        load_sae(damaged)
    with pytest.raises(ValueError, match="layer 2 was asked for"):
        load_saes({2: small_sae()})
    with pytest.raises(ValueError, match="no SAE given"):
        load_saes({})
    with pytest.raises(ValueError, match="width: vectors of 3 numbers"):
        load_sae(small_sae()).encode(X[:, :3])
    with pytest.raises(ValueError, match=r"unknown SAE release .*did you mean 'gemma-scope-2-270m-pt-res'"):
        load_sae(("gemma-scope-2-270m-pt-ress", "layer_9"))
    with pytest.raises(ValueError, match=r"unknown SAE of gemma-scope-2-270m-pt-res 'layer_12_width_16k'"):
        load_sae("gemma-scope-2-270m-pt-res/layer_12_width_16k")
    with pytest.raises(ValueError, match="unknown SAE 'nothing'"):
        load_sae("nothing")


def test_options_of_loading(tmp_path: Path) -> None:
    small_sae().save_model(tmp_path)
    assert load_sae(tmp_path, dtype="bf16").sae.dtype == load_sae(tmp_path, dtype=torch.bfloat16).sae.dtype
    refused: list[tuple[dict[str, Any], str]] = [
        ({"dtype": "float23"}, "^unknown dtype 'float23'"),
        ({"device": "cuda:7"}, "^no device 'cuda:7' on this machine"),
        ({"loader": "sparsfy"}, "^unknown loader for a folder 'sparsfy'; did you mean 'sparsify'"),
    ]
    for options, problem in refused:
        with pytest.raises(ValueError, match=problem):
            load_sae(tmp_path, **options)
    with pytest.raises(ValueError, match=r"^unknown loader 'gemma_22'; did you mean 'gemma_2'"):
        load_sae(("someone/saes", "layer_1"), loader="gemma_22")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (hub.unreachable, "not a folder, and the hub could not be reached, and it is not in the cache"),
        (hub.error(404, "RepoNotFound", "no"), "not a folder, and the hub has no such repository, or a private one"),
        (hub.error(403, "GatedRepo", "no"), "a gated repository: .* at https://huggingface.co/out/saes, then log in"),
    ],
)
def test_an_sae_that_the_hub_does_not_give(
    answer: hub.Answer, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        hub.answering(answer, monkeypatch, tmp_path),
        pytest.raises(ValueError, match=rf"^cannot load the SAE out/saes/blocks.9.hook_resid_post: {said}"),
    ):
        load_sae("out/saes/blocks.9.hook_resid_post")
    with pytest.raises(ValueError, match="not a folder, and the hub has no names like this"):
        load_sae("/out/saes/blocks.9.hook_resid_post")


def test_base_and_chat() -> None:
    sae = small_sae(metadata={"model_name": "google/gemma-3-270m-pt"})
    load_sae(sae, model=model("gemma-3-270m"))
    with pytest.warns(SaeMoralWarning, match="trained on the base model .* used with the chat model"):
        load_sae(sae, model=model("google/gemma-3-270m-it"))
    with pytest.warns(SaeMoralWarning, match="was trained on google/gemma-3-270m-pt, and this model is my-copy"):
        load_sae(sae, model=model("my-copy"), any_model=True)
    assert model_family("gpt2-small") == model_family("gpt2") == ("gpt2", False)
    assert model_family("Qwen/Qwen3-8B") == ("qwen3-8b", True)
    assert model_family("Qwen/Qwen3-8B-Base") == ("qwen3-8b", False)
    assert model_family("meta-llama/Llama-3.1-8B-Instruct") == ("llama-3.1-8b", True)


def test_community_saes_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = community_saes("Qwen/Qwen3-8B")
    assert {row.release for row in found} == {"qwen-scope-3-8b-base-w64k-l50", "qwen-scope-3-8b-base-w64k-l100"}
    assert not any(row.same_variant for row in found)
    assert len(found[0].ids) == 36
    kinds = {row.kind for row in community_saes("gemma-3-270m", kind=None)}
    assert kinds == {"residual", "mlp", "attention", "transcoder"}
    gemma = community_saes(model("gemma-3-270m"))
    assert gemma[0].release.startswith("gemma-scope-2-270m-pt") and gemma[0].same_variant
    assert all("res" in row.release for row in gemma)
    assert community_saes("smollm2-135m-instruct") == []
    _, _, release, _ = gemma_scope(tmp_path)
    serve(monkeypatch, tmp_path, "mine-res", release)
    assert [row.release for row in community_saes(model())] == ["mine-res"]
