"""The vectors an SAE is operated on: as captured, per token where trained so, and refused where they do not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture import Representations, capture
from sae_moral.sae import latent_representations
from sae_moral.sae.load import LoadedSae
from sae_moral.surgery.vectors import pooled, vectors_of
from tests.surgery.worlds import LAYER, data, representations, sae
from tests.tiny import scenarios


def trained_on(loaded: LoadedSae, **about: Any) -> LoadedSae:
    loaded.sae.cfg.metadata.sae_moral = about
    return loaded


def test_representations_are_one_vector_per_prompt() -> None:
    of = data(20)
    found = vectors_of(representations(of), of.text, sae())
    assert torch.equal(found.x[found.row], representations(of)[LAYER])
    index, count = found.of(torch.tensor([3, 5]))
    assert index.tolist() == [3, 5] and count.tolist() == [1, 1]


@pytest.mark.parametrize("stored", [False, True])
def test_tokens_pool_to_what_latents_are_elsewhere(tiny: Any, tmp_path: Path, stored: bool) -> None:
    of = scenarios(30)
    loaded = trained_on(sae(), granularity="token", template="{text}", pooling=None, bos="prepend")
    found = vectors_of(tiny, of.text, loaded, store=tmp_path if stored else None, progress=False)
    prompts = torch.arange(len(found.first) - 1)
    index, count = found.of(prompts)
    latents = pooled(loaded.encode(found.x[index]), count)[found.row]
    wanted = latent_representations(tiny, of.text, loaded, progress=False)[LAYER]
    assert torch.allclose(latents, wanted, atol=1e-5)
    assert found.length.tolist() == [len(text.split()) for text in of.text]
    some, count = found.of(torch.tensor([4, 2]))
    assert torch.equal(some, torch.cat([torch.arange(*found.first[i : i + 2].tolist()) for i in (4, 2)]))
    assert count.sum() == len(some)


def test_a_model_is_captured_as_the_sae_was_trained(tiny: Any) -> None:
    of = scenarios(30)
    loaded = trained_on(sae(), granularity="scenario", template="{text} is morally", pooling="all", bos="tokenizer")
    found = vectors_of(tiny, of.text, loaded, progress=False)
    wanted = capture(tiny, of.text, layers=[LAYER], template="{text} is morally", pooling="all", bos="tokenizer")
    assert torch.equal(found.x[found.row], wanted[LAYER])


def test_what_does_not_fit_is_refused(tiny: Any) -> None:
    of = data(20)
    good = representations(of)
    with pytest.raises(ValueError, match="19 scenarios and 20 records"):
        vectors_of(good.subset(np.arange(19)), of.text, sae())
    with pytest.raises(ValueError, match=r"width: vectors of 8 numbers.*reads 16"):
        vectors_of(dataclasses.replace(good, read={LAYER: torch.zeros(20, 8)}.__getitem__), of.text, sae())
    with pytest.raises(ValueError, match=r"SAEs for layers \[1\].*captured layers are \[2\]"):
        vectors_of(dataclasses.replace(good, layers=(2,)), of.text, sae())
    bad = good[LAYER].clone()
    bad[7, 3] = torch.nan
    with pytest.raises(ValueError, match="1 vectors are not finite, the first of record 7"):
        vectors_of(dataclasses.replace(good, read={LAYER: bad}.__getitem__), of.text, sae())
    with pytest.raises(ValueError, match="already pooled"):
        vectors_of(good, of.text, sae(), granularity="token")
    with pytest.raises(ValueError, match="a ndarray in the place of vectors"):
        vectors_of(np.zeros((20, 16)), of.text, sae())
    elsewhere = SimpleNamespace(cfg=SimpleNamespace(device="cuda"), hook_dict={})
    with pytest.raises(ValueError, match=r"the model is on cuda and .* on cpu.*device='cuda'"):
        vectors_of(elsewhere, of.text, sae())
    assert isinstance(good, Representations)
