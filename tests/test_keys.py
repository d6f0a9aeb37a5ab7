"""Whatever shapes a result is in its key: any single change of it gives another one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral import AUDITED, Controls
from sae_moral.capture import capture
from sae_moral.capture.store import Store
from sae_moral.io import key
from sae_moral.provenance import model_identity
from sae_moral.sae import TrainSettings
from sae_moral.studies.shape import shape_of_diagnosis
from tests.tiny import scenarios

TEXT = scenarios(6).text
HOW: dict[str, Any] = {"layers": [0, 2], "template": "{text} is morally", "pooling": "scenario", "bos": "prepend"}


class Asked(Exception):
    """Carries the name of the store that would be filled."""


@pytest.fixture
def store_of(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The key of the vectors that a capture would keep."""

    def asked(store: Store, run: Any) -> None:
        raise Asked(store.folder.name)

    monkeypatch.setattr(Store, "fill", asked)

    def of(text: Any = TEXT, **how: Any) -> str:
        with pytest.raises(Asked) as found:
            capture(tiny, text, store=tmp_path, **{**HOW, **how})
        return str(found.value)

    return of


def tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def test_vectors_are_keyed_by_every_weight_and_buffer(tiny: Any, store_of: Callable[..., str]) -> None:
    before, seen = store_of(), set()
    for name, tensor in tensors(tiny):
        flat = tensor.data.view(-1)
        kept, at = flat.clone(), len(flat) // 2
        flat[at] = flat[at] + 1 if tensor.is_floating_point() else 1 - flat[at]
        assert store_of() != before, name
        flat.copy_(kept)
        seen.add(name)
    assert len(seen) > 30
    assert store_of() == before


def test_vectors_are_keyed_by_the_configuration(tiny: Any, store_of: Callable[..., str]) -> None:
    before, config = store_of(), tiny.original_model.config
    for name, value in (("rms_norm_eps", 0.1), ("hidden_act", "gelu"), ("num_attention_heads", 4)):
        tiny.original_model.config = copy.deepcopy(config)
        setattr(tiny.original_model.config, name, value)
        assert store_of() != before, name
    tiny.original_model.config = config
    assert store_of() == before


def first_token(tokens: Any) -> torch.Tensor:
    weights = torch.zeros_like(tokens.real, dtype=torch.float32)
    weights[:, 0] = 1
    return weights


@pytest.mark.parametrize(
    "how",
    [
        {"text": [*TEXT[:-1], "robbing two strangers ."]},
        {"text": TEXT[:-1]},
        {"layers": [0, 1]},
        {"layers": [0]},
        {"template": "{text} is"},
        {"template": "{text}"},
        {"pooling": "all"},
        {"pooling": first_token},
        {"bos": "tokenizer"},
        {"granularity": "token"},
        {"tokens_per_batch": 32},
    ],
    ids=lambda how: "-".join(how),
)
def test_vectors_are_keyed_by_text_and_prompts(store_of: Callable[..., str], how: dict[str, Any]) -> None:
    assert store_of(**how) != store_of()


def changed(value: Any) -> Any:
    """Another value that the same field may have."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, float):
        return value / 2
    if isinstance(value, int):
        return value + 50
    if isinstance(value, tuple):
        return value[:-1]
    return value


def variants(settings: Any, **others: Any) -> Iterator[tuple[str, Any]]:
    """The settings with one field changed, for every field."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        other = others[field.name] if field.name in others else changed(value)
        assert other != value, f"give another value for {field.name}"
        yield field.name, dataclasses.replace(settings, **{field.name: other})


DATA = scenarios(40)
PROTOCOLS = {
    "name": "mine",
    "template": "{text}.",
    "pooling": "all",
    "bos": "tokenizer",
    "estimators": "paper",
    "groups": "equal",
}


def test_a_diagnosis_is_keyed_by_every_setting_text_and_label() -> None:
    before = key("k", **shape_of_diagnosis(DATA))
    for name, protocol in variants(AUDITED, **PROTOCOLS):
        assert key("k", **shape_of_diagnosis(DATA, protocol=protocol)) != before, name
    for name, controls in variants(Controls(), stratum=None, margin={"categorical": 0.1}):
        assert key("k", **shape_of_diagnosis(DATA, controls=controls)) != before, name
    assert key("k", **shape_of_diagnosis(DATA, match="length")) != before
    assert key("k", **shape_of_diagnosis(DATA, metrics=["categorical"])) != before
    assert key("k", **shape_of_diagnosis(DATA.relabelled(np.roll(np.arange(len(DATA)), 1)))) != before
    other = dataclasses.replace(DATA, text=("another text", *DATA.text[1:]))
    assert key("k", **shape_of_diagnosis(other)) != before
    assert key("k", **shape_of_diagnosis(scenarios(40))) == before


def test_a_training_is_keyed_by_every_setting() -> None:
    settings = TrainSettings()
    assert set(settings.to_dict()) == {field.name for field in dataclasses.fields(settings)}


def test_weights_and_configuration_reach_every_key_through_the_identity(tiny: Any) -> None:
    """Sweeps, atlas, latents, trainings and Flames are keyed by `describe_model`, whose identity this is."""
    before = model_identity(tiny)
    next(iter(tiny.parameters())).data.view(-1)[0] += 1e-3
    assert model_identity(tiny) != before
