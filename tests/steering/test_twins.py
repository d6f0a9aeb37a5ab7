"""Twins keep what they should; and in a planted model surgery moves the output, and its twins do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sae_moral.capture import capture
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.data.splits import group_split
from sae_moral.foundations import VICE, VIRTUE
from sae_moral.protocol import AUDITED
from sae_moral.sae.load import LoadedSae
from sae_moral.steering import Direction, Steering, Wording, measure, permuted, rotated, written
from sae_moral.steering.strength import at_kl
from sae_moral.steering.twins import dense, margin_gradient, typicality_reader, valence
from sae_moral.surgery import Operation, along, operate
from sae_moral.surgery.read import ridge_of_tokens
from sae_moral.surgery.vectors import Vectors
from tests.steering.planted import D, operated, random_sae
from tests.tiny import scenarios

DATA = scenarios(120)
WORDING = Wording("tiny", "{text} is morally", (("helping", "hitting"),))
HOW: dict[str, Any] = {"template": AUDITED.template, "pooling": AUDITED.pooling, "bos": AUDITED.bos}


def test_the_gradient_is_what_a_small_step_does(tiny: Any) -> None:
    moral = DATA.subset(np.flatnonzero(DATA.pole != 2))
    found = margin_gradient(tiny, DATA, 1, [WORDING], limit=len(moral), batch_size=7)
    step = torch.randn(D, generator=torch.Generator().manual_seed(0))
    plus, minus = (
        measure(tiny, moral, Steering(Direction(1, sign * 1e-2 * step, "step"), 1.0), [WORDING])["tiny"][0]
        for sign in (1, -1)
    )
    distinct = np.unique(np.array(moral.text), return_index=True)[1]  # each text once, as the gradient has it
    assert float(found.vector @ step) == pytest.approx((plus - minus)[distinct].mean() / 2e-2, rel=2e-2)
    assert not any(parameter.grad is not None for parameter in tiny.parameters())


@pytest.mark.parametrize("granularity", ["scenario", "token"])
def test_the_reader_is_a_ridge_regression_of_the_signed_typicality(tiny: Any, granularity: str) -> None:
    captured = capture(tiny, DATA.text, layers=[1], granularity=granularity, progress=False, **HOW)
    reader = typicality_reader(captured, DATA, 1)
    vectors = Vectors.of_layer(captured, 1)
    signed = torch.from_numpy(DATA.typicality * np.array([1, -1, 0])[DATA.pole])
    y = torch.stack([signed[vectors.row == prompt].mean() for prompt in range(len(vectors.count))])
    weight, bias = ridge_of_tokens(vectors.x, vectors.count, y)
    torch.testing.assert_close(reader.weight[:, 0], weight, rtol=1e-3, atol=1e-5)
    assert reader.bias.item() == pytest.approx(bias, abs=1e-4)
    with pytest.raises(ValueError, match="120 vectors for 50 scenarios"):
        typicality_reader(captured, DATA.subset(np.arange(50)), 1)


def test_the_dense_twin_writes_what_the_rows_write_together(tiny: Any) -> None:
    one = operated(random_sae("jumprelu"))
    operation = Operation(one.sae, one.latents, one.before, {"care": [1, 4], "harm": [9], "fairness": [22]}, one.record)
    captured = capture(tiny, DATA.text, layers=[1], progress=False, **HOW)
    twin, rows = dense(operation, typicality_reader(captured, DATA, 1)), written(operation).rows
    torch.testing.assert_close(twin.rows[0], rows[[0, 1, 3]].mean(dim=0) - rows[2])


def test_valence_reads_and_writes_pleasant_sentences(tiny: Any) -> None:
    from sae_moral.controls.valence import sentences

    twin, known = valence(tiny, 1), sentences()
    vectors = capture(tiny, known.text, layers=[1], progress=False, **HOW)[1]
    means = [vectors[torch.from_numpy(known.pleasant == side)].mean(dim=0) for side in (True, False)]
    torch.testing.assert_close(twin.rows[0], means[0] - means[1])
    assert twin.layer == 1 and twin.rows.shape == (1, D)


# A planted model


@dataclass(frozen=True)
class Planted:
    """A model whose margin depends on `direction` after block 1, and scenarios labelled by another direction there."""

    model: Any
    sae: LoadedSae
    data: MoralData
    direction: torch.Tensor


@pytest.fixture
def planted(tiny: Any) -> Planted:
    g = torch.Generator().manual_seed(3)
    direction, gate = (torch.randn(D, generator=g) for _ in range(2))
    direction = direction / direction.norm()
    hf = tiny.original_model
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "layers.2." in name and "norm" not in name:
                parameter.mul_(0.05)  # what is after block 1 changes little
        words = tiny.tokenizer.convert_tokens_to_ids([*WORDING.pairs[0]])
        head = hf.get_output_embeddings().weight
        for word, sign in zip(words, (1, -1), strict=True):
            head[word] = sign * 2 * direction
    made = scenarios(900, seed=5)
    texts = sorted(set(made.text))
    x = capture(tiny, texts, layers=[1], progress=False, **HOW)[1]
    score = (x - x.mean(dim=0)) / x.std(dim=0) @ gate
    order = score.argsort().argsort().numpy() / len(texts)
    records = []
    for i, (text, place) in enumerate(zip(texts, order, strict=True)):
        vector = np.zeros(10)
        if place < 0.4 or place > 0.6:
            vector[int(place < 0.4)] = 1.0 if abs(place - 0.5) > 0.3 else 0.5
        records.append((str(i), text, vector, 0))
    return Planted(tiny, random_sae("standard"), from_records(records, {"source": "planted"}), direction)


def auroc(planted: Planted, data: MoralData, steering: Steering | None) -> float:
    moral = data.subset(np.flatnonzero(data.pole != 2))
    margin = measure(planted.model, moral, steering or (), [WORDING])["tiny"][0]
    return float(roc_auc_score(moral.pole == VIRTUE, margin))


def test_surgery_finds_gate_and_write_and_twins_do_not(planted: Planted) -> None:
    data, split = planted.data, group_split(planted.data)
    train, test = data.subset(split["train"]), data.subset(split["test"])
    assert {VIRTUE, VICE} <= set(test.pole.tolist())
    gradient = margin_gradient(planted.model, train, 1, [WORDING])
    assert torch.cosine_similarity(gradient.vector, planted.direction, dim=0) > 0.8
    latents = {"care": [0, 5, 9, 14, 22], "harm": [1, 7, 12, 30, 33]}
    how: dict[str, Any] = {"split": split, "any_model": True, "tolerance": 0.5, "lr": 0.02, "progress": False}
    write = along(gradient.vector)
    operation = operate(planted.sae, latents, planted.model, data, write=write, **how)
    shuffled = operate(planted.sae, latents, planted.model, data, write=write, control="shuffled", **how)

    def steered(what: Any) -> float:
        steering = at_kl(planted.model, Steering(what, 1.0), 0.2, test.text[:8], any_model=True)
        return auroc(planted, test, steering)

    plain, moved = auroc(planted, test, None), steered(written(operation))
    twins = [steered(rotated(written(operation), seed)) for seed in range(5)]
    twins += [steered(written(shuffled)), steered(permuted(written(operation), 0))]
    assert moved > plain + 0.1, (plain, moved)
    assert moved > max(twins) + 0.03, (plain, moved, twins)
