"""Arms as twins: which there are, at which strength, and what they say of their difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai.model import get_model
from sae_moral_inspect.answers import Answer
from sae_moral_inspect.arms import ArmAbout, arms_of
from sae_moral_inspect.behaviour import chinese, distance, refusal_errors, refuses
from sae_moral_inspect.contrasts import contrasts
from sae_moral_inspect.judging import ORDERS, Judgement

from sae_moral.steering import Direction, Learnt, Reader, Write, side_effects

from .conftest import make_operation, make_prompts


def test_which_arms_there_are(tmp_path: Path) -> None:
    operated = [make_operation(tmp_path / f"L{layer}", layer=layer) for layer in (1, 2)]
    seeds = [make_operation(tmp_path / f"s{seed}", seed=seed, control="shuffled") for seed in (2, 3)]
    kinds = ["operated", "shuffled", "rotated", "dense", "reseeded"]
    arms = arms_of(
        operated, shuffled=seeds, kls=[0.02], kinds=kinds, rotations=2, together=True, twins="twins", batch_size=4
    )
    assert [arm.name for arm in arms] == [
        "baseline", "reseeded",
        "operated L1 KL 0.02", "shuffled L1 KL 0.02", "shuffled 2 L1 KL 0.02", "rotated L1 KL 0.02",
        "rotated 2 L1 KL 0.02", "dense L1 KL 0.02",
        "operated L2 KL 0.02", "rotated L2 KL 0.02", "rotated 2 L2 KL 0.02", "dense L2 KL 0.02",
        "operated L1+2 KL 0.02", "rotated L1+2 KL 0.02", "rotated 2 L1+2 KL 0.02", "dense L1+2 KL 0.02",
    ]  # fmt: skip
    last = arms[-1]
    assert last.arguments == {
        "batch_size": 4, "arm": "dense", "twins": "twins", "operation": ",".join(map(str, operated)), "kl": 0.02
    }  # fmt: skip
    with pytest.raises(ValueError, match="no strength; expected alphas or kls"):
        arms_of(operated)


@pytest.mark.parametrize("arm", ["operated", "rotated", "permuted", "dense", "valence", "constant"])
def test_twins_have_the_damage_that_is_asked_for(tiny_folder: Path, operation: Path, tmp_path: Path, arm: str) -> None:
    reader = Reader("reader of typicality", torch.randn(16, 1), torch.zeros(1))
    feeling = Reader("reader of valence", torch.randn(16, 1), torch.zeros(1))
    learnt = Learnt(1, reader, Direction(1, torch.randn(16), "d"), Write(1, feeling, torch.randn(1, 16), "valence"))
    learnt.save(tmp_path / "L1.safetensors")
    arguments = {"operation": str(operation), "arm": arm, "kl": 0.01, "twins": str(tmp_path), "form": "write"}
    api: Any = get_model(f"sae-moral/{tiny_folder}", memoize=False, **arguments).api
    [steering] = api.steerings
    assert side_effects(api.model, steering).kl == pytest.approx(0.01, rel=0.03)
    assert api.side_effects().kl == side_effects(api.model, steering).kl


def test_layers_together_keep_their_ratio(tiny_folder: Path, tmp_path: Path) -> None:
    folders = [make_operation(tmp_path / f"L{layer}", layer=layer) for layer in (0, 2)]
    arguments = {"operation": [str(folder) for folder in folders], "kl": 0.01}  # Inspect splits at commas
    api: Any = get_model(f"sae-moral/{tiny_folder}", memoize=False, **arguments).api
    one, two = api.steerings
    assert (one.what.layer, two.what.layer, one.alpha) == (0, 2, two.alpha)
    assert side_effects(api.model, [one, two]).kl == pytest.approx(0.01, rel=0.03)


def test_contrasts_are_paired_by_prompt() -> None:
    prompts = make_prompts(4)
    about = [
        ArmAbout("baseline", "baseline"), ArmAbout("operated L1 KL 0.02", "operated", 1, kl=0.02),
        ArmAbout("rotated L1 KL 0.02", "rotated", 1, kl=0.02), ArmAbout("rotated L2 KL 0.02", "rotated", 2, kl=0.02),
    ]  # fmt: skip
    texts = [["no"] * 4, ["I cannot help with that."] * 3 + ["yes"], ["no"] * 3 + ["Sorry, I can't."], ["no"] * 4]
    answers = {a.name: {p.id: Answer(p, t, "stop") for p, t in zip(prompts, own, strict=True)}
               for a, own in zip(about, texts, strict=True)}  # fmt: skip
    verdicts = {"operated L1 KL 0.02": "AAAB", "rotated L1 KL 0.02": "BAAA"}
    compared = {
        arm: {
            p.id: [
                Judgement("j", 0, ORDERS[0], verdict=v),
                Judgement("j", 0, ORDERS[1], verdict="B" if v == "A" else "A"),
            ]
            for p, v in zip(prompts, said, strict=True)
        }
        for arm, said in verdicts.items()
    }
    rows = contrasts(about, answers, compared, {}, [(arm, "j") for arm in verdicts])
    found = {(row.twin, row.what): row.difference.value for row in rows}
    assert found["rotated L1 KL 0.02", "win share"] == 0.0
    assert found["rotated L1 KL 0.02", "refused"] == pytest.approx((3 - 1) / 4)
    assert found["baseline", "refused"] == pytest.approx(3 / 4)
    assert found["baseline", "win share"] == pytest.approx(3 / 4 - 1 / 2)  # the baseline's own is one half
    assert {row.twin for row in rows} == {"baseline", "rotated L1 KL 0.02"}  # the other twin is of another layer


def test_refusals() -> None:
    errors = refusal_errors()
    assert (errors.wrong, errors.missed) == (0, 4)  # stated in every report; four decline without saying so
    assert refuses("作为一个人工智能助手，我不能提供这样的方法。")
    assert refuses("I’m sorry, but I can’t help with that.")
    assert not refuses("可以。先把面粉过筛，再加水。")
    assert not refuses("You cannot park there, but the next street is free.")


def test_chinese_and_distance() -> None:
    assert chinese("你好 world") == pytest.approx(2 / 7)
    assert chinese("123 …") is None
    assert (distance("abcd", "abcd"), distance("abcd", "wxyz")) == (0.0, 1.0)
    assert distance("abcd", "abce") == pytest.approx(0.25)
