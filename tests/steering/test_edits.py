"""What an operation writes is what its decoder rows gained, in every architecture; its twins keep what they should."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sae_moral.steering import Reader, Steering, Write, permuted, rotated, written
from sae_moral.steering.edits import edit
from sae_moral.surgery import Operation
from tests.steering.planted import D, operated, random_sae

H = 3 * torch.randn(7, 5, D, generator=torch.Generator().manual_seed(5))
CPU = torch.device("cpu")
OPERABLE: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("jumprelu", {"apply_b_dec_to_input": False, "normalize_activations": "constant_norm_rescale"}),
    ("gated", {}),
    ("batchtopk", {}),
    ("topk", {}),
    ("topk", {"rescale_acts_by_decoder_norm": True, "normalize_activations": "layer_norm"}),
]


@pytest.mark.parametrize(("architecture", "config"), OPERABLE)
def test_the_write_is_what_new_rows_make_of_the_new_activations(architecture: str, config: dict[str, Any]) -> None:
    operation = operated(random_sae(architecture, **config))
    after, before = operation.sae.sae, operation.original().sae
    before.encode(H)  # a run-time normalisation is remembered for decoding
    latents = after.encode(H)
    whole = after.decode(latents) - before.decode(latents)
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(written(operation).term(CPU)(H), whole, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(Steering(operation, 1.0, form="write").term(CPU)(H), whole, atol=2e-5, rtol=1e-5)


def test_the_edit_of_unchanged_readers_is_the_write() -> None:
    operation = operated(random_sae("jumprelu"))
    state = {name: value for name, value in operation.sae.sae.state_dict().items() if name in operation.before}
    index = operation.latents
    readers = {"W_enc": state["W_enc"][:, index], "b_enc": state["b_enc"][index], "W_dec": operation.before["W_dec"]}
    same = dataclasses.replace(operation, before={name: value.clone() for name, value in readers.items()})
    assert torch.equal(same.before["threshold"], operation.sae.sae.threshold[index])
    torch.testing.assert_close(written(same).term(CPU)(H), edit(same)(H), atol=1e-5, rtol=1e-5)


def test_an_operation_that_moved_no_row_writes_nothing() -> None:
    operation = operated(random_sae(), size=0.0)
    with pytest.raises(ValueError, match=r"writes nothing.*; expected rows with a length"):
        written(operation)


def write(k: int = 4) -> Write:
    g = torch.Generator().manual_seed(3)
    reader = Reader("reader", torch.randn(D, k, generator=g), torch.randn(k, generator=g))
    return Write(1, reader, torch.randn(k, D, generator=g), "planted")


def test_a_reader_gates_its_rows() -> None:
    one = write()
    assert isinstance(one.gate, Reader)
    expected = torch.einsum("tpd,dk,ke->tpe", H, one.gate.weight, one.rows) + one.gate.bias @ one.rows
    torch.testing.assert_close(one.term(CPU)(H), expected, atol=1e-4, rtol=1e-5)


def test_a_rotation_keeps_gates_and_gram_matrix_and_nothing_of_the_direction() -> None:
    one = write()
    turned = [rotated(one, seed) for seed in range(200)]
    for other in turned[:3]:
        torch.testing.assert_close(other.rows @ other.rows.T, one.rows @ one.rows.T, atol=1e-4, rtol=1e-4)
        assert other.gate is one.gate
    along = torch.stack([torch.cosine_similarity(one.rows[0], other.rows[0], dim=0) for other in turned])
    # A uniform direction: mean 0, variance 1/d.
    assert abs(along.mean()) < 4 / (200 * D) ** 0.5
    assert along.square().mean() == pytest.approx(1 / D, rel=0.4)
    assert torch.equal(rotated(one, 0).rows, turned[0].rows) and not torch.equal(turned[0].rows, turned[1].rows)
    assert not torch.equal(rotated(dataclasses.replace(one, layer=2), 0).rows, turned[0].rows)


def test_permuted_rows_are_all_there_and_none_in_its_place() -> None:
    one = write(6)
    for seed in range(5):
        rows = permuted(one, seed).rows
        assert sorted(rows[:, 0].tolist()) == sorted(one.rows[:, 0].tolist())
        assert not (rows == one.rows).all(dim=1).any()
    with pytest.raises(ValueError, match="has 1 row; expected at least two"):
        permuted(write(1), 0)


def test_what_does_not_belong_together_is_refused() -> None:
    operation = operated(random_sae())
    with pytest.raises(ValueError, match="5 gates and 2 rows of two; expected one row for each gate"):
        Write(1, operation, torch.ones(2, D), "two")
    with pytest.raises(ValueError, match="has no reconstruction"):
        Steering(write(), 1.0, form="paper")
    with pytest.raises(ValueError, match="was not operated on, so it has no write"):
        Steering(operation.original(), 1.0, form="write")


def test_everything_that_shapes_a_write_is_in_its_description() -> None:
    operation: Operation = operated(random_sae())
    one = written(operation)
    others = [
        rotated(one, 0),
        permuted(one, 0),
        dataclasses.replace(one, rows=-one.rows),
        written(operated(random_sae(), seed=2)),
        write(),
    ]
    seen = [Steering(what, 1.0).describe()["write"] for what in (one, *others)]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
    assert Steering(dataclasses.replace(one, name="another name"), 1.0).describe()["write"] == seen[0]
