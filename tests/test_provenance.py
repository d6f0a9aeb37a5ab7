"""Identity of a model: every weight, buffer and configuration value counts; places and devices do not."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from sae_moral.capture import load_model
from sae_moral.provenance import PLACES, HookedModel, describe_model, model_configuration, model_identity
from tests.libraries import saelens, transformer_lens_3


@pytest.fixture
def hooked() -> HookedModel:
    """A GPT-2-like HookedTransformer of 2 blocks × 8 dimensions."""
    lens = transformer_lens_3()

    cfg = lens.HookedTransformerConfig(
        n_layers=2, d_model=8, n_ctx=16, d_head=4, n_heads=2, d_vocab=10, act_fn="gelu", device="cpu", seed=0
    )
    return lens.HookedTransformer(cfg)


@pytest.fixture(params=["bridge", "hooked"])
def model(request: pytest.FixtureRequest) -> HookedModel:
    return request.getfixturevalue("tiny" if request.param == "bridge" else "hooked")


def tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer, found in another way than the identity finds them."""
    seen: set[int] = set()
    parts = [model, *filter(None, [getattr(model, "original_model", None)])]
    for prefix, module in (pair for part in parts for pair in part.named_modules(remove_duplicate=False)):
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}", tensor


def test_every_single_weight_and_buffer_counts(model: HookedModel) -> None:
    before, seen = model_identity(model), set()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors(model):
        flat = tensor.data.view(-1)
        some = torch.randperm(len(flat), generator=generator)[:2].tolist()
        for at in {*some, len(flat) - 1} if len(flat) else ():
            kept = flat[at].clone()
            flat[at] = torch.nextafter(kept, kept + 1) if kept.isfinite() else 0
            seen.add(now := model_identity(model))
            assert now != before, (name, at)
            flat[at] = kept
    assert model_identity(model) == before
    assert len(seen) > 70


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, dict):
        return {**value, "new": 1}
    if isinstance(value, list):
        return [*value, "new"]
    return torch.float16 if isinstance(value, torch.dtype) else "something"


def test_every_value_of_the_transformer_lens_configuration_counts(model: HookedModel) -> None:
    before = model_identity(model)
    names = [name for name in vars(model.cfg) if name not in PLACES]
    assert len(names) > 60
    for name in names:
        kept = vars(model.cfg)[name]
        vars(model.cfg)[name] = changed(kept)
        assert model_identity(model) != before, name
        vars(model.cfg)[name] = kept
    assert model_identity(model) == before


def test_every_value_of_the_hugging_face_configuration_counts(tiny: Any) -> None:
    before, config = model_identity(tiny), tiny.original_model.config
    places = {"_name_or_path", "transformers_version", "model_type"}
    for name, value in config.to_dict().items():
        if name in places:
            continue
        tiny.original_model.config = copy.deepcopy(config)
        # Not through setattr: the class derives some values from others.
        tiny.original_model.config.to_dict = lambda name=name, value=value: {**config.to_dict(), name: changed(value)}
        assert model_identity(tiny) != before, name
    for name in ("rope_theta", "rms_norm_eps", "hidden_act", "rope_type"):
        tiny.original_model.config = copy.deepcopy(config)
        holder = config.rope_parameters if name.startswith("rope") else vars(config)
        (tiny.original_model.config.rope_parameters if name.startswith("rope") else vars(tiny.original_model.config))[
            name
        ] = changed(holder[name])
        assert model_identity(tiny) != before, name
    tiny.original_model.config = config
    assert model_identity(tiny) == before
    config._attn_implementation = "sdpa"
    assert model_identity(tiny) != before


def test_a_changed_configuration_on_disk_is_another_model(tiny: Any, tiny_folder: Path, tmp_path: Path) -> None:
    for name, old, new in (
        ("theta", '"rope_theta": 10000.0', '"rope_theta": 5000.0'),
        ("eps", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
        ("act", '"hidden_act": "silu"', '"hidden_act": "gelu"'),
    ):
        folder = shutil.copytree(tiny_folder, tmp_path / name)
        text = (folder / "config.json").read_text()
        assert old in text
        (folder / "config.json").write_text(text.replace(old, new))
        assert model_identity(load_model(folder, device="cpu")) != model_identity(tiny)


def test_swapped_embeddings_of_two_words_are_another_model(model: HookedModel) -> None:
    before = model_identity(model)
    table = max((p for _, p in model.named_parameters() if p.shape[0] in (35, 10)), key=lambda p: p.numel()).data
    table[[3, 4]] = table[[4, 3]]
    assert model_identity(model) != before
    table[[3, 4]] = table[[4, 3]]
    assert model_identity(model) == before


def test_where_a_model_comes_from_does_not_count(tiny: Any, tiny_folder: Path, tmp_path: Path) -> None:
    again = load_model(shutil.copytree(tiny_folder, tmp_path / "elsewhere"), device="cpu")
    assert model_identity(again) == model_identity(tiny)
    assert describe_model(again)["name"] == "elsewhere"
    tiny.cfg.device, tiny.cfg.n_devices = "cuda", 2
    assert model_identity(again) == model_identity(tiny)


def test_an_attached_sae_counts(tiny_folder: Path) -> None:
    saelens()
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = SAETransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    config = StandardSAEConfig(d_in=16, d_sae=32)
    config.metadata.hook_name = "blocks.1.hook_resid_post"
    sae, seen = StandardSAE(config), [model_identity(model)]
    for error_term in (False, True):
        model.add_sae(sae, use_error_term=error_term)
        seen.append(model_identity(model))
        with torch.no_grad():
            sae.W_dec[3, 4] += 1e-6
        seen.append(model_identity(model))
    assert len(set(seen)) == 5
    model.reset_saes()
    assert model_identity(model) == seen[0]


def test_a_forward_run_does_not_change_the_identity(model: HookedModel) -> None:
    before = model_identity(model)
    model(torch.tensor([[1, 2, 3, 4, 5]]), return_type="logits")
    assert model_identity(model) == before


class Custom(nn.Module):
    """A model of any tensors, with the attributes a hooked model has."""

    def __init__(self, **kept: Any) -> None:
        super().__init__()
        self.cfg: Any = SimpleNamespace(n=1)
        self.tokenizer: Any = None
        self.hook_dict: dict[str, Any] = {}
        self.hooks: Any = nullcontext
        for name, value in kept.items():
            if isinstance(value, nn.Parameter | nn.Module):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value, persistent=name != "unsaved")


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(1, 1 + int(torch.tensor(shape).prod()) if shape else 2).reshape(shape).to(dtype)


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64, torch.complex64, torch.float8_e4m3fn],
)
def test_values_of_every_dtype_count(dtype: torch.dtype) -> None:
    one, other = (Custom(unsaved=numbers(4, 4, dtype=dtype)) for _ in range(2))
    assert model_identity(one) == model_identity(other)
    other.get_buffer("unsaved")[3, 3] = 1
    assert model_identity(one) != model_identity(other)


def test_scalars_empty_tensors_and_views_count() -> None:
    assert model_identity(Custom(a=torch.tensor(1.0))) != model_identity(Custom(a=torch.tensor(2.0)))
    assert model_identity(Custom(a=torch.tensor(1.0))) != model_identity(Custom(a=torch.tensor([1.0])))
    assert model_identity(Custom(a=torch.empty(0, 2))) != model_identity(Custom(a=torch.empty(2, 0)))
    assert model_identity(Custom(a=torch.empty(0))) != model_identity(Custom())
    assert model_identity(Custom(a=numbers(3, 4).T)) == model_identity(Custom(a=numbers(3, 4).T.contiguous()))
    assert model_identity(Custom(a=numbers(3, 4).T)) != model_identity(Custom(a=numbers(4, 3)))
    assert model_identity(Custom(a=numbers(8)[::2])) == model_identity(Custom(a=numbers(8)[::2].clone()))
    moved = Custom(a=numbers(2), b=numbers(2)), Custom(a=numbers(2), c=numbers(2))
    assert model_identity(moved[0]) != model_identity(moved[1])


def test_bits_count_not_values() -> None:
    assert model_identity(Custom(a=torch.tensor([0.0]))) != model_identity(Custom(a=torch.tensor([-0.0])))
    assert model_identity(Custom(a=torch.tensor([torch.nan]))) == model_identity(Custom(a=torch.tensor([torch.nan])))
    as_float = torch.zeros(2)
    assert model_identity(Custom(a=as_float)) != model_identity(Custom(a=as_float.view(torch.int32)))


def test_tied_parameters_count_once_and_stay_one() -> None:
    one = nn.Parameter(numbers(2, 2))
    tied, again = Custom(a=one, b=one), Custom(a=one, b=one)
    assert model_identity(tied) == model_identity(again)
    with torch.no_grad():
        before = model_identity(tied)
        one[0, 0] = 9
        assert model_identity(tied) != before


def test_scales_of_quantised_weights_count() -> None:
    def four_bit(absmax: float, nested: float = 1.0) -> Custom:
        weight = cast(Any, nn.Parameter(numbers(4, dtype=torch.uint8), requires_grad=False))
        second = SimpleNamespace(absmax=torch.tensor([nested]), blocksize=64)
        weight.quant_state = SimpleNamespace(absmax=torch.tensor([absmax]), code=numbers(16), state2=second)
        return Custom(weight=weight)

    assert model_identity(four_bit(1.0)) == model_identity(four_bit(1.0))
    assert len({model_identity(four_bit(1.0)), model_identity(four_bit(2.0)), model_identity(four_bit(1.0, 2.0))}) == 3

    def eight_bit(scale: float, *, used: bool) -> Custom:
        layer = cast(Any, nn.Module())
        layer.weight = weight = cast(Any, nn.Parameter(numbers(4, dtype=torch.int8), requires_grad=False))
        weight.SCB = None if used else torch.tensor([scale])
        layer.state = SimpleNamespace(SCB=torch.tensor([scale]) if used else None)
        return Custom(layer=layer)

    assert model_identity(eight_bit(1.0, used=False)) == model_identity(eight_bit(1.0, used=True))
    assert model_identity(eight_bit(1.0, used=False)) != model_identity(eight_bit(2.0, used=False))


def test_a_model_without_its_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the weights \.a are not in memory"):
        model_identity(Custom(a=torch.empty(2, device="meta")))


def test_a_configuration_value_without_a_canonical_form_is_refused() -> None:
    odd = Custom()
    odd.cfg.odd = object()
    with pytest.raises(ValueError, match="no canonical form"):
        model_identity(odd)


def test_configuration_values_of_all_kinds_differ() -> None:
    class Inner:
        def __init__(self, value: Any) -> None:
            self.value = value

    values = [
        None, 0, False, "0", 0.5, float("inf"), float("nan"), [], {}, {1: 2}, {"1": 2}, {1}, torch.float32, torch.relu,
        torch.device("cuda"), Inner(1), Inner(2), numbers(2), numbers(3),
    ]  # fmt: skip
    found = []
    for value in values:
        model = Custom()
        model.cfg.value = value
        found.append(model_identity(model))
    assert len(set(found)) == len(values)


def test_the_facts(tiny: Any) -> None:
    facts = describe_model(tiny)
    assert facts["n_layers"] == 3 and facts["d_model"] == 16 and facts["dtype"] == "float32"
    assert facts["wrapper"] == "TransformerBridge" and facts["weight_processing"] == "none"
    assert facts["identity"] == model_identity(tiny) and len(facts["identity"]) == 32
    assert set(model_configuration(tiny)) == {"class", "transformer_lens", "transformers", "attention", "error_terms"}
    assert isinstance(tiny, HookedModel)
