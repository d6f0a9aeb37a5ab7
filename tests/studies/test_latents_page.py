"""Moral latents as a study of layers, and their page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sae_moral.errors import FolderError
from sae_moral.sae import (
    LatentSettings,
    MoralLatents,
    find_moral_latents,
    find_moral_latents_by_layer,
    load_sae,
    load_saes,
)
from sae_moral.studies import latents_page, latents_with_page, write_latents_report
from sae_moral.studies.latents_page import render_latents, shown_latents
from tests.tiny import scenarios

LAX = LatentSettings(false_discovery=1.0, effect=0.0, selectivity=1.0, half=1.0, firing=3, items=3)
"""Labels of these scenarios are random: so that latents pass at all, the rule is as lax as it can be."""


def test_layers_are_found_once_and_as_without_a_study(
    tiny: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, saes, passes = scenarios(), load_saes(trained), []
    read = latents_page.latent_representations
    monkeypatch.setattr(latents_page, "latent_representations", lambda *a, **o: passes.append(a) or read(*a, **o))
    save = MoralLatents.save

    def killed(found: MoralLatents, folder: Path, **options: Any) -> Path:
        if found.layer == 2:
            raise KeyboardInterrupt
        return save(found, folder, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MoralLatents, "save", killed)
        latents_with_page(tiny, trained, data, tmp_path, settings=LAX, progress=False)
    assert len(list((tmp_path / "cells").glob("layer-1-*"))) == len(passes) == 1
    found, page = latents_with_page(tiny, trained, data, tmp_path, settings=LAX, progress=False)
    assert len(passes) == 2 and page == tmp_path / "latents.html"
    alone = find_moral_latents_by_layer(saes, tiny, data, settings=LAX)
    for layer in (1, 2):
        kept = MoralLatents.load(tmp_path / f"layer_{layer:03d}")
        assert kept.rows() == found[layer].rows() == alone[layer].rows() and kept.top == alone[layer].top
        assert all((kept.arrays[name] == array).all() for name, array in alone[layer].arrays.items())
    before = page.read_text()
    assert '<mark style="--on' in before
    latents_with_page(tiny, trained, data, tmp_path, settings=LAX, progress=False)
    assert len(passes) == 2 and page.read_text() == before
    assert not list((tmp_path / "cells").glob(".*"))
    with pytest.raises(FolderError, match="holds other results: settings"):
        latents_with_page(tiny, trained, data, tmp_path, progress=False)
    with pytest.raises(FolderError, match="holds other results: data"):
        latents_with_page(tiny, trained, scenarios(seed=1), tmp_path, settings=LAX, progress=False)
    assert page.read_text() == before


def test_one_sae_is_kept_in_the_folder_itself(tiny: Any, trained: Path, tmp_path: Path) -> None:
    sae = load_sae(trained / "blocks.1.hook_resid_post")
    found, _ = latents_with_page(tiny, sae, scenarios(), tmp_path, settings=LAX, progress=False)
    assert MoralLatents.load(tmp_path).rows() == found[1].rows()


def test_the_page_shows_held_out_numbers_tokens_and_links(tiny: Any, trained: Path, tmp_path: Path) -> None:
    sae = load_sae(trained / "blocks.1.hook_resid_post")
    sae.sae.cfg.metadata.neuronpedia_id = "tiny/1-res"
    found = find_moral_latents(sae, tiny, scenarios(), settings=LAX)
    assert found.latents()
    latent = found.latents("care")[0]
    assert latent in shown_latents(found)
    text = found.top[str(latent)][0]["text"]
    tokens = {1: {latent: {text: [(word + " ", float(i)) for i, word in enumerate(text.split())]}}}
    page = write_latents_report({1: found}, tmp_path, tokens=tokens).read_text()
    assert f"https://www.neuronpedia.org/tiny/1-res/{latent}" in page
    row = found.rows([latent])[0]
    assert f"{row['partial_r']:.3f}".replace("-", "−") in page
    assert f'title="100 %">{text.split()[-1]} </mark>' in page
    assert "http" not in page.replace("https://www.neuronpedia.org", "").replace("http://www.w3.org", "")
    with pytest.raises(ValueError, match="no moral latents"):
        render_latents({}, {})
    other = dataclasses.replace(found, provenance={**found.provenance, "data": {"sha256": "x", "n": 1}})
    with pytest.raises(ValueError, match="different scenarios"):
        render_latents({1: found, 2: other}, {})


def test_text_of_scenarios_is_escaped(tiny: Any, trained: Path) -> None:
    found = find_moral_latents(load_sae(trained / "blocks.1.hook_resid_post"), tiny, scenarios(), settings=LAX)
    evil = {latent: [{**one, "text": "<script>x</script>"} for one in top] for latent, top in found.top.items()}
    page = render_latents({1: dataclasses.replace(found, top=evil)}, {})
    assert "<script>x" not in page and "&lt;script&gt;" in page


def test_an_sae_without_moral_latents_says_so(tiny: Any, trained: Path) -> None:
    strict = LatentSettings(effect=0.99, firing=3, items=3)
    found = find_moral_latents(load_sae(trained / "blocks.1.hook_resid_post"), tiny, scenarios(), settings=strict)
    assert "No latent of this SAE passes the audited rule." in render_latents({1: found}, {})
