"""Every key of a configuration is applied, warned of or refused; none is lost on the way through SAELens."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

from sae_moral.errors import DataError, SaeMoralWarning
from sae_moral.provenance import HookedModel
from sae_moral.sae.config_keys import KEYS, WITHOUT_EFFECT, place_of
from sae_moral.sae.load import LoadedSae, load_sae

D, S, K = 10, 30, 4
G = torch.Generator().manual_seed(5)
W = {
    "W_enc": torch.randn(D, S, generator=G),
    "W_dec": torch.randn(S, D, generator=G),
    "b_enc": torch.randn(S, generator=G) * 0.3,
    "b_dec": torch.randn(D, generator=G) * 0.3,
}
X = torch.randn(7, D, generator=G) * 2 + 1
RAW = X @ W["W_enc"] + W["b_enc"]
CENTRED = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]
OLD = {
    "model_name": "tiny-model", "hook_point": "blocks.2.hook_resid_post", "hook_point_layer": 2,
    "hook_point_head_index": None, "d_in": D, "d_sae": S, "dtype": "torch.float32", "device": "cpu",
    "activation_fn_str": "relu", "prepend_bos": True, "normalize_activations": "none", "lr": 0.1,
    "l1_coefficient": 3, "dataset_path": "x", "context_size": 64,
}  # fmt: skip
METADATA = {"sae_lens_version": "6.9.0", "model_name": "tiny-model", "hook_name": "blocks.2.hook_resid_post"}
NEW = {
    "architecture": "standard", "d_in": D, "d_sae": S, "dtype": "float32", "device": "cpu",
    "apply_b_dec_to_input": True, "normalize_activations": "none", "metadata": METADATA,
}  # fmt: skip


def top(pre: torch.Tensor, k: int = K) -> torch.Tensor:
    found = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, found.indices, found.values.relu())


def folder(
    at: Path, config: Mapping[str, Any], metadata: Mapping[str, Any] | None = None, **weights: torch.Tensor
) -> Path:
    at.mkdir(exist_ok=True)
    held = {"metadata": {**config["metadata"], **(metadata or {})}} if "metadata" in config else {}
    (at / "cfg.json").write_text(json.dumps({**config, **held}))
    save_file({name: value.contiguous() for name, value in {**W, **weights}.items()}, at / "sae_weights.safetensors")
    return at


def read(at: Path, config: Mapping[str, Any], metadata: Mapping[str, Any] | None = None, **more: Any) -> LoadedSae:
    return load_sae(folder(at, config, metadata, **more))


def model(**cfg: Any) -> Any:
    about = {"model_name": "tiny-model", "d_model": D, "n_layers": 4, "device": "cpu", **cfg}
    return Mock(spec=HookedModel, cfg=SimpleNamespace(**about), training=False)


def test_old_layouts_give_the_latents_they_were_trained_for(tmp_path: Path) -> None:
    loaded = read(tmp_path, OLD)
    assert (loaded.layer, loaded.site, loaded.architecture) == (2, "resid_post", "standard")
    torch.testing.assert_close(loaded.encode(X), CENTRED.relu())
    topk = read(tmp_path, {**OLD, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}})
    assert topk.architecture == "topk"
    torch.testing.assert_close(topk.encode(X), top(CENTRED))
    template = {**OLD, "hook_point": "blocks.{layer}.hook_resid_pre"}
    assert read(tmp_path, template).layer == 1
    without = read(tmp_path, {**OLD, "apply_b_dec_to_input": False})
    torch.testing.assert_close(without.encode(X), RAW.relu())


@pytest.mark.parametrize(
    ("config", "metadata", "problem"),
    [
        ({**OLD, "activation_fn_str": "tanh-relu"}, None, "activation tanh-relu, and SAELens, .* loads it as standard"),
        ({**OLD, "activation_fn": "gelu", "activation_fn_str": None}, None, "activation gelu"),
        ({**OLD, "activation_fn_str": "topk"}, None, "activation topk, .* loads it as standard"),
        ({**OLD, "activation_fn_str": "topk", "activation_fn_kwargs": None}, None, "activation topk"),
        (
            {**OLD, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K, "signed": True}}, None,
            r"activation options \{'k': 4, 'signed': True\}",
        ),
        ({**NEW, "activation_fn": "topk", "activation_fn_kwargs": {"k": K}}, None, "activation topk"),
        ({**NEW, "activation_fn": "tanh-relu"}, None, "activation tanh-relu"),
        ({**NEW, "architecture": "topk", "k": K, "activation_fn_kwargs": {"k": 9}}, None, r"options \{'k': 9\}.*k=4"),
        ({**OLD, "normalize_activations": True}, None, "expected_average_only_in, which is not folded"),
        ({**NEW, "normalize_activations": "covariance_whitening"}, None, "covariance_whitening, which is not folded"),
        ({**NEW, "normalize_activations": "max_norm"}, None, "normalize_activations must be"),
        ({**OLD, "hook_point_head_index": 0}, None, "reads attention head 0"),
        (NEW, {"hook_head_index": 3}, "reads attention head 3"),
        (NEW, {"hook_name": "blocks.2.attn.hook_z"}, "hook: .* reads 'blocks.2.attn.hook_z'"),
        (NEW, {"hook_name": "blocks.0.hook_resid_pre"}, "hook: .* reads 'blocks.0.hook_resid_pre'"),
        (NEW, {"hook_name": "model.layers.2.self_attn"}, "hook: .* reads 'model.layers.2.self_attn'"),
        (NEW, {"hook_name": "model.encoder.layers.2"}, "hook: .* reads 'model.encoder.layers.2'"),
        (NEW, {"hook_name": 3}, "hook: .* reads '3'"),
        (NEW, {"model_from_pretrained_kwargs": "fold_ln"}, "kwargs='fold_ln', which SAELens does not write"),
        ({**OLD, "activation_fn_kwargs": "k=4"}, None, "activation_fn_kwargs='k=4', which SAELens does not write"),
        (NEW, {"hook_name_out": "blocks.2.hook_mlp_out"}, "predicts the activations of blocks.2.hook_mlp_out"),
        ({**NEW, "d_out": D + 1}, None, f"writes vectors of {D + 1} numbers and reads {D}"),
        (NEW, {"finetuning_scaling_factor": True}, "its latents are rescaled by finetuning"),
        ({**NEW, "architecture": "jump_relu"}, None, "unknown architecture 'jump_relu'; did you mean 'jumprelu'"),
        ({**NEW, "architecture": "batchtopk", "k": K}, None, "unknown architecture 'batchtopk'"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(
    config: dict[str, Any], metadata: dict[str, Any] | None, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=problem):
        read(tmp_path, config, metadata)


@pytest.mark.parametrize(
    ("config", "metadata", "problem"),
    [
        (NEW, {"seqpos_slice": [5, -5]}, r"positions \[5, -5\] of its contexts only"),
        ({**OLD, "seqpos_slice": [8]}, None, r"positions \[8\] of its contexts only"),
        (NEW, {"seqpos_slice": [1, 2, 0]}, r"positions \[1, 2, 0\] of its contexts only"),
        (NEW, {"use_chat_formatting": True}, "texts in their chat format"),
        (NEW, {"model_from_pretrained_kwargs": {"revision": "step512"}}, r"loaded with \{'revision': 'step512'\}"),
        (NEW, {"subtract_prompt_mean": True}, "not known here and are not followed: subtract_prompt_mean=True"),
        ({**NEW, "input_gain": 2.0, "tilt": 0}, None, r"not followed: input_gain=2\.0, tilt=0"),
        ({**OLD, "whiten": "zca"}, None, "not known here and are not followed: whiten='zca'"),
        ({**OLD, "hook_point_layer": 7}, None, r"says hook_layer=7 and reads blocks\.2\.hook_resid_post"),
    ],
)
def test_what_may_matter_is_warned_of(
    config: dict[str, Any], metadata: dict[str, Any] | None, problem: str, tmp_path: Path
) -> None:
    with pytest.warns(SaeMoralWarning, match=problem):
        read(tmp_path, config, metadata)


def test_what_shapes_no_latent_is_no_reason_to_warn(tmp_path: Path) -> None:
    harmless = {
        "seqpos_slice": [None], "use_error_term": True, "neuronpedia_id": "tiny/2-res", "hook_head_index": None,
        "exclude_special_tokens": [0, 1], "model_class_name": "AutoModelForCausalLM", "unknown_and_unset": None,
        "model_from_pretrained_kwargs": {},
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = read(tmp_path, {**NEW, "use_error_term": True}, harmless)
        read(tmp_path, {**OLD, "seqpos_slice": [0, None, 1], "log_to_wandb": True, "finetuning_scaling_factor": True})
    torch.testing.assert_close(loaded.encode(X), CENTRED.relu())
    assert loaded.describe()["neuronpedia_id"] == "tiny/2-res"


@pytest.mark.parametrize("key", ["scaling_factor", "finetuning_scaling_factor"])
def test_factors_of_a_finetuning_go_into_the_decoder(key: str, tmp_path: Path) -> None:
    """SAELens 1 to 5: decode(f) = (f · factor) W_dec + b_dec; the latents are f."""
    factors = torch.rand(S, generator=G) + 0.5
    loaded = read(tmp_path, {**OLD, "finetuning_scaling_factor": True}, None, **{key: factors})
    latents = loaded.encode(X)
    torch.testing.assert_close(latents, CENTRED.relu())
    torch.testing.assert_close(loaded.sae.decode(latents), latents * factors @ W["W_dec"] + W["b_dec"])
    with pytest.raises(DataError, match="finetuning_scaling_factor is False"):
        read(tmp_path, {**OLD, "finetuning_scaling_factor": False}, scaling_factor=factors)


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("blocks.3.hook_resid_post", (3, "resid_post")),
        ("blocks.3.hook_out", (3, "resid_post")),
        ("blocks.3.hook_resid_pre", (2, "resid_post")),
        ("blocks.3.hook_resid_mid", (3, "resid_mid")),
        ("blocks.3.hook_mlp_out", (3, "mlp_out")),
        ("model.layers.3", (3, "resid_post")),
        ("layers.3", (3, "resid_post")),
        ("model.layers.3.output", (3, "resid_post")),
        ("model.layers[3].input", (2, "resid_post")),
        ("transformer.h.3", (3, "resid_post")),
        ("gpt_neox.layers.3", (3, "resid_post")),
        ("model.decoder.layers.3", (3, "resid_post")),
        ("transformer.blocks.3", (3, "resid_post")),
        ("model.language_model.layers.3", (3, "resid_post")),
        ("model.layers.0.input", None),
        ("model.layers.3.mlp", None),
        ("model.layers.3.post_feedforward_layernorm.output", None),
        ("model.encoder.layers.3", None),
        ("vision_tower.layers.3", None),
        ("model.norm", None),
        ("blocks.3.hook_mlp_in", None),
        ("", None),
        (None, None),
    ],
)
def test_places_of_hooks(hook: str | None, place: tuple[int, str] | None) -> None:
    assert place_of(hook) == place


def test_a_hook_of_a_transformers_block_is_a_layer(tmp_path: Path) -> None:
    assert read(tmp_path, NEW, {"hook_name": "transformer.h.1"}).layer == 1
    assert read(tmp_path, NEW, {"hook_name": None, "hf_hook_name": "model.layers.3.output"}).layer == 3
    with pytest.raises(ValueError, match="layer 1 was asked for"):
        load_sae(folder(tmp_path, NEW, {"hook_name": "model.layers.2"}), layer=1)


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk", "gated", "jumprelu"])
def test_a_centred_stream_and_one_with_its_mean_give_the_same_latents(architecture: str, subtracts: bool) -> None:
    from sae_lens import SAE

    config = {"architecture": architecture, "d_in": D, "d_sae": S, "apply_b_dec_to_input": subtracts}
    sae = SAE.from_dict({**config, "metadata": METADATA, **({"k": K} if architecture == "topk" else {})})
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=G).abs() * 0.3 + 0.1 * len(parameter.shape)
    sae.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": True, "fold_ln": True}
    before, without_mean = sae.encode(X), X - X.mean(dim=1, keepdim=True)
    loaded = load_sae(sae, model=model(normalization_type="LNPre"))
    assert not torch.allclose(before, sae.encode(without_mean), atol=1e-2)
    for stream in (X, without_mean):
        torch.testing.assert_close(loaded.encode(stream), sae.encode(without_mean), rtol=1e-5, atol=1e-5)
    assert torch.equal(sae.encode(X), before) and torch.equal(loaded.sae.b_dec, sae.b_dec)
    assert torch.equal(loaded.sae.W_dec, sae.W_dec)
    again = load_sae(loaded.sae)
    assert again.sha256 == loaded.sha256
    with pytest.raises(ValueError, match=r"tiny-model has RMSNorm, of which TransformerLens takes out none"):
        load_sae(sae, model=model(normalization_type="RMS"))


def test_a_centred_stream_and_normalisations(tmp_path: Path) -> None:
    centre = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    with pytest.raises(ValueError, match=r"center_writing_weights\), scaled by constant_norm_rescale"):
        read(tmp_path, {**NEW, "normalize_activations": "constant_norm_rescale"}, centre)
    normed = read(tmp_path, {**NEW, "normalize_activations": "layer_norm"}, centre)
    torch.testing.assert_close(normed.encode(X), normed.encode(X - X.mean(dim=1, keepdim=True)))


def test_the_table_in_the_documentation_is_the_one_that_is_followed() -> None:
    rows = re.findall(r"^\| (`[^|]*) \| (\w[^|]*) \|", Path("docs/latents.md").read_text(), flags=re.MULTILINE)
    told = {name: effects for names, effects in rows for name in re.findall(r"`(\w+)`", names)}
    for key in KEYS:
        assert key.effect in told[key.name], (key.name, key.effect)
    assert not WITHOUT_EFFECT & {key.name for key in KEYS}
