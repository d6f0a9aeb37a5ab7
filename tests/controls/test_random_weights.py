"""The random twin: everything is the model's but the weights, and it is noticed where one of them was kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sae_moral.capture import capture, load_model
from sae_moral.controls.random_weights import random_weights
from sae_moral.provenance import describe_model, model_identity
from tests.libraries import saelens
from tests.tiny import scenarios

TEXTS = scenarios(12).text


@pytest.fixture(scope="module")
def hooked_folder(tiny_folder: Path) -> Any:
    """A HookedTransformer with rotary tables, masks and biases among its buffers and parameters."""
    saelens()
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    cfg = HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=64, d_head=8, n_heads=2, d_mlp=32, act_fn="gelu", d_vocab=len(tokenizer),
        positional_embedding_type="rotary", rotary_dim=8, normalization_type="LN", model_name="hooked", device="cpu",
    )  # fmt: skip
    with torch.random.fork_rng():
        model = HookedSAETransformer(cfg)
    model.tokenizer = tokenizer
    return model


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _norms(model: Any) -> torch.Tensor:
    found = capture(model, TEXTS)
    return torch.stack([found[layer].norm(dim=1).mean() for layer in found.layers])


def _settings(model: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(model.cfg).items() if not k.startswith("_") and k != "sae_moral_name"}


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_all_but_the_weights_is_the_models(kind: str, tiny: Any, hooked_folder: Any) -> None:
    model = tiny if kind == "bridge" else hooked_folder
    twin = random_weights(model)
    assert type(twin) is type(model)
    assert twin.tokenizer is model.tokenizer
    assert _settings(twin) == _settings(model)
    assert twin.cfg is not model.cfg
    assert twin.training == model.training
    ours, theirs = _weights(twin), _weights(model)
    assert [(n, w.shape, w.dtype, w.device) for n, w in ours.items()] == [
        (n, w.shape, w.dtype, w.device) for n, w in theirs.items()
    ]
    drawn = [name for name, weight in theirs.items() if weight.unique().numel() > 1]
    assert len(drawn) > 10
    for name in drawn:
        assert (ours[name] == theirs[name]).float().mean() < 0.05, name  # (the row of the padding is 0)
        assert 0.5 < float(ours[name].std() / theirs[name].std()) < 2, name  # the same initialisation
    for (name, buffer), (_, other) in zip(twin.named_buffers(), model.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)  # tables of positions are given by the configuration
    assert describe_model(twin)["name"] == f"{describe_model(model)['name']} (random weights)"


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_a_twin_runs_and_has_other_activations_of_a_sane_scale(kind: str, tiny: Any, hooked_folder: Any) -> None:
    model = tiny if kind == "bridge" else hooked_folder
    twin = random_weights(model)
    found, trained = capture(twin, TEXTS), capture(model, TEXTS)
    for layer in found.layers:
        assert not torch.allclose(found[layer], trained[layer], rtol=0.1)
    ratio = _norms(twin) / _norms(model)
    assert ((ratio > 0.3) & (ratio < 3)).all()


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_equal_seeds_give_equal_twins_and_nothing_else_changes(kind: str, tiny: Any, hooked_folder: Any) -> None:
    model = tiny if kind == "bridge" else hooked_folder
    model.cfg.seed = 5  # TransformerLens would set it everywhere
    before = model_identity(model), _settings(model), len(model.hook_dict), dict(vars(model.tokenizer))
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    torch.rand(3)
    torch.set_rng_state(states[0])
    first, again, other = random_weights(model), random_weights(model), random_weights(model, seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    assert torch.are_deterministic_algorithms_enabled() is False
    assert (model_identity(model), _settings(model), len(model.hook_dict), dict(vars(model.tokenizer))) == before
    assert model_identity(first) == model_identity(again) != model_identity(other)
    model.cfg.seed = None


def test_a_twin_of_a_twin_needs_another_seed(tiny: Any) -> None:
    twin = random_weights(tiny)
    assert random_weights(twin, seed=1).cfg.sae_moral_name == twin.cfg.sae_moral_name
    with pytest.raises(ValueError, match="kept their trained values"):
        random_weights(twin)


def test_the_seed_is_not_that_of_a_model_drawn_by_hand(tiny: Any) -> None:
    # The tiny model was drawn after torch.manual_seed(0), and never trained.
    assert model_identity(random_weights(tiny, seed=0)) != model_identity(tiny)


def test_bfloat16_is_the_same_draw_rounded(tiny_folder: Path) -> None:
    whole, half = (
        random_weights(load_model(tiny_folder, dtype=dtype, device="cpu")) for dtype in ("float32", "bfloat16")
    )
    assert describe_model(half)["dtype"] == "bfloat16"
    assert dict(half.named_buffers()).keys() == dict(whole.named_buffers()).keys()
    for name, weight in _weights(whole).items():
        assert torch.equal(dict(half.named_parameters())[name], weight.bfloat16())
    assert torch.isfinite(capture(half, TEXTS)[2]).all()


def test_tied_embeddings_stay_tied(tiny_folder: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_folder, tie_word_embeddings=True)
    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    twin = random_weights(model).original_model
    assert "lm_head._original_component.weight" not in _weights(model)
    assert twin.get_output_embeddings().weight is twin.get_input_embeddings().weight


def test_sae_variants_keep_their_class_but_not_their_saes(tiny_folder: Path) -> None:
    saelens()
    from sae_lens import SAE
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = SAETransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    config = {
        "d_in": 16,
        "d_sae": 32,
        "dtype": "float32",
        "device": "cpu",
        "metadata": {"hook_name": "blocks.1.hook_out"},
    }
    sae = SAE.from_dict({"architecture": "standard", **config})
    model.add_sae(sae)
    twin = random_weights(model)
    assert type(twin) is SAETransformerBridge
    assert (list(model.acts_to_saes), list(twin.acts_to_saes)) == (["blocks.1.hook_out"], [])
    twin.add_sae(sae)
    assert torch.isfinite(twin(torch.tensor([[1, 4, 5]]), return_type="logits")).all()


def test_a_model_in_compatibility_mode_has_a_twin_in_it(tiny: Any, tiny_folder: Path) -> None:
    plain = random_weights(load_model(tiny_folder, device="cpu"))
    tiny.enable_compatibility_mode()
    twin = random_weights(tiny)
    assert describe_model(twin)["weight_processing"] == "compatibility mode"
    assert _settings(twin) == _settings(tiny)
    tokens = torch.tensor([[1, 4, 5, 6]])
    logits, expected = (model(tokens, return_type="logits").log_softmax(-1) for model in (twin, plain))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)  # processing leaves the function as it is


def _train(model: Any, part: str) -> torch.nn.Parameter:
    """Stand in for training: other values for one parameter."""
    parameter = next(p for n, p in model.named_parameters() if part in n)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return parameter


def _keeping(parameter: torch.nn.Parameter, part: str, share: float, how: str) -> Callable[..., None]:
    original = PreTrainedModel.init_weights

    def init_weights(self: Any) -> None:
        original(self)
        kept = next(p for n, p in self.named_parameters() if part.replace("._original_component", "") in n)
        rows = round(share * len(kept))
        if how == "memory":
            kept.data = parameter.data
        else:
            kept.data[:rows] = parameter.data[:rows]

    return init_weights


@pytest.mark.parametrize("part", ["q_proj", "input_layernorm", "embed_tokens"])
@pytest.mark.parametrize(("share", "how"), [(1.0, "copy"), (0.6, "copy"), (1.0, "memory")])
def test_an_initialiser_that_keeps_a_weight_is_noticed(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, part: str, share: float, how: str
) -> None:
    trained = _train(tiny, part)
    monkeypatch.setattr(PreTrainedModel, "init_weights", _keeping(trained, part, share, how))
    with pytest.raises(ValueError, match=rf"1 parameters of the twin kept their trained values: [\w.]*{part}"):
        random_weights(tiny)


def test_shared_memory_is_noticed_where_nothing_was_trained(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    constant = next(p for n, p in tiny.named_parameters() if "input_layernorm" in n)
    assert constant.unique().numel() == 1  # alone, an equal value of 1 is no sign of training
    random_weights(tiny)
    monkeypatch.setattr(PreTrainedModel, "init_weights", _keeping(constant, "input_layernorm", 1.0, "memory"))
    with pytest.raises(ValueError, match="input_layernorm"):
        random_weights(tiny)


def test_a_trained_norm_is_drawn_anew(tiny: Any) -> None:
    trained = _train(tiny, "input_layernorm")
    assert trained.unique().numel() > 1
    fresh = next(p for n, p in random_weights(tiny).named_parameters() if "input_layernorm" in n)
    assert (fresh == 1).all()


def test_a_hooked_transformer_whose_weights_are_not_drawn_is_noticed(
    hooked_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {name: weight for name, weight in _weights(hooked_folder).items() if name == "blocks.1.attn.W_Q"}
    original = type(hooked_folder).init_weights

    def init_weights(self: Any) -> None:
        original(self)
        self.load_state_dict(trained, strict=False)

    monkeypatch.setattr(type(hooked_folder), "init_weights", init_weights)
    with pytest.raises(ValueError, match=r"1 parameters of the twin kept their trained values: blocks\.1\.attn\.W_Q;"):
        random_weights(hooked_folder)


def test_a_table_that_training_changed_and_the_twin_kept_is_noticed(
    hooked_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = hooked_folder.blocks[0].attn.rotary_sin
    before = table.clone()
    table.add_(0.1)
    original = type(hooked_folder).init_weights

    def init_weights(self: Any) -> None:
        original(self)
        self.blocks[0].attn.rotary_sin.copy_(table)

    monkeypatch.setattr(type(hooked_folder), "init_weights", init_weights)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.rotary_sin"):
        random_weights(hooked_folder)
    table.copy_(before)


def test_values_that_are_not_finite_are_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreTrainedModel, "_init_weights", lambda self, module: [
        p.data.fill_(float("nan")) for p in module.parameters(recurse=False)
    ])  # fmt: skip
    with pytest.raises(ValueError, match="not finite"):
        random_weights(tiny)


def test_what_has_no_twin_is_refused(tiny: Any) -> None:
    with pytest.raises(TypeError, match="no random twin of a Linear; expected a TransformerBridge"):
        random_weights(torch.nn.Linear(2, 2))
    tiny.original_model.config.quantization_config = {"bits": 4}
    with pytest.raises(ValueError, match="a quantised model"):
        random_weights(tiny)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_bundled_models_have_twins(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    before = model_identity(model)
    twin = random_weights(model)
    assert model_identity(model) == before
    embedding = twin.original_model.get_input_embeddings()
    assert twin.original_model.get_output_embeddings().weight is embedding.weight
    found = capture(twin, TEXTS)
    rms = torch.stack([found[layer].square().mean().sqrt() for layer in found.layers])
    assert ((rms > 0.01) & (rms < 10)).all()  # an untrained residual stream; a trained one reaches thousands
    assert max(found.provenance["sink_norm_ratio"]) < 3
