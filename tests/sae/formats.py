"""Community SAEs of small width with random weights, written as their authors' code writes them, and served from a
folder in place of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

D, S, K = 16, 48, 6
MODEL = "tiny-model"
Weights = dict[str, torch.Tensor]
Encoder = Callable[[torch.Tensor], torch.Tensor]


def weights(seed: int = 0) -> Weights:
    g = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, S), "W_dec": (S, D), "b_enc": (S,), "b_dec": (D,), "threshold": (S,)}
    made = {name: torch.randn(shape, generator=g) * 0.5 for name, shape in shapes.items()}
    return {**made, "threshold": made["threshold"].abs()}


def jump(pre: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    return pre.relu() * (pre > threshold)


def top(pre: torch.Tensor) -> torch.Tensor:
    found = pre.topk(K, dim=-1)
    return torch.zeros_like(pre).scatter(-1, found.indices, found.values.relu())


def gemma_scope(folder: Path) -> tuple[str, str, dict[str, Any], Encoder]:
    """google/gemma-scope: params.npz; JumpReLU; the decoder bias stays in the input."""
    w = weights()
    inside = folder / "layer_1" / "width_16k" / "average_l0_9"
    inside.mkdir(parents=True)
    arrays: dict[str, Any] = {k[0].lower() + k[1:]: v.numpy() for k, v in w.items()}
    np.savez(inside / "params.npz", **arrays)
    release = {
        "conversion_func": "gemma_2", "repo_id": "google/gemma-scope-2b-pt-res",
        "config_overrides": {"d_in": D, "d_sae": S, "model_name": MODEL},
        "saes_map": {"layer_1/width_16k/canonical": "layer_1/width_16k/average_l0_9"},
    }  # fmt: skip
    return (
        "layer_1/width_16k/canonical",
        "jumprelu",
        release,
        lambda x: jump(x @ w["W_enc"] + w["b_enc"], w["threshold"]),
    )


def gemma_scope_2(folder: Path) -> tuple[str, str, dict[str, Any], Encoder]:
    """google/gemma-scope-2: params.safetensors and config.json."""
    w = weights(1)
    inside = folder / "resid_post" / "layer_2_width_16k_l0_small"
    inside.mkdir(parents=True)
    save_file({k[0].lower() + k[1:]: v for k, v in w.items()}, inside / "params.safetensors")
    about = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-270m",
        "hf_hook_point_in": "model.layers.2.output",
    }
    (inside / "config.json").write_text(json.dumps(about))
    release = {
        "conversion_func": "gemma_3", "repo_id": "google/gemma-scope-2-270m-pt",
        "config_overrides": {"model_name": MODEL},
        "saes_map": {"layer_2_width_16k_l0_small": "resid_post/layer_2_width_16k_l0_small"},
    }  # fmt: skip
    return (
        "layer_2_width_16k_l0_small",
        "jumprelu",
        release,
        lambda x: jump(x @ w["W_enc"] + w["b_enc"], w["threshold"]),
    )


def sparsify(folder: Path) -> tuple[str, str, dict[str, Any], Encoder]:
    """EleutherAI/sparsify: `encoder` an nn.Linear, W_dec [latents, d]; its encode subtracts b_dec always."""
    w = weights(2)
    inside = folder / "layers.1"
    inside.mkdir(parents=True)
    written = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    save_file({k: v.contiguous() for k, v in written.items()}, inside / "sae.safetensors")
    about = {"expansion_factor": 3, "normalize_decoder": True, "num_latents": 0, "k": K, "d_in": D, "transcode": False}
    (inside / "cfg.json").write_text(json.dumps({**about, "num_latents": S, "activation": "topk"}))
    (folder / "config.json").write_text(json.dumps({"model": MODEL}))
    release = {"conversion_func": "sparsify", "repo_id": "EleutherAI/sae-tiny", "saes_map": {"layers.1": "layers.1"}}
    return "layers.1", "topk", release, lambda x: top((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def dictionary_learning(folder: Path) -> tuple[str, str, dict[str, Any], Encoder]:
    """saprmarks/dictionary_learning: ae.pt and config.json; a BatchTopK has one threshold and becomes a JumpReLU."""
    w = weights(3)
    inside = folder / "resid_post_layer_1" / "trainer_0"
    inside.mkdir(parents=True)
    written = {
        "encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(), "b_dec": w["b_dec"],
        "k": torch.tensor(K), "threshold": torch.tensor(0.4),
    }  # fmt: skip
    torch.save(written, inside / "ae.pt")
    trainer = {"dict_class": "BatchTopKSAE", "k": K, "layer": 1, "activation_dim": D, "dict_size": S, "lm_name": MODEL}
    (inside / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    path = "resid_post_layer_1/trainer_0"
    release = {
        "conversion_func": "dictionary_learning_1", "repo_id": "someone/saes",
        "saes_map": {"blocks.1.hook_resid_post__trainer_0": path},
    }  # fmt: skip
    return (
        "blocks.1.hook_resid_post__trainer_0", "jumprelu", release,
        lambda x: jump((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0.4),
    )  # fmt: skip


def llama_scope(folder: Path) -> tuple[str, str, dict[str, Any], Encoder]:
    """fnlp/Llama-Scope: trained on vectors scaled to norm √d on average; SAELens folds the factor of its list."""
    w, factor, threshold = weights(4), D**0.5 / 20.0, 0.3
    inside = folder / "Llama3_1-8B-Base-L1R-8x"
    (inside / "checkpoints").mkdir(parents=True)
    written = {
        "encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(), "decoder.bias": w["b_dec"],
    }  # fmt: skip
    save_file(written, inside / "checkpoints" / "final.safetensors")
    about = {
        "d_model": D, "d_sae": S, "hook_point_in": "blocks.1.hook_resid_post", "jump_relu_threshold": threshold,
        "dataset_average_activation_norm": {"in": 20.0},
    }  # fmt: skip
    (inside / "hyperparams.json").write_text(json.dumps(about))
    release = {
        "conversion_func": "llama_scope", "repo_id": "fnlp/Llama3_1-8B-Base-LXR-8x",
        "config_overrides": {"model_name": MODEL}, "saes_map": {"l1r_8x": inside.name},
        "norm_scaling_factor": {"l1r_8x": factor},
    }  # fmt: skip
    return "l1r_8x", "jumprelu", release, lambda x: jump(factor * x @ w["W_enc"] + w["b_enc"], threshold * factor)


def qwen_scope(folder: Path) -> tuple[str, str, dict[str, Any], Encoder]:
    """Qwen/SAE-Res: layerN.sae.pt, both matrices transposed; TopK."""
    w = weights(5)
    written = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T, "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    torch.save({k: v.contiguous() for k, v in written.items()}, folder / "layer1.sae.pt")
    release = {
        "conversion_func": "qwen_scope", "repo_id": "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50",
        "config_overrides": {"d_in": D, "d_sae": S, "activation_fn_kwargs": {"k": K}, "model_name": MODEL},
        "saes_map": {"layer1": "layer1.sae.pt"},
    }  # fmt: skip
    return "layer1", "topk", release, lambda x: top(x @ w["W_enc"] + w["b_enc"])


FORMATS = [gemma_scope, gemma_scope_2, sparsify, dictionary_learning, llama_scope, qwen_scope]


def serve(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, release: dict[str, Any], model: str = MODEL
) -> None:
    """Put a release on SAELens' list, and answer its loaders' downloads from the folder."""
    from huggingface_hub.utils import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory

    def download(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        path = folder / (subfolder or "") / filename
        if not path.exists():
            raise EntryNotFoundError(f"{filename} is not in {repo_id}")
        return str(path)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        return {key: list(value.shape) for key, value in load_file(folder / filename).items()}

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    entry = PretrainedSAELookup(
        **{
            **{"release": name, "model": model, "config_overrides": None, "norm_scaling_factor": {}},
            **{"expected_var_explained": {}, "expected_l0": {}, "neuronpedia_id": {}},
            **release,
        }
    )
    monkeypatch.setitem(get_pretrained_saes_directory(), name, entry)
