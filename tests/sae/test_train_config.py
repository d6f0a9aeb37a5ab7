"""Settings become SAELens configurations; what SAELens does not have is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sae_moral.sae.train_config import TargetL0, TrainSettings, architectures, change, configure
from tests.sae.test_train_input import invented


def test_every_registered_architecture_gets_its_sparsity_from_one_number(tmp_path: Path) -> None:
    activations = invented(tmp_path)
    for name in architectures():
        config = configure(activations, TrainSettings(architecture=name, expansion=4, target_l0=3))
        sae: Any = config.saes[1]
        assert (sae.architecture(), sae.d_in, sae.d_sae) == (name, 8, 32)
        asked = {getattr(sae, field, 3) for field in ("k", "target_l0", "max_iterations")}
        assert asked == {3}
        assert config.controlled == (("l1",) if name in ("standard", "gated") else ())


def test_the_trainer_configuration_and_overrides(tmp_path: Path) -> None:
    settings = TrainSettings(steps=200, batch=64, lr=1e-4, sae_options={"k": 5}, trainer_options={"adam_beta2": 0.99})
    config = configure(invented(tmp_path), settings)
    trainer = config.trainer
    assert (trainer.total_training_steps, trainer.lr_end, trainer.lr_warm_up_steps) == (200, 1e-5, 10)
    assert (trainer.adam_beta2, trainer.lr_scheduler_name) == (0.99, "cosineannealing")
    assert trainer.feature_sampling_window == config.l0_every and not trainer.logger.log_to_wandb
    assert config.saes[0].k == 5  # pyright: ignore[reportAttributeAccessIssue]
    json.dumps(settings.to_dict())


def test_the_metadata_say_what_to_feed_the_sae(tmp_path: Path) -> None:
    metadata = configure(invented(tmp_path), TrainSettings(granularity="scenario")).saes[1].metadata
    assert metadata.hook_name == "blocks.1.hook_resid_post" and metadata.model_name == "invented"
    assert metadata.prepend_bos is True
    about = metadata.sae_moral
    assert about is not None
    assert (about["layer"], about["granularity"], about["template"]) == (1, "scenario", "{text}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"architecture": "batch_topk"}, "did you mean 'batchtopk'"),
        ({"granularity": "tokens"}, "did you mean 'token'"),
        ({"normalise": "scales"}, "did you mean 'scale'"),
        ({"init": "dat"}, "did you mean 'data'"),
        ({"protocol": "audit"}, "did you mean 'audited'"),
        ({"steps": 0}, "steps is 0; expected a number above 0"),
        ({"warm_up": 1.0}, "expected a share of the steps"),
        ({"checkpoints": -1}, "expected 0 or more"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainSettings(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target_l0": 1000}, "expected at most as many as there are"),
        ({"sae_options": {"kk": 3}}, "TopKTrainingSAEConfig has no option 'kk'; did you mean 'k'"),
        ({"trainer_options": {"adam_beta": 0.9}}, "did you mean 'adam_beta"),
    ],
)
def test_options_that_saelens_does_not_have(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        configure(invented(tmp_path), TrainSettings(**given))


def test_steps_follow_from_the_data_where_they_are_not_given() -> None:
    assert [TrainSettings(batch=100).resolved(n).steps for n in (50, 20_000)] == [400, 1200]
    assert TrainSettings(steps=7).resolved(20_000).steps == 7


def test_the_controller_follows_the_paper_s_bands() -> None:
    assert [change(ratio) for ratio in (2.1, 2.0, 1.2, 1.1, 1.0, 0.9, 0.89)] == [1.2, 1.05, 1.05, 1.0, 1.0, 1.0, 0.95]


def test_the_controller_looks_only_when_it_is_due() -> None:
    import torch

    trainer = SimpleNamespace(cfg=SimpleNamespace(feature_sampling_window=3), feature_sparsity=torch.full((30,), 1.0))
    controller = TargetL0(trainer, 2.0, target=10, every=3)
    assert [controller.step() for _ in range(6)] == pytest.approx([2, 2, 2.4, 2.4, 2.4, 2.88])
    other = TargetL0(trainer, 1.0, target=10, every=3)
    other.load_state_dict(controller.state_dict())
    assert (other.value, other.current_step) == (controller.value, 6)
    with pytest.raises(ValueError, match="expected the same feature_sampling_window"):
        TargetL0(trainer, 1.0, target=10, every=4)
