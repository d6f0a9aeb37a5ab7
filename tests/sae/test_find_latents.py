"""Moral latents: the statistics equal scipy's and scikit-learn's; planted latents are found, and length is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from sae_moral import diagnose
from sae_moral.capture import Representations, capture
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.splits import group_split
from sae_moral.errors import DataError, FolderError, SaeMoralWarning
from sae_moral.foundations import DIMENSIONS
from sae_moral.metrics.nuisance import length_design
from sae_moral.sae.association import (
    AUDITED_CLASSES,
    PAPER_CLASSES,
    LatentSettings,
    Partial,
    _type_three,
    audit,
    nuisance_basis,
    paper_classes,
    q_values,
    released_pairs,
)
from sae_moral.sae.columns import SparseColumns, columns_of
from sae_moral.sae.find_latents import find_moral_latents, find_moral_latents_by_layer, fractions_by_layer
from sae_moral.sae.latents import latent_representations, latents_by_token
from sae_moral.sae.load import load_sae
from sae_moral.sae.measure import two_parts
from sae_moral.sae.moral_latents import MoralLatents
from sae_moral.studies import compare_saes
from tests.tiny import scenarios

N, LATENTS = 3000, 200


def identity_sae(width: int, architecture: str = "standard", **options: Any) -> Any:
    """An SAE whose latents are its inputs."""
    from sae_lens import SAE

    metadata = {"hook_name": "blocks.0.hook_resid_post"}
    sae = SAE.from_dict({"architecture": architecture, "d_in": width, "d_sae": width, "metadata": metadata, **options})
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.eye(width) if name.startswith("W_") else torch.zeros_like(parameter))
    return sae


def representations(vectors: torch.Tensor, length: np.ndarray) -> Representations:
    rows = np.arange(len(vectors))
    return Representations((0,), rows, length, length, {"first_token": "<s>"}, lambda layer: vectors)


def planted_data(seed: int = 0, n: int = N) -> tuple[MoralData, np.ndarray]:
    """n distinct texts; those of harm are longer, as in life."""
    rng = np.random.default_rng(seed)
    records, lengths = [], []
    for i in range(n):
        vector, foundation = np.zeros(10), int(rng.integers(5))
        if (kind := rng.integers(5)) < 4:
            vector[2 * foundation + kind % 2] = rng.choice([0.25, 0.5, 0.75, 1.0])
        length = int(rng.integers(4, 16) + (9 if vector[1] > 0 else 0))
        words = " ".join(f"w{rng.integers(300)}" for _ in range(length - 1))
        records.append((f"s{i}", f"t{i} {words}", vector, foundation))
        lengths.append(length)
    return from_records(records, {"source": "invented"}), np.array(lengths)


def planted_latents(data: MoralData, length: np.ndarray, seed: int = 2) -> torch.Tensor:
    """0–9 the dimensions with noise, 10–99 length with noise, 100–197 sparse chance, 198 dead, 199 harm or cheating."""
    rng = np.random.default_rng(seed)
    moral = data.vector + 0.3 * rng.normal(size=data.vector.shape)
    long = np.log(length)[:, None] + 0.3 * rng.normal(size=(len(data), 90))
    chance = rng.exponential(size=(len(data), 98)) * (rng.random((len(data), 98)) < rng.uniform(0.002, 0.3, size=98))
    both = data.vector[:, 1] + data.vector[:, 3] + 0.3 * rng.normal(size=len(data))
    found = np.concatenate([moral, long, chance, np.zeros((len(data), 1)), both[:, None]], axis=1)
    return torch.from_numpy(np.maximum(found, 0).astype(np.float32))


@pytest.fixture(scope="module")
def planted() -> tuple[MoralData, np.ndarray, torch.Tensor, MoralLatents]:
    data, length = planted_data()
    x = planted_latents(data, length)
    return data, length, x, find_moral_latents(identity_sae(LATENTS), representations(x, length), data)


def test_the_planted_latents_are_found_and_no_others(planted: Any) -> None:
    found = planted[3]
    assert sorted(found.latents()) == list(range(10))
    assert found.by_dimension() == {name: [d] for d, name in enumerate(DIMENSIONS)}
    a = found.arrays
    assert AUDITED_CLASSES[a["audited_class"][199]] == "polysemantic"
    assert AUDITED_CLASSES[a["audited_class"][198]] == "untested"
    assert a["replicated"][a["passes"]].all()
    assert found.null["audited"] == 0
    assert found.fractions()["audited"] == pytest.approx(10 / LATENTS)


def test_a_latent_of_both_poles_counts_for_the_one_it_correlates_with_more(planted: Any) -> None:
    found = planted[3]
    passes, r = found.arrays["passes"].copy(), found.arrays["selection_r"].copy()
    passes[150, :4], r[150, :4] = [True, False, False, True], [0.3, 0.9, 0.9, 0.4]  # care 0.3, cheating 0.4
    shared = dataclasses.replace(found, arrays={**found.arrays, "passes": passes, "selection_r": r})
    both, one = shared.by_dimension(), shared.by_dimension(one_pole=True)
    assert 150 in both["care"] and 150 in both["cheating"]
    assert 150 not in one["care"] and 150 in one["cheating"]
    assert {name: [i for i in own if i != 150] for name, own in one.items()} == found.by_dimension()


def test_the_papers_rule_takes_latents_of_length(planted: Any) -> None:
    found = planted[3]
    by_length = set(found.latents(rule="paper")) & set(range(10, 100))
    assert len(by_length) > 80
    assert set(found.latents("harm", rule="paper")) >= by_length
    rows = {row["latent"]: row for row in found.rows([15, 1])}
    assert rows[15]["paper_class"] == "monosemantic" and rows[15]["audited_class"] == "weak"
    assert rows[15]["length_r"] > 0.8
    assert rows[1]["dimension"] == "harm" and rows[1]["ci_low"] < rows[1]["partial_r"] < rows[1]["ci_high"]


def test_reported_numbers_are_scipys_on_the_held_out_texts(planted: Any) -> None:
    data, length, x, found = planted
    held = np.concatenate([group_split(data)[part] for part in ("validation", "test")])
    values, labels = x.numpy().astype(np.float64)[held], data.vector[held]
    for latent in (0, 7, 15, 120, 199):
        for d in range(10):
            at = {name: array[latent, d] for name, array in found.arrays.items() if array.shape == (LATENTS, 10)}
            one, label = values[:, latent], labels[:, d]
            assert at["pearson"] == pytest.approx(stats.pearsonr(one, label)[0], abs=1e-9)
            assert at["spearman"] == pytest.approx(stats.spearmanr(one, label)[0], abs=1e-9)
            assert at["auroc"] == pytest.approx(roc_auc_score(label > 0, one), abs=1e-9)
            members = label > 0
            if len(np.unique(one[members])) > 1:
                expected = stats.spearmanr(one[members], label[members])[0]
                assert at["prototypicality"] == pytest.approx(expected, abs=1e-9)
    assert found.arrays["length_r"][15] == pytest.approx(
        stats.pearsonr(values[:, 15], np.log(length[held]))[0], abs=1e-9
    )
    assert found.arrays["firing"][120] == pytest.approx((values[:, 120] > 0).mean())


def test_nothing_undefined_becomes_a_number(planted: Any) -> None:
    found = planted[3]
    assert all(np.isfinite(array).all() for array in found.arrays.values())
    row = found.rows([198])[0]
    assert row["pearson"] is row["partial_r"] is row["ci_low"] is row["prototypicality"] is None
    assert row["firing"] == 0


def test_partial_correlation_and_its_p_value() -> None:
    rng = np.random.default_rng(3)
    length, frequency = rng.integers(3, 40, size=400), rng.normal(size=400)
    y = np.log(length) + rng.normal(size=400)
    x = np.stack([np.log(length) + rng.normal(size=400), y + rng.normal(size=400), np.full(400, 2.0)], axis=1)
    r, p, share = Partial.of(length, frequency, y[:, None], torch.device("cpu")).r(torch.from_numpy(x))
    design = np.column_stack([length_design(length), frequency])
    freedom = 400 - design.shape[1] - 1
    rest = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (*x.T[:2], y)]
    for i in range(2):
        expected = cast(float, stats.pearsonr(rest[i], rest[2])[0])
        assert r[i, 0] == pytest.approx(expected, abs=1e-9)
        t = expected * np.sqrt(freedom / (1 - expected**2))
        assert p[i, 0] >= stats.t.sf(t, freedom) * (1 - 1e-9)
        assert share[i] == pytest.approx(1 - rest[i].var() / x[:, i].var(), abs=1e-9)
    assert (r[2, 0], p[2, 0], share[2]) == (0, 1, 0)
    assert nuisance_basis(length, np.zeros(400)).shape[1] == length_design(length).shape[1]


def test_the_skewed_null_holds_its_level_where_students_does_not() -> None:
    """A latent that fires on 5 of 2,000 texts and a label on 40 of them: permuted, 20,000 times."""
    rng = np.random.default_rng(0)
    n, times = 2000, 20_000
    x, y = np.zeros(n), np.zeros(n)
    x[:5], y[:40] = rng.exponential(size=5) + 1, 1.0
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    hits = np.array([rng.choice(n, 5, replace=False) for _ in range(times)])
    r = (y[hits] * (x[:5] - x[5])).sum(axis=1) / n  # y has mean 0, so x's constant part falls out
    ours = _type_three((r * np.sqrt(n - 1))[:, None], n, np.full(times, (x**3).mean()), np.array([(y**3).mean()]))[:, 0]
    student = stats.t.sf(r * np.sqrt((n - 2) / (1 - r**2)), n - 2)
    assert (student < 1e-4).mean() > 100 * 1e-4
    assert (ours < 1e-4).mean() < 20 * 1e-4
    assert (ours < 0.01).mean() < 0.05
    symmetric = _type_three(np.array([[2.0]]), n, np.array([0.1]), np.array([2.0]))
    assert symmetric[0, 0] == pytest.approx(stats.pearson3.sf(2.0, 0.2 * np.sqrt(n - 1) / (n - 2)), rel=1e-6)


def test_benjamini_hochberg_is_scipys() -> None:
    rng = np.random.default_rng(0)
    p, tested = rng.random((30, 10)) ** 3, rng.random((30, 10)) < 0.7
    q = q_values(p, tested)
    assert np.allclose(q[tested], stats.false_discovery_control(p[tested]))
    assert (q[~tested] == 1).all()


def test_the_classes() -> None:
    r = np.zeros((6, 10))
    r[0, 3] = 0.049
    r[1, 3] = -0.2
    r[2, [2, 3]] = 0.2, -0.2
    r[3, [1, 2]] = 0.2, 0.2
    r[4, 3] = 0.07
    r[5, [0, 1, 2]] = 0.2
    assert [PAPER_CLASSES[i] for i in paper_classes(r)] == [
        "weak", "monosemantic", "monosemantic", "polysemantic", "polysemantic", "polysemantic",
    ]  # fmt: skip
    q, good = np.where(np.abs(r) > 0.06, 0.01, 0.5), np.zeros((6, 10))
    passes, classes, selectivity = audit(r, q, (good, good), np.arange(6) != 5, LatentSettings(effect=0.05))
    names = [AUDITED_CLASSES[i] for i in classes]
    assert names == ["weak", "weak", "monosemantic", "polysemantic", "monosemantic", "untested"]
    assert passes[2].tolist() == [d == 2 for d in range(10)]
    assert selectivity.tolist() == pytest.approx([1, 0, 1, 0, 1, 0])
    late = np.full((6, 10), 0.2)
    assert AUDITED_CLASSES[audit(r, q, (good, late), np.arange(6) != 5, LatentSettings())[1][2]] == "unstable"


def test_permuted_labels_find_nothing(planted: Any) -> None:
    data, length, x, _ = planted
    order = np.random.default_rng(5).permutation(len(data))
    found = find_moral_latents(identity_sae(LATENTS), representations(x, length), data.relabelled(order))
    assert found.latents() == []
    assert found.fractions()["audited_replicated"] is None


def test_several_records_of_a_text_count_once_but_in_the_papers_numbers() -> None:
    data, length = planted_data(n=600)
    twice = np.concatenate([np.arange(600), np.arange(100)])
    doubled = data.subset(twice)
    x = planted_latents(data, length)
    once, again = (
        find_moral_latents(
            identity_sae(LATENTS), representations(x[rows], length[rows]), of,
            split={"select": np.flatnonzero(rows < 400), "report": np.flatnonzero(rows >= 400)},
            select=["select"], report=["report"],
        )
        for of, rows in ((data, np.arange(600)), (doubled, twice))
    )  # fmt: skip
    assert again.provenance["n"]["selection_texts"] == once.provenance["n"]["selection_texts"] == 400
    assert np.array_equal(again.arrays["selection_p"], once.arrays["selection_p"])
    assert np.array_equal(again.arrays["spearman"], once.arrays["spearman"])
    rows = twice[twice < 400]
    expected = np.corrcoef(x.numpy()[rows, 1].astype(float), data.vector[rows, 1])[0, 1]
    assert again.arrays["paper_r"][1, 1] == pytest.approx(expected, abs=1e-9)
    assert once.arrays["paper_r"][1, 1] != pytest.approx(expected, abs=1e-6)


def test_a_text_on_both_sides_is_refused() -> None:
    data = scenarios(200)
    length = np.full(200, 5)
    halves = {"a": np.arange(100), "b": np.arange(100, 200)}
    with pytest.raises(ValueError, match="texts are in the part to select on"):
        two_parts(data, length, halves, ["a"], ["b"], 0)
    with pytest.raises(ValueError, match="unknown part 'tests'"):
        two_parts(data, length, None, ["train"], ["tests"], 0)


def test_blocks_of_any_size_and_topk_give_the_same(planted: Any) -> None:
    data, length, x, _ = planted
    few = np.arange(1000)
    data, given = data.subset(few), representations(x[:1000], length[:1000])
    found = find_moral_latents(identity_sae(LATENTS), given, data)
    small = find_moral_latents(identity_sae(LATENTS), given, data, memory=48 * 1000 * 70)
    compared = ("passes", "spearman", "selection_p", "top_row", "auroc")
    for name in compared:
        assert np.allclose(small.arrays[name], found.arrays[name], atol=1e-12), name
    # All 200 latents may be active at once, so that TopK is ReLU; it takes the other way through memory.
    topk = find_moral_latents(identity_sae(LATENTS, "topk", k=LATENTS), given, data)
    for name in compared:
        assert np.allclose(topk.arrays[name], found.arrays[name], atol=1e-12), name


def test_sparse_columns_spill_to_disk(tmp_path: Path) -> None:
    x = torch.relu(torch.randn(50, 300, generator=torch.Generator().manual_seed(0)))
    kept = SparseColumns(50, 300, memory=4000, group_bytes=50 * 12 * 40, folder=tmp_path)
    for start in range(0, 50, 9):
        kept.add(start, x[start : start + 9])
    assert list(tmp_path.iterdir())
    for start, stop in ((0, 300), (35, 90), (299, 300)):
        assert torch.equal(kept.read(start, stop), x[:, start:stop])
    del kept
    assert not list(tmp_path.iterdir())


def test_saved_and_loaded_is_equal(planted: Any, tmp_path: Path) -> None:
    found = planted[3]
    path = found.save(tmp_path / "out")
    again = MoralLatents.load(tmp_path / "out")
    assert all(np.array_equal(again.arrays[name], array) for name, array in found.arrays.items())
    assert again.fractions() == found.fractions() and again.rows() == found.rows()
    written = json.loads(path.read_text())
    assert written["sae"]["sha256"] == load_sae(identity_sae(LATENTS)).sha256
    assert written["provenance"]["data"]["sha256"] == planted[0].sha256
    assert written["provenance"]["settings"] == dataclasses.asdict(LatentSettings())
    assert written["moral"][0]["latent"] == 0
    top = written["top"]["1"]
    assert len(top) == 10 and top[0]["value"] >= top[9]["value"] and top[0]["text"].startswith("t")
    files = {"moral_latents.json", "moral_latents.safetensors"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files
    found.save(tmp_path / "out")
    other = dataclasses.replace(found, sae={**found.sae, "sha256": "0"})
    with pytest.raises(FolderError, match=r"holds other moral latents: sae .* \(now '0'\)"):
        other.save(tmp_path / "out")
    other.save(tmp_path / "out", overwrite=True)
    assert MoralLatents.load(tmp_path / "out").sae["sha256"] == "0"


def test_any_flipped_byte_of_saved_latents_is_noticed(planted: Any, tmp_path: Path) -> None:
    path = planted[3].save(tmp_path)
    rng = np.random.default_rng(0)
    for file in (path, path.with_suffix(".safetensors")):
        whole = file.read_bytes()
        for at in rng.integers(len(whole), size=40).tolist():
            bit = 1 << int(rng.integers(8))
            file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            with pytest.raises(DataError, match=str(tmp_path)):
                MoralLatents.load(tmp_path)
        file.write_bytes(whole)
    assert len(MoralLatents.load(tmp_path)) == len(planted[3])


def test_version_1_still_loads(planted: Any, tmp_path: Path) -> None:
    path = planted[3].save(tmp_path)
    written = json.loads(path.read_text())
    files, _ = written.pop("files"), written.pop("checksum")
    del written["provenance"]["parts"]
    old = {**written, "schema_version": 1, "arrays": files["moral_latents.safetensors"]}
    path.write_text(json.dumps(old))
    assert MoralLatents.load(tmp_path).rows() == planted[3].rows()
    path.write_text(json.dumps({**old, "arrays": "0"}))
    with pytest.raises(DataError, match=r"moral_latents\.safetensors: damaged or changed"):
        MoralLatents.load(tmp_path)


def random_sae(architecture: str = "jumprelu", layer: int = 1, **options: Any) -> Any:
    from sae_lens import SAE

    hook = {"hook_name": f"blocks.{layer}.hook_resid_post", **options.pop("metadata", {})}
    sae = SAE.from_dict({"architecture": architecture, "d_in": 16, "d_sae": 64, "metadata": hook, **options})
    generator = torch.Generator().manual_seed(layer)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return sae


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_token_latents_are_the_mean_over_the_scenarios_own_tokens(tiny: Any, architecture: str) -> None:
    text = scenarios(30).text
    saes = {layer: random_sae(architecture, layer, **({"k": 5} if architecture == "topk" else {})) for layer in (0, 2)}
    found = latent_representations(tiny, text, saes, tokens_per_batch=100)
    assert found.provenance["granularity"] == "token"
    for i in (0, 11, 29):
        ids = tiny.to_tokens(text[i], prepend_bos=True)
        _, cache = tiny.run_with_cache(ids)
        for layer, sae in saes.items():
            latents = sae.encode(cache[f"blocks.{layer}.hook_resid_post"])[0, 1:].mean(dim=0)
            torch.testing.assert_close(found[layer][i], latents, rtol=1e-4, atol=1e-5)
    chosen = found.subset(np.array([4, 1]))
    assert torch.equal(chosen.columns(2).read(10, 20), found[2][[4, 1], 10:20])
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_pooled_latents_are_of_the_captured_vectors(tiny: Any) -> None:
    text = scenarios(30).text
    sae = random_sae(metadata={"sae_moral": {"granularity": "scenario"}})
    vectors = capture(tiny, text, layers=[1])
    for source in (tiny, vectors):
        found = latent_representations(source, text, sae)
        assert found.provenance["granularity"] == "scenario"
        torch.testing.assert_close(found[1], load_sae(sae).encode(vectors[1]))
    with pytest.raises(ValueError, match="already pooled"):
        latent_representations(vectors, text, sae, granularity="token")
    with pytest.raises(ValueError, match="SAEs for layers"):
        latent_representations(vectors, text, random_sae(layer=2))
    with pytest.raises(ValueError, match="trained on different prompts: bos"):
        latent_representations(
            tiny, text, {0: random_sae(layer=0), 1: random_sae(metadata={"prepend_bos": False})}, granularity="token"
        )
    part = columns_of(load_sae(sae), vectors[1], torch.tensor([3, 0]))
    torch.testing.assert_close(part.read(5, 9), found[1][[3, 0], 5:9])


def test_latents_of_another_sae_are_refused(tiny: Any) -> None:
    data = scenarios(300)
    latents = latent_representations(tiny, data.text, random_sae("topk", k=5))
    with pytest.raises(ValueError, match="not those of sae_None_blocks"):
        find_moral_latents(random_sae("topk", k=6), latents, data)
    with pytest.raises(ValueError, match="pooling would have no effect"):
        find_moral_latents(random_sae("topk", k=5), latents, data, pooling="all")
    with pytest.raises(ValueError, match="no dimension has 20000 labelled texts"):
        find_moral_latents(random_sae("topk", k=5), latents, data, settings=LatentSettings(items=20000))
    with pytest.raises(ValueError, match="vectors of 300 scenarios and 299 records"):
        find_moral_latents(random_sae("topk", k=5), latents, data.subset(np.arange(299)))


def test_a_model_and_two_saes(tiny: Any) -> None:
    data = scenarios(250)
    found = find_moral_latents_by_layer(
        {0: random_sae("topk", 0, k=5), 2: random_sae("gated", 2)}, tiny, data, settings=LatentSettings(items=3)
    )
    rows = fractions_by_layer(found)
    assert [(row["layer"], row["latents"]) for row in rows] == [(0, 64), (2, 64)]
    assert all(0 <= row["paper_moral"] <= 1 for row in rows)
    assert json.dumps([one.rows() for one in found.values()], allow_nan=False)
    assert found[0].provenance["capture"]["model"]["n_layers"] == 3


def test_an_sae_trained_here_gets_the_prompts_it_was_trained_on(tiny: Any) -> None:
    data = scenarios(150)
    was = {"granularity": "scenario", "template": "{text} is morally", "pooling": "all", "bos": "tokenizer"}
    sae = random_sae(metadata={"sae_moral": was})
    found = latent_representations(tiny, data.text, sae)
    assert {key: found.provenance[key] for key in was} == was
    other = capture(tiny, data.text, layers=[1], template="{text} is morally", bos="tokenizer")
    with pytest.warns(SaeMoralWarning, match="trained on pooling 'all', and these vectors are of 'scenario'"):
        find_moral_latents(sae, other, data, settings=LatentSettings(items=3))


def test_prompts_without_bos_are_warned_of(tiny: Any) -> None:
    data = scenarios(150)
    vectors = capture(tiny, data.text, layers=[1], bos="tokenizer")
    with pytest.warns(SaeMoralWarning, match="prompts that begin with BOS"):
        find_moral_latents(random_sae(), vectors, data, settings=LatentSettings(items=3))


def test_prompts_with_bos_are_warned_of_too(tiny: Any, tiny_folder: Path) -> None:
    data, without = scenarios(150), random_sae(metadata={"prepend_bos": False})
    vectors = capture(tiny, data.text, layers=[1], bos="prepend")
    with pytest.warns(SaeMoralWarning, match="prompts without BOS, .* capture with bos='none'"):
        find_moral_latents(without, vectors, data, settings=LatentSettings(items=3))
    with pytest.warns(SaeMoralWarning, match="prompts without BOS"):
        diagnose(tiny, data, sae=without, controls="none", metrics=["categorical"])


def test_special_tokens_in_the_pool_are_warned_of(tiny: Any) -> None:
    data, sae = scenarios(150), random_sae(metadata={"exclude_special_tokens": True})
    vectors = capture(tiny, data.text, layers=[1], pooling="all")
    with pytest.warns(SaeMoralWarning, match="no special tokens, and these vectors pool them"):
        find_moral_latents(sae, vectors, data, settings=LatentSettings(items=3))
    find_moral_latents(sae, tiny, data, settings=LatentSettings(items=3))


def test_a_stream_without_its_mean_where_the_sae_says_that_it_has_one(tiny: Any) -> None:
    plain: Any = {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": False}}}
    load_sae(random_sae(**plain), model=tiny)
    tiny.W_E.data.copy_(tiny.W_E - tiny.W_E.mean(dim=1, keepdim=True))
    with pytest.warns(SaeMoralWarning, match="reads the stream as it is, and the mean over dimensions was taken out"):
        load_sae(random_sae(**plain), model=tiny)


@pytest.mark.parametrize("site", ["resid_mid", "mlp_out"])
@pytest.mark.parametrize("granularity", ["token", "scenario"])
def test_saes_of_other_places_in_a_block_are_measured_there(tiny: Any, site: str, granularity: str) -> None:
    data, name = scenarios(40), f"blocks.1.hook_{site}"
    sae = load_sae(random_sae(metadata={"hook_name": name}), model=tiny)
    found = latent_representations(tiny, data.text, sae, granularity=granularity)
    ids = tiny.tokenizer(data.text[0], return_tensors="pt", add_special_tokens=False).input_ids
    ids = torch.cat([torch.tensor([[tiny.tokenizer.bos_token_id]]), ids], dim=1)
    at = tiny.run_with_cache(ids, names_filter=[name])[1][name][0, 1:]
    wanted = sae.encode(at).mean(dim=0) if granularity == "token" else sae.encode(at.mean(dim=0))
    torch.testing.assert_close(found[1][0], wanted, rtol=1e-4, atol=1e-5)
    by_token = latents_by_token(tiny, sae, data.text[:1], [3])
    torch.testing.assert_close(torch.tensor([value for _, value in by_token[0][0]]), sae.encode(at)[:, 3])
    with pytest.raises(ValueError, match=rf"reads {site}, and the vectors of layer 1 are of resid_post"):
        latent_representations(capture(tiny, data.text, layers=[1]), None, sae)


def test_what_acts_on_the_stream_needs_an_sae_of_it(tiny: Any) -> None:
    from sae_moral.steering import Steering, steer
    from sae_moral.surgery import operate

    sae = load_sae(random_sae(metadata={"hook_name": "blocks.1.hook_mlp_out"}), model=tiny)
    diagnose(tiny, scenarios(60), sae=sae, controls="none", metrics=["dimensional"])
    with pytest.raises(ValueError, match=r"reads blocks\.1\.hook_mlp_out; .* surgery needs an SAE of the residual"):
        operate(sae, None, tiny, scenarios(60))
    with (
        pytest.raises(ValueError, match="steering needs an SAE of the residual"),
        steer(tiny, Steering(sae, 1.0, form="paper")),
    ):
        pass


def test_any_model_on_the_way_to_every_measurement(tiny: Any, tmp_path: Path) -> None:
    data, other = scenarios(60), random_sae(metadata={"model_name": "gpt2"})
    options: Any = {"controls": "none", "metrics": ["dimensional"]}
    for measured in (
        lambda **how: diagnose(tiny, data, sae=other, **options, **how),
        lambda **how: compare_saes(tiny, [other], data, tmp_path, **options, **how),
    ):
        with pytest.raises(ValueError, match="was trained on gpt2, and this model is"):
            measured()
        with pytest.warns(SaeMoralWarning, match="was trained on gpt2"):
            measured(any_model=True)


def test_the_released_rule_takes_clear_latents_and_the_top_of_each_dimension() -> None:
    r = np.zeros((6, 10))
    r[0, 2], r[0, 3] = -0.3, 0.19  # 1.58 times the second
    r[1, 4], r[1, 5] = 0.3, 0.21  # 1.43 times
    r[2, 6] = 0.09  # below 0.1
    r[3, 4] = 0.5
    clear = released_pairs(r, most=0)
    assert np.argwhere(clear).tolist() == [[0, 2], [3, 4]]
    top = released_pairs(r, most=1)
    # Of each dimension the largest, where there is any: 0.19 of dimension 3, 0.21 of dimension 5, 0.09 of dimension 6.
    assert np.argwhere(top).tolist() == [[0, 2], [0, 3], [1, 5], [2, 6], [3, 4]]
