"""The sparse step is SAELens' step: gradients, weights after 200 steps, dead latents, checkpoints, files."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainingSAE, TrainStepInput
from sae_lens.saes.topk_sae import TopKSAE, TopKTrainingSAE
from sae_lens.training.sae_trainer import SAETrainer

from sae_moral.sae.sparse_step import SPARSE, fused_adam
from sae_moral.sae.train import train_on
from sae_moral.sae.train_config import SPARSE_STEP, TrainSettings, configure
from sae_moral.sae.train_layer import LayerTraining
from tests.sae.test_train_input import invented

NAMES = tuple(SPARSE)
OPTIONS = [{}, {"rescale_acts_by_decoder_norm": False}, {"apply_b_dec_to_input": False}]


def settings(**options: Any) -> TrainSettings:
    few = {"expansion": 16, "target_l0": 3, "steps": 200, "batch": 64, "init": "random", "checkpoints": 0}
    return TrainSettings(**{**few, **options})


def pair(name: str, **options: Any) -> tuple[Any, Any]:
    """SAELens' SAE and ours, with the same random weights in float64."""
    theirs, config = get_sae_training_class(name)
    made = config(d_in=12, d_sae=80, k=4, dtype="float64", **options)  # pyright: ignore[reportCallIssue]
    saes = theirs(made), SPARSE[name](made)
    generator = torch.Generator().manual_seed(0)
    for parameter in saes[0].parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    saes[1].load_state_dict(saes[0].state_dict())
    return saes


def step_input(n_dead: int) -> TrainStepInput:
    x = torch.randn(20, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[3] = 0
    mask = torch.arange(80) >= 80 - n_dead
    return TrainStepInput(x, coefficients={}, dead_neuron_mask=mask, n_training_steps=0, is_logging_step=False)


def test_every_architecture_of_it_is_in_the_table() -> None:
    assert SPARSE_STEP == NAMES


@pytest.mark.parametrize("n_dead", [0, 3, 40, 65])  # none, fewer than d / 2, more, many more
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_saelens(name: str, options: dict[str, Any], n_dead: int) -> None:
    saes = pair(name, **options)
    outputs = [sae.training_forward_pass(step_input(n_dead)) for sae in saes]
    for output in outputs:
        output.loss.backward()
    for field in ("loss", "sae_out", "feature_acts", "hidden_pre"):
        torch.testing.assert_close(*(getattr(output, field) for output in outputs), rtol=1e-12, atol=1e-12)
    assert outputs[0].losses.keys() == outputs[1].losses.keys()
    assert (outputs[1].losses["auxiliary_reconstruction_loss"] > 0) == (n_dead > 0)
    for (parameter, theirs), (_, ours) in zip(*(sae.named_parameters() for sae in saes), strict=True):
        assert theirs.grad.abs().max() > 0.01, parameter
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-11, msg=parameter)
        assert ours.grad.stride() == ours.stride(), parameter  # a fused Adam reads memory, not strides


def test_a_hook_on_all_latents_sees_and_changes_what_it_does_with_saelens() -> None:
    outputs = []
    for sae in pair("topk"):
        sae.hook_sae_acts_post.add_hook(lambda acts, hook: acts * 2)
        outputs.append(sae.training_forward_pass(step_input(3)).sae_out)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_weights_after_200_steps(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """No weight differs by more than 1e-6 where they went 0.05; latents die, and are revived by the auxiliary loss."""
    activations, trained, dead = invented(tmp_path, layers=1), [], []
    for exact in (True, False):
        chosen = settings(architecture=name, exact_step=exact, sae_options=options)
        config = configure(activations, chosen)
        training = LayerTraining(activations, 0, chosen, config)
        assert (config.step, type(training.sae) is SPARSE[name]) == (("SAELens", False) if exact else ("sparse", True))
        before = {name: value.clone() for name, value in training.sae.state_dict().items()}
        for _ in range(200):
            training.trainer.step(next(training.batches))
            training.trainer.n_training_steps += 1
            dead.append(training.trainer.dead_neurons)
        trained.append(training)
    exact, sparse = (one.sae.state_dict() for one in trained)
    assert exact.keys() == sparse.keys()
    for parameter, value in exact.items():
        torch.testing.assert_close(sparse[parameter], value, rtol=0, atol=1e-6, msg=parameter)
        assert (value - before[parameter]).abs().max() > 0.05, parameter
    for one, other in zip(dead[:200], dead[200:], strict=True):
        assert torch.equal(one, other)
    assert max(int(one.sum()) for one in dead) > activations.vectors(0).shape[1] // 2
    assert any((one & ~other).any() for one, other in pairwise(dead[:200]))
    assert torch.equal(trained[0].trainer.act_freq_scores, trained[1].trainer.act_freq_scores)


def test_saelens_goes_on_from_a_checkpoint_and_loads_what_is_saved(tmp_path: Path) -> None:
    activations = invented(tmp_path, layers=1)
    ours = LayerTraining(activations, 0, settings(), configure(activations, settings()))
    batches = [next(ours.batches) for _ in range(80)]
    for batch in batches[:60]:
        ours.trainer.step(batch)
    ours.trainer.save_checkpoint_fn = None
    ours.trainer.save_checkpoint("here", tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path / "here")
    assert type(loaded) is TopKTrainingSAE and loaded.cfg == ours.sae.cfg
    theirs = SAETrainer(ours.trainer.cfg, loaded, iter(batches))
    theirs.load_trainer_state(tmp_path / "here")
    for batch in batches[60:]:
        ours.trainer.step(batch)
        theirs.step(batch)
    for parameter, value in loaded.state_dict().items():
        torch.testing.assert_close(ours.sae.state_dict()[parameter], value, rtol=0, atol=1e-6)
    ours.sae.save_inference_model(tmp_path / "sae")
    assert type(SAE.load_from_disk(tmp_path / "sae")) is TopKSAE


@pytest.mark.parametrize(
    "options",
    [
        {"exact_step": True},
        {"architecture": "jumprelu"},
        {"architecture": "matryoshka_batchtopk"},
        {"sae_options": {"dtype": "float64"}},
        {"sae_options": {"use_sparse_activations": True}},
        {"sae_options": {"normalize_activations": "layer_norm"}},
        {"trainer_options": {"autocast": True}},
        {"trainer_options": {"device": "cuda"}},
    ],
)
def test_what_it_is_not_made_for_takes_the_step_of_saelens(tmp_path: Path, options: dict[str, Any]) -> None:
    assert configure(invented(tmp_path, layers=1), settings(**options)).step == "SAELens"


@pytest.mark.parametrize(("exact", "step"), [(False, "sparse"), (True, "SAELens")])
@pytest.mark.filterwarnings("ignore:the SAE of layer")
def test_a_result_says_which_step_it_came_from(tmp_path: Path, exact: bool, step: str) -> None:
    chosen = settings(exact_step=exact, steps=5)
    found = train_on(invented(tmp_path, layers=1), chosen, out=tmp_path / "o", progress=False)
    assert found.results[0]["provenance"]["training_step"] == step


@pytest.mark.parametrize(("context", "fused"), [(fused_adam, True), (nullcontext, None)])
def test_only_a_trainer_made_within_has_the_fused_adam(tmp_path: Path, context: Any, fused: bool | None) -> None:
    config = configure(invented(tmp_path, layers=1), settings())
    with context():
        trainer = SAETrainer(config.trainer, TrainingSAE.from_dict(config.saes[0].to_dict()), iter(()))
    assert trainer.optimizer.param_groups[0]["fused"] is fused
