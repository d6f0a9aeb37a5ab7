"""The Python blocks of README and docs run, page by page, from top to bottom; small models, invented scenarios and
random SAEs stand in for those they name. ("Bring what you have" has its own tests, `test_documented_code`.)"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sae_moral import diagnose, load_data, load_model
from sae_moral.capture import capture
from sae_moral.capture.bundled import BUNDLED
from sae_moral.controls import get_controls
from sae_moral.data import Source
from sae_moral.data.sources import SOURCES
from sae_moral.foundations import DIMENSIONS
from sae_moral.metrics import registry
from sae_moral.steering import prompt_ids
from sae_moral.steering.words import ENGLISH
from sae_moral.surgery import Operation
from tests import tiny
from tests.sae.formats import gemma_scope_2, serve
from tests.steering.planted import operated, random_sae
from tests.surgery.test_push import Hub
from tests.tiny import save_tiny_model, scenarios

ROOT = Path(__file__).resolve().parents[1]
GEMMA, SMOL = "gemma-3-270m", "smollm2-135m-instruct"
MODELS = (GEMMA, f"google/{GEMMA}", SMOL, "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-0.6B")
"""TransformerLens knows the first one's name, and transformers looks for it in the folder with the second."""
RELEASE = "gemma-scope-2-270m-pt-res"
PAGES = ["README.md"] + [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
LEFT_OUT = {
    "docs/bring-what-you-have.md": "its own tests",
    "docs/extending.md": ("RSA", "A package with a metric, line by line"),
}
"""Pages that other tests run, and sections of them that `tests/scaffold` compares with the code they quote."""
OTHERWISE = {
    "layer_12_": "layer_2_",
    "blocks.15.": "blocks.1.",
    '"5,10,15"': '"0,1,2"',
    "load(10)": "load(1)",
    'top["1234"]': "top",
    'device="cuda"': 'device="cpu"',
    'device_map="auto"': "device_map=None",
    'revision="main", ': "",
    "None, model, data)": '{"care": [1, 4]}, model, data)',  # a random SAE has no moral latents
    "permutations=999, resamples=4000": "permutations=39, resamples=99",
}
"""What the small stand-ins have in the place of what the pages say."""


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf8")
    if isinstance(skipped := LEFT_OUT.get(page), tuple):
        text = re.sub(rf"^## ({'|'.join(skipped)})\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    elif skipped:
        return []
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [re.sub("|".join(map(re.escape, OTHERWISE)), lambda at: OTHERWISE[at[0]], block) for block in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the blocks run: every name they use is there."""
    monkeypatch.chdir(tmp_path)
    asked = {word.strip() for pair in ENGLISH for word in pair}
    monkeypatch.setattr(tiny, "WORDS", sorted({*tiny.WORDS, *asked}))
    for name in MODELS:
        about = save_tiny_model(tmp_path / name) / "config.json"
        about.write_text(about.read_text().replace('"max_position_embeddings": 64', '"max_position_embeddings": 128'))
        monkeypatch.delitem(BUNDLED, name, raising=False)
    invented = {
        name: Source(name, "invented", "none", "nobody", "nowhere", load=lambda path: scenarios(300))
        for name in ("moralstrength", "social-chem-101")
    }
    monkeypatch.setattr(SOURCES, "registered", invented)
    monkeypatch.setattr(registry, "_registered", {})  # pages add their own metrics
    data = scenarios(300)
    strengths = dict(zip(DIMENSIONS, data.vector.T, strict=True))
    for name in ("my_scenarios.csv", "mine.csv"):
        pd.DataFrame({"text": data.text, "author": [i % 40 for i in range(300)], **strengths}).to_csv(name)
    pd.read_csv("my_scenarios.csv", index_col=0).drop(columns="author").to_csv("my_scenarios.csv", index=False)
    pd.read_csv("mine.csv", index_col=0).to_csv("mine.csv", index=False)
    for name in ("operation", "operated"):
        operated(random_sae()).save(tmp_path / name)
    random_sae().sae.save_model(tmp_path / "saes" / "blocks.1.hook_resid_post")
    listed = [f"- {{name: {name}, model: {name}, family: A, variant: {name[0]}}}" for name in (GEMMA, SMOL)]
    Path("models.yaml").write_text("data: moralstrength\nmodels:\n  " + "\n  ".join(listed) + "\n")
    # Default controls with fewer draws.
    # Names are checked; two controls with few draws are run.
    few = {"names": ("interval", "null"), "resamples": 50, "permutations": 19}
    monkeypatch.setattr("sae_moral.controls.get_controls", lambda given: replace(get_controls(given), **few))
    _, _, release, _ = gemma_scope_2(tmp_path)
    release["config_overrides"]["model_name"] = GEMMA
    serve(monkeypatch, tmp_path, RELEASE, release, GEMMA)
    return tmp_path


def loaded(folder: Path) -> dict[str, Any]:
    """What pages take for granted: a model, scenarios, an SAE of it and its latents, an operation that writes."""
    model, data, sae = load_model(SMOL), scenarios(300), random_sae()
    prompts = ["helping a neighbour", "robbing the team"]
    given = {"model": model, "data": data, "sae": sae, "latents": {"care": [1, 4], "harm": [9]}, "prompts": prompts}
    return given | {
        "representations": capture(model, data.text, layers=[sae.layer], progress=False),
        "operation": Operation.load("operation"),
        "held_out": data.subset(np.arange(40)),
        "tokens": torch.tensor([prompt_ids(model, prompts)[0]]),
    }


BEFORE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "README.md": loaded,
    "docs/how-to.md": loaded,
    "docs/steering.md": loaded,
    "docs/surgery.md": loaded,
    "docs/sources.md": lambda folder: {"diagnose": diagnose},
}


@pytest.mark.filterwarnings("ignore::sae_moral.errors.SaeMoralWarning")  # of words that so small a vocabulary lacks
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_they_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder_of := {"docs/command-line.md": "out", "docs/tutorial.md": "diagnosis"}.get(page):
        diagnose(GEMMA, load_data("moralstrength"), layers=1, controls="interval", progress=False).save(folder_of)
    names = BEFORE.get(page, lambda folder: {})(folder)
    if page == "docs/surgery.md":  # which saves its own
        shutil.rmtree("operation")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(folder / "hub"))
    if page == "docs/scale.md":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
    for number, block in enumerate(blocks(page), start=1):
        if "sae_moral_ray" in block:
            pytest.importorskip("ray", reason="needs Ray; make test-ray")
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def test_pages_that_have_some_are_found() -> None:
    assert len([page for page in PAGES if blocks(page)]) >= 12
