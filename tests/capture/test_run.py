"""Capture: equal to Hugging Face one text at a time; loud where something does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_moral.capture import capture, load_model
from sae_moral.capture.bundled import bundled_path
from sae_moral.errors import SaeMoralWarning
from sae_moral.provenance import describe_model
from tests.conftest import bundled
from tests.libraries import saelens, transformer_lens_3
from tests.tiny import scenarios

DISTINCT = [
    "Putting a blanket over a stranger who fell asleep on the train.",
    "lying to your grandmother about where you were",
    "stealing",
    "Not telling anybody, ever, that it was you who broke the window of the school (and the lamp).",
    "feeding the neighbour's cat while she is away.",
    "Spreading a rumour about a colleague who is up for promotion because you want the job yourself",
    "voting",
]
TEXTS = DISTINCT * 2
RELATIVE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@lru_cache(maxsize=1)
def hugging_face(folder: Path, dtype: torch.dtype) -> tuple[Any, Any, list[torch.Tensor]]:
    """Tokenizer, model, and the block outputs of its last pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    outputs: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(
            lambda _, __, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
    return AutoTokenizer.from_pretrained(folder), model, outputs


@lru_cache
def reference(folder: Path, dtype: torch.dtype, pooling: str, template: str, *, bos: bool) -> dict[int, torch.Tensor]:
    """Block outputs by Hugging Face, one text at a time and unpadded, pooled by hand."""
    tokenizer, model, outputs = hugging_face(folder, dtype)
    vectors: dict[int, list[torch.Tensor]] = {}
    before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in template.split("{text}"))
    for text in DISTINCT:
        ids = tokenizer(template.format(text=text)).input_ids
        if bos and ids[0] != tokenizer.bos_token_id:
            ids = [tokenizer.bos_token_id, *ids]
        first = len(before) + (ids[0] == tokenizer.bos_token_id)
        span = {"all": slice(None), "scenario": slice(first, len(ids) - len(after)), "last": slice(-1, None)}[pooling]
        outputs.clear()
        with torch.inference_mode():
            model(torch.tensor([ids]))
        for layer, hidden in enumerate(outputs):
            vectors.setdefault(layer, []).append(hidden[0].float()[span].mean(dim=0))
    return {layer: torch.stack(parts * 2) for layer, parts in vectors.items()}


def relative_error(found: Any, expected: dict[int, torch.Tensor]) -> float:
    assert sorted(found.layers) == sorted(expected)
    return max(
        float(((found[layer] - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) for layer, wanted in expected.items()
    )


def check(
    model: Any,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    pooling: str,
    template: str,
    bos: str,
    side: str,
    batch: int,
) -> None:
    expected = reference(folder, dtype, pooling, template, bos=bos == "prepend")
    model.tokenizer.padding_side = side
    longest = 24
    found = capture(
        model, TEXTS, template=template, pooling=pooling, bos=bos, tokens_per_batch=batch * longest if batch > 1 else 1
    )
    assert relative_error(found, expected) < RELATIVE[dtype]


CASES = [
    ("all", "{text} is morally", "tokenizer", "right", 7),
    ("scenario", "{text}", "prepend", "left", 64),
    ("scenario", "{text} is morally", "prepend", "right", 1),
    ("last", "{text} is morally", "tokenizer", "left", 7),
]


@pytest.mark.parametrize(("pooling", "template", "bos", "side", "batch"), CASES)
def test_smollm2_bridge_equals_hugging_face(
    smollm2: Any, pooling: str, template: str, bos: str, side: str, batch: int
) -> None:
    check(
        smollm2, bundled("smollm2-135m-instruct"), pooling=pooling, template=template, bos=bos, side=side, batch=batch
    )


@pytest.mark.parametrize(("pooling", "template", "bos", "side", "batch"), CASES)
def test_gemma_bridge_equals_hugging_face(
    gemma: Any, pooling: str, template: str, bos: str, side: str, batch: int
) -> None:
    check(gemma, bundled("gemma-3-270m"), pooling=pooling, template=template, bos=bos, side=side, batch=batch)


@pytest.fixture(scope="module")
def hooked_gemma() -> Any:
    folder = bundled("gemma-3-270m")
    return transformer_lens_3().HookedTransformer.from_pretrained_no_processing(
        "google/gemma-3-270m",
        hf_model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )


@pytest.mark.parametrize(("pooling", "template", "bos", "side", "batch"), CASES)
def test_hooked_transformer_equals_hugging_face(
    hooked_gemma: Any, pooling: str, template: str, bos: str, side: str, batch: int
) -> None:
    check(hooked_gemma, bundled("gemma-3-270m"), pooling=pooling, template=template, bos=bos, side=side, batch=batch)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", pytest.param("gemma-3-270m", marks=pytest.mark.slow)])
def test_bfloat16_equals_hugging_face_in_bfloat16(name: str) -> None:
    bundled(name)
    model = load_model(name, dtype="bfloat16", device="cpu")
    check(
        model,
        bundled_path(name),
        dtype=torch.bfloat16,
        pooling="scenario",
        template="{text}",
        bos="prepend",
        side="right",
        batch=7,
    )


def test_every_layer_subset_is_the_same_as_all(tiny: Any) -> None:
    text = scenarios(30).text
    every = capture(tiny, text)
    some = capture(tiny, text, layers=[1])
    assert torch.equal(every[1], some[1])
    with pytest.raises(KeyError, match="layer 2 was not captured; captured: 1"):
        some[2]


def test_duplicates_get_the_same_vector_and_order_does_not_matter(tiny: Any) -> None:
    text = scenarios(60).text
    there, back = capture(tiny, text), capture(tiny, text[::-1])
    assert torch.equal(there[2], back[2].flip(0))


def test_excluded_tokens_and_sink_are_reported(tiny: Any) -> None:
    text = ["hitting the team", "hugging"]
    scenario = capture(tiny, text, template="{text} is morally").provenance
    assert (
        scenario["n_tokens"],
        scenario["special_tokens"],
        scenario["template_tokens"],
        scenario["excluded_tokens"],
    ) == (10, 2, 4, 6)
    assert scenario["first_token"] == "<s>"
    assert len(scenario["sink_norm_ratio"]) == 3 and all(ratio > 0 for ratio in scenario["sink_norm_ratio"])
    everything = capture(tiny, text, pooling="all", bos="tokenizer").provenance
    assert (everything["excluded_tokens"], everything["first_token"]) == (0, "text")


def test_steered_model_is_measured_as_it_is(tiny: Any) -> None:
    text = scenarios(10).text
    plain = capture(tiny, text)
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda h, hook: h + 1.0)]):
        steered = capture(tiny, text)
    assert (steered[2] - plain[2]).abs().max() > 1e-3
    assert torch.equal(capture(tiny, text)[2], plain[2])  # nothing of it is left


@pytest.mark.parametrize("layers", [[3], [-1], [0, 99]])
def test_layers_the_model_does_not_have(tiny: Any, layers: list[int]) -> None:
    with pytest.raises(ValueError, match="of a model with 3 blocks; expected numbers from 0 to 2"):
        capture(tiny, ["hugging"], layers=layers)


def test_no_layers(tiny: Any) -> None:
    with pytest.raises(ValueError, match="no layers given"):
        capture(tiny, ["hugging"], layers=[])


def test_hook_that_is_not_there_is_named(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ("blocks.1.hook_resid_post", "blocks.1.hook_out")
    known = {name: point for name, point in tiny.hook_dict.items() if name not in gone}
    monkeypatch.setattr(type(tiny), "hook_dict", property(lambda self: known))
    with pytest.raises(ValueError, match=r"TransformerBridge has no hook 'blocks.1.hook_resid_post'; did you mean"):
        capture(tiny, ["hugging"])


def test_hook_that_does_not_fire_is_an_error(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """Runs without its hooks, as TransformerBridge does for a name it does not know."""

        cfg, hook_dict, tokenizer, training = tiny.cfg, tiny.hook_dict, tiny.tokenizer, False
        named_parameters, named_modules = tiny.named_parameters, tiny.named_modules

        def hooks(self, fwd_hooks: Sequence[Any] = ()) -> Any:
            return tiny.hooks(fwd_hooks=[])

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return tiny(*args, **kwargs)

    with pytest.raises(RuntimeError, match=r"blocks.0.hook_resid_post': 0.*expected once each"):
        capture(Deaf(), ["hugging"])


def test_values_that_are_not_finite_are_an_error(tiny: Any) -> None:
    with (
        tiny.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda h, hook: h * float("nan"))]),
        pytest.raises(RuntimeError, match=r"after block 1 has values that are not finite"),
    ):
        capture(tiny, ["hugging"])


def test_own_pooling_function(tiny: Any) -> None:
    first = capture(
        tiny, ["hitting the team"], pooling=lambda tokens: (tokens.own & (tokens.own.cumsum(1) == 1)).float()
    )
    alone = capture(tiny, ["hitting"])
    assert torch.allclose(first[2], alone[2], atol=1e-6)  # causal: what follows does not change the first word
    assert first.provenance["pooling"].endswith("<lambda>")


def test_attached_sae_is_named(tiny_folder: Path) -> None:
    saelens()
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = SAETransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    config = StandardSAEConfig(d_in=16, d_sae=32)
    config.metadata.hook_name = "blocks.1.hook_resid_post"
    text = scenarios(10).text
    plain = capture(model, text)
    model.add_sae(StandardSAE(config))
    told = r"SAEs are attached to the model \(blocks.1.*computed from their reconstructions; model.reset_saes\(\)"
    with pytest.warns(SaeMoralWarning, match=told):
        spliced = capture(model, text, layers=[2])
    assert not np.allclose(spliced[2], plain[2], atol=1e-3)  # the layers behind the SAE see its reconstruction
    with pytest.raises(ValueError, match=r"SAEs are attached at \['blocks.1.*measure the model before attaching them"):
        capture(model, text, layers=[1])
    model.add_sae(StandardSAE(config), use_error_term=True)  # nothing is replaced, and nothing said
    assert np.allclose(capture(model, text, layers=[2])[2], plain[2], atol=1e-5)


def test_a_hooked_sae_transformer_is_measured_with_its_saes_and_says_so(tiny: Any) -> None:
    saelens()
    from sae_lens import HookedSAETransformer, StandardSAE, StandardSAEConfig
    from transformer_lens import HookedTransformerConfig

    shape: dict[str, Any] = {"n_layers": 2, "d_model": 8, "n_ctx": 32, "d_head": 4, "d_vocab": tiny.cfg.d_vocab}
    model: Any = HookedSAETransformer(HookedTransformerConfig(**shape, act_fn="gelu", seed=0), tiny.tokenizer)
    text, config = scenarios(10).text, StandardSAEConfig(d_in=8, d_sae=16)
    config.metadata.hook_name = "blocks.0.hook_mlp_out"
    plain = capture(model, text)
    assert describe_model(model)["attached_saes"] == []
    model.add_sae(StandardSAE(config))
    with pytest.warns(SaeMoralWarning, match=r"SAEs are attached to the model \(blocks.0.hook_mlp_out\)"):
        spliced = capture(model, text)
    assert not np.allclose(spliced[0], plain[0], atol=1e-4)
    facts = describe_model(model)
    assert (facts["wrapper"], facts["attached_saes"]) == ("HookedSAETransformer", ["blocks.0.hook_mlp_out"])
    model.reset_saes()
    assert torch.equal(capture(model, text)[0], plain[0])
