"""Surgery on planted scenarios: it finds what is there, leaves alone what it must, and refuses what does not fit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.data.splits import group_split
from sae_moral.errors import SaeMoralWarning
from sae_moral.sae import LatentSettings, find_moral_latents
from sae_moral.surgery import Operation, Term, get_settings, operate
from sae_moral.surgery.fit import Fit
from sae_moral.surgery.operation import digests, rows_of
from sae_moral.surgery.part import Part
from sae_moral.surgery.terms import TERMS, Labels, by_columns
from sae_moral.surgery.vectors import Vectors, vectors_of
from tests.surgery.worlds import BY_DIMENSION, S, data, representations, sae

QUICK: dict[str, Any] = {"epochs": 10, "batch": 200, "lr": 0.1}
SHARES = (0.6, 0.15, 0.25)


def run(architecture: str = "standard", *, n: int = 1000, latents: Any = BY_DIMENSION, **options: Any) -> Operation:
    of = data(n)
    options = {**QUICK, "split": group_split(of, shares=SHARES), **options}
    return operate(sae(architecture), latents, representations(of), of, **options)


def overall(operation: Operation) -> dict[str, dict[str, Any]]:
    return {row["statistic"]: dict(row) for row in operation.record.table if row["group"] == "overall"}


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_planted_polarity_and_order_are_learnt_on_texts_that_took_no_part(architecture: str) -> None:
    operation = run(architecture)
    found, record = overall(operation), operation.record
    for name in ("polarity_margin", "polarity_auroc", "ordering_accuracy"):
        assert found[name]["ci_low"] > 0, (name, found[name])
    error = found["reconstruction_error"]
    assert error["after"] <= 1.05 * error["before"]
    assert record.stopped is not None and record.stopped["kept_epoch"] > 0 and record.control == "none"
    start, kept = (record.history[i]["validation"] for i in (0, record.stopped["kept_epoch"]))
    assert kept["total"] < start["total"] and kept["reconstruction"] <= 1.02 * start["reconstruction"]


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_everything_but_the_operated_latents_is_bit_identical(architecture: str) -> None:
    original = sae(architecture)
    of = data()
    operation = operate(original, BY_DIMENSION, representations(of), of, **QUICK)
    assert original.sha256 == sae(architecture).sha256 == operation.original().sha256 != operation.sae.sha256
    others = torch.tensor([i for i in range(S) if i not in operation.latents.tolist()])
    before, after = original.sae.state_dict(), operation.sae.sae.state_dict()
    for name, axis in (("W_enc", 1), ("b_enc", 0), ("W_dec", 0)):
        assert torch.equal(before[name].index_select(axis, others), after[name].index_select(axis, others))
    assert torch.equal(before["b_dec"], after["b_dec"])
    weights = operation.record.weights
    assert weights["changed"] == sum(int((before[n] != after[n]).sum()) for n in before) > 0
    assert weights["trainable"] == 7 * (16 + 16 + 1)
    assert torch.allclose(before["W_dec"].norm(dim=1), after["W_dec"].norm(dim=1), atol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_other_ones() -> None:
    torch.manual_seed(1)
    first = run(n=300, batch=50)
    torch.manual_seed(2)
    again, other = run(n=300, batch=50), run(n=300, batch=50, seed=1)
    assert again.sae.sha256 == first.sae.sha256 != other.sae.sha256


def test_controls() -> None:
    found = {control: run(control=control) for control in ("none", "shuffled", "random", "no-surgery")}
    gain = {control: overall(operation)["polarity_auroc"]["change"] for control, operation in found.items()}
    assert gain["none"] > 0.05 and abs(gain["shuffled"]) < gain["none"] / 2
    assert overall(found["shuffled"])["polarity_auroc"]["before"] == overall(found["none"])["polarity_auroc"]["before"]
    assert gain["no-surgery"] == 0 and found["no-surgery"].sae.sha256 == sae().sha256
    assert not {*found["random"].latents.tolist()} & {*found["none"].latents.tolist()}
    assert len(found["random"].latents) == len(found["none"].latents)
    assert found["shuffled"].name.endswith("operated (shuffled)")


def test_labels_of_the_third_part_are_never_read_by_training() -> None:
    of = data()
    test = group_split(of)["test"]
    index = np.arange(len(of))
    for f in (0, 3):
        mine = test[of.foundation[test] == f]
        index[mine] = np.roll(mine, 1)
    given = representations(of)
    first, other = (operate(sae(), BY_DIMENSION, given, d, **QUICK) for d in (of, of.relabelled(index)))
    assert first.sae.sha256 == other.sae.sha256
    assert overall(first)["polarity_auroc"] != overall(other)["polarity_auroc"]


def test_the_record_knows_the_texts_it_learnt_from_and_no_other() -> None:
    of = data(300)
    split = group_split(of)
    found = operate(sae(), BY_DIMENSION, representations(of), of, split=split, **QUICK).record.learnt_from
    text = {name: [of.text[i] for i in rows] for name, rows in split.items()}
    assert found == digests([*text["train"], *text["validation"]])
    assert not {*found} & {*digests(text["test"])} and len(found) == len(split["train"]) + len(split["validation"])


def test_the_papers_settings_run_and_a_field_can_be_changed() -> None:
    operation = run(n=300, settings="paper", epochs=3, polarity=0.7)
    assert operation.record.settings["polarity"] == 0.7 and operation.record.settings["name"] == "paper"
    assert all(np.isfinite(h["validation"]["total"]) for h in operation.record.history)
    json.dumps(dataclasses.asdict(operation.record), allow_nan=False)
    for change, message in (
        ({"polarty": 1.0}, "did you mean 'polarity'"),
        ({"settings": "papr"}, "did you mean 'paper'"),
        ({"form": "absolute"}, "unknown form"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"polarity": -1.0}, "polarity is -1"),
        ({"control": "shufled"}, "did you mean 'shuffled'"),
    ):
        with pytest.raises(ValueError, match=message):
            run("standard", n=50, **change)


def test_the_released_settings_run_their_schedule() -> None:
    operation = run(n=300, settings="released", epochs=4, batch=64, early_stop=False)
    assert operation.record.settings["schedule"] == "one-cycle" and operation.record.stopped is not None
    assert operation.record.stopped["epochs"] == 4
    plain = run(n=300, settings="paper", epochs=4, batch=64, early_stop=False)
    assert operation.sae.sha256 != plain.sae.sha256
    for change, message in (
        ({"schedule": "cosine"}, "unknown schedule"),
        ({"clip": 0.0}, "clip is 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            run("standard", n=50, **change)


def test_weights_decay_towards_zero_and_prompts_come_by_their_typicality() -> None:
    zero: dict[str, Any] = {name: 0.0 for name in TERMS}
    options: dict[str, Any] = {"early_stop": False, "keep_norm": False, "opened": 0}
    decayed = run(n=300, epochs=3, batch=1000, weight_decay=0.5, lr=0.2, **options, **zero)
    kept = (1 - 0.5 * 0.2) ** 3
    for name, value in decayed.before.items():
        now = rows_of(decayed.sae, decayed.latents)[name]
        torch.testing.assert_close(now, kept * value, atol=1e-6, rtol=1e-5)
    fit, _ = fit_of("default", by_typicality=True, batch=50)
    m = fit.labels.at(fit.records["train"]).vector.amax(dim=1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([torch.cat(list(fit.batches(generator))) for _ in range(30)])
    rate = torch.bincount(drawn, minlength=len(m)).float()
    assert rate[m == 1].mean() > 2 * rate[m == 0.25].mean() > 2 * rate[m == 0].mean() > 0


def test_latents_without_a_dimension_learn_what_a_term_of_ones_own_says() -> None:
    quiet = Term("quiet", 50.0, "batch", lambda batch, _: batch.activation.mean())
    operation = run(n=300, latents=[3, 20], terms=[quiet], epochs=20, lr=0.01, tolerance=None)
    assert operation.by_dimension == {} and operation.latents.tolist() == [3, 20]
    history = [epoch["validation"]["quiet"] for epoch in operation.record.history]
    assert min(history) < 0.8 * history[0]
    assert operation.record.settings["terms"] == {"quiet": 50.0}
    assert {row["statistic"] for row in operation.record.table} >= {"explained_variance", "l0"}
    for bad in ([Term("polarity", 1.0, "batch", quiet.loss)], [quiet, quiet]):
        with pytest.raises(ValueError, match="expected names of their own, not twice"):
            run(n=300, latents=[3, 20], terms=bad)


def test_training_stops_when_nothing_gets_better_and_the_start_is_kept() -> None:
    operation = run("standard", n=300, patience=2, opened=0, **dict.fromkeys(TERMS, 0.0))
    stopped = operation.record.stopped
    assert stopped is not None and (stopped["kept_epoch"], stopped["epochs"]) == (0, 2)
    assert operation.sae.sha256 == operation.original().sha256


def test_a_step_that_breaks_the_reconstruction_is_not_kept() -> None:
    careless = {"reconstruction": 0.0, "polarity": 10.0, "lr": 0.3, "opened": 0}
    loose, tight = (run("standard", n=300, tolerance=tolerance, **careless) for tolerance in (None, 0.01))
    error = []
    for operation in (loose, tight):
        assert operation.record.stopped is not None
        start, kept = (operation.record.history[i] for i in (0, operation.record.stopped["kept_epoch"]))
        error.append(kept["validation"]["reconstruction"] / start["validation"]["reconstruction"])
    assert error[0] > 1.05 and error[1] <= 1.01


def test_epochs_that_leave_the_tolerance_are_taken_back_into_it() -> None:
    careless: dict[str, Any] = {"reconstruction": 1.0, "polarity": 10.0, "lr": 0.2, "epochs": 8, "patience": 8}
    careless["opened"] = 0  # history begins before surgery then
    errors, kept = {}, {}
    for shrink in (False, True):
        operation = run("standard", n=300, shrink=shrink, tolerance=0.01, **careless)
        first, *others = (epoch["validation"]["reconstruction"] for epoch in operation.record.history)
        assert operation.record.stopped is not None
        errors[shrink], kept[shrink] = [error / first for error in others], operation.record.stopped["kept_epoch"]
    assert max(errors[False]) > 1.05 and kept[True] > kept[False]
    assert 1.0 < max(errors[True]) <= 1.01


def test_decoder_rows_keep_their_lengths_when_steps_are_taken_back() -> None:
    operation = run("standard", n=300, reconstruction=0.0, polarity=10.0, lr=0.2, epochs=3, tolerance=0.01)
    rows = operation.sae.sae.W_dec[operation.latents].norm(dim=1)
    torch.testing.assert_close(rows, operation.before["W_dec"].norm(dim=1), rtol=1e-5, atol=0)


def test_without_an_early_stop_the_last_epoch_is_kept() -> None:
    operation = run("standard", n=300, epochs=4, early_stop=False, patience=1, tolerance=0.0, lr=0.3)
    assert operation.record.stopped == {"kept_epoch": 4, "epochs": 4, "reason": "epochs"}


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="a loss is not finite"):
        run(n=300, lr=1e30)


def fit_of(settings: str, **changes: Any) -> tuple[Fit, Vectors]:
    of, loaded = data(200), sae()
    latents = torch.tensor(sorted(latent for members in BY_DIMENSION.values() for latent in members))
    vectors = vectors_of(representations(of), of.text, loaded)
    parts = {"train": torch.arange(150), "validation": torch.arange(150, 200)}
    columns, chosen = by_columns(latents, BY_DIMENSION), get_settings(settings, **changes)
    return Fit(Part(loaded, latents), vectors, Labels.of(of, torch.device("cpu")), parts, columns, chosen), vectors


def test_the_paper_contrasts_poles_on_items_of_all_foundations_and_we_on_each_foundations_own() -> None:
    of = data(200)
    for name, own in (("default", True), ("paper", False)):
        fit, vectors = fit_of(name)
        z = sae().encode(vectors.x[:150])[:, fit.part.latents] / (fit.scale if own else 1.0)
        terms, wanted = [], fit.terms(fit.part.start, "train")
        at = {d: [fit.part.latents.tolist().index(i) for i in members] for d, members in BY_DIMENSION.items()}
        for f, virtue, vice in ((0, "care", "harm"), (3, "authority", "subversion")):
            items = (of.pole[:150] != 2) & ((of.foundation[:150] == f) | (not own))
            sign = torch.from_numpy(np.where(of.pole[:150] == 0, 1.0, -1.0))[items]
            g = (z[:, at[virtue]].mean(dim=1) - z[:, at[vice]].mean(dim=1))[items]
            terms.append((0.5 - sign * g).relu().mean())
        assert wanted["polarity"].item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)
        assert wanted["reconstruction"].item() == pytest.approx(
            1.0 if own else (vectors.x[:150] - sae().sae(vectors.x[:150])).square().mean().item(), rel=1e-4
        )


def test_a_batch_has_the_terms_of_its_own_records() -> None:
    fit, _ = fit_of("default")
    chosen = torch.randperm(150, generator=torch.Generator().manual_seed(0))[:40]
    smaller, _ = fit_of("default")
    smaller.records["train"] = chosen.sort().values
    smaller.prompts["train"] = chosen.sort().values
    smaller.count["train"] = torch.ones(40, dtype=torch.int64)
    smaller.inlier["train"] = smaller.inlier["train"][chosen.sort().values]
    smaller.frozen["train"] = smaller.part.freeze(smaller.vectors.x[chosen.sort().values])
    for name, value in fit.terms(fit.part.start, "train", chosen).items():
        assert value.item() == pytest.approx(smaller.terms(fit.part.start, "train")[name].item(), rel=1e-5)


def test_latents_found_before_are_taken_only_if_they_belong_here() -> None:
    of = data(800)
    given, loose = representations(of), LatentSettings(items=20, permutations=1)
    latents = find_moral_latents(sae(), given, of, report=("validation",), settings=loose)
    assert latents.latents(rule="paper")
    for one_pole in (True, False):
        how: dict[str, Any] = {"rule": "paper", "per_dimension": 3, "one_pole": one_pole}
        operation = operate(sae(), latents, given, of, **how, **QUICK)
        members = latents.by_dimension(rule="paper", limit=3, one_pole=one_pole)
        assert operation.by_dimension == {name: sorted(own) for name, own in members.items() if own}
    with pytest.raises(ValueError, match=r"these are latents of .* and the SAE is .*expected latents of that SAE"):
        operate(sae(seed=1), latents, given, of)
    with pytest.raises(ValueError, match="found on other scenarios"):
        operate(sae(), latents, given, data(800, seed=1))
    leaking = find_moral_latents(sae(), given, of, select=("train", "test"), report=("validation",), settings=loose)
    with pytest.raises(ValueError, match=r"selected on \['train', 'test'\]"):
        operate(sae(), leaking, given, of)
    with pytest.raises(ValueError, match="of another split"):
        operate(sae(), latents, given, of, split=group_split(of, 1))
    nothing = dataclasses.replace(latents, arrays={**latents.arrays, "passes": np.zeros((S, 10), dtype=bool)})
    with pytest.raises(ValueError, match="no moral latent of"):
        operate(sae(), nothing, given, of)


def test_latents_are_found_when_none_are_given() -> None:
    of = data(600)
    operation = operate(sae(), None, representations(of), of, rule="paper", split=group_split(of, 3), **QUICK)
    assert operation.record.latents_found["select"] == ["train"]


def test_bad_input_is_refused_in_words() -> None:
    of = data(300)
    given = representations(of)
    for latents, message in (
        ({"caer": [3]}, "did you mean 'care'"),
        ({"care": [48]}, r"latents of care: \[48\]; expected distinct numbers from 0 to 47"),
        ({"care": [3, 3]}, "expected distinct"),
        ({"care": []}, "no moral latent"),
        ({"loyalty": [3]}, "loyalty has latents and no item in the train part"),
    ):
        with pytest.raises(ValueError, match=message):
            operate(sae(), latents, given, of)
    leaking = {"train": np.arange(200), "validation": np.arange(200, 250), "test": np.arange(249, 300)}
    with pytest.raises(ValueError, match="1 texts are in more than one part"):
        operate(sae(), BY_DIMENSION, given, of, split=leaking)
    with pytest.raises(ValueError, match="no records in validation"):
        operate(sae(), BY_DIMENSION, given, of, split={**leaking, "validation": np.arange(0)})
    silent = sae()
    silent.sae.b_enc.data[20] = -1000
    with pytest.raises(ValueError, match=r"latents \[20\] never fire"):
        operate(silent, BY_DIMENSION, given, of)
    with pytest.raises(ValueError, match="matching_pursuit; surgery computes"):
        operate(sae("matching_pursuit", residual_threshold=0.1), BY_DIMENSION, given, of)


def test_vectors_of_another_template_are_warned_about() -> None:
    of, loaded = data(300), sae()
    loaded.sae.cfg.metadata.sae_moral = {"template": "{text} is morally", "granularity": "scenario"}
    given = dataclasses.replace(representations(of), provenance={"template": "{text}"})
    with pytest.warns(SaeMoralWarning, match="template"):
        operate(loaded, BY_DIMENSION, given, of, epochs=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_sae_keeps_its_dtype(dtype: str) -> None:
    of = data(300)
    operation = operate(sae(dtype=dtype), BY_DIMENSION, representations(of), of, **QUICK)
    assert str(operation.sae.sae.W_dec.dtype) == f"torch.{dtype}"
    assert operation.original().sha256 == sae(dtype=dtype).sha256
