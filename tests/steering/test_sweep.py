"""The sweep: a planted edit is found and a random direction is not; killed work goes on; the page says what is so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_moral.capture import capture
from sae_moral.steering import Matched, Steering, difference_in_means, random_direction
from sae_moral.steering.journal import Journal
from sae_moral.steering.measures import MeasureSettings
from sae_moral.steering.page import verdicts
from sae_moral.steering.summary import beyond_random, pareto
from sae_moral.steering.sweep import sweep
from sae_moral.surgery.operation import digests
from tests.steering.planted import D, operated, random_sae
from tests.tiny import scenarios

module = sys.modules["sae_moral.steering.sweep"]  # its name in the package is the function
DATA = scenarios(240)
SETTINGS = MeasureSettings(
    neutral=("a neighbour is counting .", "the team is painting ."),
    openings=("helping", "the"),
    new_tokens=6,
    pairs=(("helping", "hitting"),),
)


def run(model: Any, out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {
        "alphas": [2.0],
        "settings": SETTINGS,
        "random_seeds": (0,),
        "split": {"train": np.arange(120), "test": np.arange(120, 240)},
        "draws": 100,
        "progress": False,
    }
    operations = options.pop("operations", None) or [operated(random_sae(layer=0))]
    return sweep(model, operations, DATA, out=out, **{**given, **options})


def test_rows_and_files(tiny: Any, tmp_path: Path) -> None:
    operation, shuffled = operated(random_sae(layer=0)), operated(random_sae(layer=0), seed=9)
    found = run(
        tiny, tmp_path, operations=[operation], shuffled=[shuffled], forms=("edit", "paper"), random_seeds=(0, 1)
    )
    assert len(found.rows) == 2 * (3 + 2) + 1
    assert {row["arm"] for row in found.rows} == set(module.ARMS)
    by = {(row["arm"], row["seed"], row["form"]): row for row in found.rows}
    for form in ("edit", "paper"):
        own = by["operated", None, form]
        for arm in (("dense", None), ("random", 0), ("random", 1)):
            assert by[(*arm, form)]["norm_share"] == pytest.approx(own["norm_share"], rel=1e-4)
        assert by["shuffled", 0, form]["norm_share"] != pytest.approx(own["norm_share"], rel=1e-3)
        assert own["gain"] == pytest.approx(own["virtue_shift"] - own["vice_shift"])
        assert own["gap"] == pytest.approx(found.unsteered["gap"] + own["gain"])
        randoms = np.mean([by["random", seed, form]["gain"] for seed in (0, 1)])
        assert own["over_random"] == pytest.approx(own["gain"] - randoms, abs=1e-5)
        shuffled_gain = by["shuffled", 0, form]["gain"]
        assert own["over_shuffled"] == pytest.approx(own["gain"] - shuffled_gain, abs=1e-5)
        assert own["over_shuffled_low"] < own["over_shuffled"] < own["over_shuffled_high"]
        assert by["shuffled", 0, form]["over_shuffled"] is by["random", 0, form]["over_random"] is None
        assert own["categorical_change"] is not None and own["kl"] > 0
    page = found.save(tmp_path / "out")
    assert "operated-1, layer 0, form edit" in page.read_text(encoding="utf8")
    assert json.loads((page.parent / "sweep.json").read_text(encoding="utf8"))["kind"] == "sweep"
    assert (page.parent / "sweep.png").stat().st_size > 10_000
    assert len(found.frame) == len(found.rows)
    # With two directions beside it the best an arm can do is to be first of three.
    assert {row["p_random"] for row in found.rows if row["arm"] in ("operated", "dense")} <= {1 / 3, 2 / 3, 1.0}
    assert {row["p_random"] for row in found.rows if row["arm"] not in ("operated", "dense")} == {None}


def test_further_random_directions_are_measured_by_what_they_gain_and_break(tiny: Any, tmp_path: Path) -> None:
    few = run(tiny, tmp_path / "few", random_seeds=range(module.FULL_MEASURES))
    more = run(tiny, tmp_path / "more", random_seeds=range(module.FULL_MEASURES + 2))
    randoms = [row for row in more.rows if row["arm"] == "random"]
    assert [row["categorical"] is None for row in randoms] == [row["distinct_1"] is None for row in randoms]
    assert [row["categorical"] is None for row in randoms] == [False] * module.FULL_MEASURES + [True] * 2
    assert all(row["gain"] is not None and row["kl"] > 0 for row in randoms)
    assert [row["gain"] for row in few.rows if row["arm"] == "random"] == [row["gain"] for row in randoms[:3]]
    more.save(tmp_path / "more")
    assert {row["p_categorical"] for row in more.rows} == {None}
    every = run(
        tiny, tmp_path / "more", random_seeds=range(module.FULL_MEASURES + 2), full_measures=module.FULL_MEASURES + 2
    )
    own, *others = (
        np.array([row["gradient_change"] for row in every.rows if row["arm"] == arm and row["seed"] == seed])
        for arm, seed in (("operated", None), *(("random", seed) for seed in range(module.FULL_MEASURES + 2)))
    )
    found = {(row["arm"], row["p_gradient"]) for row in every.rows if row["arm"] in ("operated", "random")}
    assert found == {("operated", beyond_random(own, np.stack(others))), ("random", None)}


def test_texts_that_the_operation_learnt_from_are_not_judged_on(tiny: Any, tmp_path: Path) -> None:
    for which in ("operations", "shuffled"):
        operation = operated(random_sae(layer=0))
        learnt = [DATA.text[i] for i in range(118, 123)]
        operation.record["learnt_from"] = digests([text.upper() + "." for text in learnt])
        shared = len({*learnt} & {*DATA.text[120:]})
        with pytest.raises(ValueError, match=rf"{shared} of \d+ held-out texts are among those operated-1 learnt from"):
            run(tiny, tmp_path / which, **{which: [operation]})
        assert not (tmp_path / which).exists()


def test_a_direction_like_the_others_is_not_beyond_them_and_a_better_one_is() -> None:
    rng = np.random.default_rng(0)
    strengths = np.array([1.0, 2.0, 4.0])

    def gains(n: int) -> np.ndarray:
        return rng.standard_normal((n, 1)) * strengths + 0.2 * strengths * rng.standard_normal((n, 3))

    p = [beyond_random(own[0], own[1:]) for own in (gains(20) for _ in range(2000))]
    assert 0.03 < np.mean(np.array(p) <= 0.05) < 0.07  # one in twenty, exactly exchangeable
    others = gains(19)
    assert beyond_random(np.array([0.1, 9.0, 0.1]), others) == 1 / 20  # special at one strength alone
    assert beyond_random(-10 * strengths, others) == 1.0


def test_a_killed_sweep_goes_on(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tiny, tmp_path / "whole")
    calls, measure = [], module.measure_steering

    def killed_after(n: int) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            if len(calls) == n:
                raise KeyboardInterrupt
            calls.append(arguments)
            return measure(*arguments, **options)

        return counted

    monkeypatch.setattr(module, "measure_steering", killed_after(3))
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "part")
    file = tmp_path / "part" / "cells.jsonl"
    file.write_bytes(file.read_bytes()[:-30])  # the last line was being written
    monkeypatch.setattr(module, "measure_steering", killed_after(-1))
    again = run(tiny, tmp_path / "part")
    cells = 1 + len(whole.rows)
    assert len(calls) == 3 + cells - 2
    assert again.rows == whole.rows and again.unsteered == whole.unsteered
    run(tiny, tmp_path / "part")
    assert len(calls) == 3 + cells - 2  # nothing left to do
    monkeypatch.setattr(module, "measure_steering", killed_after(len(calls)))
    for other in ({"settings": MeasureSettings(**{**vars(SETTINGS), "new_tokens": 5})}, {"alphas": [1.5]}):
        with pytest.raises(KeyboardInterrupt):  # something has to be measured anew
            run(tiny, tmp_path / "part", **other)


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.jsonl").write_text('{"key": "a", "values": {}}\nnonsense\n{"key": "b", "values": {}}\n')
    with pytest.raises(ValueError, match=r"cells.jsonl, line 2 is not a cell"):
        Journal(tmp_path / "cells.jsonl")


def test_a_strength_that_breaks_the_model_is_a_row(tiny: Any, tmp_path: Path) -> None:
    found = run(tiny, tmp_path, alphas=[1.0, 3e38], random_seeds=())
    broken = [row for row in found.rows if row["alpha"] > 1 and row["arm"] == "operated"]
    assert "values that are not finite" in broken[0]["error"] and broken[0]["gain"] is None
    assert "not finite" in verdicts(found.rows)[0] and "not comparable" in verdicts(found.rows)[0]
    found.save(tmp_path)


def test_pareto() -> None:
    points = np.array([[1, 0.1], [2, 0.2], [1.5, 0.3], [2, 0.5], [-1, 0.0], [0.5, 0.05], [2, 0.2]])
    assert pareto(points).tolist() == [True, True, False, False, False, True, True]
    assert pareto(np.empty((0, 2))).tolist() == []


def test_verdicts() -> None:
    def row(alpha: float, low: float | None, high: float | None, p: float | None = 0.05) -> dict[str, Any]:
        over = None if low is None else (low + high) / 2  # pyright: ignore[reportOptionalOperand]
        place = {
            "operation": "op",
            "layer": 3,
            "form": "edit",
            "arm": "operated",
            "alpha": alpha,
            "error": None,
            "kl": 0.5,
        }
        return {**place, "over_random": over, "over_random_low": low, "over_random_high": high, "p_random": p}

    start = "- op, layer 3, form edit: "
    better = verdicts([row(1, -0.1, 0.1), row(2, 0.1, 0.3)])
    at = "at α = 2 (+0.200 nats, KL 0.5)"
    assert better == [f"{start}beats random directions of its norm (p = 0.05) {at}."]
    above = f"{start}is above the mean of random directions of its norm {at}, but "
    assert verdicts([row(2, 0.1, 0.3, 0.4)]) == [f"{above}as many of them gain as much that p = 0.4."]
    assert verdicts([row(2, 0.1, 0.3, None)]) == [f"{above}their spread is not known."]
    none = verdicts([row(1, -0.1, 0.1), row(2, -0.3, -0.1)])
    beats_none = "- op, layer 3, form edit: beats random directions of its norm at none of the 2 strengths"
    assert none == [f"{beats_none}; is below their mean at 1."]


def test_bad_arguments_are_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one and an α besides 0"):
        run(tiny, tmp_path, alphas=[0.0])
    with pytest.raises(ValueError, match="unknown positions of a sweep 'last'"):
        run(tiny, tmp_path, positions="last")
    with pytest.raises(ValueError, match="downstream=0 for an edit after block 0; expected 1 to 2"):
        run(tiny, tmp_path, downstream=0)
    with pytest.raises(ValueError, match=r"layers \[7\] of a model with 3 blocks"):
        run(tiny, tmp_path, operations=[operated(random_sae(layer=7))])
    assert not (tmp_path / "cells.jsonl").exists()


def test_the_dense_direction(tiny: Any) -> None:
    representations = capture(tiny, DATA.text, layers=[1], progress=False)
    vectors = representations[1]

    def mean(rows: np.ndarray) -> torch.Tensor:
        return vectors[torch.from_numpy(np.flatnonzero(rows))].mean(dim=0)

    virtue, vice = DATA.pole == 0, DATA.pole == 1
    own = DATA.foundation == 1
    for which, items, others in (
        (None, virtue, vice),
        ("fairness-cheating", own & virtue, own & vice),
        ("fairness", own & virtue, own & ~virtue),
        ("cheating", own & vice, own & ~vice),
    ):
        found = difference_in_means(representations, DATA, 1, which)
        torch.testing.assert_close(found.vector, mean(items) - mean(others))
    with pytest.raises(ValueError, match="unknown foundation or dimension 'fairnes'; did you mean 'fairness'"):
        difference_in_means(representations, DATA, 1, "fairnes")
    with pytest.raises(ValueError, match="240 vectors for 40 scenarios"):
        difference_in_means(representations, DATA.subset(np.arange(40)), 1)
    with pytest.raises(ValueError, match="items against 0; expected some on both sides"):
        difference_in_means(representations.subset(np.flatnonzero(virtue)), DATA.subset(virtue), 1)


def test_random_directions_are_seeded_and_of_their_norm() -> None:
    a, others = random_direction(D, 1, 0, norm=3.0), [random_direction(D, 1, 1), random_direction(D, 2, 0)]
    assert float(a.vector.norm()) == pytest.approx(3.0)
    assert torch.equal(a.vector, random_direction(D, 1, 0, norm=3.0).vector)
    for other in others:
        assert abs(float(torch.cosine_similarity(a.vector, other.vector, dim=0))) < 0.9
    with pytest.raises(ValueError, match="norm 0"):
        random_direction(D, 1, 0, norm=0)
    assert Steering(Matched(a, operated(random_sae())), 1.0).name == "random direction 0 at the norm of operated-1"
