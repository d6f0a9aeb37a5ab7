"""A bridge is compared with the model it wraps, once, and refused where they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from benchmarks.architectures import ARCHITECTURES, TOLERANCE, compared, save_random
from sae_moral.capture import agreement, capture, load_model
from sae_moral.capture.agreement import compare, sample_rows, tolerance, trust, unwrapped
from sae_moral.capture.hooks import active_hooks
from sae_moral.capture.models import hooked_model
from sae_moral.errors import SaeMoralWarning
from sae_moral.steering import generate
from tests.libraries import of_transformer_lens_3

TEXTS = ["the boy shared his bread", "she lied"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model of an architecture, made when it is first asked for."""
    root, made = tmp_path_factory.mktemp("architectures"), {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = root / str(len(made))
            save_random(name, made[name])
        return made[name]

    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "agreement"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were compared."""
    found: list[Any] = []

    def counted(model: Any) -> Any:
        found.append(model)
        return compare(model)

    monkeypatch.setattr(agreement, "compare", counted)
    return found


def bridge(folder: Path) -> Any:
    """A bridge that a user made, without us."""
    return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "refused", "cache_works"),
    [
        pytest.param("Cohere", True, None, marks=of_transformer_lens_3),
        pytest.param("HunYuan", True, None, marks=of_transformer_lens_3),
        ("Mamba", False, False),
        ("MPT", False, True),
        ("Mistral", False, True),
        ("GPT-NeoX, parallel blocks", False, True),
        ("GPT-2", False, True),
    ],
)
def test_architectures_are_as_in_transformers_or_refused(name: str, refused: bool, cache_works: bool | None) -> None:
    row = compared(name)
    assert row.right and bool(row.refusal) == refused
    if not refused:
        assert row.cache == cache_works and row.capture is not None and row.capture < TOLERANCE


@of_transformer_lens_3
def test_what_differs_is_refused_with_the_place(saved: Callable[[str], Path], cache: Path) -> None:
    with pytest.raises(
        ValueError, match=r"CohereForCausalLM .* the vectors after block 0 at position 1 of .* off by 0\."
    ):
        load_model(saved("Cohere"), device="cpu")
    with pytest.raises(ValueError, match=r"bfloat16 allows 0\.12.*Use another version of transformer-lens"):
        load_model(saved("Cohere"), device="cpu", dtype="bfloat16")
    assert not cache.exists()


@of_transformer_lens_3
def test_a_model_that_is_handed_over_is_compared_once(saved: Callable[[str], Path], runs: list[Any]) -> None:
    right, wrong = bridge(saved("Mistral")), bridge(saved("Cohere"))
    for _ in range(2):
        capture(right, TEXTS, progress=False)
    generate(right, TEXTS, max_new_tokens=1)
    assert runs == [right]
    with pytest.raises(ValueError, match="does not compute what transformers computes"):
        capture(wrong, TEXTS, progress=False)
    with pytest.raises(ValueError, match="does not compute what transformers computes"):
        generate(wrong, TEXTS, max_new_tokens=1)
    trust(wrong)
    capture(wrong, TEXTS, progress=False)
    assert runs == [right, wrong, wrong]


def test_what_agreed_is_remembered_until_something_changes(
    saved: Callable[[str], Path], tmp_path: Path, runs: list[Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        load_model(saved("Mistral"), device="cpu")
    assert len(runs) == 1 and len(list(cache.iterdir())) == 1
    load_model(saved("Mistral"), device="cpu", dtype="bfloat16")
    assert len(runs) == 2
    hf = AutoModelForCausalLM.from_pretrained(saved("Mistral"))
    with torch.no_grad():
        hf.model.layers[2].mlp.up_proj.weight[3, 4] += 1e-3
    changed = bridge(saved("Mistral"))  # its tokenizer
    hf.save_pretrained(tmp_path / "changed")
    changed.tokenizer.save_pretrained(tmp_path / "changed")
    load_model(tmp_path / "changed", device="cpu")
    assert len(runs) == 3
    monkeypatch.setattr(
        agreement, "versions", lambda: dict.fromkeys(("torch", "transformers", "transformer-lens"), "9")
    )
    load_model(saved("Mistral"), device="cpu")
    assert len(runs) == 4


def test_a_damaged_record_is_named_and_made_again(saved: Callable[[str], Path], runs: list[Any], cache: Path) -> None:
    load_model(saved("GPT-2"), device="cpu")
    (record,) = cache.iterdir()
    whole = record.read_text()
    record.write_text(whole[:-9])
    with pytest.warns(SaeMoralWarning, match=rf"{record.name}.*compared again"):
        load_model(saved("GPT-2"), device="cpu")
    assert len(runs) == 2 and record.read_text() == whole


def test_a_cache_folder_that_cannot_be_written_does_no_harm(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[Any]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        load_model(saved("GPT-2"), device="cpu")
    assert len(runs) == 2


@pytest.mark.parametrize("name", ["Cohere", "GPT-2", "MPT", "Mistral"])
def test_the_reference_is_what_transformers_alone_computes(saved: Callable[[str], Path], name: str) -> None:
    model = bridge(saved(name))
    alone = AutoModelForCausalLM.from_pretrained(saved(name), attn_implementation="eager").eval()
    ids = torch.tensor([sample_rows(model)[0]])
    before = [(path, id(module)) for path, module in model.named_modules()]
    with torch.no_grad():
        first = model(ids, return_type="logits")
        with unwrapped(model) as original:
            assert not any("Bridge" in type(module).__name__ for module in original.modules())
            assert torch.equal(original(ids).logits, alone(ids).logits)
        with pytest.raises(KeyboardInterrupt), unwrapped(model):
            raise KeyboardInterrupt
        assert torch.equal(model(ids, return_type="logits"), first)
    assert [(path, id(module)) for path, module in model.named_modules()] == before


def test_the_first_block_and_position_are_named(saved: Callable[[str], Path]) -> None:
    model = bridge(saved("MPT"))
    with torch.no_grad():
        model.blocks[1].attn.q.weight[:] *= -1  # this bridge has queries, keys and values of its own
    found = compare(model)
    assert found is not None and found.error >= found.error_there > found.tolerance == 1e-4
    assert found.at == "the vectors after block 1 at position 1"  # the first token sees only itself
    with pytest.raises(ValueError, match=r"after block 1 at position 1 .*trust\(model\)"):
        capture(model, TEXTS, layers=[0], progress=False)


def test_logits_alone_may_differ(saved: Callable[[str], Path]) -> None:
    model = bridge(saved("GPT-2"))
    model.unembed.register_forward_hook(lambda _, __, logits: logits * 1.001)
    found = compare(model)
    assert found is not None and found.at == "the logits at position 0"
    assert found.error_there == pytest.approx(1e-3, rel=1e-2)


def test_hooks_are_set_aside_and_put_back(saved: Callable[[str], Path]) -> None:
    model, calls = bridge(saved("Mistral")), []

    def hook(hidden: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append(hidden.shape)
        return hidden + 100

    with model.hooks(fwd_hooks=[("blocks.1.hook_out", hook)]):
        before = active_hooks(model)
        found = compare(model)
        assert found is not None and found.error < 1e-5 and not found.at and not calls
        assert active_hooks(model) == before
        model(torch.tensor([[4, 5]]), return_type="logits")
    assert len(calls) == 1 and active_hooks(model) == []


def test_what_computes_something_else_on_purpose_is_not_compared(saved: Callable[[str], Path], runs: list[Any]) -> None:
    processed, training = bridge(saved("GPT-2")), bridge(saved("GPT-2"))
    processed.enable_compatibility_mode(disable_warnings=True)
    training.train()
    for model in (processed, training):
        agreement.check_agreement(model)
    assert runs == []
    training.eval()
    agreement.check_agreement(training)
    assert runs == [training]


def test_sixteen_bits_are_allowed_their_rounding(saved: Callable[[str], Path]) -> None:
    for dtype, allowed in (("float32", 1e-4), ("bfloat16", 0.125), ("float16", 0.015625)):
        model = load_model(saved("OLMo 2"), device="cpu", dtype=dtype)
        assert tolerance(model) == allowed
    found = compare(load_model(saved("OLMo 2"), device="cpu", dtype="bfloat16"))
    assert found is not None and 1e-3 < found.error < found.tolerance


def test_rounding_in_sixteen_bits_does_not_add_up_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, options = ARCHITECTURES["OLMo"]
    monkeypatch.setitem(ARCHITECTURES, "deep", (kind, {**options, "num_hidden_layers": 24}))
    save_random("deep", tmp_path / "deep")
    model: Any = TransformerBridge.boot_transformers(str(tmp_path / "deep"), device="cpu", dtype=torch.bfloat16)
    alone = AutoModelForCausalLM.from_pretrained(
        tmp_path / "deep", dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    ids = torch.tensor(sample_rows(model)[:1])
    with torch.no_grad():
        ours, theirs = model(ids, return_type="logits").float(), alone(ids).logits.float()
    assert ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max() > 0.125
    found = compare(model)
    assert found is not None and not found.at and found.error < 0.0625


def test_another_kernel_of_attention_is_a_reason_that_is_named(tmp_path: Path) -> None:
    save_random("Falcon, ALiBi", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")  # transformers' own two kernels differ here
    with pytest.raises(ValueError, match=r"Use attn_implementation='eager' \(it is 'sdpa'\), or another version"):
        hooked_model(model)


def test_a_bridge_that_fails_is_refused(saved: Callable[[str], Path]) -> None:
    with pytest.raises(
        ValueError, match=r"CodeGenForCausalLM .* fails on a test prompt in bfloat16 \(.*use dtype float32"
    ):
        load_model(saved("CodeGen"), device="cpu", dtype="bfloat16")


def test_a_model_that_transformers_does_not_run_is_said_to_be_unchecked(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: Any) -> Any:
        raise RuntimeError("needs an image")

    monkeypatch.setattr(agreement, "unwrapped", fails)
    with pytest.warns(SaeMoralWarning, match=r"MistralForCausalLM was not compared .*\(needs an image\)"):
        load_model(saved("Mistral"), device="cpu")


def test_values_that_are_not_finite_in_transformers_are_no_difference(saved: Callable[[str], Path]) -> None:
    model = bridge(saved("Mistral"))
    with torch.no_grad():
        model.original_model.model.embed_tokens.weight.fill_(torch.inf)
    found = compare(model)
    assert found is not None and not found.at
    with pytest.raises(RuntimeError, match="not finite"):
        capture(model, TEXTS, progress=False)


def test_sample_rows_are_ordinary_tokens(saved: Callable[[str], Path]) -> None:
    model = bridge(saved("Mistral"))
    rows = sample_rows(model)
    assert [len(row) for row in rows] == [12, 7] and rows == sample_rows(model)
    assert not set(model.tokenizer.all_special_ids) & {token for row in rows for token in row}
    assert max(map(max, rows)) < model.cfg.d_vocab
