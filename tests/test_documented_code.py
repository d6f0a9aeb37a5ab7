"""The code of "Bring what you have" runs, block by block; small models stand in for those it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sae_moral import DIMENSIONS, Diagnosis, MoralData
from sae_moral.sae.moral_latents import MoralLatents
from tests.libraries import transformer_lens_3
from tests.sae.formats import gemma_scope_2, serve
from tests.steering.test_generate import tiny_hooked
from tests.tiny import save_tiny_model, scenarios

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bring-what-you-have.md"
MODEL, RELEASE = "gemma-3-270m", "gemma-scope-2-270m-pt-res"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks leave behind. The small model lies in a folder that has the large one's name, which is where
    transformers looks first; it has three blocks, and the last one's SAE stands in for that of 12."""
    folder = tmp_path_factory.mktemp("page")
    model = save_tiny_model(folder / "google" / MODEL)
    shutil.copytree(model, folder / "checkpoints" / MODEL)
    data = scenarios(600)
    strengths = dict(zip(DIMENSIONS, data.vector.T, strict=True))
    pd.DataFrame({"text": data.text, **strengths}).to_csv(folder / "my_scenarios.csv", index=False)
    _, _, release, _ = gemma_scope_2(folder)
    release["config_overrides"]["model_name"] = MODEL
    left: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(
            transformer_lens_3().HookedTransformer,
            "from_pretrained_no_processing",
            lambda name: tiny_hooked(Path(name)),
        )
        serve(patch, folder, RELEASE, release, MODEL)
        for number, block in enumerate(blocks(), start=1):
            block = block.replace("layer_12_", "layer_2_").replace("{12: sae}", "{2: sae}")
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), left)
        left["written"] = sorted(path.name for path in Path("out").iterdir())
    return left


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf8"), re.DOTALL)


def test_every_form_of_a_model_gives_the_same_numbers(names: dict[str, Any]) -> None:
    assert len(blocks()) > 9
    expected = values(names["of_bridge"])
    assert len(expected) > 3
    for form in ("of_hooked", "of_plain", "of_folder"):
        np.testing.assert_allclose(values(names[form]), expected, rtol=1e-4, atol=1e-4, err_msg=form)


def test_every_form_of_a_table_gives_the_same_numbers(names: dict[str, Any]) -> None:
    for form in ("of_table", "of_records", "of_dataset"):
        assert values(names[form]) == values(names["of_bridge"]), form
    assert isinstance(names["data"], MoralData) and len(names["data"]) == len(names["dataset"]) >= 600
    assert len(names["one_split"]) == len(names["streamed"]) >= 60


def test_every_form_of_an_sae_gives_the_same_numbers(names: dict[str, Any]) -> None:
    for form in ("of_layers", "of_release", "of_saved"):
        assert values(names[form]) == values(names["of_latents"]), form
    assert isinstance(names["moral"], MoralLatents) and names["moral"].layer == 2


def test_what_comes_back(names: dict[str, Any]) -> None:
    assert names["written"] == ["diagnosis.json", "report.html"]
    said = re.search(r"of_bridge  # (Diagnosis\(model=[^,]*)", PAGE.read_text(encoding="utf8"))
    assert said and repr(names["of_bridge"]).startswith(said[1])


def values(diagnosis: Diagnosis) -> list[float]:
    return [row.value for row in diagnosis.rows if row.value is not None]
