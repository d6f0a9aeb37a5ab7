"""The options of transformers reach it: revision, token, devices, quantisation; and what they leave in provenance."""

from __future__ import annotations

import importlib.util
import json
import logging
import operator
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from sae_moral.capture import capture, hooked_model, load_model
from sae_moral.capture.agreement import unwrapped
from sae_moral.controls import random_weights
from sae_moral.provenance import describe_model, model_identity
from tests.capture import hub
from tests.libraries import of_transformer_lens_3, saelens
from tests.tiny import save_tiny_model, scenarios

TEXT = scenarios(24).text
SPLIT = {
    **{"model.embed_tokens": "cpu:0", "model.rotary_emb": "cpu:0", "model.layers.0": "cpu:0"},
    **{"model.layers.1": "cpu:1", "model.layers.2": "cpu:1", "model.norm": "cpu:1", "lm_head": "cpu:1"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder and its model."""
    folder = save_tiny_model(tmp_path_factory.mktemp("whole"))
    return folder, load_model(folder, device="cpu")


# The hub


def test_revision_and_token_reach_the_hub_and_the_commit_is_in_provenance(
    whole: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, model = whole
    seen: list[Any] = []
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with hub.answering(hub.repository(files, seen), monkeypatch, tmp_path):
        found = load_model("someone/tiny", device="cpu", revision="v1", token="hf_secret")
        first, *others = [one for one in seen if "/resolve/" in one.url.path]  # the hub's client asks for more
        assert first.url.path == "/someone/tiny/resolve/v1/config.json"
        rest = [one for one in others if one.url.path != first.url.path]
        assert rest and all(hub.COMMIT in one.url.path for one in rest)  # all files are of one commit
        assert {one.headers["authorization"] for one in (first, *rest)} == {"Bearer hf_secret"}
        count = len(seen)
        assert capture(found, TEXT, bos="tokenizer")[0].isfinite().all()  # loads the tokenizer again
        assert not [one for one in seen[count:] if "/resolve/main/" in one.url.path]
        count = len(seen)
        again = load_model("someone/tiny", device="cpu")
        assert not [one for one in seen[count + 1 :] if "/resolve/" in one.url.path]  # the cache is not asked for again
    for one in (found, again):
        facts = describe_model(one)
        assert (facts["name"], facts["revision"]) == ("someone/tiny", hub.COMMIT)
        assert facts["identity"] == model_identity(model)  # a place, not what shapes numbers
    assert "hf_secret" not in json.dumps(describe_model(found))


# Options


def test_an_option_of_from_pretrained_alone_does_not_change_the_model(whole: tuple[Path, Any]) -> None:
    folder, model = whole
    other = load_model(folder, device="cpu", attn_implementation="eager")
    assert model_identity(other) == model_identity(model)
    assert torch.equal(capture(other, TEXT)[2], capture(model, TEXT)[2])


@of_transformer_lens_3  # 4 has no attention but its own
def test_what_shapes_numbers_is_another_model(whole: tuple[Path, Any]) -> None:
    folder, model = whole
    found = {model_identity(load_model(folder, device="cpu", **more)) for more in OTHERS}
    assert len(found | {model_identity(model)}) == 1 + len(OTHERS)


def test_a_model_with_sdpa_is_compared_and_left_as_it_was(whole: tuple[Path, Any]) -> None:
    folder, model = whole
    other: Any = load_model(folder, device="cpu", attn_implementation="sdpa")
    before = {name: id(module) for name, module in other.original_model.named_modules()}
    with unwrapped(other) as original:
        assert {name: id(module) for name, module in original.named_modules()} != before
        assert not other.original_model.config.output_attentions
    assert {name: id(module) for name, module in other.original_model.named_modules()} == before
    found, expected = (capture(one, TEXT) for one in (other, model))
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-5)


OTHERS: list[dict[str, Any]] = [{"attn_implementation": "sdpa"}, {"dtype": "bf16"}, {"trust_remote_code": True}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"revision": "v1"}, "revision 'v1' of .*, which is no hub name; leave it out"),
        ({"torch_dtype": torch.bfloat16}, "torch_dtype=torch.bfloat16 given; expected dtype="),
        ({"n_devices": -1}, "n_devices is -1; expected at least 1"),
    ],
)
def test_an_option_without_effect_is_refused(whole: tuple[Path, Any], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load_model(whole[0], **options)
    with pytest.raises(ValueError, match="tokenizer= is of transformers models; set that of this TransformerBridge"):
        hooked_model(whole[1], tokenizer=whole[1].tokenizer)


def test_an_option_that_nobody_knows_is_refused(whole: tuple[Path, Any]) -> None:
    with pytest.raises(ValueError, match="unexpected keyword argument 'revison'"):
        load_model(whole[0], device="cpu", revison="v1")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device 'cpu' and device_map or n_devices were given; expected one"),
        ({"max_memory": {0: "1GiB"}}, "max_memory is a limit for device_map; expected device_map='auto'"),
        pytest.param(
            {"device_map": {"": "disk"}},
            r"cannot load .*: device_map\[''\]='disk' is not supported",
            marks=of_transformer_lens_3,
        ),
    ],
)
def test_devices_that_contradict(whole: tuple[Path, Any], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load_model(whole[0], **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
@pytest.mark.parametrize("more", [{}, {"attn_implementation": "eager"}], ids=["plain", "options"])
def test_more_gpus_than_there_are(whole: tuple[Path, Any], more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="n_devices=2 requires CUDA"):
        load_model(whole[0], n_devices=2, **more)


# Several devices


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Two devices that torch takes for two names of the CPU: which tensors accelerate puts where, and runs there."""
    import accelerate.hooks
    import accelerate.utils.modeling
    import transformer_lens.utilities.multi_gpu

    found: dict[int, str] = {}
    place = accelerate.hooks.set_module_tensor_to_device

    def recorded(module: Any, name: str, device: Any, *args: Any, **kwargs: Any) -> None:
        place(module, name, device, *args, **kwargs)
        found[operator.attrgetter(name)(module).data_ptr()] = str(device)

    monkeypatch.setattr(accelerate.hooks, "set_module_tensor_to_device", recorded)
    # Both are the CPU: a tensor of one passes for a tensor of the other.
    monkeypatch.setattr(accelerate.utils.modeling, "check_device_same", lambda a, b: a.type == b.type)
    monkeypatch.setattr(transformer_lens.utilities.multi_gpu, "find_misplaced_modules", lambda model: [])
    return found


def _expected(name: str) -> str:
    return next(device for module, device in SPLIT.items() if name.startswith(f"{module}."))


@pytest.mark.parametrize("more", [{}, {"attn_implementation": "eager"}], ids=["plain", "options"])
def test_a_split_model_is_placed_as_asked_and_gives_the_same_vectors(
    whole: tuple[Path, Any], plain: Any, placed: dict[int, str], more: dict[str, Any]
) -> None:
    folder, model = whole
    split: Any = load_model(folder, device_map=SPLIT, **more)
    there = {name.replace("._original_component", ""): one for name, one in split.original_model.named_parameters()}
    names = list(plain.state_dict())  # a bridge adds a bias of zeros to the unembedding
    assert {name: placed[there[name].data_ptr()] for name in names} == {name: _expected(name) for name in names}
    assert split.original_model.hf_device_map == SPLIT and split.cfg.n_devices == 2
    for pooling in ("scenario", "all", "last"):
        one, two = (capture(which, TEXT, pooling=pooling) for which in (model, split))
        assert all(torch.equal(one[layer], two[layer]) for layer in range(3))
    assert model_identity(split) == model_identity(model)


def test_the_random_twin_of_a_split_model_is_split_alike(whole: tuple[Path, Any], placed: dict[int, str]) -> None:
    split: Any = load_model(whole[0], device_map=SPLIT)
    twin = random_weights(split)
    assert twin.original_model.hf_device_map == SPLIT
    one, two = capture(twin, TEXT), capture(random_weights(whole[1]), TEXT)
    assert all(torch.equal(one[layer], two[layer]) for layer in range(3))


def test_a_split_transformers_model_is_wrapped_as_it_is(whole: tuple[Path, Any], placed: dict[int, str]) -> None:
    folder, model = whole
    split: Any = hooked_model(
        AutoModelForCausalLM.from_pretrained(folder, device_map=SPLIT, attn_implementation="eager")
    )
    assert split.cfg.n_devices == 2 and torch.equal(capture(split, TEXT)[2], capture(model, TEXT)[2])


# Quantised weights


class _Placed(LlamaForCausalLM):
    """Stands for a quantised model: its weights are where the quantiser put them."""

    options: dict[str, Any]

    def to(self, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise ValueError("`.to` is not supported for quantised models")


@pytest.fixture
def quantising(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """from_pretrained of a quantised model; the options of every call."""
    seen: list[dict[str, Any]] = []
    load = LlamaForCausalLM.from_pretrained.__func__  # pyright: ignore[reportFunctionMemberAccess]

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(kwargs))
        config = kwargs.get("config")
        given = kwargs.pop("quantization_config", None) or getattr(config, "quantization_config", None)
        if config is not None and hasattr(config, "quantization_config"):
            del config.quantization_config
        kwargs.pop("device_map", None)
        model = load(_Placed, *args, **kwargs)
        model.config.quantization_config = given
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", classmethod(from_pretrained))
    return seen


FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def test_quantisation_reaches_transformers_and_provenance(
    whole: tuple[Path, Any], quantising: list[dict[str, Any]]
) -> None:
    folder, model = whole
    found = load_model(folder, device="cpu", dtype="bf16", quantization_config=FOUR_BITS)
    assert quantising[0]["quantization_config"] == FOUR_BITS
    assert quantising[0]["device_map"] == {"": "cpu"}  # the quantiser places the weights; to() would be refused
    facts = describe_model(found)
    assert (facts["dtype"], facts.get("quantisation")) == ("bfloat16", FOUR_BITS)
    eight = load_model(folder, device="cpu", dtype="bf16", quantization_config={**FOUR_BITS, "load_in_4bit": False})
    assert model_identity(eight) != facts["identity"]
    assert "quantisation" not in describe_model(model)


def test_weights_that_are_quantised_already_are_not_moved(
    whole: tuple[Path, Any], quantising: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": FOUR_BITS}))
    found = load_model(folder, device="cpu")
    assert quantising[0]["device_map"] == {"": "cpu"}
    assert describe_model(found).get("quantisation") == FOUR_BITS


@pytest.mark.parametrize(("method", "package"), [("bitsandbytes", "bitsandbytes"), ("torchao", "torchao")])
def test_a_quantiser_that_is_not_installed_is_named(whole: tuple[Path, Any], method: str, package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    kind = {"load_in_8bit": True} if method == "bitsandbytes" else {"quant_type": "int8_weight_only"}
    with pytest.raises(ValueError, match=rf"a package that is not installed \(.*\); pip install {package}"):
        load_model(whole[0], device="cpu", quantization_config={"quant_method": method, **kind})


# A transformers model in memory


@pytest.fixture(scope="module")
def plain(whole: tuple[Path, Any]) -> Any:
    """A transformers model, with the kernel of the attention that `load_model` chooses."""
    return AutoModelForCausalLM.from_pretrained(whole[0], attn_implementation="eager")


def test_a_transformers_model_is_wrapped_with_one_line_and_stays_as_it_was(
    whole: tuple[Path, Any], plain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = whole
    names = list(plain.state_dict())
    with caplog.at_level(logging.WARNING, logger="sae_moral"):
        found = capture(plain, TEXT)
    assert [one.message for one in caplog.records] == [
        f"{folder.name} is wrapped into a TransformerBridge; to do that once: model = hooked_model(model)"
    ]
    assert all(torch.equal(found[layer], capture(model, TEXT)[layer]) for layer in range(3))
    assert list(plain.state_dict()) == names and type(plain) is LlamaForCausalLM
    bridge: Any = hooked_model(plain)
    assert next(iter(bridge.original_model.parameters())) is next(iter(plain.parameters()))  # no second copy
    assert describe_model(bridge)["name"] == folder.name and hooked_model(bridge) is bridge


def test_a_model_in_training_mode_is_measured_in_evaluation_mode(plain: Any, caplog: pytest.LogCaptureFixture) -> None:
    plain.train()
    try:
        assert not hooked_model(plain).training and plain.training
    finally:
        plain.eval()
    assert "in evaluation mode" in caplog.text


def test_a_tokenizer_is_taken_as_it_is(whole: tuple[Path, Any], plain: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whole[0])
    tokenizer.add_tokens(["zebra"])
    tokenizer.chat_template = "{{ messages[0].content }}"
    found = hooked_model(plain, tokenizer=tokenizer).tokenizer
    assert "zebra" in found.get_vocab() and found.chat_template == tokenizer.chat_template
    assert found is not tokenizer and not getattr(found, "add_bos_token", False)


def _without_name(model: Any) -> Any:
    import copy

    nameless = copy.deepcopy(model)
    nameless.name_or_path = nameless.config._name_or_path = ""
    return nameless


def test_a_model_without_a_name_needs_a_tokenizer(whole: tuple[Path, Any], plain: Any) -> None:
    nameless = _without_name(plain)
    with pytest.raises(ValueError, match=r"no tokenizer for LlamaForCausalLM \(it has no name_or_path\); give it"):
        hooked_model(nameless)
    made = AutoTokenizer.from_pretrained(whole[0])
    made.init_kwargs.pop("name_or_path")
    found = hooked_model(nameless, tokenizer=made)
    assert describe_model(found)["name"] == "LlamaForCausalLM"
    assert torch.equal(capture(found, TEXT)[1], capture(whole[1], TEXT)[1])


def _in_a_bridge(model: Any) -> Any:
    bridge: Any = load_model(model.name_or_path, device="cpu")
    return bridge.original_model


def _on_meta(model: Any) -> Any:
    with torch.device("meta"):
        return LlamaForCausalLM(model.config)


def _with_adapters(model: Any) -> Any:
    adapted = _without_name(model)
    adapted._hf_peft_config_loaded = True
    return adapted


def _of_nnsight(model: Any) -> Any:
    return type("LanguageModel", (), {"_module": model})()


def _of_peft(model: Any) -> Any:
    return type("PeftModel", (), {"merge_and_unload": None})()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (_in_a_bridge, "LlamaForCausalLM is inside a TransformerBridge already; give that bridge"),
        (_on_meta, r"the weights of LlamaForCausalLM are not in memory: .*model.dispatch\(\) first"),
        (_with_adapters, r"LlamaForCausalLM has adapters on it; merge them with peft \(merge_and_unload\)"),
        (_of_nnsight, "LanguageModel is not a model with hooks; .* or a name; give its ._module"),
        (_of_peft, r"PeftModel is not a model with hooks; .* or a name; give model.merge_and_unload\(\)"),
        (
            lambda model: torch.nn.Linear(2, 2),
            "Linear is not a model with hooks; expected a HookedTransformer, .*a name$",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_named(plain: Any, made: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        hooked_model(made(plain))


def test_an_architecture_without_a_bridge_is_named(whole: tuple[Path, Any]) -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    model = CTRLLMHeadModel(CTRLConfig(vocab_size=30, n_positions=16, n_embd=16, dff=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"cannot load .CTRLLMHeadModel.: TransformerLens .* has no bridge"):
        hooked_model(model, tokenizer=AutoTokenizer.from_pretrained(whole[0]))


def _texts(model: Any) -> Sequence[str]:
    from sae_moral.steering import generate

    return [one.text for one in generate(model, ["hugging the team"], max_new_tokens=3)]


def test_other_functions_take_a_transformers_model_too(
    whole: tuple[Path, Any], plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saelens()
    from sae_moral import diagnose
    from sae_moral.sae import community_saes
    from sae_moral.steering import Direction, Steering, steering_hooks

    assert _texts(plain) == _texts(whole[1])
    assert community_saes(plain) == []
    found = diagnose(plain, scenarios(60), metrics=["dimensional"], layers=1, controls="none", progress=False)
    assert found.provenance["model"]["wrapper"] == "TransformerBridge"
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as without the tests' type checker
    with pytest.raises(ValueError, match=r"has no hook points; wrap it first: model = hooked_model\(model\)"):
        steering_hooks(plain, Steering(Direction(1, torch.ones(16), "ones"), 1.0))
