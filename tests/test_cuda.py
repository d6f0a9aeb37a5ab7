"""CUDA, and bfloat16 on it, give what the CPU gives. Needs a GPU; skipped where there is none."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral import Controls, diagnose, load_model
from sae_moral.capture import capture
from sae_moral.controls import NAMES
from sae_moral.data.splits import group_split
from sae_moral.sae import TrainSettings, find_moral_latents, latent_representations, load_sae, train_saes
from sae_moral.steering import Steering, Wording, generate, random_direction
from sae_moral.steering.effects import MeasureSettings
from sae_moral.studies import sweep
from sae_moral.surgery import Operation, operate
from tests.surgery.worlds import BY_DIMENSION
from tests.surgery.worlds import data as planted_data
from tests.surgery.worlds import representations as planted_vectors
from tests.surgery.worlds import sae as planted_sae
from tests.tiny import scenarios

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
DATA = scenarios(1500)
PROMPTS = ["helping", "robbing the old baker is morally", "two strangers on the bus and the team", "hitting my sister"]
FEW = Controls(names=NAMES, resamples=50, permutations=19)


@pytest.fixture
def here(tiny_folder: Path) -> Any:
    return load_model(tiny_folder, device="cpu")


@pytest.fixture
def there(tiny_folder: Path) -> Any:
    return load_model(tiny_folder, device="cuda")


@pytest.fixture(scope="module")
def saes(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs of blocks 0 and 1, trained on the CPU, read by the tests on both devices."""
    out = tmp_path_factory.mktemp("saes")
    settings = TrainSettings(expansion=4, target_l0=8, steps=150, batch=64, lr=3e-3, architecture="jumprelu")
    train_saes(load_model(tiny_folder, device="cpu"), DATA, [0, 1], settings, out=out, splice_texts=0, progress=False)
    return out


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float().cpu() - b.float().cpu()).norm() / b.float().norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_capture(here: Any, tiny_folder: Path, dtype: str, tolerance: float) -> None:
    there = load_model(tiny_folder, device="cuda", dtype=dtype)
    a, b = capture(there, DATA.text), capture(here, DATA.text)
    for layer in b.layers:
        assert relative(a[layer], b[layer]) < tolerance


@pytest.mark.parametrize("protocol", ["audited", "paper"])
def test_diagnosis(here: Any, there: Any, protocol: str) -> None:
    """Every number of every column, controls included: draws are made on the CPU and are the same."""
    settings = dict(protocol=protocol, controls=FEW)
    a, b = (
        [dataclasses.asdict(row) for row in diagnose(model, DATA, **settings).rows]  # pyright: ignore[reportArgumentType]
        for model in (there, here)
    )
    assert len(a) == len(b)
    off = []
    for mine, theirs in zip(a, b, strict=True):
        for key, value in theirs.items():
            if isinstance(value, float) and mine[key] is not None:
                if not math.isclose(mine[key], value, rel_tol=2e-3, abs_tol=2e-3):
                    off.append((mine["metric"], mine["statistic"], mine["layer"], mine["group"], key, mine[key], value))
            elif mine[key] != value:
                off.append((mine["metric"], mine["statistic"], mine["layer"], mine["group"], key, mine[key], value))
    # The probe of the paper's protocol is trained step by step, and clusters turn on last digits.
    sensitive = {"dimensional", "structural"} if protocol == "paper" else set()
    assert not [row for row in off if row[0] not in sensitive], off[:10]


@pytest.mark.filterwarnings("ignore::sae_moral.errors.SaeMoralWarning")  # too few distinct texts for so many latents
@pytest.mark.parametrize("granularity", ["token", "scenario"])
@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka_batchtopk"])
def test_training(here: Any, there: Any, tmp_path: Path, architecture: str, granularity: str) -> None:
    settings = TrainSettings(
        expansion=4, target_l0=8, steps=150, batch=64, lr=3e-3, architecture=architecture, granularity=granularity
    )
    a, b = (
        train_saes(model, DATA, [1], settings, out=tmp_path / name, splice_texts=8, progress=False)
        for name, model in (("there", there), ("here", here))
    )
    for name in ("explained_variance", "l0"):
        assert a.results[1]["held_out"][name] == pytest.approx(b.results[1]["held_out"][name], rel=0.05, abs=0.02)
    assert torch.device(load_sae(a.path(1), model=there).sae.device).type == "cuda"


def test_latents_are_the_same(here: Any, there: Any, saes: Path) -> None:
    found = []
    for model in (there, here):
        own = load_sae(saes / "blocks.1.hook_resid_post", model=model)
        encoded = latent_representations(model, DATA.text, {1: own}, progress=False)
        found.append((encoded[1], find_moral_latents(own, model, DATA)))
    (x, mine), (y, theirs) = found
    assert relative(x, y) < 1e-4
    assert mine.latents() == theirs.latents()
    np.testing.assert_allclose(mine.arrays["selection_r"], theirs.arrays["selection_r"], atol=1e-3)


@pytest.mark.parametrize("control", ["none", "shuffled", "random", "no-surgery"])
def test_surgery_on_the_gpu(control: str) -> None:
    """The same texts, batches and losses: what is learnt agrees, and all else is bit-identical."""
    of = planted_data(600)
    options: dict[str, Any] = {"epochs": 5, "batch": 200, "lr": 0.05, "control": control}
    options["split"] = group_split(of, shares=(0.6, 0.15, 0.25))
    made = []
    for device in ("cuda", "cpu"):
        sae = planted_sae()
        sae.sae.to(device)
        made.append(operate(sae, BY_DIMENSION, planted_vectors(of), of, **options))
    a, b = made
    others = [i for i in range(48) if i not in b.latents.tolist()]
    assert a.latents.tolist() == b.latents.tolist()
    before = planted_sae().sae.W_dec
    assert torch.equal(a.sae.sae.W_dec.cpu()[others], before[others])
    for name, value in b.sae.sae.state_dict().items():
        torch.testing.assert_close(a.sae.sae.state_dict()[name].cpu(), value, atol=2e-3, rtol=2e-3)


@pytest.fixture
def operation(here: Any, saes: Path, tmp_path: Path) -> Path:
    """Saved on the CPU."""
    dimensions = {"care": [0, 3], "harm": [1, 5], "fairness": [7], "cheating": [2]}
    sae = load_sae(saes / "blocks.1.hook_resid_post", model=here)
    operate(sae, dimensions, here, DATA, epochs=3, early_stop=False, lr=0.05).save(tmp_path / "operation")
    return tmp_path / "operation"


@pytest.mark.parametrize("form", ["edit", "paper"])
def test_steered_generation(here: Any, there: Any, operation: Path, form: str) -> None:
    found = []
    for model, device in ((there, "cuda"), (here, "cpu")):
        steerings = [
            Steering(Operation.load(operation, device=device), 2.0, form=form, positions="all-but-first"),
            Steering(random_direction(16, 2, 3), 0.3, units="relative", positions="generated"),
        ]
        found.append(generate(model, PROMPTS, steerings=steerings, max_new_tokens=8, stop_at_eos=False))
    assert found[0] == found[1]


def test_bfloat16_model_is_steered(tiny_folder: Path, operation: Path) -> None:
    model = load_model(tiny_folder, device="cuda", dtype="bfloat16")
    steering = Steering(Operation.load(operation, device="cuda"), 2.0)
    assert len(generate(model, PROMPTS, steerings=steering, max_new_tokens=8, stop_at_eos=False)) == len(PROMPTS)


def test_sweep(here: Any, there: Any, operation: Path, tmp_path: Path) -> None:
    settings = MeasureSettings(
        neutral=("a neighbour is counting .", "the team is painting ."),
        openings=("helping", "the"),
        new_tokens=6,
        wordings=(Wording("is", "{text} is", (("helping", "hitting"), ("feeding", "robbing"))),),
        each=1,
    )
    split = {"train": np.arange(1000), "test": np.arange(1000, 1500)}
    rows = []
    for model, device in ((there, "cuda"), (here, "cpu")):
        found = sweep(
            model, [Operation.load(operation, device=device)], DATA, kls=[], alphas=[2.0], settings=settings,
            split=split, draws=50, out=tmp_path / device, forms=("edit", "paper"), progress=False,
        )  # fmt: skip
        rows.append(found.rows)
    for mine, theirs in zip(*rows, strict=True):
        assert mine.arm == theirs.arm
        for name in ("kl", "norm_share"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), rel=2e-3, abs=1e-4), name
        for one, other in zip(mine.words, theirs.words, strict=True):
            assert one.gap == pytest.approx(other.gap, rel=2e-3, abs=1e-4), one
